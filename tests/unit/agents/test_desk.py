import json

import pytest
from pydantic import ValidationError

from quantflow.agents import DeskRequest
from quantflow.errors import GraphError, LanguageModelTimeoutError, MissingColumnError
from quantflow.events.types import LanguageModelCalled, NodeCompleted
from quantflow.llm import NoLanguageModel
from quantflow.testing.llm import Step

SUPPORTS = {"words": "the trend supports it", "trend": "supports", "confidence": "sure"}
CONTRADICTS = {"words": "the trend contradicts it", "trend": "contradicts", "confidence": "sure"}
CALM = {"words": "nothing to worry about", "concern": "low", "confidence": "sure"}
WORRIED = {"words": "this is a lot of risk", "concern": "high", "confidence": "sure"}
KEEP = {"words": "all of it is kept", "keep": "all", "confidence": "fairly sure"}
HALF = {"words": "half of it is kept", "keep": "half", "confidence": "fairly sure"}
NONE = {"words": "none of it is kept", "keep": "none", "confidence": "fairly sure"}
GOOD = [SUPPORTS, CALM, KEEP]
RISING, FALLING = 0.002, -0.002


def path_of(desk):
    return [event.node for event in desk.events(NodeCompleted)]


def test_a_planted_up_trend_ends_long_with_the_signals_weights(desk):
    end = desk(GOOD, drift=RISING).run()
    assert end.decision.action == "LONG"
    assert end.decision.weights == {"AAA": 0.3, "BBB": 0.2}
    assert (end.verdict.outcome, end.proposal.confidence) == ("approved", 0.6)


def test_a_planted_down_trend_ends_short_where_the_signal_is_short(desk):
    end = desk(GOOD, weights={"AAA": -0.3, "BBB": -0.2}, drift=FALLING).run()
    assert end.decision.action == "SHORT"
    assert end.decision.weights == {"AAA": -0.3, "BBB": -0.2}


def test_a_down_trend_against_a_long_signal_can_be_vetoed_to_flat(desk):
    end = desk([CONTRADICTS, CALM, NONE], drift=FALLING).run()
    assert end.decision.action == "FLAT"
    assert set(end.decision.weights.values()) == {0.0}


def test_the_facts_that_analysts_see_follow_from_the_returns(desk):
    rising = desk([Step(SUPPORTS, expect="The trend agrees: 2 of 2 positions go with it"), CALM, KEEP], drift=RISING)
    falling = desk(
        [Step(CONTRADICTS, expect="The trend disagrees: 0 of 2 positions go with it"), CALM, NONE], drift=FALLING
    )
    rising.run()
    falling.run()


def test_without_exposure_nobody_is_asked_and_the_decision_is_flat(desk):
    flat = desk([], weights={"AAA": 0.0, "BBB": 0.0})
    end = flat.run()
    assert (end.decision.action, end.decision.reason) == ("FLAT", "the signal has no exposure")
    assert path_of(flat) == ["read_facts", "propose", "risk_officer", "approve", "decide"]


def test_a_planted_breach_is_reduced_and_named_by_measure_value_and_limit(desk):
    end = desk(GOOD, limits={"max_position": 0.25, "max_gross": 0.4}, weights={"AAA": 0.3, "BBB": 0.2}).run()
    assert (end.verdict.outcome, end.decision.action) == ("reduced", "LONG")
    breached = {finding.measure: finding for finding in end.verdict.findings if finding.breached}
    assert (breached["position"].value, breached["position"].limit, breached["position"].symbol) == (0.3, 0.25, "AAA")
    assert breached["gross"].value == pytest.approx(0.45)
    assert breached["gross"].limit == 0.4
    assert sum(end.decision.weights.values()) == pytest.approx(0.4)
    assert end.decision.weights == end.verdict.weights


def test_a_planted_loss_tail_is_reduced_for_value_at_risk(desk):
    end = desk([SUPPORTS, WORRIED, KEEP], noise=0.05, limits={"max_var": 0.01}).run()
    (found,) = [finding for finding in end.verdict.findings if finding.measure == "value_at_risk"]
    assert found.breached
    assert found.value > found.limit == 0.01


def test_high_concern_takes_the_stricter_path_and_caps_the_exposure(desk):
    strict = desk([SUPPORTS, WORRIED, KEEP])
    end = strict.run()
    assert "be_cautious" in path_of(strict)
    assert "(Rule: high concern, at most 50% of it is taken.)" in end.decision.reason
    assert end.proposal.weights == {"AAA": 0.15, "BBB": 0.1}


def test_the_manager_scales_every_weight_alike(desk):
    assert desk([SUPPORTS, CALM, HALF]).run().decision.weights == {"AAA": 0.15, "BBB": 0.1}


def test_confidence_below_the_contracts_is_hold(desk):
    end = desk(GOOD, min_confidence=0.61).run()
    assert (end.decision.action, end.decision.weights) == ("HOLD", {})
    assert end.decision.reason == "confidence 0.60 is below the contract's 0.61"


@pytest.mark.parametrize("broken", [0, 1, 2])
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("I would buy.", "unparsable"),
        (LanguageModelTimeoutError("no answer within 1 s"), "timeout"),
        (ValueError("client bug"), "error"),
    ],
)
def test_any_agent_without_a_usable_answer_ends_in_hold_with_the_reason(desk, broken, trouble, said):
    end = desk([*GOOD[:broken], trouble]).run()
    agent = ("technical analyst", "risk analyst", "portfolio manager")[broken]
    assert (end.decision.action, end.decision.weights) == ("HOLD", {})
    assert end.decision.reason.startswith(f"{agent}: no usable answer ({said})")


def test_without_a_language_model_the_decision_is_hold_with_the_reason(desk):
    end = desk(NoLanguageModel("nothing answers at the address")).run()
    assert end.decision.action == "HOLD"
    assert "unavailable" in end.decision.reason
    assert "nothing answers at the address" in end.decision.reason


def test_missing_history_is_rejected_by_the_officer_and_never_taken_for_low_risk(desk):
    end = desk(GOOD, limits={"min_sessions": 400}).run()
    assert (end.verdict.outcome, end.decision.action, end.decision.weights) == ("rejected", "HOLD", {})
    assert "sessions of history" in end.decision.reason


def test_a_symbol_without_returns_stops_the_run_by_name(desk):
    with pytest.raises(MissingColumnError, match="no returns for CCC"):
        desk([], weights={"CCC": 0.1}).run()


def test_every_call_is_recorded_as_it_was_sent_and_answered(desk):
    asked = desk([SUPPORTS, CALM, "rubbish"])
    asked.run()
    calls = asked.events(LanguageModelCalled)
    assert [(call.node, call.outcome) for call in calls] == [
        ("technical_analyst", "ok"),
        ("risk_analyst", "ok"),
        ("portfolio_manager", "unparsable"),
    ]
    assert json.loads(calls[0].response) == SUPPORTS
    assert calls[2].response == "rubbish"
    assert [[dict(message) for message in call.messages] for call in calls] == asked.language_model.calls
    assert calls[0].input_tokens == 11


def test_every_finished_node_is_reported_with_the_agents_words(desk):
    full = desk(GOOD)
    full.run()
    completed = {event.node: event for event in full.events(NodeCompleted)}
    assert list(completed) == [
        "read_facts", "technical_analyst", "risk_analyst", "portfolio_manager",
        "propose", "risk_officer", "approve", "decide",
    ]  # fmt: skip
    assert completed["technical_analyst"].words == "the trend supports it"
    assert completed["portfolio_manager"].data["scale"] == 1.0
    assert [event.index for event in completed.values()] == list(range(8))
    assert {event.nodes_total for event in completed.values()} == {9}


def test_the_hashes_bind_decision_approval_verdict_and_proposal(desk):
    end = desk(GOOD).run()
    assert (
        end.verdict.proposal_hash == end.approval.proposal_hash == end.decision.proposal_hash == end.proposal.digest()
    )
    assert end.approval.verdict_hash == end.decision.verdict_hash == end.verdict.digest()
    assert end.decision.approval_hash == end.approval.digest()
    assert (end.approval.mode, end.approval.granted) == ("auto", True)


def test_the_same_run_gives_the_same_decision(desk):
    assert desk(GOOD).run() == desk(GOOD).run()


def test_a_request_with_an_unknown_key_names_it_and_what_is_allowed():
    with pytest.raises(GraphError, match=r"(?s)leverage.*Allowed keys: pipeline"):
        DeskRequest.read({"pipeline": "momentum", "leverage": 3})


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValidationError):
        DeskRequest(
            pipeline="p", version_id="a" * 64, base_weights={"A": float("nan")}, returns_blob="b" * 64, limits={}
        )


def test_returns_after_the_as_of_are_refused(desk):
    late = desk([])
    object.__setattr__(late.context, "as_of", late.context.as_of.replace(year=2025, month=6))
    with pytest.raises(GraphError, match="sessions after as_of"):
        late.run()
