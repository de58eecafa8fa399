"""Interrupt, crash and resume: what a person and a new worker may and may not do."""

from dataclasses import replace
from datetime import timedelta

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from quantflow.agents import Decided, Waiting, build_desk, close_desk, new_desk
from quantflow.errors import ApprovalError, GraphError
from quantflow.events.types import Approval, LanguageModelCalled, NodeCompleted
from quantflow.testing.llm import ScriptedLanguageModel

SUPPORTS = {"words": "the trend supports it", "trend": "supports", "confidence": "sure"}
CALM = {"words": "nothing to worry about", "concern": "low", "confidence": "sure"}
KEEP = {"words": "all of it is kept", "keep": "all", "confidence": "fairly sure"}
GOOD = [SUPPORTS, CALM, KEEP]


def answer_to(waiting: Waiting, **changed) -> Approval:
    given = {
        "proposal_hash": waiting.proposal.digest(),
        "verdict_hash": waiting.verdict.digest(),
        "mode": "human",
        "role": waiting.role,
        "approver": "ada",
        "granted": True,
        "expires_at": waiting.expires_at,
    }
    return Approval.model_validate({**given, **changed})


def test_a_human_contract_stops_and_names_exactly_what_is_asked(desk):
    waiting = desk(GOOD, approval="human", approver_role="head-of-desk", approval_expires_in_s=3600).run()
    assert isinstance(waiting, Waiting)
    assert waiting.role == "head-of-desk"
    assert waiting.expires_at - timedelta(hours=1) == desk([]).context.now()


def test_a_granted_proposal_is_decided_without_asking_the_agents_again(desk):
    human = desk(GOOD, approval="human")
    waiting = human.run()
    end = human.run(approval=answer_to(waiting))
    assert isinstance(end, Decided)
    assert (end.decision.action, end.approval.approver) == ("LONG", "ada")


def test_a_refused_proposal_is_hold_and_names_who_refused(desk):
    human = desk(GOOD, approval="human")
    end = human.run(approval=answer_to(human.run(), granted=False))
    assert (end.decision.action, end.decision.weights) == ("HOLD", {})
    assert "ada (owner) refused" in end.decision.reason


def test_an_approval_that_expired_before_it_was_acted_on_is_hold(desk):
    human = desk(GOOD, approval="human")
    waiting = human.run()
    human.context = replace(human.context, now=lambda: waiting.expires_at)
    end = human.run(approval=answer_to(waiting))
    assert (end.decision.action, end.decision.weights) == ("HOLD", {})
    assert "expired" in end.decision.reason


def test_without_an_answer_a_waiting_run_stays_waiting(desk):
    human = desk(GOOD, approval="human")
    assert human.run() == human.run()


def test_a_second_answer_changes_nothing(desk):
    human = desk(GOOD, approval="human")
    waiting = human.run()
    first = human.run(approval=answer_to(waiting))
    assert human.run(approval=answer_to(waiting, granted=False)) == first
    assert human.run(approval=answer_to(waiting, approver="eve")) == first


@pytest.mark.parametrize("edited", ["proposal_hash", "verdict_hash"])
def test_an_answer_to_something_else_does_nothing(desk, edited):
    human = desk(GOOD, approval="human")
    waiting = human.run()
    with pytest.raises(ApprovalError, match="it does nothing"):
        human.run(approval=answer_to(waiting, **{edited: "f" * 64}))
    assert human.run() == waiting
    assert isinstance(human.run(approval=answer_to(waiting)), Decided)


def test_the_graph_itself_refuses_an_answer_that_came_round_the_first_check(desk, monkeypatch):
    human = desk(GOOD, approval="human")
    forged = answer_to(human.run(), proposal_hash="f" * 64).model_dump(mode="json")
    monkeypatch.setattr("quantflow.agents._steps.interrupt", lambda asked: forged)
    other = desk(GOOD, approval="human")
    with pytest.raises(ApprovalError, match="another proposal or verdict"):
        other.run()


def test_hold_and_rejection_need_no_person(desk):
    held = desk([SUPPORTS, CALM, "rubbish"], approval="human").run()
    rejected = desk(GOOD, approval="human", limits={"min_sessions": 400}).run()
    assert (held.decision.action, rejected.decision.action) == ("HOLD", "HOLD")
    assert held.approval.mode == rejected.approval.mode == "auto"


class Crash(BaseException):
    """What kill -9 looks like from inside: nothing after it runs."""


@pytest.mark.parametrize("calls_before", [0, 1, 2])
def test_after_a_crash_in_the_graph_a_new_worker_ends_with_the_same_decision(desk, calls_before):
    class Dying(ScriptedLanguageModel):
        def complete(self, messages, *, json_schema, timeout_s):
            if len(self.calls) == calls_before:
                raise Crash
            return super().complete(messages, json_schema=json_schema, timeout_s=timeout_s)

    crashed = desk(Dying(GOOD[:calls_before]))
    with pytest.raises(Crash):
        crashed.run()
    crashed.context = replace(crashed.context, language_model=ScriptedLanguageModel(GOOD[calls_before:]))
    assert crashed.run().decision == desk(GOOD).run().decision
    assert len(crashed.events(LanguageModelCalled)) == 3
    assert len(crashed.events(NodeCompleted)) == 8


def test_a_node_that_runs_again_gets_the_recorded_answer_instead_of_asking(desk):
    lost = desk(GOOD)
    first = lost.run()
    lost.checkpointer = InMemorySaver()  # every checkpoint is gone, the event log is not
    assert lost.run() == first
    assert len(lost.events(LanguageModelCalled)) == 3


def test_a_finished_run_that_is_run_again_ends_the_same(desk):
    done = desk(GOOD)
    assert done.run() == done.run()


def test_a_run_never_goes_on_with_another_graph(desk):
    def other():
        graph = build_desk()
        graph.add_node("extra", lambda state: {})
        return graph

    human = desk(GOOD, approval="human")
    human.run()
    with pytest.raises(GraphError, match="began with graph version 1\\+"):
        human.run(other)


def test_a_graph_that_skips_the_risk_officer_decides_nothing(desk):
    def skipping():
        graph = new_desk()
        graph.add_node("leap", lambda state: {"reason": "trust me"})
        graph.add_edge("__start__", "leap")
        return graph

    with pytest.raises(GraphError, match="ended without proposal, verdict, approval, decision"):
        desk([]).run(skipping)


def test_a_graph_that_forges_the_verdict_decides_nothing(desk):
    def forging():
        graph = close_desk(new_desk())
        graph.add_node("forge", forge)
        graph.add_edge("__start__", "propose")
        graph.add_edge("approve", "forge")
        return graph

    def forge(state):
        return {"verdict": {**state["verdict"], "officer": "me"}}

    with pytest.raises(GraphError, match="not what the risk officer says"):
        desk([], min_confidence=0.0).run(forging)


def test_a_users_own_graph_needs_only_its_own_nodes(desk):
    from langgraph.runtime import Runtime

    from quantflow.agents import DeskContext, DeskState, desk_node

    @desk_node
    def contrarian(state: DeskState, runtime: Runtime[DeskContext]):
        return {"scale": 0.25, "confidence": 0.9, "reason": "a quarter of it"}

    def build():
        graph = new_desk()
        graph.add_node(contrarian)
        graph.add_edge("__start__", "contrarian")
        graph.add_edge("contrarian", "propose")
        return close_desk(graph)

    own = desk([])
    end = own.run(build)
    assert end.decision.weights == {"AAA": 0.075, "BBB": 0.05}
    assert next(iter(own.events(NodeCompleted))).words == "a quarter of it"
