"""Deviations, scores and bands around a mean; volatility."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from quantflow.signals._indicator import Slot, indicator
from quantflow.signals.indicators._arguments import bar_count, deviation_divisor, span_length, width
from quantflow.signals.indicators._parts import moments_next, moments_start

__all__ = ["Band", "bollinger", "ewma_volatility", "rolling_std", "zscore"]


class Band(NamedTuple):
    """A channel around the price: ``upper, middle, lower``, in the price's unit."""

    upper: float
    middle: float
    lower: float


def _deviation_start(window: int, ddof: int = 1) -> Slot:
    divisor = deviation_divisor(ddof)
    length = bar_count(window, smallest=divisor + 1)
    return np.concatenate([moments_start(length), [length - divisor]])


def _deviation_warm_up(window: int, ddof: int = 1) -> int:
    return int(window) - 1


@indicator(start=_deviation_start, warm_up=_deviation_warm_up)
def rolling_std(slot: Slot, value: float) -> float:
    """Return the standard deviation of the last ``window`` values, in the values' unit.

    Declared as ``rolling_std.over(window, ddof=1)``: the sum of squared deviations is
    divided by ``window - ddof``. First value at bar ``window``. vectorbt's ``MSTD``, TA-Lib's
    ``STDDEV`` with ``ddof=0``.
    """
    if math.isnan(value):
        return math.nan
    _, squares = moments_next(slot, 0, value)
    return math.sqrt(squares / slot[len(slot) - 1])


@indicator(start=_deviation_start, warm_up=_deviation_warm_up)
def zscore(slot: Slot, value: float) -> float:
    """Return how many standard deviations ``value`` is above the mean of the last ``window``.

    ``(value - mean) / std``, both over the window that ``value`` ends. Declared as
    ``zscore.over(window, ddof=1)``; first value at bar ``window``; NaN where all values of
    the window are equal.
    """
    if math.isnan(value):
        return math.nan
    mean, squares = moments_next(slot, 0, value)
    deviation = math.sqrt(squares / slot[len(slot) - 1])
    return (value - mean) / deviation if deviation > 0.0 else math.nan


def _bollinger_start(window: int = 20, multiplier: float = 2.0, ddof: int = 0) -> Slot:
    return np.concatenate([_deviation_start(window, ddof), [width(multiplier)]])


def _bollinger_warm_up(window: int = 20, multiplier: float = 2.0, ddof: int = 0) -> int:
    return int(window) - 1


@indicator(start=_bollinger_start, warm_up=_bollinger_warm_up)
def bollinger(slot: Slot, value: float) -> Band:
    """Return Bollinger's bands: the window's mean, and ``multiplier`` deviations on each side.

    Declared as ``bollinger.over(window=20, multiplier=2.0, ddof=0)``; first value at bar
    ``window``. TA-Lib's ``BBANDS`` (Bollinger 2001: population deviation, hence ``ddof=0``).
    """
    if math.isnan(value):
        return Band(math.nan, math.nan, math.nan)
    mean, squares = moments_next(slot, 0, value)
    last = len(slot) - 1
    reach = slot[last] * math.sqrt(squares / slot[last - 1])
    return Band(mean + reach, mean, mean - reach)


def _volatility_start(span: float) -> Slot:
    decay = 1.0 - 2.0 / (span_length(span) + 1.0)
    return np.array([decay, math.ceil(span), 0.0, 0.0, 0.0, 0.0], dtype=np.float64)


def _volatility_warm_up(span: float) -> int:
    return math.ceil(span)


@indicator(start=_volatility_start, warm_up=_volatility_warm_up)
def ewma_volatility(slot: Slot, price: float) -> float:
    """Return the exponentially weighted volatility of simple returns, a fraction per bar.

    ``sqrt(sum(d**i * r[t-i]**2) / sum(d**i))`` over all returns so far, mean taken as zero
    (RiskMetrics 1996), ``d = 1 - 2 / (span + 1)``. Multiply by ``sqrt(periods_per_year)`` for
    a yearly figure. Declared as ``ewma_volatility.over(span)``; first value after ``span``
    returns, at bar ``span + 1``. A past price of zero raises ZeroDivisionError.
    """
    if math.isnan(price):
        return math.nan
    # Layout: decay, returns needed, prices seen, last price, weighted squares, weights.
    seen = slot[2]
    last = slot[3]
    slot[2] = seen + 1.0
    slot[3] = price
    if seen == 0.0:
        return math.nan
    change = price / last - 1.0
    squares = slot[0] * slot[4] + change * change
    weights = slot[0] * slot[5] + 1.0
    slot[4] = squares
    slot[5] = weights
    return math.sqrt(squares / weights) if seen >= slot[1] else math.nan
