"""What goes into the log, and what comes out of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from quantflow.events.envelope import Envelope, encode_data, format_time
from quantflow.events.types import Event, canonical_json

__all__ = ["GENESIS_HASH", "Draft", "StoredEvent", "chain_hash"]

#: The "hash before" the first event.
GENESIS_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that is to be appended.

    Parameters
    ----------
    event
        The event.
    event_id
        Its identity; give a derived one (:func:`~quantflow.events.envelope.derived_id`)
        where the append may be retried. Fresh by default.
    topic
        Topic that the outbox relay publishes it to; None: it stays in the log.
    key
        Key of the published record; by default the subject.
    subject
        What it is about; by default the stream.
    """

    event: Event
    event_id: str | None = None
    topic: str | None = None
    key: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the log.

    Attributes
    ----------
    position
        Place in the whole log, counted from 1 without gaps.
    stream, version
        Stream, and place in it, counted from 1 without gaps.
    envelope
        The event in its envelope.
    recorded_at
        When it was appended, by the database's clock, UTC.
    hash
        SHA-256 over this event and the hash before it, hexadecimal.
    """

    position: int
    stream: str
    version: int
    envelope: Envelope
    recorded_at: datetime
    hash: str

    @property
    def event(self) -> Event:
        """The event itself."""
        return self.envelope.data


def chain_hash(
    previous: str,
    *,
    position: int,
    stream: str,
    version: int,
    envelope: Envelope,
    recorded_at: datetime,
    data: bytes | None = None,
) -> str:
    """Return the hash of an event that follows the event of hash ``previous``.

    Parameters
    ----------
    data
        The payload's exact JSON text where it was read from the database; by default the
        envelope's event is encoded.
    """
    facts = canonical_json(
        {
            "previous": previous,
            "position": position,
            "stream": stream,
            "version": version,
            "id": envelope.id,
            "type": envelope.type,
            "dataversion": envelope.version,
            "source": envelope.source,
            "subject": envelope.subject,
            "time": format_time(envelope.time),
            "correlationid": envelope.correlation_id,
            "causationid": envelope.causation_id,
            "traceparent": envelope.traceparent,
            "recorded_at": format_time(recorded_at),
        }
    )
    body = encode_data(envelope.data) if data is None else data
    return hashlib.sha256(facts + b"\n" + body).hexdigest()
