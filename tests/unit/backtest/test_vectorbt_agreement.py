"""vectorbt 1.2, given the same decisions, fills and costs, comes to the same equity."""

import warnings

import numpy as np
import pytest

from quantflow.backtest import backtest, to_vectorbt
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
    ours = backtest(trend.bind(lookback=20, span=15, target_volatility=0.1), bars)
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
