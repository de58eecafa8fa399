"""A promoted version as an Airflow DAG.

Rendering is a pure function of the plan: the same plan gives the same DAG. It imports
neither the notebook's libraries nor the graph's, so the DAG processor reads a thousand
pipelines in about a second; what the tasks do (:mod:`quantflow.orchestration.tasks`) is
imported by name when one runs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param, dag, get_current_context, task

from quantflow.orchestration.names import pipeline_of
from quantflow.orchestration.operators import AwaitRun, run_step

if TYPE_CHECKING:
    from quantflow.promotion.plans import PromotionPlan

__all__ = ["TASK_IDS", "promoted_dags", "render"]

#: The tasks of every pipeline, in order.
TASK_IDS = ("take_slice", "run_notebook", "request_analysis", "await_analysis", "publish_report")


def promoted_dags(*, only: str | None = None) -> dict[str, DAG]:
    """Return the DAG of every registered pipeline by DAG id, or only that of one.

    Parameters
    ----------
    only
        A DAG id. Airflow names it when it reads the file for one task.
    """
    from quantflow.events.log import EventLog
    from quantflow.promotion.plans import read_plans
    from quantflow.settings import Settings

    pipeline = None if only is None else pipeline_of(only)
    if only is not None and pipeline is None:
        return {}
    with EventLog.from_settings(Settings.load(), source="quantflow.airflow") as event_log:
        plans = read_plans(event_log, pipeline=pipeline)
    return {plan.dag_id: render(plan) for plan in plans}


def render(plan: PromotionPlan) -> DAG:
    """Return the DAG that runs a pipeline: slice, notebook, analysis, report."""

    @dag(
        dag_id=plan.dag_id,
        schedule=plan.schedule,
        # No start date: a promotion must not set off a run of its own for the slot before it.
        catchup=False,
        description=plan.description,
        doc_md=_documentation(plan),
        tags=sorted({"quantflow", *plan.tags}),
        params={"run_id": Param(None, type=["null", "string"], description="Set by the dispatcher; leave it empty")},
        default_args={"owner": plan.owner, "retries": 2, "retry_delay": timedelta(seconds=5)},
        max_active_runs=16,
    )
    def pipeline() -> None:
        # Whole dicts, not one XCom a key, but for the task whose keys a template names.
        @task(multiple_outputs=False)
        def take_slice() -> dict[str, Any]:
            return _run("take_slice")

        @task(multiple_outputs=False)
        def run_notebook(taken: dict[str, Any]) -> dict[str, Any]:
            return _run("run_notebook", taken=taken)

        @task(multiple_outputs=True)
        def request_analysis(executed: dict[str, Any]) -> dict[str, Any]:
            return _run("request_analysis", executed=executed)

        @task(multiple_outputs=False)
        def publish_report(taken: dict[str, Any], executed: dict[str, Any], analysis: dict[str, Any]) -> dict[str, Any]:
            return _run("publish_report", taken=taken, executed=executed, analysis=analysis)

        # What a task returns is an XComArg here and a dict when it runs; its type says neither.
        taken: Any = take_slice()
        executed: Any = run_notebook(taken)
        asked: Any = request_analysis(executed)
        analysis = AwaitRun(task_id="await_analysis", run_id=asked["run_id"], timeout_s=asked["timeout_s"])
        answer: Any = analysis.output
        publish_report(taken, executed, answer)

    return pipeline()


def _run(step: str, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = run_step(step, get_current_context()["ti"], **arguments)
    return result


def _documentation(plan: PromotionPlan) -> str:
    return (
        f"{plan.description}\n\n"
        f"Version {plan.number} (`{plan.version_id}`) of pipeline `{plan.pipeline}`, owner {plan.owner}. "
        "Rendered from the registry of promoted versions: change the contract and promote it again."
    )
