"""The event log on a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from quantflow.errors import ApprovalError, EventError, LeaseLostError, UnknownRunError, VersionConflictError
from quantflow.events import _migrate
from quantflow.events._database import Connection
from quantflow.events.approvals import Ledger
from quantflow.events.blobs import Blobs
from quantflow.events.heartbeat import alive, beating
from quantflow.events.log import EventLog
from quantflow.events.queue import Lease, WorkQueue
from quantflow.events.records import Draft
from quantflow.events.runs import RunPage, fold, get_run, list_runs, run_stream
from quantflow.events.types import Proposal, RunRequested, RunState, RunStateObserved, Verdict
from quantflow.telemetry import correlation
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    with EventLog(database_url) as opened:
        opened.migrate()
        yield opened


def request(run_id: str = "r1", **changes: object) -> RunRequested:
    values = {"workflow_id": "momentum", "workflow_type": "airflow", "as_of": NOW, "requested_by": "t"} | changes
    return RunRequested.model_validate({"run_id": run_id, **values})


def observed(state: RunState, run_id: str = "r1", seconds: float = 0) -> RunStateObserved:
    return RunStateObserved(
        run_id=run_id, engine="airflow", state=state, observed_at=NOW + timedelta(seconds=seconds), origin="listener"
    )


def start(log: EventLog, run_id: str, **changes: object) -> None:
    log.append(run_stream(run_id), [Draft(request(run_id, **changes))], expected_version=0)


def tamper(log: EventLog, statement: str) -> None:
    with log.transaction() as connection:
        connection.execute("ALTER TABLE event_log DISABLE TRIGGER USER")
        connection.execute(statement.encode())
        connection.execute("ALTER TABLE event_log ENABLE TRIGGER USER")


def test_what_is_appended_is_read_back(log: EventLog) -> None:
    hostile = 'tab\t nul\x00 quote" ünïcode 🦊'
    with correlation("c1", "00-1-2-01"):
        [stored] = log.append("run-r1", [Draft(request(parameters={"x": [1e-7, hostile, None]}), event_id="e1")])
    assert (stored.position, stored.stream, stored.version) == (1, "run-r1", 1)
    assert (stored.envelope.correlation_id, stored.envelope.traceparent) == ("c1", "00-1-2-01")
    assert log.read_stream("run-r1") == log.read_all() == [stored] == [log.get("e1")]
    assert log.head() == (1, stored.hash)
    assert log.stream_version("run-r1") == 1
    assert log.read_all(types=["quantflow.decision.made"]) == []
    assert log.get("none") is None


def test_appending_at_another_version_is_a_conflict(log: EventLog) -> None:
    start(log, "r1")
    with pytest.raises(VersionConflictError, match="has version 1, expected was 0"):
        start(log, "r1")
    assert log.head()[0] == 1


def test_a_retried_append_returns_the_stored_event(log: EventLog) -> None:
    drafts = [Draft(request(), event_id="e1"), Draft(observed("queued"), event_id="e2")]
    first = log.append("run-r1", drafts, expected_version=0)
    again = log.append("run-r1", [*drafts, Draft(observed("running"), event_id="e3")], expected_version=2)
    assert again[:2] == first
    assert [stored.version for stored in again] == [1, 2, 3]
    assert log.append("run-r1", drafts, expected_version=0) == first
    with pytest.raises(EventError, match="taken by"):
        log.append("run-r2", drafts)


def test_a_transaction_that_fails_leaves_nothing(log: EventLog) -> None:
    def append_and_fail() -> None:
        with log.transaction() as connection:
            log.append("run-r1", [Draft(request(), topic="workflow.requests")], connection=connection)
            raise KeyError("planted")

    with pytest.raises(KeyError):
        append_and_fail()
    start(log, "r2")
    assert [stored.position for stored in log.read_all()] == [1]
    assert log.verify() is None


def test_writers_at_once_leave_no_gap_and_one_chain(log: EventLog, database_url: str) -> None:
    seen: list[int] = []
    done = threading.Event()

    def write(writer: int) -> None:
        with EventLog(database_url) as own:
            for number in range(25):
                own.append(f"s{writer}", [Draft(request()), Draft(observed("queued"))], expected_version=number * 2)

    def follow() -> None:
        while not (done.is_set() and log.head()[0] == (seen[-1] if seen else 0)):
            seen.extend(stored.position for stored in log.read_all(after=seen[-1] if seen else 0))

    with ThreadPoolExecutor(5) as threads:
        follower = threads.submit(follow)
        list(threads.map(write, range(4)))
        done.set()
        follower.result()
    assert seen == list(range(1, 201))  # a reader that follows by position misses nothing
    assert log.verify(batch=7) is None
    for writer in range(4):
        assert [stored.version for stored in log.read_stream(f"s{writer}")] == list(range(1, 51))


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE event_log SET data = replace(data::text, 'queued', 'running')::json WHERE position = 3", 3),
        ("UPDATE event_log SET time = time + interval '1 second' WHERE position = 2", 2),
        ("UPDATE event_log SET correlation_id = 'x' WHERE position = 4", 4),
        ("UPDATE event_log SET hash = repeat('0', 64) WHERE position = 2", 2),
        ("DELETE FROM event_log WHERE position = 3", 3),
    ],
)
def test_verify_names_the_first_row_that_was_tampered_with(log: EventLog, statement: str, broken: int) -> None:
    log.append("run-r1", [Draft(observed("queued")) for _ in range(5)])
    assert log.verify() is None
    tamper(log, statement)
    assert log.verify() == broken
    assert log.verify(batch=1) == broken


def test_the_database_itself_refuses_to_change_the_log(log: EventLog) -> None:
    start(log, "r1")
    for statement in ("UPDATE event_log SET source = 'x'", "DELETE FROM event_log", "TRUNCATE event_log CASCADE"):
        with pytest.raises(psycopg.errors.RestrictViolation), log.transaction() as connection:
            connection.execute(statement.encode())


def test_migrations_are_applied_once_by_whoever_comes_first(database_url: str) -> None:
    logs = [EventLog(database_url) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        applied = list(threads.map(EventLog.migrate, logs))
    assert sorted(map(len, applied))[:2] == [0, 0]
    assert max(applied) == [migration.name for migration in _migrate.find()]
    for each in logs:
        each.close()


def test_a_migration_that_changed_after_it_was_applied_is_named(log: EventLog) -> None:
    changed = _migrate.Migration("0001_log.sql", "SELECT 1")
    with pytest.raises(EventError, match=r"0001_log\.sql was changed"), log.transaction() as connection:
        _migrate.apply(connection, [changed])


def test_an_append_is_announced(log: EventLog) -> None:
    with log.listen() as connection:
        assert not log.notifications(connection, 0.05)
        start(log, "r1")
        assert log.notifications(connection, 10.0)


def test_the_table_of_views_is_the_fold(log: EventLog) -> None:
    start(log, "r1")
    for state in ("queued", "running", "succeeded"):
        log.append("run-r1", [Draft(observed(state))])
        assert get_run(log, "r1") == fold(log.read_stream("run-r1"))
    with pytest.raises(UnknownRunError, match="no run 'r2'"):
        get_run(log, "r2")


def test_runs_are_listed_newest_first_in_stable_pages(log: EventLog) -> None:
    for number in range(5):
        start(log, f"r{number}", workflow_id="odd" if number % 2 else "even")
    first = list_runs(log, limit=2)
    start(log, "r5")
    second = list_runs(log, limit=2, cursor=first.next_cursor)
    third = list_runs(log, limit=2, cursor=second.next_cursor)
    assert [names(page) for page in (first, second, third)] == [["r4", "r3"], ["r2", "r1"], ["r0"]]
    assert third.next_cursor is None
    assert names(list_runs(log, workflow_id="odd")) == ["r3", "r1"]
    log.append("run-r2", [Draft(observed("failed", "r2"))])
    assert names(list_runs(log, state="failed", workflow_type="airflow")) == ["r2"]
    assert names(list_runs(log, workflow_type="langgraph")) == []
    start(log, "r2.desk", parent_run_id="r2", workflow_type="langgraph")
    assert names(list_runs(log, parent_run_id="r2")) == ["r2.desk"]
    for wrong in ({"cursor": "x'--"}, {"limit": 0}, {"limit": 501}):
        with pytest.raises(EventError):
            list_runs(log, **wrong)  # type: ignore[arg-type]


def names(page: RunPage) -> list[str]:
    return [view.run_id for view in page.runs]


def test_a_log_survives_lost_connections(log: EventLog, database_url: str) -> None:
    start(log, "r1")
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    start(log, "r2")
    assert log.verify() is None


def test_work_goes_to_one_worker_by_priority(log: EventLog) -> None:
    queue = WorkQueue(log)
    with log.transaction() as connection:
        assert queue.enqueue(connection, "low", "graph", 1)
        assert queue.enqueue(connection, "high", "graph", 9, {"x": 1})
        assert not queue.enqueue(connection, "high", "graph", 9)
        assert queue.enqueue(connection, "other", "dag")
    first, second = queue.claim("graph", "a", 30), queue.claim("graph", "b", 30)
    assert first is not None
    assert second is not None
    assert (first.run_id, first.payload, second.run_id) == ("high", {"x": 1}, "low")
    assert queue.claim("graph", "c", 30) is None
    with log.transaction() as connection:
        queue.complete(connection, first)
    queue.release(second, "later\x00", retry_in_s=0.0)
    again = queue.claim("graph", "c", 30)
    assert again is not None
    assert (again.run_id, again.attempt, again.token) == ("low", 2, 2)
    assert queue.counts("graph") == {"done": 1, "leased": 1}


def test_work_is_released_for_later(log: EventLog) -> None:
    queue = WorkQueue(log)
    with log.transaction() as connection:
        queue.enqueue(connection, "r1", "graph")
    lease = queue.claim("graph", "a", 30)
    assert lease is not None
    queue.release(lease, "not yet", retry_in_s=60)
    assert queue.claim("graph", "a", 30) is None


def test_who_lost_the_lease_can_write_nothing(log: EventLog) -> None:
    queue = WorkQueue(log)
    with log.transaction() as connection:
        queue.enqueue(connection, "r1", "graph")
    stale = queue.claim("graph", "a", 0.05)
    assert stale is not None
    fresh = wait_until(lambda: queue.claim("graph", "b", 30), 10)
    assert fresh.token == stale.token + 1

    def write(check: Callable[[Connection, Lease], None]) -> None:
        with log.transaction() as connection:
            log.append("run-r1", [Draft(request())], connection=connection)
            check(connection, stale)

    for check in (queue.guard, queue.complete):
        with pytest.raises(LeaseLostError, match="a no longer holds"):
            write(check)
    with pytest.raises(LeaseLostError):
        queue.renew(stale)
    queue.release(stale, "zombie")
    queue.renew(fresh)
    with log.transaction() as connection:
        queue.guard(connection, fresh)
        log.append("run-r1", [Draft(request())], connection=connection)
        queue.complete(connection, fresh)
    assert log.head()[0] == 1
    with pytest.raises(LeaseLostError):
        queue.renew(fresh)


def test_many_workers_share_the_work_without_overlap(log: EventLog) -> None:
    queue = WorkQueue(log)
    with log.transaction() as connection:
        for number in range(40):
            queue.enqueue(connection, f"r{number}", "graph")

    def work(owner: int) -> list[str]:
        taken = []
        while lease := queue.claim("graph", str(owner), 30):
            taken.append(lease.run_id)
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = [run_id for own in threads.map(work, range(4)) for run_id in own]
    assert sorted(taken) == sorted(f"r{number}" for number in range(40))


def test_blobs_are_kept_once_and_checked(log: EventLog) -> None:
    blobs = Blobs(log)
    content = bytes(range(256)) * 1000
    name = blobs.put(content)
    assert blobs.put(content) == name
    assert blobs.get(name) == content
    with pytest.raises(EventError, match="no blob"):
        blobs.get("0" * 64)
    with log.transaction() as connection:
        connection.execute("UPDATE blobs SET content = 'other'")
    with pytest.raises(EventError, match="was changed"):
        blobs.get(name)


def test_a_service_is_alive_while_it_beats(log: EventLog) -> None:
    assert not alive(log, "worker")
    with beating(log, "worker", every_s=0.05):
        wait_until(lambda: alive(log, "worker", 5.0), 10)
    wait_until(lambda: not alive(log, "worker", 0.2), 10)
    assert not alive(log, "dispatcher", 5.0)


def asked(log: EventLog, *, expires_in: timedelta = timedelta(hours=1)) -> tuple[str, str]:
    proposal = Proposal(
        run_id="r1", pipeline="momentum", version_id="a" * 64, graph_version="1", as_of=NOW, action="LONG",
        base_weights={"AAPL": 0.5}, weights={"AAPL": 0.5}, confidence=0.9, reason="trend",
    )  # fmt: skip
    verdict = Verdict(
        proposal_hash=proposal.digest(), outcome="approved", weights=proposal.weights, findings=(), officer="risk-1"
    )
    expires_at = datetime.now(UTC) + expires_in
    Ledger(log).request("r1", proposal=proposal, verdict=verdict, role="pm", expires_at=expires_at)
    return proposal.digest(), verdict.digest()


def answer(log: EventLog, hashes: tuple[str, str], *, role: str = "pm", granted: bool = True) -> bool:
    approval = Ledger(log).answer(
        "r1", proposal_hash=hashes[0], verdict_hash=hashes[1], role=role, approver="ann", granted=granted
    )
    return approval.granted


def test_an_approval_counts_once(log: EventLog) -> None:
    start(log, "r1")
    hashes = asked(log)
    assert asked(log) == hashes
    assert get_run(log, "r1").state == "awaiting_approval"
    assert Ledger(log).open_request("r1") is not None
    assert answer(log, hashes)
    assert answer(log, hashes, granted=False)  # the first answer stays
    assert log.stream_version("run-r1") == 3
    assert Ledger(log).open_request("r1") is None
    given = Ledger(log).given("r1", proposal_hash=hashes[0], verdict_hash=hashes[1])
    assert given is not None
    assert given.approver == "ann"
    assert get_run(log, "r1").state == "running"


def test_two_answers_at_once_count_as_one(log: EventLog) -> None:
    start(log, "r1")
    hashes = asked(log)
    with ThreadPoolExecutor(4) as threads:
        answers = set(threads.map(lambda number: answer(log, hashes, granted=number % 2 == 0), range(4)))
    assert len(answers) == 1
    assert log.stream_version("run-r1") == 3


def test_late_edited_and_foreign_answers_do_nothing(log: EventLog) -> None:
    start(log, "r1")
    with pytest.raises(ApprovalError, match="no approval was asked for"):
        answer(log, ("0" * 64, "0" * 64))
    hashes = asked(log, expires_in=timedelta(seconds=-1))
    with pytest.raises(ApprovalError, match="expired at"):
        answer(log, hashes)
    with pytest.raises(ApprovalError, match="role 'intern' may not answer"):
        answer(log, hashes, role="intern")
    with pytest.raises(ApprovalError, match="look at it again"):
        answer(log, ("f" * 64, hashes[1]))
    assert log.stream_version("run-r1") == 2


def test_every_migration_file_has_a_number_of_its_own() -> None:
    numbers = [migration.name[:4] for migration in _migrate.find()]
    assert len(numbers) == len(set(numbers))
    assert "0001_log.sql" in {migration.name for migration in _migrate.find()}
