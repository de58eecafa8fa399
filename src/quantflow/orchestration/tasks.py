"""What an Airflow task of a promoted pipeline does, and how its failure is told.

Each task reads what it needs from the event log by run id, so nothing but small references
travels through XCom, and a task that runs a second time gives the same result.

A failure that will come again (a notebook cell raised, a contract is wrong) fails the task
at once. One that may pass (broker or database away) is tried again. Either way the last
word is in the event log as ``RunErrorRecorded`` and in the task's log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from quantflow.errors import (
    EngineUnavailableError,
    LogUnavailableError,
    NotebookFailedError,
    QuantflowError,
    TransportError,
)
from quantflow.events.envelope import derived_id
from quantflow.events.log import Draft, EventLog
from quantflow.events.types import ErrorDetail, RunErrorRecorded
from quantflow.orchestration.names import pipeline_of, run_id_of, run_stream
from quantflow.orchestration.observations import about_run
from quantflow.settings import Settings
from quantflow.telemetry import get_logger

if TYPE_CHECKING:
    from quantflow.events.topics import Topics
    from quantflow.events.transport import Transport

__all__ = ["TaskRun", "record_error", "run_task"]

log = get_logger(__name__)

#: What may have passed by the next try.
_PASSING = (TransportError, LogUnavailableError, EngineUnavailableError)


@dataclass(frozen=True)
class TaskRun:
    """One try of one task, and the parts that it works with."""

    settings: Settings
    log: EventLog
    run_id: str
    pipeline: str
    task_id: str
    airflow_run_id: str
    try_number: int
    last_try: bool

    @property
    def topics(self) -> Topics:
        """The names of all topics."""
        from quantflow.events.topics import Topics

        return Topics(self.settings.topic_prefix, max_event_bytes=self.settings.max_event_bytes)

    @property
    def transport(self) -> Transport:
        """The broker."""
        from quantflow.events.transport import LibrdkafkaTransport

        return LibrdkafkaTransport(self.settings.kafka)


def run_task(name: str, instance: Any, arguments: Mapping[str, Any]) -> Any:
    """Run one task of a pipeline for Airflow.

    Parameters
    ----------
    name
        A function of :mod:`quantflow.orchestration.pipeline_tasks`.
    instance
        Airflow's task instance.
    arguments
        Given to the function after the :class:`TaskRun`.

    Raises
    ------
    AirflowFailException
        The task failed and would fail again; Airflow does not retry it.
    """
    # By name: reading DAGs imports this module, and must reach neither numba nor papermill through it.
    pipeline_tasks = import_module("quantflow.orchestration.pipeline_tasks")
    settings = Settings.load()
    with EventLog.from_settings(settings, source="quantflow.airflow") as event_log:
        run = TaskRun(
            settings=settings,
            log=event_log,
            run_id=run_id_of(instance.dag_id, instance.run_id),
            pipeline=pipeline_of(instance.dag_id) or instance.dag_id,
            task_id=instance.task_id,
            airflow_run_id=instance.run_id,
            try_number=instance.try_number,
            last_try=instance.try_number > (instance.max_tries or 0),
        )
        with about_run(event_log, run.run_id):
            log.info("task started", run_id=run.run_id, task_id=run.task_id)
            try:
                return getattr(pipeline_tasks, name)(run, **arguments)
            except Exception as exc:
                _fail(run, exc)
                raise


def _fail(run: TaskRun, exc: Exception) -> None:
    """Record the failure if it is the last word, and stop Airflow from retrying what will fail again."""
    passing = isinstance(exc, _PASSING)
    final = isinstance(exc, QuantflowError | AirflowFailException) and not passing
    if final or run.last_try:
        record_error(run, error_detail(exc, task_id=run.task_id))
    if isinstance(exc, NotebookFailedError):
        log.error(
            "notebook cell failed", cell=exc.cell, notebook=exc.notebook, source=exc.source, traceback=exc.traceback
        )
        words = f"{exc}\n\n--- source of cell {exc.cell} ---\n{exc.source}\n\n--- traceback ---\n{exc.traceback}"
        raise AirflowFailException(words) from None
    if final and not isinstance(exc, AirflowFailException):
        raise AirflowFailException(f"{type(exc).__name__}: {exc}") from exc


def error_detail(exc: BaseException, *, task_id: str | None) -> ErrorDetail:
    """Return what an exception says, for a person."""
    if isinstance(exc, NotebookFailedError):
        return ErrorDetail(
            kind=type(exc).__name__,
            message=storable(str(exc)),
            task_id=task_id,
            cell=exc.cell,
            source=storable(exc.source),
            traceback=storable(exc.traceback),
            artifact=exc.notebook,
        )
    if isinstance(exc, RunFailedError):
        return exc.detail.model_copy(update={"task_id": task_id})
    return ErrorDetail(kind=type(exc).__name__, message=storable(str(exc)) or repr(exc), task_id=task_id)


class RunFailedError(AirflowFailException):
    """The run that this task waited for failed, or did not end in time."""

    def __init__(self, detail: ErrorDetail) -> None:
        self.detail = detail
        super().__init__(f"{detail.kind}: {detail.message}")


def record_error(run: TaskRun, detail: ErrorDetail) -> None:
    """Append the error to the run's stream, once per task; never hides the error that is recorded."""
    event = RunErrorRecorded(run_id=run.run_id, error=detail)
    try:
        run.log.append(run_stream(run.run_id), [Draft(event, event_id=derived_id(run.run_id, "error", run.task_id))])
    except QuantflowError as exc:
        log.warning("error could not be recorded; reconciliation will", run_id=run.run_id, error=str(exc))


def storable(text: str, *, longest: int = 20_000) -> str:
    """Return text that every database and JSON reader takes: no NUL, no lone surrogate, not too long."""
    clean = text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if len(clean) <= longest:
        return clean
    half = longest // 2
    return f"{clean[:half]}\n... {len(clean) - longest} characters left out ...\n{clean[-half:]}"
