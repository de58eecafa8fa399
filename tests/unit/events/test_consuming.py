"""Dead letters keep the original bytes; addresses of the log never show a password."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime

import pytest

from quantflow.errors import EventTooLargeError, LogUnavailableError
from quantflow.events._backoff import Backoff
from quantflow.events.consume import EventConsumer, dead_letter
from quantflow.events.log import EventLog
from quantflow.events.records import Draft
from quantflow.events.topics import Topics
from quantflow.events.transport import Message
from quantflow.events.types import RunRequested
from quantflow.testing.memory import MemoryTransport
from quantflow.testing.transport import drain, fill
from quantflow.testing.wait import wait_until

TOPICS = Topics(max_event_bytes=2_000)


def broker() -> MemoryTransport:
    transport = MemoryTransport()
    TOPICS.ensure_all(transport.admin())
    return transport


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_dead_letter_is_the_original_record_and_its_reason() -> None:
    transport = broker()
    fill(transport, Message(TOPICS.requests, b"\xff\x00junk", b"r1", (("trace", b"1"),)))
    [record] = drain(transport, TOPICS.requests)
    topic = dead_letter(transport.producer(), record, "not JSON", group="dispatcher")
    [letter] = drain(transport, topic)
    assert topic == TOPICS.dead_letter(TOPICS.requests)
    assert (letter.key, letter.value, letter.headers[0]) == (b"r1", b"\xff\x00junk", ("trace", b"1"))
    expected = {
        "qf-reason": b"not JSON",
        "qf-topic": b"workflow.requests",
        "qf-partition": str(record.partition).encode(),
        "qf-offset": b"0",
        "qf-timestamp": str(record.timestamp_ms).encode(),
        "qf-group": b"dispatcher",
    }
    assert {name: letter.header(name) for name in expected} == expected


def test_malformed_and_oversized_records_need_no_database_to_become_dead_letters() -> None:
    transport = broker()
    unreachable = EventLog("postgresql://nobody@127.0.0.1:1/none")
    fill(transport, *(Message(TOPICS.requests, value, b"r1") for value in (b"junk", b"x" * 3_000)))
    consumer = EventConsumer(
        transport, unreachable, TOPICS.requests, "g", lambda _connection, _envelope: None, max_event_bytes=2_000
    )
    stop = threading.Event()
    thread = threading.Thread(target=consumer.run, args=(stop,))
    thread.start()
    letters = wait_until(
        lambda: found if len(found := drain(transport, TOPICS.dead_letter(TOPICS.requests))) == 2 else None, 10
    )
    stop.set()
    thread.join()
    assert [letter.value for letter in letters] == [b"junk", b"x" * 3_000]
    assert letters[1].header("qf-reason") == b"3,000 bytes; 2,000 are allowed (QUANTFLOW_MAX_EVENT_BYTES)"


def test_a_log_that_is_away_names_its_address_without_the_password() -> None:
    log = EventLog(f"postgresql://quantflow:hunter2@127.0.0.1:{closed_port()}/events", timeout_s=0.5)
    with pytest.raises(LogUnavailableError) as caught:
        log.head()
    log.close()
    assert "postgresql://quantflow@127.0.0.1:" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(log)
    with pytest.raises(LogUnavailableError):
        log.connect()


def test_an_event_larger_than_its_topic_is_refused_before_the_database_is_asked() -> None:
    log = EventLog("postgresql://nobody@127.0.0.1:1/none", max_event_bytes=1_000)
    event = RunRequested(
        run_id="r1", workflow_id="w", workflow_type="airflow", as_of=datetime.now(UTC), requested_by="x" * 1_000
    )
    with pytest.raises(EventTooLargeError, match="1,000 are allowed"):
        log.append("run-r1", [Draft(event)])


def test_backoff_doubles_up_to_its_limit_and_starts_over() -> None:
    backoff = Backoff(1.0, 4.0)
    delays = [backoff.next() for _ in range(5)]
    for delay, most in zip(delays, (1, 2, 4, 4, 4), strict=True):
        assert most / 2 <= delay <= most
    backoff.reset()
    assert backoff.next() <= 1.0
