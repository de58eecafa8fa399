"""Where a home keeps what, and how its processes are recognised."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ID_VARIABLE", "SERVICE_VARIABLE", "Layout", "read_json", "write_json"]

#: Environment variables that mark every process of a stack, so that none can be overlooked.
ID_VARIABLE = "QUANTFLOW_STACK_ID"
SERVICE_VARIABLE = "QUANTFLOW_SERVICE"


@dataclass(frozen=True)
class Layout:
    """Paths below one home."""

    home: Path

    @property
    def stack_id(self) -> str:
        """Short name of this home, the same for every spelling of its path."""
        return hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:16]

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def run(self) -> Path:
        """Locks and state of the running stack; never data."""
        return self.home / "run"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.run / "supervisor.lock"

    @property
    def up_lock(self) -> Path:
        """Held while ``up``, ``down`` or ``reset`` change the stack."""
        return self.run / "up.lock"

    @property
    def wanted(self) -> Path:
        """The services that the supervisor is asked to run."""
        return self.run / "wanted.json"

    @property
    def state(self) -> Path:
        """What the supervisor says about each service."""
        return self.run / "state.json"

    @property
    def kafka(self) -> Path:
        return self.home / "kafka"

    @property
    def postgres(self) -> Path:
        """Home of PostgreSQL's data, or of the note that says where they are instead."""
        return self.home / "postgres"

    @property
    def airflow(self) -> Path:
        return self.home / "airflow"

    def log(self, service: str) -> Path:
        """Log file of a service."""
        return self.logs / f"{service}.log"

    def make(self) -> None:
        """Create the directories; only their owner may read them."""
        self.home.mkdir(parents=True, exist_ok=True)
        for directory in (self.logs, self.run):
            directory.mkdir(mode=0o700, exist_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or an empty one where there is none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    found = json.loads(text) if text.strip() else {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: Mapping[str, Any], *, mode: int = 0o600) -> None:
    """Replace a file at once, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=1)
    temporary.replace(path)
