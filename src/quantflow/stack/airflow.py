"""How the local Airflow is configured: everything through its environment.

Nothing here imports Airflow. Every time-out is explicit, because Airflow's defaults suit a
cluster that may take minutes to notice a dead worker (its ``config.yml``, 3.3.2).
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quantflow.settings import Settings
from quantflow.stack.layout import Layout, read_json, write_json

__all__ = ["airflow_command", "airflow_environment", "airflow_health", "note_migrated", "prepare_airflow"]

#: Seconds between two heartbeats of scheduler and triggerer.
HEARTBEAT_S = 3
#: A task whose process is gone is noticed after this many seconds; Airflow's default is 300.
TASK_HEARTBEAT_TIMEOUT_S = 30


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that an Airflow process of this stack needs, added to its environment.

    They hold secrets (database address, signing keys): never log them.
    """
    home = Layout(settings.home).airflow
    database = settings.local_database("airflow").removeprefix("postgresql://")
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": settings.project / "dags",
            "plugins_folder": home / "plugins",
            "executor": "LocalExecutor",
            # Worker processes; a task that waits for a graph is deferred and holds none.
            "parallelism": 4,
            "max_active_tasks_per_dag": 4,
            "max_active_runs_per_dag": 8,
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "fernet_key": settings.airflow_fernet_key.get_secret_value(),
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{settings.airflow_username}:admin",
            "simple_auth_manager_passwords_file": _passwords_file(home),
            "execution_api_server_url": f"http://{settings.host}:{settings.airflow_port}/execution/",
            "hostname_callable": "socket.gethostname",
            # A second promotion of the same pipeline is seen as fast as the first.
            "min_serialized_dag_update_interval": 2,
            "killed_task_cleanup_time": 10,
        },
        "database": {
            "sql_alchemy_conn": f"postgresql+psycopg2://{database}",
            "sql_alchemy_conn_async": f"postgresql+asyncpg://{database}",
            "sql_alchemy_pool_size": 5,
            "sql_alchemy_max_overflow": 10,
        },
        "logging": {
            "base_log_folder": home / "logs",
            "dag_processor_child_process_log_directory": home / "logs" / "dag_processor",
            "colored_console_log": False,
            "uvicorn_logging_level": "WARNING",
            "file_task_handler_new_folder_permissions": "0o700",
            "file_task_handler_new_file_permissions": "0o600",
        },
        "api": {
            "host": settings.host,
            "port": settings.airflow_port,
            "base_url": settings.airflow,
            "workers": 1,
            "secret_key": settings.airflow_api_secret.get_secret_value(),
            "expose_config": False,
            "instance_name": "quantflow",
        },
        "api_auth": {"jwt_secret": settings.airflow_jwt_secret.get_secret_value(), "jwt_issuer": "quantflow"},
        "workers": {"min_heartbeat_interval": 3, "execution_api_timeout": 20},
        "scheduler": {
            "job_heartbeat_sec": HEARTBEAT_S,
            "scheduler_heartbeat_sec": HEARTBEAT_S,
            "scheduler_idle_sleep_time": 0.4,
            "scheduler_health_check_threshold": 20,
            "task_instance_heartbeat_timeout": TASK_HEARTBEAT_TIMEOUT_S,
            "task_instance_heartbeat_timeout_detection_interval": 5,
            "orphaned_tasks_check_interval": 20,
            "task_queued_timeout": 120,
            "task_queued_timeout_check_interval": 20,
            "trigger_timeout_check_interval": 10,
            "catchup_by_default": False,
            "enable_health_check": False,
        },
        "triggerer": {
            "job_heartbeat_sec": HEARTBEAT_S,
            "triggerer_health_check_threshold": 20,
            "runner_health_check_threshold": 30,
            "capacity": 200,
        },
        "dag_processor": {
            # A promoted pipeline appears when the folder is read the next time.
            "min_file_process_interval": 3,
            "refresh_interval": 5,
            "bundle_refresh_check_interval": 2,
            "parsing_processes": 1,
            "print_stats_interval": 300,
        },
    }
    environment = {
        f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
        for section, values in options.items()
        for option, value in values.items()
    }
    return {
        **settings.environment(),
        **environment,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(home / "airflow.cfg"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # Warnings of Airflow's own dependencies are not the user's concern.
        "PYTHONWARNINGS": "ignore",
        "SCARF_ANALYTICS": "false",
        "LANGCHAIN_TRACING_V2": "false",
    }


def prepare_airflow(settings: Settings, layout: Layout) -> None:
    """Write the file of passwords that Airflow reads, of mode 0600."""
    layout.airflow.mkdir(mode=0o700, parents=True, exist_ok=True)
    (layout.airflow / "plugins").mkdir(exist_ok=True)
    passwords = {settings.airflow_username: settings.airflow_password.get_secret_value()}
    write_json(_passwords_file(layout.airflow), passwords)


def airflow_command(*arguments: str) -> list[str]:
    """Return a command of the Airflow in this environment."""
    return [sys.executable, "-m", "airflow", *arguments]


def is_migrated(settings: Settings, layout: Layout) -> bool:
    """Tell whether the database has the tables of the installed Airflow.

    Asking Airflow itself takes seconds of imports; its revision and version were noted at
    the last migration.
    """
    return read_json(_migration_note(layout)) == {"airflow": version("apache-airflow-core"), **_revision(settings)}


def note_migrated(settings: Settings, layout: Layout) -> None:
    """Remember that the database has been migrated to the installed Airflow."""
    write_json(_migration_note(layout), {"airflow": version("apache-airflow-core"), **_revision(settings)})


def airflow_health(settings: Settings, *, timeout_s: float = 3.0) -> Mapping[str, Any]:
    """Return Airflow's own report on its parts; empty while its API does not answer."""
    url = f"{settings.airflow}/api/v2/monitor/health"
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - our own http address
            found = json.load(answer)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _passwords_file(home: Path) -> Path:
    return home / "passwords.json"


def _migration_note(layout: Layout) -> Path:
    return layout.airflow / "migrated.json"


def _revision(settings: Settings) -> dict[str, str]:
    import psycopg

    with psycopg.connect(settings.local_database("airflow"), connect_timeout=5) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            return {}
    return {"revision": str(row[0])} if row else {}
