"""The seam between quantflow and its broker: two clients, one contract.

:class:`KafkaPythonTransport` is pure Python, for notebooks and administration;
:class:`LibrdkafkaTransport` is for throughput. Both keep the same promises, held by one
conformance suite (:mod:`quantflow.testing.transport`): idempotent producers with
``acks=all``, the same partition for the same key, manual commits, and every failure of the
broker as a :class:`~quantflow.errors.TransportError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from quantflow.errors import TransportError
from quantflow.events.types import TopicSlice

__all__ = [
    "Admin",
    "Consumer",
    "Headers",
    "Isolation",
    "KafkaPythonTransport",
    "LibrdkafkaTransport",
    "Message",
    "Producer",
    "ReceivedRecord",
    "TopicPartitionOffset",
    "TopicSpec",
    "Transport",
    "current_slices",
    "read_slice",
]

Headers = tuple[tuple[str, bytes], ...]
Isolation = Literal["read_committed", "read_uncommitted"]

#: Largest record that a producer sends; what a topic accepts is the topic's own setting.
MAX_REQUEST_BYTES = 32_000_000


class Message(NamedTuple):
    """A record to send. Without ``partition`` the key chooses it (murmur2, as in Java)."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None


class ReceivedRecord(NamedTuple):
    """A record as the broker keeps it; ``timestamp_ms`` is milliseconds since 1970, UTC."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    def header(self, name: str) -> bytes | None:
        """Return the last header of that name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


class TopicPartitionOffset(NamedTuple):
    """A place to read from."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class TopicSpec:
    """A topic and every setting of it that we rely on."""

    name: str
    partitions: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    replication: int = -1


class Producer(Protocol):
    """Sends records. With a transactional id: between ``begin`` and ``commit`` or ``abort``."""

    def send(self, message: Message) -> None:
        """Queue a record; a failure is raised by a later ``send``, ``flush`` or ``commit``."""

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return once the broker has every queued record; raise TransportError otherwise."""

    def begin(self) -> None:
        """Start a transaction."""

    def commit(self, timeout_s: float = 30.0) -> None:
        """Make the transaction's records visible, all at once.

        After a TransportError the outcome is unknown: close this producer, make another of
        the same transactional id (which settles the old transaction), and look.
        """

    def abort(self) -> None:
        """Drop the transaction's records."""

    def close(self) -> None:
        """Release everything; what was not flushed may be lost."""


class Consumer(Protocol):
    """Reads records; never commits on its own."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read the partitions that the group gives to this member, from its committed offsets."""

    def assign(self, places: Iterable[TopicPartitionOffset]) -> None:
        """Read exactly these partitions from these offsets, whatever the group committed."""

    def poll(self, timeout_s: float = 1.0, max_records: int = 500) -> list[ReceivedRecord]:
        """Return up to ``max_records``, waiting at most ``timeout_s`` for the first; in order per partition."""

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Keep, for the group, the *next* offset to read of each partition; returns when kept."""

    def committed(self, topic: str, partition: int) -> int | None:
        """Return the group's next offset, or None where it has none."""

    def position(self, topic: str, partition: int) -> int | None:
        """Return the next offset that this consumer reads.

        It moves past offsets that hold no record for the reader (transaction markers,
        aborted records), so that reading up to an offset ends.
        """

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on reading at this offset."""

    def close(self) -> None:
        """Leave the group."""


class Admin(Protocol):
    """Makes topics and looks at them."""

    def ping(self, timeout_s: float = 5.0) -> None:
        """Raise TransportError unless the broker answers."""

    def ensure_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Make the topics that are missing and set the given settings on all of them."""

    def partitions(self, topic: str) -> int:
        """Return the number of partitions; raise TransportError for an unknown topic."""

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Return the first offset still kept, by partition."""

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return the offset after the last committed record, by partition."""

    def delete_topics(self, topics: Iterable[str]) -> None:
        """Delete topics with everything in them; unknown ones are ignored."""

    def close(self) -> None:
        """Release everything."""


@runtime_checkable
class Transport(Protocol):
    """A broker, as one of its clients sees it."""

    def producer(self, transactional_id: str | None = None) -> Producer:
        """Return an idempotent producer; with a transactional id it fences its predecessor."""

    def consumer(self, group: str | None = None, *, isolation: Isolation = "read_committed") -> Consumer:
        """Return a consumer; without a group it can only be assigned."""

    def admin(self) -> Admin:
        """Return the administration of topics."""


@dataclass(frozen=True)
class LibrdkafkaTransport:
    """The broker through librdkafka (confluent-kafka).

    Parameters
    ----------
    bootstrap
        ``host:port[,host:port]``.
    session_timeout_s
        A consumer that is silent for so long loses its partitions.
    """

    bootstrap: str
    session_timeout_s: float = 10.0

    def producer(self, transactional_id: str | None = None) -> Producer:
        """Return an idempotent producer; with a transactional id it fences its predecessor."""
        from quantflow.events._librdkafka import RdProducer

        return RdProducer(self.bootstrap, transactional_id)

    def consumer(self, group: str | None = None, *, isolation: Isolation = "read_committed") -> Consumer:
        """Return a consumer; without a group it can only be assigned."""
        from quantflow.events._librdkafka import RdConsumer

        return RdConsumer(self.bootstrap, group, isolation, self.session_timeout_s)

    def admin(self) -> Admin:
        """Return the administration of topics."""
        from quantflow.events._librdkafka import RdAdmin

        return RdAdmin(self.bootstrap)


@dataclass(frozen=True)
class KafkaPythonTransport:
    """The broker through kafka-python; parameters as in :class:`LibrdkafkaTransport`."""

    bootstrap: str
    session_timeout_s: float = 10.0

    def producer(self, transactional_id: str | None = None) -> Producer:
        """Return an idempotent producer; with a transactional id it fences its predecessor."""
        from quantflow.events._kafka_python import PyProducer

        return PyProducer(self.bootstrap, transactional_id)

    def consumer(self, group: str | None = None, *, isolation: Isolation = "read_committed") -> Consumer:
        """Return a consumer; without a group it can only be assigned."""
        from quantflow.events._kafka_python import PyConsumer

        return PyConsumer(self.bootstrap, group, isolation, self.session_timeout_s)

    def admin(self) -> Admin:
        """Return the administration of topics."""
        from quantflow.events._kafka_python import PyAdmin

        return PyAdmin(self.bootstrap)


def current_slices(transport: Transport, topics: Iterable[str]) -> tuple[TopicSlice, ...]:
    """Return everything that these topics hold now: what a run may read is fixed by this.

    Raises
    ------
    TransportError
        The broker cannot be reached, or has no such topic.
    """
    admin = transport.admin()
    try:
        slices = []
        for topic in topics:
            begins, ends = admin.begin_offsets(topic), admin.end_offsets(topic)
            slices += [
                TopicSlice(topic=topic, partition=partition, start=begins[partition], end=ends[partition])
                for partition in sorted(ends)
            ]
        return tuple(slices)
    finally:
        admin.close()


def read_slice(
    transport: Transport, slices: Iterable[TopicSlice], *, idle_timeout_s: float = 30.0
) -> Iterator[ReceivedRecord]:
    """Yield exactly the records of these slices, partition by partition, each in order.

    Ends by position, not by counting: an offset may hold a transaction marker.

    Raises
    ------
    TransportError
        A slice is no longer, or not yet, in its topic, or nothing arrived for ``idle_timeout_s``.
    """
    wanted = [piece for piece in slices if piece.end > piece.start]
    _check_present(transport, wanted)
    consumer = transport.consumer()
    try:
        for piece in wanted:
            consumer.assign([TopicPartitionOffset(piece.topic, piece.partition, piece.start)])
            yield from _read_partition(consumer, piece, idle_timeout_s)
    finally:
        consumer.close()


def _read_partition(consumer: Consumer, piece: TopicSlice, idle_timeout_s: float) -> Iterator[ReceivedRecord]:
    waited_s = 0.0
    position = piece.start
    while position < piece.end:
        records = consumer.poll(0.5, 5000)
        for record in records:
            if record.offset >= piece.end:
                return
            yield record
        reached = max(position, consumer.position(piece.topic, piece.partition) or 0)
        waited_s = 0.0 if reached > position else waited_s + 0.5
        position = reached
        if waited_s >= idle_timeout_s:
            raise TransportError(
                f"{piece.topic}[{piece.partition}]: nothing after offset {position} within {idle_timeout_s:.0f} s, "
                f"but the slice ends at {piece.end}; is the broker healthy?"
            )


def _check_present(transport: Transport, slices: Sequence[TopicSlice]) -> None:
    admin = transport.admin()
    try:
        for topic in {piece.topic for piece in slices}:
            begins, ends = admin.begin_offsets(topic), admin.end_offsets(topic)
            for piece in (piece for piece in slices if piece.topic == topic):
                begin, end = begins.get(piece.partition), ends.get(piece.partition)
                if begin is None or end is None:
                    raise TransportError(f"{topic} has no partition {piece.partition}; it has {sorted(ends)}")
                if piece.start < begin or piece.end > end:
                    raise TransportError(
                        f"{topic}[{piece.partition}] holds offsets {begin} to {end}; "
                        f"the slice {piece.start} to {piece.end} is not in it: "
                        "deleted by retention, or another broker?"
                    )
    finally:
        admin.close()
