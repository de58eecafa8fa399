"""Finding processes: those of a stack, by the mark in their environment, and whoever holds a port."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantflow.errors import PortBusyError
from quantflow.settings import ENV_PREFIX
from quantflow.stack.layout import ID_VARIABLE, SERVICE_VARIABLE

__all__ = ["Usage", "check_ports", "marked_processes", "port_holder", "sweep", "usage"]


@dataclass(frozen=True)
class Usage:
    """Memory of a process tree in bytes; ``pss`` counts shared pages once, ``rss`` each time."""

    processes: int
    rss: int
    pss: int


def marked_processes(stack_id: str, *, service: str | None = None) -> list[int]:
    """Return the ids of all living processes of a stack (of one of its services), this one excepted.

    Processes of other users, which cannot be looked into, are not found.
    """
    wanted = {f"{ID_VARIABLE}={stack_id}".encode()}
    if service is not None:
        wanted.add(f"{SERVICE_VARIABLE}={service}".encode())
    own = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        try:
            variables = set((entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if wanted <= variables:
            found.append(int(entry.name))
    return found


def sweep(stack_id: str, *, service: str | None = None, grace_s: float = 12.0) -> int:
    """End every process of a stack and return how many had to be killed.

    They have ``grace_s`` seconds to go by themselves: the guards of a supervisor that was
    killed are just then stopping their services in good order.
    """
    deadline = time.monotonic() + grace_s
    while (left := marked_processes(stack_id, service=service)) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = 0
    while left:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        time.sleep(0.05)
        left = marked_processes(stack_id, service=service)
    return killed


def check_ports(host: str, ports: Iterable[tuple[str, str, int]]) -> None:
    """Refuse to go on if one of ``(service title, setting, port)`` is taken.

    Raises
    ------
    PortBusyError
        Names each busy port, its setting and the process that holds it.
    """
    busy = [(title, name, port) for title, name, port in ports if not _is_free(host, port)]
    if not busy:
        return
    lines = [
        f"  - port {port} ({ENV_PREFIX}{name.upper()}, for {title}) is held by {port_holder(port)}"
        for title, name, port in busy
    ]
    listing = "\n".join(lines)
    raise PortBusyError(f"nothing was started:\n{listing}\nStop that process, or set the variable to a free port.")


def port_holder(port: int) -> str:
    """Return words for the process that listens on a port."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                break
            return _describe(connection.pid)
    return "a process that may not be seen by this user (look with: sudo ss -ltnp)"


def usage(pid: int) -> Usage:
    """Return what a process and all its descendants use; zeros if it has ended."""
    import psutil

    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return Usage(0, 0, 0)
    rss = pss = count = 0
    for process in tree:
        try:
            resident = process.memory_info().rss
            proportional = _proportional(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        count += 1
        rss += resident
        pss += proportional if proportional is not None else resident
    return Usage(count, rss, pss)


def _proportional(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def _describe(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())[:160] or process.name()
        environment = process.environ()
    except psutil.NoSuchProcess:
        return f"process {pid}, which has just ended"
    except psutil.AccessDenied:
        return f"process {pid} of another user"
    if ID_VARIABLE in environment:
        home = environment.get(f"{ENV_PREFIX}HOME", "another home")
        return f"process {pid}, {environment.get(SERVICE_VARIABLE, 'a service')} of the quantflow stack in {home}"
    return f"process {pid} ({command})"


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: what an earlier server left in TIME_WAIT does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
