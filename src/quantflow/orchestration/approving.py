"""A person's answer to a waiting run: what the command line and the API call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.errors import ApprovalError
from quantflow.events.approvals import Ledger

if TYPE_CHECKING:
    from quantflow.events.log import EventLog
    from quantflow.events.types import Approval

__all__ = ["grant"]


def grant(
    log: EventLog,
    run_id: str,
    approver: str,
    *,
    granted: bool,
    role: str | None = None,
    proposal_hash: str | None = None,
) -> Approval:
    """Grant or refuse what a run asks, and return the answer that counts: the first one.

    The worker finds the answer in the event log and goes on within seconds.

    Parameters
    ----------
    role
        In which role the approver answers; by default the one that was asked for.
    proposal_hash
        The proposal that the approver has seen. Given, an answer to any other is refused.

    Raises
    ------
    ApprovalError
        The run asks nothing (any more), asks for another role, asks about another proposal, or
        its request has expired.
    """
    ledger = Ledger(log)
    asked = ledger.open_request(run_id)
    if asked is None:
        raise ApprovalError(f"run {run_id} waits for no approval; `quantflow runs show {run_id}` tells its state")
    return ledger.answer(
        run_id,
        proposal_hash=proposal_hash or asked.proposal_hash,
        verdict_hash=asked.verdict_hash,
        role=role or asked.role,
        approver=approver,
        granted=granted,
    )
