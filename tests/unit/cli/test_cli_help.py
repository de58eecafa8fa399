"""The command line's overview is complete, quick and light; errors are messages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from quantflow.cli import COMMANDS, Command, app
from quantflow.errors import StackError

HEAVY = (
    "airflow", "confluent_kafka", "fastapi", "kafka", "langchain", "langchain_core", "langgraph", "numba", "numpy",
    "pandas", "papermill", "polars", "psutil", "psycopg", "pyarrow", "pydantic", "structlog", "vectorbt",
)  # fmt: skip
REPORT = "import sys; print(*sorted(sys.modules), file=sys.stderr)"


def run(*arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line as a process, without coverage's own imports."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "QUANTFLOW"))}
    command = [sys.executable, *(["-c", script] if script else ["-m", "quantflow.cli"]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)


def test_no_heavy_module_is_loaded_for_the_overview() -> None:
    script = f"import atexit\nfrom quantflow.cli import main\natexit.register(lambda: exec({REPORT!r}))\nmain()"
    done = run("--help", script=script)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "quantflow" in loaded
    assert not loaded & set(HEAVY)


def test_the_overview_shows_every_command_with_its_words() -> None:
    shown = " ".join(run("--help").stdout.split())
    for name, command in COMMANDS.items():
        assert f" {name} " in shown
        assert command.help.split()[0] in shown


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_loaded_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


def test_an_unknown_command_is_wrong_usage() -> None:
    done = run("frobnicate")
    assert done.returncode == 2
    assert "frobnicate" in done.stderr


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("quantflow ")


def fail() -> None:
    """Raise what a command may raise on purpose."""
    raise StackError("the [postgres] is on fire; fetch water")


def test_an_error_on_purpose_is_its_message_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "fail", Command(__name__, "fail", "Fail.", "Test"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[fail.__module__])
    monkeypatch.delenv("QUANTFLOW_LOG_LEVEL", raising=False)
    result = CliRunner().invoke(app, ["fail"])
    assert result.exit_code == 1
    assert "the [postgres] is on fire; fetch water" in result.stderr
    assert "Traceback" not in result.output


def test_debug_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "fail", Command(__name__, "fail", "Fail.", "Test"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[fail.__module__])
    monkeypatch.setenv("QUANTFLOW_LOG_LEVEL", "debug")
    result = CliRunner().invoke(app, ["fail"])
    assert isinstance(result.exception, StackError)
