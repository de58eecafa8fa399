"""Backtests against hand-computed fixtures; semantics of fills, costs, gaps and ruin."""

import math
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantflow import backtest as backtests
from quantflow.errors import InvalidBarsError, MissingColumnError, SignalError
from quantflow.signals import memory, param, signal
from quantflow.testing.signals import bars_of, random_walk, trend


@signal()
def hold(bar, exposure=param(1.0, low=-5.0, high=5.0)):
    """Always the same exposure."""
    return exposure


@signal()
def alternate(bar, seen=memory()):
    """Long, flat, long, flat."""
    seen[0] = 1.0 - seen[0]
    return seen[0]


CLOSES = [100.0, 110.0, 99.0, 108.9]


def backtest(decider, bars, *, fill="next_close", **options):
    """Most fixtures have closes only."""
    return backtests.backtest(decider, bars, fill=fill, **options)


def equity(result):
    return result.equity["equity"].to_numpy()


def test_a_decision_earns_from_the_next_close_on():
    result = backtest(hold.bind(), bars_of({"A": CLOSES}))
    # Decided at 100, bought at 110: the first rise is missed.
    np.testing.assert_allclose(equity(result), [1.0, 1.0, 0.9, 0.99], rtol=1e-12)
    np.testing.assert_allclose(result.returns["return"].to_numpy(), [0.0, 0.0, -0.1, 0.1], atol=1e-12)
    np.testing.assert_allclose(result.equity["drawdown"].to_numpy(), [0.0, 0.0, 0.1, 0.01], atol=1e-12)
    np.testing.assert_allclose(result.equity["benchmark"].to_numpy(), [1.0, 1.1, 0.99, 1.089], rtol=1e-12)
    np.testing.assert_allclose(result.weights["A"].to_numpy(), [0.0, 1.0, 1.0, 1.0], rtol=1e-12)


def test_the_same_close_can_be_had_but_is_marked():
    result = backtest(hold.bind(), bars_of({"A": CLOSES}), fill="same_close")
    np.testing.assert_allclose(equity(result), [1.0, 1.1, 0.99, 1.089], rtol=1e-12)
    assert result.assumptions[0].startswith("LOOK-AHEAD")


def test_the_next_open_is_filled_at_the_open_and_marked_at_the_close():
    frame = bars_of({"A": CLOSES}, open={"A": [100.0, 104.5, 110.0, 99.0]})
    result = backtest(hold.bind(), frame, fill="next_open")
    second = 110.0 / 104.5
    np.testing.assert_allclose(equity(result), [1.0, second, second * 0.9, second * 0.99], rtol=1e-12)


def test_positions_are_closed_when_the_signal_says_flat():
    result = backtest(alternate.bind(), bars_of({"A": [100.0, 110.0, 121.0, 60.0, 66.0]}))
    # Decided 1, 0, 1, 0, 1 at the closes; held from close 2 to 3 and from close 4 to 5.
    np.testing.assert_allclose(equity(result), [1.0, 1.0, 1.1, 1.1, 1.21], rtol=1e-12)


def test_each_symbol_has_an_equal_slot_that_is_traded_back_to_target():
    frame = bars_of({"A": [100.0, 100.0, 200.0, 200.0], "B": [50.0, 50.0, 50.0, 25.0]})
    result = backtest(hold.bind(), frame)
    # Half each; A doubles: 1.5; back to 0.75 each; B halves: 1.125.
    np.testing.assert_allclose(equity(result), [1.0, 1.0, 1.5, 1.125], rtol=1e-12)
    np.testing.assert_allclose(result.weights["A"].to_numpy(), [0.0, 0.5, 0.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose(result.returns["turnover"].to_numpy(), [0.0, 1.0, 1 / 3, 1 / 3], rtol=1e-12)
    assert result.target_weights == {"A": 0.5, "B": 0.5}
    assert result.exposures.columns == ["symbol", "session", "timestamp", "exposure", "weight"]


def test_cash_that_does_not_cover_purchase_and_fee_makes_the_purchase_smaller():
    frame = bars_of({"A": [100.0, 100.0, 100.0, 100.0]})
    result = backtest(alternate.bind(), frame, fee_bps=100.0)
    # Buying x costs 0.01 x and all cash is there for it: x = 1 / 1.01; selling it pays 0.01 x again.
    left = 1.0 / 1.01
    np.testing.assert_allclose(equity(result), [1.0, left, left * 0.99, left * 0.99 / 1.01], rtol=1e-12)
    np.testing.assert_allclose(result.returns["cost"].to_numpy(), [0.0, 1 - left, 0.01, 1 - left], rtol=1e-12)


def test_slippage_moves_the_price_and_the_fee_is_of_the_moved_price():
    frame = bars_of({"A": [100.0, 100.0, 100.0]})
    result = backtest(alternate.bind(), frame, fee_bps=50.0, slippage_bps=200.0)
    bought = 1.0 / (1.02 * 1.005)  # value at the close of what one unit of cash buys
    np.testing.assert_allclose(equity(result), [1.0, bought, bought * 0.98 * 0.995], rtol=1e-12)


def test_short_exposure_earns_what_the_price_loses():
    result = backtest(hold.bind(exposure=-1.0), bars_of({"A": [100.0, 100.0, 90.0, 99.0]}))
    np.testing.assert_allclose(equity(result), [1.0, 1.0, 1.1, 1.1 * 0.9], rtol=1e-12)


def test_a_symbol_that_starts_later_leaves_its_slot_in_cash():
    frame = bars_of({"A": [100.0, 100.0, 110.0, 110.0], "B": [None, 50.0, 50.0, 100.0]})
    result = backtest(hold.bind(), frame)
    # A: half from close 2; B decided at close 2, bought at close 3, doubles.
    np.testing.assert_allclose(equity(result), [1.0, 1.0, 1.05, 1.05 * 1.5], rtol=1e-12)
    np.testing.assert_allclose(result.equity["benchmark"].to_numpy(), [1.0, 1.0, 1.05, 1.55], rtol=1e-12)
    assert not any("missing inside" in sentence for sentence in result.assumptions)


def test_a_gap_keeps_the_last_close_and_trades_nothing():
    frame = bars_of({"A": [100.0, 100.0, None, 150.0], "B": [10.0, 10.0, 10.0, 10.0]})
    result = backtest(hold.bind(), frame)
    np.testing.assert_allclose(equity(result), [1.0, 1.0, 1.0, 1.25], rtol=1e-12)
    assert result.returns["turnover"][2] == 0.0
    assert any(sentence.startswith("1 bars are missing") for sentence in result.assumptions)


def test_equity_that_is_lost_stays_lost():
    result = backtest(hold.bind(exposure=-3.0), bars_of({"A": [100.0, 100.0, 140.0, 50.0]}), leverage=3.0)
    np.testing.assert_allclose(equity(result), [1.0, 1.0, 0.0, 0.0], atol=1e-12)
    assert result.metrics["max_drawdown"] == 1.0
    assert result.metrics["cagr"] == -1.0
    assert any("lost by 2020-01-03" in sentence for sentence in result.assumptions)


def test_assumptions_say_what_was_taken_for_granted():
    frame = bars_of({"A": CLOSES}).with_columns(adjustment=pl.lit("splits_and_dividends"), source=pl.lit("sp500"))
    text = " ".join(backtest(hold.bind(), frame, fee_bps=1.0, slippage_bps=2.0).assumptions)
    for part in ("next session's close", "adjusted for splits and dividends", "are survivors", "1 bp in fees", "2 bp"):
        assert part in text
    free = " ".join(backtest(hold.bind(), bars_of({"A": CLOSES})).assumptions)
    for part in ("Trading is free", "not adjusted", "survivors is not known"):
        assert part in free


def test_the_order_of_rows_does_not_matter():
    frame = bars_of({"A": random_walk(50, seed=1), "B": random_walk(50, seed=2)})
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=3)
    assert backtest(trend.bind(), shuffled).equity.equals(backtest(trend.bind(), frame).equity)


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(2, 59), fill=st.sampled_from(["next_close", "next_open"]))
def test_truncating_the_future_does_not_change_past_equity(cut, fill):
    paths = {"A": random_walk(60, seed=1), "B": random_walk(60, seed=2)}
    opens = {symbol: path * 1.001 for symbol, path in paths.items()}
    frame = bars_of(paths, open=opens)
    past = frame.filter(pl.col("session") < date(2020, 1, 1) + pl.duration(days=cut))
    options = {"fill": fill, "fee_bps": 2.0, "slippage_bps": 3.0}
    whole = backtest(trend.bind(), frame, **options)
    assert backtest(trend.bind(), past, **options).equity.equals(whole.equity.head(cut))


@settings(deadline=None, max_examples=25)
@given(fee=st.floats(0.0, 100.0), more=st.floats(0.1, 100.0), seed=st.integers(0, 50))
def test_higher_fees_never_earn_more(fee, more, seed):
    frame = bars_of({"A": random_walk(80, seed=seed), "B": random_walk(80, seed=seed + 1)})
    cheap = backtest(trend.bind(), frame, fee_bps=fee)
    dear = backtest(trend.bind(), frame, fee_bps=fee + more)
    assert dear.metrics["total_return"] <= cheap.metrics["total_return"]


@settings(deadline=None, max_examples=25)
@given(cash=st.floats(0.01, 1e9), scale=st.floats(0.01, 100.0))
def test_metrics_do_not_depend_on_cash_or_the_unit_of_prices(cash, scale):
    path = random_walk(60, seed=5)
    base = backtest(trend.bind(), bars_of({"A": path}), fee_bps=1.0)
    other = backtest(trend.bind(), bars_of({"A": path * scale}), fee_bps=1.0, initial_cash=cash)
    for name, value in base.metrics.items():
        assert other.metrics[name] == pytest.approx(value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": "tomorrow"}, "fill is 'tomorrow'"),
        ({"fee_bps": -1.0}, "fee_bps"),
        ({"slippage_bps": math.nan}, "slippage_bps"),
        ({"initial_cash": 0.0}, "initial_cash"),
        ({"periods_per_year": math.inf}, "periods_per_year"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(SignalError, match=message):
        backtest(hold.bind(), bars_of({"A": CLOSES}), **options)


def test_bars_that_cannot_be_traded_are_refused():
    with pytest.raises(MissingColumnError, match="'open'"):
        backtest(hold.bind(), bars_of({"A": CLOSES}), fill="next_open")
    with pytest.raises(InvalidBarsError, match="at least two"):
        backtest(hold.bind(), bars_of({"A": [1.0]}))
    with pytest.raises(InvalidBarsError, match="at least two"):
        backtest(hold.bind(), bars_of({}))
    with pytest.raises(InvalidBarsError, match=r"price of A at 2020-01-02 is -1\.0"):
        backtest(hold.bind(), bars_of({"A": [1.0, -1.0, 1.0]}))
    once = bars_of({"A": CLOSES})
    with pytest.raises(InvalidBarsError, match=r"A has more than one bar at 2020-01-0[1-4] 21:00"):
        backtest(hold.bind(), pl.concat([once, once]))
    with pytest.raises(InvalidBarsError, match="time zone"):
        backtest(hold.bind(), once.with_columns(pl.col("timestamp").dt.replace_time_zone(None)))
    with pytest.raises(InvalidBarsError, match="symbol is missing in row 2"):
        backtest(hold.bind(), once.with_columns(pl.when(pl.col("close") != 99.0).then("symbol").alias("symbol")))
    with pytest.raises(MissingColumnError, match="'timestamp'"):
        backtest(hold.bind(), once.drop("timestamp"))
