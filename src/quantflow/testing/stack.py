"""A stack of a test's own: real parts, on a home and ports that nobody else uses."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from quantflow.settings import ENV_PREFIX, Settings, ensure_secrets

__all__ = ["LocalStack", "copy_project", "free_ports"]

_PORTS = (
    "kafka_port",
    "kafka_controller_port",
    "postgres_port",
    "airflow_port",
    "api_port",
    "llm_port",
    "lab_port",
)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that nobody listens on, below those that the kernel hands to clients."""
    found: list[int] = []
    # Not seeded: two test runs on one machine must not choose alike.
    for port in random.SystemRandom().sample(range(20_000, 32_000), 500):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} of 500 ports on {host} are free")


def copy_project(source: Path, target: Path) -> Path:
    """Copy notebooks, contracts and DAGs, so that a test may edit them, and return the copy."""
    for name in ("notebooks", "pipelines", "dags"):
        (target / name).mkdir(parents=True, exist_ok=True)
        if (source / name).exists():
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            shutil.copytree(source / name, target / name, dirs_exist_ok=True, ignore=ignored)
    return target


class LocalStack:
    """One home with settings of its own, driven as a user would: by the command line.

    Parameters
    ----------
    directory
        The home is made below it.
    project
        Directory with ``notebooks/``, ``pipelines/`` and ``dags/``; by default an empty one.
    settings
        Further settings by name, as in the environment: ``{"llm_backend": "none"}``.

    Attributes
    ----------
    home, env, settings
        ``env`` is the whole environment of a process that belongs to this stack.
    status_at_start
        What ``quantflow status --json`` said when the stack had just started; empty before.
    """

    def __init__(self, directory: Path, *, project: Path | None = None, settings: dict[str, str] | None = None) -> None:
        self.home = directory / "home"
        self.status_at_start: dict[str, Any] = {}
        project = project or directory / "project"
        for name in ("notebooks", "pipelines", "dags"):
            (project / name).mkdir(parents=True, exist_ok=True)
        chosen = {"home": str(self.home), "project": str(project), "llm_backend": "embedded"}
        chosen |= {name: str(port) for name, port in zip(_PORTS, free_ports(len(_PORTS)), strict=True)}
        chosen |= settings or {}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        self.env = inherited | {ENV_PREFIX + name.upper(): value for name, value in chosen.items()}
        # A test run that is killed must not leave a stack behind.
        self.env["QUANTFLOW_STACK_FOLLOW_PID"] = str(os.getpid())
        ensure_secrets(self.home)
        secrets = dict(line.split("=", 1) for line in (self.home / "secrets.env").read_text().splitlines())
        values = {**chosen, **{name.removeprefix(ENV_PREFIX).lower(): value for name, value in secrets.items()}}
        self.settings = Settings(_env_file=None, **values)  # type: ignore[arg-type]

    def cli(self, *arguments: str, check: bool = True, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run ``quantflow`` with these arguments and return what it printed.

        Raises
        ------
        AssertionError
            It failed, and ``check`` is true; shows all its output.
        """
        done = subprocess.run(
            [sys.executable, "-m", "quantflow.cli", *arguments],
            env=self.env,
            cwd=self.settings.project,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            command = " ".join(["quantflow", *arguments])
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def up(self, *arguments: str) -> None:
        """Start the stack, or with ``--only`` a part of it."""
        self.cli("up", *arguments)

    def down(self) -> None:
        """Stop everything and delete the data."""
        self.cli("reset", "--yes")
