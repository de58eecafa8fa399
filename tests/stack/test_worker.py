"""The workflow worker on a real broker and database, with a scripted language model server."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from quantflow.errors import ApprovalError
from quantflow.events import (
    Blobs,
    Draft,
    EventLog,
    LibrdkafkaTransport,
    OutboxRelay,
    Topics,
    WorkQueue,
    current_slices,
    decode,
    get_run,
    read_slice,
    run_stream,
)
from quantflow.events.runs import RunView
from quantflow.events.types import (
    ApprovalRequested,
    DecisionMade,
    LanguageModelCalled,
    NodeCompleted,
    RunErrorRecorded,
    RunRequested,
    WorkflowResult,
)
from quantflow.orchestration.approving import grant
from quantflow.orchestration.worker import serve
from quantflow.promotion import Registry, Version
from quantflow.settings import Settings
from quantflow.testing.llm import ScriptedServer
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack

PROJECT = Path(__file__).parent.parent.parent
AS_OF = datetime(2026, 1, 5, 21, 0, tzinfo=UTC)
WEIGHTS = {"AAA": 0.03, "BBB": 0.02}
REPLIES = {
    "TechnicalAnswer": {"words": "the trend supports it", "trend": "supports", "confidence": "sure"},
    "RiskAnswer": {"words": "nothing to worry about", "concern": "low", "confidence": "sure"},
    "ManagerAnswer": {"words": "all of it is kept", "keep": "all", "confidence": "fairly sure"},
}


def asked_for(body: Any) -> str:
    return str(body["response_format"]["json_schema"]["name"])


class Bench:
    """One event log, one set of topics, a promoted pipeline, and workers that are started and killed."""

    def __init__(self, home: Path, database_url: str, bootstrap: str, prefix: str) -> None:
        self.hold: dict[str, threading.Event] = {}
        self.replies: dict[str, Any] = dict(REPLIES)
        self.server = ScriptedServer(self._respond)
        self.environment = {
            "QUANTFLOW_HOME": str(home),
            "QUANTFLOW_DATABASE_URL": database_url,
            "QUANTFLOW_KAFKA_BOOTSTRAP": bootstrap,
            "QUANTFLOW_TOPIC_PREFIX": prefix,
            "QUANTFLOW_LLM_BACKEND": "embedded",
            "QUANTFLOW_LLM_URL": f"{self.server.url}/v1",
            "QUANTFLOW_LEASE_S": "2",
        }
        self.log = EventLog(database_url, pool_size=12)
        self.transport = LibrdkafkaTransport(bootstrap)
        self.topics = Topics(prefix)
        self.home = home
        self._processes: list[subprocess.Popen[bytes]] = []

    def _respond(self, body: Any) -> Any:
        kind = asked_for(body)
        if kind in self.hold:
            self.hold[kind].wait(60)
        return self.replies[kind]

    @property
    def settings(self) -> Settings:
        names = {key.removeprefix("QUANTFLOW_").lower(): value for key, value in self.environment.items()}
        return Settings(_env_file=None, **names)  # type: ignore[arg-type]

    def promote(self, **changed: str) -> Version:
        """Promote the shipped pipeline, with lines of its contract changed."""
        project = self.home / "project"
        for name in ("pipelines", "notebooks"):
            shutil.copytree(PROJECT / name, project / name, dirs_exist_ok=True)
        contract = project / "pipelines" / "momentum.toml"
        text = contract.read_text()
        for key, value in changed.items():
            line = next(line for line in text.splitlines() if line.startswith(f"{key} ="))
            text = text.replace(line, f"{key} = {value}")
        contract.write_text(text)
        return Registry(self.log).register(contract, promoted_by="test")

    def request(self, version: Version, run_id: str = "run-1.desk", *, publish: bool = True, **changed: Any) -> str:
        """Ask for a run as the pipeline's task does."""
        contract = version.contract
        parameters = {
            "pipeline": contract.pipeline,
            "version_id": version.version_id,
            "base_weights": WEIGHTS,
            "returns_blob": Blobs(self.log).put(parquet(rising())),
            "limits": contract.limits.model_dump(mode="json"),
            "approval": contract.approval,
            "approver_role": contract.approver_role,
            "min_confidence": contract.min_confidence,
            **changed,
        }
        request = RunRequested(
            run_id=run_id,
            workflow_id=contract.pipeline,
            workflow_type="langgraph",
            parameters=parameters,
            version_id=version.version_id,
            as_of=AS_OF,
            requested_by="test",
            parent_run_id="run-1",
        )
        topic = self.topics.requests if publish else None
        self.log.append(run_stream(run_id), [Draft(request, topic=topic, key=run_id)])
        return run_id

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        with (self.home / f"worker-{len(self._processes)}.log").open("wb") as lines:
            process = subprocess.Popen(
                [sys.executable, "-m", "quantflow.orchestration.worker"],
                env={**os.environ, **self.environment, **environment},
                stderr=lines,
            )
        self._processes.append(process)
        return process

    @contextmanager
    def worker_here(self) -> Iterator[None]:
        """A worker in this process."""
        stop = threading.Event()
        ended: list[int] = []
        thread = threading.Thread(target=lambda: ended.append(serve(self.settings, self.log, stop)))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
        assert ended == [0]

    def events(self, run_id: str, kind: type[Any]) -> list[Any]:
        stored = self.log.read_stream(run_stream(run_id))
        return [entry.event for entry in stored if isinstance(entry.event, kind)]

    def published(self, topic: str) -> list[Any]:
        records = read_slice(self.transport, current_slices(self.transport, [topic]))
        return [decode(record.value).data for record in records]

    def ended(self, run_id: str, timeout_s: float = 60) -> RunView:
        def finished() -> RunView | None:
            view = get_run(self.log, run_id)
            return view if view.finished else None

        return wait_until(finished, timeout_s, lambda: f"{run_id} to end: {get_run(self.log, run_id)}")

    def wait_for_question(self, kind: str) -> None:
        def seen() -> bool:
            return any(asked_for(body) == kind for body in self.server.requests)

        wait_until(seen, 60, f"the question for a {kind}")

    def questions(self) -> list[str]:
        return [asked_for(body) for body in self.server.requests]

    def stop_workers(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def rising(sessions: int = 300) -> pl.DataFrame:
    days = [date(2025, 1, 1) + timedelta(days=day) for day in range(sessions)]
    change = 0.001 + 0.004 * np.where(np.arange(sessions) % 2 == 0, 1.0, -1.0)
    return pl.DataFrame({"session": days, "AAA": change, "BBB": change})


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def bench(tmp_path: Path, database_url: str, kafka_bootstrap: str, topic_prefix: str) -> Iterator[Bench]:
    made = Bench(tmp_path, database_url, kafka_bootstrap, topic_prefix)
    made.log.migrate()
    admin = made.transport.admin()
    made.topics.ensure_all(admin)
    stop = threading.Event()
    relay = OutboxRelay(made.log, made.transport, made.topics)
    publishing = threading.Thread(target=relay.run, args=(stop,))
    publishing.start()
    with made.server:
        yield made
        for held in made.hold.values():
            held.set()
        made.stop_workers()
    stop.set()
    publishing.join(30)
    made.log.close()
    admin.delete_topics([spec.name for spec in made.topics.specs()])
    admin.close()


def test_a_request_on_the_topic_becomes_one_decision_on_the_topic(bench: Bench) -> None:
    run_id = bench.request(bench.promote())
    with bench.worker_here():
        view = bench.ended(run_id)
        wait_until(lambda: bench.published(bench.topics.results), 30, "the published result")
    assert (view.state, view.progress) == ("succeeded", 1.0)
    (made,) = bench.events(run_id, DecisionMade)
    assert (made.decision.action, made.decision.weights) == ("LONG", WEIGHTS)
    assert bench.published(bench.topics.decisions) == [made]
    (result,) = bench.published(bench.topics.results)
    assert (result.run_id, result.parent_run_id, result.state) == (run_id, "run-1", "succeeded")
    assert result.result["decision"]["decision_id"] == made.decision.decision_id
    assert view.result == result.result


def test_a_worker_killed_in_the_graph_is_followed_by_one_that_ends_with_one_decision(bench: Bench) -> None:
    run_id = bench.request(bench.promote())
    bench.hold["RiskAnswer"] = threading.Event()
    first = bench.start_worker()
    bench.wait_for_question("RiskAnswer")
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    bench.hold.pop("RiskAnswer").set()
    bench.start_worker()
    assert bench.ended(run_id).state == "succeeded"
    wait_until(lambda: bench.published(bench.topics.results), 30, "the published result")
    assert len(bench.events(run_id, DecisionMade)) == 1
    assert len(bench.published(bench.topics.decisions)) == 1
    assert bench.questions() == ["TechnicalAnswer", "RiskAnswer", "RiskAnswer", "ManagerAnswer"]
    assert [call.node for call in bench.events(run_id, LanguageModelCalled)] == [
        "technical_analyst", "risk_analyst", "portfolio_manager",
    ]  # fmt: skip
    nodes = [completed.node for completed in bench.events(run_id, NodeCompleted)]
    assert len(nodes) == len(set(nodes)) == 8


def test_a_stopped_worker_gives_its_run_back_at_once(bench: Bench) -> None:
    run_id = bench.request(bench.promote())
    bench.hold["RiskAnswer"] = threading.Event()
    first = bench.start_worker(QUANTFLOW_LEASE_S="300")
    bench.wait_for_question("RiskAnswer")
    first.terminate()
    assert first.wait(30) == 0
    assert WorkQueue(bench.log).counts("langgraph") == {"ready": 1}
    bench.hold.pop("RiskAnswer").set()
    bench.start_worker()
    assert bench.ended(run_id).state == "succeeded"
    assert len(bench.events(run_id, DecisionMade)) == 1


def test_a_worker_whose_lease_was_taken_writes_nothing_more(bench: Bench) -> None:
    run_id = bench.request(bench.promote())
    bench.hold["RiskAnswer"] = threading.Event()
    stopped = bench.start_worker()
    bench.wait_for_question("RiskAnswer")
    stopped.send_signal(signal.SIGSTOP)
    held = bench.hold.pop("RiskAnswer")
    bench.start_worker()
    assert bench.ended(run_id).state == "succeeded"
    before = bench.log.stream_version(run_stream(run_id))
    stopped.send_signal(signal.SIGCONT)
    held.set()
    log = bench.home / "worker-0.log"
    wait_until(lambda: b"run left to its new holder" in log.read_bytes(), 30, log.read_text)
    assert bench.log.stream_version(run_stream(run_id)) == before


def test_a_human_contract_waits_without_a_thread_and_goes_on_with_the_answer(bench: Bench) -> None:
    run_id = bench.request(bench.promote(approval='"human"'))
    with bench.worker_here():
        wait_until(lambda: get_run(bench.log, run_id).state == "awaiting_approval", 60, "the question")
        (asked,) = bench.events(run_id, ApprovalRequested)
        wait_until(lambda: WorkQueue(bench.log).counts("langgraph") == {"ready": 1}, 30, "a free thread")
        with pytest.raises(ApprovalError, match="the answer is for proposal ffffffffffff"):
            grant(bench.log, run_id, "eve", granted=True, proposal_hash="f" * 64)
        with pytest.raises(ApprovalError, match="may not answer"):
            grant(bench.log, run_id, "eve", granted=True, role="intern")
        given = grant(bench.log, run_id, "ada", granted=True, proposal_hash=asked.proposal_hash)
        assert bench.ended(run_id).state == "succeeded"
        with pytest.raises(ApprovalError, match="waits for no approval"):
            grant(bench.log, run_id, "eve", granted=False)
    (made,) = bench.events(run_id, DecisionMade)
    assert (made.decision.action, made.decision.approval_hash) == ("LONG", given.digest())
    assert len(bench.server.requests) == 3


def test_a_refusal_is_a_hold_that_names_who_refused(bench: Bench) -> None:
    run_id = bench.request(bench.promote(approval='"human"'))
    with bench.worker_here():
        wait_until(lambda: bench.events(run_id, ApprovalRequested), 60, "the question")
        grant(bench.log, run_id, "ada", granted=False)
        assert bench.ended(run_id).state == "succeeded"
    (made,) = bench.events(run_id, DecisionMade)
    assert (made.decision.action, made.decision.weights) == ("HOLD", {})
    assert "ada (portfolio-manager) refused" in made.decision.reason


def test_an_unanswered_question_ends_in_hold_when_it_expires(bench: Bench) -> None:
    run_id = bench.request(bench.promote(approval='"human"'), approval_expires_in_s=1.0)
    with bench.worker_here():
        assert bench.ended(run_id).state == "succeeded"
    (made,) = bench.events(run_id, DecisionMade)
    assert (made.decision.action, made.decision.weights) == ("HOLD", {})
    assert "nobody" in made.decision.reason


def test_without_a_language_model_the_run_succeeds_with_hold_and_the_reason(bench: Bench) -> None:
    bench.environment["QUANTFLOW_LLM_URL"] = "http://127.0.0.1:9/v1"
    run_id = bench.request(bench.promote())
    with bench.worker_here():
        assert bench.ended(run_id).state == "succeeded"
    (made,) = bench.events(run_id, DecisionMade)
    assert made.decision.action == "HOLD"
    assert "no language model server at http://127.0.0.1:9/v1" in made.decision.reason


def test_words_that_no_database_takes_do_not_stop_the_run(bench: Bench) -> None:
    bench.replies["ManagerAnswer"] = {**REPLIES["ManagerAnswer"], "words": "keep\x00it \ud800 all of it"}
    bench.replies["RiskAnswer"] = {**REPLIES["RiskAnswer"], "words": "nothing\x00 to worry about"}
    run_id = bench.request(bench.promote())
    with bench.worker_here():
        assert bench.ended(run_id).state == "succeeded"


def test_a_request_on_other_terms_than_the_contracts_fails_and_says_so(bench: Bench) -> None:
    run_id = bench.request(bench.promote(), limits={"max_gross": 9.0})
    with bench.worker_here():
        view = bench.ended(run_id)
        wait_until(lambda: bench.published(bench.topics.results), 30, "the published result")
    assert view.state == "failed"
    assert view.error is not None
    assert "the contract of its version says" in view.error.message
    (recorded,) = bench.events(run_id, RunErrorRecorded)
    (result,) = bench.published(bench.topics.results)
    assert isinstance(result, WorkflowResult)
    assert (result.state, result.error) == ("failed", recorded.error)
    assert bench.published(bench.topics.decisions) == []


def test_a_request_that_the_log_does_not_hold_is_a_dead_letter(bench: Bench) -> None:
    from quantflow.events import Message, encode, wrap

    version = bench.promote()
    known = bench.request(version)
    stored = bench.log.read_stream(run_stream(known))[0].event
    assert isinstance(stored, RunRequested)
    forged = wrap(stored.model_copy(update={"run_id": "forged"}), subject="run-forged")
    producer = bench.transport.producer()
    producer.send(Message(bench.topics.requests, encode(forged), b"forged"))
    producer.flush()
    producer.close()
    dead = bench.topics.dead_letter(bench.topics.requests)
    with bench.worker_here():
        assert bench.ended(known).state == "succeeded"
        letters = wait_until(lambda: bench.published(dead), 30, "the dead letter")
    assert letters == [forged.data]
    assert {made.decision.run_id for made in bench.published(bench.topics.decisions)} == {known}
