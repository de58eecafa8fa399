"""The nodes of the desk. Each is a plain function of state and context that returns what it sets."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta
from typing import Any, Protocol

from langgraph.runtime import Runtime
from langgraph.types import interrupt

from quantflow.agents._context import DeskContext
from quantflow.agents._facts import NO_EXPOSURE, exposure_facts, risk_facts, technical_facts
from quantflow.agents._opinions import (
    CONFIDENCE,
    SHARE,
    Brief,
    Confidence,
    ManagerAnswer,
    RiskAnswer,
    TechnicalAnswer,
    facts_for_manager,
    facts_for_risk,
    facts_for_technical,
    printable,
)
from quantflow.agents._state import DeskState, DeskUpdate, Opinion
from quantflow.errors import ApprovalError
from quantflow.events.approvals import auto_approval
from quantflow.events.envelope import derived_id
from quantflow.events.types import Action, Approval, Decision, Finding, NodeCompleted, Proposal, Verdict
from quantflow.llm import Answer
from quantflow.risk import OFFICER, review

__all__ = ["desk_node", "give_verdict"]

#: How much of the base weights is left, at most, when the risk analyst's concern is high.
CAUTIOUS_SCALE = 0.5


class NodeFunction(Protocol):
    """A node as one writes it: a function whose parameters are named ``state`` and ``runtime``."""

    __name__: str

    def __call__(self, state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate: ...


class Node(Protocol):
    """A node as LangGraph calls it."""

    def __call__(self, state: DeskState, *, runtime: Runtime[DeskContext]) -> DeskUpdate: ...


def desk_node(function: NodeFunction) -> Node:
    """Return the node with its steps reported: each finished visit is a ``NodeCompleted`` event.

    The event's id follows from run, node and visit, so a node that a crash made run twice is
    reported once. The node's name is the function's.
    """
    name = function.__name__

    @functools.wraps(function)
    def reported(state: DeskState, *, runtime: Runtime[DeskContext]) -> DeskUpdate:
        update = function(state, runtime)
        path = state.get("path", [])
        opinion = update.get("opinions", {}).get(name)
        completed = NodeCompleted(
            run_id=runtime.context.run_id,
            node=name,
            index=len(path),
            nodes_total=runtime.context.nodes_total,
            words=opinion["words"] if opinion else update.get("reason") or update.get("hold_reason"),
            data=update,
        )
        runtime.context.journal.record(f"node/{name}/{path.count(name)}", completed)
        return {**update, "path": [name]}

    return reported


@desk_node
def read_facts(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
    """Compute what the analysts are told."""
    context = runtime.context
    weights = context.request.base_weights
    exposure = exposure_facts(weights)
    if exposure["gross"] <= NO_EXPOSURE:
        return {"facts": {"exposure": exposure}, "reason": "the signal has no exposure", "confidence": 1.0}
    limits = context.request.limits
    technical = technical_facts(weights, context.returns, periods_per_year=limits.periods_per_year)
    risk = risk_facts(weights, context.returns, limits, confidence_level=context.request.confidence_level)
    return {"facts": {"exposure": exposure, "technical": technical, "risk": risk}}


def technical_analyst(brief: Brief) -> Node:
    """Return the node that judges the trend."""

    @desk_node
    def technical_analyst(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
        facts = state["facts"]
        question = brief.messages(facts_for_technical(facts["exposure"], facts["technical"]))
        answer = runtime.context.ask("technical_analyst", question, TechnicalAnswer)
        if answer.value is None:
            return _no_answer("technical analyst", answer)
        value = answer.value
        return {"opinions": {"technical_analyst": _opinion(value.words, f"trend {value.trend}", value.confidence)}}

    return technical_analyst


def risk_analyst(brief: Brief) -> Node:
    """Return the node that judges the risk."""

    @desk_node
    def risk_analyst(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
        facts = state["facts"]
        question = brief.messages(facts_for_risk(facts["exposure"], facts["risk"]))
        answer = runtime.context.ask("risk_analyst", question, RiskAnswer)
        if answer.value is None:
            return _no_answer("risk analyst", answer)
        value = answer.value
        return {"opinions": {"risk_analyst": _opinion(value.words, f"concern {value.concern}", value.confidence)}}

    return risk_analyst


@desk_node
def be_cautious(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
    """Cap the exposure before the portfolio manager is asked."""
    return {
        "max_scale": CAUTIOUS_SCALE,
        "reason": f"high concern: at most {CAUTIOUS_SCALE:.0%} of the signal's exposure",
    }


def portfolio_manager(brief: Brief) -> Node:
    """Return the node that weighs the opinions: how much of the base weights to take."""

    @desk_node
    def portfolio_manager(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
        question = brief.messages(facts_for_manager(state["facts"]["exposure"], state["opinions"]))
        answer = runtime.context.ask("portfolio_manager", question, ManagerAnswer)
        if answer.value is None:
            return _no_answer("portfolio manager", answer)
        value = answer.value
        return {
            "opinions": {"portfolio_manager": _opinion(value.words, f"keep {value.keep}", value.confidence)},
            "scale": SHARE[value.keep],
            "confidence": CONFIDENCE[value.confidence],
            "reason": value.words,
        }

    return portfolio_manager


@desk_node
def propose(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
    """Turn what was found into one typed proposal: never more exposure than the base weights."""
    request = runtime.context.request
    confidence = state.get("confidence", 0.0)
    hold = state.get("hold_reason") or ""
    if not hold and confidence < request.min_confidence:
        hold = f"confidence {confidence:.2f} is below the contract's {request.min_confidence:.2f}"
    asked, allowed = state.get("scale", 1.0), state.get("max_scale", 1.0)
    scale = _fraction(min(asked, allowed))
    weights = {} if hold else {symbol: weight * scale for symbol, weight in request.base_weights.items()}
    proposal = Proposal(
        run_id=state["run_id"],
        pipeline=request.pipeline,
        version_id=request.version_id,
        graph_version=state["graph_version"],
        as_of=datetime.fromisoformat(state["as_of"]),
        action="HOLD" if hold else action_of(weights),
        base_weights=request.base_weights,
        weights=weights,
        confidence=_fraction(confidence),
        reason=hold or _with_rule(state.get("reason", ""), asked, allowed),
        language_model=_named(runtime.context),
    )
    return {"proposal": proposal.model_dump(mode="json")}


def _with_rule(reason: str, asked: float, allowed: float) -> str:
    # The words are the portfolio manager's; whoever reads them must see that a rule took less.
    return f"{reason} (Rule: high concern, at most {allowed:.0%} of it is taken.)" if asked > allowed else reason


@desk_node
def risk_officer(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
    """Let the deterministic risk officer judge the proposal. No language model has a say here."""
    verdict = give_verdict(Proposal.model_validate(state["proposal"]), runtime.context)
    return {"verdict": verdict.model_dump(mode="json"), "judged_at": runtime.context.now().isoformat()}


@desk_node
def approve(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
    """Approve by the contract's policy, or stop and wait for a person's answer to exactly this."""
    request = runtime.context.request
    proposal = Proposal.model_validate(state["proposal"])
    verdict = Verdict.model_validate(state["verdict"])
    judged_at = datetime.fromisoformat(state["judged_at"])
    # HOLD and rejection change nothing, so there is nothing that a person could permit.
    if request.approval == "human" and proposal.action != "HOLD" and verdict.outcome != "rejected":
        asked = {
            "proposal_hash": proposal.digest(),
            "verdict_hash": verdict.digest(),
            "role": request.approver_role,
            "expires_at": (judged_at + timedelta(seconds=request.approval_expires_in_s)).isoformat(),
        }
        # Raises through every frame to stop the graph: nothing around it may catch exceptions.
        given = Approval.model_validate(interrupt(asked))
    else:
        given = auto_approval(proposal, verdict, role=request.approver_role, at=judged_at)
    if (given.proposal_hash, given.verdict_hash) != (proposal.digest(), verdict.digest()):
        raise ApprovalError("the approval is of another proposal or verdict than this run's; answer its own request")
    return {"approval": given.model_dump(mode="json")}


@desk_node
def decide(state: DeskState, runtime: Runtime[DeskContext]) -> DeskUpdate:
    """State what is acted on, bound by hashes to what was proposed, judged and approved."""
    proposal = Proposal.model_validate(state["proposal"])
    verdict = Verdict.model_validate(state["verdict"])
    approval = Approval.model_validate(state["approval"])
    hold = _hold_after(proposal, verdict, approval, runtime.context.now())
    weights = {} if hold else verdict.weights
    decision = Decision(
        decision_id=derived_id(proposal.run_id, "decision"),
        run_id=proposal.run_id,
        pipeline=proposal.pipeline,
        version_id=proposal.version_id,
        as_of=proposal.as_of,
        action="HOLD" if hold else action_of(weights),
        weights=weights,
        reason=hold or proposal.reason,
        proposal_hash=proposal.digest(),
        verdict_hash=verdict.digest(),
        approval_hash=approval.digest(),
    )
    return {"decision": decision.model_dump(mode="json"), "reason": decision.reason}


def give_verdict(proposal: Proposal, context: DeskContext) -> Verdict:
    """Return the risk officer's verdict: the same for the same proposal, returns and limits.

    A HOLD changes nothing, so there is nothing to measure: it is approved without findings.
    """
    if proposal.action == "HOLD":
        return Verdict(proposal_hash=proposal.digest(), outcome="approved", weights={}, findings=(), officer=OFFICER)
    request = context.request
    judged = review(proposal.weights, context.returns, request.limits, confidence_level=request.confidence_level)
    findings = tuple(
        Finding(
            measure=found.measure,
            value=float(found.value),
            limit=float(found.limit),
            breached=bool(found.breached),
            symbol=found.symbol,
            message=found.message,
        )
        for found in judged.findings
    )
    weights = {symbol: float(weight) for symbol, weight in judged.weights.items()}
    return Verdict(
        proposal_hash=proposal.digest(),
        outcome=judged.outcome,
        weights={} if judged.outcome == "rejected" else weights,
        findings=findings,
        officer=OFFICER,
    )


def action_of(weights: dict[str, float]) -> Action:
    """Return LONG, SHORT or FLAT by the sign of the net exposure."""
    net = exposure_facts(weights)["net"]
    if abs(net) <= NO_EXPOSURE:
        return "FLAT"
    return "LONG" if net > 0 else "SHORT"


def _hold_after(proposal: Proposal, verdict: Verdict, approval: Approval, now: datetime) -> str:
    if proposal.action == "HOLD":
        return proposal.reason
    if verdict.outcome == "rejected":
        breached = "; ".join(finding.message for finding in verdict.findings if finding.breached)
        return f"the risk officer rejected the proposal: {breached or 'no finding given'}"
    if not approval.granted:
        return f"{approval.approver} ({approval.role}) refused the proposal"
    if now >= approval.expires_at:
        return f"the approval by {approval.approver} expired at {approval.expires_at.isoformat()}"
    return ""


def _opinion(words: str, judgement: str, confidence: Confidence) -> Opinion:
    return {"words": words, "judgement": judgement, "confidence": CONFIDENCE[confidence]}


def _no_answer(agent: str, answer: Answer[Any]) -> DeskUpdate:
    reason = f"{agent}: no usable answer ({answer.outcome}): {answer.error or 'no reason given'}"
    return {"hold_reason": printable(reason)}


def _fraction(value: float) -> float:
    return min(1.0, max(0.0, value))


def _named(context: DeskContext) -> str:
    return f"{context.language_model.backend}:{context.language_model.name}"
