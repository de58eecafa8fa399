"""Run a desk to its decision, or to the question that a person must answer; resume it from either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command
from langsmith import tracing_context

from quantflow.agents._context import DeskContext
from quantflow.agents._desk import DeskGraph, graph_version
from quantflow.agents._steps import give_verdict
from quantflow.errors import ApprovalError, GraphError
from quantflow.events.types import Approval, Decision, Proposal, Verdict

__all__ = ["Decided", "Waiting", "run_desk"]

#: A graph that visits more nodes than this goes round in circles.
_MOST_STEPS = 60
#: How far rounding may take a weight beyond its base.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Decided:
    """A desk's end: four records whose hashes agree."""

    proposal: Proposal
    verdict: Verdict
    approval: Approval
    decision: Decision


@dataclass(frozen=True)
class Waiting:
    """A desk stopped at its approval: a person of ``role`` must answer for exactly these hashes."""

    proposal: Proposal
    verdict: Verdict
    role: str
    expires_at: datetime


def run_desk(
    build: Callable[[], DeskGraph],
    context: DeskContext,
    *,
    checkpointer: BaseCheckpointSaver[Any],
    approval: Approval | None = None,
) -> Decided | Waiting:
    """Run a graph until it decided or waits; go on from the checkpoint where there is one.

    Parameters
    ----------
    build
        Makes the graph: the function that a pipeline's contract names.
    checkpointer
        LangGraph saver; the thread is the run's id.
    approval
        A person's answer from the ledger. It resumes its own question and no other; without
        one a waiting graph stays waiting.

    Raises
    ------
    GraphError
        The graph cannot be built, began as another graph, or ends without a decision that the
        risk officer's own arithmetic confirms.
    """
    compiled = build().compile(checkpointer=checkpointer)
    version = graph_version(compiled)
    context = replace(context, nodes_total=max(1, len(compiled.get_graph().nodes) - 2))
    config: Any = {"configurable": {"thread_id": context.run_id}, "recursion_limit": _MOST_STEPS}
    before = compiled.get_state(config)
    _check_version(before.values, version)
    if not before.values or before.next:
        step = _next_input(before, context, version, approval)
        if step is not _STAY:
            with tracing_context(enabled=False):
                compiled.invoke(step, config, context=context, durability="sync")
    after = compiled.get_state(config)
    if after.interrupts:
        return _waiting(after.values, after.interrupts)
    return _checked_end(after.values, context)


_STAY = object()


def _next_input(before: Any, context: DeskContext, version: str, approval: Approval | None) -> Any:
    if not before.values:
        return {
            "run_id": context.run_id,
            "graph_version": version,
            "as_of": context.as_of.isoformat(),
            "request": context.request.model_dump(mode="json"),
            "path": [],
            "facts": {},
            "opinions": {},
        }
    if not before.interrupts:
        return None  # LangGraph's word for: go on from the checkpoint
    if approval is None:
        return _STAY
    # By interrupt id: a bare resume value would answer whatever question comes next.
    question = before.interrupts[0]
    asked: Mapping[str, Any] = question.value
    if (approval.proposal_hash, approval.verdict_hash) != (asked["proposal_hash"], asked["verdict_hash"]):
        raise ApprovalError(
            f"the approval by {approval.approver} is of proposal {approval.proposal_hash[:12]}, "
            f"asked is {asked['proposal_hash'][:12]}; it does nothing"
        )
    return Command(resume={question.id: approval.model_dump(mode="json")})


def _check_version(values: Mapping[str, Any], version: str) -> None:
    began = values.get("graph_version", version)
    if began != version:
        raise GraphError(
            f"the run began with graph version {began} and would go on with {version}; "
            "run it with the version that it began with, or request a new run"
        )


def _waiting(values: Mapping[str, Any], interrupts: Any) -> Waiting:
    asked = interrupts[0].value
    return Waiting(
        proposal=Proposal.model_validate(values["proposal"]),
        verdict=Verdict.model_validate(values["verdict"]),
        role=asked["role"],
        expires_at=datetime.fromisoformat(asked["expires_at"]),
    )


def _checked_end(values: Mapping[str, Any], context: DeskContext) -> Decided:
    """Return the end of a graph after checking what no graph, however written, may break."""
    missing = [name for name in ("proposal", "verdict", "approval", "decision") if name not in values]
    if missing:
        raise GraphError(
            f"the graph ended without {', '.join(missing)}; lead every path to 'propose' of close_desk(graph)"
        )
    end = Decided(
        proposal=Proposal.model_validate(values["proposal"]),
        verdict=Verdict.model_validate(values["verdict"]),
        approval=Approval.model_validate(values["approval"]),
        decision=Decision.model_validate(values["decision"]),
    )
    base = context.request.base_weights
    if end.proposal.base_weights != base:
        raise GraphError("the proposal's base weights are not the request's; agents may not change them")
    _check_reduced(end.proposal.weights, base, "the proposal")
    if end.verdict != give_verdict(end.proposal, context):
        raise GraphError("the graph's verdict is not what the risk officer says of its proposal; nothing was decided")
    _check_reduced(end.decision.weights, end.verdict.weights, "the decision")
    return end


def _check_reduced(weights: Mapping[str, float], most: Mapping[str, float], what: str) -> None:
    for symbol, weight in weights.items():
        allowed = most.get(symbol, 0.0)
        if abs(weight) > abs(allowed) + _ROUNDING or weight * allowed < 0:
            raise GraphError(
                f"{what} has the weight {weight:+.4f} of {symbol}; allowed is between 0 and {allowed:+.4f}: "
                "agents may only reduce"
            )
