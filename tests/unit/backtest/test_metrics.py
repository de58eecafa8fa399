"""Performance figures: by hand, and equal to vectorbt 1.2 and skfolio to 1e-9."""

import math
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quantflow.backtest import metrics as m
from quantflow.backtest._from_raw import SUMMARY_METRICS, metrics_from_raw
from quantflow.backtest._raw import RAW_METRICS, measure
from quantflow.backtest._series import period_rate
from quantflow.errors import RiskError

RETURNS = [0.1, -0.05, 0.02, 0.03]
YEAR = {"periods_per_year": 252}
FREE = {**YEAR, "risk_free_rate": 0.0}


def varied_returns(min_size=5, max_size=80):
    values = st.floats(-0.3, 0.4, allow_nan=False).map(lambda value: round(value, 6))
    return st.lists(values, min_size=min_size, max_size=max_size).map(np.array).filter(lambda r: r.std() > 1e-4)


def test_growth_a_year_compounds():
    assert m.cagr([0.1, 0.1], periods_per_year=2) == pytest.approx(0.21, rel=1e-12)
    assert m.cagr([-1.0, 0.5], periods_per_year=252) == -1.0
    assert m.total_return(RETURNS) == pytest.approx(1.1 * 0.95 * 1.02 * 1.03 - 1, rel=1e-12)


def test_sharpe_ratio_is_mean_over_sample_deviation_a_year():
    mean = 0.025
    deviation = math.sqrt(sum((value - mean) ** 2 for value in RETURNS) / 3)
    assert m.sharpe_ratio(RETURNS, **FREE) == pytest.approx(mean / deviation * math.sqrt(252), rel=1e-12)
    free = 1.05 ** (1 / 252) - 1
    expected = (mean - free) / deviation * math.sqrt(252)
    assert m.sharpe_ratio(RETURNS, risk_free_rate=0.05, **YEAR) == pytest.approx(expected, rel=1e-12)


def test_returns_that_do_not_vary_have_no_sharpe_ratio():
    assert m.sharpe_ratio([0.01] * 9, **FREE) == 0.0
    assert math.isnan(m.skew([0.01] * 9))
    assert math.isnan(m.kurtosis([0.01] * 9))
    assert math.isnan(m.probabilistic_sharpe([0.01] * 9, **FREE))
    assert math.isnan(m.information_ratio([0.01] * 9, [0.0] * 9, **YEAR))


def test_ratios_to_a_risk_of_zero_are_not_numbers():
    gains = [0.01, 0.02, 0.0]
    assert math.isnan(m.sortino_ratio(gains, **FREE))
    assert math.isnan(m.calmar_ratio(gains, **YEAR))
    assert math.isnan(m.omega_ratio(gains, **FREE))
    assert math.isnan(m.tail_ratio([0.0] * 9))
    assert math.isnan(m.profit_factor([3.0]))
    assert math.isnan(m.win_rate([]))
    assert math.isnan(m.expectancy([]))


def test_hit_rate_counts_only_periods_that_moved():
    assert m.hit_rate([0.1, 0.0, -0.1, 0.2]) == pytest.approx(2 / 3)
    assert m.hit_rate([0.0]) == 0.0


def test_trades_are_measured_by_their_profits():
    profits = [3.0, -1.0, 0.0, 2.0, -2.0]
    assert m.profit_factor(profits) == pytest.approx(5 / 3)
    assert m.win_rate(profits) == pytest.approx(0.4)
    assert m.expectancy(profits) == pytest.approx(0.4)


def test_the_deepest_fall_lasts_until_its_peak_is_back():
    returns = [0.1, -0.1, 0.05, -0.2, 0.5, 0.1, -0.01]
    # Equity 1.1, 0.99, 1.0395, 0.8316, 1.2474: peak at 0, trough at 3, back at 4.
    assert m.max_drawdown_duration(returns) == 4
    assert m.longest_drawdown(returns) == 3
    assert m.max_drawdown_duration([0.01, 0.02]) == 0
    assert m.longest_drawdown([0.01, 0.02]) == 0
    # From the start, and never back.
    assert m.max_drawdown_duration([-0.1, 0.01, 0.01]) == 3
    assert m.longest_drawdown([-0.1, 0.01, 0.01]) == 3


@pytest.mark.slow  # vectorbt takes seconds to import
@given(returns=varied_returns(), rate=st.floats(0.0, 0.1), year=st.sampled_from([12.0, 52.0, 252.0]))
def test_figures_equal_vectorbts(returns, rate, year):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vectorbt's own, at import
        from vectorbt.returns import nb

    free = period_rate(rate, year)
    both = {"periods_per_year": year, "risk_free_rate": rate}
    growth = np.prod(1.0 + returns)
    assume(growth > 1e-6)
    benchmark = np.roll(returns, 1)

    def agree(ours, theirs, rel=1e-9):
        if not math.isnan(ours):  # vectorbt answers infinity where we answer NaN
            assert ours == pytest.approx(theirs, rel=rel, abs=1e-9)

    agree(m.total_return(returns), nb.cum_returns_final_1d_nb(returns))
    agree(m.cagr(returns, periods_per_year=year), nb.annualized_return_1d_nb(returns, year))
    agree(m.annual_volatility(returns, periods_per_year=year), nb.annualized_volatility_1d_nb(returns, year))
    agree(m.sharpe_ratio(returns, **both), nb.sharpe_ratio_1d_nb(returns, year, free))
    agree(m.sortino_ratio(returns, **both), nb.sortino_ratio_1d_nb(returns, year, free))
    agree(m.omega_ratio(returns, **both), nb.omega_ratio_1d_nb(returns, year, free))
    agree(m.information_ratio(returns, benchmark, periods_per_year=1), nb.information_ratio_1d_nb(returns, benchmark))
    agree(m.tail_ratio(returns), nb.tail_ratio_1d_nb(returns))
    # vectorbt's equity has no start before the first return, so its first return must not be a loss.
    risen = np.concatenate([[0.0], returns])
    agree(-m.max_drawdown(risen), nb.max_drawdown_1d_nb(risen))
    agree(m.calmar_ratio(risen, periods_per_year=year), nb.calmar_ratio_1d_nb(risen, year))


@given(returns=varied_returns(), benchmark=st.floats(-1.0, 2.0))
def test_moments_and_probabilities_equal_skfolios(returns, benchmark):
    from skfolio import measures

    assert m.skew(returns) == pytest.approx(float(measures.skew(returns)), rel=1e-9, abs=1e-9)
    assert m.kurtosis(returns) == pytest.approx(float(measures.kurtosis(returns)), rel=1e-9, abs=1e-9)
    ours = m.probabilistic_sharpe(returns, periods_per_year=252, risk_free_rate=0.02, benchmark_sharpe=benchmark)
    free = period_rate(0.02, 252)
    theirs = measures.probabilistic_sharpe_ratio(returns, benchmark / math.sqrt(252), free)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9, nan_ok=True)


@given(returns=varied_returns(min_size=12), window=st.integers(2, 12))
def test_the_rolling_ratio_is_the_ratio_of_each_window(returns, window):
    rolling = m.rolling_sharpe_ratio(returns, window=window, periods_per_year=252, risk_free_rate=0.01)
    assert np.isnan(rolling[: window - 1]).all()
    for end in range(window, len(returns) + 1):
        one = m.sharpe_ratio(returns[end - window : end], periods_per_year=252, risk_free_rate=0.01)
        assert rolling[end - 1] == pytest.approx(one, rel=1e-9, abs=1e-9)


@given(returns=varied_returns(), factor=st.floats(0.1, 0.9))
def test_ratios_do_not_depend_on_the_size_of_returns(returns, factor):
    for figure in (m.skew, m.kurtosis, m.tail_ratio, m.profit_factor, m.hit_rate):
        assert figure(returns * factor) == pytest.approx(figure(returns), rel=1e-7, nan_ok=True)
    for ratio in (m.sharpe_ratio, m.sortino_ratio, m.omega_ratio):
        assert ratio(returns * factor, **FREE) == pytest.approx(ratio(returns, **FREE), rel=1e-7, abs=1e-9, nan_ok=True)


@given(returns=varied_returns(), rate=st.floats(0.0, 0.1), year=st.sampled_from([12.0, 252.0]))
def test_figures_from_streaming_sums_equal_those_from_the_path(returns, rate, year):
    free = period_rate(rate, year)
    equity = 250.0 * np.cumprod(1.0 + returns)
    out = np.zeros((1, len(RAW_METRICS)))
    measure(equity, equity, equity, 0, 250.0, free, out)
    names = [name for name in SUMMARY_METRICS if name not in _OF_TRADES]
    summary = metrics_from_raw(out, names, periods_per_year=year, risk_free_rate=rate)
    path = m.portfolio_metrics(
        returns,
        turnover=np.zeros(len(returns)),
        cost=np.zeros(len(returns)),
        exposure=np.ones(len(returns)),
        periods_per_year=year,
        risk_free_rate=rate,
    )
    for name, values in summary.items():
        if name in path:
            assert values[0] == pytest.approx(path[name], rel=1e-8, abs=1e-9, nan_ok=True), name
    assert summary["net_exposure"][0] == pytest.approx(1.0)


_OF_TRADES = {
    "orders",
    "stops",
    "limited",
    "fees",
    "slippage",
    "carry",
    "costs_paid",
    "trades",
    "win_rate",
    "profit_factor",
} | {
    "expectancy",
    "ruined",
}


def test_figures_of_trades_come_from_the_sums():
    row = dict.fromkeys(RAW_METRICS, 0.0) | {
        "periods": 504.0,
        "initial_equity": 200.0,
        "final_equity": 242.0,
        "turnover": 6.0,
        "fees": 4.0,
        "orders": 9.0,
        "trades": 4.0,
        "trades_won": 1.0,
        "trade_profit": 50.0,
        "trade_loss": 10.0,
        "ruined": -1.0,
    }
    flat = row | {"trades": 0.0, "trade_profit": 0.0, "trade_loss": 0.0, "ruined": 7.0, "final_equity": 0.0}
    raw = np.array([list(row.values()), list(flat.values())])
    names = ("cagr", "turnover", "fees", "orders", "win_rate", "profit_factor", "expectancy", "ruined", "sharpe_ratio")
    figures = metrics_from_raw(raw, names, **FREE)
    assert list(figures) == list(names)
    expected = [0.1, 3.0, 0.02, 9.0, 0.25, 5.0, 0.05, 0.0, 0.0]
    np.testing.assert_allclose([figures[name][0] for name in names], expected, rtol=1e-12)
    expected = [-1.0, 3.0, 0.02, 9.0, math.nan, math.nan, math.nan, 1.0, 0.0]
    np.testing.assert_allclose([figures[name][1] for name in names], expected, rtol=1e-12)


def test_sums_that_are_not_the_engines_are_refused():
    with pytest.raises(RiskError, match="unknown metrics sharp"):
        metrics_from_raw(np.zeros((1, len(RAW_METRICS))), ["sharp"], **FREE)
    with pytest.raises(RiskError, match=r"shape \(1, 3\)"):
        metrics_from_raw(np.zeros(3), ["cagr"], **FREE)


def test_portfolio_metrics_state_their_periods():
    trades = pl.DataFrame(
        {"pnl": [2.0, -1.0, None], "exit_timestamp": [1, 2, None], "fee": [0.1, 0.2, 0.1], "slippage": [0.0, 0.1, 0.0]}
    )
    metrics = m.portfolio_metrics(
        RETURNS,
        turnover=[1.0, 0.0, 0.5, 0.5],
        cost=[0.01, 0.0, 0.0, 0.01],
        exposure=[0.5, 0.0, 1.0, 0.5],
        benchmark=[0.0, 0.01, 0.0, 0.01],
        trades=trades,
        initial_equity=10.0,
        periods_per_year=4,
        risk_free_rate=0.01,
    )
    assert metrics["turnover"] == pytest.approx(2.0)
    assert metrics["cost"] == pytest.approx(0.02)
    assert metrics["max_drawdown"] == pytest.approx(0.05)
    assert (metrics["exposure"], metrics["time_in_market"]) == (0.5, 0.75)
    assert (metrics["trades"], metrics["win_rate"], metrics["profit_factor"]) == (2.0, 0.5, 2.0)
    assert (metrics["expectancy"], metrics["costs_paid"]) == pytest.approx((0.05, 0.05))
    assert (metrics["periods"], metrics["periods_per_year"], metrics["risk_free_rate"]) == (4.0, 4.0, 0.01)
    assert "information_ratio" in metrics


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.cagr([0.1, math.nan], periods_per_year=252), "return 1"),
        (lambda: m.sharpe_ratio([0.1], **FREE), "at least 2"),
        (lambda: m.sharpe_ratio(RETURNS, periods_per_year=0, risk_free_rate=0.0), "periods_per_year is 0"),
        (lambda: m.sharpe_ratio(RETURNS, periods_per_year=252, risk_free_rate=-1.0), "risk_free_rate is -1"),
        (lambda: m.information_ratio(RETURNS, RETURNS[1:], **YEAR), "4 returns and 3"),
        (lambda: m.rolling_sharpe_ratio(RETURNS, window=1, **FREE), "window is 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(RiskError, match=message):
        call()
