"""The stack's commands, on a stack that is only described."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantflow import stack
from quantflow.cli import app
from quantflow.settings import Settings
from quantflow.stack import ServiceStatus, StackStatus

SERVICE = ServiceStatus(
    name="kafka",
    title="Apache Kafka",
    phase="healthy",
    pid=42,
    uptime_s=75.0,
    took_s=2.5,
    restarts=1,
    last_exit="killed by SIGKILL",
    problem="",
    memory_bytes=300 * 2**20,
    rss_bytes=320 * 2**20,
    address="127.0.0.1:9092",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


def invoke(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(app, list(arguments), **more)


def test_status_of_a_home_without_a_stack_says_so_with_exit_status_3(home: Path) -> None:
    result = invoke("status")
    assert result.exit_code == 3
    assert "not running" in result.stdout
    assert "stopped" in result.stdout


def test_status_as_json_is_one_object(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "status", lambda _settings: StackStatus(home, 7, (SERVICE,)))
    result = invoke("status", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["supervisor"] == 7
    assert found["services"][0]["name"] == "kafka"
    assert found["services"][0]["ready"] is True


def test_status_shows_restarts_with_their_reason(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "status", lambda _settings: StackStatus(home, 7, (SERVICE,)))
    shown = invoke("status").stdout
    assert "1 (killed by SIGKILL)" in shown
    assert "1 min" in shown
    assert "300" in shown


def test_up_tells_how_it_goes_and_where_things_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def up(
        _settings: Settings, only: object, *, timeout_s: float, on_progress: Callable[[StackStatus], None]
    ) -> StackStatus:
        asked.extend([only, timeout_s])
        on_progress(StackStatus(home, 7, (SERVICE,)))
        return StackStatus(home, 7, (SERVICE,))

    monkeypatch.setattr(stack, "up", up)
    result = invoke("up", "--only", "kafka,postgres", "--timeout", "20")
    assert result.exit_code == 0
    assert asked == [["kafka", "postgres"], 20.0]
    assert "kafka: healthy" in result.stdout
    assert "Apache Kafka: 127.0.0.1:9092" in result.stdout
    assert str(home / "secrets.env") in result.stdout


def test_reset_asks_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[Settings] = []
    monkeypatch.setattr(stack, "reset", deleted.append)
    assert invoke("reset", input="n\n").exit_code == 1
    assert not deleted
    assert invoke("reset", input="y\n").exit_code == 0
    assert invoke("reset", "--yes").exit_code == 0
    assert len(deleted) == 2


def test_down_of_nothing_is_no_error(home: Path) -> None:
    assert invoke("down").stdout.strip() == "stopped"


def test_a_log_that_is_not_there_is_named_with_those_that_are(home: Path) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "kafka.log").write_text("".join(f"line {number}\n" for number in range(9)))
    assert invoke("logs", "kafka", "-n", "2").stdout.split() == ["line", "7", "line", "8"]
    result = invoke("logs", "kafak")
    assert result.exit_code == 1
    assert "kafka" in result.stderr


def test_doctor_ends_with_1_when_something_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantflow.stack import doctor

    findings = [doctor.Finding("disk", "missing", "1 GiB free", "free some space")]
    monkeypatch.setattr(doctor, "examine", lambda _settings: findings)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "free some space" in result.stdout
    monkeypatch.setattr(doctor, "examine", lambda _settings: [doctor.Finding("disk", "ok", "99 GiB free")])
    assert invoke("doctor").exit_code == 0
