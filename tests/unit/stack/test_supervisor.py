"""The supervisor's rules, on services that are mere shell commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quantflow.stack.layout import ID_VARIABLE, Layout, read_json, write_json
from quantflow.stack.processes import marked_processes
from quantflow.testing.wait import wait_until

#: Builds services out of ``{name: {script, needs, once, healthy}}`` and supervises them.
DRIVER = """
import ctypes, json, os, sys
from pathlib import Path
from quantflow.stack import guard, supervisor
from quantflow.stack.layout import Layout
from quantflow.stack.services import Service

home, table, follow = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
services = {}
for name, row in table.items():
    sign = row.get("healthy", "/")
    services[name] = Service(
        name, name, ("/bin/sh", "-c", row["script"]), healthy=lambda _started, sign=sign: Path(sign).exists(),
        needs=tuple(row.get("needs", ())), once=row.get("once", False), grace_s=2.0,
    )
ctypes.CDLL(None).prctl(guard.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
supervisor.Supervisor(services, Layout(home), environment=dict(os.environ), follow=follow).run()
"""

FOREVER = "exec sleep 600"


class Supervised:
    """A supervisor process and what it says."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes]) -> None:
        self.layout = Layout(home)
        self.process = process

    def reports(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = read_json(self.layout.state).get("services", {})
        return found

    def phases(self) -> dict[str, str]:
        return {name: report["phase"] for name, report in self.reports().items()}

    def want(self, *names: str) -> None:
        write_json(self.layout.wanted, {"services": list(names)})
        self.process.send_signal(signal.SIGHUP)

    def wait_for(self, **phases: str) -> None:
        expected = phases.items()
        wait_until(lambda: expected <= self.phases().items(), 15, lambda: f"{phases}, it is {self.phases()}")


@contextmanager
def supervised(
    home: Path, table: dict[str, dict[str, Any]], *, follow: int = 0, only: tuple[str, ...] = ()
) -> Iterator[Supervised]:
    layout = Layout(home)
    layout.make()
    write_json(layout.wanted, {"services": list(only or table)})
    command = [sys.executable, "-c", DRIVER, str(home), json.dumps(table), str(follow)]
    with subprocess.Popen(command, env={**os.environ, ID_VARIABLE: layout.stack_id}) as process:
        try:
            yield Supervised(home, process)
        finally:
            process.terminate()
            process.wait(20)
    wait_until(lambda: not marked_processes(layout.stack_id), 10, "the end of every process")


def test_a_service_waits_for_what_it_needs(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    table = {"ground": {"script": FOREVER, "healthy": str(ready)}, "above": {"script": FOREVER, "needs": ["ground"]}}
    with supervised(tmp_path / "home", table) as stack:
        stack.wait_for(ground="starting", above="waiting")
        ready.touch()
        stack.wait_for(ground="healthy", above="healthy")


def test_a_job_is_done_when_it_ends_with_zero(tmp_path: Path) -> None:
    table = {"job": {"script": "true", "once": True}, "after": {"script": FOREVER, "needs": ["job"]}}
    with supervised(tmp_path / "home", table) as stack:
        stack.wait_for(job="done", after="healthy")


def test_a_service_that_dies_is_started_again_and_counted(tmp_path: Path) -> None:
    with supervised(tmp_path / "home", {"mortal": {"script": FOREVER}}) as stack:
        stack.wait_for(mortal="healthy")
        os.kill(stack.reports()["mortal"]["guard"], signal.SIGKILL)
        wait_until(lambda: stack.reports()["mortal"]["restarts"] == 1, 10, "the restart")
        stack.wait_for(mortal="healthy")
        assert stack.reports()["mortal"]["last_exit"] == "killed by SIGKILL"


@pytest.mark.slow
def test_the_pause_before_a_restart_doubles(tmp_path: Path) -> None:
    with supervised(tmp_path / "home", {"broken": {"script": "exit 4"}}) as stack:
        wait_until(lambda: stack.reports().get("broken", {}).get("restarts", 0) >= 3, 15, "three deaths")
        report = stack.reports()["broken"]
        assert report["last_exit"] == "exit status 4"
        assert stack.phases()["broken"] == "restarting"
        assert report["retry_at"] - report["started"] > 1.5


@pytest.mark.slow
def test_a_service_that_stops_working_is_shown_but_left_alone(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    sign.touch()
    with supervised(tmp_path / "home", {"moody": {"script": FOREVER, "healthy": str(sign)}}) as stack:
        stack.wait_for(moody="healthy")
        sign.unlink()
        stack.wait_for(moody="unhealthy")
        assert stack.reports()["moody"]["restarts"] == 0


def test_a_health_check_that_fails_is_named_not_awaited(tmp_path: Path) -> None:
    with supervised(tmp_path / "home", {"blind": {"script": FOREVER, "healthy": 17.5}}) as stack:
        wait_until(lambda: "TypeError" in stack.reports().get("blind", {}).get("problem", ""), 10, stack.reports)
        assert stack.phases()["blind"] == "starting"


def test_more_services_can_be_asked_for_later(tmp_path: Path) -> None:
    table = {"first": {"script": FOREVER}, "second": {"script": FOREVER}}
    with supervised(tmp_path / "home", table, only=("first",)) as stack:
        stack.wait_for(first="healthy")
        before = stack.reports()["first"]["guard"]
        assert "second" not in stack.phases()
        stack.want("first", "second")
        stack.wait_for(first="healthy", second="healthy")
        assert stack.reports()["first"]["guard"] == before


def test_dependents_stop_before_what_they_need(tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    def noting(name: str, *needs: str) -> dict[str, Any]:
        sign = tmp_path / f"{name} listens"
        script = f"trap 'echo {name} >> {notes}; exit 0' TERM; touch '{sign}'; while :; do sleep 0.05; done"
        return {"script": script, "needs": list(needs), "healthy": str(sign)}

    job = {"script": "true", "needs": ["ground"], "once": True}
    table = {"ground": noting("ground"), "job": job, "above": noting("above", "job")}
    with supervised(tmp_path / "home", table) as stack:
        stack.wait_for(ground="healthy", job="done", above="healthy")
    assert notes.read_text().split() == ["above", "ground"]
    assert set(stack.phases().values()) == {"stopped"}


@pytest.mark.parametrize("victim", ["supervisor", "followed"])
def test_nothing_outlives_the_supervisor_or_what_it_follows(tmp_path: Path, victim: str) -> None:
    with subprocess.Popen(["sleep", "600"]) as followed:
        table = {"service": {"script": "sleep 600 & exec sleep 601"}}
        with supervised(tmp_path / "home", table, follow=followed.pid) as stack:
            stack.wait_for(service="healthy")
            (stack.process if victim == "supervisor" else followed).kill()
            followed.wait(10) if victim == "followed" else stack.process.wait(10)
            wait_until(lambda: not marked_processes(stack.layout.stack_id, service="service"), 15, "its services' end")
        followed.kill()
