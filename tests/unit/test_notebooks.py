"""The notebooks run top to bottom, as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_notebook_runs_top_to_bottom(notebook: str) -> None:
    """nbval in a process of its own: inside a coverage run it waits for its kernel in vain."""
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cov", "-p", "no:cacheprovider", "-q"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "COV_"))}
    done = subprocess.run(
        [*command, f"notebooks/{notebook}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
