"""A broker in memory that keeps the transport's promises: for tests without Kafka.

Transactions occupy an offset for their marker, as on a real broker; aborted records stay in
the partition and are skipped by readers of committed records.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from quantflow.errors import TransportError
from quantflow.events.transport import (
    Admin,
    Consumer,
    Isolation,
    Message,
    Producer,
    ReceivedRecord,
    TopicPartitionOffset,
    TopicSpec,
)

__all__ = ["MemoryBroker", "MemoryTransport", "murmur2"]


@dataclass
class _Slot:
    """One offset: a record, or a transaction's marker."""

    record: ReceivedRecord | None
    state: Literal["open", "committed", "aborted"]


@dataclass
class _Partition:
    slots: list[_Slot] = field(default_factory=list)

    def stable_end(self) -> int:
        """The offset that readers of committed records cannot pass yet."""
        return next((at for at, slot in enumerate(self.slots) if slot.state == "open"), len(self.slots))


@dataclass
class _Group:
    members: dict[int, tuple[str, ...]] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    generation: int = 0


class MemoryBroker:
    """The state that transports share.

    ``available = False`` makes every call fail, as a broker does that is away.
    """

    def __init__(self) -> None:
        self.available = True
        self.changed = threading.Condition(threading.RLock())
        self.topics: dict[str, list[_Partition]] = {}
        self.settings: dict[str, dict[str, str]] = {}
        self.groups: dict[str, _Group] = {}
        self.epochs: dict[str, int] = {}
        self.open_transactions: dict[str, list[tuple[str, int, _Slot]]] = {}
        self._next_member = 0

    @contextmanager
    def session(self, action: str) -> Iterator[None]:
        """Hold the broker for one request; fail where it is away."""
        with self.changed:
            if not self.available:
                raise TransportError(f"could not {action}: the memory broker is away")
            yield

    def partition(self, topic: str, number: int) -> _Partition:
        """Return one partition."""
        partitions = self.partitions(topic)
        if not 0 <= number < len(partitions):
            raise TransportError(f"{topic} has no partition {number}; it has {len(partitions)}")
        return partitions[number]

    def partitions(self, topic: str) -> list[_Partition]:
        """Return a topic's partitions."""
        if topic not in self.topics:
            raise TransportError(f"unknown topic {topic!r}; known: {', '.join(sorted(self.topics)) or 'none'}")
        return self.topics[topic]

    def append(self, message: Message, state: Literal["open", "committed"]) -> tuple[str, int, _Slot]:
        """Add a record to the end of its partition."""
        partitions = self.partitions(message.topic)
        limit = int(self.settings[message.topic].get("max.message.bytes", "1048588"))
        size = len(message.value or b"") + len(message.key or b"")
        if size > limit:
            raise TransportError(f"could not send to {message.topic}: {size} bytes, {limit} are allowed")
        number = message.partition
        if number is None:
            number = (murmur2(message.key) & 0x7FFFFFFF) % len(partitions) if message.key is not None else 0
        slots = self.partition(message.topic, number).slots
        record = ReceivedRecord(
            message.topic, number, len(slots), message.key, message.value, tuple(message.headers),
            time.time_ns() // 1_000_000,
        )  # fmt: skip
        slots.append(_Slot(record, state))
        self.changed.notify_all()
        return message.topic, number, slots[-1]

    def end_transaction(self, transactional_id: str, state: Literal["committed", "aborted"]) -> None:
        """Settle an open transaction, leaving a marker in every partition that it wrote to."""
        written = self.open_transactions.pop(transactional_id, [])
        for _, _, slot in written:
            slot.state = state
        for topic, number in {(topic, number) for topic, number, _ in written}:
            self.partition(topic, number).slots.append(_Slot(None, state))
        self.changed.notify_all()

    def join(self, group: str, topics: Sequence[str]) -> int:
        """Add a member to a group and return its number."""
        self._next_member += 1
        state = self.groups.setdefault(group, _Group())
        state.members[self._next_member] = tuple(topics)
        state.generation += 1
        return self._next_member

    def leave(self, group: str, member: int) -> None:
        """Remove a member from a group."""
        state = self.groups[group]
        if state.members.pop(member, None) is not None:
            state.generation += 1
            self.changed.notify_all()

    def assigned(self, group: str, member: int) -> list[tuple[str, int]]:
        """Return the partitions that a member reads."""
        members = self.groups[group].members
        places = []
        for topic in members[member]:
            readers = sorted(number for number, topics in members.items() if topic in topics)
            places += [
                (topic, number)
                for number in range(len(self.partitions(topic)))
                if readers[number % len(readers)] == member
            ]
        return places


class MemoryTransport:
    """A transport to a broker in memory; transports that share a broker see the same topics."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()

    def producer(self, transactional_id: str | None = None) -> Producer:
        """Return a producer; with a transactional id it fences its predecessor."""
        return _MemoryProducer(self.broker, transactional_id)

    def consumer(self, group: str | None = None, *, isolation: Isolation = "read_committed") -> Consumer:
        """Return a consumer; without a group it can only be assigned."""
        return _MemoryConsumer(self.broker, group, isolation)

    def admin(self) -> Admin:
        """Return the administration of topics."""
        return _MemoryAdmin(self.broker)


class _MemoryProducer:
    def __init__(self, broker: MemoryBroker, transactional_id: str | None) -> None:
        self._broker = broker
        self._id = transactional_id
        self._epoch = 0
        self._failure: TransportError | None = None
        self._in_transaction = False
        with broker.session("make a producer"):
            if transactional_id is not None:
                self._epoch = broker.epochs[transactional_id] = broker.epochs.get(transactional_id, 0) + 1
                broker.end_transaction(transactional_id, "aborted")

    def send(self, message: Message) -> None:
        self._raise_failure()
        if self._id is not None and not self._in_transaction:
            raise TransportError(f"could not send to {message.topic}: no transaction was begun")
        with self._broker.session(f"send to {message.topic}"):
            self._check_fence("send")
            try:
                written = self._broker.append(message, "committed" if self._id is None else "open")
            except TransportError as exc:
                self._failure = exc
            else:
                if self._id is not None:
                    self._broker.open_transactions.setdefault(self._id, []).append(written)

    def flush(self, timeout_s: float = 30.0) -> None:
        self._raise_failure()
        with self._broker.session("flush"):
            pass

    def begin(self) -> None:
        with self._broker.session("begin a transaction"):
            self._check_fence("begin a transaction")
            if self._id is None or self._in_transaction:
                raise TransportError("could not begin a transaction: no transactional id, or one is open")
            self._in_transaction = True

    def commit(self, timeout_s: float = 30.0) -> None:
        self._raise_failure()
        self._end("committed")

    def abort(self) -> None:
        self._failure = None
        self._end("aborted")

    def close(self) -> None:
        pass

    def _end(self, state: Literal["committed", "aborted"]) -> None:
        with self._broker.session("end a transaction"):
            self._check_fence("end a transaction")
            if self._id is None or not self._in_transaction:
                raise TransportError("could not end a transaction: none was begun")
            self._broker.end_transaction(self._id, state)
            self._in_transaction = False

    def _check_fence(self, action: str) -> None:
        if self._id is not None and self._broker.epochs[self._id] != self._epoch:
            raise TransportError(f"could not {action}: fenced by a newer producer of {self._id!r}")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


class _MemoryConsumer:
    def __init__(self, broker: MemoryBroker, group: str | None, isolation: Isolation) -> None:
        self._broker = broker
        self._group = group
        self._committed_only = isolation == "read_committed"
        self._member = 0
        self._generation = -1
        self._positions: dict[tuple[str, int], int] = {}
        self._closed = False

    def subscribe(self, topics: Sequence[str]) -> None:
        if self._group is None:
            raise TransportError("could not subscribe: a consumer without a group can only be assigned")
        with self._broker.session("subscribe"):
            self._member = self._broker.join(self._group, topics)

    def assign(self, places: Iterable[TopicPartitionOffset]) -> None:
        with self._broker.session("assign"):
            self._positions = {(place.topic, place.partition): place.offset for place in places}

    def poll(self, timeout_s: float = 1.0, max_records: int = 500) -> list[ReceivedRecord]:
        deadline = time.monotonic() + timeout_s
        while True:
            with self._broker.session("poll"):
                self._rebalance()
                records = self._take(max_records)
                left_s = deadline - time.monotonic()
                if records or left_s <= 0:
                    return records
                self._broker.changed.wait(min(left_s, 0.05))

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        with self._broker.session("commit offsets"):
            self._group_state().offsets.update(offsets)

    def committed(self, topic: str, partition: int) -> int | None:
        with self._broker.session("read committed offsets"):
            return self._group_state().offsets.get((topic, partition))

    def position(self, topic: str, partition: int) -> int | None:
        return self._positions.get((topic, partition))

    def seek(self, topic: str, partition: int, offset: int) -> None:
        if (topic, partition) not in self._positions:
            raise TransportError(f"could not seek: {topic}[{partition}] is not assigned")
        self._positions[topic, partition] = offset

    def close(self) -> None:
        with self._broker.changed:
            if self._member and self._group is not None:
                self._broker.leave(self._group, self._member)
                self._member = 0

    def _group_state(self) -> _Group:
        if self._group is None:
            raise TransportError("a consumer without a group keeps no offsets")
        return self._broker.groups.setdefault(self._group, _Group())

    def _rebalance(self) -> None:
        if not self._member or self._group is None:
            return
        state = self._group_state()
        if state.generation == self._generation:
            return
        self._generation = state.generation
        places = self._broker.assigned(self._group, self._member)
        kept = {place: at for place, at in self._positions.items() if place in places}
        self._positions = {place: kept.get(place, state.offsets.get(place, 0)) for place in places}

    def _take(self, most: int) -> list[ReceivedRecord]:
        records: list[ReceivedRecord] = []
        for (topic, number), position in self._positions.items():
            partition = self._broker.partition(topic, number)
            end = partition.stable_end() if self._committed_only else len(partition.slots)
            while position < end and len(records) < most:
                slot = partition.slots[position]
                position += 1
                if slot.record is not None and not (self._committed_only and slot.state == "aborted"):
                    records.append(slot.record)
            self._positions[topic, number] = position
        return records


class _MemoryAdmin:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def ping(self, timeout_s: float = 5.0) -> None:
        with self._broker.session("ping"):
            pass

    def ensure_topics(self, specs: Iterable[TopicSpec]) -> None:
        with self._broker.session("make topics"):
            for spec in specs:
                self._broker.topics.setdefault(spec.name, [_Partition() for _ in range(spec.partitions)])
                self._broker.settings.setdefault(spec.name, {}).update(spec.settings)

    def partitions(self, topic: str) -> int:
        with self._broker.session(f"look at topic {topic}"):
            return len(self._broker.partitions(topic))

    def begin_offsets(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, lambda _partition: 0)

    def end_offsets(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, _Partition.stable_end)

    def delete_topics(self, topics: Iterable[str]) -> None:
        with self._broker.session("delete topics"):
            for topic in topics:
                self._broker.topics.pop(topic, None)

    def close(self) -> None:
        pass

    def _offsets(self, topic: str, which: Callable[[_Partition], int]) -> dict[int, int]:
        with self._broker.session(f"list offsets of {topic}"):
            return {number: which(partition) for number, partition in enumerate(self._broker.partitions(topic))}


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 of a key: what Java, kafka-python and librdkafka partition by."""
    mask, mix = 0xFFFFFFFF, 0x5BD1E995
    state = 0x9747B28C ^ len(data)
    blocks = len(data) // 4 * 4
    for at in range(0, blocks, 4):
        word = int.from_bytes(data[at : at + 4], "little") * mix & mask
        word = (word ^ word >> 24) * mix & mask
        state = (state * mix & mask) ^ word
    if tail := data[blocks:]:
        state = (state ^ int.from_bytes(tail, "little")) * mix & mask
    state = (state ^ state >> 13) * mix & mask
    return state ^ state >> 15
