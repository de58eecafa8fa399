"""Airflow's state changes, written into the event log as they happen.

Airflow calls the task hooks in the process that runs the task and the run hooks in the
scheduler. Neither may be slowed or broken by us: a hook only puts an observation into a
queue, one thread per process appends, what cannot be appended in time is dropped with a
warning, and the dispatcher's reconciliation catches up.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from quantflow.errors import QuantflowError
from quantflow.orchestration.names import pipeline_of, run_id_of, run_stream
from quantflow.orchestration.observations import about_run, run_seen, task_seen
from quantflow.telemetry import get_logger

if TYPE_CHECKING:
    from quantflow.events.records import Draft
    from quantflow.events.types import RunState

__all__ = ["Recorder"]

log = get_logger(__name__)

#: What a task's process may spend at its end on observations that are not written yet.
FLUSH_S = 2.0
_LARGEST_BACKLOG = 10_000


class Recorder:
    """Appends observations from a thread of its own, in order.

    Parameters
    ----------
    open_log
        Returns the event log; called in the thread, at the first observation.
    """

    def __init__(self, open_log: Any = None) -> None:
        self._open_log = open_log or _open_log
        self._backlog: queue.Queue[tuple[str, Draft]] = queue.Queue(_LARGEST_BACKLOG)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, run_id: str, draft: Draft) -> None:
        """Have the observation appended soon; never waits, never raises."""
        try:
            self._backlog.put_nowait((run_id, draft))
        except queue.Full:
            log.warning("too many observations wait; dropped one, reconciliation will see it", run_id=run_id)
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="quantflow-listener", daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything was tried, for at most so long; return whether it was."""
        deadline = time.monotonic() + timeout_s
        with self._backlog.all_tasks_done:
            while self._backlog.unfinished_tasks:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._backlog.all_tasks_done.wait(remaining)
        return True

    def _write(self) -> None:
        event_log = self._open_log()
        while True:
            run_id, draft = self._backlog.get()
            try:
                with about_run(event_log, run_id):
                    event_log.append(run_stream(run_id), [draft])
            except QuantflowError as exc:
                log.warning("observation not written; reconciliation will", run_id=run_id, error=str(exc))
            except Exception as exc:  # noqa: BLE001 - nothing of ours may end Airflow's process
                log.warning("observation not written", run_id=run_id, error=f"{type(exc).__name__}: {exc}")
            finally:
                self._backlog.task_done()


def _open_log() -> Any:
    from quantflow.events.log import EventLog
    from quantflow.settings import Settings

    settings = Settings.load()
    return EventLog(
        settings.database,
        source="quantflow.airflow",
        max_event_bytes=settings.max_event_bytes,
        timeout_s=3.0,
        pool_size=1,
    )


_recorders: dict[int, Recorder] = {}


def _recorder() -> Recorder:
    """Return this process's recorder: a fork inherits the object but not its thread."""
    pid = os.getpid()
    if pid not in _recorders:
        _recorders.clear()
        _recorders[pid] = Recorder()
    return _recorders[pid]


def _task(instance: Any, state: str) -> None:
    try:
        if pipeline_of(instance.dag_id) is None:
            return
        run_id = run_id_of(instance.dag_id, instance.run_id)
        total = _task_count(instance)
        draft = task_seen(
            run_id,
            instance.task_id,
            state,
            instance.try_number or 0,
            at=datetime.now(UTC),
            origin="listener",
            tasks_total=total,
        )
        _recorder().put(run_id, draft)
    except Exception as exc:  # noqa: BLE001 - see the module's docstring
        log.warning("task state not observed", error=f"{type(exc).__name__}: {exc}")


def _task_count(instance: Any) -> int | None:
    dag = getattr(getattr(instance, "task", None), "dag", None)
    return len(dag.task_ids) if dag is not None else None


def _run(dag_run: Any, state: RunState, message: str) -> None:
    try:
        if pipeline_of(dag_run.dag_id) is None:
            return
        run_id = run_id_of(dag_run.dag_id, dag_run.run_id)
        detail = message[:500] if state == "failed" and message else None
        _recorder().put(run_id, run_seen(run_id, state, at=datetime.now(UTC), origin="listener", detail=detail))
    except Exception as exc:  # noqa: BLE001 - see the module's docstring
        log.warning("run state not observed", error=f"{type(exc).__name__}: {exc}")


@hookimpl
def on_task_instance_running(task_instance: Any) -> None:
    """Called by the task's own process before the task runs, after a deferral as well."""
    _task(task_instance, "running")


@hookimpl
def on_task_instance_success(task_instance: Any) -> None:
    """Called by the task's own process after the task."""
    _task(task_instance, "success")


@hookimpl
def on_task_instance_failed(task_instance: Any, error: Any) -> None:
    """Called by the task's own process, or by the scheduler where that process is gone."""
    state = getattr(task_instance, "state", None)
    retries = getattr(state, "value", state) == "up_for_retry"
    _task(task_instance, "up_for_retry" if retries else "failed")


@hookimpl
def on_task_instance_skipped(task_instance: Any) -> None:
    """Called by the task's own process when the task skipped itself."""
    _task(task_instance, "skipped")


@hookimpl
def on_dag_run_running(dag_run: Any, msg: str) -> None:
    """Called by the scheduler."""
    _run(dag_run, "running", msg)


@hookimpl
def on_dag_run_success(dag_run: Any, msg: str) -> None:
    """Called by the scheduler."""
    _run(dag_run, "succeeded", msg)


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """Called by the scheduler."""
    _run(dag_run, "failed", msg)


@hookimpl
def before_stopping(component: Any) -> None:
    """Called at the end of a task's process, and of Airflow's services."""
    recorder = _recorders.get(os.getpid())
    if recorder is not None and not recorder.flush(FLUSH_S):
        log.warning("observations not written before the end; reconciliation will", within_s=FLUSH_S)
