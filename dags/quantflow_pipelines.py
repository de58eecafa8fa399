"""Every promoted pipeline as an Airflow DAG, rendered from the registry of versions.

Nothing here is edited to add a pipeline: ``quantflow promote pipelines/<name>.toml`` adds
it. When Airflow reads this file for one task, only that task's DAG is rendered.
"""

from airflow.sdk import get_parsing_context

from quantflow.orchestration.dags import promoted_dags

globals().update(promoted_dags(only=get_parsing_context().dag_id))
