"""The README's commands, executed as it shows them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Production

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def test_readme_names_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))))
def test_every_make_target_in_the_readme_exists(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [line for line in COMMANDS if not line.startswith("make ")])
def test_readme_command_works(production: Production, command: str) -> None:
    """Against the tests' own stack, in the clone's root; `make demo` has tests of its own."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=production.stack.env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ones_own_signal_goes_the_documented_way(production: Production) -> None:
    """Copy signal, notebook and contract, rename, promote, trigger: the README's four steps."""
    project = production.stack.settings.project
    signal = (project / "pipelines" / "momentum_signal.py").read_text()
    (project / "pipelines" / "my_signal.py").write_text(signal.replace("param(126", "param(63"))
    notebook = (project / "notebooks" / "momentum.ipynb").read_text()
    notebook = notebook.replace("momentum_signal:", "my_signal:").replace("lookback: int = 126", "lookback: int = 63")
    (project / "notebooks" / "mine.ipynb").write_text(notebook)
    contract = (project / "pipelines" / "momentum.toml").read_text()
    for old, new in [
        ('pipeline = "momentum"', 'pipeline = "mine"'),
        ("momentum.ipynb", "mine.ipynb"),
        ('signal = "momentum_signal:', 'signal = "my_signal:'),
        ("default = 126", "default = 63"),
    ]:
        assert old in contract
        contract = contract.replace(old, new)
    (project / "pipelines" / "mine.toml").write_text(contract)
    production.stack.cli("promote", "pipelines/mine.toml", "--wait-s", "90")
    status = production.finished(production.trigger("mine"))
    assert status["status"] == "succeeded", status["error"]
    assert len(production.decisions(status["run_id"])) == 1
