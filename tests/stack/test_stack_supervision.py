"""Broker and database under the supervisor: nothing is lost, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from quantflow.events.transport import LibrdkafkaTransport, Message, TopicSpec, current_slices, read_slice
from quantflow.stack.layout import Layout
from quantflow.stack.processes import marked_processes
from quantflow.testing.stack import LocalStack
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack

PARTS = "kafka,postgres"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Broker and database in a home of this module's own; each test leaves them running or not."""
    stack = LocalStack(tmp_path_factory.mktemp("small"))
    yield stack
    stack.down()


@pytest.fixture
def running(small: LocalStack) -> LocalStack:
    small.up("--only", PARTS)
    return small


def report(stack: LocalStack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.cli("status", "--json", check=False).stdout)
    return found


def service(stack: LocalStack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {row["name"]: row for row in report(stack)["services"]}[name]
    return found


def processes(stack: LocalStack) -> list[int]:
    return marked_processes(Layout(stack.home).stack_id)


def remember(stack: LocalStack, word: str) -> None:
    """Write a word into the database and another into a topic."""
    with psycopg.connect(stack.settings.local_database("postgres"), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", (word,))
    transport = LibrdkafkaTransport(stack.settings.kafka)
    with closing(transport.admin()) as admin:
        admin.ensure_topics([TopicSpec("words")])
    with closing(transport.producer()) as producer:
        producer.send(Message("words", word.encode()))
        producer.flush(30)


def remembered(stack: LocalStack) -> tuple[set[str], set[str]]:
    with psycopg.connect(stack.settings.local_database("postgres")) as connection:
        rows = {word for (word,) in connection.execute("SELECT word FROM words").fetchall()}
    transport = LibrdkafkaTransport(stack.settings.kafka)
    records = read_slice(transport, current_slices(transport, ["words"]))
    return rows, {(record.value or b"").decode() for record in records}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_up_twice_changes_nothing(running: LocalStack) -> None:
    before = {name: service(running, name)["pid"] for name in ("kafka", "postgres")}
    running.up("--only", PARTS)
    assert {name: service(running, name)["pid"] for name in ("kafka", "postgres")} == before


def test_only_what_was_asked_for_runs(running: LocalStack) -> None:
    found = report(running)
    assert [row["name"] for row in found["services"]] == ["kafka", "postgres"]
    assert found["ready"]
    assert all(row["pid"] and row["memory_bytes"] > 0 for row in found["services"])


def test_secrets_are_private_and_never_logged(running: LocalStack) -> None:
    path = running.home / "secrets.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = running.cli("status").stdout + running.cli("up", "--only", PARTS).stdout
    shown += "".join(log.read_text(errors="replace") for log in (running.home / "logs").glob("*.log*"))
    for line in path.read_text().splitlines():
        assert line.partition("=")[2] not in shown


def test_other_settings_are_refused_while_it_runs(running: LocalStack) -> None:
    env, running.env = running.env, {**running.env, "QUANTFLOW_TOPIC_PREFIX": "other."}
    try:
        done = running.cli("up", "--only", PARTS, check=False)
    finally:
        running.env = env
    assert done.returncode == 1
    assert "topic_prefix" in done.stderr
    assert "quantflow down" in done.stderr


@pytest.mark.parametrize("name", ["postgres", "kafka"])
def test_a_killed_server_is_back_with_its_data(running: LocalStack, name: str) -> None:
    remember(running, f"before the {name} died")
    before = service(running, name)
    kill(before["pid"])
    after = wait_until(
        lambda: (found := service(running, name))["phase"] == "healthy" and found["pid"] != before["pid"] and found,
        60,
        lambda: f"{name}'s return: {service(running, name)}",
    )
    assert after["restarts"] == before["restarts"] + 1
    assert after["last_exit"] == "killed by SIGKILL"
    rows, records = remembered(running)
    assert f"before the {name} died" in rows & records


def test_nothing_survives_the_supervisor_and_the_next_up_has_the_data(running: LocalStack) -> None:
    remember(running, "before the supervisor died")
    kill(report(running)["supervisor"])
    wait_until(lambda: not processes(running), 20, lambda: f"the end of {processes(running)}")
    assert report(running)["supervisor"] is None
    running.up("--only", PARTS)
    rows, records = remembered(running)
    assert "before the supervisor died" in rows & records


def test_everything_killed_at_once_comes_back_with_the_data(running: LocalStack) -> None:
    remember(running, "before everything died")
    for pid in processes(running):
        kill(pid)
    running.up("--only", PARTS)
    rows, records = remembered(running)
    assert "before everything died" in rows & records


def test_down_leaves_no_process_and_up_finds_the_data(running: LocalStack) -> None:
    remember(running, "before down")
    assert running.cli("down").stdout.strip() == "stopped"
    assert not processes(running)
    assert report(running)["supervisor"] is None
    running.up("--only", PARTS)
    rows, records = remembered(running)
    assert "before down" in rows & records


def test_a_busy_port_is_named_with_its_holder_and_nothing_starts(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    port = stack.settings.postgres_port
    with socket.create_server(("127.0.0.1", port)):
        done = stack.cli("up", "--only", "postgres", check=False)
    assert done.returncode == 1
    assert f"port {port} (QUANTFLOW_POSTGRES_PORT, for PostgreSQL) is held by process {os.getpid()}" in done.stderr
    assert not processes(stack)
    stack.down()


def test_a_second_home_runs_beside_the_first_and_is_deleted_without_a_trace(
    running: LocalStack, tmp_path: Path
) -> None:
    first = service(running, "postgres")["pid"]
    second = LocalStack(tmp_path)
    second.up("--only", "postgres")
    taken = LocalStack(tmp_path / "third", settings={"postgres_port": str(second.settings.postgres_port)})
    refused = taken.cli("up", "--only", "postgres", check=False)
    assert f"postgres of the quantflow stack in {second.home}" in refused.stderr
    taken.down()
    second.down()
    assert not second.home.exists()
    assert not processes(second)
    assert service(running, "postgres")["pid"] == first


def test_a_service_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    stack.up("--only", "postgres")
    stack.cli("down")
    # Without its password nobody can be let in: a job that needs the database fails for good.
    secrets = stack.home / "secrets.env"
    lines = [line for line in secrets.read_text().splitlines() if "DATABASE_PASSWORD" not in line]
    secrets.write_text("\n".join([*lines, "QUANTFLOW_DATABASE_PASSWORD=wrong", ""]))
    done = stack.cli("up", "--only", "migrate", "--timeout", "6", check=False)
    assert done.returncode == 1
    assert "postgres does not become healthy" in done.stderr
    assert "password authentication failed" in done.stderr
    stack.down()
