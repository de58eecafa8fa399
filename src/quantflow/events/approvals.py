"""The approval ledger: permission for one exact proposal and verdict, by role, until it expires.

Notebook, API and Airflow are doors to this one ledger. A duplicate answer returns the first
one, whatever it says; a late or edited answer is refused and changes nothing.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from quantflow.errors import ApprovalError
from quantflow.events._database import Connection
from quantflow.events.envelope import derived_id
from quantflow.events.log import EventLog
from quantflow.events.records import Draft
from quantflow.events.runs import run_stream
from quantflow.events.types import (
    Approval,
    ApprovalGiven,
    ApprovalRequested,
    Decision,
    Proposal,
    Verdict,
)

__all__ = ["AUTO_APPROVER", "Ledger", "auto_approval", "check_decision"]

#: Who "approves" where the contract says ``approval = "auto"``.
AUTO_APPROVER = "quantflow"

_EXPOSURE_TOLERANCE = 1e-12


class Ledger:
    """Approvals of runs, kept in the runs' own streams."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def request(
        self,
        run_id: str,
        *,
        proposal: Proposal,
        verdict: Verdict,
        role: str,
        expires_at: datetime,
        connection: Connection | None = None,
    ) -> ApprovalRequested:
        """Ask for an approval; asking again for the same proposal and verdict returns the first request."""
        event = ApprovalRequested(
            run_id=run_id,
            proposal_hash=proposal.digest(),
            verdict_hash=verdict.digest(),
            role=role,
            expires_at=expires_at,
        )
        identity = derived_id(run_id, "approval requested", event.proposal_hash, event.verdict_hash)
        stored = self._log.append(run_stream(run_id), [Draft(event, event_id=identity)], connection=connection)
        first = stored[0].event
        assert isinstance(first, ApprovalRequested)
        return first

    def answer(
        self,
        run_id: str,
        *,
        proposal_hash: str,
        verdict_hash: str,
        role: str,
        approver: str,
        granted: bool,
        connection: Connection | None = None,
    ) -> Approval:
        """Grant or refuse, and return the approval that counts: the first answer.

        Raises
        ------
        ApprovalError
            Nothing was asked for this run, the hashes are of another proposal or verdict, the
            role is another one, or the request has expired.
        """
        if connection is not None:
            return self._answer(connection, run_id, proposal_hash, verdict_hash, role, approver, granted)
        with self._log.transaction() as own:
            return self._answer(own, run_id, proposal_hash, verdict_hash, role, approver, granted)

    def open_request(self, run_id: str) -> ApprovalRequested | None:
        """Return the run's last request that has no answer yet, or None."""
        with self._log.transaction() as connection:
            requests, answers = self._entries(connection, run_id)
        answered = {(given.approval.proposal_hash, given.approval.verdict_hash) for given in answers}
        waiting = [asked for asked in requests if (asked.proposal_hash, asked.verdict_hash) not in answered]
        return waiting[-1] if waiting else None

    def given(self, run_id: str, *, proposal_hash: str, verdict_hash: str) -> Approval | None:
        """Return the answer for this exact proposal and verdict, or None."""
        with self._log.transaction() as connection:
            _, answers = self._entries(connection, run_id)
        return _first_answer(answers, proposal_hash, verdict_hash)

    def _answer(
        self,
        connection: Connection,
        run_id: str,
        proposal_hash: str,
        verdict_hash: str,
        role: str,
        approver: str,
        granted: bool,
    ) -> Approval:
        requests, answers = self._entries(connection, run_id)
        if (first := _first_answer(answers, proposal_hash, verdict_hash)) is not None:
            return first
        asked = _matching_request(requests, run_id, proposal_hash, verdict_hash)
        if role != asked.role:
            raise ApprovalError(f"run {run_id}: role {role!r} may not answer; {asked.role!r} was asked")
        if _now(connection) >= asked.expires_at:
            raise ApprovalError(f"run {run_id}: the request expired at {asked.expires_at.isoformat()}; start a new run")
        approval = Approval(
            proposal_hash=proposal_hash,
            verdict_hash=verdict_hash,
            mode="human",
            role=role,
            approver=approver,
            granted=granted,
            expires_at=asked.expires_at,
        )
        event = ApprovalGiven(run_id=run_id, approval=approval, approval_hash=approval.digest())
        # Two answers at the same moment: the second append finds the id taken and returns the first.
        identity = derived_id(run_id, "approval given", proposal_hash, verdict_hash)
        stored = self._log.append(run_stream(run_id), [Draft(event, event_id=identity)], connection=connection)
        first_given = stored[0].event
        assert isinstance(first_given, ApprovalGiven)
        return first_given.approval

    def _entries(self, connection: Connection, run_id: str) -> tuple[list[ApprovalRequested], list[ApprovalGiven]]:
        events = [stored.event for stored in self._log.read_stream(run_stream(run_id), connection=connection)]
        requests = [event for event in events if isinstance(event, ApprovalRequested)]
        return requests, [event for event in events if isinstance(event, ApprovalGiven)]


def auto_approval(proposal: Proposal, verdict: Verdict, *, role: str, at: datetime) -> Approval:
    """Return the approval that the contract's ``approval = "auto"`` gives; valid for an hour from ``at``."""
    return Approval(
        proposal_hash=proposal.digest(),
        verdict_hash=verdict.digest(),
        mode="auto",
        role=role,
        approver=AUTO_APPROVER,
        granted=True,
        expires_at=at + timedelta(hours=1),
    )


def check_decision(decision: Decision, proposal: Proposal, verdict: Verdict, approval: Approval) -> None:
    """Refuse a decision that is not exactly what was proposed, judged and approved.

    Every hash is computed anew from the records. ``HOLD`` changes nothing and so carries no
    weights; anything else needs a granted approval, a verdict that is not a rejection, and the
    verdict's own weights, which may not exceed the signal's.

    Raises
    ------
    ApprovalError
        Names everything that does not agree.
    """
    proposal_hash, verdict_hash, approval_hash = proposal.digest(), verdict.digest(), approval.digest()
    agreements = {
        "the verdict is of another proposal": verdict.proposal_hash == proposal_hash,
        "the approval is of another proposal": approval.proposal_hash == proposal_hash,
        "the approval is of another verdict": approval.verdict_hash == verdict_hash,
        "the decision names another proposal": decision.proposal_hash == proposal_hash,
        "the decision names another verdict": decision.verdict_hash == verdict_hash,
        "the decision names another approval": decision.approval_hash == approval_hash,
        "the decision is of another run": decision.run_id == proposal.run_id,
        "the decision is of another pipeline or version": (decision.pipeline, decision.version_id)
        == (proposal.pipeline, proposal.version_id),
        "the decision has another as-of": decision.as_of == proposal.as_of,
    }
    problems = [problem for problem, holds in agreements.items() if not holds]
    problems += (
        _hold_problems(decision)
        if decision.action == "HOLD"
        else _acting_problems(decision, proposal, verdict, approval)
    )
    if problems:
        raise ApprovalError(f"decision {decision.decision_id} refused: {'; '.join(problems)}")


def _hold_problems(decision: Decision) -> list[str]:
    return ["it says HOLD and carries weights"] if decision.weights else []


def _acting_problems(decision: Decision, proposal: Proposal, verdict: Verdict, approval: Approval) -> list[str]:
    checks = {
        f"it says {decision.action}, the proposal says HOLD": proposal.action != "HOLD",
        f"it says {decision.action}, the verdict rejected": verdict.outcome != "rejected",
        f"it says {decision.action}, the approval was refused": approval.granted,
        "its weights are not the verdict's": decision.weights == verdict.weights,
        "its weights exceed the signal's": _within(decision.weights, proposal.base_weights),
    }
    return [problem for problem, holds in checks.items() if not holds]


def _within(weights: dict[str, float], base: dict[str, float]) -> bool:
    def fits(symbol: str, weight: float) -> bool:
        allowed = base.get(symbol, 0.0)
        same_side = weight == 0.0 or math.copysign(1.0, weight) == math.copysign(1.0, allowed)
        return same_side and abs(weight) <= abs(allowed) + _EXPOSURE_TOLERANCE

    return all(fits(symbol, weight) for symbol, weight in weights.items())


def _matching_request(
    requests: list[ApprovalRequested], run_id: str, proposal_hash: str, verdict_hash: str
) -> ApprovalRequested:
    if not requests:
        raise ApprovalError(f"run {run_id}: no approval was asked for")
    for asked in reversed(requests):
        if (asked.proposal_hash, asked.verdict_hash) == (proposal_hash, verdict_hash):
            return asked
    raise ApprovalError(
        f"run {run_id}: the answer is for proposal {proposal_hash[:12]} and verdict {verdict_hash[:12]}, "
        f"asked was for {requests[-1].proposal_hash[:12]} and {requests[-1].verdict_hash[:12]}; look at it again"
    )


def _first_answer(answers: list[ApprovalGiven], proposal_hash: str, verdict_hash: str) -> Approval | None:
    for given in answers:
        if (given.approval.proposal_hash, given.approval.verdict_hash) == (proposal_hash, verdict_hash):
            return given.approval
    return None


def _now(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment
