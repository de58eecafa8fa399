"""Running what was promoted: DAGs, the dispatcher, the workflow worker, the live service.

Airflow lives here and nowhere else. Importing the package loads none of it; each process
imports the module it runs:

=====================  ==========================================================
``names``              pipeline, DAG id and run id: how one follows from another
``airflow_client``     Airflow's REST API, version 2
``dags``               a promoted version rendered as an Airflow DAG
``tasks``              what the tasks of such a DAG do
``operators``          ``AwaitRun``: wait for a run without holding a worker slot
``triggers``           the waiting itself, inside Airflow's triggerer
``listener``           Airflow's state changes into the event log
``dispatcher``         outbox relay, workflow requests into Airflow, reconciliation
``worker``             workflow requests into LangGraph
``live_service``       promoted signals on live market topics
=====================  ==========================================================
"""

__all__: list[str] = []
