"""Promotion commands: promote a contract, list versions, answer an approval."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantflow.cli._common import event_log, load_settings, print_json, say

if TYPE_CHECKING:
    from quantflow.settings import Settings

__all__ = ["approve", "promote", "promote_contract", "versions", "wait_for_dag"]


def promote_contract(settings: Settings, contract: Path, *, promoted_by: str) -> dict[str, Any]:
    """Validate a contract, register its version, and return who and what it is."""
    from quantflow.promotion import Registry, dag_id_of

    version = Registry(event_log(settings)).register(contract, promoted_by=promoted_by)
    return {
        "pipeline": version.pipeline,
        "number": version.number,
        "version_id": version.version_id,
        "dag_id": dag_id_of(version.pipeline),
        "files": dict(version.files),
    }


def wait_for_dag(settings: Settings, dag_id: str, *, timeout_s: float) -> float | None:
    """Return the seconds until Airflow knew the DAG, or None when it did not within the time."""
    from quantflow.errors import OrchestrationError
    from quantflow.orchestration.airflow_client import AirflowClient

    started = time.monotonic()
    with AirflowClient(settings) as airflow:
        while time.monotonic() - started < timeout_s:
            try:
                if airflow.get_dag(dag_id) is not None:
                    return time.monotonic() - started
            except OrchestrationError:
                # Airflow may still be starting; the deadline decides.
                pass
            time.sleep(0.5)
    return None


def promote(
    contract: Annotated[Path, typer.Argument(help="Contract, such as pipelines/momentum.toml.")],
    wait_s: Annotated[float, typer.Option(help="Seconds to wait for Airflow to show the DAG; 0: do not wait.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Validate a contract, register a version of its pipeline, and see its DAG appear."""
    settings = load_settings()
    version = promote_contract(settings, contract, promoted_by=getpass.getuser())
    if as_json:
        print_json(version)
        return
    say(
        f"[bold]{version['pipeline']}[/] version {version['number']} ({version['version_id'][:12]}), "
        f"{len(version['files'])} files stored"
    )
    if wait_s > 0:
        waited = wait_for_dag(settings, version["dag_id"], timeout_s=wait_s)
        say(
            f"Airflow shows {version['dag_id']} after {waited:.1f} s: {settings.airflow}/dags/{version['dag_id']}"
            if waited is not None
            else f"Airflow at {settings.airflow} does not show {version['dag_id']} yet; see: quantflow status"
        )


def versions(
    pipeline: Annotated[str | None, typer.Argument(help="Only this pipeline.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """List the promoted versions."""
    from quantflow.promotion import Registry

    found = Registry(event_log(load_settings())).versions(pipeline)
    if as_json:
        fields = ("pipeline", "number", "version_id", "promoted_at", "promoted_by")
        print_json([{name: getattr(version, name) for name in fields} for version in found])
        return
    from rich.table import Table

    table = Table("pipeline", "version", "id", "promoted", "by", box=None)
    for version in found:
        promoted = f"{version.promoted_at:%Y-%m-%d %H:%M:%S}Z"
        table.add_row(version.pipeline, str(version.number), version.version_id[:12], promoted, version.promoted_by)
    say(table if found else "no pipeline is promoted; start with: quantflow promote pipelines/momentum.toml")


def approve(
    run_id: Annotated[str, typer.Argument(help="Run whose proposal is waiting.")],
    reject: Annotated[bool, typer.Option("--reject", help="Refuse it instead.")] = False,
) -> None:
    """Approve, or reject, exactly the proposal that a run is waiting with."""
    from quantflow.events.approvals import Ledger
    from quantflow.orchestration.approving import grant
    from quantflow.orchestration.names import desk_run_id

    log = event_log(load_settings())
    # A pipeline's run is known by its own id; the question was asked by its agents' run.
    asking = run_id if Ledger(log).open_request(run_id) else desk_run_id(run_id.removesuffix(".desk"))
    approval = grant(log, asking, approver=getpass.getuser(), granted=not reject)
    word = "approved" if approval.granted else "rejected"
    say(f"{word} by {approval.approver} as {approval.role}: proposal {approval.proposal_hash[:12]}")
