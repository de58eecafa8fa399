"""Keeps one service and all its descendants from outliving whoever started it.

Run as a script by an isolated interpreter (``python -I -S guard.py …``): standard library
only, and small, because there is one guard per service.

The guard becomes the reaper of everything the service starts, even of what detaches
itself. It forwards the stop signal to the service, and after the grace period kills
whatever is left. If the supervisor dies, the kernel tells the guard to stop; if the
guard dies, the kernel kills the service.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICK_S = 0.1


class Orders(NamedTuple):
    """What a guard is told on its command line."""

    parent: int
    stop_signal: int
    grace_s: float
    argv: tuple[str, ...]


def arguments(orders: Orders) -> list[str]:
    """Return the command line that :func:`parse` reads."""
    return [str(orders.parent), str(orders.stop_signal), str(orders.grace_s), *orders.argv]


def parse(argv: Sequence[str]) -> Orders:
    """Read a command line."""
    parent, stop_signal, grace_s, *command = argv
    return Orders(int(parent), int(stop_signal), float(grace_s), tuple(command))


def prctl(option: int, value: int) -> None:
    """Call ``prctl(2)``; the C library of the running interpreter has it on any Linux."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) refused")


def start(orders: Orders) -> int:
    """Start the service in a session of its own and return its process id."""
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_service(orders, guard)
    except Exception as exc:  # noqa: BLE001 - the forked child must never return into the guard's loop
        sys.stderr.write(f"guard: cannot start {orders.argv[0]}: {exc}\n")
        sys.stderr.flush()
    os._exit(127)


def _become_service(orders: Orders, guard: int) -> None:
    os.setsid()
    die_with(guard)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(orders.argv[0], orders.argv)  # noqa: S606 - a list, never a shell


def die_with(parent: int) -> None:
    """Be killed when ``parent`` dies; it survives an exec, but not a change of user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before the kernel knew.
        os._exit(127)


def descendants(pid: int) -> list[int]:
    """Return the ids of everything below a process, nearest first."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (parent := parent_of(int(entry))):
            below.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    ahead = below.get(pid, [])
    while ahead:
        found.extend(ahead)
        ahead = [grandchild for child in ahead for grandchild in below.get(child, [])]
    return found


def parent_of(pid: int) -> int:
    """Return the parent's id, or 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name in parentheses may itself hold spaces and parentheses.
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def reap(service: int) -> tuple[int | None, bool]:
    """Collect what has ended: the service's exit code if it was among it, and whether anything is left."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code, False
        if pid == 0:
            return code, True
        if pid == service:
            code = os.waitstatus_to_exitcode(status)


def kill_rest(service: int) -> int | None:
    """Kill every descendant until none is left; return the service's exit code if it was one."""
    code = None
    while True:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        ended, left = reap(service)
        code = ended if ended is not None else code
        if not left:
            return code
        time.sleep(0.02)


def watch(orders: Orders) -> int:
    """Run the service to its end, leave nothing behind, return its exit code (or minus the signal)."""
    watched = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    # Blocked and then asked for, so that none can arrive between a look and a wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != orders.parent:
        return 0  # It died before the kernel was told to say so.
    service = start(orders)
    deadline: float | None = None
    while True:
        received = signal.sigtimedwait(watched, TICK_S if deadline else 3600.0)
        code, left = reap(service)
        if code is not None:
            if left:
                kill_rest(service)
            return code
        if deadline is not None and time.monotonic() >= deadline:
            code = kill_rest(service)
            return -signal.SIGKILL if code is None else code
        if deadline is None and received is not None and received.si_signo != signal.SIGCHLD:
            deadline = time.monotonic() + orders.grace_s
            os.kill(service, orders.stop_signal)


def main() -> int:
    """Watch the service of the command line."""
    code = watch(parse(sys.argv[1:]))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
