"""Loops that survive, and the live service that follows promotions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from quantflow.errors import EngineUnavailableError, QuantflowError, SignalError
from quantflow.orchestration import live_service, loops
from quantflow.orchestration.live_service import LiveService
from quantflow.orchestration.loops import Loops
from quantflow.testing.wait import wait_until


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_loop_repeats_until_it_is_stopped(stop: threading.Event) -> None:
    calls: list[int] = []

    def work() -> bool:
        calls.append(1)
        return True

    running = Loops(stop)
    running.repeat("work", work, pause_s=10.0)
    wait_until(lambda: len(calls) >= 3, 5)
    stop.set()
    assert running.join(5)
    assert running.failed is False


def test_a_loop_survives_what_may_pass(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_FIRST_PAUSE_S", 0.001)
    calls: list[int] = []

    def work() -> bool:
        calls.append(1)
        if len(calls) < 5:
            raise EngineUnavailableError("away")
        return False

    running = Loops(stop)
    running.repeat("work", work, pause_s=0.001)
    wait_until(lambda: len(calls) >= 6, 5)
    assert not stop.is_set()


def test_a_loop_that_dies_of_a_surprise_ends_the_service(stop: threading.Event) -> None:
    def work() -> bool:
        raise ZeroDivisionError

    running = Loops(stop)
    running.repeat("work", work, pause_s=1.0)
    assert stop.wait(5)
    assert running.join(5)
    assert running.failed is True


def test_a_body_is_run_again_after_trouble(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_FIRST_PAUSE_S", 0.001)
    starts: list[int] = []

    def body(end: threading.Event) -> None:
        starts.append(1)
        if len(starts) == 1:
            raise QuantflowError("once")
        end.wait(20)

    running = Loops(stop)
    running.run("body", body)
    wait_until(lambda: len(starts) == 2, 5)
    stop.set()
    assert running.join(5)


def version(pipeline: str, number: int) -> Any:
    return SimpleNamespace(pipeline=pipeline, number=number, version_id=f"{pipeline}-{number}")


class Live:
    """Versions that run until they are stopped; keeps the order of what began and ended."""

    def __init__(self) -> None:
        self.active: list[Any] = []
        self.story: list[str] = []
        self.fail: set[str] = set()
        self.service = LiveService(lambda: self.active, self.run)

    def run(self, promoted: Any, stop: threading.Event) -> None:
        self.story.append(f"+{promoted.version_id}")
        if promoted.version_id in self.fail:
            raise SignalError("a bar lacks its column")
        assert stop.wait(20)
        self.story.append(f"-{promoted.version_id}")


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live()
    yield made
    made.service.close()


def test_every_active_version_runs_once(live: Live) -> None:
    live.active = [version("a", 1), version("b", 1)]
    for _ in range(3):
        live.service.once()
    wait_until(lambda: len(live.story) == 2, 5)
    assert set(live.service.running.values()) == {"a-1", "b-1"}


def test_a_new_version_starts_after_the_old_one_ended(live: Live) -> None:
    live.active = [version("a", 1)]
    live.service.once()
    wait_until(lambda: live.story == ["+a-1"], 5)
    live.active = [version("a", 2)]
    live.service.once()
    wait_until(lambda: live.story == ["+a-1", "-a-1", "+a-2"], 5)


def test_a_withdrawn_pipeline_stops(live: Live) -> None:
    live.active = [version("a", 1)]
    live.service.once()
    wait_until(lambda: live.story == ["+a-1"], 5)
    live.active = []
    live.service.once()
    assert live.story == ["+a-1", "-a-1"]
    assert live.service.running == {}


def test_a_signal_that_raises_leaves_the_others_alone_and_is_tried_again(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_service, "RESTART_S", 0.0)
    live.fail = {"a-1"}
    live.active = [version("a", 1), version("b", 1)]

    def tried_again() -> bool:
        live.service.once()
        return live.story.count("+a-1") >= 3

    wait_until(tried_again, 10)
    assert live.service.running["b"] == "b-1"
    assert live.story.count("+b-1") == 1


def test_a_signal_that_raised_is_not_tried_again_at_once(live: Live) -> None:
    live.fail = {"a-1"}
    live.active = [version("a", 1)]
    live.service.once()
    wait_until(lambda: live.service.running == {}, 5)
    for _ in range(5):
        live.service.once()
    assert live.story == ["+a-1"]


def test_a_version_that_does_not_stop_has_none_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_service, "STOP_S", 0.05)
    release = threading.Event()
    active = [version("a", 1)]
    service = LiveService(lambda: active, lambda _version, _stop: bool(release.wait(20)) and None)
    service.once()
    active[:] = [version("a", 2)]
    with pytest.raises(QuantflowError, match="did not stop"):
        service.once()
    assert service.running == {"a": "a-1"}
    release.set()
