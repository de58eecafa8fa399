"""Operational DAG: every trading day, bring the store of daily bars up to date with a source.

extract, validate, load: the source's history is read into a file of the run, refused as a
whole if any row is not a bar, and appended as far as the store does not have it. Restated
prices become new rows. The store is ``QUANTFLOW_HOME/bars/<source>``.
"""

from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

TASKS = "quantflow.orchestration.bars_tasks"


def as_of(context: Any) -> datetime:
    """Return the moment that the run is about: its schedule's, or that of its request."""
    return context.get("logical_date") or context["dag_run"].run_after


@dag(
    dag_id="quantflow_bars",
    schedule="0 23 * * 1-5",
    catchup=False,
    max_active_runs=1,
    description="Extract, validate and load daily bars",
    doc_md=__doc__,
    tags=["quantflow", "operations"],
    params={"source": Param("sp500", type="string", minLength=1, description="Market data source")},
    default_args={
        "owner": "quantflow",
        # A vendor's bad minute is over by the next try; bad rows fail each of them.
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(minutes=30),
    },
)
def quantflow_bars() -> None:
    """Chain the three tasks; only paths and counts travel between them."""

    @task
    def extract() -> dict[str, Any]:
        context = get_current_context()
        run = context["dag_run"].run_id
        return import_module(TASKS).extract(context["params"]["source"], as_of=as_of(context), run=run)

    @task(retries=0)
    def validate(extracted: dict[str, Any]) -> dict[str, Any]:
        source = get_current_context()["params"]["source"]
        return extracted | import_module(TASKS).validate(extracted["path"], source=source)

    @task
    def load(validated: dict[str, Any]) -> dict[str, Any]:
        context = get_current_context()
        source = context["params"]["source"]
        return import_module(TASKS).load(validated["path"], source=source, as_of=as_of(context))

    load(validate(extract()))


quantflow_bars()
