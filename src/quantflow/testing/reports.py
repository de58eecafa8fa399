"""The events of an analysis, planted, for tests of reports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from quantflow.events.runs import RunView
from quantflow.events.types import (
    Action,
    Approval,
    ApprovalGiven,
    Decision,
    DecisionMade,
    Event,
    Finding,
    LanguageModelCalled,
    NodeCompleted,
    Proposal,
    ProposalMade,
    Verdict,
    VerdictGiven,
)

__all__ = ["AS_OF", "desk_events", "run_view"]

AS_OF = datetime(2026, 11, 20, 21, 15, tzinfo=UTC)
_VERSION = "ab" * 32


def run_view(**changes: Any) -> RunView:
    """Return a running pipeline run."""
    values: dict[str, Any] = {
        "run_id": "019aa3c1-7d0c-7c60-9a3e-5a0d3a8f2a11",
        "workflow_id": "momentum",
        "workflow_type": "airflow",
        "state": "running",
        "version_id": _VERSION,
        "as_of": AS_OF,
        "requested_by": "api-key",
        "created_at": AS_OF,
        "updated_at": AS_OF,
    }
    return RunView(**(values | changes))


def desk_events(base: Mapping[str, float], *, limit: float = 0.04, action: Action = "LONG") -> list[Event]:
    """Return what a desk leaves behind: 90 % of the base weights proposed, positions cut at ``limit``.

    With ``action="HOLD"``: nothing is proposed and nothing decided but to hold.
    """
    run_id = "019aa3c1-7d0c-7c60-9a3e-5a0d3a8f2a11.desk"
    hold = action == "HOLD"
    proposed = {} if hold else {symbol: weight * 0.9 for symbol, weight in base.items()}
    reason = "risk analyst: no usable answer (timeout)" if hold else "The trend supports the exposure; 90 % is kept."
    proposal = Proposal(
        run_id=run_id,
        pipeline="momentum",
        version_id=_VERSION,
        graph_version="desk-1",
        as_of=AS_OF,
        action=action,
        base_weights=dict(base),
        weights=proposed,
        confidence=0.0 if hold else 0.8,
        reason=reason,
        language_model="SmolLM2-135M-Instruct",
    )
    cut = {symbol: max(-limit, min(limit, weight)) for symbol, weight in proposed.items()}
    findings = tuple(
        Finding(
            measure="position",
            value=abs(weight),
            limit=limit,
            breached=True,
            symbol=symbol,
            message=f"position {abs(weight):.2%} exceeds the limit {limit:.2%}: {symbol} cut from {weight:+.2%}",
        )
        for symbol, weight in proposed.items()
        if abs(weight) > limit
    )
    verdict = Verdict(
        proposal_hash=proposal.digest(),
        outcome="reduced" if findings else "approved",
        weights=cut,
        findings=findings,
        officer="quantflow-risk-officer/1",
    )
    approval = Approval(
        proposal_hash=proposal.digest(),
        verdict_hash=verdict.digest(),
        mode="auto",
        role="portfolio-manager",
        approver="contract",
        granted=True,
        expires_at=AS_OF + timedelta(days=1),
    )
    decision = Decision(
        decision_id="decision-1",
        run_id=run_id,
        pipeline="momentum",
        version_id=_VERSION,
        as_of=AS_OF,
        action=action,
        weights=cut,
        reason=reason,
        proposal_hash=proposal.digest(),
        verdict_hash=verdict.digest(),
        approval_hash=approval.digest(),
    )
    return [
        _call(run_id, "technical_analyst", "ok"),
        NodeCompleted(
            run_id=run_id,
            node="technical_analyst",
            index=0,
            nodes_total=3,
            words="12 of 15 positions go with their trend. <script>document.title = 'planted'</script>",
        ),
        _call(run_id, "risk_analyst", "timeout" if hold else "ok"),
        NodeCompleted(run_id=run_id, node="risk_analyst", index=1, nodes_total=3, words=None if hold else "Low."),
        ProposalMade(proposal=proposal, proposal_hash=proposal.digest()),
        VerdictGiven(run_id=run_id, verdict=verdict, verdict_hash=verdict.digest()),
        ApprovalGiven(run_id=run_id, approval=approval, approval_hash=approval.digest()),
        DecisionMade(decision=decision),
    ]


def _call(run_id: str, node: str, outcome: Any) -> LanguageModelCalled:
    return LanguageModelCalled(
        run_id=run_id,
        node=node,
        backend="embedded",
        language_model="SmolLM2-135M-Instruct",
        request_hash="cd" * 32,
        messages=(),
        outcome=outcome,
        input_tokens=512 if outcome == "ok" else None,
        output_tokens=44 if outcome == "ok" else None,
        duration_s=1.23456789,
    )
