"""The one envelope that every event travels in: CloudEvents 1.0, structured JSON.

Attributes beyond the standard's are CloudEvents extensions: ``dataversion`` (version of the
payload's shape), ``correlationid`` (one id for everything that one request sets off),
``causationid`` (id of the event that this one answers) and ``traceparent`` (W3C).
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from quantflow.errors import EventDecodeError, EventError
from quantflow.events.types import EVENT_TYPES, Event, canonical_json
from quantflow.telemetry import correlation, current_correlation, current_traceparent

__all__ = [
    "UPCASTERS",
    "Envelope",
    "caused_by",
    "current_causation",
    "decode",
    "decode_event",
    "derived_id",
    "encode",
    "new_id",
    "wrap",
]

CONTENT_TYPE = "application/cloudevents+json"
DEFAULT_SOURCE = "quantflow"

#: Namespace of :func:`derived_id`; changing it would make retried effects happen twice.
_NAMESPACE = uuid.UUID("7a0f6a52-3b0c-5d8e-9c61-5b6f1f0a9e11")

#: ``(type, version) -> function`` that lifts a payload of that version to the next version.
UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}

_causation_id: ContextVar[str | None] = ContextVar("quantflow_causation_id", default=None)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_ATTRIBUTE = 500


@dataclass(frozen=True, slots=True)
class Envelope:
    """An event with its identity and its place in the chain of causes.

    Attributes
    ----------
    id
        Unique for ever; consumers drop a second event of the same id.
    type, version
        Name and version of the payload's shape.
    source
        The component that wrote it.
    subject
        What it is about: the stream's name, or the symbol.
    time
        When it happened, UTC.
    data
        The event itself.
    correlation_id
        Shared by everything that one request sets off.
    causation_id
        Id of the event that this one answers, if any.
    traceparent
        W3C trace context, if any.
    """

    id: str
    type: str
    source: str
    subject: str
    time: datetime
    version: int
    data: Event
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None


class _Wire(msgspec.Struct):
    """The JSON on the wire; attributes of other people's extensions are ignored."""

    specversion: str
    id: str
    type: str
    source: str
    time: str
    data: msgspec.Raw
    subject: str = ""
    dataversion: int = 1
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None


_wire_decoder = msgspec.json.Decoder(_Wire)


def new_id() -> str:
    """Return a fresh UUID of version 7: ids sort by the time they were made."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def derived_id(*parts: str) -> str:
    """Return the id that these parts always give: a retried effect gets the same id.

    Parts are length-prefixed, so that ``("a", "bc")`` and ``("ab", "c")`` differ.
    """
    name = "".join(f"{len(part)}:{part}" for part in parts)
    return str(uuid.uuid5(_NAMESPACE, name))


def wrap(
    event: Event,
    *,
    subject: str,
    event_id: str | None = None,
    source: str = DEFAULT_SOURCE,
    time: datetime | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    traceparent: str | None = None,
) -> Envelope:
    """Return the event in its envelope; what is not given comes from the current context."""
    identity = event_id or new_id()
    return Envelope(
        id=identity,
        type=type(event).type,
        source=source,
        subject=subject,
        time=(time or datetime.now(UTC)).astimezone(UTC),
        version=type(event).version,
        data=event,
        correlation_id=correlation_id or current_correlation() or identity,
        causation_id=causation_id or _causation_id.get(),
        traceparent=traceparent or current_traceparent(),
    )


@contextmanager
def caused_by(envelope: Envelope) -> Iterator[None]:
    """Everything written inside carries this envelope's correlation and names it as its cause."""
    token = _causation_id.set(envelope.id)
    try:
        with correlation(envelope.correlation_id, envelope.traceparent):
            yield
    finally:
        _causation_id.reset(token)


def current_causation() -> str | None:
    """Return the id of the event that is being handled, if any."""
    return _causation_id.get()


def encode(envelope: Envelope) -> bytes:
    """Return the envelope as CloudEvents JSON; the same envelope always gives the same bytes.

    Raises
    ------
    EventError
        The event holds text that is not valid Unicode, or a number that is not finite.
    """
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": envelope.id,
        "type": envelope.type,
        "source": envelope.source,
        "subject": envelope.subject,
        "time": format_time(envelope.time),
        "datacontenttype": "application/json",
        "dataversion": envelope.version,
        "correlationid": envelope.correlation_id,
        "data": payload(envelope.data),
    }
    if envelope.causation_id is not None:
        attributes["causationid"] = envelope.causation_id
    if envelope.traceparent is not None:
        attributes["traceparent"] = envelope.traceparent
    return _canonical(attributes, envelope.type)


def encode_data(event: Event) -> bytes:
    """Return the canonical JSON of the event alone: what the log stores and hashes."""
    return _canonical(payload(event), type(event).type)


def payload(event: Event) -> dict[str, Any]:
    """Return the event as JSON values."""
    return event.model_dump(mode="json")


def decode(value: bytes | None) -> Envelope:
    """Return the envelope that these bytes are.

    Raises
    ------
    EventDecodeError
        They are not CloudEvents JSON, or not an event that this version knows; the message
        names the first thing that is wrong.
    """
    if not value:
        raise EventDecodeError("an empty record: an event is a JSON object (CloudEvents 1.0)")
    try:
        wire = _wire_decoder.decode(value)
        # pydantic would read NaN and 1e999 in free-form values; JSON has no such numbers.
        msgspec.json.decode(wire.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise EventDecodeError(f"not CloudEvents JSON: {exc}") from exc
    if wire.specversion != "1.0":
        raise EventDecodeError(f"specversion is {_short(wire.specversion)}; only '1.0' is read")
    _check_attributes(wire)
    return Envelope(
        id=wire.id,
        type=wire.type,
        source=wire.source,
        subject=wire.subject,
        time=_parse_time(wire.time),
        version=wire.dataversion,
        data=decode_event(wire.type, wire.dataversion, bytes(wire.data)),
        correlation_id=wire.correlationid or wire.id,
        causation_id=wire.causationid,
        traceparent=wire.traceparent,
    )


def decode_event(type_name: str, version: int, data: bytes) -> Event:
    """Return the event of that type and version; older versions are lifted by :data:`UPCASTERS`.

    Raises
    ------
    EventDecodeError
        Unknown type, a version newer than this program, or data of another shape.
    """
    kind = EVENT_TYPES.get(type_name)
    if kind is None:
        known = ", ".join(sorted(EVENT_TYPES))
        raise EventDecodeError(f"unknown event type {_short(type_name)}; known: {known}")
    try:
        if version == kind.version:
            return kind.model_validate_json(data)
        return kind.model_validate_json(_lift(kind, version, data))
    except ValidationError as exc:
        raise EventDecodeError(f"{type_name} version {version}: {_explain(exc)}") from exc


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC with microseconds: one text per moment."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _lift(kind: type[Event], version: int, data: bytes) -> bytes:
    if version > kind.version:
        raise EventDecodeError(
            f"{kind.type} has version {version}; this program knows up to {kind.version}: update quantflow"
        )
    try:
        values = msgspec.json.decode(data)
    except msgspec.MsgspecError as exc:
        raise EventDecodeError(f"{kind.type} version {version}: {exc}") from exc
    while version < kind.version:
        lift = UPCASTERS.get((kind.type, version))
        if lift is None:
            raise EventDecodeError(f"{kind.type} version {version} is no longer read; oldest readable: {version + 1}")
        values = lift(values)
        version += 1
    return canonical_json(values)


def _check_attributes(wire: _Wire) -> None:
    for name in ("id", "type", "source", "subject", "correlationid", "causationid", "traceparent"):
        text = getattr(wire, name)
        if text is None:
            continue
        if not text and name in ("id", "type", "source"):
            raise EventDecodeError(f"{name} is empty; CloudEvents requires it")
        if len(text) > _LONGEST_ATTRIBUTE or _UNPRINTABLE.search(text):
            raise EventDecodeError(
                f"{name} is {_short(text)}; allowed are {_LONGEST_ATTRIBUTE} characters without control characters"
            )


def _parse_time(text: str) -> datetime:
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError as exc:
        raise EventDecodeError(f"time is {_short(text)}: {exc}; RFC 3339 with an offset is required") from exc
    if moment.tzinfo is None:
        raise EventDecodeError(f"time is {_short(text)}: it has no offset; RFC 3339 with an offset is required")
    return moment.astimezone(UTC)


def _canonical(value: dict[str, Any], type_name: str) -> bytes:
    try:
        return canonical_json(value)
    except (ValueError, RecursionError) as exc:  # UnicodeEncodeError is a ValueError
        raise EventError(f"{type_name} cannot be written as JSON: {exc}") from exc


def _explain(exc: ValidationError) -> str:
    problems = exc.errors(include_url=False, include_context=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "data"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where} is {_short(first.get('input'))}: {first['msg']}{more}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
