"""Runs, as the log tells them: every status is a fold of a run's events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, JsonValue

from quantflow.errors import EventError, UnknownRunError
from quantflow.events.records import StoredEvent
from quantflow.events.types import (
    ApprovalGiven,
    ApprovalRequested,
    ErrorDetail,
    NodeCompleted,
    RunErrorRecorded,
    RunRequested,
    RunResultRecorded,
    RunState,
    RunStateObserved,
    TaskStateObserved,
    WorkflowResult,
    WorkflowType,
)

if TYPE_CHECKING:
    from quantflow.events._database import Connection
    from quantflow.events.log import EventLog

__all__ = [
    "TERMINAL_STATES",
    "RunPage",
    "RunView",
    "TaskView",
    "advance",
    "fold",
    "get_run",
    "list_runs",
    "project",
    "run_stream",
]

TERMINAL_STATES: frozenset[RunState] = frozenset({"succeeded", "failed", "cancelled"})

_RANK: dict[RunState, int] = {"accepted": 0, "queued": 1, "running": 2, "awaiting_approval": 2}
_FINISHED_TASKS = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_STREAM_PREFIX = "run-"
_MOST_PER_PAGE = 500


class TaskView(BaseModel):
    """A task of an Airflow run, or a node of a graph run, as last seen."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    state: str
    try_number: int = 1
    observed_at: datetime


class RunView(BaseModel):
    """What is known about a run.

    ``progress`` is the finished share of its tasks, 0 to 1, and never falls. ``observed_at`` is
    when an engine was last looked at (None: not yet), ``updated_at`` when the log last grew.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    workflow_id: str
    workflow_type: WorkflowType
    state: RunState
    progress: float = 0.0
    priority: int = 5
    parent_run_id: str | None = None
    version_id: str | None = None
    as_of: datetime
    requested_by: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime
    observed_at: datetime | None = None
    detail: str | None = None
    result: dict[str, JsonValue] | None = None
    error: ErrorDetail | None = None
    tasks: tuple[TaskView, ...] = ()
    tasks_total: int | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more happens to this run."""
        return self.state in TERMINAL_STATES


class RunPage(BaseModel):
    """Runs, newest first; ``next_cursor`` leads to the older ones, None at the end."""

    model_config = ConfigDict(frozen=True)

    runs: tuple[RunView, ...]
    next_cursor: str | None = None


def run_stream(run_id: str) -> str:
    """Return the name of the stream that a run's events are in."""
    return f"{_STREAM_PREFIX}{run_id}"


def fold(events: Iterable[StoredEvent]) -> RunView:
    """Return the run that these events, oldest first, tell of.

    Raises
    ------
    UnknownRunError
        No request is among them.
    """
    view: RunView | None = None
    for stored in events:
        view = advance(view, stored)
    if view is None:
        raise UnknownRunError("no such run: its stream holds no request")
    return view


def advance(view: RunView | None, stored: StoredEvent) -> RunView | None:
    """Return the view after one more event; events before the request change nothing.

    States only go forward: late or repeated observations (listener and reconciliation both
    report) never take a run back, and the first final state stays.
    """
    event = stored.event
    if view is None:
        return _requested(event, stored) if isinstance(event, RunRequested) else None
    changes: dict[str, Any] = {"updated_at": stored.recorded_at}
    match event:
        case RunStateObserved():
            changes |= _observed(view, event.state, event.observed_at, event.detail)
        case TaskStateObserved():
            task = TaskView(
                task_id=event.task_id, state=event.state, try_number=event.try_number, observed_at=event.observed_at
            )
            changes |= _with_task(view, task, event.tasks_total)
        case NodeCompleted():
            task = TaskView(task_id=event.node, state="success", observed_at=stored.envelope.time)
            changes |= _with_task(view, task, event.nodes_total)
        case RunResultRecorded():
            changes["result"] = event.result
        case RunErrorRecorded():
            changes |= _with_error(view, event.error)
        case ApprovalRequested():
            changes |= _observed(view, "awaiting_approval", stored.envelope.time, f"approval by {event.role}")
        case ApprovalGiven() if view.state == "awaiting_approval":
            changes |= _observed(view, "running", stored.envelope.time, None)
        case WorkflowResult():
            changes |= _observed(view, event.state, stored.envelope.time, None)
            if not view.finished:
                changes["result"] = event.result
                changes |= _with_error(view, event.error)
        case _:
            pass
    return view.model_copy(update=changes)


def get_run(log: EventLog, run_id: str, *, connection: Connection | None = None) -> RunView:
    """Return a run's view.

    Raises
    ------
    UnknownRunError
        No such run.
    """
    with log.transaction() if connection is None else nullcontext(connection) as active:
        view = _load(active, run_id)
    if view is None:
        raise UnknownRunError(f"no run {run_id!r}; `quantflow runs` lists the known ones")
    return view


def list_runs(
    log: EventLog,
    *,
    workflow_id: str | None = None,
    workflow_type: WorkflowType | None = None,
    state: RunState | None = None,
    parent_run_id: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> RunPage:
    """Return one page of runs, newest first; pages stay stable while new runs arrive.

    Raises
    ------
    EventError
        ``cursor`` is not one that a page gave, or ``limit`` is not between 1 and 500.
    """
    if not 1 <= limit <= _MOST_PER_PAGE:
        raise EventError(f"limit is {limit}; 1 to {_MOST_PER_PAGE} are allowed")
    filters = {
        "workflow_id": workflow_id,
        "workflow_type": workflow_type,
        "state": state,
        "parent_run_id": parent_run_id,
        "before": _parse_cursor(cursor),
        "limit": limit + 1,
    }
    with log.transaction() as connection:
        rows = connection.execute(
            "SELECT position, view FROM run_view"
            " WHERE (%(workflow_id)s::text IS NULL OR workflow_id = %(workflow_id)s)"
            " AND (%(workflow_type)s::text IS NULL OR workflow_type = %(workflow_type)s)"
            " AND (%(state)s::text IS NULL OR state = %(state)s)"
            " AND (%(parent_run_id)s::text IS NULL OR parent_run_id = %(parent_run_id)s)"
            " AND (%(before)s::bigint IS NULL OR position < %(before)s)"
            " ORDER BY position DESC LIMIT %(limit)s",
            filters,
        ).fetchall()
    views = tuple(RunView.model_validate(row[1]) for row in rows[:limit])
    return RunPage(runs=views, next_cursor=str(rows[limit - 1][0]) if len(rows) > limit else None)


def project(connection: Connection, appended: Sequence[StoredEvent]) -> None:
    """Bring the table of views up to date; part of the append's transaction, under its lock."""
    for stream in dict.fromkeys(stored.stream for stored in appended if stored.stream.startswith(_STREAM_PREFIX)):
        events = [stored for stored in appended if stored.stream == stream]
        before = None if events[0].version == 1 else _load(connection, stream.removeprefix(_STREAM_PREFIX))
        view = before
        for stored in events:
            view = advance(view, stored)
        if view is not None:
            _save(connection, view, events[0].position)


def _requested(event: RunRequested, stored: StoredEvent) -> RunView:
    return RunView(
        run_id=event.run_id,
        workflow_id=event.workflow_id,
        workflow_type=event.workflow_type,
        state="accepted",
        priority=event.priority,
        parent_run_id=event.parent_run_id,
        version_id=event.version_id,
        as_of=event.as_of,
        requested_by=event.requested_by,
        created_at=stored.recorded_at,
        updated_at=stored.recorded_at,
    )


def _observed(view: RunView, state: RunState, at: datetime, detail: str | None) -> dict[str, Any]:
    if view.finished:
        return {}
    changes: dict[str, Any] = {"observed_at": max(at, view.observed_at or at)}
    late = view.observed_at is not None and at < view.observed_at
    if state in TERMINAL_STATES:
        changes |= {"state": state, "finished_at": at, "detail": detail}
        if state == "succeeded":
            changes["progress"] = 1.0
    elif _RANK[state] > _RANK[view.state] or (_RANK[state] == _RANK[view.state] and not late):
        changes |= {"state": state, "detail": detail}
    if state not in ("accepted", "queued", "cancelled") and view.started_at is None:
        changes["started_at"] = at
    return changes


def _with_task(view: RunView, task: TaskView, total: int | None) -> dict[str, Any]:
    tasks = {known.task_id: known for known in view.tasks}
    known = tasks.get(task.task_id)
    if known is None or (task.try_number, task.observed_at) >= (known.try_number, known.observed_at):
        tasks[task.task_id] = task
    count = max(total or 0, view.tasks_total or 0) or None
    finished = sum(1 for known in tasks.values() if known.state in _FINISHED_TASKS)
    share = min(1.0, finished / count) if count else 0.0
    changes: dict[str, Any] = {
        "tasks": tuple(tasks.values()),
        "tasks_total": count,
        "progress": max(view.progress, share),
    }
    return changes | (
        {} if view.finished else {"observed_at": max(task.observed_at, view.observed_at or task.observed_at)}
    )


def _with_error(view: RunView, error: ErrorDetail | None) -> dict[str, Any]:
    # The report that names a cell is worth more than the engine's general one.
    if error is None or (view.error is not None and view.error.cell is not None and error.cell is None):
        return {}
    return {"error": error}


def _load(connection: Connection, run_id: str) -> RunView | None:
    row = connection.execute("SELECT view FROM run_view WHERE run_id = %s", (run_id,)).fetchone()
    return None if row is None else RunView.model_validate(row[0])


def _save(connection: Connection, view: RunView, position: int) -> None:
    connection.execute(
        "INSERT INTO run_view (run_id, position, workflow_id, workflow_type, state, parent_run_id, updated_at, view)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (run_id) DO UPDATE"
        " SET state = excluded.state, updated_at = excluded.updated_at, view = excluded.view",
        (
            view.run_id,
            position,
            view.workflow_id,
            view.workflow_type,
            view.state,
            view.parent_run_id,
            view.updated_at,
            view.model_dump_json(),
        ),
    )


def _parse_cursor(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise EventError(f"cursor is {cursor!r}; pass the next_cursor of the page before")
    return int(cursor)
