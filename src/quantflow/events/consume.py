"""Consuming events so that each takes effect once, and none stops its partition.

In one database transaction the event's id goes into the inbox and its effect into the tables;
then the offset is committed. A crash in between makes the event come again, and the inbox
drops it. What can never be handled goes to the dead-letter topic with its original bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import msgspec

from quantflow.errors import EventDecodeError, LogUnavailableError, TransportError
from quantflow.events._backoff import Backoff
from quantflow.events._database import Connection
from quantflow.events.envelope import Envelope, caused_by, decode
from quantflow.events.log import EventLog
from quantflow.events.topics import DEAD_LETTER_SUFFIX
from quantflow.events.transport import Consumer, Message, Producer, ReceivedRecord, Transport
from quantflow.telemetry import get_logger

__all__ = ["DeadLetter", "EventConsumer", "dead_letter"]

Handler = Callable[[Connection, Envelope], None]
Outcome = Literal["handled", "duplicate", "dead", "passed over"]

_LONGEST_REASON = 2_000

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was given up, and why; ``run_id`` where one could be read from it."""

    record: ReceivedRecord
    reason: str
    envelope: Envelope | None
    run_id: str | None


def dead_letter(producer: Producer, record: ReceivedRecord, reason: str, *, group: str = "") -> str:
    """Publish a record to its dead-letter topic and return that topic's name.

    Key and value are the original bytes; headers are the original ones plus ``qf-reason``,
    ``qf-topic``, ``qf-partition``, ``qf-offset``, ``qf-timestamp`` (milliseconds) and ``qf-group``.
    """
    topic = f"{record.topic}{DEAD_LETTER_SUFFIX}"
    notes = {
        "qf-reason": reason[:_LONGEST_REASON],
        "qf-topic": record.topic,
        "qf-partition": str(record.partition),
        "qf-offset": str(record.offset),
        "qf-timestamp": str(record.timestamp_ms),
        "qf-group": group,
    }
    headers = (*record.headers, *((name, text.encode("utf-8", "replace")) for name, text in notes.items()))
    producer.send(Message(topic, record.value, record.key, headers))
    producer.flush()
    return topic


class EventConsumer:
    """Reads topics as a member of a group and hands each event to a handler, once.

    Parameters
    ----------
    topics
        Full names of the topics.
    group
        Consumer group, and name of the inbox.
    handler
        Called with the connection of the transaction and the envelope; quick, for the whole
        batch must be done within the broker's poll interval. An error of the database or
        broker, or one of ``retry_on``, is retried for ever; any other one ``max_attempts``
        times, then the event is a dead letter.
    keeps_unreadable
        False where several groups read one topic and another of them is the one that keeps
        what is no event of ours; here it is only passed over, so that there is one letter.
    on_dead_letter
        Called in a transaction of its own after a record was given up; it may be called again
        for the same record, so use derived event ids.
    """

    def __init__(
        self,
        transport: Transport,
        log: EventLog,
        topics: Sequence[str],
        group: str,
        handler: Handler,
        *,
        max_event_bytes: int = 900_000,
        max_attempts: int = 3,
        retry_on: tuple[type[Exception], ...] = (),
        keeps_unreadable: bool = True,
        on_dead_letter: Callable[[Connection, DeadLetter], None] | None = None,
        poll_s: float = 0.5,
        batch: int = 100,
    ) -> None:
        self._transport = transport
        self._events = log
        self._topics = [topics] if isinstance(topics, str) else list(topics)
        self._group = group
        self._handler = handler
        self._max_event_bytes = max_event_bytes
        self._max_attempts = max_attempts
        self._transient: tuple[type[Exception], ...] = (TransportError, LogUnavailableError, *retry_on)
        self._keeps_unreadable = keeps_unreadable
        self._on_dead_letter = on_dead_letter
        self._poll_s = poll_s
        self._batch = batch
        self._producer: Producer | None = None

    def run(self, stop: threading.Event) -> None:
        """Consume until ``stop`` is set; survive the broker's and the database's absence."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                self._consume(stop, backoff)
            except self._transient as exc:
                delay_s = backoff.next()
                _log.warning("consumer interrupted", group=self._group, reason=str(exc), retry_in_s=delay_s)
                stop.wait(delay_s)

    def _consume(self, stop: threading.Event, backoff: Backoff) -> None:
        consumer = self._transport.consumer(self._group)
        try:
            consumer.subscribe(self._topics)
            while not stop.is_set():
                records = consumer.poll(self._poll_s, self._batch)
                if records:
                    self._handle_all(consumer, records, stop)
                    backoff.reset()
        finally:
            with suppress(TransportError):
                consumer.close()
            self._drop_producer()

    def _handle_all(self, consumer: Consumer, records: Sequence[ReceivedRecord], stop: threading.Event) -> None:
        done: dict[tuple[str, int], int] = {}
        try:
            for record in records:
                if stop.is_set():
                    break
                self.handle(record)
                done[record.topic, record.partition] = record.offset + 1
        finally:
            if done:
                consumer.commit(done)

    def handle(self, record: ReceivedRecord) -> Outcome:
        """Handle one record; what is returned is what became of it. Its offset may be committed then."""
        try:
            envelope = self._read(record)
        except EventDecodeError as exc:
            if not self._keeps_unreadable:
                return "passed over"
            return self._give_up(record, str(exc), None)
        with caused_by(envelope):
            return self._attempt(record, envelope)

    def _read(self, record: ReceivedRecord) -> Envelope:
        size = len(record.value or b"")
        if size > self._max_event_bytes:
            raise EventDecodeError(f"{size:,} bytes; {self._max_event_bytes:,} are allowed (QUANTFLOW_MAX_EVENT_BYTES)")
        return decode(record.value)

    def _attempt(self, record: ReceivedRecord, envelope: Envelope) -> Outcome:
        for attempt in range(1, self._max_attempts + 1):
            try:
                return self._handle_once(envelope)
            except self._transient:
                raise
            except Exception as exc:  # noqa: BLE001 - whatever a handler raises must not stop the partition
                reason = f"{type(exc).__name__}: {exc}"
                _log.warning(
                    "event not handled", group=self._group, event_id=envelope.id, attempt=attempt, reason=reason
                )
        return self._give_up(record, reason, envelope)

    def _handle_once(self, envelope: Envelope) -> Outcome:
        with self._events.transaction() as connection:
            first_time = connection.execute(
                "INSERT INTO inbox (consumer_group, event_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (self._group, envelope.id),
            ).rowcount
            if not first_time:
                return "duplicate"
            self._handler(connection, envelope)
        return "handled"

    def _give_up(self, record: ReceivedRecord, reason: str, envelope: Envelope | None) -> Outcome:
        self._producer = self._producer or self._transport.producer()
        topic = dead_letter(self._producer, record, reason, group=self._group)
        letter = DeadLetter(record, reason, envelope, _run_id(record, envelope))
        _log.error(
            "dead letter", dead_letter_topic=topic, topic=record.topic, partition=record.partition,
            offset=record.offset, reason=reason, run_id=letter.run_id,
        )  # fmt: skip
        if self._on_dead_letter is not None:
            self._tell(self._on_dead_letter, letter)
        return "dead"

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _tell(self, hook: Callable[[Connection, DeadLetter], None], letter: DeadLetter) -> None:
        try:
            with self._events.transaction() as connection:
                hook(connection, letter)
        except self._transient:
            raise
        except Exception as exc:  # noqa: BLE001 - the letter is kept; its echo must not stop the partition
            _log.error("dead letter not told", reason=f"{type(exc).__name__}: {exc}", run_id=letter.run_id)


class _PeekData(msgspec.Struct):
    run_id: str


class _Peek(msgspec.Struct):
    data: _PeekData


def _run_id(record: ReceivedRecord, envelope: Envelope | None) -> str | None:
    if envelope is not None:
        run_id = getattr(envelope.data, "run_id", None)
        return run_id if isinstance(run_id, str) else None
    try:
        return msgspec.json.decode(record.value or b"", type=_Peek).data.run_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return record.key.decode() if record.key else None
    except UnicodeDecodeError:
        return None
