"""The API on a real broker and database; Airflow and the workers are not needed to accept a run."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quantflow.api import create_app
from quantflow.api.app import build_parts
from quantflow.api.service import Parts
from quantflow.data import get_source
from quantflow.events.approvals import Ledger
from quantflow.events.envelope import derived_id
from quantflow.events.log import Draft, EventLog
from quantflow.events.market import publish_bars
from quantflow.events.outbox import OutboxRelay
from quantflow.events.transport import LibrdkafkaTransport, current_slices, read_slice
from quantflow.events.types import Proposal, RunRequested, RunStateObserved, Verdict
from quantflow.promotion import Registry, Version
from quantflow.settings import Settings
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack

CONTRACT = Path(__file__).parent.parent.parent / "pipelines" / "momentum.toml"
BODY: dict[str, Any] = {"workflow_id": "momentum", "workflow_type": "airflow", "parameters": {"lookback": 63}}
SYMBOLS = ("AAPL", "JPM")


@pytest.fixture
def settings(database_url: str, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        home=tmp_path,
        api_key="qf_stack",
        database_url=database_url,
        kafka_bootstrap=kafka_bootstrap,
        topic_prefix=topic_prefix,
    )


@pytest.fixture
def log(settings: Settings) -> Iterator[EventLog]:
    with EventLog.from_settings(settings) as opened:
        opened.migrate()
        yield opened


@pytest.fixture
def version(log: EventLog) -> Version:
    return Registry(log).register(CONTRACT, promoted_by="test")


@pytest.fixture
def parts(settings: Settings) -> Parts:
    return build_parts(settings)


@pytest.fixture
def bars(parts: Parts) -> Iterator[int]:
    """Two months of real bars on the market topic."""
    admin = parts.transport.admin()
    parts.topics.ensure_all(admin)
    frame = get_source("sp500").read(SYMBOLS, start=datetime(2022, 11, 1).date(), as_of=datetime.now(UTC))
    yield publish_bars(parts.transport, parts.topics.market_bars(), frame)
    admin.delete_topics([spec.name for spec in parts.topics.specs()])
    admin.close()


def opened(settings: Settings, parts: Parts) -> TestClient:
    return TestClient(
        create_app(settings, parts=parts), headers={"X-API-Key": "qf_stack"}, raise_server_exceptions=False
    )


@pytest.fixture
def client(settings: Settings, parts: Parts) -> Iterator[TestClient]:
    with opened(settings, parts) as client:
        wait_until(client.app.state.ready.is_set, 30)  # type: ignore[attr-defined]
        yield client


def requests_of(log: EventLog) -> list[RunRequested]:
    return [stored.event for stored in log.read_all() if isinstance(stored.event, RunRequested)]


def test_a_trigger_fixes_version_and_offsets_and_reaches_the_topic(
    client: TestClient, parts: Parts, log: EventLog, version: Version, bars: int
) -> None:
    answer = client.post("/workflows/trigger", json=BODY)
    assert answer.status_code == 202, answer.text
    run_id = answer.json()["run_id"]
    (request,) = requests_of(log)
    assert request.version_id == version.version_id
    assert request.parameters == {"lookback": 63}
    assert {piece.topic for piece in request.inputs} == {parts.topics.market_bars()}
    assert sum(piece.end - piece.start for piece in request.inputs) == bars
    stored = log.read_stream(f"run-{run_id}")[0]
    assert stored.envelope.correlation_id == run_id == answer.headers["x-correlation-id"]
    OutboxRelay(log, parts.transport, parts.topics).publish_pending()
    records = list(read_slice(parts.transport, current_slices(parts.transport, [parts.topics.requests])))
    assert [record.key for record in records] == [run_id.encode()]


def test_bars_that_come_later_are_not_in_an_accepted_run(
    client: TestClient, parts: Parts, log: EventLog, version: Version, bars: int
) -> None:
    client.post("/workflows/trigger", json=BODY)
    frame = get_source("sp500").read(["AAPL"], start=datetime(2022, 12, 1).date(), as_of=datetime.now(UTC))
    publish_bars(parts.transport, parts.topics.market_bars(), frame)
    (request,) = requests_of(log)
    assert len(list(read_slice(parts.transport, request.inputs))) == bars


def test_the_same_key_is_the_same_run_however_often_it_is_sent(
    client: TestClient, log: EventLog, version: Version, bars: int
) -> None:
    def send(_number: int) -> tuple[int, str]:
        answer = client.post("/workflows/trigger", json=BODY, headers={"Idempotency-Key": "order-1"})
        return answer.status_code, answer.json().get("run_id")

    with ThreadPoolExecutor(16) as pool:
        answers = set(pool.map(send, range(64)))
    assert len(answers) == 1
    assert answers.pop()[0] == 202
    assert len(requests_of(log)) == 1


def test_the_same_key_with_another_body_is_refused(
    client: TestClient, log: EventLog, version: Version, bars: int
) -> None:
    headers = {"Idempotency-Key": "order-2"}
    first = client.post("/workflows/trigger", json=BODY, headers=headers)
    second = client.post("/workflows/trigger", json={**BODY, "priority": 9}, headers=headers)
    assert second.status_code == 422
    assert second.json()["type"].endswith("idempotency-key-reused")
    assert first.json()["run_id"] in second.json()["detail"]
    assert "priority" in second.json()["detail"]
    assert len(requests_of(log)) == 1


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"lookback": "63"}, "lookback"),
        ({"lookback": 1}, "lookback"),
        ({"nope": 1}, "nope"),
        ({"fee_bps": True}, "fee_bps"),
    ],
)
def test_a_bad_parameter_is_named_and_nothing_is_written(
    client: TestClient, log: EventLog, version: Version, parameters: dict[str, Any], named: str
) -> None:
    answer = client.post("/workflows/trigger", json={**BODY, "parameters": parameters})
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert requests_of(log) == []


def test_an_unknown_pipeline_is_404_and_names_the_known_ones(client: TestClient, version: Version) -> None:
    answer = client.post("/workflows/trigger", json={**BODY, "workflow_id": "nope"})
    assert answer.status_code == 404
    assert "momentum" in answer.json()["detail"]


def test_without_a_broker_nothing_is_written(settings: Settings, parts: Parts, log: EventLog, version: Version) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = replace(parts, transport=LibrdkafkaTransport(f"127.0.0.1:{nobody.getsockname()[1]}"))
        with opened(settings, away) as client:
            wait_until(client.app.state.ready.is_set, 30)  # type: ignore[attr-defined]
            answer = client.post("/workflows/trigger", json=BODY)
            health = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["type"].endswith("broker-unavailable")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")
    assert health.json()["dependencies"]["kafka"]["status"] == "down"
    assert health.json()["dependencies"]["postgres"]["status"] == "up"
    assert requests_of(log) == []


def test_status_and_listing_follow_the_log(client: TestClient, log: EventLog, version: Version, bars: int) -> None:
    ids = [client.post("/workflows/trigger", json=BODY).json()["run_id"] for _ in range(5)]
    observed = datetime.now(UTC)
    event = RunStateObserved(run_id=ids[0], engine="airflow", state="running", observed_at=observed, origin="listener")
    log.append(f"run-{ids[0]}", [Draft(event)])
    status = client.get(f"/workflows/{ids[0]}/status").json()
    assert (status["status"], datetime.fromisoformat(status["observed_at"])) == ("running", observed)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/workflows", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [run["run_id"] for run in page["runs"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]
    running = client.get("/workflows", params={"status": "running"}).json()["runs"]
    assert [run["run_id"] for run in running] == [ids[0]]
    assert client.get("/workflows", params={"workflow_type": "langgraph"}).json()["runs"] == []
    assert client.get("/workflows/none/status").status_code == 404
    assert client.get("/workflows", params={"cursor": "abc"}).status_code == 422


def test_a_desk_run_needs_a_whole_desk_request(client: TestClient, log: EventLog, version: Version) -> None:
    parameters: dict[str, Any] = {
        "pipeline": "momentum",
        "version_id": version.version_id,
        "base_weights": {"AAPL": 0.02},
        "returns_blob": "b" * 64,
        "limits": version.contract.limits.model_dump(mode="json"),
    }
    body = {"workflow_id": "momentum", "workflow_type": "langgraph", "parameters": parameters}
    lacking = {name: value for name, value in parameters.items() if name != "limits"}
    answer = client.post("/workflows/trigger", json={**body, "parameters": lacking})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["body.parameters.limits"]
    other = {**parameters, "pipeline": "other"}
    assert client.post("/workflows/trigger", json={**body, "parameters": other}).status_code == 422
    unknown = {**parameters, "version_id": "c" * 64}
    assert client.post("/workflows/trigger", json={**body, "parameters": unknown}).status_code == 404
    assert requests_of(log) == []
    answer = client.post("/workflows/trigger", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["workflow_type"] == "langgraph"


def test_an_approval_is_answered_once_and_for_its_proposal_only(
    client: TestClient, log: EventLog, version: Version, bars: int
) -> None:
    run_id = client.post("/workflows/trigger", json=BODY).json()["run_id"]
    desk = f"{run_id}.desk"
    child = RunRequested(
        run_id=desk,
        workflow_id="momentum",
        workflow_type="langgraph",
        as_of=datetime.now(UTC),
        requested_by="test",
        parent_run_id=run_id,
    )
    log.append(f"run-{desk}", [Draft(child, event_id=derived_id(desk, "requested"))])
    proposal, verdict = proposed(desk, version)
    Ledger(log).request(
        desk, proposal=proposal, verdict=verdict, role="owner", expires_at=datetime.now(UTC) + timedelta(hours=1)
    )
    answer = {
        "granted": True,
        "approver": "ana",
        "role": "owner",
        "proposal_hash": proposal.digest(),
        "verdict_hash": verdict.digest(),
    }
    path = f"/workflows/{run_id}/approval"
    assert client.get(f"/workflows/{desk}/status").json()["status"] == "awaiting_approval"
    for wrong in ({"role": "intern"}, {"proposal_hash": "0" * 64}):
        refused = client.post(path, json={**answer, **wrong})
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:quantflow:problem:approval-refused")
    for _ in range(2):
        assert client.post(path, json=answer).status_code == 200
    assert client.post(path, json={**answer, "granted": False}).status_code == 409
    given = Ledger(log).given(desk, proposal_hash=proposal.digest(), verdict_hash=verdict.digest())
    assert given is not None
    assert (given.granted, given.approver) == (True, "ana")


def proposed(run_id: str, version: Version) -> tuple[Proposal, Verdict]:
    proposal = Proposal(
        run_id=run_id,
        pipeline="momentum",
        version_id=version.version_id,
        graph_version="1",
        as_of=datetime.now(UTC),
        action="LONG",
        base_weights={"AAPL": 0.02},
        weights={"AAPL": 0.02},
        confidence=0.9,
        reason="test",
    )
    verdict = Verdict(
        proposal_hash=proposal.digest(), outcome="approved", weights={"AAPL": 0.02}, findings=(), officer="test"
    )
    return proposal, verdict


def test_health_knows_who_is_alive(client: TestClient, log: EventLog) -> None:
    from quantflow.events.heartbeat import beat

    beat(log, "dispatcher")
    found = client.get("/health").json()
    states = {name: part["status"] for name, part in found["dependencies"].items()}
    assert (states["kafka"], states["postgres"], states["dispatcher"]) == ("up", "up", "up")
    assert (states["worker"], states["airflow"]) == ("down", "down")
    assert found["status"] == "degraded"
