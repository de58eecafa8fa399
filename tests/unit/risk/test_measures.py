"""Risk measures: hand-computed values, properties, and agreement with skfolio."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantflow.errors import RiskError
from quantflow.risk import cvar, drawdowns, max_drawdown, value_at_risk, volatility

properties = settings(deadline=None, max_examples=100)
returns_lists = st.lists(st.floats(-0.5, 0.5, allow_nan=False), min_size=2, max_size=80)
levels = st.sampled_from([0.75, 0.9, 0.95, 0.975, 0.99])
methods = st.sampled_from(["historical", "parametric"])

TEN = [-0.10, -0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04, 0.05]


def test_historical_value_at_risk_is_the_loss_just_outside_the_tail():
    assert value_at_risk(TEN, 0.8) == 0.02  # k = 2: the third largest loss
    assert value_at_risk(TEN, 0.95) == 0.10  # k = 0.5: the largest loss
    assert value_at_risk(TEN[::-1], 0.9) == 0.05


def test_historical_cvar_is_the_mean_of_the_tail():
    assert cvar(TEN, 0.8) == pytest.approx((0.10 + 0.05) / 2, abs=1e-15)
    assert cvar(TEN, 0.75) == pytest.approx((0.10 + 0.05 + 0.5 * 0.02) / 2.5, abs=1e-15)
    assert cvar(TEN, 0.95) == pytest.approx(0.10, abs=1e-15)


def test_parametric_measures_follow_the_normal_distribution():
    returns = [0.01, -0.01]
    deviation = math.sqrt(2 * 0.01**2)
    assert value_at_risk(returns, 0.95, method="parametric") == pytest.approx(1.6448536269514722 * deviation, rel=1e-12)
    density = math.exp(-0.5 * 1.6448536269514722**2) / math.sqrt(2 * math.pi)
    assert cvar(returns, 0.95, method="parametric") == pytest.approx(density / 0.05 * deviation, rel=1e-12)


def test_drawdown_starts_from_the_first_equity():
    assert max_drawdown([-0.1, 0.05]) == pytest.approx(0.1, abs=1e-15)
    np.testing.assert_allclose(drawdowns([0.5, -0.5, 1.0, -0.2]), [0.0, 0.5, 0.0, 0.2], atol=1e-15)
    assert max_drawdown([0.1, 0.2]) == 0.0


def test_volatility_is_the_yearly_sample_deviation():
    four = [0.01, -0.01, 0.01, -0.01]
    assert volatility(four, periods_per_year=1) == pytest.approx(math.sqrt(4 * 1e-4 / 3), rel=1e-12)
    assert volatility(four, periods_per_year=252) == pytest.approx(math.sqrt(252 * 4 * 1e-4 / 3), rel=1e-12)


@properties
@given(returns=returns_lists, level=levels, method=methods)
def test_cvar_is_never_below_value_at_risk(returns, level, method):
    assert cvar(returns, level, method=method) >= value_at_risk(returns, level, method=method)


@properties
@given(returns=returns_lists, level=levels, method=methods, scale=st.floats(0.01, 3.0))
def test_measures_scale_with_the_position(returns, level, method, scale):
    scaled = [scale * value for value in returns]
    for measure in (value_at_risk, cvar):
        expected = scale * measure(returns, level, method=method)
        assert measure(scaled, level, method=method) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert volatility(scaled, periods_per_year=252) == pytest.approx(
        scale * volatility(returns, periods_per_year=252), rel=1e-9, abs=1e-12
    )


@properties
@given(returns=returns_lists, level=levels, method=methods, shift=st.floats(-0.2, 0.2))
def test_a_sure_gain_lowers_the_tail_by_as_much(returns, level, method, shift):
    shifted = [value + shift for value in returns]
    for measure in (value_at_risk, cvar):
        assert measure(shifted, level, method=method) == pytest.approx(
            measure(returns, level, method=method) - shift, abs=1e-9
        )


@properties
@given(returns=returns_lists, level=levels, seed=st.integers(0, 99))
def test_the_order_of_returns_does_not_matter_to_the_tail(returns, level, seed):
    shuffled = np.random.default_rng(seed).permutation(returns)
    assert value_at_risk(shuffled, level) == value_at_risk(returns, level)
    assert cvar(shuffled, level) == cvar(returns, level)


@properties
@given(returns=returns_lists)
def test_drawdowns_are_between_zero_and_one(returns):
    assert 0.0 <= max_drawdown(returns) < 1.0


@properties
@given(returns=returns_lists, level=levels)
def test_historical_measures_and_drawdown_agree_with_skfolio(returns, level):
    from skfolio import measures

    values = np.array(returns)
    assert value_at_risk(values, level) == pytest.approx(measures.value_at_risk(values, beta=level), abs=1e-12)
    assert cvar(values, level) == pytest.approx(measures.cvar(values, beta=level), abs=1e-12)
    theirs = measures.max_drawdown(measures.get_drawdowns(values, compounded=True))
    assert max_drawdown(values) == pytest.approx(theirs, abs=1e-12)
    assert volatility(values, periods_per_year=1) == pytest.approx(measures.standard_deviation(values), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: value_at_risk([0.1]), "at least 2"),
        (lambda: cvar([0.1, math.nan, 0.2]), "return 1 is nan"),
        (lambda: max_drawdown([]), "at least 1"),
        (lambda: volatility([0.1, math.inf], periods_per_year=252), "return 1 is inf"),
        (lambda: volatility([0.1, 0.2], periods_per_year=0), "periods_per_year"),
        (lambda: value_at_risk([0.1, 0.2], 1.0), "confidence level is 1.0"),
        (lambda: cvar([0.1, 0.2], 0.05), "confidence level is 0.05"),
        (lambda: value_at_risk([0.1, 0.2], method="guess"), "unknown method 'guess'"),
        (lambda: cvar([0.1, 0.2], method="guess"), "unknown method 'guess'"),
        (lambda: value_at_risk([[0.1, 0.2]]), "1-D"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(RiskError, match=message):
        call()
