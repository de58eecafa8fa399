"""Run commands: trigger, list, show; and the check of the event log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from quantflow.cli._client import ApiClient
from quantflow.cli._common import console, error_console, event_log, load_settings, parse_parameters, print_json, say

__all__ = ["events_app", "runs_app", "trigger"]

# Spelled out, because importing the event types would load pydantic for `--help`.
State = Literal["accepted", "queued", "running", "awaiting_approval", "succeeded", "failed", "cancelled"]

runs_app = typer.Typer(help="List runs, show one.", no_args_is_help=True)
events_app = typer.Typer(help="Read and check the event log.", no_args_is_help=True)


def trigger(
    pipeline: Annotated[str, typer.Argument(help="A promoted pipeline, such as momentum.")],
    parameter: Annotated[list[str] | None, typer.Option("-p", "--parameter", help="NAME=VALUE; may repeat.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=10, help="0 (last) to 10 (first).")] = 5,
    wait_s: Annotated[float, typer.Option(help="Seconds to wait for the end; 0: do not wait.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Ask for a run of a promoted pipeline."""
    with ApiClient(load_settings()) as api:
        status = api.trigger(pipeline, parameters=parse_parameters(parameter or []), priority=priority)
        run_id = status["run_id"]
        if wait_s > 0:
            for look in api.follow(run_id, timeout_s=wait_s):
                status = look
    if as_json:
        print_json(status)
    else:
        say(f"run {run_id}: {status['status']}; see it with: quantflow runs show {run_id}")
    if status["status"] == "failed":
        raise typer.Exit(1)


@runs_app.command("list")
def list_runs(
    workflow: Annotated[str | None, typer.Option(help="Only this pipeline.")] = None,
    state: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """List the latest runs, newest first."""
    from quantflow.events.runs import list_runs as read_runs

    page = read_runs(event_log(load_settings()), workflow_id=workflow, state=state, limit=limit)
    if as_json:
        print_json([run.model_dump(mode="json") for run in page.runs])
        return
    from rich.table import Table

    table = Table("run", "workflow", "type", "state", "progress", "created", box=None)
    for run in page.runs:
        created = f"{run.created_at:%Y-%m-%d %H:%M:%S}Z" if run.created_at else ""
        table.add_row(run.run_id, run.workflow_id, run.workflow_type, run.state, f"{run.progress:.0%}", created)
    say(table if page.runs else "no runs yet; start one with: quantflow trigger momentum")


@runs_app.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(help="Run id, as `quantflow runs list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Show one run: its state, tasks, result or error."""
    from quantflow.events.runs import get_run

    run = get_run(event_log(load_settings()), run_id)
    if as_json:
        print_json(run.model_dump(mode="json"))
        return
    facts: dict[str, Any] = run.model_dump(mode="json", exclude={"tasks", "result", "error"}, exclude_none=True)
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:<{width}}  {value}", markup=False)
    for task in run.tasks:
        say(f"  {task.task_id:<24}{task.state}", markup=False)
    if run.result:
        console().print_json(data=run.result)
    if run.error:
        error = run.error.model_dump(exclude_none=True)
        for name, value in error.items():
            say(f"error.{name}: {value}", markup=False, style="red")


@events_app.command("verify")
def verify() -> None:
    """Check the hash chain of the whole event log."""
    broken = event_log(load_settings()).verify()
    if broken is None:
        say("the event log is whole: every event's hash fits its content and its predecessor")
        return
    error_console().print(f"the event log was changed: the first event that does not fit is position {broken}")
    raise typer.Exit(1)


@events_app.command("show")
def show_stream(
    stream: Annotated[str, typer.Argument(help="Stream, such as run-<run id>.")],
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Show the events of one stream, in order."""
    stored = event_log(load_settings()).read_stream(stream)
    if as_json:
        print_json(
            [{"position": e.position, "type": e.event.type, "data": e.event.model_dump(mode="json")} for e in stored]
        )
        return
    for entry in stored:
        say(f"{entry.position:>8}  {entry.recorded_at:%H:%M:%S.%f}  {entry.event.type}", markup=False)
