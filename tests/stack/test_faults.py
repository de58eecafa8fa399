"""Failure, shown on the real stack: nothing is lost, nothing is done twice, every failure says why."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import psutil
import pytest

from quantflow.errors import QuantflowError
from quantflow.events.topics import Topics
from quantflow.events.transport import LibrdkafkaTransport, Message, current_slices, read_slice
from quantflow.events.types import NodeCompleted
from quantflow.testing.wait import wait_until

if TYPE_CHECKING:
    from conftest import Production

    Moment = Callable[[Production, str], bool]

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]


def accepted(production: Production, run_id: str) -> bool:
    """The API has answered 202, nothing else is certain."""
    return True


def notebook_running(production: Production, run_id: str) -> bool:
    return bool(production.status(run_id)["tasks"].get("run_notebook") in ("running", "success"))


def graph_running(production: Production, run_id: str) -> bool:
    """The first agent has spoken, the last one has not."""
    return any(isinstance(entry.event, NodeCompleted) for entry in production.events(f"{run_id}.desk"))


KILLS = [
    ["dispatcher", "airflow-dag-processor", "worker"],
    ["api", "airflow-scheduler", "airflow-triggerer"],
    ["kafka", "live", "llm"],
    ["airflow-api-server", "postgres", "kafka"],
]


@pytest.mark.parametrize("services", KILLS, ids="-".join)
def test_killing_services_neither_loses_nor_doubles_the_decision(production: Production, services: list[str]) -> None:
    """Harder than one kill a run: one process each at three moments of the same run."""
    production.wait_ready()
    run_id = production.trigger()
    killed = {}
    for service, moment in zip(services, (accepted, notebook_running, graph_running), strict=True):
        reached = functools.partial(holds, moment, production, run_id)
        wait_until(reached, 150, f"{moment.__name__} of {run_id}", interval_s=0.05)
        killed[service] = production.kill(service)
    status = production.finished(run_id, timeout_s=300)
    assert status["status"] == "succeeded", status
    assert len(production.decisions(run_id)) == 1
    published = wait_until(lambda: production.published_decisions(run_id), 60, "the decision on its topic")
    assert len(published) == 1
    production.wait_ready()
    running = {name: service["pid"] for name, service in production.services().items()}
    assert [name for name, pid in killed.items() if running[name] == pid] == []


def test_killing_the_supervisor_ends_everything_and_the_next_up_finishes_the_run(production: Production) -> None:
    production.wait_ready()
    run_id = production.trigger()
    wait_until(functools.partial(holds, graph_running, production, run_id), 150, f"the graph of {run_id}")
    supervisor = production.supervisor()
    services = [int(service["pid"]) for service in production.services().values() if service["pid"]]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not any(map(psutil.pid_exists, services)), 30, "every service to be gone")

    production.stack.up()

    status = production.finished(run_id, timeout_s=300)
    assert status["status"] == "succeeded", status
    assert len(production.decisions(run_id)) == 1
    published = wait_until(lambda: production.published_decisions(run_id), 60, "the decision on its topic")
    assert len(published) == 1


def holds(moment: Moment, production: Production, run_id: str) -> bool:
    """Ask whether a moment is there; what was killed just now may be what would answer."""
    try:
        return moment(production, run_id)
    except QuantflowError:
        return False


def test_a_malformed_event_becomes_a_dead_letter_and_the_partition_moves_on(production: Production) -> None:
    topic = Topics(production.stack.settings.topic_prefix).requests
    bad = b'{"specversion": "1.0", \xff not json'
    letters = produce_and_collect_dead_letters(production, topic, bad)
    assert letters[-1][0] == bad
    assert letters[-1][1]
    after = production.trigger()
    wait_until(
        lambda: production.status(after)["status"] in ("running", "succeeded"), 60, "the next request to be read"
    )


def test_an_oversized_event_becomes_a_dead_letter(production: Production) -> None:
    topic = Topics(production.stack.settings.topic_prefix).requests
    big = b'{"padding": "' + b"x" * (production.stack.settings.max_event_bytes + 10) + b'"}'
    letters = produce_and_collect_dead_letters(production, topic, big)
    assert letters[-1][0] == big
    assert "bytes" in letters[-1][1]


def test_an_unknown_workflow_type_becomes_a_dead_letter_with_the_known_ones(production: Production) -> None:
    topic = Topics(production.stack.settings.topic_prefix).requests
    request = json.loads(known_request(production))
    request["id"] = "00000000-0000-4000-8000-00000000f00d"
    request["data"]["workflow_type"] = "crystal_ball"
    letters = produce_and_collect_dead_letters(production, topic, json.dumps(request).encode())
    assert "crystal_ball" in letters[-1][1]
    assert "airflow" in letters[-1][1]


def known_request(production: Production) -> bytes:
    """Return the bytes of some real request on the topic."""
    topic = Topics(production.stack.settings.topic_prefix).requests
    transport = LibrdkafkaTransport(production.stack.settings.kafka)

    def found() -> bytes | None:
        for record in read_slice(transport, current_slices(transport, [topic])):
            if record.value and b"quantflow.run.requested" in record.value:
                return record.value
        return None

    production.trigger()
    return wait_until(found, 30, "a request on the topic")


def produce_and_collect_dead_letters(production: Production, topic: str, value: bytes) -> list[tuple[bytes, str]]:
    """Produce one record and return the dead letters with these bytes, and their reasons."""
    topics = Topics(production.stack.settings.topic_prefix)
    transport = LibrdkafkaTransport(production.stack.settings.kafka)
    producer = transport.producer()
    producer.send(Message(topic=topic, key=b"fault", value=value))
    producer.flush()
    producer.close()

    def collected() -> list[tuple[bytes, str]]:
        records = read_slice(transport, current_slices(transport, [topics.dead_letter(topic)]))
        return [(r.value or b"", (r.header("qf-reason") or b"").decode()) for r in records if r.value == value]

    return wait_until(collected, 60, "the dead letter", interval_s=0.25)


def test_a_raising_cell_fails_the_run_with_cell_source_and_traceback(production: Production, tmp_path: Path) -> None:
    project = production.stack.settings.project
    path = project / "notebooks" / "momentum.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("raise ValueError('planted in the last cell')"))
    broken = project / "notebooks" / "broken.ipynb"
    nbformat.write(notebook, broken)
    contract = (project / "pipelines" / "momentum.toml").read_text()
    contract = contract.replace('pipeline = "momentum"', 'pipeline = "broken"').replace(
        "momentum.ipynb", "broken.ipynb"
    )
    (project / "pipelines" / "broken.toml").write_text(contract)
    production.stack.cli("promote", "pipelines/broken.toml", "--wait-s", "90")

    status = production.finished(production.trigger("broken"))

    assert status["status"] == "failed"
    error = status["error"]
    assert error["task_id"] == "run_notebook"
    assert "planted in the last cell" in error["source"]
    assert "ValueError" in error["traceback"]
    executed = production.stack.home / "runs" / status["run_id"] / "notebook"
    (partial,) = executed.glob("*.ipynb")
    # Counted from 1 over the cells of what was executed, the injected parameters included.
    cells = nbformat.read(partial, as_version=4).cells
    assert cells[error["cell"] - 1].source == error["source"]
    assert list(executed.rglob("*.html"))
    assert production.decisions(status["run_id"]) == []


def test_without_a_language_model_the_decision_is_hold_with_the_reason(production: Production) -> None:
    """The server is frozen, not dead: the call runs into its time limit or finds no answer."""
    production.wait_ready()
    pid = int(production.services()["llm"]["pid"])
    run_id = production.trigger()
    os.kill(pid, signal.SIGSTOP)
    try:
        status = production.finished(run_id, timeout_s=300)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status["status"] == "succeeded", status
    (made,) = production.decisions(run_id)
    assert made.decision.action == "HOLD"
    assert made.decision.weights == {}
    assert made.decision.reason
