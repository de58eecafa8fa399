"""Airflow's entry point ``airflow.plugins``: registers the listener."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin

from quantflow.orchestration import listener

__all__ = ["QuantflowPlugin"]


class QuantflowPlugin(AirflowPlugin):
    """Tells Airflow of the listener; each Airflow process loads it by itself."""

    name = "quantflow"
    listeners = [listener]  # noqa: RUF012 - Airflow's own declaration
