"""Airflow's REST API at the HTTP border; answers as Airflow 3.3.2 gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from quantflow.errors import EngineUnavailableError, OrchestrationError
from quantflow.orchestration.airflow_client import AirflowClient
from quantflow.settings import Settings

SETTINGS = Settings(_env_file=None, airflow_password="secret-1", airflow_url="http://airflow:8080/")
RUN = {
    "dag_id": "quantflow__m",
    "dag_run_id": "r1",
    "state": "success",
    "queued_at": "2026-11-21T10:00:00Z",
    "start_date": "2026-11-21T10:00:01Z",
    "end_date": None,
}


class FakeAirflow:
    """Answers requests; each token is good for as many calls as ``calls_per_token``."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response], *, calls_per_token: int = 1000) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.tokens = 0
        self._calls_per_token = calls_per_token
        self._left = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            assert json.loads(request.content) == {"username": "quantflow", "password": "secret-1"}
            self.tokens += 1
            self._left = self._calls_per_token
            return httpx.Response(201, json={"access_token": f"token-{self.tokens}"})
        if request.url.path != "/api/v2/monitor/health":
            if request.headers["authorization"] != f"Bearer token-{self.tokens}" or self._left == 0:
                return httpx.Response(401, json={"detail": "Invalid JWT token"})
            self._left -= 1
        self.requests.append(request)
        return self.answer(request)


def client_of(airflow: Callable[[httpx.Request], httpx.Response]) -> AirflowClient:
    return AirflowClient(SETTINGS, transport=httpx.MockTransport(airflow))


def answering(status: int, body: Any) -> FakeAirflow:
    return FakeAirflow(lambda _request: httpx.Response(status, json=body))


def test_trigger_sends_a_null_logical_date_and_our_run_id() -> None:
    airflow = answering(200, RUN)
    with client_of(airflow) as client:
        assert client.trigger("quantflow__m", "r1", {"run_id": "r1"}) is True
    request = airflow.requests[0]
    assert (request.method, request.url.path) == ("POST", "/api/v2/dags/quantflow__m/dagRuns")
    assert json.loads(request.content) == {"dag_run_id": "r1", "logical_date": None, "conf": {"run_id": "r1"}}


def test_a_run_that_is_there_already_is_fine() -> None:
    with client_of(answering(409, {"detail": "DAGRun already exists"})) as client:
        assert client.trigger("quantflow__m", "r1", {}) is False


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (404, "Dag not found"),
        (400, "Dag has import errors and cannot be triggered"),
        (500, "x"),
        (503, "x"),
        (429, "x"),
    ],
)
def test_what_may_work_later_is_told_apart(status: int, detail: str) -> None:
    with (
        client_of(answering(status, {"detail": detail})) as client,
        pytest.raises(EngineUnavailableError, match=detail),
    ):
        client.trigger("quantflow__m", "r1", {})


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_refusal_for_good_carries_airflows_words(status: int) -> None:
    client = client_of(answering(status, {"detail": "no such param"}))
    with client, pytest.raises(OrchestrationError, match="no such param") as caught:
        client.trigger("quantflow__m", "r1", {})
    assert not isinstance(caught.value, EngineUnavailableError)


def test_an_airflow_that_is_away_is_unavailable() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with client_of(refuse) as client, pytest.raises(EngineUnavailableError, match="airflow:8080") as caught:
        client.run("quantflow__m", "r1")
    assert "secret-1" not in str(caught.value)


def test_one_token_serves_many_calls_and_a_refused_one_is_replaced() -> None:
    airflow = FakeAirflow(lambda _request: httpx.Response(200, json=RUN), calls_per_token=2)
    with client_of(airflow) as client:
        for _ in range(4):
            assert client.run("quantflow__m", "r1") is not None
    assert airflow.tokens == 2


def test_wrong_credentials_say_which_settings_to_look_at() -> None:
    refuse = httpx.Response(401, json={"detail": "Invalid credentials"})
    with client_of(lambda _request: refuse) as client, pytest.raises(OrchestrationError, match="AIRFLOW_PASSWORD"):
        client.run("quantflow__m", "r1")


def test_a_run_has_our_states_and_utc_times() -> None:
    with client_of(answering(200, RUN)) as client:
        run = client.run("quantflow__m", "r1")
    assert run is not None
    assert run.state == "succeeded"
    assert run.started_at is not None
    assert run.started_at.utcoffset() is not None
    assert run.finished_at is None


def test_ids_are_escaped_in_paths() -> None:
    airflow = answering(404, {"detail": "none"})
    with client_of(airflow) as client:
        assert client.run("quantflow__m", "scheduled__2026-11-21T00:00:00+00:00/../x") is None
        assert client.get_dag("a/b") is None
    assert airflow.requests[0].url.raw_path.endswith(b"/scheduled__2026-11-21T00%3A00%3A00%2B00%3A00%2F..%2Fx")
    assert airflow.requests[1].url.raw_path == b"/api/v2/dags/a%2Fb"


def test_tasks_come_in_order_and_a_missing_state_is_none() -> None:
    tasks = [
        {"task_id": "b", "state": None, "try_number": 0, "start_date": None, "end_date": None},
        {"task_id": "a", "state": "deferred", "try_number": 1, "start_date": "2026-11-21T10:00:01Z", "end_date": None},
    ]
    with client_of(answering(200, {"task_instances": tasks})) as client:
        found = client.tasks("quantflow__m", "r1")
    assert [(task.task_id, task.state, task.try_number) for task in found] == [("a", "deferred", 1), ("b", "none", 0)]


def test_a_stale_dag_is_no_dag() -> None:
    with client_of(answering(200, {"dag_id": "x", "is_stale": True})) as client:
        assert client.get_dag("x") is None
    with client_of(answering(200, {"dag_id": "x", "is_stale": False})) as client:
        assert client.get_dag("x") is not None


def test_health_needs_no_token() -> None:
    airflow = answering(200, {"scheduler": {"status": "healthy"}, "triggerer": {"status": None}, "dag_processor": None})
    with client_of(airflow) as client:
        assert client.health() == {"scheduler": "healthy", "triggerer": "None"}
    assert airflow.tokens == 0


def test_the_page_of_a_run_has_an_address() -> None:
    with client_of(answering(200, {})) as client:
        assert client.run_address("quantflow__m", "r 1") == "http://airflow:8080/dags/quantflow__m/runs/r%201"
