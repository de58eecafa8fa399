"""How a task's failure is told: to Airflow, to its log, to the event log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from quantflow.errors import (
    ContractError,
    LogUnavailableError,
    NotebookFailedError,
    QuantflowError,
    TransportError,
)
from quantflow.events.types import ErrorDetail, RunErrorRecorded
from quantflow.orchestration import pipeline_tasks, tasks
from quantflow.orchestration.tasks import RunFailedError, run_task, storable


class MemoryLog:
    """Keeps what is appended."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.away = False

    def __enter__(self) -> MemoryLog:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def get(self, event_id: str) -> None:
        return None

    def append(self, stream: str, drafts: Any) -> None:
        if self.away:
            raise LogUnavailableError("away")
        assert stream == "run-r1"
        self.events += [draft.event for draft in drafts]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    made = MemoryLog()
    monkeypatch.setattr(tasks, "EventLog", SimpleNamespace(from_settings=lambda *_args, **_options: made))
    return made


def instance(*, try_number: int = 1, max_tries: int = 2) -> Any:
    return SimpleNamespace(
        dag_id="quantflow__m", run_id="r1", task_id="run_notebook", try_number=try_number, max_tries=max_tries
    )


def failing(monkeypatch: pytest.MonkeyPatch, exc: Exception) -> None:
    def step(_run: Any) -> None:
        raise exc

    monkeypatch.setattr(pipeline_tasks, "run_notebook", step)


def test_a_step_gets_its_run_and_its_result_comes_back(monkeypatch: pytest.MonkeyPatch, log: MemoryLog) -> None:
    def step(run: Any, taken: dict[str, Any]) -> dict[str, Any]:
        return {"run": (run.run_id, run.pipeline, run.task_id, run.last_try), **taken}

    monkeypatch.setattr(pipeline_tasks, "run_notebook", step)
    assert run_task("run_notebook", instance(try_number=3), {"taken": {"rows": 1}}) == {
        "run": ("r1", "m", "run_notebook", True),
        "rows": 1,
    }
    assert log.events == []


def test_a_raising_cell_fails_at_once_and_everybody_learns_which(
    monkeypatch: pytest.MonkeyPatch, log: MemoryLog
) -> None:
    failing(
        monkeypatch,
        NotebookFailedError(
            "cell 3 raised", cell=3, source="1 / 0", traceback="ZeroDivisionError", notebook="/n.ipynb"
        ),
    )
    with pytest.raises(AirflowFailException) as caught:
        run_task("run_notebook", instance(), {})
    for part in ("cell 3", "1 / 0", "ZeroDivisionError"):
        assert part in str(caught.value)
    (event,) = log.events
    assert isinstance(event, RunErrorRecorded)
    assert (event.error.cell, event.error.source, event.error.task_id) == (3, "1 / 0", "run_notebook")
    assert event.error.artifact == "/n.ipynb"


@pytest.mark.parametrize("exc", [TransportError("away"), LogUnavailableError("away")])
def test_what_may_pass_is_tried_again_and_told_at_the_end_only(
    monkeypatch: pytest.MonkeyPatch, log: MemoryLog, exc: QuantflowError
) -> None:
    failing(monkeypatch, exc)
    with pytest.raises(type(exc)):
        run_task("run_notebook", instance(try_number=1), {})
    assert log.events == []
    with pytest.raises(type(exc)):
        run_task("run_notebook", instance(try_number=3), {})
    assert log.events[0].error.message == "away"


def test_what_will_fail_again_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, log: MemoryLog) -> None:
    failing(monkeypatch, ContractError("m.toml", ["limits: missing"]))
    with pytest.raises(AirflowFailException, match="limits: missing"):
        run_task("run_notebook", instance(), {})
    assert log.events[0].error.kind == "ContractError"


def test_a_surprise_is_tried_again(monkeypatch: pytest.MonkeyPatch, log: MemoryLog) -> None:
    failing(monkeypatch, ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        run_task("run_notebook", instance(), {})
    assert log.events == []


def test_the_awaited_runs_error_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch, log: MemoryLog) -> None:
    failing(monkeypatch, RunFailedError(ErrorDetail(kind="GraphError", message="run r1.desk failed: no node")))
    with pytest.raises(AirflowFailException, match="GraphError: run r1"):
        run_task("run_notebook", instance(), {})
    assert log.events[0].error == ErrorDetail(
        kind="GraphError", message="run r1.desk failed: no node", task_id="run_notebook"
    )


def test_an_event_log_that_is_away_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch, log: MemoryLog) -> None:
    log.away = True
    failing(monkeypatch, ContractError("m.toml", ["limits: missing"]))
    with pytest.raises(AirflowFailException, match="limits: missing"):
        run_task("run_notebook", instance(), {})


def test_text_of_a_cell_is_made_storable() -> None:
    assert storable("a\x00b\ud800c") == "a�b?c"
    long = storable("x" * 50_000)
    assert len(long) < 21_000
    assert "left out" in long
