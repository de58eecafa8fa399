"""The relay and the consumer: each event takes effect once, whatever breaks in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from quantflow.errors import OrchestrationError, TransportError
from quantflow.events._database import Connection
from quantflow.events.consume import DeadLetter, EventConsumer
from quantflow.events.envelope import Envelope, current_causation, decode, encode, wrap
from quantflow.events.log import EventLog
from quantflow.events.outbox import OutboxRelay
from quantflow.events.records import Draft
from quantflow.events.topics import Topics
from quantflow.events.transport import (
    KafkaPythonTransport,
    LibrdkafkaTransport,
    Message,
    ReceivedRecord,
    Transport,
)
from quantflow.events.types import RunRequested
from quantflow.telemetry import correlation
from quantflow.testing.memory import MemoryTransport
from quantflow.testing.transport import FailingTransport, Moment, drain, fill
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)

TRANSPORTS: dict[str, Callable[[str], Transport]] = {
    "kafka-python": KafkaPythonTransport,
    "librdkafka": LibrdkafkaTransport,
}


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    with EventLog(database_url) as opened:
        opened.migrate()
        yield opened


@pytest.fixture(params=["memory", "librdkafka"])
def transport(request: pytest.FixtureRequest) -> Transport:
    if request.param == "memory":
        return MemoryTransport()
    kafka: str = request.getfixturevalue("kafka_bootstrap")
    return TRANSPORTS[request.param](kafka)


# The services use librdkafka; that kafka-python keeps the same promises is the conformance suite's matter.
every_transport = pytest.mark.parametrize("transport", ["memory", "librdkafka", "kafka-python"], indirect=True)


@pytest.fixture
def topics(transport: Transport, topic_prefix: str) -> Iterator[Topics]:
    topics = Topics(topic_prefix, max_event_bytes=20_000)
    needed = {*topics.outbox_topics, topics.dead_letter(topics.requests)}
    admin = transport.admin()
    admin.ensure_topics(spec for spec in topics.specs() if spec.name in needed)
    yield topics
    admin.delete_topics(needed)
    admin.close()


def request(run_id: str) -> RunRequested:
    return RunRequested(run_id=run_id, workflow_id="w", workflow_type="airflow", as_of=NOW, requested_by="t")


def ask(log: EventLog, *run_ids: str, topic: str = "workflow.requests") -> None:
    for run_id in run_ids:
        log.append(f"run-{run_id}", [Draft(request(run_id), topic=topic, key=run_id)], expected_version=0)


def run_ids(records: list[ReceivedRecord]) -> list[str]:
    events = [decode(record.value).data for record in records]
    return sorted(event.run_id for event in events if isinstance(event, RunRequested))


def unpublished(log: EventLog) -> int:
    with log.transaction() as connection:
        row = connection.execute("SELECT count(*) FROM outbox WHERE published_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def running(target: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=target, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


# The relay


def test_what_is_appended_is_published_as_it_was_stored(log: EventLog, transport: Transport, topics: Topics) -> None:
    with correlation("c1"):
        ask(log, "r1", "r2")
    ask(log, "r3", topic=topics.results)  # with or without the prefix
    log.append("other", [Draft(request("r4"))])  # not for Kafka
    assert OutboxRelay(log, transport, topics).publish_pending() == 3
    records = drain(transport, topics.requests, topics.results)
    assert run_ids(records) == ["r1", "r2", "r3"]
    by_key = {record.key: decode(record.value) for record in records}
    assert by_key[b"r1"] == log.read_stream("run-r1")[0].envelope
    assert by_key[b"r1"].correlation_id == "c1"
    assert unpublished(log) == 0


@every_transport
@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_a_relay_that_breaks_around_its_commit_publishes_each_event_once(
    log: EventLog, transport: Transport, topics: Topics, moment: Moment
) -> None:
    ask(log, "r1", "r2", "r3", "r4", "r5")
    failing = FailingTransport(transport, moment, at_commit=2)
    with pytest.raises(TransportError, match="planted"):
        OutboxRelay(log, failing, topics, batch=2).publish_pending()
    assert unpublished(log) == 3
    ask(log, "r6")
    OutboxRelay(log, transport, topics).publish_pending()
    assert run_ids(drain(transport, topics.requests)) == ["r1", "r2", "r3", "r4", "r5", "r6"]
    assert unpublished(log) == 0


def test_a_running_relay_goes_on_after_a_failure(log: EventLog, transport: Transport, topics: Topics) -> None:
    failing = FailingTransport(transport, "after_commit")
    with running(OutboxRelay(log, failing, topics).run):
        ask(log, "r1")
        wait_until(lambda: failing.failed and unpublished(log) == 0, 60)
        ask(log, "r2")
        wait_until(lambda: unpublished(log) == 0, 60)
    assert run_ids(drain(transport, topics.requests)) == ["r1", "r2"]


def test_the_topics_of_another_log_say_nothing_about_this_one(
    log: EventLog, transport: Transport, topics: Topics
) -> None:
    foreign = (("qf-position", b"1000"), ("qf-log", b"another"))
    fill(transport, Message(topics.requests, encode(wrap(request("x"), subject="run-x")), b"x", foreign))
    ask(log, "r1")
    OutboxRelay(log, transport, topics).publish_pending()
    assert run_ids(drain(transport, topics.requests)) == ["r1", "x"]


def test_a_row_for_an_unknown_topic_blocks_nobody(log: EventLog, transport: Transport, topics: Topics) -> None:
    ask(log, "r1", topic="nonsense")
    ask(log, "r2", topic=topics.market_bars())  # not a topic of the outbox
    ask(log, "r3")
    relay = OutboxRelay(log, transport, topics)
    relay.publish_pending()
    relay.publish_pending()
    assert run_ids(drain(transport, topics.requests)) == ["r3"]
    with log.transaction() as connection:
        refused = connection.execute("SELECT position, refused FROM outbox WHERE refused IS NOT NULL ORDER BY 1")
        assert [(row[0], row[1][:14]) for row in refused] == [(1, "unknown topic "), (2, f"topic {topics.prefix}"[:14])]


def test_of_two_relays_one_leads_and_the_other_takes_over(
    log: EventLog, transport: Transport, topics: Topics, database_url: str
) -> None:
    with EventLog(database_url, source="relay-1") as first_log, EventLog(database_url, source="relay-2") as second_log:
        relays = [OutboxRelay(own, transport, topics, poll_s=0.1) for own in (first_log, second_log)]
        with running(relays[0].run), running(relays[1].run):
            ask(log, "r1")
            wait_until(lambda: unpublished(log) == 0, 60)
            with psycopg.connect(database_url, autocommit=True) as connection:
                # The leader loses its lock, as if its machine had gone.
                holder = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                connection.execute(holder.encode())
            ask(log, "r2", "r3")
            wait_until(lambda: unpublished(log) == 0, 60)
    assert run_ids(drain(transport, topics.requests)) == ["r1", "r2", "r3"]


# The consumer


class Effects:
    """Effects in a table, counted from outside of what is tested."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.failures: dict[str, list[Exception]] = {}
        self.causes: list[tuple[str, str | None]] = []
        self.letters: list[DeadLetter] = []
        with log.transaction() as connection:
            connection.execute("CREATE TABLE effects (run_id text)")

    def handle(self, connection: Connection, envelope: Envelope) -> None:
        assert isinstance(envelope.data, RunRequested)
        run_id = envelope.data.run_id
        connection.execute("INSERT INTO effects VALUES (%s)", (run_id,))
        self.causes.append((run_id, current_causation()))
        if self.failures.get(run_id):
            raise self.failures[run_id].pop(0)

    def dead(self, connection: Connection, letter: DeadLetter) -> None:
        self.letters.append(letter)
        connection.execute("SELECT 1")

    def seen(self) -> list[str]:
        with self.log.transaction() as connection:
            return [str(row[0]) for row in connection.execute("SELECT run_id FROM effects ORDER BY run_id")]


@pytest.fixture
def effects(log: EventLog) -> Effects:
    return Effects(log)


def consumer(transport: Transport, topics: Topics, effects: Effects) -> EventConsumer:
    return EventConsumer(
        transport, effects.log, [topics.requests], topics.group("test"), effects.handle, max_event_bytes=20_000,
        retry_on=(OrchestrationError,), on_dead_letter=effects.dead, poll_s=0.1,
    )  # fmt: skip


def event(run_id: str, event_id: str | None = None) -> bytes:
    return encode(wrap(request(run_id), subject=f"run-{run_id}", event_id=event_id))


def send(transport: Transport, topics: Topics, *values: bytes | None) -> None:
    fill(transport, *(Message(topics.requests, value, b"key", (("h", b"1"),)) for value in values))


@every_transport
def test_each_event_takes_effect_once(transport: Transport, topics: Topics, effects: Effects) -> None:
    twice = event("r1", "e1")
    send(transport, topics, twice, twice, event("r2"), twice)
    with running(consumer(transport, topics, effects).run):
        wait_until(lambda: effects.seen() == ["r1", "r2"], 60)
        send(transport, topics, twice, event("r3"))
        wait_until(lambda: "r3" in effects.seen(), 60)
    assert effects.seen() == ["r1", "r2", "r3"]
    assert effects.causes[0] == ("r1", "e1")
    with running(consumer(transport, topics, effects).run):  # a restart goes on where the first ended
        send(transport, topics, event("r4"))
        wait_until(lambda: "r4" in effects.seen(), 60)
    assert effects.seen() == ["r1", "r2", "r3", "r4"]


def test_what_cannot_be_handled_becomes_a_dead_letter_and_the_partition_moves_on(
    transport: Transport, topics: Topics, effects: Effects
) -> None:
    malformed = [b"junk", b'{"data": {"run_id": "r9"}}', None, b"\xff\xfe", event("r1").replace(b"airflow", b"abacus")]
    oversized = event("r2").replace(b'"t"', b'"' + b"x" * 25_000 + b'"')
    poison = event("r3")
    effects.failures["r3"] = [ValueError("planted")] * 3
    bad = [*malformed, oversized, poison]
    send(transport, topics, *bad, event("r4"))
    with running(consumer(transport, topics, effects).run):
        wait_until(lambda: effects.seen() == ["r4"], 60)
    letters = drain(transport, topics.dead_letter(topics.requests))
    assert [letter.value for letter in letters] == bad
    assert {letter.key for letter in letters} == {b"key"}
    assert all(letter.header("h") == b"1" for letter in letters)
    assert (letters[-1].header("qf-reason"), letters[-1].header("qf-offset")) == (b"ValueError: planted", b"6")
    assert [letter.run_id for letter in effects.letters] == ["key", "r9", "key", "key", "r1", "r2", "r3"]


def test_an_engine_that_is_away_delays_an_event_and_drops_none(
    transport: Transport, topics: Topics, effects: Effects
) -> None:
    effects.failures["r1"] = [OrchestrationError("engine away")] * 2 + [ValueError("once")]
    send(transport, topics, event("r1"), event("r2"))
    with running(consumer(transport, topics, effects).run):
        wait_until(lambda: effects.seen() == ["r1", "r2"], 60)
    assert drain(transport, topics.dead_letter(topics.requests)) == []


def test_a_crash_between_effect_and_offset_commit_doubles_nothing(
    transport: Transport, topics: Topics, effects: Effects
) -> None:
    send(transport, topics, event("r1"), event("r2"))
    reader = consumer(transport, topics, effects)
    outcomes = [reader.handle(record) for record in drain(transport, topics.requests)]  # and no offset is committed
    assert outcomes == ["handled", "handled"]
    with running(reader.run):
        send(transport, topics, event("r3"))
        wait_until(lambda: "r3" in effects.seen(), 60)
    assert effects.seen() == ["r1", "r2", "r3"]


def test_a_consumer_waits_for_a_broker_that_is_not_there_yet(topic_prefix: str, effects: Effects) -> None:
    transport, topics = MemoryTransport(), Topics(topic_prefix)
    transport.broker.available = False
    with running(consumer(transport, topics, effects).run), running(OutboxRelay(effects.log, transport, topics).run):
        ask(effects.log, "r1")
        transport.broker.available = True
        topics.ensure_all(transport.admin())
        wait_until(lambda: effects.seen() == ["r1"], 60)
        transport.broker.available = False
        ask(effects.log, "r2")
        transport.broker.available = True
        wait_until(lambda: effects.seen() == ["r1", "r2"], 60)


@pytest.mark.parametrize("client", list(TRANSPORTS))
def test_the_real_clients_wait_for_a_broker_that_is_not_there(
    client: str, topic_prefix: str, effects: Effects, unused_port: int
) -> None:
    topics = Topics(topic_prefix)
    absent = TRANSPORTS[client](f"127.0.0.1:{unused_port}")
    admin = absent.admin()
    with pytest.raises(TransportError, match=str(unused_port)):
        admin.ping(1.0)
    admin.close()
    with running(consumer(absent, topics, effects).run):
        assert effects.seen() == []


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
