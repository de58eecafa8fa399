"""Parts that start before others, and the way into JupyterLab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from quantflow.cli._client import ApiClient
from quantflow.errors import OrchestrationError
from quantflow.testing.stack import LocalStack, copy_project
from quantflow.testing.wait import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lonely_api(tmp_path: Path) -> Iterator[LocalStack]:
    """The API and the database, no broker."""
    project = copy_project(ROOT, tmp_path / "project")
    stack = LocalStack(tmp_path, project=project)
    try:
        stack.up("--only", "api")
        yield stack
    finally:
        stack.down()


def test_an_api_that_was_started_before_the_broker_says_so_and_recovers(lonely_api: LocalStack) -> None:
    lonely_api.cli("promote", "pipelines/momentum.toml", "--wait-s", "0")
    health = httpx.get(f"{lonely_api.settings.api}/health")
    assert health.status_code == 503
    assert health.json()["dependencies"]["kafka"]["status"] == "down"
    assert health.json()["dependencies"]["postgres"]["status"] == "up"
    with ApiClient(lonely_api.settings) as api:
        with pytest.raises(OrchestrationError, match="503"):
            api.trigger("momentum")
        assert "no runs yet" in lonely_api.cli("runs", "list").stdout

        lonely_api.up("--only", "topics,api")

        lonely_api.cli("replay", "sp500", "--start", "2022-12-01")
        wait_until(
            lambda: httpx.get(f"{lonely_api.settings.api}/health").json()["dependencies"]["kafka"]["status"] == "up",
            30,
            "the API to see the broker",
        )
        assert api.trigger("momentum")["status"] == "accepted"


def test_lab_opens_on_the_notebooks(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, project=copy_project(ROOT, tmp_path / "project"))
    address = f"http://{stack.settings.host}:{stack.settings.lab_port}"
    command = [sys.executable, "-m", "quantflow.cli", "lab", "--no-browser"]
    with subprocess.Popen(command, env=stack.env | {"JUPYTER_TOKEN": "t"}, stderr=subprocess.PIPE) as lab:
        try:

            def answers() -> list[str] | None:
                try:
                    answer = httpx.get(f"{address}/api/contents", headers={"Authorization": "token t"})
                except httpx.TransportError:
                    return None
                return [entry["name"] for entry in answer.json()["content"]] if answer.is_success else None

            names = wait_until(answers, 60, lambda: f"JupyterLab at {address}, exit status {lab.poll()}")
            assert "momentum.ipynb" in names
        finally:
            lab.terminate()
            lab.communicate(timeout=30)
