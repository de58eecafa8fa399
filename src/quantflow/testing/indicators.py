"""Every indicator with sample arguments and inputs, for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from quantflow.signals import (
    Indicator,
    adx,
    anchored_vwap,
    atr,
    beta,
    bollinger,
    correlation,
    donchian,
    ema,
    ewma_volatility,
    half_life,
    keltner,
    linreg_slope,
    macd,
    memory,
    momentum,
    obv,
    rolling_max,
    rolling_min,
    rolling_rank,
    rolling_std,
    rsi,
    signal,
    sma,
    stochastic,
    vwap,
    wma,
    zscore,
)

__all__ = ["CASES", "OUTPUTS", "UNWRITTEN", "Case", "every_output", "market", "moves"]

Floats = npt.NDArray[np.float64]

#: What :func:`every_output` finds in its record before it writes there.
UNWRITTEN = -123456.789

#: Columns of the record that :func:`every_output` keeps, in its order.
OUTPUTS = (
    *("sma", "wma", "ema", "rolling_std", "zscore", "rolling_max", "rolling_min", "rolling_rank", "linreg_slope"),
    *("correlation", "beta", "half_life", "rsi", "atr", "macd.line", "macd.signal", "macd.histogram"),
    *("bollinger.upper", "bollinger.middle", "bollinger.lower", "donchian.upper", "donchian.middle", "donchian.lower"),
    *("keltner.upper", "keltner.middle", "keltner.lower", "stochastic.k", "stochastic.d"),
    *("adx.adx", "adx.plus_di", "adx.minus_di", "obv", "vwap", "anchored_vwap", "momentum", "ewma_volatility"),
)


@dataclass(frozen=True)
class Case:
    """An indicator, arguments for it, and the columns that it takes."""

    indicator: Indicator[Any]
    arguments: Mapping[str, float] = field(default_factory=dict)
    inputs: tuple[str, ...] = ("close",)

    @property
    def name(self) -> str:
        """The indicator's name."""
        return self.indicator.__name__

    @property
    def warm_up(self) -> int:
        """Bars before its first value."""
        return self.indicator.warm_up(**self.arguments)

    def start(self) -> Floats:
        """Return its slot before the first bar."""
        return self.indicator.starter(**self.arguments)

    def feed(self, slot: Floats, columns: Mapping[str, Floats]) -> Floats:
        """Return a row an output of what it answers, bar by bar, as plain Python."""
        rows = zip(*(columns[name].tolist() for name in self.inputs), strict=True)
        answers = np.array([self.indicator(slot, *row) for row in rows], dtype=np.float64)
        return np.atleast_2d(answers.T)

    def values(self, columns: Mapping[str, Floats]) -> Floats:
        """Return what it answers from the first bar on."""
        return self.feed(self.start(), columns)


_BAR = ("high", "low", "close")

#: Every indicator once.
CASES = (
    Case(sma, {"window": 7}),
    Case(wma, {"window": 7}),
    Case(ema, {"span": 6.5}),
    Case(momentum, {"lookback": 7}),
    Case(rolling_std, {"window": 7, "ddof": 1}),
    Case(zscore, {"window": 7, "ddof": 0}),
    Case(bollinger, {"window": 7, "multiplier": 1.5, "ddof": 0}),
    Case(ewma_volatility, {"span": 7}),
    Case(rolling_max, {"window": 7}),
    Case(rolling_min, {"window": 7}),
    Case(rolling_rank, {"window": 7}),
    Case(donchian, {"window": 7}, ("high", "low")),
    Case(stochastic, {"window": 6, "smooth": 3, "signal": 2}, _BAR),
    Case(linreg_slope, {"window": 7}),
    Case(correlation, {"window": 7}, ("close", "volume")),
    Case(beta, {"window": 7}, ("close", "volume")),
    Case(half_life, {"window": 7}),
    Case(rsi, {"window": 7}),
    Case(atr, {"window": 7}, _BAR),
    Case(keltner, {"span": 7, "window": 5, "multiplier": 1.5}, _BAR),
    Case(macd, {"fast": 3, "slow": 7, "signal": 4}),
    Case(adx, {"window": 5}, _BAR),
    Case(obv, {}, ("close", "volume")),
    Case(vwap, {"window": 7}, ("close", "volume")),
    Case(anchored_vwap, {}, ("close", "volume", "session")),
)


@signal(columns=("high", "low", "close", "volume"))
def every_output(
    bar: Any,
    record: Any = memory(len(OUTPUTS), initial=UNWRITTEN),
    bars: Any = memory(1),
    sma_: Any = sma.over(50),
    wma_: Any = wma.over(60),
    ema_: Any = ema.over(20),
    std: Any = rolling_std.over(50),
    score: Any = zscore.over(70),
    top: Any = rolling_max.over(50),
    bottom: Any = rolling_min.over(55),
    rank: Any = rolling_rank.over(252),
    slope: Any = linreg_slope.over(50),
    together: Any = correlation.over(64),
    hedge: Any = beta.over(50),
    reversion: Any = half_life.over(90),
    strength: Any = rsi.over(14),
    reach: Any = atr.over(14),
    means: Any = macd.over(),
    bands: Any = bollinger.over(20),
    channel: Any = donchian.over(33),
    keltner_: Any = keltner.over(),
    oscillator: Any = stochastic.over(),
    trend: Any = adx.over(14),
    balance: Any = obv.over(),
    price: Any = vwap.over(40),
    anchored: Any = anchored_vwap.over(),
    change: Any = momentum.over(30),
    risk: Any = ewma_volatility.over(30),
) -> float:
    """Write what every indicator answers into its record, as :data:`OUTPUTS` names it; stay flat."""
    record[0] = sma(sma_, bar.close)
    record[1] = wma(wma_, bar.close)
    record[2] = ema(ema_, bar.close)
    record[3] = rolling_std(std, bar.close)
    record[4] = zscore(score, bar.close)
    record[5] = rolling_max(top, bar.close)
    record[6] = rolling_min(bottom, bar.close)
    record[7] = rolling_rank(rank, bar.close)
    record[8] = linreg_slope(slope, bar.close)
    record[9] = correlation(together, bar.close, bar.volume)
    record[10] = beta(hedge, bar.high, bar.low)
    record[11] = half_life(reversion, record[4])
    record[12] = rsi(strength, bar.close)
    record[13] = atr(reach, bar.high, bar.low, bar.close)
    record[14], record[15], record[16] = macd(means, bar.close)
    record[17], record[18], record[19] = bollinger(bands, bar.close)
    record[20], record[21], record[22] = donchian(channel, bar.high, bar.low)
    record[23], record[24], record[25] = keltner(keltner_, bar.high, bar.low, bar.close)
    record[26], record[27] = stochastic(oscillator, bar.high, bar.low, bar.close)
    record[28], record[29], record[30] = adx(trend, bar.high, bar.low, bar.close)
    record[31] = obv(balance, bar.close, bar.volume)
    record[32] = vwap(price, bar.close, bar.volume)
    record[33] = anchored_vwap(anchored, bar.close, bar.volume, bars[0] // 3_000_000)
    record[34] = momentum(change, bar.close)
    record[35] = ewma_volatility(risk, bar.close)
    bars[0] += 1.0
    return 0.0


def market(bars: int, *, seed: int, volatility: float = 0.01) -> dict[str, Floats]:
    """Return high, low, close, volume and session of a random walk, a session every 7 bars."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, volatility, bars)))
    return {
        "high": close * (1.0 + volatility * rng.uniform(0.0, 1.0, bars)),
        "low": close * (1.0 - volatility * rng.uniform(0.0, 1.0, bars)),
        "close": close,
        "volume": rng.uniform(10.0, 1e5, bars),
        "session": np.floor(np.arange(bars, dtype=np.float64) / 7.0),
    }


@st.composite
def moves(draw: st.DrawFn, min_size: int = 1, max_size: int = 60) -> dict[str, Floats]:
    """Return high, low, close, volume and session whose neighbours differ by up to 9 %, or not at all."""
    basis_points = st.integers(-900, 900)
    steps = draw(st.lists(basis_points, min_size=min_size, max_size=max_size))
    count = len(steps)
    drawn = st.lists(st.integers(0, 300), min_size=count, max_size=count)
    close = draw(st.sampled_from([1.0, 37.0, 5000.0])) * np.cumprod(1.0 + np.array(steps, dtype=np.float64) * 1e-4)
    volumes = draw(st.lists(st.integers(1, 10**6), min_size=count, max_size=count))
    return {
        "high": close * (1.0 + np.array(draw(drawn)) / 1e4),
        "low": close * (1.0 - np.array(draw(drawn)) / 1e4),
        "close": close,
        "volume": np.array(volumes, dtype=np.float64),
        "session": np.floor(np.arange(count, dtype=np.float64) / 7.0),
    }
