"""What the listener could not say: unfinished runs are looked up in Airflow itself.

The listener is quick but may be cut off: the database was away, a task's process was killed,
a state (deferred, removed) has no hook. So every run that is not finished and was not heard
of for some seconds is asked for over REST, and what the log lacks is appended.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from quantflow.events.envelope import derived_id
from quantflow.events.records import Draft
from quantflow.events.runs import RunView, list_runs
from quantflow.events.types import ErrorDetail, RunErrorRecorded, RunState
from quantflow.orchestration.airflow_client import AirflowRun, AirflowTask
from quantflow.orchestration.names import airflow_run_id, dag_id_of, run_stream
from quantflow.orchestration.observations import about_run, run_seen, task_seen
from quantflow.telemetry import get_logger

if TYPE_CHECKING:
    from quantflow.events.log import EventLog

__all__ = ["Reconciler", "missing_observations"]

log = get_logger(__name__)

#: A run in one of these states should be known to Airflow.
_OPEN: tuple[RunState, ...] = ("queued", "running", "awaiting_approval")
#: A run that Airflow does not know any more, so long after it was last seen, was deleted there.
_GONE_AFTER = timedelta(minutes=2)


class Looks(Protocol):
    """What is asked of Airflow here."""

    def run(self, dag_id: str, dag_run_id: str) -> AirflowRun | None:
        """Return a run."""
        ...

    def tasks(self, dag_id: str, dag_run_id: str) -> tuple[AirflowTask, ...]:
        """Return a run's tasks."""
        ...

    def run_address(self, dag_id: str, dag_run_id: str) -> str:
        """Return the address of a run's page."""
        ...


class Reconciler:
    """Compares unfinished runs with Airflow.

    Parameters
    ----------
    quiet_s
        A run that was heard of within so many seconds is left alone.
    most_runs
        Runs looked at in one round, the longest unheard of first.
    """

    def __init__(self, event_log: EventLog, airflow: Looks, *, quiet_s: float = 4.0, most_runs: int = 50) -> None:
        self._log = event_log
        self._airflow = airflow
        self._quiet = timedelta(seconds=quiet_s)
        self._most_runs = most_runs
        self._looked: dict[str, datetime] = {}

    def once(self) -> int:
        """Look at the runs that are due; return how many events were appended.

        Raises
        ------
        EngineUnavailableError
            Airflow does not answer; the next round tries again.
        """
        appended = 0
        due = self._due()
        for view in due:
            self._looked[view.run_id] = datetime.now(UTC)
            appended += self._reconcile(view)
        return appended

    def _due(self) -> list[RunView]:
        pages = [list_runs(self._log, workflow_type="airflow", state=state, limit=500) for state in _OPEN]
        views = [view for page in pages for view in page.runs]
        known = {view.run_id for view in views}
        self._looked = {run_id: at for run_id, at in self._looked.items() if run_id in known}
        before = datetime.now(UTC) - self._quiet
        quiet = sorted((self._heard(view), view.run_id, view) for view in views if self._heard(view) < before)
        return [view for _, _, view in quiet[: self._most_runs]]

    def _heard(self, view: RunView) -> datetime:
        return max(view.updated_at, self._looked.get(view.run_id, view.updated_at))

    def _reconcile(self, view: RunView) -> int:
        dag_id = dag_id_of(view.workflow_id)
        dag_run_id = airflow_run_id(view.run_id, view.requested_by)
        looked_at = datetime.now(UTC)
        run = self._airflow.run(dag_id, dag_run_id)
        if run is None:
            drafts = _gone(view, looked_at)
        else:
            tasks = self._airflow.tasks(dag_id, dag_run_id)
            address = self._airflow.run_address(dag_id, dag_run_id)
            drafts = missing_observations(view, run, tasks, at=looked_at, address=address)
        if drafts:
            with about_run(self._log, view.run_id):
                log.info("reconciled with airflow", run_id=view.run_id, events=len(drafts))
                self._log.append(run_stream(view.run_id), drafts)
        return len(drafts)


def missing_observations(
    view: RunView, run: AirflowRun, tasks: tuple[AirflowTask, ...], *, at: datetime, address: str
) -> list[Draft]:
    """Return the events that make the log say what Airflow says; none if it does already.

    Parameters
    ----------
    view
        The run as the log tells it.
    run, tasks
        The run as Airflow tells it.
    at
        When Airflow was asked.
    address
        Of the run's page, for the error of a failed run that left none.
    """
    known = {task.task_id: (task.state, task.try_number) for task in view.tasks}
    drafts = [
        task_seen(
            view.run_id,
            task.task_id,
            task.state,
            task.try_number,
            at=task.finished_at or at,
            origin="reconciliation",
            tasks_total=len(tasks),
        )
        for task in tasks
        if task.state != "none" and known.get(task.task_id) != (task.state, task.try_number)
    ]
    if run.state == "failed" and view.error is None:
        failed = ", ".join(task.task_id for task in tasks if task.state == "failed") or "none of its tasks"
        detail = ErrorDetail(
            kind="AirflowRunFailed", message=f"Airflow reports the run as failed; failed: {failed}. Its log: {address}"
        )
        event = RunErrorRecorded(run_id=view.run_id, error=detail)
        drafts.append(Draft(event, event_id=derived_id(view.run_id, "error", "reconciliation")))
    if run.state != view.state and not (run.state == "running" and view.state == "awaiting_approval"):
        drafts.append(run_seen(view.run_id, run.state, at=run.finished_at or at, origin="reconciliation"))
    return drafts


def _gone(view: RunView, looked_at: datetime) -> list[Draft]:
    if looked_at - view.updated_at < _GONE_AFTER:
        return []
    detail = ErrorDetail(
        kind="AirflowRunGone",
        message="Airflow no longer knows this run: it was deleted, or Airflow was reset",
    )
    return [
        Draft(
            RunErrorRecorded(run_id=view.run_id, error=detail),
            event_id=derived_id(view.run_id, "error", "reconciliation"),
        ),
        run_seen(view.run_id, "failed", at=looked_at, origin="reconciliation", detail=detail.message),
    ]
