"""Strategies and sample signals for tests of signals, backtest and live."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from hypothesis import strategies as st

from quantflow.signals import (
    cross_sectional,
    ema,
    ewma_volatility,
    memory,
    momentum,
    param,
    rolling_max,
    rolling_min,
    rolling_std,
    shared,
    signal,
    sma,
)
from quantflow.signals.weights import long_short

__all__ = ["bars_of", "every_indicator", "price_paths", "random_walk", "strongest", "trend", "with_gaps"]

Floats = npt.NDArray[np.float64]


@signal(columns=("close",))
def trend(
    bar: Any,
    change: Any = momentum.over("lookback"),
    risk: Any = ewma_volatility.over("span"),
    lookback: int = param(5, low=1, high=500, doc="bars"),
    span: int = param(4, low=1, high=500, doc="bars"),
    target_volatility: float = param(0.15, low=0.0, high=5.0, doc="per year"),
    allow_short: bool = param(True, doc="short in falling trends"),
) -> float:
    """Time-series momentum scaled to a target volatility."""
    moved = momentum(change, bar.close)
    volatility = ewma_volatility(risk, bar.close)
    if not volatility > 0.0:
        return 0.0
    size = target_volatility / (volatility * math.sqrt(252.0))
    exposure = max(-1.0, min(1.0, moved / (volatility * math.sqrt(lookback)))) * size
    return max(-1.0 if allow_short else 0.0, min(1.0, exposure))


def _clip(value: float) -> float:
    return max(-1.0, min(1.0, value))


@signal(columns=("high", "low", "close", "volume"))
def every_indicator(
    bar: Any,
    fast: Any = sma.over("window"),
    slow: Any = ema.over(9),
    spread: Any = rolling_std.over("window"),
    top: Any = rolling_max.over("window"),
    bottom: Any = rolling_min.over("window"),
    held: Any = memory(2),
    window: int = param(4, low=2, high=50),
    pull: float = param(0.5, low=0.0, high=1.0),
) -> float:
    """A channel breakout that uses every kind of memory, and a function of its own module."""
    middle = sma(fast, bar.close) - ema(slow, bar.close)
    width = rolling_std(spread, bar.close)
    channel = rolling_max(top, bar.high) - rolling_min(bottom, bar.low)
    if not channel > 0.0 or not width > 0.0:
        return 0.0
    held[0] += 1.0
    held[1] = pull * held[1] + (1.0 - pull) * _clip(middle / width)
    return _clip(held[1] + math.sin(held[0]) * 0.1)


@cross_sectional(columns=("close",))
def strongest(
    bars: Any,
    weights: Any,
    change: Any = momentum.over("lookback"),
    clock: Any = shared(memory()),
    lookback: int = param(3, low=1, high=500, doc="bars"),
    fraction: float = param(0.34, low=0.01, high=0.5, doc="of the universe, on each side"),
    every: int = param(2, low=1, high=50, doc="timestamps between two rebalances"),
) -> None:
    """Long the strongest symbols, short the weakest, rebalanced every few timestamps."""
    rebalance = clock[0] % every == 0.0
    clock[0] += 1.0
    for symbol in range(len(weights)):
        score = momentum(change[symbol], bars.close[symbol])
        if rebalance:
            weights[symbol] = score
    if rebalance:
        long_short(weights, bars.present, fraction, 1.0)


def random_walk(bars: int, *, seed: int, volatility: float = 0.01) -> Floats:
    """Return a geometric random walk of positive prices."""
    steps = np.random.default_rng(seed).normal(0.0002, volatility, bars)
    walk: Floats = 100.0 * np.exp(np.cumsum(steps))
    return walk


def price_paths(*, min_size: int = 1, max_size: int = 60) -> st.SearchStrategy[Floats]:
    """Return positive prices between a cent and a million, neighbours unrelated or constant."""
    price = st.floats(0.01, 1e6, allow_nan=False, allow_infinity=False)
    free = st.lists(price, min_size=min_size, max_size=max_size)
    flat = st.tuples(price, st.integers(min_size, max_size)).map(lambda pair: [pair[0]] * pair[1])
    return st.one_of(free, flat).map(lambda values: np.array(values, dtype=np.float64))


def bars_of(
    closes: dict[str, Any], *, first: date = date(2020, 1, 1), source: str = "test", **columns: Any
) -> pl.DataFrame:
    """Return a canonical frame of daily bars from closes by symbol; None in a list leaves the session out.

    Further columns (``open``, ``high``, ``low``, ``volume``) are given the same way by name.
    """
    rows = []
    for symbol, values in closes.items():
        for index, close in enumerate(values):
            if close is None:
                continue
            session = first + timedelta(days=index)
            timestamp = datetime.combine(session, time(21), tzinfo=UTC)
            others = {name: float(given[symbol][index]) for name, given in columns.items()}
            rows.append(
                {"symbol": symbol, "session": session, "timestamp": timestamp, "close": float(close), **others}
                | {"known_at": timestamp, "adjustment": "raw", "source": source, "frequency": "1d"}
            )
    from quantflow.data import BAR_SCHEMA

    return pl.DataFrame(rows, schema=BAR_SCHEMA)


def with_gaps(bars: pl.DataFrame, fraction: float, *, seed: int) -> pl.DataFrame:
    """Return the frame without this fraction of its rows, drawn by the seed; some are left of every symbol."""
    keep = np.random.default_rng(seed).random(bars.height) >= fraction
    return bars.filter(pl.Series(keep) | (pl.int_range(pl.len()).over("symbol") % 7 == 3))
