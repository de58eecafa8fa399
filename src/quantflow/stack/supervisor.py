"""The process that keeps a stack running: ``python -m quantflow.stack.supervisor``.

One thread starts, watches and restarts; a few others ask the services whether they work.
It is told what to run by a file (``run/wanted.json``, read again at SIGHUP) and tells how
it goes by another (``run/state.json``). SIGTERM stops everything, dependents first.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from quantflow.errors import StackError
from quantflow.settings import Settings
from quantflow.stack import guard
from quantflow.stack.layout import SERVICE_VARIABLE, Layout, read_json, write_json
from quantflow.stack.processes import marked_processes
from quantflow.stack.services import Service, local_services

__all__ = ["FOLLOW_VARIABLE", "Phase", "Supervisor", "main"]

#: Process that the stack must not outlive; tests set it to their own.
FOLLOW_VARIABLE = "QUANTFLOW_STACK_FOLLOW_PID"

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 15.0
#: A service that ran so long is not blamed for an earlier death.
STABLE_S = 30.0
TICK_S = 0.05
KEEP_LOG_BYTES = 10_000_000
KEPT_LOGS = 3

Phase = Literal["waiting", "starting", "healthy", "unhealthy", "done", "restarting", "stopping", "stopped"]


@dataclass
class _Running:
    """What the supervisor knows of one service."""

    service: Service
    phase: Phase = "waiting"
    guard: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None
    started: float = 0.0
    healthy_since: float = 0.0
    restarts: int = 0
    delay_s: float = FIRST_DELAY_S
    retry_at: float = 0.0
    last_exit: str = ""
    problem: str = ""
    check: Future[bool] | None = None
    next_check: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether services that need this one may start."""
        # Once it was healthy, a hiccup of it must not hold up the start of others.
        return self.phase in ("healthy", "unhealthy", "done")

    def report(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "guard": self.guard.pid if self.guard else None,
            "started": self.started or None,
            "healthy_since": self.healthy_since or None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "problem": self.problem,
            "retry_at": self.retry_at if self.phase == "restarting" else None,
        }


class Supervisor:
    """Starts, watches, restarts and stops the services of one home.

    Parameters
    ----------
    services
        All that may run, each after what it needs.
    layout
        The home's paths.
    environment
        Variables of every service.
    follow
        Process whose end ends the stack; 0 for none.
    """

    def __init__(
        self, services: dict[str, Service], layout: Layout, *, environment: dict[str, str], follow: int = 0
    ) -> None:
        self._services = services
        self._layout = layout
        self._environment = environment
        self._follow = follow
        self._running: dict[str, _Running] = {}
        self._checks = ThreadPoolExecutor(max_workers=6, thread_name_prefix="health")
        self._stopping = False
        self._reload = True
        self._reported = ""

    def run(self) -> None:
        """Keep the wanted services running until told to stop."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        while not (self._stopping and self._all_stopped()):
            if self._reload:
                self._read_wanted()
            if self._follow and not Path(f"/proc/{self._follow}").exists():
                self._stopping = True
            self._reap()
            for running in self._running.values():
                self._step(running)
            self._report()
            time.sleep(TICK_S)
        self._report()
        self._checks.shutdown(wait=False, cancel_futures=True)

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_reload(self, *_: object) -> None:
        self._reload = True

    def _read_wanted(self) -> None:
        self._reload = False
        for name in read_json(self._layout.wanted).get("services", []):
            if name in self._services and name not in self._running:
                self._running[name] = _Running(self._services[name])

    def _step(self, running: _Running) -> None:
        if self._stopping:
            self._stop(running)
        elif running.phase == "waiting":
            if all(self._running[name].ready for name in running.service.needs if name in self._running):
                self._start(running)
        elif running.phase == "restarting":
            if time.time() >= running.retry_at:
                self._start(running)
        elif running.phase in ("starting", "healthy", "unhealthy"):
            self._check(running)

    def _start(self, running: _Running) -> None:
        """Start a guard; always from this thread, because the kernel ties its life to the thread's."""
        service = running.service
        running.log = _open_log(self._layout.log(service.name))
        orders = guard.Orders(os.getpid(), service.stop_signal, service.grace_s, service.command)
        running.guard = subprocess.Popen(
            [sys.executable, *_isolation(), guard.__file__, *guard.arguments(orders)],
            stdin=subprocess.DEVNULL,
            stdout=running.log,
            stderr=subprocess.STDOUT,
            env={**self._environment, **service.environment, SERVICE_VARIABLE: service.name},
        )
        running.log.close()
        running.phase, running.started, running.healthy_since = "starting", time.time(), 0.0
        running.check, running.next_check = None, 0.0

    def _check(self, running: _Running) -> None:
        """Ask for health in another thread; take the answer when it is there."""
        now = time.time()
        if running.check is None:
            if not running.service.once and now >= running.next_check:
                running.check = self._checks.submit(running.service.healthy, running.started)
            return
        if not running.check.done():
            return
        problem = running.check.exception()
        works = problem is None and running.check.result()
        # "No" is an answer; an exception is a defect that must not look like patience.
        running.problem = f"its health check failed: {problem!r}" if problem is not None else ""
        running.check = None
        if works and running.phase != "healthy":
            running.phase, running.healthy_since = "healthy", now
        elif not works and running.phase == "healthy":
            running.phase = "unhealthy"
        running.next_check = now + (0.15 if running.phase == "starting" else 3.0)
        if running.healthy_since and now - running.healthy_since > STABLE_S:
            running.delay_s = FIRST_DELAY_S

    def _reap(self) -> None:
        """Collect every process that has ended, strangers that were left to us included."""
        by_guard = {running.guard.pid: running for running in self._running.values() if running.guard}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in by_guard:
                self._ended(by_guard[pid], os.waitstatus_to_exitcode(status))

    def _ended(self, running: _Running, code: int) -> None:
        if running.guard is not None:
            # Collected above; Popen must not wait for it again.
            running.guard.returncode = code
        running.guard = None
        # If the guard itself was killed, what it guarded has come to us.
        _kill(marked_processes(self._layout.stack_id, service=running.service.name))
        if self._stopping:
            running.phase = "stopped"
            return
        if running.service.once and code == 0:
            running.phase, running.healthy_since = "done", time.time()
            return
        running.last_exit = _exit_words(code)
        running.restarts += 1
        running.phase, running.retry_at = "restarting", time.time() + running.delay_s
        running.delay_s = min(running.delay_s * 2, LONGEST_DELAY_S)

    def _stop(self, running: _Running) -> None:
        if running.phase in ("stopping", "stopped"):
            return
        # A job that is done long since still stands between what it needs and who needs it.
        dependents = [other for other in self._running.values() if running.service.name in other.service.needs]
        if any(other.phase != "stopped" for other in dependents):
            return
        if running.guard is None:
            running.phase = "stopped"
        else:
            running.phase = "stopping"
            running.guard.send_signal(signal.SIGTERM)

    def _all_stopped(self) -> bool:
        return all(running.phase == "stopped" for running in self._running.values())

    def _report(self) -> None:
        services = {name: running.report() for name, running in self._running.items()}
        if (text := repr(services)) != self._reported:
            self._reported = text
            write_json(self._layout.state, {"supervisor": os.getpid(), "services": services})


def _isolation() -> list[str]:
    # A guard needs no site packages, unless its coverage is measured.
    return ["-I"] if "COVERAGE_PROCESS_CONFIG" in os.environ else ["-I", "-S"]


def _exit_words(code: int) -> str:
    number = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        return f"killed by {signal.Signals(number).name}" if number else f"exit status {code}"
    except ValueError:
        return f"exit status {code}"


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _open_log(path: Path) -> IO[bytes]:
    """Open a log to append to, after moving a large one aside."""
    if path.exists() and path.stat().st_size > KEEP_LOG_BYTES:
        for number in range(KEPT_LOGS - 1, 0, -1):
            older = path.with_suffix(f".log.{number}")
            if older.exists():
                older.replace(path.with_suffix(f".log.{number + 1}"))
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0)


def main() -> int:
    """Supervise the stack of the settings' home; at most one process does."""
    os.umask(0o077)
    settings = Settings.load()
    layout = Layout(settings.home)
    descriptor = os.open(layout.supervisor_lock, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StackError(f"another supervisor already runs the stack in {settings.home}") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    if ctypes.CDLL(None, use_errno=True).prctl(guard.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise StackError("the kernel refused to make the supervisor the reaper of its services")
    services = local_services(settings)
    environment = {**os.environ, **settings.environment(), "SPT_NOENV": "1", "PYTHONUNBUFFERED": "1"}
    Supervisor(services, layout, environment=environment, follow=int(os.environ.get(FOLLOW_VARIABLE, "0"))).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
