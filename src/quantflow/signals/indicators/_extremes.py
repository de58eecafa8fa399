"""Largest and smallest of a window, and what is built on them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from quantflow.signals._indicator import Slot, indicator
from quantflow.signals.indicators._arguments import bar_count
from quantflow.signals.indicators._dispersion import Band
from quantflow.signals.indicators._parts import maximum_next, window_start, window_sum_next

__all__ = ["Stochastic", "donchian", "rolling_max", "rolling_min", "stochastic"]


class Stochastic(NamedTuple):
    """Lane's oscillator, in percent: ``k`` smoothed once, ``d`` the mean of ``k``."""

    k: float
    d: float


def _extreme_start(window: int) -> Slot:
    return window_start(bar_count(window))


def _extreme_warm_up(window: int) -> int:
    return int(window) - 1


@indicator(start=_extreme_start, warm_up=_extreme_warm_up)
def rolling_max(slot: Slot, value: float) -> float:
    """Return the largest of the last ``window`` values, the current one included.

    Declared as ``rolling_max.over(window)``; first value at bar ``window``. TA-Lib's ``MAX``.
    """
    if math.isnan(value):
        return math.nan
    return maximum_next(slot, 0, value)


@indicator(start=_extreme_start, warm_up=_extreme_warm_up)
def rolling_min(slot: Slot, value: float) -> float:
    """Return the smallest of the last ``window`` values, the current one included.

    Declared as ``rolling_min.over(window)``; first value at bar ``window``. TA-Lib's ``MIN``.
    """
    if math.isnan(value):
        return math.nan
    return -maximum_next(slot, 0, -value)


def _donchian_start(window: int = 20) -> Slot:
    part = _extreme_start(window)
    return np.concatenate([part, part])


def _donchian_warm_up(window: int = 20) -> int:
    return int(window) - 1


@indicator(start=_donchian_start, warm_up=_donchian_warm_up)
def donchian(slot: Slot, high: float, low: float) -> Band:
    """Return Donchian's channel: highest high, lowest low and their middle over ``window`` bars.

    The current bar is included, so a close is never beyond it: a breakout is ``bar.high >=
    channel.upper``, or a close beyond the channel that the signal kept of the bar before.
    Declared as ``donchian.over(window=20)``; first value at bar ``window``. TA-Lib's ``MAX`` of
    highs and ``MIN`` of lows.
    """
    if math.isnan(high) or math.isnan(low):
        return Band(math.nan, math.nan, math.nan)
    upper = maximum_next(slot, 0, high)
    lower = -maximum_next(slot, len(slot) // 2, -low)
    return Band(upper, lower + 0.5 * (upper - lower), lower)


def _stochastic_start(window: int = 14, smooth: int = 3, signal: int = 3) -> Slot:
    extreme = _extreme_start(window)
    first = window_start(bar_count(smooth, name="smooth"))
    second = window_start(bar_count(signal, name="signal"))
    # Layout: where the parts of the lows, of k and of d start; highs, lows, k, d.
    starts = np.cumsum([3 + len(extreme), len(extreme), len(first)])
    return np.concatenate([starts, extreme, extreme, first, second])


def _stochastic_warm_up(window: int = 14, smooth: int = 3, signal: int = 3) -> int:
    return int(window) + int(smooth) + int(signal) - 3


@indicator(start=_stochastic_start, warm_up=_stochastic_warm_up)
def stochastic(slot: Slot, high: float, low: float, close: float) -> Stochastic:
    """Return the stochastic oscillator in percent: where the close stands in the window's range.

    ``100 * (close - lowest low) / (highest high - lowest low)`` over ``window`` bars, averaged
    over ``smooth`` bars to ``k``, and ``k`` averaged over ``signal`` bars to ``d``; ``smooth=1``
    is the fast oscillator. A range of zero counts as 50: the close is neither high nor low.
    Declared as ``stochastic.over(window=14, smooth=3, signal=3)``; first value at bar ``window +
    smooth + signal - 2``. TA-Lib's ``STOCH`` with simple means (which counts that range as 0).
    """
    if math.isnan(high) or math.isnan(low) or math.isnan(close):
        return Stochastic(math.nan, math.nan)
    upper = maximum_next(slot, 3, high)
    lower = -maximum_next(slot, int(slot[0]), -low)
    if math.isnan(upper):
        return Stochastic(math.nan, math.nan)
    spread = upper - lower
    place = 100.0 * ((close - lower) / spread) if spread > 0.0 else 50.0
    smoothed = int(slot[1])
    k = window_sum_next(slot, smoothed, place) / slot[smoothed]
    if math.isnan(k):
        return Stochastic(math.nan, math.nan)
    averaged = int(slot[2])
    d = window_sum_next(slot, averaged, k) / slot[averaged]
    return Stochastic(math.nan if math.isnan(d) else k, d)
