"""Waiting in the triggerer: it ends with the run, or with its deadline, and tells no secret."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from quantflow.errors import LogUnavailableError, UnknownRunError
from quantflow.orchestration import triggers
from quantflow.orchestration.triggers import RunFinishedTrigger

# Set when the tests are collected, which may be long before they run.
FAR = (datetime.now(UTC) + timedelta(days=1)).isoformat()


def looks(monkeypatch: pytest.MonkeyPatch, *states: str | Exception) -> list[str]:
    """Let the log answer these states, one a look, the last one for ever."""
    left, asked = list(states), []

    def get_run(_log: Any, run_id: str) -> Any:
        asked.append(run_id)
        state = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(state, Exception):
            raise state
        return SimpleNamespace(state=state)

    monkeypatch.setattr(triggers, "get_run", get_run)
    monkeypatch.setattr(triggers, "_event_log", lambda: None)
    return asked


def fired(trigger: RunFinishedTrigger) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), 20))


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_it_fires_once_when_the_run_has_ended(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    asked = looks(monkeypatch, "accepted", "running", "awaiting_approval", state)
    assert fired(RunFinishedTrigger("r1.desk", FAR, 0.001)) == [{"run_id": "r1.desk", "state": state}]
    assert asked == ["r1.desk"] * 4


def test_it_waits_for_a_run_that_is_not_there_yet_and_a_log_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, UnknownRunError("none"), LogUnavailableError("away"), "succeeded")
    assert fired(RunFinishedTrigger("r1", FAR, 0.001)) == [{"run_id": "r1", "state": "succeeded"}]


def test_it_ends_with_its_deadline_and_says_what_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, "running")
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert fired(RunFinishedTrigger("r1", past)) == [{"run_id": "r1", "state": "timeout", "last_state": "running"}]


def test_another_triggerer_can_go_on_and_learns_no_secret() -> None:
    path, arguments = RunFinishedTrigger("r1", FAR, 2.0).serialize()
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))
    assert again.serialize() == (path, arguments)
    assert set(arguments) == {"run_id", "deadline", "poll_s"}


def test_a_blocked_log_does_not_block_the_triggerers_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()

    def hang(_log: Any, _run_id: str) -> Any:
        release.wait(20)
        return SimpleNamespace(state="succeeded")

    monkeypatch.setattr(triggers, "get_run", hang)
    monkeypatch.setattr(triggers, "_event_log", lambda: None)

    async def both() -> list[Any]:
        async def collect() -> list[Any]:
            return [event.payload async for event in RunFinishedTrigger("r1", FAR).run()]

        waiting = asyncio.create_task(collect())
        await asyncio.sleep(0)
        release.set()
        return await waiting

    assert asyncio.run(asyncio.wait_for(both(), 20)) == [{"run_id": "r1", "state": "succeeded"}]
