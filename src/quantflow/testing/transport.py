"""The conformance suite of the transport seam, and a transport that breaks at a chosen moment.

A test module subclasses :class:`TransportConformance` and gives the fixtures ``transport`` and
``topic_prefix``; every method is a promise of :mod:`quantflow.events.transport`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pytest

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
    Transport,
    current_slices,
    read_slice,
)
from quantflow.events.types import TopicSlice
from quantflow.testing.wait import wait_until

__all__ = ["FailingTransport", "Moment", "TransportConformance", "drain", "fill"]

Moment = Literal["before_commit", "after_commit"]


class FailingTransport:
    """A transport whose producers raise at a moment of the n-th commit, once.

    ``after_commit`` is the crash that exactly-once has to survive: the broker has the records,
    their sender never learns of it.
    """

    def __init__(self, inner: Transport, moment: Moment, *, at_commit: int = 1) -> None:
        self._inner = inner
        self._moment = moment
        self._left = at_commit
        self.failed = False

    def producer(self, transactional_id: str | None = None) -> Producer:
        """Return a producer that breaks."""
        return _FailingProducer(self._inner.producer(transactional_id), self._fails)

    def consumer(self, group: str | None = None, *, isolation: Isolation = "read_committed") -> Consumer:
        """Return the inner transport's consumer."""
        return self._inner.consumer(group, isolation=isolation)

    def admin(self) -> Admin:
        """Return the inner transport's administration."""
        return self._inner.admin()

    def _fails(self, moment: Moment) -> None:
        if moment != self._moment or self.failed:
            return
        self._left -= 1
        if self._left <= 0:
            self.failed = True
            raise TransportError(f"planted failure {moment}")


class _FailingProducer:
    def __init__(self, inner: Producer, fails: Callable[[Moment], None]) -> None:
        self._inner = inner
        self._fails = fails
        self.send, self.flush, self.begin = inner.send, inner.flush, inner.begin
        self.abort, self.close = inner.abort, inner.close

    def commit(self, timeout_s: float = 30.0) -> None:
        self._fails("before_commit")
        self._inner.commit(timeout_s)
        self._fails("after_commit")


class TransportConformance:
    """Promises that every transport keeps."""

    @pytest.fixture
    def topic(self, transport: Transport, topic_prefix: str) -> Iterator[str]:
        """A fresh topic of three partitions."""
        name = f"{topic_prefix}conformance"
        admin = transport.admin()
        admin.ensure_topics([TopicSpec(name, 3, {"max.message.bytes": "100000"})])
        yield name
        admin.delete_topics([name])
        admin.close()

    def test_a_record_comes_back_as_it_was_sent(self, transport: Transport, topic: str) -> None:
        """Value, key, headers and chosen partition."""
        sent = Message(topic, b"\x00\xff value", b"key", (("a", b"1"), ("a", b"2"), ("b", b"")), 2)
        fill(transport, sent)
        [got] = drain(transport, topic)
        assert (got.topic, got.partition, got.offset) == (topic, 2, 0)
        assert (got.key, got.value, got.headers) == (sent.key, sent.value, sent.headers)
        assert got.header("a") == b"2"
        assert got.header("none") is None

    def test_a_null_value_and_an_empty_one_differ(self, transport: Transport, topic: str) -> None:
        """Tombstones stay tombstones."""
        fill(transport, Message(topic, None, b"k", (), 0), Message(topic, b"", b"k", (), 0))
        assert [record.value for record in drain(transport, topic)] == [None, b""]

    def test_the_same_key_goes_to_the_partition_that_murmur2_names(self, transport: Transport, topic: str) -> None:
        """So every client agrees: AAPL 2, MSFT 2, run-1 1, and so on."""
        from quantflow.testing.memory import murmur2

        keys = [b"AAPL", b"MSFT", b"run-1", b"x", b"", "Größe".encode()]
        fill(transport, *(Message(topic, b"v", key) for key in keys))
        got = {record.key: record.partition for record in drain(transport, topic)}
        assert got == {key: (murmur2(key) & 0x7FFFFFFF) % 3 for key in keys}

    def test_records_of_a_partition_keep_their_order(self, transport: Transport, topic: str) -> None:
        """Across batches."""
        fill(transport, *(Message(topic, b"%d" % number, b"same") for number in range(500)))
        assert [record.value for record in drain(transport, topic)] == [b"%d" % number for number in range(500)]

    def test_a_group_goes_on_where_it_committed(self, transport: Transport, topic: str, topic_prefix: str) -> None:
        """What was read and not committed comes again."""
        fill(transport, *(Message(topic, b"%d" % number, b"k", (), 0) for number in range(6)))
        group = f"{topic_prefix}group"
        first = _read(transport, topic, group, 6, commit=4)
        assert [record.value for record in first] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        again = _read(transport, topic, group, 2)
        assert [record.value for record in again] == [b"4", b"5"]

    def test_nothing_is_committed_unless_told(self, transport: Transport, topic: str, topic_prefix: str) -> None:
        """Closing a consumer must not commit."""
        fill(transport, Message(topic, b"v", b"k", (), 1))
        group = f"{topic_prefix}group"
        _read(transport, topic, group, 1)
        consumer = transport.consumer(group)
        assert consumer.committed(topic, 1) is None
        consumer.close()
        assert len(_read(transport, topic, group, 1)) == 1

    def test_two_members_share_the_partitions(self, transport: Transport, topic: str, topic_prefix: str) -> None:
        """Each record goes to one of them."""
        group = f"{topic_prefix}group"
        members = [transport.consumer(group), transport.consumer(group)]
        for member in members:
            member.subscribe([topic])
        fill(transport, *(Message(topic, b"%d" % number, None, (), number % 3) for number in range(30)))
        seen: list[list[ReceivedRecord]] = [[], []]

        def all_seen() -> bool:
            for number, member in enumerate(members):
                records = member.poll(0.2)
                seen[number] += records
                if records:
                    member.commit({(record.topic, record.partition): record.offset + 1 for record in records})
            return len({record.value for records in seen for record in records}) == 30

        wait_until(all_seen, 60, lambda: [len(records) for records in seen])
        for member in members:
            member.close()

    def test_an_assigned_consumer_reads_from_the_given_offset(self, transport: Transport, topic: str) -> None:
        """And can seek back."""
        fill(transport, *(Message(topic, b"%d" % number, None, (), 0) for number in range(5)))
        consumer = transport.consumer()
        consumer.assign([TopicPartitionOffset(topic, 0, 3)])
        assert [record.value for record in _poll(consumer, 2)] == [b"3", b"4"]
        assert consumer.position(topic, 0) == 5
        consumer.seek(topic, 0, 1)
        assert [record.value for record in _poll(consumer, 4)] == [b"1", b"2", b"3", b"4"]
        consumer.close()

    def test_poll_returns_at_most_max_records(self, transport: Transport, topic: str) -> None:
        """The rest comes with the next polls."""
        fill(transport, *(Message(topic, b"%d" % number, None, (), 0) for number in range(10)))
        consumer = transport.consumer()
        consumer.assign([TopicPartitionOffset(topic, 0, 0)])
        wait_until(lambda: consumer.poll(0.5, 3), 30)
        assert len(consumer.poll(1.0, 3)) <= 3
        consumer.close()

    def test_records_of_a_transaction_appear_when_it_commits(
        self, transport: Transport, topic: str, topic_prefix: str
    ) -> None:
        """Not before, and those of an aborted one never."""
        producer = transport.producer(f"{topic_prefix}tx")
        for number, end in enumerate((producer.commit, producer.abort, producer.commit)):
            producer.begin()
            producer.send(Message(topic, b"%d" % number, None, (), 0))
            producer.send(Message(topic, b"%d" % number, None, (), 1))
            end()
        producer.begin()
        producer.send(Message(topic, b"open", None, (), 0))
        assert sorted(record.value or b"" for record in drain(transport, topic)) == [b"0", b"0", b"2", b"2"]
        producer.abort()
        producer.close()

    def test_reading_a_slice_ends_behind_markers_and_aborted_records(
        self, transport: Transport, topic: str, topic_prefix: str
    ) -> None:
        """Whatever the last offsets hold."""
        producer = transport.producer(f"{topic_prefix}tx")
        producer.begin()
        producer.send(Message(topic, b"kept", None, (), 0))
        producer.commit()
        producer.begin()
        producer.send(Message(topic, b"dropped", None, (), 0))
        producer.flush()
        producer.abort()
        producer.close()
        admin = transport.admin()
        assert admin.end_offsets(topic) == {0: 4, 1: 0, 2: 0}
        admin.close()
        whole = TopicSlice(topic=topic, partition=0, start=0, end=4)
        assert [record.value for record in read_slice(transport, [whole], idle_timeout_s=10)] == [b"kept"]

    def test_a_second_producer_of_a_transactional_id_fences_the_first(
        self, transport: Transport, topic: str, topic_prefix: str
    ) -> None:
        """The open transaction of the first is dropped."""
        first = transport.producer(f"{topic_prefix}tx")
        first.begin()
        first.send(Message(topic, b"zombie", None, (), 0))
        second = transport.producer(f"{topic_prefix}tx")
        with pytest.raises(TransportError):
            first.commit()
        second.begin()
        second.send(Message(topic, b"alive", None, (), 0))
        second.commit()
        first.close()
        second.close()
        assert [record.value for record in drain(transport, topic)] == [b"alive"]

    def test_a_slice_holds_exactly_its_offsets(self, transport: Transport, topic: str) -> None:
        """Start included, end excluded, partition by partition."""
        fill(transport, *(Message(topic, b"%d.%d" % (part, n), None, (), part) for part in (0, 1) for n in range(9)))
        slices = [
            TopicSlice(topic=topic, partition=1, start=2, end=5),
            TopicSlice(topic=topic, partition=0, start=0, end=1),
            TopicSlice(topic=topic, partition=2, start=0, end=0),
        ]
        values = [record.value for record in read_slice(transport, slices)]
        assert values == [b"1.2", b"1.3", b"1.4", b"0.0"]

    def test_a_slice_that_the_topic_does_not_hold_is_refused(self, transport: Transport, topic: str) -> None:
        """Instead of waiting for ever or skipping silently."""
        with pytest.raises(TransportError, match="is not in it"):
            list(read_slice(transport, [TopicSlice(topic=topic, partition=0, start=0, end=7)]))
        with pytest.raises(TransportError, match="no partition 9"):
            list(read_slice(transport, [TopicSlice(topic=topic, partition=9, start=0, end=7)]))

    def test_a_record_that_the_topic_refuses_is_an_error_at_the_latest_at_flush(
        self, transport: Transport, topic: str
    ) -> None:
        """The topic of this suite accepts 100,000 bytes."""
        producer = transport.producer()

        def send_and_flush() -> None:
            producer.send(Message(topic, b"x" * 200_000, None, (), 0))
            producer.flush()

        with pytest.raises(TransportError):
            send_and_flush()
        producer.close()

    def test_ensuring_topics_twice_keeps_their_records(self, transport: Transport, topic: str) -> None:
        """And applies changed settings."""
        fill(transport, Message(topic, b"v", None, (), 0))
        admin = transport.admin()
        admin.ensure_topics([TopicSpec(topic, 3, {"max.message.bytes": "300000"})])
        admin.close()
        fill(transport, Message(topic, b"x" * 200_000, None, (), 0))
        assert len(drain(transport, topic)) == 2

    def test_an_unknown_topic_is_an_error(self, transport: Transport, topic: str) -> None:
        """Topics are made with explicit settings or not at all."""
        admin = transport.admin()
        for question in (admin.partitions, admin.begin_offsets, admin.end_offsets):
            with pytest.raises(TransportError):
                question(f"{topic}.unknown")
        admin.close()

    def test_subscribing_to_an_unknown_topic_is_an_error_at_the_latest_when_polling(
        self, transport: Transport, topic: str, topic_prefix: str
    ) -> None:
        """So that a consumer can wait for its topic instead of reading nothing for ever."""
        consumer = transport.consumer(f"{topic_prefix}group")

        def subscribe_and_poll() -> None:
            consumer.subscribe([f"{topic}.unknown"])
            wait_until(lambda: consumer.poll(0.2), 20)

        with pytest.raises(TransportError):
            subscribe_and_poll()
        consumer.close()

    def test_ping_answers(self, transport: Transport) -> None:
        """A broker that is there answers within its time."""
        admin = transport.admin()
        admin.ping()
        admin.close()


def fill(transport: Transport, *messages: Message) -> None:
    """Send records and wait until the broker has them."""
    producer = transport.producer()
    for message in messages:
        producer.send(message)
    producer.flush()
    producer.close()


def drain(transport: Transport, *topics: str) -> list[ReceivedRecord]:
    """Return every committed record of these topics."""
    return list(read_slice(transport, current_slices(transport, topics), idle_timeout_s=20))


def _poll(consumer: Consumer, count: int) -> list[ReceivedRecord]:
    records: list[ReceivedRecord] = []

    def enough() -> bool:
        records.extend(consumer.poll(0.2))
        return len(records) >= count

    wait_until(enough, 30, lambda: f"{count} records, have {len(records)}")
    return records


def _read(transport: Transport, topic: str, group: str, count: int, commit: int | None = None) -> list[ReceivedRecord]:
    consumer = transport.consumer(group)
    consumer.subscribe([topic])
    records = _poll(consumer, count)
    if commit is not None:
        consumer.commit({(topic, records[0].partition): commit})
    consumer.close()
    return records
