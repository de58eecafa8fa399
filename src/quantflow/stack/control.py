"""Starting, looking at, stopping and deleting the stack of one home."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quantflow.errors import ServiceFailedError, StackError
from quantflow.settings import Settings, ensure_secrets, secrets_path
from quantflow.stack import postgres
from quantflow.stack.layout import ID_VARIABLE, Layout, read_json, write_json
from quantflow.stack.processes import check_ports, sweep, usage
from quantflow.stack.services import Service, local_services, select

__all__ = ["ServiceStatus", "StackStatus", "down", "follow_log", "log_tail", "reset", "status", "up"]

POLL_S = 0.1
#: So many deaths while it starts, and ``up`` stops waiting for a service.
HOPELESS = 3

#: What everything in a home was told at its start; it cannot change while the stack runs.
_FIXED = (
    "host", "kafka_port", "kafka_controller_port", "postgres_port", "airflow_port", "api_port", "llm_port",
    "kafka_bootstrap", "airflow_url", "api_url", "llm_url", "llm_backend", "topic_prefix", "project",
)  # fmt: skip

#: What a home holds; ``reset`` deletes nothing else.
_DATA = ("airflow", "bars", "kafka", "live", "logs", "reports", "research", "run", "runs", "versions")


@dataclass(frozen=True)
class ServiceStatus:
    """One service, as the supervisor last saw it.

    ``uptime_s`` is seconds since the process started, ``took_s`` how long it needed to become
    healthy, ``memory_bytes`` the proportional set size of it and its children.
    """

    name: str
    title: str
    phase: str
    pid: int | None
    uptime_s: float | None
    took_s: float | None
    restarts: int
    last_exit: str
    problem: str
    memory_bytes: int
    rss_bytes: int
    address: str

    @property
    def ready(self) -> bool:
        """Whether it does its work: healthy, or a job that is done."""
        return self.phase in ("healthy", "done")


@dataclass(frozen=True)
class StackStatus:
    """The supervisor's process id, if one runs, and every service that was asked for."""

    home: Path
    supervisor: int | None
    services: tuple[ServiceStatus, ...]

    @property
    def ready(self) -> bool:
        """Whether a supervisor runs and every service that was asked for is ready."""
        return self.supervisor is not None and all(service.ready for service in self.services)


def up(
    settings: Settings,
    only: Sequence[str] = (),
    *,
    timeout_s: float = 300.0,
    on_progress: Callable[[StackStatus], None] | None = None,
) -> StackStatus:
    """Start what does not run yet and return when all of it works; running twice changes nothing.

    Parameters
    ----------
    settings
        Where everything is and listens; secrets that are missing are generated.
    only
        Names of services; what they need comes with them. Empty: all.
    timeout_s
        Seconds for everything together to become healthy.
    on_progress
        Called about ten times a second with the state so far.

    Raises
    ------
    PortBusyError
        Another process holds a port; nothing was started.
    ServiceFailedError
        A service does not become healthy; what did start goes on running.
    StackError
        An unknown service, or a stack that runs with other settings.
    """
    layout = Layout(settings.home)
    layout.make()
    ensure_secrets(settings.home)
    services = local_services(settings)
    names = select(services, only)
    with _alone(layout):
        _begin(settings, layout, services, names)
    return _wait(settings, names, timeout_s=timeout_s, on_progress=on_progress)


def down(settings: Settings, *, timeout_s: float = 60.0) -> int:
    """Stop everything in good order and return how many processes had to be killed."""
    layout = Layout(settings.home)
    if not layout.run.exists():
        return 0
    with _alone(layout):
        return _stop(layout, timeout_s)


def reset(settings: Settings) -> None:
    """Stop everything and delete all data and secrets of the home; there is no way back."""
    layout = Layout(settings.home)
    if not layout.run.exists():
        return
    with _alone(layout):
        _stop(layout, timeout_s=30.0)
        postgres.remove_data(layout)
        for name in _DATA:
            shutil.rmtree(settings.home / name, ignore_errors=True)
        secrets_path(settings.home).unlink(missing_ok=True)
    if not any(settings.home.iterdir()):
        settings.home.rmdir()


def status(settings: Settings, *, memory: bool = True) -> StackStatus:
    """Return what runs; ``memory=False`` spares looking at every process."""
    layout = Layout(settings.home)
    supervisor = _supervisor(layout)
    state = read_json(layout.state)
    current = state if state.get("supervisor") == supervisor else {}
    reports = current.get("services", {})
    services = local_services(settings)
    wanted = read_json(layout.wanted).get("services", list(services))
    found = tuple(
        _service_status(services[name], reports.get(name, {}), alive=supervisor is not None, memory=memory)
        for name in services
        if name in wanted
    )
    return StackStatus(settings.home, supervisor, found)


def log_tail(settings: Settings, service: str, lines: int = 50) -> str:
    """Return the last lines of a service's log.

    Raises
    ------
    StackError
        There is no such log; names those that there are.
    """
    path = _log_path(settings, service)
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        # Lines of this length are rare enough; the whole log may be megabytes.
        file.seek(max(0, file.tell() - lines * 2_000))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def follow_log(settings: Settings, service: str) -> Iterator[str]:
    """Yield what is written to a service's log from now on, for ever; survives its rotation."""
    path = _log_path(settings, service)
    file: IO[str] = path.open(errors="replace")
    try:
        file.seek(0, os.SEEK_END)
        while True:
            if text := file.read():
                yield text
                continue
            time.sleep(POLL_S)
            if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = path.open(errors="replace")
    finally:
        file.close()


def _begin(settings: Settings, layout: Layout, services: dict[str, Service], names: list[str]) -> None:
    supervisor = _supervisor(layout)
    known = read_json(layout.wanted) if supervisor else {}
    if supervisor is None:
        sweep(layout.stack_id)
    else:
        _refuse_other_settings(settings, known)
    running = known.get("services", [])
    new = [services[name] for name in names if name not in running]
    check_ports(settings.host, [(service.title, *port) for service in new for port in service.ports])
    fixed = {name: str(getattr(settings, name)) for name in _FIXED}
    write_json(layout.wanted, {"services": [*running, *(service.name for service in new)], "settings": fixed})
    if supervisor is None:
        _launch(settings, layout)
    elif new:
        os.kill(supervisor, signal.SIGHUP)


def _launch(settings: Settings, layout: Layout) -> None:
    """Start a supervisor that outlives us and wait until it holds its lock."""
    layout.state.unlink(missing_ok=True)
    descriptor = os.open(layout.log("supervisor"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "quantflow.stack.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **settings.environment(), ID_VARIABLE: layout.stack_id},
        )
    while read_json(layout.state).get("supervisor") != process.pid:
        if process.poll() is not None:
            tail = log_tail(settings, "supervisor", 20)
            raise ServiceFailedError(f"the supervisor ended at once ({process.returncode}):\n{tail}")
        time.sleep(POLL_S / 2)
    # It is meant to outlive this process: nobody here waits for it.
    process.returncode = 0


def _wait(
    settings: Settings, names: list[str], *, timeout_s: float, on_progress: Callable[[StackStatus], None] | None
) -> StackStatus:
    deadline = time.monotonic() + timeout_s
    before = {service.name: service.restarts for service in status(settings, memory=False).services}
    while True:
        current = status(settings, memory=False)
        if on_progress is not None:
            on_progress(current)
        asked = [service for service in current.services if service.name in names]
        if current.supervisor is None:
            raise ServiceFailedError(f"the supervisor died:\n{log_tail(settings, 'supervisor', 20)}")
        if all(service.ready for service in asked):
            return status(settings)
        hopeless = [service for service in asked if service.restarts - before.get(service.name, 0) >= HOPELESS]
        late = [service for service in asked if not service.ready] if time.monotonic() > deadline else []
        if hopeless or late:
            raise ServiceFailedError(_explain(settings, hopeless or late, timeout_s))
        time.sleep(POLL_S)


def _explain(settings: Settings, failed: Sequence[ServiceStatus], timeout_s: float) -> str:
    parts = []
    for service in failed:
        why = f"ended: {service.last_exit}" if service.last_exit else f"{service.phase} after {timeout_s:g} s"
        why = service.problem or why
        if service.phase == "waiting":
            parts.append(f"{service.name} still waits for what it needs")
            continue
        try:
            tail = log_tail(settings, service.name, 15)
        except StackError:
            tail = "(it has written nothing)"
        parts.append(f"{service.name} does not become healthy ({why}). The end of its log:\n{tail}")
    hint = "The rest goes on running; `quantflow logs SERVICE` shows more, `quantflow down` stops it."
    return "\n".join([*parts, hint])


def _stop(layout: Layout, timeout_s: float) -> int:
    supervisor = _supervisor(layout)
    if supervisor is not None:
        os.kill(supervisor, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while _supervisor(layout) is not None and time.monotonic() < deadline:
            time.sleep(POLL_S / 2)
    killed = sweep(layout.stack_id)
    layout.state.unlink(missing_ok=True)
    layout.wanted.unlink(missing_ok=True)
    return killed


def _supervisor(layout: Layout) -> int | None:
    """Return the living supervisor's process id: who holds the lock lives, whatever a file says."""
    try:
        with layout.supervisor_lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Let nobody else change this stack meanwhile."""
    with layout.up_lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_other_settings(settings: Settings, known: dict[str, object]) -> None:
    before = known.get("settings")
    if not isinstance(before, dict):
        return
    changed = [
        f"{name} is {before[name]!r} there and {str(getattr(settings, name))!r} here"
        for name in _FIXED
        if name in before and before[name] != str(getattr(settings, name))
    ]
    if changed:
        listing = "; ".join(changed)
        raise StackError(
            f"the stack in {settings.home} runs with other settings: {listing}. "
            "Run `quantflow down` first, or set QUANTFLOW_HOME to another directory for a second stack."
        )


def _service_status(service: Service, report: dict[str, object], *, alive: bool, memory: bool) -> ServiceStatus:
    guard = report.get("guard")
    pid = _first_child(int(str(guard))) if alive and guard else None
    used = usage(int(str(guard))) if alive and guard and memory else None
    started, healthy = (float(str(report.get(key) or 0)) for key in ("started", "healthy_since"))
    return ServiceStatus(
        name=service.name,
        title=service.title,
        phase=str(report.get("phase", "waiting")) if alive else "stopped",
        pid=pid,
        uptime_s=time.time() - started if pid and started else None,
        took_s=healthy - started if healthy else None,
        restarts=int(str(report.get("restarts") or 0)),
        last_exit=str(report.get("last_exit") or ""),
        problem=str(report.get("problem") or "") if alive else "",
        memory_bytes=used.pss if used else 0,
        rss_bytes=used.rss if used else 0,
        address=service.address,
    )


def _first_child(guard: int) -> int | None:
    from quantflow.stack.guard import parent_of

    try:
        children = [int(pid) for pid in Path(f"/proc/{guard}/task/{guard}/children").read_text().split()]
    except OSError:
        everything = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        children = [pid for pid in everything if parent_of(pid) == guard]
    return children[0] if children else None


def _log_path(settings: Settings, service: str) -> Path:
    layout = Layout(settings.home)
    path = layout.log(service)
    if not path.exists():
        known = ", ".join(sorted(found.stem for found in layout.logs.glob("*.log"))) or "none yet"
        raise StackError(f"there is no log of {service!r} in {layout.logs}; there are: {known}")
    return path
