"""A moving-average cross over many window pairs: ``sweep`` against vectorbt, and against a loop written by hand.

All three do the same: simple means of the close over every window, long all in while the fast
one is above the slow one, decided at the close and filled at the next open, fees and slippage,
one account a (pair, symbol); total return, Sharpe ratio, maximum drawdown and the number of
orders of each. The figures are compared to 1e-9 before any time is reported.

The hand-written loop is the limit: one fused numba function for this strategy alone, which
knows that a position is all or nothing and that the means are running sums.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from benchmarks._common import Floats, against, arguments, as_bars, random_prices
from benchmarks._vectorbt import (
    CASH,
    FEE_BPS,
    METRICS,
    PERIODS,
    SLIPPAGE_BPS,
    earlier,
    engines,
    frames,
    read_figures,
    vectorbt,
)
from quantflow.backtest import sweep
from quantflow.signals import param, signal, sma


@signal(columns=("close",))
def cross(
    bar: Any,
    quick: Any = sma.over("fast"),
    calm: Any = sma.over("slow"),
    fast: int = param(10, low=1, high=1000, doc="bars"),
    slow: int = param(50, low=2, high=1000, doc="bars"),
) -> float:
    """Long while the fast mean is above the slow one."""
    return 1.0 if sma(quick, bar.close) > sma(calm, bar.close) else 0.0


def ours(bars: pl.DataFrame, windows: list[int], threads: int) -> dict[str, Floats]:
    """Return pairs x symbols of each metric."""
    found = sweep(
        cross,
        bars,
        {"fast": windows, "slow": windows},
        where=pl.col("fast") < pl.col("slow"),
        by="symbol",
        fill="next_open",
        rebalance="on_change",
        fee_bps=FEE_BPS,
        slippage_bps=SLIPPAGE_BPS,
        initial_cash=CASH,
        periods_per_year=PERIODS,
        metrics=METRICS,
        threads=threads,
    )
    pairs = len(windows) * (len(windows) - 1) // 2
    return {name: found[name].to_numpy().astype(float).reshape(pairs, -1) for name in METRICS}


class VectorbtRun:
    """vectorbt's way: one column a (pair, symbol), everything as arrays; it works on one thread."""

    def __init__(self, prices: dict[str, Floats], windows: list[int], engine: str) -> None:
        self.close, self.open = frames(prices, ("close", "open"))
        self.windows, self.pairs, self.engine = windows, len(windows) * (len(windows) - 1) // 2, engine

    def __call__(self) -> dict[str, Floats]:
        """Run once, from prices to figures."""
        vbt = vectorbt(self.engine)
        fast, slow = vbt.MA.run_combs(self.close, self.windows, r=2, short_names=["fast", "slow"])
        above = fast.ma_above(slow)
        decided = above.vbt.wrapper.wrap(earlier(above.to_numpy()))
        keys = above.columns.droplevel("symbol")[:: self.close.shape[1]]
        portfolio = vbt.Portfolio.from_signals(
            self.close.vbt.tile(self.pairs, keys=keys),
            decided,
            ~decided,
            price=self.open.vbt.tile(self.pairs, keys=keys),
            fees=FEE_BPS / 1e4,
            slippage=SLIPPAGE_BPS / 1e4,
            init_cash=CASH,
        )
        return read_figures(portfolio, (self.pairs, -1))


def hand_written(prices: dict[str, Floats], windows: list[int]) -> Any:
    """Return the compiled ``run(first, last, out)`` of the loop for this one strategy."""
    import numba

    close, opened = (np.ascontiguousarray(prices[name].T) for name in ("close", "open"))
    pairs = np.array(list(itertools.combinations(windows, 2)), dtype=np.int64)
    fee, slippage = FEE_BPS / 1e4, SLIPPAGE_BPS / 1e4

    @numba.njit(nogil=True)
    def loop(close: Floats, opened: Floats, pairs: Any, first: int, last: int, out: Floats) -> None:
        bars = close.shape[1]
        for symbol in range(first, last):
            price, at_open = close[symbol], opened[symbol]
            for pair in range(len(pairs)):
                fast, slow = pairs[pair]
                sum_fast = sum_slow = 0.0
                cash, shares, before, peak = CASH, 0.0, CASH, CASH
                total = squares = deepest = 0.0
                orders, wanted = 0, False
                for row in range(bars):
                    if wanted and shares == 0.0:
                        shares = cash / (at_open[row] * (1.0 + slippage) * (1.0 + fee))
                        cash, orders = 0.0, orders + 1
                    elif not wanted and shares > 0.0:
                        cash = shares * at_open[row] * (1.0 - slippage) * (1.0 - fee)
                        shares, orders = 0.0, orders + 1
                    equity = cash + shares * price[row]
                    change = equity / before - 1.0
                    total += change
                    squares += change * change
                    before = equity
                    peak = max(peak, equity)
                    deepest = max(deepest, 1.0 - equity / peak)
                    sum_fast += price[row]
                    sum_slow += price[row]
                    if row >= fast:
                        sum_fast -= price[row - fast]
                    if row >= slow:
                        sum_slow -= price[row - slow]
                    wanted = row >= slow - 1 and sum_fast / fast > sum_slow / slow
                mean = total / bars
                variance = (squares - total * mean) / (bars - 1)
                out[0, pair, symbol] = before / CASH - 1.0
                out[1, pair, symbol] = mean / math.sqrt(variance) * math.sqrt(PERIODS)
                out[2, pair, symbol] = deepest
                out[3, pair, symbol] = orders

    def run(threads: int) -> dict[str, Floats]:
        from concurrent.futures import ThreadPoolExecutor

        out = np.zeros((len(METRICS), len(pairs), len(close)))
        borders = np.linspace(0, len(close), threads + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:
            parts = itertools.pairwise(borders)
            list(pool.map(lambda part: loop(close, opened, pairs, int(part[0]), int(part[1]), out), parts))
        return dict(zip(METRICS, out, strict=True))

    return run


def main() -> None:
    """Compare the figures, then the times."""
    given = arguments(__doc__, symbols=50, bars=2520, windows=20, rounds=3, own_rounds=9)
    windows = list(range(5, 5 + 5 * given.windows, 5))
    prices = random_prices(given.bars, given.symbols)
    bars = as_bars(prices)
    by_hand = hand_written(prices, windows)
    against(
        "sweep",
        {threads: partial(ours, bars, windows, threads) for threads in (1, 2)},
        {name: VectorbtRun(prices, windows, engine) for engine, name in engines().items()},
        rounds=given.rounds,
        own_rounds=given.own_rounds,
        n=len(windows) * (len(windows) - 1) // 2 * given.symbols * given.bars,
        goal=100,
        limits={f"a loop by hand, {threads} thread(s)": partial(by_hand, threads) for threads in (1, 2)},
    )


if __name__ == "__main__":
    main()
