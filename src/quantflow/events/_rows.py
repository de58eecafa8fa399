"""Events as rows: what :class:`~quantflow.events.log.EventLog` asks of PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from quantflow.errors import EventError, VersionConflictError
from quantflow.events._database import Connection
from quantflow.events.envelope import Envelope, decode_event, encode_data
from quantflow.events.records import GENESIS_HASH, Draft, StoredEvent, chain_hash

__all__ = ["CHANNEL", "append", "first_broken", "head", "select", "stream_version"]

#: PostgreSQL notification channel; the payload is the position of the last event appended.
CHANNEL = "quantflow_log"

_APPEND_LOCK = 0x51F0_0002

_SELECT: LiteralString = (
    "SELECT position, event_id, stream, stream_version, type, type_version, source, subject, time,"
    " correlation_id, causation_id, traceparent, data::text, recorded_at, previous_hash, hash FROM event_log WHERE "
)


def select(connection: Connection, where: LiteralString, parameters: Sequence[Any]) -> list[StoredEvent]:
    """Return the events of a WHERE clause."""
    return [_stored(row) for row in connection.execute(_SELECT + where, parameters).fetchall()]


def first_broken(connection: Connection, after: tuple[int, str], batch: int) -> tuple[int | None, tuple[int, str]]:
    """Check one batch behind a position and its hash; return the first broken position and where it ended."""
    position, previous = after
    where: LiteralString = "position > %s ORDER BY position LIMIT %s"
    for row in connection.execute(_SELECT + where, (position, batch)).fetchall():
        position += 1
        if row[0] != position or row[14] != previous or _row_hash(row) != row[15]:
            return position, (position, previous)
        previous = str(row[15])
    return None, (position, previous)


def append(
    connection: Connection, stream: str, wanted: Sequence[tuple[Draft, Envelope]], expected_version: int | None
) -> list[StoredEvent]:
    # A statement of its own: what follows must not read with a snapshot from before the lock.
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_APPEND_LOCK,))
    known = _already_stored(connection, stream, [envelope for _, envelope in wanted])
    fresh = [(draft, envelope) for draft, envelope in wanted if envelope.id not in known]
    if fresh:
        appended = _insert(connection, stream, fresh, expected_version)
        known |= {stored.envelope.id: stored for stored in appended}
        _keep_projections(connection, appended)
        connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(appended[-1].position)))
    return [known[envelope.id] for _, envelope in wanted]


def _already_stored(connection: Connection, stream: str, envelopes: Sequence[Envelope]) -> dict[str, StoredEvent]:
    found = select(connection, "event_id = ANY(%s)", ([envelope.id for envelope in envelopes],))
    known = {stored.envelope.id: stored for stored in found}
    for envelope in envelopes:
        stored = known.get(envelope.id)
        if stored is not None and (stored.stream, stored.envelope.type) != (stream, envelope.type):
            raise EventError(
                f"event id {envelope.id} is taken by {stored.envelope.type} in stream {stored.stream}; "
                f"{envelope.type} in stream {stream} needs an id of its own"
            )
    return known


def _insert(
    connection: Connection, stream: str, fresh: Sequence[tuple[Draft, Envelope]], expected_version: int | None
) -> list[StoredEvent]:
    version = stream_version(connection, stream)
    if expected_version is not None and version != expected_version:
        raise VersionConflictError(
            f"stream {stream} has version {version}, expected was {expected_version}: read it again and decide again"
        )
    position, previous = head(connection)
    clock = connection.execute("SELECT clock_timestamp()").fetchone()
    assert clock is not None
    appended, rows, outgoing = [], [], []
    for draft, envelope in fresh:
        position, version = position + 1, version + 1
        data = encode_data(envelope.data)
        digest = chain_hash(
            previous, position=position, stream=stream, version=version, envelope=envelope,
            recorded_at=clock[0], data=data,
        )  # fmt: skip
        rows.append((*_values(envelope, position, stream, version), data.decode(), clock[0], previous, digest))
        appended.append(StoredEvent(position, stream, version, envelope, clock[0], digest))
        if draft.topic is not None:
            outgoing.append((position, draft.topic, draft.key or envelope.subject))
        previous = digest
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO event_log (position, event_id, stream, stream_version, type, type_version, source, subject,"
            " time, correlation_id, causation_id, traceparent, data, recorded_at, previous_hash, hash)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )
        if outgoing:
            cursor.executemany("INSERT INTO outbox (position, topic, key) VALUES (%s, %s, %s)", outgoing)
    return appended


def _keep_projections(connection: Connection, appended: Sequence[StoredEvent]) -> None:
    from quantflow.events.runs import project

    project(connection, appended)


def _values(envelope: Envelope, position: int, stream: str, version: int) -> tuple[Any, ...]:
    return (
        position, envelope.id, stream, version, envelope.type, envelope.version, envelope.source, envelope.subject,
        envelope.time, envelope.correlation_id, envelope.causation_id, envelope.traceparent,
    )  # fmt: skip


def head(connection: Connection) -> tuple[int, str]:
    row = connection.execute("SELECT position, hash FROM event_log ORDER BY position DESC LIMIT 1").fetchone()
    return (0, GENESIS_HASH) if row is None else (int(row[0]), str(row[1]))


def stream_version(connection: Connection, stream: str) -> int:
    row = connection.execute(
        "SELECT stream_version FROM event_log WHERE stream = %s ORDER BY stream_version DESC LIMIT 1", (stream,)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    return StoredEvent(row[0], row[2], row[3], _envelope_of(row, decode_event(row[4], row[5], row[12].encode())),
                       row[13], row[15])  # fmt: skip


def _envelope_of(row: tuple[Any, ...], event: Any) -> Envelope:
    return Envelope(
        id=row[1], type=row[4], version=row[5], source=row[6], subject=row[7], time=row[8], data=event,
        correlation_id=row[9], causation_id=row[10], traceparent=row[11],
    )  # fmt: skip


def _row_hash(row: tuple[Any, ...]) -> str:
    # The event is not parsed: a log must verify even where this program no longer knows a type.
    return chain_hash(
        row[14], position=row[0], stream=row[2], version=row[3], envelope=_envelope_of(row, None),
        recorded_at=row[13], data=row[12].encode(),
    )  # fmt: skip
