"""An engine's states as events; the same state seen twice is one event.

Listener and reconciliation both report, each may report twice, and either may be late. The
event ids follow from what was seen, so the log keeps one of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from quantflow.events.envelope import caused_by, derived_id
from quantflow.events.records import Draft
from quantflow.events.types import Origin, RunState, RunStateObserved, TaskStateObserved
from quantflow.telemetry import correlation

if TYPE_CHECKING:
    from quantflow.events.log import EventLog

__all__ = ["about_run", "request_id", "run_seen", "task_seen"]


def request_id(run_id: str) -> str:
    """Return the id of the event that asked for a run; it can be asked for once."""
    return derived_id(run_id, "requested")


@contextmanager
def about_run(event_log: EventLog, run_id: str) -> Iterator[None]:
    """What is written inside carries the correlation id and the trace of the run's request.

    Without a request, as in a run that Airflow has just started by itself, the run id is the
    correlation id.
    """
    request = event_log.get(request_id(run_id))
    with correlation(run_id) if request is None else caused_by(request.envelope):
        yield


def run_seen(run_id: str, state: RunState, *, at: datetime, origin: Origin, detail: str | None = None) -> Draft:
    """Return the event that Airflow's run was seen in this state."""
    event = RunStateObserved(run_id=run_id, engine="airflow", state=state, observed_at=at, origin=origin, detail=detail)
    return Draft(event, event_id=derived_id(run_id, "airflow", state))


def task_seen(
    run_id: str,
    task_id: str,
    state: str,
    try_number: int,
    *,
    at: datetime,
    origin: Origin,
    tasks_total: int | None = None,
) -> Draft:
    """Return the event that a task was seen in this state, in Airflow's own word for it."""
    event = TaskStateObserved(
        run_id=run_id,
        task_id=task_id,
        state=state,
        try_number=max(try_number, 0),
        tasks_total=tasks_total,
        observed_at=at,
        origin=origin,
    )
    return Draft(event, event_id=derived_id(run_id, task_id, str(try_number), state))
