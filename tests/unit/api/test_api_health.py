"""Health: what is asked, within which time, and what it means."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from quantflow.api.health import Check, HealthBoard, checks_of
from quantflow.api.service import Parts
from quantflow.errors import TransportError
from quantflow.settings import Settings


@contextmanager
def board(checks: dict[str, Check], **options: Any) -> Iterator[HealthBoard]:
    made = HealthBoard(checks, **{"keep_s": 0.0, **options})
    try:
        yield made
    finally:
        made.close()


def up() -> str | None:
    return None


def down() -> str | None:
    raise TransportError("the broker is away")


def test_everything_up_is_ok() -> None:
    with board({"kafka": Check(up, required=True), "worker": Check(up)}) as health:
        found = health.look()
    assert found.status == "ok"
    assert {part.status for part in found.dependencies.values()} == {"up"}


def test_without_a_required_part_it_is_unavailable() -> None:
    with board({"kafka": Check(down, required=True), "worker": Check(up)}) as health:
        found = health.look()
    assert found.status == "unavailable"
    assert found.dependencies["kafka"].detail == "the broker is away"


def test_without_another_part_it_is_degraded() -> None:
    with board({"kafka": Check(up, required=True), "worker": Check(down)}) as health:
        assert health.look().status == "degraded"


def test_a_probe_that_raises_anything_is_down() -> None:
    def broken() -> str | None:
        raise ZeroDivisionError

    with board({"kafka": Check(broken, required=True)}) as health:
        assert health.look().dependencies["kafka"].status == "down"


def test_a_hanging_part_is_down_in_time_and_asked_once() -> None:
    release, asked = threading.Event(), []

    def hang() -> str | None:
        asked.append(1)
        release.wait(20)
        return None

    with board({"postgres": Check(hang, required=True), "kafka": Check(up)}, timeout_s=0.1) as health:
        for _ in range(3):
            found = health.look()
            assert found.dependencies["postgres"].status == "down"
            assert found.dependencies["kafka"].status == "up"
        assert len(asked) == 1
        release.set()


def test_callers_within_a_moment_share_one_answer() -> None:
    asked = []

    def count() -> str | None:
        asked.append(1)
        return None

    with board({"kafka": Check(count)}, keep_s=60.0) as health:
        assert health.look() is health.look()
    assert len(asked) == 1


def parts(answers: dict[str, httpx.Response | None], **settings: Any) -> Parts:
    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.get(str(request.url))
        if found is None:
            raise httpx.ConnectError("refused", request=request)
        return found

    nothing: Any = SimpleNamespace()
    http = httpx.Client(transport=httpx.MockTransport(answer))
    return Parts(Settings(_env_file=None, **settings), nothing, nothing, nothing, nothing, http)


AIRFLOW = "http://127.0.0.1:8080/api/v2/monitor/health"
OLLAMA = "http://127.0.0.1:11434/api/version"
EMBEDDED = "http://127.0.0.1:8091/v1/models"


def test_a_sick_part_of_airflow_is_named() -> None:
    sick = {"scheduler": {"status": "unhealthy"}, "triggerer": {"status": "healthy"}, "dag_processor": None}
    with board({"airflow": checks_of(parts({AIRFLOW: httpx.Response(200, json=sick)}))["airflow"]}) as health:
        found = health.look().dependencies["airflow"]
    assert (found.status, found.detail) == ("down", "scheduler is unhealthy")


@pytest.mark.parametrize(
    ("answers", "backend", "status", "detail"),
    [
        ({OLLAMA: httpx.Response(200, json={})}, "auto", "up", "ollama"),
        ({EMBEDDED: httpx.Response(200, json={})}, "auto", "up", "embedded"),
        ({EMBEDDED: httpx.Response(200, json={})}, "embedded", "up", "embedded"),
        ({EMBEDDED: httpx.Response(503)}, "embedded", "down", None),
        ({EMBEDDED: httpx.Response(200, json={})}, "ollama", "down", None),
        ({}, "auto", "down", None),
        ({}, "none", "disabled", None),
    ],
)
def test_the_configured_language_model_is_asked(
    answers: dict[str, Any], backend: str, status: str, detail: str | None
) -> None:
    checks = checks_of(parts(answers, llm_backend=backend))
    with board({"language_model": checks["language_model"]}) as health:
        found = health.look().dependencies["language_model"]
    assert found.status == status
    assert detail is None or found.detail == detail


def test_every_dependency_is_asked() -> None:
    checks = checks_of(parts({}))
    assert set(checks) == {"kafka", "postgres", "airflow", "language_model", "dispatcher", "worker", "live"}
    assert {name for name, check in checks.items() if check.required} == {"kafka", "postgres"}
