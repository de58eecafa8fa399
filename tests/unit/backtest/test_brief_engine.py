"""The engine that measures little makes the same orders and the same figures as the one that measures all."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.backtest import RAW_METRICS, SUMMARY_METRICS, Execution, Market, run_slots, sweep
from quantflow.backtest._brief import NOT_MEASURED
from quantflow.backtest._from_raw import DETAILED_METRICS, metrics_from_raw
from quantflow.backtest._market import _even_places, _places
from quantflow.testing.signals import bars_of, random_walk, trend

BARS = 160
# The lowest and the highest return are followed only until they show that returns vary.
MEASURED = [
    index
    for index, name in enumerate(RAW_METRICS)
    if name not in NOT_MEASURED and name not in ("lowest_return", "highest_return")
]
CLOSES = random_walk(BARS, seed=4, volatility=0.04)
SINGLE = bars_of({"A": CLOSES}, open={"A": CLOSES * np.exp(np.random.default_rng(1).normal(0.0, 0.02, BARS))})
LEVELS = st.sampled_from([0.0, 0.0, 0.0, 1.0, 1.0, 0.4, -0.7, 2.5, -3.0])


@st.composite
def decided(draw):
    """A few paths of targets that stay for some bars each, some of them not decided."""
    rows = []
    for _ in range(3):
        runs = draw(st.lists(st.tuples(LEVELS, st.integers(1, 40)), min_size=1, max_size=30))
        row = np.concatenate([np.full(length, level) for level, length in runs])
        row = np.resize(row, BARS)
        row[draw(st.lists(st.integers(0, BARS - 1), max_size=10))] = np.nan
        rows.append(row)
    return np.array(rows)


@given(
    targets=decided(),
    fill=st.sampled_from(["next_open", "next_close", "same_close"]),
    rebalance=st.sampled_from(["every_bar", "on_change", "weekly"]),
    fee_bps=st.sampled_from([0.0, 7.0]),
    leverage=st.sampled_from([1.0, 4.0]),
    start=st.sampled_from([0, 1, 50]),
)
def test_what_is_measured_is_the_same(targets, fill, rebalance, fee_bps, leverage, start):
    execution = Execution(
        fill=fill, rebalance=rebalance, fee_bps=fee_bps, slippage_bps=3.0, leverage=leverage, initial_cash=1e4
    )
    market = Market.of(SINGLE, execution)
    full = run_slots(targets, market, 0, execution, start=start)
    brief = run_slots(targets, market, 0, execution, start=start, brief=True)
    np.testing.assert_allclose(brief[:, MEASURED], full[:, MEASURED], rtol=1e-12, atol=1e-12)
    assert np.isnan(brief[:, [RAW_METRICS.index(name) for name in NOT_MEASURED]]).all()


@pytest.mark.parametrize("growth", [0.01, 0.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_both_see_alike_whether_returns_vary(growth, target):
    steady = 100.0 * (1.0 + growth) ** np.arange(60)
    execution = Execution(fill="same_close", rebalance="on_change", initial_cash=1e4)
    market = Market.of(bars_of({"A": steady}, open={"A": steady}), execution)
    figures = []
    for brief in (True, False):
        sums = run_slots(np.full((1, 60), target), market, 0, execution, brief=brief)
        figures.append(metrics_from_raw(sums, ["sharpe_ratio"], periods_per_year=252.0, risk_free_rate=0.0))
    np.testing.assert_allclose(figures[0]["sharpe_ratio"], figures[1]["sharpe_ratio"], rtol=1e-9)


def test_what_needs_more_than_the_plain_engine_is_measured_in_full():
    execution = Execution(stop_loss=0.05, fill="next_close")
    bars = bars_of({"A": CLOSES}, open={"A": CLOSES}, high={"A": CLOSES * 1.01}, low={"A": CLOSES * 0.99})
    brief = run_slots(np.ones((1, BARS)), Market.of(bars, execution), 0, execution, brief=True)
    assert np.isfinite(brief).all()


@pytest.mark.parametrize("name", sorted(SUMMARY_METRICS))
def test_a_figure_is_the_same_whether_asked_for_alone_or_with_all(name):
    grid = {"lookback": [3, 8], "target_volatility": [0.1, 5.0]}
    options = {"by": "symbol", "fill": "next_open", "fee_bps": 5.0, "leverage": 2.0, "risk_free_rate": 0.01}
    alone = sweep(trend, SINGLE, grid, metrics=[name], **options)
    among = sweep(trend, SINGLE, grid, metrics=SUMMARY_METRICS, **options)
    np.testing.assert_allclose(alone[name].to_numpy(), among[name].to_numpy(), rtol=1e-9, atol=1e-12)
    if name in DETAILED_METRICS:
        assert alone[name].equals(among[name])


def frame(symbols, days, shuffled=False):
    bars = bars_of({symbol: random_walk(days, seed=3) for symbol in symbols})
    return bars.sample(fraction=1.0, shuffle=True, seed=1) if shuffled else bars


@pytest.mark.parametrize("symbols", [["A"], ["B", "A", "C"]])
def test_even_frames_are_placed_as_any_frame_is(symbols):
    bars = frame(symbols, 30)
    for one, other in zip(_even_places(bars), _places(bars), strict=True):
        assert one.equals(other) if isinstance(one, pl.DataFrame) else list(one) == list(other)


@pytest.mark.parametrize(
    "bars",
    [
        frame(["A", "B"], 30, shuffled=True),
        pl.concat([frame(["A"], 30), frame(["B"], 29)]),
        pl.concat([frame(["A"], 30), frame(["A"], 30)]),
        pl.concat([frame(["A"], 30), frame(["B"], 30).reverse()]),
        pl.concat([frame(["A"], 30), frame(["B"], 31).tail(30)]),
        frame([], 30),
    ],
    ids=["shuffled", "uneven", "doubled", "reversed", "shifted", "empty"],
)
def test_frames_that_are_not_even_are_seen(bars):
    assert _even_places(bars) is None
