"""RSI entries with a stop of several true ranges: ``sweep`` against vectorbt's ``from_signals`` with ``sl_stop``.

Both do the same: long all in when the RSI falls below ``entry``; out when the RSI rises above
``EXIT``, or a close is ``stop`` average true ranges (of the bar of entry) or more below the close
of entry; the stop goes first, and a bar that closes a position opens none. Wilder's RSI and ATR,
vectorbt's by TA-Lib, its fastest. Fees and slippage; total return, Sharpe ratio, maximum drawdown
and the number of orders of each (combination, symbol).

vectorbt judges stops and fills at the same bar only: it has no stop that is seen at a close and
filled at the next open. So both fill at the close that decides (``fill="same_close"``, which
nobody can have), with vectorbt's stop judged from closes alone: no highs and lows are given to
it, and entry and exit prices of the stop are closes. With that every figure is equal to 1e-9.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from benchmarks._common import Floats, against, arguments, as_bars, random_prices
from benchmarks._vectorbt import CASH, FEE_BPS, METRICS, PERIODS, SLIPPAGE_BPS, engines, frames, read_figures, vectorbt
from quantflow.backtest import sweep
from quantflow.signals import atr, memory, param, rsi, signal

EXIT = 60.0
ENTRIES, STOPS = [25.0, 30.0, 35.0, 40.0], [1.0, 2.0, 3.0, 4.0]


@signal(columns=("high", "low", "close"))
def dip(
    bar: Any,
    strength: Any = rsi.over("window"),
    reach: Any = atr.over("window"),
    held: Any = memory(2),
    window: int = param(14, low=2, high=200, doc="bars"),
    entry: float = param(30.0, low=0.0, high=100.0),
    stop: float = param(3.0, low=0.1, high=20.0, doc="true ranges"),
) -> float:
    """Buy weakness, until it is over or the stop is hit."""
    now = rsi(strength, bar.close)
    width = atr(reach, bar.high, bar.low, bar.close)
    if held[0] > 0.0:
        if bar.close <= held[1] or now > 60.0:
            held[0] = 0.0
    elif now < entry:
        held[0] = 1.0
        held[1] = bar.close - stop * width
    return float(held[0])


def ours(bars: pl.DataFrame, windows: list[int], threads: int) -> dict[str, Floats]:
    """Return combinations x symbols of each metric."""
    found = sweep(
        dip,
        bars,
        {"window": windows, "entry": ENTRIES, "stop": STOPS},
        by="symbol",
        fill="same_close",
        rebalance="on_change",
        fee_bps=FEE_BPS,
        slippage_bps=SLIPPAGE_BPS,
        initial_cash=CASH,
        periods_per_year=PERIODS,
        metrics=METRICS,
        threads=threads,
    )
    count = len(windows) * len(ENTRIES) * len(STOPS)
    return {name: found[name].to_numpy().astype(float).reshape(count, -1) for name in METRICS}


class VectorbtRun:
    """vectorbt's way: one column a (combination, symbol), everything as arrays; it works on one thread."""

    def __init__(self, prices: dict[str, Floats], windows: list[int], engine: str) -> None:
        self.high, self.low, self.close = frames(prices, ("high", "low", "close"))
        self.windows, self.engine = windows, engine

    def __call__(self) -> dict[str, Floats]:
        """Run once, from prices to figures."""
        import pandas as pd

        vbt = vectorbt(self.engine)
        names = ["window", "entry", "stop"]
        keys = pd.MultiIndex.from_tuples(itertools.product(self.windows, ENTRIES, STOPS), names=names)
        entries, exits, stops = self._signals(vbt)
        modes = vbt.portfolio.enums
        portfolio = vbt.Portfolio.from_signals(
            self.close.vbt.tile(len(keys), keys=keys),
            entries,
            exits,
            sl_stop=stops,
            stop_entry_price=modes.StopEntryPrice.Close,
            stop_exit_price=modes.StopExitPrice.Close,
            fees=FEE_BPS / 1e4,
            slippage=SLIPPAGE_BPS / 1e4,
            init_cash=CASH,
        )
        return read_figures(portfolio, (len(keys), -1))

    def _signals(self, vbt: Any) -> tuple[Any, Any, Floats]:
        """Return entries, exits and stops as fractions of the close, columns by window, entry, stop, symbol."""
        strength = vbt.talib("RSI").run(self.close, self.windows).real.to_numpy()
        reach = vbt.talib("ATR").run(self.high, self.low, self.close, self.windows).real.to_numpy()
        close = self.close.to_numpy()
        shape = (len(close), len(self.windows), 1, 1, close.shape[1])
        full = (len(close), len(self.windows), len(ENTRIES), len(STOPS), close.shape[1])
        strength, reach = strength.reshape(shape), reach.reshape(shape)
        entries = strength < np.array(ENTRIES)[:, None, None]
        stops = np.array(STOPS)[:, None] * (reach / close[:, None, None, None, :])
        entries, exits, stops = (
            np.broadcast_to(values, full).reshape(len(close), -1) for values in (entries, strength > EXIT, stops)
        )
        return entries, exits, stops


def main() -> None:
    """Compare the figures, then the times."""
    given = arguments(__doc__, symbols=50, bars=2520, windows=12, rounds=3, own_rounds=7)
    windows = list(range(6, 6 + 2 * given.windows, 2))
    prices = random_prices(given.bars, given.symbols)
    bars = as_bars(prices)
    against(
        "sweep_rsi_atr",
        {threads: partial(ours, bars, windows, threads) for threads in (1, 2)},
        {name: VectorbtRun(prices, windows, engine) for engine, name in engines().items()},
        rounds=given.rounds,
        own_rounds=given.own_rounds,
        n=len(windows) * len(ENTRIES) * len(STOPS) * given.symbols * given.bars,
        goal=20,
    )


if __name__ == "__main__":
    main()
