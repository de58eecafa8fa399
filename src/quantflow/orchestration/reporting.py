"""The end of a pipeline run: its one page and its result, from what the log and the notebook recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.events.runs import get_run
from quantflow.events.types import DecisionMade, Event, RunRequested
from quantflow.orchestration.names import desk_run_id, run_stream

if TYPE_CHECKING:
    from quantflow.orchestration.tasks import TaskRun
    from quantflow.promotion import Version

__all__ = ["result_of", "write_report"]


def write_report(
    run: TaskRun, request: RunRequested, version: Version, taken: dict[str, Any], executed: dict[str, Any], path: Path
) -> list[Event]:
    """Write the run's page to ``path`` and return the events of the agents' run that it shows."""
    from quantflow.notebooks import RunReport, render_report

    desk = desk_run_id(run.run_id)
    events = [stored.event for stored in run.log.read_stream(run_stream(desk))]
    report = RunReport.build(
        run=get_run(run.log, run.run_id),
        outputs=_values(executed),
        artifacts=executed["artifacts"],
        desk_events=events,
        slices=request.inputs,
        bars={name: taken[name] for name in ("rows", "symbols", "first_session", "last_session", "digest")},
        parameters=executed["parameters"],
        version_number=version.number,
        version_files=version.files,
        owner=version.contract.owner,
        description=version.contract.description,
        desk_run_id=desk,
        commands=(
            ("show this run", f"quantflow runs show {run.run_id}"),
            ("show the agents' run", f"quantflow runs show {desk}"),
            ("show every event of it", f"quantflow events show {run_stream(run.run_id)}"),
            ("run it again", f"quantflow trigger {run.pipeline}"),
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(render_report(report), encoding="utf-8")
    temporary.replace(path)
    return events


def result_of(
    version: Version, taken: dict[str, Any], executed: dict[str, Any], events: list[Event], path: Path
) -> dict[str, Any]:
    """Return the run's result: the decision, the report, and what it was made of."""
    decision = next((event.decision for event in reversed(events) if isinstance(event, DecisionMade)), None)
    values = _values(executed)
    return {
        "decision": None if decision is None else decision.model_dump(mode="json"),
        "report": str(path),
        "notebook": executed["notebook"],
        "notebook_html": executed["html"],
        "metrics": {
            name.removeprefix("metrics."): value for name, value in values.items() if name.startswith("metrics.")
        },
        "bars": taken,
        "version_id": version.version_id,
        "version_number": version.number,
    }


def _values(executed: dict[str, Any]) -> dict[str, Any]:
    """Return what the notebook recorded; read from its file, so that XCom carries a path only."""
    path = executed.get("values")
    values: dict[str, Any] = json.loads(Path(path).read_text()) if path else {}
    return values
