"""Pipeline, DAG id and run id: how one follows from another.

A run has one id everywhere. Where the API asked for the run, Airflow's ``dag_run_id`` *is*
that id. Where Airflow made the run itself (its schedule, a click in its web UI), the id
follows from Airflow's, so a retried task or a second listener arrives at the same one.
"""

from __future__ import annotations

import re

from quantflow.promotion.plans import DAG_PREFIX, dag_id_of

__all__ = [
    "DAG_PREFIX",
    "airflow_run_id",
    "dag_id_of",
    "desk_run_id",
    "pipeline_of",
    "requested_by_airflow",
    "run_id_of",
    "run_stream",
]

_AIRFLOW_MADE = re.compile(r"^(scheduled|manual|backfill|asset_triggered)__")
_REQUESTED_BY = "airflow:"


def pipeline_of(dag_id: str) -> str | None:
    """Return the pipeline that a DAG runs, or ``None`` if the DAG is not one of ours."""
    return dag_id.removeprefix(DAG_PREFIX) if dag_id.startswith(DAG_PREFIX) else None


def run_id_of(dag_id: str, dag_run_id: str) -> str:
    """Return our run id of an Airflow run.

    >>> run_id_of("quantflow__momentum", "01999f6a-3c7e")
    '01999f6a-3c7e'
    >>> run_id_of("quantflow__momentum", "scheduled__2026-11-21T00:00:00+00:00")
    'momentum.scheduled__2026-11-21T00:00:00-00:00'
    """
    if _AIRFLOW_MADE.match(dag_run_id) is None:
        return dag_run_id
    pipeline = pipeline_of(dag_id) or dag_id
    return re.sub(r"[^A-Za-z0-9._:-]", "-", f"{pipeline}.{dag_run_id}")


def requested_by_airflow(dag_run_id: str) -> str:
    """Return the ``requested_by`` of a run that Airflow itself started; it names Airflow's run."""
    return f"{_REQUESTED_BY}{dag_run_id}"


def airflow_run_id(run_id: str, requested_by: str) -> str:
    """Return Airflow's ``dag_run_id`` of one of our runs."""
    return requested_by.removeprefix(_REQUESTED_BY) if requested_by.startswith(_REQUESTED_BY) else run_id


def desk_run_id(run_id: str) -> str:
    """Return the run id of the analysis that a pipeline run asks for."""
    return f"{run_id}.desk"


def run_stream(run_id: str) -> str:
    """Return the event log's stream of a run."""
    return f"run-{run_id}"
