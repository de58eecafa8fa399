"""The guard leaves nothing behind, however the service or the guard itself ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from quantflow.stack import guard
from quantflow.testing.wait import wait_until

SHELL = "/bin/sh"
#: Leaves a child in a session of its own, as daemons do.
DETACHING = """
import os
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
    os.execlp("sleep", "sleep", "600")
os.wait()
"""


def guarded(*argv: str, grace_s: float = 5.0, stop_signal: int = signal.SIGTERM) -> subprocess.Popen[str]:
    orders = guard.Orders(os.getpid(), stop_signal, grace_s, argv)
    command = [sys.executable, "-m", "quantflow.stack.guard", *guard.arguments(orders)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_orders_survive_the_command_line() -> None:
    orders = guard.Orders(17, 2, 1.5, ("sleep", "3"))
    assert guard.parse(guard.arguments(orders)) == orders


def test_the_exit_status_of_the_service_is_the_guards() -> None:
    with guarded(SHELL, "-c", "exit 3") as process:
        assert process.wait(10) == 3


def test_a_program_that_is_not_there_is_named() -> None:
    with guarded("/nowhere/program") as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 127
    assert "/nowhere/program" in errors


def test_children_that_a_service_leaves_behind_are_killed() -> None:
    with guarded(SHELL, "-c", "sleep 600 & echo $!; exit 0") as process:
        left = int(first_line(process))
        assert process.wait(10) == 0
    wait_until(lambda: not lives(left), 5, "the child's end")


def test_a_child_in_a_session_of_its_own_is_killed_too() -> None:
    with guarded(sys.executable, "-c", DETACHING) as process:
        detached = int(first_line(process))
        process.terminate()
        process.wait(10)
    wait_until(lambda: not lives(detached), 5, "the detached child's end")


def test_the_stop_signal_of_the_service_is_sent() -> None:
    script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    with guarded(SHELL, "-c", script, stop_signal=signal.SIGINT) as process:
        assert first_line(process) == "ready"
        process.terminate()
        assert first_line(process) == "interrupted"
        assert process.wait(10) == 5


def test_a_service_that_will_not_stop_is_killed_after_its_grace() -> None:
    with guarded(SHELL, "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done", grace_s=0.3) as process:
        assert first_line(process) == "ready"
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGKILL


def test_a_service_dies_with_its_guard() -> None:
    with guarded(SHELL, "-c", "echo $$; exec sleep 600") as process:
        service = int(first_line(process))
        process.kill()
        process.wait(10)
    wait_until(lambda: not lives(service), 5, "the service's end")


def test_a_guard_whose_parent_is_another_starts_nothing() -> None:
    orders = guard.Orders(1, signal.SIGTERM, 1.0, (SHELL, "-c", "echo started"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", guard.__file__, *guard.arguments(orders)],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert done.stdout == ""


def test_descendants_are_found_over_generations() -> None:
    with guarded(SHELL, "-c", "sleep 600 & echo $!; wait") as process:
        grandchild = int(first_line(process))
        assert grandchild in guard.descendants(os.getpid())
        assert guard.parent_of(process.pid) == os.getpid()
        process.terminate()
        process.wait(10)
    assert guard.parent_of(2**22 + 1) == 0
