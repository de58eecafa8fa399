"""The listener observes, and never breaks or slows Airflow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from quantflow.errors import LogUnavailableError
from quantflow.events.types import RunStateObserved, TaskStateObserved
from quantflow.orchestration import listener
from quantflow.orchestration.listener import Recorder
from quantflow.orchestration.observations import task_seen
from quantflow.orchestration.plugin import QuantflowPlugin

SEEN = datetime(2024, 5, 6, tzinfo=UTC)


class MemoryLog:
    """Keeps what is appended; away or slow on demand."""

    def __init__(self) -> None:
        self.appended: list[tuple[str, Any]] = []
        self.away = False
        self.open = threading.Event()
        self.open.set()

    def get(self, event_id: str) -> None:
        return None

    def append(self, stream: str, drafts: Any) -> None:
        assert self.open.wait(20)
        if self.away:
            raise LogUnavailableError("away")
        self.appended += [(stream, draft.event) for draft in drafts]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def recorder(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder(lambda: log)
    monkeypatch.setattr(listener, "_recorder", lambda: made)
    yield made
    log.open.set()
    made.flush(5)


def task(dag_id: str = "quantflow__m", **changes: Any) -> Any:
    dag = SimpleNamespace(task_ids=["a", "b", "c"])
    values = {"dag_id": dag_id, "run_id": "r1", "task_id": "a", "try_number": 1, "task": SimpleNamespace(dag=dag)}
    return SimpleNamespace(**{**values, "state": None, **changes})


def test_each_hook_of_a_task_is_one_observation(recorder: Recorder, log: MemoryLog) -> None:
    listener.on_task_instance_running(task())
    listener.on_task_instance_success(task())
    listener.on_task_instance_skipped(task())
    listener.on_task_instance_failed(task(state="up_for_retry"), RuntimeError("x"))
    listener.on_task_instance_failed(task(state="failed"), None)
    assert recorder.flush(5)
    states = [event.state for _, event in log.appended]
    assert states == ["running", "success", "skipped", "up_for_retry", "failed"]
    stream, event = log.appended[0]
    assert isinstance(event, TaskStateObserved)
    assert (stream, event.task_id, event.tasks_total, event.origin) == ("run-r1", "a", 3, "listener")


def test_each_hook_of_a_run_is_one_observation(recorder: Recorder, log: MemoryLog) -> None:
    run = SimpleNamespace(dag_id="quantflow__m", run_id="scheduled__2026-11-21T00:00:00+00:00")
    listener.on_dag_run_running(run, "started")
    listener.on_dag_run_success(run, "done")
    listener.on_dag_run_failed(run, "task_failure")
    assert recorder.flush(5)
    seen = [event for _, event in log.appended]
    assert all(isinstance(event, RunStateObserved) for event in seen)
    assert [(event.state, event.detail) for event in seen] == [
        ("running", None),
        ("succeeded", None),
        ("failed", "task_failure"),
    ]
    assert {stream for stream, _ in log.appended} == {"run-m.scheduled__2026-11-21T00:00:00-00:00"}


def test_other_peoples_dags_are_not_observed(recorder: Recorder, log: MemoryLog) -> None:
    listener.on_task_instance_success(task("quantflow_bars"))
    listener.on_dag_run_success(SimpleNamespace(dag_id="theirs", run_id="r"), "done")
    assert recorder.flush(5)
    assert log.appended == []


def test_a_broken_task_instance_breaks_nothing(recorder: Recorder, log: MemoryLog) -> None:
    listener.on_task_instance_success(SimpleNamespace())
    listener.on_dag_run_failed(None, "x")
    assert recorder.flush(5)
    assert log.appended == []


def test_a_log_that_is_away_breaks_nothing_and_later_ones_are_written(recorder: Recorder, log: MemoryLog) -> None:
    log.away = True
    listener.on_task_instance_running(task())
    assert recorder.flush(5)
    log.away = False
    listener.on_task_instance_success(task())
    assert recorder.flush(5)
    assert [event.state for _, event in log.appended] == ["success"]


def test_a_slow_log_does_not_hold_the_hook(recorder: Recorder, log: MemoryLog) -> None:
    log.open.clear()
    for _ in range(50):
        listener.on_task_instance_running(task())
    assert recorder.flush(0.05) is False
    log.open.set()
    assert recorder.flush(5)
    assert len(log.appended) == 50


def test_a_full_backlog_drops_instead_of_waiting(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_LARGEST_BACKLOG", 3)
    log.open.clear()
    recorder = Recorder(lambda: log)
    draft = task_seen("r1", "a", "running", 1, at=SEEN, origin="listener")
    for _ in range(20):
        recorder.put("r1", draft)
    log.open.set()
    assert recorder.flush(5)
    assert 3 <= len(log.appended) <= 4


def test_a_forked_process_gets_a_recorder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_recorders", {})
    mine = listener._recorder()
    assert listener._recorder() is mine
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert listener._recorder() is not mine


def test_the_plugin_is_one_that_airflow_accepts() -> None:
    from airflow.sdk._shared.plugins_manager import is_valid_plugin

    assert is_valid_plugin(QuantflowPlugin)
    assert QuantflowPlugin.listeners == [listener]


def test_every_hook_fits_airflows_specification() -> None:
    from airflow.listeners.spec import dagrun
    from airflow.sdk._shared.listeners.listener import ListenerManager
    from airflow.sdk._shared.listeners.spec import lifecycle, taskinstance

    manager = ListenerManager()
    for specification in (lifecycle, taskinstance, dagrun):
        manager.add_hookspecs(specification)
    manager.add_listener(listener)
    manager.pm.check_pending()
