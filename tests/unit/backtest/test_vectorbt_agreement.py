"""vectorbt 1.2, given the same decisions, fills and costs, comes to the same equity."""

import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from quantflow.backtest import RAW_METRICS, Execution, Market, backtest, run_slots, to_vectorbt
from quantflow.errors import SignalError
from quantflow.testing.signals import bars_of, random_walk, trend

pytestmark = pytest.mark.slow

SYMBOLS = [f"S{index}" for index in range(5)]


def test_equity_and_figures_equal_vectorbts_for_every_cost_and_fill():
    closes = {symbol: random_walk(400, seed=index) for index, symbol in enumerate(SYMBOLS)}
    bars = bars_of(closes, open={symbol: path * 1.003 for symbol, path in closes.items()})
    bound = trend.bind(lookback=20, span=15, target_volatility=0.1)
    for fee_bps, slippage_bps, fill in [
        (0.0, 0.0, "next_close"),
        (5.0, 8.0, "next_close"),
        (5.0, 8.0, "next_open"),
        (5.0, 0.0, "same_close"),
    ]:
        ours = backtest(bound, bars, fill=fill, fee_bps=fee_bps, slippage_bps=slippage_bps, initial_cash=1e6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vectorbt's own
            theirs = to_vectorbt(ours, bars)
            value = theirs.value().to_numpy()
            figures = theirs.returns_acc(year_freq="252 days")
            sharpe, drawdown = float(figures.sharpe_ratio()), -float(figures.max_drawdown())
        np.testing.assert_allclose(ours.equity["equity"].to_numpy(), value, rtol=1e-9)
        assert ours.metrics["sharpe_ratio"] == pytest.approx(sharpe, abs=1e-9)
        assert ours.metrics["max_drawdown"] == pytest.approx(drawdown, abs=1e-9)
        assert ours.metrics["turnover"] > 1.0


def test_without_costs_vectorbt_sizes_the_same_orders_from_the_same_decisions():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vectorbt's own, at import
        import pandas as pd
        import vectorbt as vbt

    bars = bars_of({symbol: random_walk(400, seed=10 + index) for index, symbol in enumerate(SYMBOLS)})
    ours = backtest(trend.bind(lookback=20, span=15, target_volatility=0.1), bars, fill="next_close")
    close = bars.pivot(on="symbol", index="session", values="close").to_pandas().set_index("session")[SYMBOLS]
    close.index = pd.DatetimeIndex(close.index)
    decided = ours.exposures.pivot(on="symbol", index="session", values="weight").sort("session").to_pandas()
    targets = pd.DataFrame(decided[SYMBOLS].to_numpy(), index=close.index, columns=SYMBOLS).shift(1).fillna(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = vbt.Portfolio.from_orders(
            close,
            size=targets,
            size_type="targetpercent",
            init_cash=1.0,
            cash_sharing=True,
            group_by=True,
            call_seq="auto",
            freq="D",
        )
        value = theirs.value().to_numpy()
    np.testing.assert_allclose(ours.equity["equity"].to_numpy(), value, rtol=1e-9)


def wide_bars(count=300):
    """Bars with ranges wide enough for stops within a bar, and volumes."""
    rng = np.random.default_rng(4)
    closes = {symbol: random_walk(count, seed=20 + index, volatility=0.02) for index, symbol in enumerate(SYMBOLS)}
    opens = {symbol: path * np.exp(rng.normal(0.0, 0.01, count)) for symbol, path in closes.items()}
    return bars_of(
        closes,
        open=opens,
        high={s: np.maximum(closes[s], opens[s]) * (1.0 + np.abs(rng.normal(0.0, 0.01, count))) for s in SYMBOLS},
        low={s: np.minimum(closes[s], opens[s]) * (1.0 - np.abs(rng.normal(0.0, 0.01, count))) for s in SYMBOLS},
        volume={s: rng.uniform(1e5, 1e6, count) for s in SYMBOLS},
    )


def test_stops_impact_and_fixed_fees_come_to_vectorbts_equity_too():
    bars = wide_bars()
    for options in (
        {"fill": "next_open", "fee_bps": 5.0, "slippage_bps": 3.0, "stop_loss": 0.03, "take_profit": 0.04},
        {"fill": "next_close", "fee_fixed": 2.0, "impact_bps": 30.0, "trailing_stop": 0.03, "rebalance": "weekly"},
    ):
        ours = backtest(trend.bind(lookback=10, target_volatility=0.5), bars, initial_cash=1e6, **options)
        assert set(ours.orders["reason"]) & {"stop_loss", "trailing_stop"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = to_vectorbt(ours, bars).value()
        # A bar with a fill and a stop of one symbol has two rows; the last bears its timestamp.
        assert (len(value) > ours.equity.height) == ("take_profit" in options)
        value = value.loc[ours.equity["timestamp"].to_list()].to_numpy()
        np.testing.assert_allclose(ours.equity["equity"].to_numpy(), value, rtol=1e-9)


def test_a_sweeps_sums_equal_vectorbts_figures_for_all_or_nothing_targets():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        import vectorbt as vbt

    close = random_walk(600, seed=30, volatility=0.015)
    frame = pd.DataFrame({"close": close}, index=pd.date_range("2020-01-01", periods=600))
    spans = [(5, 20), (10, 30), (20, 60)]
    held = [(frame.close.rolling(fast).mean() > frame.close.rolling(slow).mean()).to_numpy() for fast, slow in spans]
    targets = np.array(held, dtype=np.float64)
    for fill, shift in (("same_close", 0), ("next_close", 1)):
        execution = Execution(fill=fill, fee_bps=10.0, slippage_bps=5.0, initial_cash=1e5)
        market = Market.of(bars_of({"A": close}), execution)
        sums = run_slots(targets, market, 0, execution)
        ours = {name: sums[:, index] for index, name in enumerate(RAW_METRICS)}
        size = np.vstack([np.zeros((shift, 3)), targets.T[: 600 - shift]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = vbt.Portfolio.from_orders(
                pd.concat([frame.close] * 3, axis=1, keys=range(3)),
                size=size,
                size_type="targetpercent",
                fees=10.0 / 1e4,
                slippage=5.0 / 1e4,
                init_cash=1e5,
                freq="D",
            )
            sharpe = theirs.returns_acc(year_freq="252 days").sharpe_ratio().to_numpy()
            np.testing.assert_allclose(ours["final_equity"] / 1e5 - 1.0, theirs.total_return(), rtol=1e-9)
            np.testing.assert_allclose(ours["max_drawdown"], -theirs.max_drawdown(), rtol=1e-9)
            np.testing.assert_array_equal(ours["orders"], theirs.orders.count())
            np.testing.assert_array_equal(ours["trades"], theirs.trades.closed.count())
            np.testing.assert_allclose(ours["fees"], theirs.orders.fees.sum(), rtol=1e-9)
        mean = ours["sum_return"] / 600
        deviation = np.sqrt((ours["sum_return_2"] - 600 * mean**2) / 599)
        np.testing.assert_allclose(mean / deviation * np.sqrt(252.0), sharpe, rtol=1e-9)


def test_what_vectorbt_does_not_know_is_refused():
    bars = wide_bars(60)
    plain = backtest(trend.bind(), bars, initial_cash=1e6)
    for result, message in [
        (backtest(trend.bind(), bars, initial_cash=1e6, borrow_bps=10.0), "borrow_bps"),
        (replace(plain, has_actions=True), "splits and dividends"),
        (replace(plain, equity=plain.equity.with_columns(cash=pl.lit(-1e4))), "purchases on credit"),
        (replace(plain, orders=plain.orders.with_columns(reason=pl.lit("ruin"))), "loss of the whole equity"),
    ]:
        with pytest.raises(SignalError, match=message):
            to_vectorbt(result, bars)
