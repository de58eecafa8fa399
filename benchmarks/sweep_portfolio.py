"""Cross-sectional momentum out of one cash pool: ``sweep`` against vectorbt's ``from_orders``.

Both do the same: the return of each symbol over ``lookback`` bars at each close; the best
``fraction`` of the symbols is held, equally weighted, 90 % of equity in all; every bar the
positions are brought to these weights at the next open, sales first; fees and slippage; total
return, Sharpe ratio, maximum drawdown and the number of orders of each combination's account.
With a tenth of equity left in cash no order is cut short, so that the two rules for that, which
differ, do not matter. The figures are compared to 1e-9 before any time is reported.
"""

from __future__ import annotations

import itertools
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
from quantflow.signals import cross_sectional, momentum, param
from quantflow.signals.weights import best_weights

GROSS = 0.9
FRACTIONS = [0.1, 0.2, 0.3, 0.4, 0.5]


@cross_sectional(columns=("close",))
def strongest(
    bars: Any,
    weights: Any,
    trend: Any = momentum.over("lookback"),
    lookback: int = param(20, low=1, high=1000, doc="bars"),
    fraction: float = param(0.2, low=0.01, high=1.0, doc="of the universe"),
) -> None:
    """Hold what rose most over the lookback."""
    for number in range(len(weights)):
        weights[number] = momentum(trend[number], bars.close[number])
    best_weights(weights, bars.present, fraction, 0.9)


def ours(bars: pl.DataFrame, lookbacks: list[int], threads: int) -> dict[str, Floats]:
    """Return each metric of the combinations."""
    found = sweep(
        strongest,
        bars,
        {"lookback": lookbacks, "fraction": FRACTIONS},
        fill="next_open",
        rebalance="every_bar",
        fee_bps=FEE_BPS,
        slippage_bps=SLIPPAGE_BPS,
        initial_cash=CASH,
        periods_per_year=PERIODS,
        metrics=METRICS,
        threads=threads,
    )
    return {name: found[name].to_numpy().astype(float) for name in METRICS}


class VectorbtRun:
    """vectorbt's way: one column a (combination, symbol), a group a combination; it works on one thread."""

    def __init__(self, prices: dict[str, Floats], lookbacks: list[int], engine: str) -> None:
        self.close, self.open = frames(prices, ("close", "open"))
        self.lookbacks, self.engine = lookbacks, engine

    def __call__(self) -> dict[str, Floats]:
        """Run once, from prices to figures."""
        import pandas as pd

        vbt = vectorbt(self.engine)
        keys = pd.MultiIndex.from_tuples(itertools.product(self.lookbacks, FRACTIONS), names=["lookback", "fraction"])
        close = self.close.vbt.tile(len(keys), keys=keys)
        portfolio = vbt.Portfolio.from_orders(
            close,
            self._weights(),
            size_type="targetpercent",
            price=self.open.vbt.tile(len(keys), keys=keys),
            fees=FEE_BPS / 1e4,
            slippage=SLIPPAGE_BPS / 1e4,
            init_cash=CASH,
            cash_sharing=True,
            group_by=["lookback", "fraction"],
            call_seq="auto",
        )
        return read_figures(portfolio, (len(keys),))

    def _weights(self) -> Floats:
        """Return the target weights of all combinations beside each other, decided a bar before."""
        close = self.close.to_numpy()
        bars, symbols = close.shape
        weights = np.full((bars, len(self.lookbacks), len(FRACTIONS), symbols), np.nan)
        for place, lookback in enumerate(self.lookbacks):
            order = np.argsort(close[:-lookback] / close[lookback:], axis=1, kind="stable")
            for number, fraction in enumerate(FRACTIONS):
                count = max(1, int(fraction * symbols + 1e-9))
                weights[lookback:, place, number] = 0.0
                np.put_along_axis(weights[lookback:, place, number], order[:, :count], GROSS / count, axis=1)
        return earlier(weights.reshape(bars, -1), np.nan)


def main() -> None:
    """Compare the figures, then the times."""
    given = arguments(__doc__, symbols=50, bars=2520, lookbacks=20, rounds=3, own_rounds=5)
    lookbacks = list(range(5, 5 + 5 * given.lookbacks, 5))
    prices = random_prices(given.bars, given.symbols)
    bars = as_bars(prices)
    against(
        "sweep_portfolio",
        {threads: partial(ours, bars, lookbacks, threads) for threads in (1, 2)},
        {name: VectorbtRun(prices, lookbacks, engine) for engine, name in engines().items()},
        rounds=given.rounds,
        own_rounds=given.own_rounds,
        n=len(lookbacks) * len(FRACTIONS) * given.symbols * given.bars,
        goal=20,
    )


if __name__ == "__main__":
    main()
