"""A run's status is a fold of its events that only goes forward."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.errors import UnknownRunError
from quantflow.events.envelope import wrap
from quantflow.events.records import StoredEvent
from quantflow.events.runs import RunView, fold
from quantflow.events.types import (
    ApprovalRequested,
    ErrorDetail,
    Event,
    NodeCompleted,
    RunErrorRecorded,
    RunRequested,
    RunResultRecorded,
    RunStateObserved,
    TaskStateObserved,
    WorkflowResult,
)

START = datetime(2026, 1, 5, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def view_of(*events: Event) -> RunView:
    stored = [
        StoredEvent(number, "run-r1", number, wrap(event, subject="run-r1", time=at(number)), at(number), "0" * 64)
        for number, event in enumerate((requested(), *events), start=1)
    ]
    return fold(stored)


def requested(**changes: Any) -> RunRequested:
    values: dict[str, Any] = {"run_id": "r1", "workflow_id": "momentum", "workflow_type": "airflow"} | changes
    return RunRequested(as_of=START, requested_by="test", **values)


def state(name: Any, seconds: float, **changes: Any) -> RunStateObserved:
    values: dict[str, Any] = {"engine": "airflow", "origin": "listener"} | changes
    return RunStateObserved(run_id="r1", state=name, observed_at=at(seconds), **values)


def task(name: str, seen: str, seconds: float, *, total: int | None = 4, try_number: int = 1) -> TaskStateObserved:
    return TaskStateObserved(
        run_id="r1", task_id=name, state=seen, try_number=try_number, tasks_total=total, observed_at=at(seconds),
        origin="listener",
    )  # fmt: skip


def error(message: str, cell: int | None = None) -> RunErrorRecorded:
    return RunErrorRecorded(run_id="r1", error=ErrorDetail(kind="X", message=message, cell=cell))


def test_a_request_alone_is_accepted_and_not_yet_observed() -> None:
    view = view_of()
    assert (view.state, view.progress, view.observed_at, view.created_at) == ("accepted", 0.0, None, at(1))


def test_a_run_goes_through_its_states() -> None:
    view = view_of(state("queued", 10), state("running", 20), state("succeeded", 30))
    assert (view.state, view.started_at, view.finished_at, view.progress) == ("succeeded", at(20), at(30), 1.0)
    assert view.finished


def test_a_late_observation_takes_no_run_back() -> None:
    assert view_of(state("running", 20), state("queued", 10)).state == "running"
    assert view_of(state("succeeded", 30), state("running", 40)).state == "succeeded"
    assert view_of(state("failed", 30), state("succeeded", 40)).state == "failed"


def test_waiting_for_approval_and_running_alternate_by_time() -> None:
    asked = ApprovalRequested(run_id="r1", proposal_hash="0" * 64, verdict_hash="1" * 64, role="pm", expires_at=at(99))
    waiting = view_of(state("running", 0), asked)
    assert (waiting.state, waiting.detail) == ("awaiting_approval", "approval by pm")
    assert view_of(state("running", 0), asked, state("running", 50)).state == "running"
    assert view_of(state("running", 0), asked, state("running", 1)).state == "awaiting_approval"


def test_progress_is_the_finished_share_of_the_tasks() -> None:
    view = view_of(task("a", "success", 1), task("b", "running", 2), task("c", "success", 3))
    assert view.progress == pytest.approx(2 / 4)
    assert [(known.task_id, known.state) for known in view.tasks] == [
        ("a", "success"),
        ("b", "running"),
        ("c", "success"),
    ]


def test_an_older_try_of_a_task_does_not_replace_a_newer_one() -> None:
    view = view_of(task("a", "running", 20, try_number=2), task("a", "failed", 30, try_number=1))
    assert [(known.state, known.try_number) for known in view.tasks] == [("running", 2)]


def test_nodes_of_a_graph_count_as_its_tasks() -> None:
    nodes = [NodeCompleted(run_id="r1", node=f"n{number}", index=number, nodes_total=5) for number in range(2)]
    view = view_of(*nodes, nodes[1])
    assert view.progress == pytest.approx(2 / 5)


def test_the_error_that_names_a_cell_is_kept() -> None:
    view = view_of(error("cell 3 raised", cell=3), error("task failed"))
    assert view.error is not None
    assert (view.error.cell, view.error.message) == (3, "cell 3 raised")
    assert view_of(error("first"), error("second")).error == ErrorDetail(kind="X", message="second")


def test_results_are_kept() -> None:
    view = view_of(RunResultRecorded(run_id="r1", result={"report": "x.html"}), state("succeeded", 9))
    assert view.result == {"report": "x.html"}
    done = view_of(WorkflowResult(run_id="r1", state="succeeded", result={"action": "HOLD"}))
    assert (done.state, done.result, done.progress) == ("succeeded", {"action": "HOLD"}, 1.0)
    failed = view_of(WorkflowResult(run_id="r1", state="failed", error=ErrorDetail(kind="X", message="boom")))
    assert failed.state == "failed"
    assert failed.error is not None


def test_events_without_a_request_are_no_run() -> None:
    with pytest.raises(UnknownRunError):
        fold([])


observations = st.lists(
    st.one_of(
        st.builds(state, st.sampled_from(["queued", "running", "succeeded", "failed", "cancelled"]), st.floats(0, 100)),
        st.builds(task, st.sampled_from("abcd"), st.sampled_from(["running", "success", "failed"]), st.floats(0, 100)),
    ),
    max_size=12,
)


@given(observations)
def test_progress_and_finality_never_go_back(events: list[Event]) -> None:
    views = [view_of(*events[:count]) for count in range(len(events) + 1)]
    for before, after in pairwise(views):
        assert after.progress >= before.progress
        assert not before.finished or after.state == before.state
        assert RunView.model_validate_json(after.model_dump_json()) == after


@given(observations)
def test_observing_the_same_again_changes_nothing(events: list[Event]) -> None:
    once, twice = view_of(*events), view_of(*events, *events)
    assert (once.state, once.finished_at) == (twice.state, twice.finished_at) or not once.finished
    assert twice.progress == once.progress
