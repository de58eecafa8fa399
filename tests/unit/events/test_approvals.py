"""A decision is acted on only if proposal, verdict and approval agree."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from quantflow.errors import ApprovalError
from quantflow.events.approvals import auto_approval, check_decision
from quantflow.events.types import Approval, Decision, Proposal, Verdict

AS_OF = datetime(2022, 12, 28, 21, tzinfo=UTC)
BASE = {"AAPL": 0.5, "MSFT": -0.25}


def proposal(**changes: Any) -> Proposal:
    values = {
        "run_id": "r1", "pipeline": "momentum", "version_id": "a" * 64, "graph_version": "1", "as_of": AS_OF,
        "action": "LONG", "base_weights": BASE, "weights": BASE, "confidence": 0.9, "reason": "trend",
    }  # fmt: skip
    return Proposal(**(values | changes))


def verdict_on(judged: Proposal, **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "proposal_hash": judged.digest(), "outcome": "approved", "weights": judged.weights, "findings": (),
        "officer": "risk-1",
    }  # fmt: skip
    return Verdict(**(values | changes))


def decision_on(judged: Proposal, verdict: Verdict, approval: Approval, **changes: Any) -> Decision:
    values = {
        "decision_id": "d1", "run_id": "r1", "pipeline": "momentum", "version_id": "a" * 64, "as_of": AS_OF,
        "action": "LONG", "weights": verdict.weights, "reason": "trend", "proposal_hash": judged.digest(),
        "verdict_hash": verdict.digest(), "approval_hash": approval.digest(),
    }  # fmt: skip
    return Decision(**(values | changes))


def refused(
    match: str,
    *,
    judged: Proposal | None = None,
    verdict: dict[str, Any] | None = None,
    approval: dict[str, Any] | None = None,
    decision: dict[str, Any] | None = None,
) -> None:
    made = judged or proposal()
    given = verdict_on(made, **(verdict or {}))
    permission = auto_approval(made, given, role="pm", at=AS_OF).model_copy(update=approval or {})
    with pytest.raises(ApprovalError, match=match):
        check_decision(decision_on(made, given, permission, **(decision or {})), made, given, permission)


def test_a_decision_whose_hashes_agree_passes() -> None:
    made = proposal()
    verdict = verdict_on(made, outcome="reduced", weights={"AAPL": 0.25, "MSFT": -0.25})
    approval = auto_approval(made, verdict, role="pm", at=AS_OF)
    check_decision(decision_on(made, verdict, approval), made, verdict, approval)


def test_a_hold_passes_whatever_was_refused() -> None:
    made = proposal()
    verdict = verdict_on(made, outcome="rejected", weights={})
    approval = auto_approval(made, verdict, role="pm", at=AS_OF).model_copy(update={"granted": False})
    check_decision(decision_on(made, verdict, approval, action="HOLD"), made, verdict, approval)


def test_every_hash_must_agree() -> None:
    other = "f" * 64
    refused("verdict is of another proposal", verdict={"proposal_hash": other})
    refused("approval is of another proposal", approval={"proposal_hash": other})
    refused("approval is of another verdict", approval={"verdict_hash": other})
    refused("names another proposal", decision={"proposal_hash": other})
    refused("names another verdict", decision={"verdict_hash": other})
    refused("names another approval", decision={"approval_hash": other})


def test_an_edited_record_no_longer_fits_its_hash() -> None:
    made = proposal()
    verdict = verdict_on(made)
    approval = auto_approval(made, verdict, role="pm", at=AS_OF)
    decision = decision_on(made, verdict, approval)
    edited = proposal(confidence=0.91)
    with pytest.raises(ApprovalError, match="another proposal"):
        check_decision(decision, edited, verdict, approval)


def test_a_decision_stays_with_its_run_and_version() -> None:
    refused("another run", decision={"run_id": "r2"})
    refused("another pipeline or version", decision={"version_id": "b" * 64})
    refused("another as-of", decision={"as_of": datetime(2022, 12, 29, tzinfo=UTC)})


def test_acting_needs_a_verdict_that_does_not_reject_and_a_granted_approval() -> None:
    refused("the verdict rejected", verdict={"outcome": "rejected"})
    refused("the approval was refused", approval={"granted": False})
    refused("the proposal says HOLD", judged=proposal(action="HOLD", weights={}))


def test_weights_are_the_verdicts_and_never_exceed_the_signals() -> None:
    refused("not the verdict's", decision={"weights": {"AAPL": 0.1}})
    for raised in ({"AAPL": 0.6}, {"AAPL": -0.1}, {"TSLA": 0.1}, {"MSFT": 0.25}):
        refused("exceed the signal's", verdict={"weights": raised})
    refused("HOLD and carries weights", decision={"action": "HOLD"})
