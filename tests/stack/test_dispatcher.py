"""The dispatcher on a real broker and database; Airflow is a scripted stand-in at its client's border."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quantflow.errors import EngineUnavailableError, OrchestrationError
from quantflow.events.envelope import derived_id
from quantflow.events.log import Draft, EventLog
from quantflow.events.outbox import OutboxRelay
from quantflow.events.queue import WorkQueue
from quantflow.events.runs import get_run
from quantflow.events.topics import Topics
from quantflow.events.transport import LibrdkafkaTransport, Message, Transport, current_slices, read_slice
from quantflow.events.types import RunRequested, RunStateObserved
from quantflow.orchestration.airflow_client import AirflowRun, AirflowTask
from quantflow.orchestration.creation import AIRFLOW_WORK, RunCreator
from quantflow.orchestration.dispatcher import requests_consumer
from quantflow.orchestration.names import requested_by_airflow
from quantflow.orchestration.reconcile import Reconciler
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack


class ScriptedAirflow:
    """Answers ``trigger`` with what is scripted, then with success; keeps what was asked."""

    def __init__(self, *script: Exception | bool) -> None:
        self.script = list(script)
        self.triggered: list[tuple[str, str, dict[str, Any]]] = []
        self.runs: dict[str, AirflowRun] = {}
        self.asked: list[str] = []

    def trigger(self, dag_id: str, dag_run_id: str, conf: dict[str, Any]) -> bool:
        self.triggered.append((dag_id, dag_run_id, conf))
        answer = self.script.pop(0) if self.script else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, dag_id: str, dag_run_id: str) -> AirflowRun | None:
        self.asked.append(dag_run_id)
        return self.runs.get(dag_run_id)

    def tasks(self, dag_id: str, dag_run_id: str) -> tuple[AirflowTask, ...]:
        return (AirflowTask("take_slice", "success", 1, None, None), AirflowTask("run_notebook", "none", 0, None, None))

    def run_address(self, dag_id: str, dag_run_id: str) -> str:
        return "http://airflow/run"


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    with EventLog(database_url) as opened:
        opened.migrate()
        yield opened


@pytest.fixture
def transport(kafka_bootstrap: str) -> Transport:
    return LibrdkafkaTransport(kafka_bootstrap)


@pytest.fixture
def topics(transport: Transport, topic_prefix: str) -> Iterator[Topics]:
    topics = Topics(topic_prefix, max_event_bytes=50_000)
    admin = transport.admin()
    topics.ensure_all(admin)
    yield topics
    admin.delete_topics([spec.name for spec in topics.specs()])
    admin.close()


@pytest.fixture
def consuming(log: EventLog, transport: Transport, topics: Topics) -> Iterator[None]:
    """The dispatcher's relay and consumer, running."""
    stop = threading.Event()
    bodies = [OutboxRelay(log, transport, topics).run, requests_consumer(log, transport, topics).run]
    threads = [threading.Thread(target=body, args=(stop,)) for body in bodies]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def ask(log: EventLog, topics: Topics, run_id: str = "r1", **changes: Any) -> None:
    values = {
        "workflow_id": "m",
        "workflow_type": "airflow",
        "as_of": datetime.now(UTC),
        "requested_by": "t",
        **changes,
    }
    request = RunRequested(run_id=run_id, **values)
    draft = Draft(request, event_id=derived_id(run_id, "requested"), topic=topics.requests, key=run_id)
    log.append(f"run-{run_id}", [draft], expected_version=0)


def queued(log: EventLog) -> int:
    return WorkQueue(log).counts(AIRFLOW_WORK).get("ready", 0)


def drain(creator: RunCreator) -> None:
    while creator.once():
        pass


def test_a_request_becomes_one_airflow_run_of_the_same_id(log: EventLog, topics: Topics, consuming: None) -> None:
    ask(log, topics)
    wait_until(lambda: queued(log) == 1, 60, "the request in the work queue")
    airflow = ScriptedAirflow()
    creator = RunCreator(log, airflow)
    drain(creator)
    assert airflow.triggered == [("quantflow__m", "r1", {"run_id": "r1"})]
    assert get_run(log, "r1").state == "queued"
    assert creator.once() is False


def test_a_graphs_request_is_left_to_the_worker(log: EventLog, topics: Topics, consuming: None) -> None:
    ask(log, topics, "graph", workflow_type="langgraph")
    ask(log, topics, "dag")
    wait_until(lambda: queued(log) == 1, 60, "the request in the work queue")
    assert get_run(log, "graph").state == "accepted"


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xfe not json",
        b'{"specversion": "1.0"}',
        b'{"padding": "' + b"x" * 60_000 + b'"}',
    ],
    ids=["malformed", "incomplete", "oversized"],
)
def test_what_is_no_request_is_kept_and_the_partition_moves_on(
    log: EventLog, transport: Transport, topics: Topics, consuming: None, value: bytes
) -> None:
    ask(log, topics, "before")
    wait_until(lambda: queued(log) == 1, 60, "the first request")
    send(transport, topics.requests, b"before", value)
    ask(log, topics, "after")
    wait_until(lambda: queued(log) == 2, 60, "the request behind it")
    letters = list(read_slice(transport, current_slices(transport, [topics.dead_letter(topics.requests)])))
    assert [letter.value for letter in letters] == [value]
    assert letters[0].header("qf-reason")


def test_a_request_of_unknown_type_ends_its_run_with_the_reason(
    log: EventLog, transport: Transport, topics: Topics, consuming: None
) -> None:
    ask(log, Topics("elsewhere."), "odd")
    body = (
        b'{"specversion":"1.0","id":"e1","type":"quantflow.run.requested","source":"t","subject":"run-odd",'
        b'"time":"2026-01-01T00:00:00Z","dataversion":1,"data":{"run_id":"odd","workflow_id":"m",'
        b'"workflow_type":"crystal_ball","as_of":"2026-01-01T00:00:00Z","requested_by":"t"}}'
    )
    send(transport, topics.requests, b"odd", body)
    view = wait_until(lambda: found if (found := get_run(log, "odd")).state == "failed" else None, 60, "the run's end")
    assert view.error is not None
    assert view.error.kind == "DeadLetter"
    assert "workflow_type" in view.error.message


def send(transport: Transport, topic: str, key: bytes, value: bytes) -> None:
    producer = transport.producer()
    producer.send(Message(topic, value, key))
    producer.flush()
    producer.close()


@pytest.fixture
def waiting(log: EventLog) -> str:
    """One run in the work queue."""
    request = RunRequested(
        run_id="r1", workflow_id="m", workflow_type="airflow", as_of=datetime.now(UTC), requested_by="t"
    )
    log.append("run-r1", [Draft(request, event_id=derived_id("r1", "requested"))])
    return enqueue(log, "r1")


def enqueue(log: EventLog, run_id: str, *, priority: int = 5, age: timedelta = timedelta(0)) -> str:
    payload = {"dag_id": "quantflow__m", "accepted_at": (datetime.now(UTC) - age).isoformat(), "correlation_id": "c-1"}
    with log.transaction() as connection:
        WorkQueue(log).enqueue(connection, run_id, AIRFLOW_WORK, priority, payload)
    return run_id


def test_an_airflow_that_is_away_is_asked_again_until_it_is_there(log: EventLog, waiting: str) -> None:
    airflow = ScriptedAirflow(EngineUnavailableError("starting"), EngineUnavailableError("no such DAG yet"), True)
    creator = RunCreator(log, airflow)
    wait_until(lambda: creator.once() and get_run(log, waiting).state == "queued", 30, "the run to be created")
    assert len(airflow.triggered) == 3
    assert get_run(log, waiting).error is None


def test_a_run_that_airflow_has_already_is_fine(log: EventLog, waiting: str) -> None:
    drain(RunCreator(log, ScriptedAirflow(False)))
    assert get_run(log, waiting).state == "queued"


def test_a_refusal_for_good_ends_the_run_with_airflows_words(log: EventLog, waiting: str) -> None:
    drain(RunCreator(log, ScriptedAirflow(OrchestrationError("422 no such param"))))
    view = get_run(log, waiting)
    assert view.state == "failed"
    assert view.error is not None
    assert "no such param" in view.error.message


def test_patience_ends(log: EventLog, waiting: str) -> None:
    airflow = ScriptedAirflow(EngineUnavailableError("still away"))
    drain(RunCreator(log, airflow, give_up_after=timedelta(0)))
    view = get_run(log, waiting)
    assert view.state == "failed"
    assert view.error is not None
    assert "still away" in view.error.message
    assert len(airflow.triggered) == 1


def test_a_dispatcher_that_died_is_followed_and_the_run_is_created_once_more(log: EventLog, waiting: str) -> None:
    """The second try gets 409 from Airflow; the log has one observation."""
    dead = WorkQueue(log).claim(AIRFLOW_WORK, "dead", 0.2)
    assert dead is not None
    creator = RunCreator(log, ScriptedAirflow(False))
    wait_until(creator.once, 30, "the lease to run out")
    assert get_run(log, waiting).state == "queued"
    with pytest.raises(Exception, match="lease"), log.transaction() as connection:
        WorkQueue(log).complete(connection, dead)


def test_the_most_urgent_run_goes_first(log: EventLog) -> None:
    for run_id, priority in (("low", 1), ("high", 9), ("middle", 5)):
        enqueue(log, run_id, priority=priority)
    airflow = ScriptedAirflow()
    drain(RunCreator(log, airflow))
    assert [run_id for _, run_id, _ in airflow.triggered] == ["high", "middle", "low"]


def test_reconciliation_asks_about_quiet_runs_by_airflows_own_ids(log: EventLog) -> None:
    scheduled = "scheduled__2026-01-01T00:00:00+00:00"
    for run_id, requested_by in (("r1", "api-key"), ("m.s", requested_by_airflow(scheduled))):
        request = RunRequested(
            run_id=run_id, workflow_id="m", workflow_type="airflow", as_of=datetime.now(UTC), requested_by=requested_by
        )
        running = RunStateObserved(
            run_id=run_id, engine="airflow", state="running", observed_at=datetime.now(UTC), origin="listener"
        )
        drafts = [Draft(request, event_id=derived_id(run_id, "requested")), Draft(running)]
        log.append(f"run-{run_id}", drafts)
    airflow = ScriptedAirflow()
    now = datetime.now(UTC)
    airflow.runs = {
        "r1": AirflowRun("quantflow__m", "r1", "succeeded", now, now, now),
        scheduled: AirflowRun("quantflow__m", scheduled, "running", now, now, None),
    }
    assert Reconciler(log, airflow, quiet_s=60.0).once() == 0
    assert airflow.asked == []
    reconciler = Reconciler(log, airflow, quiet_s=0.0)
    assert reconciler.once() == 3
    assert set(airflow.asked) == {"r1", scheduled}
    assert get_run(log, "r1").state == "succeeded"
    assert {stored.envelope.correlation_id for stored in log.read_stream("run-r1")[2:]} == {
        log.read_stream("run-r1")[0].envelope.correlation_id
    }
    assert reconciler.once() == 0
    assert get_run(log, "m.s").state == "running"


def test_only_dags_of_ours_are_in_the_folder_that_airflow_reads() -> None:
    folder = Path(__file__).parent.parent.parent / "dags"
    assert {path.name for path in folder.glob("*.py")} == {"quantflow_pipelines.py", "quantflow_bars.py"}
