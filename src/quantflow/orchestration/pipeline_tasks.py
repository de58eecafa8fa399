"""The tasks of a promoted pipeline: slice, notebook, analysis, report.

Each function takes the :class:`~quantflow.orchestration.tasks.TaskRun` and what earlier
tasks returned. It returns small references (paths, digests, ids), never data.
"""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.errors import InvalidBarsError, OrchestrationError, UnknownRunError
from quantflow.events.envelope import derived_id
from quantflow.events.log import Draft
from quantflow.events.runs import get_run
from quantflow.events.types import ErrorDetail, RunRequested, RunResultRecorded, RunStateObserved
from quantflow.orchestration.names import desk_run_id, requested_by_airflow, run_stream
from quantflow.orchestration.observations import request_id, task_seen
from quantflow.orchestration.tasks import RunFailedError
from quantflow.telemetry import get_logger

if TYPE_CHECKING:
    import polars as pl

    from quantflow.events.records import StoredEvent
    from quantflow.events.transport import ReceivedRecord
    from quantflow.orchestration.tasks import TaskRun
    from quantflow.promotion import Version

__all__ = ["begin_waiting", "collect_result", "publish_report", "request_analysis", "run_notebook", "take_slice"]

log = get_logger(__name__)

#: What the whole notebook may take, kernel start included.
NOTEBOOK_TIMEOUT_S = 1800.0
#: What the agents may take, a person's answer excluded.
ANALYSIS_TIMEOUT_S = 1800.0


def take_slice(run: TaskRun) -> dict[str, Any]:
    """Write the bars of the run's offset ranges, as known at its ``as_of``, to ``bars.parquet``.

    A run that Airflow started by itself (a schedule, its web UI) has no request yet: it is
    appended here, which fixes version and offsets. A second try finds it.

    Raises
    ------
    TransportError
        The broker is away, or part of the slice is no longer kept.
    InvalidBarsError
        The slice holds no bars, or rows that are not bars; they are named.
    """
    from quantflow.data import as_of_view, bars_digest, validate_bars
    from quantflow.events.market import decode_bars
    from quantflow.events.transport import read_slice

    stored = _request(run) or _request_by_airflow(run)
    request = _checked(run, stored)
    names = ", ".join(sorted({piece.topic for piece in request.inputs})) or "no topic"
    rejected: list[str] = []

    def reject(record: ReceivedRecord, reason: str) -> None:
        rejected.append(f"{record.topic}[{record.partition}]@{record.offset}")
        log.warning("not a bar, left out", place=rejected[-1], reason=reason)

    frame = decode_bars(read_slice(run.transport, request.inputs), rejected=reject)
    bars = as_of_view(validate_bars(frame, source=names), request.as_of)
    if bars.is_empty():
        raise InvalidBarsError(
            [f"offsets {[(p.partition, p.start, p.end) for p in request.inputs]} hold no bar known at {request.as_of}"],
            source=names,
        )
    path = _directory(run) / "bars.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another try may be reading or writing: a file is there whole or not at all.
    temporary = path.with_name(f".bars.{os.getpid()}.parquet")
    bars.write_parquet(temporary)
    temporary.replace(path)
    sessions = bars["session"]
    return {
        "path": str(path),
        "rows": bars.height,
        "digest": bars_digest(bars),
        "symbols": bars["symbol"].n_unique(),
        "first_session": str(sessions.min()),
        "last_session": str(sessions.max()),
        "as_of": request.as_of.isoformat(),
        "left_out": rejected[:100],
    }


def run_notebook(run: TaskRun, taken: dict[str, Any]) -> dict[str, Any]:
    """Run the promoted version's notebook on the slice, from its stored bytes only.

    Raises
    ------
    NotebookFailedError
        A cell raised; the partial notebook and its page are kept beside the others.
    """
    from quantflow.notebooks import run_notebook as execute
    from quantflow.promotion.versions import notebook_of

    request = _required(run)
    version, directory = _version(run, request)
    parameters = version.contract.resolve_parameters(request.parameters)
    notebook = notebook_of(directory)

    def progress(at: Any) -> None:
        log.info("cell", cell=at.cell, cells=at.cells, elapsed_s=round(at.elapsed_s, 1))

    done = execute(
        notebook,
        parameters=parameters,
        output_dir=_directory(run) / "notebook",
        inputs={"bars": Path(taken["path"])},
        timeout_s=NOTEBOOK_TIMEOUT_S,
        code_dir=_code_directory(directory, version),
        on_progress=progress,
    )
    log.info("notebook executed", notebook=str(done.notebook), duration_s=round(done.duration_s, 1))
    return {
        "notebook": str(done.notebook),
        "html": str(done.html),
        "values": str(done.artifacts["values"]) if "values" in done.artifacts else None,
        "artifacts": {name: str(path) for name, path in done.artifacts.items()},
        "parameters": dict(done.parameters),
        "duration_s": round(done.duration_s, 3),
        "version_id": version.version_id,
    }


def request_analysis(run: TaskRun, executed: dict[str, Any]) -> dict[str, Any]:
    """Ask for the agents' analysis of what the notebook recorded; a second try asks no second time."""
    from quantflow.agents.request import DeskRequest
    from quantflow.events.blobs import Blobs

    request = _required(run)
    version, _ = _version(run, request)
    contract = version.contract
    returns = _frame(executed, "returns")
    desk = DeskRequest(
        pipeline=contract.pipeline,
        version_id=version.version_id,
        base_weights=_latest_weights(_frame(executed, "exposures")),
        returns_blob=Blobs(run.log).put(_parquet(returns)),
        limits=contract.limits,
        approval=contract.approval,
        approver_role=contract.approver_role,
        min_confidence=contract.min_confidence,
        confidence_level=contract.confidence_level,
    )
    child = RunRequested(
        run_id=desk_run_id(run.run_id),
        workflow_id=contract.pipeline,
        workflow_type="langgraph",
        parameters=desk.model_dump(mode="json"),
        priority=request.priority,
        version_id=version.version_id,
        as_of=request.as_of,
        requested_by=f"pipeline:{contract.pipeline}",
        parent_run_id=run.run_id,
    )
    run.log.append(run_stream(child.run_id), [_requested(run, child)])
    waits = desk.approval_expires_in_s if desk.approval == "human" else 0.0
    return {"run_id": child.run_id, "timeout_s": ANALYSIS_TIMEOUT_S + waits, "returns_blob": desk.returns_blob}


def begin_waiting(run: TaskRun, awaited: str) -> dict[str, str] | None:
    """Return the end of the awaited run if it has ended, or record that this task is deferred.

    Airflow has no hook for a deferral, so the task says so itself.
    """
    view = get_run(run.log, awaited)
    if view.finished:
        return {"run_id": awaited, "state": view.state}
    draft = task_seen(run.run_id, run.task_id, "deferred", run.try_number, at=datetime.now(UTC), origin="task")
    run.log.append(run_stream(run.run_id), [draft])
    return None


def collect_result(run: TaskRun, event: dict[str, Any], waited_s: float) -> dict[str, Any]:
    """Return the result of the run that this task waited for, or fail with its error."""
    awaited, state = str(event["run_id"]), str(event["state"])
    if state == "timeout":
        last = event.get("last_state", "unknown")
        detail = ErrorDetail(
            kind="TimeoutError",
            message=f"run {awaited} has not ended after {waited_s:g} s (last seen: {last}). "
            f"It goes on; look at it with: quantflow runs show {awaited}",
        )
        raise RunFailedError(detail)
    view = get_run(run.log, awaited)
    if view.state != "succeeded":
        known = view.error or ErrorDetail(kind="RunFailed", message="no reason was recorded")
        raise RunFailedError(known.model_copy(update={"message": f"run {awaited} {view.state}: {known.message}"}))
    return dict(view.result or {})


def publish_report(
    run: TaskRun, taken: dict[str, Any], executed: dict[str, Any], analysis: dict[str, Any]
) -> dict[str, Any]:
    """Write the run's one offline page and record the run's result.

    ``analysis`` is what the agents' run answered; the page is made of that run's events.
    """
    from quantflow.orchestration.reporting import result_of, write_report

    request = _required(run)
    version, _ = _version(run, request)
    path = _directory(run) / "report.html"
    events = write_report(run, request, version, taken, executed, path)
    result = result_of(version, taken, executed, events, path)
    event = RunResultRecorded(run_id=run.run_id, result=result)
    run.log.append(run_stream(run.run_id), [Draft(event, event_id=derived_id(run.run_id, "result"))])
    return {"report": str(path), "decision": (result["decision"] or analysis).get("decision_id")}


def _request(run: TaskRun) -> StoredEvent | None:
    return run.log.get(request_id(run.run_id))


def _required(run: TaskRun) -> RunRequested:
    return _checked(run, _request(run))


def _checked(run: TaskRun, stored: StoredEvent | None) -> RunRequested:
    if stored is None:
        raise UnknownRunError(f"run {run.run_id} was never asked for: its stream holds no request")
    request = stored.event
    assert isinstance(request, RunRequested)
    if (request.workflow_type, request.workflow_id) != ("airflow", run.pipeline):
        raise OrchestrationError(
            f"run {run.run_id} was asked for {request.workflow_type} workflow {request.workflow_id!r}, "
            f"not for pipeline {run.pipeline!r}: give each Airflow run an id of its own"
        )
    return request


def _request_by_airflow(run: TaskRun) -> StoredEvent:
    """Append the request of a run that Airflow started: the active version, everything on its topics now."""
    from quantflow.events.transport import current_slices
    from quantflow.promotion import Registry

    version = Registry(run.log).active_version(run.pipeline)
    topics = sorted({run.topics.resolve(spec.topic) for spec in version.contract.inputs})
    now = datetime.now(UTC)
    request = RunRequested(
        run_id=run.run_id,
        workflow_id=run.pipeline,
        workflow_type="airflow",
        version_id=version.version_id,
        as_of=now,
        inputs=current_slices(run.transport, topics),
        requested_by=requested_by_airflow(run.airflow_run_id),
    )
    running = RunStateObserved(run_id=run.run_id, engine="airflow", state="running", observed_at=now, origin="task")
    stored = run.log.append(
        run_stream(run.run_id),
        [
            # Not published: Airflow has the run already, the dispatcher must not create it again.
            Draft(request, event_id=request_id(run.run_id)),
            # What the listener said before the request was there, the fold did not see.
            Draft(running, event_id=derived_id(run.run_id, "task", "running")),
        ],
    )
    log.info("run requested by airflow", run_id=run.run_id, airflow_run_id=run.airflow_run_id)
    return stored[0]


def _requested(run: TaskRun, request: RunRequested) -> Draft:
    return Draft(request, event_id=request_id(request.run_id), topic=run.topics.requests, key=request.run_id)


def _version(run: TaskRun, request: RunRequested) -> tuple[Version, Path]:
    from quantflow.promotion import Registry

    registry = Registry(run.log)
    version = registry.get(request.version_id or "")
    return version, registry.materialise(version, run.settings.home / "versions")


def _code_directory(directory: Path, version: Version) -> Path:
    """Return where the version keeps its modules: beside its contract."""
    import json

    return directory / Path(json.loads(version.manifest)["contract"]).parent


def _directory(run: TaskRun) -> Path:
    # A run id may hold a colon or be long; it is a legal file name all the same (see events.types.Name).
    return run.settings.home / "runs" / run.run_id


def _frame(executed: dict[str, Any], name: str) -> pl.DataFrame:
    import polars as pl

    path = executed["artifacts"].get(name)
    if path is None:
        recorded = ", ".join(sorted(executed["artifacts"])) or "nothing"
        raise OrchestrationError(
            f"the notebook recorded no frame {name!r}; it recorded {recorded}. "
            f'Add record_frame("{name}", ...) to it and promote it again'
        )
    return pl.read_parquet(path)


def _latest_weights(exposures: pl.DataFrame) -> dict[str, float]:
    """Return each symbol's weight at the last session: signed fractions of equity."""
    missing = {"session", "symbol", "weight"} - set(exposures.columns)
    if missing:
        raise OrchestrationError(
            f"the notebook's frame 'exposures' lacks {sorted(missing)}; it has {exposures.columns}"
        )
    last = exposures.filter(exposures["session"] == exposures["session"].max()).sort("symbol")
    return dict(zip(last["symbol"].to_list(), last["weight"].cast(float).to_list(), strict=True))


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
