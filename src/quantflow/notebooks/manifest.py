"""The manifest of a notebook run: what went in, what came out, on which code."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Manifest", "digest_file", "environment_digest", "library_versions"]

_LIBRARIES = ("quantflow-workbench", "papermill", "nbclient", "ipykernel", "numpy", "numba", "polars", "plotly")


class Manifest(BaseModel):
    """What one notebook run saw and made. Digests are SHA-256 in hexadecimal; times are UTC.

    ``environment`` is the digest of every installed distribution with its version, so it
    changes whenever the lock file that was installed does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    state: str
    notebook: str
    notebook_digest: str
    code: dict[str, str]
    parameters: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    environment: str
    versions: dict[str, str]
    started_at: datetime
    finished_at: datetime

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=1))


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def environment_digest() -> str:
    """Return the SHA-256 of the installed distributions, one ``name==version`` a line, sorted."""
    lines = sorted({f"{str(found.metadata['Name']).lower()}=={found.version}" for found in metadata.distributions()})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def library_versions() -> Mapping[str, str]:
    """Return the versions of Python and of the libraries whose results a run depends on."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # Run from a source tree that is not installed.
            continue
    return versions
