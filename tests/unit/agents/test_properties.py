"""Whatever a language model says: no limit is breached and nothing exceeds the signal."""

import json
import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantflow.agents import Waiting
from quantflow.risk import value_at_risk

LIMITS = {"max_position": 0.2, "max_gross": 0.5, "max_var": 0.01}

words = st.text(max_size=300)
confidences = st.sampled_from(["unsure", "fairly sure", "sure", "certain", 0.9, None])
replies = st.one_of(
    st.text(max_size=200),
    st.fixed_dictionaries(
        {"words": words, "trend": st.sampled_from(["supports", "mixed", "buy"]), "confidence": confidences}
    ),
    st.fixed_dictionaries(
        {"words": words, "concern": st.sampled_from(["low", "high", "none"]), "confidence": confidences}
    ),
    st.fixed_dictionaries({"words": words, "keep": st.sampled_from(["all", "double", 7]), "confidence": confidences}),
    st.fixed_dictionaries({"words": words, "keep": st.just("all"), "weights": st.just({"AAA": 9})}),
)
weight = st.floats(-2, 2).map(lambda value: round(value, 4))


class Babbling:
    """Answers anything at all, as often as it is asked."""

    backend = "random"
    name = "random"
    parameters: dict = {}  # noqa: RUF012 never changed

    def __init__(self, said):
        self.said = list(said)

    def complete(self, messages, *, json_schema, timeout_s):
        from quantflow.llm import Completion

        answer = self.said.pop(0) if self.said else "nothing more to say"
        if isinstance(answer, dict) and "keep" not in answer:
            # Half of them in the form that was asked for, or the graph would hardly go on.
            answer = {key: value for key, value in answer.items() if key in json_schema["properties"]}
        return Completion(answer if isinstance(answer, str) else json.dumps(answer))


def plausible(**choices):
    fields = {name: st.sampled_from(allowed) for name, allowed in choices.items()}
    fields["confidence"] = st.sampled_from(["unsure", "fairly sure", "sure"])
    return st.fixed_dictionaries({"words": st.just("words that are long enough"), **fields})


plausible_runs = st.tuples(
    plausible(trend=["supports", "contradicts"]),
    plausible(concern=["low", "high"]),
    plausible(keep=["all", "most", "half", "little", "none"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.one_of(st.lists(replies, max_size=3), plausible_runs),
    weights=st.fixed_dictionaries({"AAA": weight, "BBB": weight}),
    approval=st.sampled_from(["auto", "human"]),
)
def test_no_output_breaches_a_limit_or_exceeds_the_signal(desk, said, weights, approval):
    made = desk(Babbling(said), weights=weights, noise=0.03, limits=LIMITS, approval=approval)
    end = made.run()
    if isinstance(end, Waiting):
        acted_on = end.verdict.weights
    else:
        acted_on = end.decision.weights
        assert (end.decision.action == "HOLD") <= (acted_on == {})
    for symbol, value in acted_on.items():
        assert abs(value) <= abs(weights[symbol]) + 1e-12
        assert value * weights[symbol] >= 0
        assert abs(value) <= LIMITS["max_position"] + 1e-9
    assert math.fsum(map(abs, acted_on.values())) <= LIMITS["max_gross"] + 1e-9
    if acted_on:
        portfolio = sum(value * made.returns[symbol].to_numpy() for symbol, value in acted_on.items())
        assert value_at_risk(portfolio, 0.95) <= LIMITS["max_var"] * (1 + 1e-9)
