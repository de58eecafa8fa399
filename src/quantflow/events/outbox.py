"""Publishing the log to Kafka: each event to its topic, in log order, once.

Records go out in transactions of one fixed transactional id, so a second relay fences the first
and readers of committed records never see half a batch. Each record names its log and position.
A relay that died between Kafka's commit and its own note in the database leaves rows that look
unpublished; the next one reads the ends of the topics and knows better.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from quantflow.errors import LogUnavailableError, TransportError
from quantflow.events._backoff import Backoff
from quantflow.events._database import Connection
from quantflow.events.envelope import CONTENT_TYPE, encode
from quantflow.events.log import EventLog
from quantflow.events.records import StoredEvent
from quantflow.events.topics import Topics
from quantflow.events.transport import Message, Producer, Transport, read_slice
from quantflow.events.types import TopicSlice
from quantflow.telemetry import get_logger

__all__ = ["LOG_HEADER", "POSITION_HEADER", "OutboxRelay"]

POSITION_HEADER = "qf-position"
LOG_HEADER = "qf-log"

_LEADER_LOCK = 0x51F0_0003
_FIRST_LOOK_BACK = 32

_log = get_logger(__name__)


class _Row(NamedTuple):
    position: int
    topic: str
    key: str | None


class OutboxRelay:
    """The one publisher of a log's outbox; any number may run, one at a time works.

    Parameters
    ----------
    topics
        Topics to publish to; rows may name them with or without the prefix.
    batch
        Most events in one Kafka transaction.
    poll_s
        How long to sleep without a notification.
    """

    def __init__(
        self, log: EventLog, transport: Transport, topics: Topics, *, batch: int = 500, poll_s: float = 1.0
    ) -> None:
        self._events = log
        self._transport = transport
        self._topics = topics
        self._batch = batch
        self._poll_s = poll_s

    @property
    def transactional_id(self) -> str:
        """The fixed id by which the broker fences an older relay."""
        return f"{self._topics.prefix}quantflow.outbox"

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set; survive the broker's and the database's absence."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                with self._leadership(stop) as connection:
                    if connection is not None:
                        self._publish_until(stop, connection, backoff)
            except (TransportError, LogUnavailableError) as exc:
                delay_s = backoff.next()
                _log.warning("relay interrupted", reason=str(exc), retry_in_s=delay_s)
                stop.wait(delay_s)

    def publish_pending(self) -> int:
        """Publish everything that waits now, as the leader, and return how many events that were.

        Raises
        ------
        TransportError
            The broker cannot be reached; nothing is lost, call again.
        """
        with self._producer() as producer:
            self._recover()
            total = 0
            while count := self._publish_batch(producer):
                total += count
            return total

    def _publish_until(self, stop: threading.Event, connection: Connection, backoff: Backoff) -> None:
        with self._producer() as producer:
            self._recover()
            _log.info("relay publishes", transactional_id=self.transactional_id)
            while not stop.is_set():
                if self._publish_batch(producer):
                    backoff.reset()
                else:
                    self._events.notifications(connection, self._poll_s)

    def _publish_batch(self, producer: Producer) -> int:
        with self._events.transaction() as connection:
            rows = self._unpublished(connection)
            sendable = self._refuse_unknown(connection, rows)
            stored = self._load(connection, sendable)
        if not sendable:
            return len(rows)
        producer.begin()
        for row in sendable:
            producer.send(self._message(row, stored[row.position]))
        producer.commit()
        # A crash here is what _recover() is for.
        self._mark_published([row.position for row in sendable])
        return len(rows)

    def _unpublished(self, connection: Connection) -> list[_Row]:
        rows = connection.execute(
            "SELECT position, topic, key FROM outbox WHERE published_at IS NULL AND refused IS NULL"
            " ORDER BY position LIMIT %s",
            (self._batch,),
        ).fetchall()
        return [_Row(*row) for row in rows]

    def _refuse_unknown(self, connection: Connection, rows: Sequence[_Row]) -> list[_Row]:
        sendable = []
        for row in rows:
            try:
                topic = self._topics.resolve(row.topic)
                if topic not in self._topics.outbox_topics:
                    raise TransportError(f"topic {topic} is not one that the outbox publishes to")
            except TransportError as exc:
                _log.error("outbox row refused", position=row.position, reason=str(exc))
                connection.execute("UPDATE outbox SET refused = %s WHERE position = %s", (str(exc), row.position))
            else:
                sendable.append(row._replace(topic=topic))
        return sendable

    def _load(self, connection: Connection, rows: Sequence[_Row]) -> dict[int, StoredEvent]:
        if not rows:
            return {}
        stored = self._events.read_positions([row.position for row in rows], connection=connection)
        return {event.position: event for event in stored}

    def _message(self, row: _Row, stored: StoredEvent) -> Message:
        headers = (
            ("content-type", CONTENT_TYPE.encode()),
            (POSITION_HEADER, str(row.position).encode()),
            (LOG_HEADER, self._log_id.encode()),
        )
        key = row.key if row.key is not None else stored.envelope.subject
        return Message(row.topic, encode(stored.envelope), key.encode(), headers)

    def _mark_published(self, positions: Sequence[int]) -> None:
        with self._events.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET published_at = clock_timestamp() WHERE position = ANY(%s)", (list(positions),)
            )

    def _recover(self) -> None:
        """Note as published what the topics already hold."""
        self._log_id = self._events.log_id()
        last = max((self._last_position(topic) for topic in self._topics.outbox_topics), default=0)
        with self._events.transaction() as connection:
            # Batches are in log order and atomic over all topics: up to the last one all are there.
            cursor = connection.execute(
                "UPDATE outbox SET published_at = clock_timestamp()"
                " WHERE position <= %s AND published_at IS NULL AND refused IS NULL",
                (last,),
            )
            if cursor.rowcount:
                _log.info("relay found published events", count=cursor.rowcount, last_position=last)

    def _last_position(self, topic: str) -> int:
        admin = self._transport.admin()
        try:
            begins, ends = admin.begin_offsets(topic), admin.end_offsets(topic)
        finally:
            admin.close()
        return max((self._last_in_partition(topic, part, begins[part], ends[part]) for part in ends), default=0)

    def _last_in_partition(self, topic: str, partition: int, begin: int, end: int) -> int:
        look_back = _FIRST_LOOK_BACK
        while True:
            start = max(begin, end - look_back)
            records = read_slice(self._transport, [TopicSlice(topic=topic, partition=partition, start=start, end=end)])
            positions = [int(record.header(POSITION_HEADER) or b"0") for record in records if self._is_ours(record)]
            if positions or start == begin:
                return max(positions, default=0)
            look_back *= 8

    def _is_ours(self, record: Any) -> bool:
        return bool(record.header(LOG_HEADER) == self._log_id.encode())

    @contextmanager
    def _producer(self) -> Iterator[Producer]:
        # Made before the topics are read: this settles, and forbids, any transaction of a predecessor.
        producer = self._transport.producer(self.transactional_id)
        try:
            yield producer
        finally:
            with suppress(TransportError):
                producer.close()

    @contextmanager
    def _leadership(self, stop: threading.Event) -> Iterator[Connection | None]:
        """Yield the listening connection that holds the leader's lock; None when told to stop first."""
        with self._events.listen() as connection:
            while not self._events.try_lock(connection, _LEADER_LOCK):
                if stop.wait(self._poll_s):
                    yield None
                    return
            yield connection
