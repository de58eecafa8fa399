"""Reconciliation: exactly what the log lacks is appended, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from quantflow.events.runs import RunView, TaskView
from quantflow.events.types import ErrorDetail, RunErrorRecorded, RunState, RunStateObserved, TaskStateObserved
from quantflow.orchestration.airflow_client import AirflowRun, AirflowTask
from quantflow.orchestration.observations import run_seen, task_seen
from quantflow.orchestration.reconcile import missing_observations

AT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
PAGE = "http://airflow/dags/d/runs/r1"


def view(state: RunState = "running", tasks: dict[str, str] | None = None, **changes: Any) -> RunView:
    known = tuple(TaskView(task_id=name, state=seen, observed_at=AT) for name, seen in (tasks or {}).items())
    values = {"as_of": AT, "requested_by": "api-key", "created_at": AT, "updated_at": AT, **changes}
    return RunView(run_id="r1", workflow_id="m", workflow_type="airflow", state=state, tasks=known, **values)


def airflow_run(state: RunState = "running", *, finished: datetime | None = None) -> AirflowRun:
    return AirflowRun("quantflow__m", "r1", state, AT, AT, finished)


def airflow_task(name: str, state: str, *, finished: datetime | None = None, try_number: int = 1) -> AirflowTask:
    return AirflowTask(name, state, try_number, AT, finished)


def events(known: RunView, run: AirflowRun, *tasks: AirflowTask) -> list[Any]:
    return [draft.event for draft in missing_observations(known, run, tasks, at=AT, address=PAGE)]


def test_a_log_that_knows_everything_gets_nothing() -> None:
    assert events(view(tasks={"a": "success"}), airflow_run(), airflow_task("a", "success")) == []


def test_a_missed_task_state_is_added_with_its_origin() -> None:
    (event,) = events(
        view(tasks={"a": "running"}), airflow_run(), airflow_task("a", "deferred"), airflow_task("b", "none")
    )
    assert isinstance(event, TaskStateObserved)
    assert (event.task_id, event.state, event.origin, event.tasks_total) == ("a", "deferred", "reconciliation", 2)


def test_a_finished_task_is_dated_by_its_end_and_an_open_one_by_the_look() -> None:
    end = AT - timedelta(seconds=30)
    done, open_ = events(
        view(), airflow_run(), airflow_task("a", "success", finished=end), airflow_task("b", "running")
    )
    assert done.observed_at == end
    assert open_.observed_at == AT


def test_a_new_try_is_a_new_observation() -> None:
    (event,) = events(view(tasks={"a": "running"}), airflow_run(), airflow_task("a", "running", try_number=2))
    assert event.try_number == 2


def test_a_missed_end_of_the_run_is_added() -> None:
    end = AT + timedelta(seconds=3)
    (event,) = events(view(), airflow_run("succeeded", finished=end))
    assert isinstance(event, RunStateObserved)
    assert (event.state, event.observed_at, event.origin) == ("succeeded", end, "reconciliation")


def test_a_failed_run_without_a_reason_gets_one_that_names_task_and_page() -> None:
    task, error, state = events(view(), airflow_run("failed"), airflow_task("a", "failed"))
    assert task.state == "failed"
    assert isinstance(error, RunErrorRecorded)
    assert "failed: a" in error.error.message
    assert PAGE in error.error.message
    assert state.state == "failed"


def test_a_reason_that_is_known_is_kept() -> None:
    known = view(tasks={"a": "failed"}, error=ErrorDetail(kind="NotebookFailedError", message="cell 3"))
    found = events(known, airflow_run("failed"), airflow_task("a", "failed"))
    assert [type(event) for event in found] == [RunStateObserved]


def test_a_run_that_waits_for_a_person_stays_so_while_airflow_says_running() -> None:
    assert events(view("awaiting_approval"), airflow_run("running")) == []
    assert len(events(view("awaiting_approval"), airflow_run("failed"))) == 2


def test_listener_and_reconciliation_give_the_same_event_the_same_id() -> None:
    first = task_seen("r1", "a", "success", 1, at=AT, origin="listener", tasks_total=5)
    second = task_seen("r1", "a", "success", 1, at=AT + timedelta(seconds=9), origin="reconciliation")
    assert first.event_id == second.event_id
    assert run_seen("r1", "failed", at=AT, origin="listener").event_id == (
        run_seen("r1", "failed", at=AT, origin="reconciliation").event_id
    )
    assert task_seen("r1", "a", "success", 2, at=AT, origin="listener").event_id != first.event_id
