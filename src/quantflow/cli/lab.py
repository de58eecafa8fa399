"""JupyterLab on the notebooks, with the stack's settings."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from quantflow.cli._common import load_settings, say

__all__ = ["lab"]


def lab(
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Open JupyterLab on notebooks/; the stack's addresses are in the kernels' environment."""
    settings = load_settings()
    environment = {**os.environ, **settings.environment()}
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={settings.project / 'notebooks'}"]
    command += [f"--ServerApp.ip={settings.host}", f"--ServerApp.port={settings.lab_port}"]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    say(f"JupyterLab on {settings.project / 'notebooks'}, port {settings.lab_port}; stop it with Ctrl-C")
    # Ctrl-C and signals must reach JupyterLab itself, not a parent that waits for it.
    os.execve(sys.executable, command, environment)  # noqa: S606
