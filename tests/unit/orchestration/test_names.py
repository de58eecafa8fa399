"""Run ids: one id everywhere, also for runs that Airflow started by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from quantflow.events.runs import run_stream as stream_of_events
from quantflow.events.types import Name
from quantflow.orchestration.names import (
    airflow_run_id,
    dag_id_of,
    desk_run_id,
    pipeline_of,
    requested_by_airflow,
    run_id_of,
    run_stream,
)
from quantflow.promotion import plans

SCHEDULED = "scheduled__2026-11-21T00:00:00+00:00"


def test_dag_ids_are_those_of_the_registry() -> None:
    assert dag_id_of("momentum") == plans.dag_id_of("momentum")
    assert run_stream("r1") == stream_of_events("r1")


def test_only_our_dags_have_a_pipeline() -> None:
    assert pipeline_of(dag_id_of("momentum")) == "momentum"
    assert pipeline_of("quantflow_bars") is None
    assert pipeline_of("somebody_else") is None


def test_a_run_that_the_api_asked_for_keeps_its_id() -> None:
    assert run_id_of("quantflow__m", "01999f6a-3c7e-7abc") == "01999f6a-3c7e-7abc"


@pytest.mark.parametrize("kind", ["scheduled", "manual", "backfill", "asset_triggered"])
def test_a_run_that_airflow_made_gets_an_id_of_its_pipeline(kind: str) -> None:
    dag_run_id = f"{kind}__2026-11-21T00:00:00+00:00"
    assert run_id_of("quantflow__m", dag_run_id) == f"m.{kind}__2026-11-21T00:00:00-00:00"
    assert run_id_of("quantflow__m", dag_run_id) != run_id_of("quantflow__n", dag_run_id)


@given(st.from_regex(r"(scheduled|manual)__[ -~]{1,60}", fullmatch=True))
def test_a_made_id_is_a_legal_name(dag_run_id: str) -> None:
    TypeAdapter(Name).validate_python(desk_run_id(run_id_of("quantflow__m", dag_run_id)))


def test_airflows_id_is_found_again() -> None:
    assert airflow_run_id(run_id_of("quantflow__m", SCHEDULED), requested_by_airflow(SCHEDULED)) == SCHEDULED
    assert airflow_run_id("r1", "api-key") == "r1"
