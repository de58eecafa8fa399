"""The risk officer reduces or rejects, says why, and never adds exposure."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quantflow.errors import RiskError
from quantflow.risk import RiskLimits, cvar, max_drawdown, review, value_at_risk, volatility

SYMBOLS = ("AAPL", "MSFT", "XOM")


def history(rows=120, seed=0, volatility=0.02):
    values = np.random.default_rng(seed).normal(0.0, volatility, (rows, len(SYMBOLS)))
    return pl.DataFrame({"session": list(range(rows)), **dict(zip(SYMBOLS, values.T, strict=True))})


def portfolio(weights, returns):
    held = list(weights)
    return returns.select(held).to_numpy() @ np.array([weights[symbol] for symbol in held])


def test_weights_within_all_limits_are_approved_unchanged():
    weights = {"AAPL": 0.2, "MSFT": -0.1, "XOM": 0.0}
    limits = RiskLimits(max_var=0.5, max_cvar=0.5, max_volatility=5.0, max_drawdown=0.9)
    verdict = review(weights, history(), limits)
    assert (verdict.outcome, verdict.weights, verdict.breaches) == ("approved", weights, ())
    assert [finding.measure for finding in verdict.findings] == [
        "position", "gross", "value_at_risk", "cvar", "volatility", "max_drawdown",
    ]  # fmt: skip


def test_a_position_above_its_limit_is_cut_and_named():
    verdict = review({"AAPL": 0.4, "MSFT": -0.3, "XOM": 0.1}, history(), RiskLimits(max_position=0.25))
    assert verdict.outcome == "reduced"
    assert verdict.weights == {"AAPL": 0.25, "MSFT": -0.25, "XOM": 0.1}
    first, second = verdict.breaches
    assert (first.measure, first.symbol, first.value, first.limit) == ("position", "AAPL", 0.4, 0.25)
    assert second.symbol == "MSFT"
    assert "position 40.00% exceeds the limit 25.00%" in first.message


def test_gross_exposure_above_its_limit_scales_every_weight():
    verdict = review({"AAPL": 1.0, "MSFT": -1.0}, history(), RiskLimits(max_gross=0.5))
    assert verdict.weights == {"AAPL": 0.25, "MSFT": -0.25}
    (breach,) = verdict.breaches
    assert (breach.measure, breach.value, breach.limit) == ("gross", 2.0, 0.5)


def test_positions_are_cut_before_gross_is_measured():
    verdict = review({"AAPL": 5.0, "MSFT": 0.1}, history(), RiskLimits(max_position=0.3, max_gross=0.5))
    assert verdict.weights == {"AAPL": 0.3, "MSFT": 0.1}
    assert [finding.measure for finding in verdict.breaches] == ["position"]


@pytest.mark.parametrize(
    ("limits", "measure", "recompute"),
    [
        ({"max_var": 0.005}, "value_at_risk", lambda r: value_at_risk(r, 0.95)),
        ({"max_cvar": 0.006}, "cvar", lambda r: cvar(r, 0.95)),
        ({"max_volatility": 0.05}, "volatility", lambda r: volatility(r, periods_per_year=252)),
        ({"max_drawdown": 0.04}, "max_drawdown", max_drawdown),
    ],
)
def test_a_planted_breach_is_reduced_to_the_limit_and_names_measure_value_and_limit(limits, measure, recompute):
    weights, returns = {"AAPL": 0.5, "MSFT": 0.4}, history()
    verdict = review(weights, returns, RiskLimits(**limits))
    (breach,) = verdict.breaches
    (limit,) = limits.values()
    assert verdict.outcome == "reduced"
    assert (breach.measure, breach.limit) == (measure, limit)
    assert breach.value == pytest.approx(recompute(portfolio(weights, returns)), rel=1e-12)
    assert recompute(portfolio(verdict.weights, returns)) == pytest.approx(limit, rel=1e-9)
    assert verdict.weights["AAPL"] / verdict.weights["MSFT"] == pytest.approx(0.5 / 0.4, rel=1e-12)


@pytest.mark.parametrize(
    ("limit_name", "recompute"),
    [
        ("max_gross", lambda r: 0.9),
        ("max_var", lambda r: value_at_risk(r, 0.95)),
        ("max_cvar", lambda r: cvar(r, 0.95)),
        ("max_volatility", lambda r: volatility(r, periods_per_year=252)),
        ("max_drawdown", max_drawdown),
    ],
)
def test_a_breach_by_a_tenth_of_a_percent_is_a_breach(limit_name, recompute):
    weights, returns = {"AAPL": 0.5, "MSFT": 0.4}, history()
    value = recompute(portfolio(weights, returns))
    assert review(weights, returns, RiskLimits(**{limit_name: value * 0.999})).outcome == "reduced"
    assert review(weights, returns, RiskLimits(**{limit_name: value * 1.001})).outcome == "approved"


def test_a_symbol_without_history_is_rejected_by_name():
    verdict = review({"AAPL": 0.1, "TSLA": 0.1}, history(), RiskLimits())
    assert (verdict.outcome, verdict.weights) == ("rejected", {})
    (breach,) = verdict.breaches
    assert (breach.measure, breach.symbol) == ("history", "TSLA")
    assert "no history of returns for TSLA" in breach.message


@pytest.mark.parametrize("gap", [None, math.nan, math.inf])
def test_a_gap_in_the_returns_is_rejected_not_taken_for_low_risk(gap):
    values = history()["MSFT"].to_list()
    values[70] = gap
    returns = history().with_columns(pl.Series("MSFT", values, strict=False))
    verdict = review({"AAPL": 0.1, "MSFT": 0.1}, returns, RiskLimits())
    assert verdict.outcome == "rejected"
    assert "1 of 120 returns of MSFT are missing" in verdict.breaches[0].message
    assert review({"AAPL": 0.1, "MSFT": 0.0}, returns, RiskLimits()).outcome == "approved"
    assert review({"MSFT": 0.1}, returns, RiskLimits(history_sessions=40, min_sessions=40)).outcome == "approved"


def test_too_short_a_history_is_rejected():
    verdict = review({"AAPL": 0.1}, history(rows=20), RiskLimits(min_sessions=60))
    assert verdict.outcome == "rejected"
    assert (verdict.breaches[0].value, verdict.breaches[0].limit) == (20, 60)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_rejected(weight):
    verdict = review({"AAPL": weight}, history(), RiskLimits())
    assert verdict.outcome == "rejected"
    assert all(math.isfinite(finding.value) for finding in verdict.findings)


def test_no_positions_are_approved_without_any_history():
    verdict = review({"AAPL": 0.0}, pl.DataFrame({"session": []}), RiskLimits(max_var=0.01))
    assert (verdict.outcome, verdict.weights) == ("approved", {"AAPL": 0.0})
    assert review({}, pl.DataFrame({"session": []}), RiskLimits()).outcome == "approved"


def test_given_weights_and_returns_are_left_alone():
    weights, returns = {"AAPL": 3.0}, history()
    before = returns.clone()
    review(weights, returns, RiskLimits())
    assert weights == {"AAPL": 3.0}
    assert returns.equals(before)


def test_a_wrong_confidence_level_is_an_error_even_without_positions():
    with pytest.raises(RiskError, match="confidence level"):
        review({}, history(), RiskLimits(), confidence_level=0.2)


def test_limits_refuse_unknown_names_and_nonsense():
    with pytest.raises(ValidationError, match="max_leverage"):
        RiskLimits(max_leverage=2.0)
    with pytest.raises(ValidationError, match="max_var"):
        RiskLimits(max_var=-0.1)


@settings(deadline=None, max_examples=100)
@given(
    weights=st.dictionaries(st.sampled_from(SYMBOLS), st.floats(-3.0, 3.0, allow_nan=False)),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 0.001, 0.05, 0.6]),
    limits=st.builds(
        RiskLimits,
        max_position=st.floats(0.01, 4.0),
        max_gross=st.floats(0.01, 4.0),
        max_var=st.none() | st.floats(0.0001, 0.2),
        max_cvar=st.none() | st.floats(0.0001, 0.2),
        max_volatility=st.none() | st.floats(0.001, 2.0),
        max_drawdown=st.none() | st.floats(0.001, 1.0),
    ),
    method=st.sampled_from(["historical", "parametric"]),
)
def test_no_review_ever_raises_exposure_and_every_result_keeps_the_limits(weights, seed, spread, limits, method):
    returns = history(seed=seed, volatility=spread)
    verdict = review(weights, returns, limits, method=method)
    assert verdict.outcome in ("approved", "reduced")
    assert verdict.weights.keys() == weights.keys()
    for symbol, weight in verdict.weights.items():
        assert abs(weight) <= abs(weights[symbol])
        assert weight * weights[symbol] >= 0.0
    if verdict.outcome == "approved":
        assert verdict.weights == weights
    again = review(verdict.weights, returns, limits, method=method)
    for finding in again.breaches:  # by rounding only
        assert finding.value <= finding.limit * (1.0 + 1e-9)
