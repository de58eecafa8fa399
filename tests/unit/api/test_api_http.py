"""The API at its HTTP border: keys, limits, strict JSON, problem documents. What is behind it is a fake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from quantflow.api import create_app, service
from quantflow.errors import (
    ApprovalError,
    EventTooLargeError,
    LogUnavailableError,
    ParameterError,
    SettingsError,
    TransportError,
    UnknownRunError,
    UnknownVersionError,
    VersionConflictError,
)
from quantflow.events.runs import RunPage, RunView, TaskView
from quantflow.settings import Settings
from quantflow.testing.wait import wait_until

KEY = "qf_unit"
MOMENT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
BODY = {"workflow_id": "momentum", "workflow_type": "airflow", "parameters": {"lookback": 20}, "priority": 3}


def view(run_id: str = "r1", **changes: Any) -> RunView:
    values: dict[str, Any] = {
        "run_id": run_id,
        "workflow_id": "momentum",
        "workflow_type": "airflow",
        "state": "running",
        "progress": 0.4,
        "as_of": MOMENT,
        "requested_by": "api-key",
        "created_at": MOMENT,
        "updated_at": MOMENT,
        "tasks": (TaskView(task_id="take_slice", state="success", observed_at=MOMENT),),
    }
    return RunView(**{**values, **changes})


class FakeLog:
    """An event log that is away until it is told otherwise."""

    def __init__(self) -> None:
        self.away = False
        self.closed = False

    def migrate(self) -> list[str]:
        if self.away:
            raise LogUnavailableError("the event log is away")
        return []

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None, api_key=KEY)


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def parts(settings: Settings, log: FakeLog) -> service.Parts:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    nothing: Any = SimpleNamespace()
    http = httpx.Client(transport=httpx.MockTransport(refuse))
    return service.Parts(settings, log, nothing, nothing, nothing, http)  # type: ignore[arg-type]


@pytest.fixture
def client(settings: Settings, parts: service.Parts) -> Iterator[TestClient]:
    app = create_app(settings, parts=parts)
    with TestClient(app, headers={"X-API-Key": KEY}, raise_server_exceptions=False) as client:
        wait_until(app.state.ready.is_set, 5)
        yield client


@pytest.fixture
def triggered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def trigger(parts: Any, request: Any, **options: Any) -> RunView:
        calls.append((request, options))
        return view(state="accepted", progress=0.0, tasks=())

    monkeypatch.setattr(service, "trigger", trigger)
    return calls


def problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:quantflow:problem:{name}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == answer.request.url.path
    return body


def test_an_api_without_a_key_is_never_built(parts: service.Parts) -> None:
    with pytest.raises(SettingsError, match="QUANTFLOW_API_KEY"):
        create_app(Settings(_env_file=None, api_key=""), parts=parts)


def test_trigger_answers_202_with_the_run_and_where_to_look(client: TestClient, triggered: list[Any]) -> None:
    answer = client.post("/workflows/trigger", json=BODY, headers={"Idempotency-Key": "k-1"})
    assert answer.status_code == 202
    assert answer.headers["location"] == "/workflows/r1/status"
    assert answer.headers["x-correlation-id"] == "r1"
    body = answer.json()
    assert (body["run_id"], body["status"], body["progress"]) == ("r1", "accepted", 0.0)
    request, options = triggered[0]
    assert request.model_dump() == BODY
    assert options == {"idempotency_key": "k-1", "given_correlation": False}


def test_a_given_correlation_id_is_kept(client: TestClient, triggered: list[Any]) -> None:
    answer = client.post("/workflows/trigger", json=BODY, headers={"X-Correlation-ID": "mine-1"})
    assert answer.headers["x-correlation-id"] == "mine-1"
    assert triggered[0][1]["given_correlation"] is True


@pytest.mark.parametrize("given", ["", "a b", "x" * 201, "a\tb", "ünï"])
def test_a_correlation_id_that_is_no_name_is_replaced(client: TestClient, given: str) -> None:
    answer = client.get("/health/live", headers={"X-Correlation-ID": given.encode("latin-1", "replace")})
    assert answer.headers["x-correlation-id"] != given


@pytest.mark.parametrize("path", ["/workflows", "/workflows/r1/status", "/nowhere", "/docs/../workflows"])
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"X-API-Key": "wrong"}, {"X-API-Key": KEY + "x"}])
def test_every_path_needs_the_key(client: TestClient, path: str, headers: dict[str, str]) -> None:
    del client.headers["X-API-Key"]
    answer = client.get(path, headers=headers)
    problem(answer, 401, "unauthorized")
    assert "www-authenticate" in answer.headers
    assert KEY not in answer.text


def test_a_trigger_without_key_reads_no_body(client: TestClient, triggered: list[Any]) -> None:
    del client.headers["X-API-Key"]
    problem(client.post("/workflows/trigger", content=b"x" * 5_000_000), 401, "unauthorized")
    assert triggered == []


def test_two_keys_are_no_key(client: TestClient) -> None:
    del client.headers["X-API-Key"]
    answer = client.get("/workflows", headers=[("X-API-Key", KEY), ("X-API-Key", "other")])
    problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/health/live"])
def test_documentation_and_liveness_need_no_key(client: TestClient, path: str) -> None:
    del client.headers["X-API-Key"]
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_documentation_pages_load_everything_from_here(client: TestClient, path: str) -> None:
    del client.headers["X-API-Key"]
    page = client.get(path).text
    assets = [part.split('"')[0] for part in page.split('src="')[1:] + page.split('href="')[1:]]
    assert assets
    for asset in assets:
        assert asset.startswith("/"), asset
        assert client.get(asset).status_code == 200
    assert "https://" not in page


def test_openapi_names_every_operation_its_key_and_its_problems(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/workflows/trigger",
        "/workflows/{run_id}/status",
        "/workflows",
        "/workflows/{run_id}/approval",
        "/health",
        "/health/live",
    }
    trigger = described["paths"]["/workflows/trigger"]["post"]
    assert trigger["security"] == [{"APIKeyHeader": []}]
    assert "application/problem+json" in trigger["responses"]["422"]["content"]
    references = {part.split('"')[0] for part in json.dumps(described).split('"#/components/schemas/')[1:]}
    assert references <= set(described["components"]["schemas"])


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        (b'{"workflow_id": "m", "parameters": {"x": NaN}}', 422, "bad-request"),
        (b'{"workflow_id": "m", "parameters": {"x": -Infinity}}', 422, "bad-request"),
        (b'{"workflow_id": "m", "parameters": {"x": 1e400}}', 422, "bad-request"),
        (b'{"workflow_id": "m", "parameters": {"x": "\\ud800"}}', 422, "bad-request"),
        (b'{"workflow_id": "m", "parameters": {"x": ["a\\u0000b"]}}', 422, "bad-request"),
        (b'{"workflow_id": "m", "parameters": {"a\\u0000": 1}}', 422, "bad-request"),
        (b'{"workflow_id": "m", "workflow_id": "n"}', 400, "bad-json"),
        ('{"workflow_id": "m"}'.encode("utf-16"), 400, "bad-json"),
        (b'{"workflow_id": "m", "parameters": {"x": ' + b"9" * 5000 + b"}}", 400, "bad-json"),
        (b"[" * 100_000, 400, "bad-json"),
        (b'{"workflow_id": "m", "parameters": ' + b'{"a":' * 80 + b"1" + b"}" * 81, 400, "bad-json"),
        (b"{", 400, "bad-json"),
        (b"", 422, "bad-request"),
        (b"[]", 422, "bad-request"),
        (b"null", 422, "bad-request"),
    ],
)
def test_ambiguous_or_unstorable_json_is_refused(
    client: TestClient, triggered: list[Any], body: bytes, status: int, name: str
) -> None:
    answer = client.post("/workflows/trigger", content=body, headers={"Content-Type": "application/json"})
    problem(answer, status, name)
    assert triggered == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workflow_id": ""}, "body.workflow_id"),
        ({"workflow_id": "../etc"}, "body.workflow_id"),
        ({"workflow_id": "m\n"}, "body.workflow_id"),
        ({"workflow_id": 5}, "body.workflow_id"),
        ({"workflow_type": "prefect"}, "body.workflow_type"),
        ({"priority": "5"}, "body.priority"),
        ({"priority": True}, "body.priority"),
        ({"priority": 11}, "body.priority"),
        ({"priority": -1}, "body.priority"),
        ({"priority": 5.0}, "body.priority"),
        ({"parameters": []}, "body.parameters"),
        ({"parameters": {"x=1\n__import__('os')": 1}}, "body.parameters"),
        ({"role": "admin"}, "body.role"),
    ],
)
def test_a_bad_field_is_named(client: TestClient, triggered: list[Any], changes: dict[str, Any], field: str) -> None:
    body = problem(client.post("/workflows/trigger", json={**BODY, **changes}), 422, "bad-request")
    assert any(error["field"].startswith(field) for error in body["errors"]), body
    assert triggered == []


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "ä"])
def test_an_idempotency_key_is_a_word(client: TestClient, triggered: list[Any], key: str) -> None:
    answer = client.post("/workflows/trigger", json=BODY, headers={"Idempotency-Key": key.encode()})
    problem(answer, 422, "bad-request")
    assert triggered == []


def test_only_json_is_read(client: TestClient, triggered: list[Any]) -> None:
    answer = client.post("/workflows/trigger", content=json.dumps(BODY), headers={"Content-Type": "text/plain"})
    problem(answer, 415, "unsupported-media-type")
    answer = client.post(
        "/workflows/trigger",
        content=json.dumps(BODY),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    problem(answer, 415, "unsupported-encoding")
    assert triggered == []


def test_an_oversized_body_is_refused_declared_or_chunked(client: TestClient, triggered: list[Any]) -> None:
    big = json.dumps({**BODY, "parameters": {"x": "a" * 600_000}}).encode()
    headers = {"Content-Type": "application/json"}
    problem(client.post("/workflows/trigger", content=big, headers=headers), 413, "too-large")
    chunks = (big[start : start + 4096] for start in range(0, len(big), 4096))
    problem(client.post("/workflows/trigger", content=chunks, headers=headers), 413, "too-large")
    assert triggered == []


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    problem(client.get("/nowhere"), 404, "not-found")
    answer = client.delete("/workflows")
    body = problem(answer, 405, "method-not-allowed")
    assert "GET" in body["detail"]
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("raised", "status", "name"),
    [
        (LogUnavailableError("gone"), 503, "event-log-unavailable"),
        (TransportError("gone"), 503, "broker-unavailable"),
        (UnknownVersionError("no such pipeline"), 404, "unknown-workflow"),
        (ParameterError("lookback: too low"), 422, "bad-parameters"),
        (VersionConflictError("moved on"), 409, "conflict"),
        (EventTooLargeError("large"), 413, "too-large"),
    ],
)
def test_each_trouble_has_its_status(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, raised: Exception, status: int, name: str
) -> None:
    def fail(*_: Any, **__: Any) -> RunView:
        raise raised

    monkeypatch.setattr(service, "trigger", fail)
    answer = client.post("/workflows/trigger", json=BODY)
    body = problem(answer, status, name)
    assert body["detail"] == str(raised)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_surprise_says_nothing_of_our_insides(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> RunView:
        raise RuntimeError("postgresql://user:hunter2@db")

    monkeypatch.setattr(service, "read_run", fail)
    body = problem(client.get("/workflows/r1/status"), 500, "internal-error")
    assert "hunter2" not in json.dumps(body)
    assert body["correlation_id"]


def test_status_shows_the_fold(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "read_run", lambda _parts, run_id: view(run_id, observed_at=MOMENT))
    body = client.get("/workflows/r1/status").json()
    assert body["status"] == "running"
    assert body["tasks"] == {"take_slice": "success"}
    assert body["observed_at"] == "2024-05-06T07:08:09Z"


def test_an_unknown_run_is_404_and_a_bad_id_422(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_parts: Any, run_id: str) -> RunView:
        raise UnknownRunError(f"no run {run_id!r}")

    monkeypatch.setattr(service, "read_run", unknown)
    problem(client.get("/workflows/none/status"), 404, "unknown-run")
    problem(client.get("/workflows/a%00b/status"), 422, "bad-request")
    problem(client.get("/workflows/%ED%A0%80/status"), 422, "bad-request")


def test_listing_passes_filters_and_the_cursor(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def read_runs(_parts: Any, **filters: Any) -> RunPage:
        asked.append(filters)
        return RunPage(runs=(view("a"), view("b")), next_cursor="17")

    monkeypatch.setattr(service, "read_runs", read_runs)
    query = "workflow_id=momentum&workflow_type=airflow&status=failed&limit=2&cursor=40"
    body = client.get(f"/workflows?{query}").json()
    assert [run["run_id"] for run in body["runs"]] == ["a", "b"]
    assert body["next_cursor"] == "17"
    assert asked == [
        {"workflow_id": "momentum", "workflow_type": "airflow", "state": "failed", "limit": 2, "cursor": "40"}
    ]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "status=done", "workflow_type=x", "cursor=%00"])
def test_a_bad_filter_is_refused(client: TestClient, query: str) -> None:
    problem(client.get(f"/workflows?{query}"), 422, "bad-request")


def test_an_approval_that_does_not_fit_is_409(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ApprovalError("the request expired")

    monkeypatch.setattr(service, "answer_approval", refuse)
    answer = {"granted": True, "approver": "ana", "role": "owner", "proposal_hash": "a" * 64, "verdict_hash": "b" * 64}
    problem(client.post("/workflows/r1/approval", json=answer), 409, "approval-refused")
    problem(client.post("/workflows/r1/approval", json={**answer, "granted": "yes"}), 422, "bad-request")
    problem(client.post("/workflows/r1/approval", json={**answer, "proposal_hash": "A" * 64}), 422, "bad-request")


def test_the_api_starts_without_its_log_and_recovers(settings: Settings, parts: service.Parts, log: FakeLog) -> None:
    log.away = True
    app = create_app(settings, parts=parts)
    with TestClient(app, headers={"X-API-Key": KEY}, raise_server_exceptions=False) as client:
        answer = client.get("/workflows")
        problem(answer, 503, "event-log-unavailable")
        assert answer.headers["retry-after"]
        assert client.get("/health/live").status_code == 200
        log.away = False
        wait_until(app.state.ready.is_set, 10)
    assert log.closed


def test_answers_are_not_cached_or_sniffed(client: TestClient) -> None:
    headers = client.get("/health/live").headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
