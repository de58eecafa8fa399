"""Performance figures, computed by hand."""

import math

import pytest

from quantflow.backtest import cagr, hit_rate, portfolio_metrics, sharpe_ratio
from quantflow.errors import RiskError

RETURNS = [0.1, -0.05, 0.02, 0.03]


def test_growth_a_year_compounds():
    assert cagr([0.1, 0.1], periods_per_year=2) == pytest.approx(0.21, rel=1e-12)
    assert cagr([-1.0, 0.5], periods_per_year=252) == -1.0


def test_sharpe_ratio_is_mean_over_sample_deviation_a_year():
    mean = 0.025
    deviation = math.sqrt(sum((value - mean) ** 2 for value in RETURNS) / 3)
    assert sharpe_ratio(RETURNS, periods_per_year=252) == pytest.approx(mean / deviation * math.sqrt(252), rel=1e-12)
    free = 1.05 ** (1 / 252) - 1
    expected = (mean - free) / deviation * math.sqrt(252)
    assert sharpe_ratio(RETURNS, periods_per_year=252, risk_free_rate=0.05) == pytest.approx(expected, rel=1e-12)


def test_returns_that_do_not_vary_have_no_sharpe_ratio():
    assert sharpe_ratio([0.01] * 9, periods_per_year=252) == 0.0


def test_hit_rate_counts_only_periods_that_moved():
    assert hit_rate([0.1, 0.0, -0.1, 0.2]) == pytest.approx(2 / 3)
    assert hit_rate([0.0]) == 0.0


def test_portfolio_metrics_state_their_periods():
    metrics = portfolio_metrics(RETURNS, turnover=[1.0, 0.0, 0.5, 0.5], cost=[0.01, 0.0, 0.0, 0.01], periods_per_year=4)
    assert metrics["total_return"] == pytest.approx(1.1 * 0.95 * 1.02 * 1.03 - 1, rel=1e-12)
    assert metrics["turnover"] == pytest.approx(2.0)
    assert metrics["cost"] == pytest.approx(0.02)
    assert metrics["max_drawdown"] == pytest.approx(0.05)
    assert (metrics["periods"], metrics["periods_per_year"]) == (4.0, 4.0)


def test_returns_that_are_not_finite_are_refused():
    with pytest.raises(RiskError, match="return 1"):
        cagr([0.1, math.nan], periods_per_year=252)
    with pytest.raises(RiskError, match="at least 2"):
        sharpe_ratio([0.1], periods_per_year=252)
