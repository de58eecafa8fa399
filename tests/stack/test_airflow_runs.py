"""Real scheduler runs: what Airflow starts by itself, and the operational DAG."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from quantflow.data import BarStore
from quantflow.events.types import RunRequested, RunStateObserved, TaskStateObserved
from quantflow.orchestration.airflow_client import AirflowClient, AirflowRun
from quantflow.orchestration.names import run_id_of
from quantflow.testing.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Production

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def airflow(production: Production) -> Iterator[AirflowClient]:
    with AirflowClient(production.stack.settings) as client:
        yield client


def ended(airflow: AirflowClient, dag_id: str, dag_run_id: str, timeout_s: float = 240.0) -> AirflowRun:
    def final() -> AirflowRun | None:
        run = airflow.run(dag_id, dag_run_id)
        return run if run is not None and run.state in ("succeeded", "failed") else None

    return wait_until(final, timeout_s, lambda: f"{dag_id} {dag_run_id}: {airflow.tasks(dag_id, dag_run_id)}")


@pytest.fixture(scope="module")
def clicked(production: Production, airflow: AirflowClient) -> str:
    """A run as Airflow's web UI and its schedule start one: Airflow's own id, no request of ours."""
    dag_run_id = f"manual__{datetime.now(UTC).isoformat()}"
    assert airflow.trigger("quantflow__momentum", dag_run_id, {}) is True
    assert airflow.trigger("quantflow__momentum", dag_run_id, {}) is False
    assert ended(airflow, "quantflow__momentum", dag_run_id).state == "succeeded"
    return dag_run_id


def test_a_run_that_airflow_starts_fixes_its_own_version_and_offsets(production: Production, clicked: str) -> None:
    run_id = run_id_of("quantflow__momentum", clicked)
    status = production.finished(run_id, timeout_s=60)
    assert status["status"] == "succeeded"
    assert status["progress"] == 1.0
    assert len(production.decisions(run_id)) == 1
    requests = [entry.event for entry in production.events(run_id) if isinstance(entry.event, RunRequested)]
    assert len(requests) == 1
    assert requests[0].requested_by == f"airflow:{clicked}"
    assert sum(piece.end - piece.start for piece in requests[0].inputs) > 0
    assert requests[0].version_id == status["version_id"]


def test_it_is_created_in_airflow_only_once(production: Production, airflow: AirflowClient, clicked: str) -> None:
    """Its request is not published: the dispatcher must not start a second run for it."""
    assert airflow.run("quantflow__momentum", run_id_of("quantflow__momentum", clicked)) is None


def test_the_listener_reports_run_and_tasks_as_they_happen(production: Production, clicked: str) -> None:
    events = [entry.event for entry in production.events(run_id_of("quantflow__momentum", clicked))]
    runs = {(event.state, event.origin) for event in events if isinstance(event, RunStateObserved)}
    tasks = {
        (event.task_id, event.state)
        for event in events
        if isinstance(event, TaskStateObserved)
        if event.origin == "listener"
    }
    assert ("succeeded", "listener") in runs
    assert {("take_slice", "running"), ("take_slice", "success"), ("publish_report", "success")} <= tasks


def test_every_event_of_a_run_carries_its_correlation_id(production: Production, clicked: str) -> None:
    run_id = run_id_of("quantflow__momentum", clicked)
    stored = [*production.events(run_id), *production.events(f"{run_id}.desk")]
    assert {entry.envelope.correlation_id for entry in stored} == {run_id}


def test_the_task_that_waits_is_deferred_and_holds_no_slot(production: Production, clicked: str) -> None:
    events = [entry.event for entry in production.events(run_id_of("quantflow__momentum", clicked))]
    states = [e.state for e in events if isinstance(e, TaskStateObserved) and e.task_id == "await_analysis"]
    assert "deferred" in states
    assert states[-1] == "success"


def test_airflow_shows_no_import_error(airflow: AirflowClient) -> None:
    answer = airflow._call("GET", "/api/v2/importErrors")
    assert answer.json()["total_entries"] == 0, json.dumps(answer.json(), indent=1)


def test_the_bars_dag_extracts_validates_and_loads(production: Production, airflow: AirflowClient) -> None:
    dag_run_id = f"test-{uuid.uuid4()}"
    assert airflow.trigger("quantflow_bars", dag_run_id, {"source": "index"})
    run = ended(airflow, "quantflow_bars", dag_run_id)
    assert run.state == "succeeded", airflow.tasks("quantflow_bars", dag_run_id)
    assert [task.state for task in airflow.tasks("quantflow_bars", dag_run_id)] == ["success"] * 3
    stored = BarStore(production.stack.home / "bars" / "index").read(as_of=datetime.now(UTC))
    assert stored.height > 1000
    assert not production.log.read_stream(f"run-{dag_run_id}")
