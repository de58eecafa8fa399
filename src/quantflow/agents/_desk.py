"""The shipped desk, and the pieces that every desk is made of."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from langgraph.graph import END, START, StateGraph

from quantflow.agents import _steps
from quantflow.agents._context import DeskContext
from quantflow.agents._opinions import MANAGER_BRIEF, RISK_BRIEF, TECHNICAL_BRIEF, Brief
from quantflow.agents._state import DeskState
from quantflow.events.types import canonical_json

__all__ = ["DESK_VERSION", "DeskGraph", "build_desk", "close_desk", "graph_version", "new_desk"]

#: Raised when nodes of the library change what they write; part of every run's graph version.
DESK_VERSION = "1"

DeskGraph = StateGraph[DeskState, DeskContext, DeskState, DeskState]


def new_desk() -> DeskGraph:
    """Return an empty graph over :class:`DeskState` and :class:`DeskContext`."""
    return StateGraph(DeskState, context_schema=DeskContext)


def close_desk(graph: DeskGraph) -> DeskGraph:
    """Add what every desk ends with: ``propose``, the risk officer, the approval and the decision.

    Lead the graph's last edges to ``"propose"``. It reads ``scale`` and ``confidence`` (fractions),
    ``reason`` and, if something went wrong, ``hold_reason``.
    """
    graph.add_node(_steps.propose)
    graph.add_node(_steps.risk_officer)
    graph.add_node(_steps.approve)
    graph.add_node(_steps.decide)
    graph.add_edge("propose", "risk_officer")
    graph.add_edge("risk_officer", "approve")
    graph.add_edge("approve", "decide")
    graph.add_edge("decide", END)
    return graph


def build_desk(
    *, technical: Brief = TECHNICAL_BRIEF, risk: Brief = RISK_BRIEF, manager: Brief = MANAGER_BRIEF
) -> DeskGraph:
    """Return the shipped desk: technical analyst, risk analyst, portfolio manager, risk officer.

    No exposure goes straight to a FLAT proposal without asking anyone; an analyst without an
    answer goes straight to HOLD; high concern caps the exposure before the manager is asked.
    """
    graph = new_desk()
    graph.add_node(_steps.read_facts)
    graph.add_node(_steps.technical_analyst(technical))
    graph.add_node(_steps.risk_analyst(risk))
    graph.add_node(_steps.be_cautious)
    graph.add_node(_steps.portfolio_manager(manager))
    graph.add_edge(START, "read_facts")
    graph.add_conditional_edges("read_facts", _after_facts)
    graph.add_conditional_edges("technical_analyst", _after_technical)
    graph.add_conditional_edges("risk_analyst", _after_risk)
    graph.add_edge("be_cautious", "portfolio_manager")
    graph.add_edge("portfolio_manager", "propose")
    return close_desk(graph)


def graph_version(compiled: Any) -> str:
    """Return what is stamped into a run's state: the desk's version and a hash of the topology.

    A run never goes on with another graph than it began with.
    """
    drawn = compiled.get_graph()
    topology = {
        "nodes": sorted(drawn.nodes),
        "edges": sorted([edge.source, edge.target, edge.conditional] for edge in drawn.edges),
    }
    return f"{DESK_VERSION}+{hashlib.sha256(canonical_json(topology)).hexdigest()[:16]}"


def _after_facts(state: DeskState) -> Literal["technical_analyst", "propose"]:
    return "technical_analyst" if "technical" in state["facts"] else "propose"


def _after_technical(state: DeskState) -> Literal["risk_analyst", "propose"]:
    return "propose" if state.get("hold_reason") else "risk_analyst"


def _after_risk(state: DeskState) -> Literal["be_cautious", "portfolio_manager", "propose"]:
    if state.get("hold_reason"):
        return "propose"
    return "be_cautious" if state["opinions"]["risk_analyst"]["judgement"] == "concern high" else "portfolio_manager"
