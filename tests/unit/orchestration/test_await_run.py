"""The deferrable operator: it defers at most once, and ends as the awaited run ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from quantflow.errors import UnknownRunError
from quantflow.events.types import ErrorDetail, TaskStateObserved
from quantflow.orchestration import operators, pipeline_tasks
from quantflow.orchestration.operators import AwaitRun
from quantflow.orchestration.pipeline_tasks import begin_waiting, collect_result
from quantflow.orchestration.tasks import RunFailedError

CONTEXT: Any = {"ti": SimpleNamespace(task_id="await_analysis")}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each step answers."""
    answers: dict[str, Any] = {"begin_waiting": None, "collect_result": {"action": "HOLD"}}
    monkeypatch.setattr(operators, "run_step", lambda name, _instance, **_arguments: answers[name])
    return answers


def test_it_defers_to_the_triggerer_until_a_deadline_that_is_absolute(steps: dict[str, Any]) -> None:
    operator = AwaitRun(task_id="await_analysis", run_id="r1.desk", timeout_s=120.0)
    before = datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(CONTEXT)
    path, arguments = deferred.value.trigger.serialize()
    assert path == "quantflow.orchestration.triggers.RunFinishedTrigger"
    assert arguments["run_id"] == "r1.desk"
    wait = datetime.fromisoformat(arguments["deadline"]) - before
    assert timedelta(seconds=119) < wait < timedelta(seconds=130)
    assert deferred.value.method_name == "collect"
    assert deferred.value.timeout == timedelta(seconds=180)


def test_a_run_that_has_ended_is_not_waited_for(steps: dict[str, Any]) -> None:
    steps["begin_waiting"] = {"run_id": "r1.desk", "state": "succeeded"}
    assert AwaitRun(task_id="await_analysis", run_id="r1.desk").execute(CONTEXT) == {"action": "HOLD"}


def test_what_an_earlier_task_returned_may_name_the_run() -> None:
    assert set(AwaitRun.template_fields) == {"run_id", "timeout_s"}


class MemoryLog:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def append(self, _stream: str, drafts: Any) -> None:
        self.events += [draft.event for draft in drafts]


@pytest.fixture
def run() -> Any:
    return SimpleNamespace(log=MemoryLog(), run_id="r1", task_id="await_analysis", try_number=1)


def seen(monkeypatch: pytest.MonkeyPatch, state: str, **facts: Any) -> None:
    view = SimpleNamespace(state=state, finished=state in ("succeeded", "failed", "cancelled"), result=None, error=None)
    vars(view).update(facts)
    monkeypatch.setattr(pipeline_tasks, "get_run", lambda _log, _run_id: view)


def test_a_deferral_is_observed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, "running")
    assert begin_waiting(run, "r1.desk") is None
    (event,) = run.log.events
    assert isinstance(event, TaskStateObserved)
    assert (event.task_id, event.state, event.origin) == ("await_analysis", "deferred", "task")


def test_an_end_is_told_instead(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, "failed")
    assert begin_waiting(run, "r1.desk") == {"run_id": "r1.desk", "state": "failed"}
    assert run.log.events == []


def test_a_success_gives_its_result(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, "succeeded", result={"action": "LONG"})
    assert collect_result(run, {"run_id": "r1.desk", "state": "succeeded"}, 9.0) == {"action": "LONG"}


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_failure_is_passed_on_with_its_reason(run: Any, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    seen(monkeypatch, state, error=ErrorDetail(kind="GraphError", message="no such node"))
    with pytest.raises(RunFailedError) as caught:
        collect_result(run, {"run_id": "r1.desk", "state": state}, 9.0)
    assert caught.value.detail.kind == "GraphError"
    assert caught.value.detail.message == f"run r1.desk {state}: no such node"


def test_a_timeout_says_how_long_and_what_was_seen_last(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailedError, match=r"has not ended after 9 s \(last seen: running\)"):
        collect_result(run, {"run_id": "r1.desk", "state": "timeout", "last_state": "running"}, 9.0)


def test_a_run_that_was_never_asked_for_is_an_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_log: Any, run_id: str) -> Any:
        raise UnknownRunError(run_id)

    monkeypatch.setattr(pipeline_tasks, "get_run", unknown)
    with pytest.raises(UnknownRunError):
        begin_waiting(run, "r1.desk")
