"""Indicators: incremental, amortised O(1) a bar, compiled with the signal that uses them.

Each is declared with ``.over(...)`` in a signal's signature and called once a bar with its
slot first and the newest values after it::

    @signal(columns=("high", "low", "close"))
    def breakout(bar, bands=bollinger.over("window"), risk=atr.over(14), window=param(20, low=2, high=500)):
        band = bollinger(bands, bar.close)
        reach = atr(risk, bar.high, bar.low, bar.close)
        return 1.0 if bar.close > band.upper + reach else 0.0

Several outputs
    An indicator with one output answers a float. One with several answers a NamedTuple of
    floats, read by name or unpacked in the stated order: ``upper, middle, lower =
    bollinger(bands, bar.close)``. Compiled code keeps it in registers: nothing is allocated.
Current bar
    Every window includes the current bar.
Warm-up
    Before its first value an indicator answers NaN; each says at which bar, counted from 1, the
    first value comes. The outputs of one indicator all start with the last of them.
NaN
    A NaN input leaves the slot unchanged and answers NaN in every output, as if the bar had
    not been; so a chained indicator starts its own warm-up when its input has ended its own.
Undefined
    What has no value after the warm-up is NaN (a score where the deviation is 0, a correlation
    with a constant, a mean price without volume), save for oscillators, which rest at their
    middle, 50. So ``if not score > 2.0: return 0.0`` covers warm-up and standstill at once.
Accuracy
    Windows are recomputed from their own values once a window and never subtract what leaves
    them; running totals keep what rounding lost. None drifts: after 10 million bars they agree
    with ``math.fsum`` to 1e-9, and an outlier leaves no trace once it has left the window.
    Exponential and Wilder means depend on all bars so far, with weights that fade.
Cost
    Amortised O(1) a bar; at each window's end a bar pays for the window's length.
    ``rolling_rank`` is O(log window). A slot holds 1 to 5 numbers a bar of its window.
"""

from quantflow.signals.indicators._averages import ema, momentum, sma, wma
from quantflow.signals.indicators._dispersion import Band, bollinger, ewma_volatility, rolling_std, zscore
from quantflow.signals.indicators._extremes import Stochastic, donchian, rolling_max, rolling_min, stochastic
from quantflow.signals.indicators._oscillators import Directional, Macd, adx, atr, keltner, macd, rsi
from quantflow.signals.indicators._rank import rolling_rank
from quantflow.signals.indicators._regression import beta, correlation, half_life, linreg_slope
from quantflow.signals.indicators._volume import anchored_vwap, obv, vwap

__all__ = [
    "Band",
    "Directional",
    "Macd",
    "Stochastic",
    "adx",
    "anchored_vwap",
    "atr",
    "beta",
    "bollinger",
    "correlation",
    "donchian",
    "ema",
    "ewma_volatility",
    "half_life",
    "keltner",
    "linreg_slope",
    "macd",
    "momentum",
    "obv",
    "rolling_max",
    "rolling_min",
    "rolling_rank",
    "rolling_std",
    "rsi",
    "sma",
    "stochastic",
    "vwap",
    "wma",
    "zscore",
]
