"""Graph runs from the work queue: one lease, one graph, one decision.

Whatever a run writes it writes in a transaction that checks its lease first, under ids that
follow from run and name. So a worker that was stopped, cut off or killed in the middle can
neither double what its successor writes nor lose what it wrote itself.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg_pool import PoolTimeout
from pydantic import ValidationError

from quantflow.agents import Decided, DeskContext, DeskRequest, LogJournal, Waiting, run_desk
from quantflow.errors import (
    LeaseLostError,
    LogUnavailableError,
    OrchestrationError,
    QuantflowError,
    TransportError,
    UnknownRunError,
)
from quantflow.events.approvals import Ledger, check_decision
from quantflow.events.blobs import Blobs
from quantflow.events.envelope import derived_id
from quantflow.events.queue import Lease, WorkQueue
from quantflow.events.records import Draft
from quantflow.events.runs import run_stream
from quantflow.events.types import (
    Approval,
    ApprovalGiven,
    ApprovalRequested,
    DecisionMade,
    ErrorDetail,
    Event,
    ProposalMade,
    RunErrorRecorded,
    RunRequested,
    RunState,
    RunStateObserved,
    VerdictGiven,
    WorkflowResult,
)
from quantflow.telemetry import correlation, get_logger

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from quantflow.events.envelope import Envelope
    from quantflow.events.log import EventLog
    from quantflow.events.topics import Topics
    from quantflow.llm import LanguageModel

__all__ = ["DESK_WORK", "DeskRuns", "LeaseKeeper", "enqueue_desk_request"]

log = get_logger(__name__)

#: Kind of work in the queue.
DESK_WORK = "langgraph"

#: Claims after which a run that ends its worker every time is given up.
MOST_ATTEMPTS = 5
#: Tries of a graph that raises something unforeseen.
MOST_SURPRISES = 3
RETRY_S = 1.0
#: How often a run that waits for a person is looked at; it holds no thread in between.
PARKED_S = 2.0
#: Approver of record where nobody answered in time.
EXPIRED = "nobody"

#: What may have passed by the next try.
_PASSING = (LogUnavailableError, TransportError, psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)

Found = TypeVar("Found", bound=Event)
GraphLoader = Callable[[RunRequested, DeskRequest], Callable[[], Any]]
Connection = psycopg.Connection[tuple[Any, ...]]


def enqueue_desk_request(event_log: EventLog, queue: WorkQueue, connection: Connection, envelope: Envelope) -> bool:
    """Put a request for a graph into the work queue, in the caller's transaction; ignore all else.

    Raises
    ------
    UnknownRunError
        The event log holds no such request: the log is the truth, a topic is not.
    """
    request = envelope.data
    if not isinstance(request, RunRequested) or request.workflow_type != "langgraph":
        return False
    stream = run_stream(request.run_id)
    stored = event_log.get(envelope.id, connection=connection)
    if stored is None or stored.stream != stream:
        raise UnknownRunError(f"run {request.run_id!r} is not in the event log; ask for runs through the API")
    payload = {"correlation_id": envelope.correlation_id, "traceparent": envelope.traceparent}
    if not queue.enqueue(connection, request.run_id, DESK_WORK, request.priority, payload):
        return False
    queued = _observed(request.run_id, "queued")
    event_log.append(stream, [_draft(request.run_id, "worker/queued", queued)], connection=connection)
    return True


class LeaseKeeper:
    """Renews the leases of the runs that this process works on."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()

    @contextmanager
    def keeping(self, lease: Lease) -> Iterator[None]:
        """Renew the lease for as long as the block runs."""
        with self._lock:
            self._held[lease.run_id] = lease
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(lease.run_id, None)

    def renew(self) -> None:
        """Renew every lease once; one that is lost is let go, its run finds out at its next write."""
        for lease in self._leases():
            try:
                self._queue.renew(lease)
            except LeaseLostError as exc:
                log.warning("lease lost", run_id=lease.run_id, reason=str(exc))
                with self._lock:
                    self._held.pop(lease.run_id, None)
            except LogUnavailableError as exc:
                log.warning("lease not renewed", run_id=lease.run_id, reason=str(exc))

    def release(self) -> None:
        """Give back what is still held, so that another worker need not wait for the lease to run out."""
        for lease in self._leases():
            try:
                self._queue.release(lease, "its worker was stopped")
                log.info("lease released", run_id=lease.run_id)
            except LogUnavailableError as exc:
                log.warning("lease not released; it runs out by itself", run_id=lease.run_id, reason=str(exc))

    def _leases(self) -> list[Lease]:
        with self._lock:
            return list(self._held.values())


@dataclass(frozen=True)
class DeskRuns:
    """What a worker needs to run graphs.

    Parameters
    ----------
    load_graph
        Returns the function that builds a run's graph, from the promoted version's bytes.
    connect
        Returns the language model; called for each run, so that one that came or went is noticed.
    """

    event_log: EventLog
    queue: WorkQueue
    keeper: LeaseKeeper
    topics: Topics
    checkpointer: BaseCheckpointSaver[Any]
    load_graph: GraphLoader
    connect: Callable[[], LanguageModel]
    lease_s: float
    timeout_s: float
    owner: str = f"worker@{socket.gethostname()}:{os.getpid()}"

    def once(self) -> bool:
        """Advance the most urgent waiting run; return whether there was one."""
        lease = self.queue.claim(DESK_WORK, self.owner, self.lease_s)
        if lease is None:
            return False
        identity = str(lease.payload.get("correlation_id") or lease.run_id)
        with correlation(identity, lease.payload.get("traceparent")), self.keeper.keeping(lease):
            self._advance(lease)
        return True

    def _advance(self, lease: Lease) -> None:
        try:
            self._run(lease)
        except LeaseLostError as exc:
            log.warning("run left to its new holder", run_id=lease.run_id, reason=str(exc))
        except _PASSING as exc:
            self._try_again(lease, exc)
        except (QuantflowError, ValidationError) as exc:
            self._fail(lease, exc)
        except Exception as exc:
            # A pipeline's own graph may raise anything; the worker goes on to the next run.
            log.exception("graph raised", run_id=lease.run_id, attempt=lease.attempt)
            if lease.attempt < MOST_SURPRISES:
                self._try_again(lease, exc)
            else:
                self._fail(lease, exc)

    def _run(self, lease: Lease) -> None:
        events = [stored.event for stored in self.event_log.read_stream(run_stream(lease.run_id))]
        request = _request(lease.run_id, events)
        asked = _last(events, ApprovalRequested)
        approval = None
        if asked is not None:
            approval = self._answer(lease, asked)
            if approval is None:
                self.queue.release(lease, None, PARKED_S)
                return
        elif lease.attempt > MOST_ATTEMPTS:
            raise OrchestrationError(
                f"run {lease.run_id} was begun {lease.attempt - 1} times and ended its worker each time; given up"
            )
        self._record(lease, _draft(lease.run_id, "worker/running", _observed(lease.run_id, "running")))
        context = self._context(lease, request)
        build = self.load_graph(request, context.request)
        end = run_desk(build, context, checkpointer=self.checkpointer, approval=approval)
        if isinstance(end, Waiting):
            self._park(lease, end)
        else:
            self._finish(lease, request, end)

    def _context(self, lease: Lease, request: RunRequested) -> DeskContext:
        return DeskContext(
            run_id=request.run_id,
            as_of=request.as_of,
            request=DeskRequest.read(request.parameters),
            language_model=self.connect(),
            read_blob=Blobs(self.event_log).get,
            journal=LogJournal(self.event_log, request.run_id, lambda: self._fenced(lease)),
            timeout_s=self.timeout_s,
        )

    def _answer(self, lease: Lease, asked: ApprovalRequested) -> Approval | None:
        """Return the answer to a run's question; a refusal by nobody once it has expired."""
        hashes = {"proposal_hash": asked.proposal_hash, "verdict_hash": asked.verdict_hash}
        given = Ledger(self.event_log).given(lease.run_id, **hashes)
        if given is not None or datetime.now(UTC) < asked.expires_at:
            return given
        refusal = Approval(
            **hashes, mode="human", role=asked.role, approver=EXPIRED, granted=False, expires_at=asked.expires_at
        )
        self._record(lease, _approval_draft(lease.run_id, refusal))
        # An answer of the last moment has the same id and was first.
        return Ledger(self.event_log).given(lease.run_id, **hashes)

    def _park(self, lease: Lease, end: Waiting) -> None:
        """Ask for the approval and let go of the thread until there is an answer."""
        with self._fenced(lease) as connection:
            self.event_log.append(run_stream(lease.run_id), _judged(end), connection=connection)
            Ledger(self.event_log).request(
                lease.run_id,
                proposal=end.proposal,
                verdict=end.verdict,
                role=end.role,
                expires_at=end.expires_at,
                connection=connection,
            )
        log.info("waiting for approval", run_id=lease.run_id, role=end.role, expires_at=end.expires_at.isoformat())
        self.queue.release(lease, None, PARKED_S)

    def _finish(self, lease: Lease, request: RunRequested, end: Decided) -> None:
        """Publish the decision and end the work, in one transaction of the lease's holder."""
        check_decision(end.decision, end.proposal, end.verdict, end.approval)
        run_id = request.run_id
        result = WorkflowResult(
            run_id=run_id, parent_run_id=request.parent_run_id, state="succeeded", result=_result(end)
        )
        drafts = [
            *_judged(end),
            _approval_draft(run_id, end.approval),
            _draft(run_id, "decision", DecisionMade(decision=end.decision), self.topics.decisions, request.workflow_id),
            _draft(run_id, "workflow/result", result, self.topics.results, run_id),
            _draft(run_id, "worker/ended", _observed(run_id, "succeeded")),
        ]
        with self.event_log.transaction() as connection:
            self.queue.complete(connection, lease)
            self.event_log.append(run_stream(run_id), drafts, connection=connection)
        log.info("decided", run_id=run_id, action=end.decision.action, reason=end.decision.reason)

    def _try_again(self, lease: Lease, exc: Exception) -> None:
        log.warning("run interrupted", run_id=lease.run_id, attempt=lease.attempt, reason=str(exc))
        try:
            self.queue.release(lease, f"{type(exc).__name__}: {exc}", RETRY_S)
        except LogUnavailableError:
            log.warning("lease not released; it runs out by itself", run_id=lease.run_id)

    def _fail(self, lease: Lease, exc: Exception) -> None:
        """End the run as failed: what it met would be met again."""
        error = ErrorDetail(kind=type(exc).__name__, message=_storable(str(exc)) or repr(exc), task_id="desk")
        run_id = lease.run_id
        log.error("run failed", run_id=run_id, error=f"{error.kind}: {error.message}")
        try:
            events = [stored.event for stored in self.event_log.read_stream(run_stream(run_id))]
            request = _last(events, RunRequested)
            parent = request.parent_run_id if request else None
            result = WorkflowResult(run_id=run_id, parent_run_id=parent, state="failed", error=error)
            drafts = [
                _draft(run_id, "error/desk", RunErrorRecorded(run_id=run_id, error=error)),
                _draft(run_id, "workflow/result", result, self.topics.results, run_id),
                _draft(run_id, "worker/ended", _observed(run_id, "failed", error.message[:500])),
            ]
            with self.event_log.transaction() as connection:
                self.queue.complete(connection, lease, error=error.message)
                self.event_log.append(run_stream(run_id), drafts, connection=connection)
        except LeaseLostError as lost:
            log.warning("run left to its new holder", run_id=run_id, reason=str(lost))
        except LogUnavailableError as away:
            log.warning("failure not recorded; the lease runs out and the run is tried again", reason=str(away))

    @contextmanager
    def _fenced(self, lease: Lease) -> Iterator[Connection]:
        with self.event_log.transaction() as connection:
            self.queue.guard(connection, lease)
            yield connection

    def _record(self, lease: Lease, draft: Draft) -> None:
        with self._fenced(lease) as connection:
            self.event_log.append(run_stream(lease.run_id), [draft], connection=connection)


def _draft(run_id: str, name: str, event: Event, topic: str | None = None, key: str | None = None) -> Draft:
    return Draft(event, event_id=derived_id(run_id, name), topic=topic, key=key)


def _observed(run_id: str, state: RunState, detail: str | None = None) -> RunStateObserved:
    now = datetime.now(UTC)
    return RunStateObserved(
        run_id=run_id, engine="langgraph", state=state, observed_at=now, origin="worker", detail=detail
    )


def _judged(end: Decided | Waiting) -> list[Draft]:
    run_id = end.proposal.run_id
    made = ProposalMade(proposal=end.proposal, proposal_hash=end.proposal.digest())
    given = VerdictGiven(run_id=run_id, verdict=end.verdict, verdict_hash=end.verdict.digest())
    return [_draft(run_id, "proposal", made), _draft(run_id, "verdict", given)]


def _approval_draft(run_id: str, approval: Approval) -> Draft:
    event = ApprovalGiven(run_id=run_id, approval=approval, approval_hash=approval.digest())
    # The ledger's own id: a person's answer, which is there already, is not recorded twice.
    return Draft(event, event_id=derived_id(run_id, "approval given", approval.proposal_hash, approval.verdict_hash))


def _result(end: Decided) -> dict[str, Any]:
    return {
        "decision_id": end.decision.decision_id,
        "action": end.decision.action,
        "reason": end.decision.reason,
        "confidence": end.proposal.confidence,
        "verdict": end.verdict.outcome,
        "decision": end.decision.model_dump(mode="json"),
    }


def _request(run_id: str, events: list[Event]) -> RunRequested:
    request = _last(events, RunRequested)
    if request is None:
        raise UnknownRunError(f"run {run_id} was never asked for: its stream holds no request")
    return request


def _last(events: list[Event], kind: type[Found]) -> Found | None:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def _storable(text: str, *, longest: int = 20_000) -> str:
    clean = text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return clean[:longest]
