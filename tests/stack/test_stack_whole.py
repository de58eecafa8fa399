"""Everything that ``quantflow up`` starts, together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from quantflow.stack.layout import Layout
from quantflow.stack.processes import marked_processes
from quantflow.testing.stack import LocalStack
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack

MEMORY_LIMIT_BYTES = 3 * 2**30

DAG = """
from airflow.sdk import dag, task


@dag(schedule=None, catchup=False)
def stack_probe():
    @task
    def ask() -> int:
        return 42

    @task
    def tell(answer: int) -> None:
        print(f"the answer is {answer}")

    tell(ask())


stack_probe()
"""


@contextmanager
def airflow_client(stack: LocalStack) -> Iterator[httpx.Client]:
    settings = stack.settings
    password = settings.airflow_password.get_secret_value()
    with httpx.Client(base_url=settings.airflow, timeout=30) as client:
        answer = client.post("/auth/token", json={"username": settings.airflow_username, "password": password})
        assert answer.status_code == 201, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


def status(stack: LocalStack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.cli("status", "--json").stdout)
    return found


def test_every_service_is_ready_within_the_memory_of_a_laptop(stack: LocalStack) -> None:
    started = stack.status_at_start
    assert started["ready"]
    assert sum(row["memory_bytes"] for row in started["services"]) < MEMORY_LIMIT_BYTES
    names = {row["name"] for row in started["services"]}
    assert {"kafka", "postgres", "airflow-scheduler", "llm", "api", "dispatcher", "worker", "live"} <= names
    assert status(stack)["ready"]


def test_nothing_listens_but_on_the_address_of_the_settings(stack: LocalStack) -> None:
    own = set(marked_processes(Layout(stack.home).stack_id))
    listening = [c for c in psutil.net_connections("inet") if c.pid in own and c.status == psutil.CONN_LISTEN]
    # Java's sockets speak IPv6: the same address, written in its way.
    assert {connection.laddr.ip.removeprefix("::ffff:") for connection in listening} == {stack.settings.host}
    settings = stack.settings
    wanted = {settings.kafka_port, settings.postgres_port, settings.airflow_port, settings.api_port, settings.llm_port}
    assert wanted <= {connection.laddr.port for connection in listening}


def test_a_new_dag_appears_within_seconds_and_runs(stack: LocalStack) -> None:
    (stack.settings.project / "dags" / "stack_probe.py").write_text(DAG)
    with airflow_client(stack) as client:

        def ask(path: str) -> dict[str, Any]:
            answer = client.get(path)
            found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
            return found

        wait_until(lambda: ask("/api/v2/dags/stack_probe"), 60, "the DAG")
        body = {"dag_run_id": "probe-1", "logical_date": None, "conf": {}}
        assert client.post("/api/v2/dags/stack_probe/dagRuns", json=body).status_code == 200
        state = wait_until(
            lambda: (
                (found := ask("/api/v2/dags/stack_probe/dagRuns/probe-1").get("state")) in ("success", "failed")
                and found
            ),
            90,
            lambda: f"the run's end: {ask('/api/v2/dags/stack_probe/dagRuns/probe-1')}",
        )
        assert state == "success"
        log = client.get("/api/v2/dags/stack_probe/dagRuns/probe-1/taskInstances/tell/logs/1").text
        assert "the answer is 42" in log


def test_no_log_holds_a_secret(stack: LocalStack) -> None:
    secrets = [line.partition("=")[2] for line in (stack.home / "secrets.env").read_text().splitlines()]
    assert len(secrets) >= 6
    logs = [*(stack.home / "logs").rglob("*"), *(stack.home / "airflow" / "logs").rglob("*")]
    read = [path for path in logs if path.is_file() and not _tells(path, secrets)]
    assert read == [path for path in logs if path.is_file()]


def _tells(path: Path, secrets: list[str]) -> bool:
    text = path.read_text(errors="replace")
    return any(secret in text for secret in secrets)
