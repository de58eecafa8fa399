"""Rendered DAGs: their structure, that rendering is a pure function, and that reading them stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from quantflow.orchestration.dags import TASK_IDS, promoted_dags, render
from quantflow.promotion import plans
from quantflow.promotion.plans import PromotionPlan

DAGS = Path(__file__).resolve().parents[3] / "dags"


def plan(name: str = "momentum", **changes: Any) -> PromotionPlan:
    values = {
        "pipeline": name,
        "dag_id": f"quantflow__{name}",
        "schedule": None,
        "owner": "ana",
        "version_id": "a" * 64,
        "number": 3,
        "description": "Time-series momentum",
        "tags": ("quantflow", "version 3"),
    }
    return PromotionPlan(**{**values, **changes})


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[PromotionPlan]:
    """A registry without a database."""
    found = [plan(), plan("carry", schedule="30 22 * * MON-FRI")]

    def read(_log: Any, *, pipeline: str | None = None) -> list[PromotionPlan]:
        return [each for each in found if pipeline in (None, each.pipeline)]

    monkeypatch.setattr(plans, "read_plans", read)
    return found


def downstream(dag: DAG) -> dict[str, set[str]]:
    return {task_id: set(task.downstream_task_ids) for task_id, task in dag.task_dict.items()}


def test_a_pipeline_is_slice_notebook_analysis_report() -> None:
    dag = render(plan())
    assert tuple(dag.task_dict) == TASK_IDS
    assert downstream(dag) == {
        "take_slice": {"run_notebook", "publish_report"},
        "run_notebook": {"request_analysis", "publish_report"},
        "request_analysis": {"await_analysis"},
        "await_analysis": {"publish_report"},
        "publish_report": set(),
    }


def test_a_dag_carries_the_plan() -> None:
    dag = render(plan(schedule="30 22 * * *"))
    assert dag.dag_id == "quantflow__momentum"
    assert dag.description == "Time-series momentum"
    assert set(dag.tags) == {"quantflow", "version 3"}
    assert dag.catchup is False
    assert {task.owner for task in dag.tasks} == {"ana"}
    assert {task.retries for task in dag.tasks} == {2}
    assert "a" * 64 in (dag.doc_md or "")
    assert render(plan()).schedule is None


def test_a_promotion_sets_off_no_run_for_the_slot_before_it() -> None:
    dag = render(plan(schedule="30 22 * * *"))
    assert dag.start_date is None
    assert dag.catchup is False


def test_the_same_plan_gives_the_same_dag() -> None:
    first, second = (DagSerialization.to_dict(render(plan(schedule="0 1 * * *"))) for _ in range(2))
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert first != DagSerialization.to_dict(render(plan(number=4, version_id="b" * 64)))


@pytest.mark.parametrize("text", ['""" + exit() + """', "{{ conf }}", "a\nb", "{% raise %}"])
def test_words_of_a_contract_stay_words(text: str) -> None:
    dag = render(plan(description=text, owner=text.replace("\n", " ")))
    assert dag.description == text
    json.dumps(DagSerialization.to_dict(dag))


def test_every_promoted_pipeline_is_rendered_or_only_the_wanted_one(registry: list[PromotionPlan]) -> None:
    assert set(promoted_dags()) == {"quantflow__momentum", "quantflow__carry"}
    assert set(promoted_dags(only="quantflow__carry")) == {"quantflow__carry"}
    assert promoted_dags(only="quantflow__unknown") == {}
    assert promoted_dags(only="quantflow_bars") == {}


def bag() -> DagBag:
    return DagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags")


def test_the_folder_loads_without_error_or_warning(registry: list[PromotionPlan]) -> None:
    loaded = bag()
    assert loaded.import_errors == {}
    assert loaded.captured_warnings == {}
    assert set(loaded.dags) == {"quantflow__momentum", "quantflow__carry", "quantflow_bars"}
    for dag in loaded.dags.values():
        assert dag.tags
        assert all(task.owner != "airflow" for task in dag.tasks)


def test_a_task_reads_only_its_own_dag(registry: list[PromotionPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "quantflow__carry")
    assert set(bag().dags) == {"quantflow__carry", "quantflow_bars"}


def test_the_bars_dag_extracts_validates_and_loads_every_trading_day(registry: list[PromotionPlan]) -> None:
    dag = bag().dags["quantflow_bars"]
    assert downstream(dag) == {"extract": {"validate"}, "validate": {"load"}, "load": set()}
    assert dag.schedule == "0 23 * * 1-5"
    assert dag.catchup is False
    assert dag.max_active_runs == 1


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.name)
def test_dag_files_import_airflow_from_its_sdk_only(path: Path) -> None:
    lines = [line.strip() for line in path.read_text().splitlines()]
    imports = [line for line in lines if line.startswith(("from airflow", "import airflow"))]
    assert imports
    assert all(line.startswith("from airflow.sdk import") for line in imports)


@pytest.mark.slow
def test_reading_dags_loads_no_heavy_library() -> None:
    """The DAG processor pays for what rendering imports, every few seconds, for ever."""
    code = """
import sys
from quantflow.orchestration.dags import render
from quantflow.promotion.plans import PromotionPlan, read_plans
from quantflow.events.log import EventLog
render(PromotionPlan("m", "quantflow__m", None, "o", "a" * 64, 1, "d", ()))
heavy = ("vectorbt", "langgraph", "numba", "papermill", "langchain_core", "nbclient", "polars", "plotly", "skfolio")
print([name for name in heavy if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().splitlines()[-1] == "[]"
