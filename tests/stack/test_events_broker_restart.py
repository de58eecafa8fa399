"""Relay and consumers live through the death of their broker and lose nothing."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantflow.errors import TransportError
from quantflow.events._database import Connection
from quantflow.events.consume import EventConsumer
from quantflow.events.envelope import Envelope
from quantflow.events.log import EventLog
from quantflow.events.outbox import OutboxRelay
from quantflow.events.records import Draft
from quantflow.events.topics import Topics
from quantflow.events.transport import KafkaPythonTransport, LibrdkafkaTransport, Transport
from quantflow.events.types import RunResultRecorded
from quantflow.testing.stack import LocalStack
from quantflow.testing.wait import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.slow]

# kafka-python leaves the sockets of failed reconnections to the garbage collector.
ignore_its_sockets = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def sockets_collected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Now, while the warnings about them are ignored, not in the middle of another test."""
    # Captured log records would keep the connections that they tell of.
    caplog.set_level(logging.CRITICAL, logger="kafka")
    yield
    gc.collect()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[LocalStack]:
    stack = LocalStack(tmp_path)
    stack.up("--only", "kafka")
    yield stack
    stack.down()


def broker_pid(stack: LocalStack) -> int | None:
    services = json.loads(stack.cli("status", "--json", check=False).stdout)["services"]
    return next((service["pid"] for service in services if service["name"] == "kafka"), None)


def answers(transport: Transport) -> bool:
    admin = transport.admin()
    try:
        admin.ping(1.0)
    except TransportError:
        return False
    finally:
        admin.close()
    return True


@ignore_its_sockets
def test_events_asked_for_while_the_broker_is_dead_arrive_once(
    sockets_collected: None, own_broker: LocalStack, database_url: str
) -> None:
    bootstrap = own_broker.settings.kafka
    topics = Topics("restart.")
    transports: dict[str, Transport] = {
        "librdkafka": LibrdkafkaTransport(bootstrap),
        "kafka-python": KafkaPythonTransport(bootstrap),
    }
    relay_transport = transports["librdkafka"]
    topics.ensure_all(relay_transport.admin())
    stop = threading.Event()
    with EventLog(database_url, pool_size=12) as log:
        log.migrate()
        with log.transaction() as connection:
            connection.execute("CREATE TABLE effects (client text, number text)")
        threads = [threading.Thread(target=OutboxRelay(log, relay_transport, topics).run, args=(stop,))]
        for client, transport in transports.items():
            consumer = EventConsumer(
                transport, log, [topics.results], topics.group(client), effect_of(client), poll_s=0.2
            )
            threads.append(threading.Thread(target=consumer.run, args=(stop,)))
        for thread in threads:
            thread.start()
        try:
            ask(log, topics, range(10))
            wait_until(lambda: effects(log) == expected(transports, 10), 60, lambda: effects(log))
            pid = broker_pid(own_broker)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            ask(log, topics, range(10, 20))
            wait_until(lambda: broker_pid(own_broker) not in (None, pid) and answers(relay_transport), 120)
            ask(log, topics, range(20, 30))
            wait_until(lambda: effects(log) == expected(transports, 30), 120, lambda: effects(log))
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert effects(log) == expected(transports, 30)


def effect_of(client: str) -> Callable[[Connection, Envelope], None]:
    def handle(connection: Connection, envelope: Envelope) -> None:
        connection.execute("INSERT INTO effects VALUES (%s, %s)", (client, envelope.id))

    return handle


def ask(log: EventLog, topics: Topics, numbers: range) -> None:
    for number in numbers:
        event = RunResultRecorded(run_id="r1", result={"number": number})
        log.append("run-r1", [Draft(event, event_id=f"e{number:03}", topic=topics.results)])


def effects(log: EventLog) -> list[tuple[str, str]]:
    with log.transaction() as connection:
        return list(connection.execute("SELECT client, number FROM effects ORDER BY 1, 2"))  # type: ignore[arg-type]


def expected(clients: dict[str, Transport], count: int) -> list[tuple[str, str]]:
    return [(client, f"e{number:03}") for client in sorted(clients) for number in range(count)]
