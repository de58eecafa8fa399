"""Indicators: incremental, amortised O(1) a bar, compiled with the signal that uses them.

Each is declared with ``.over(...)`` in a signal's signature and called with its slot and
the newest value; it includes the current bar in its window. Before its warm-up ends it
answers NaN. A NaN input leaves the slot unchanged and answers NaN, so a chained indicator
starts its own warm-up when its input has ended its own.

Rolling sums, deviations and extremes never subtract what leaves the window, so they do not
drift: the window is cut at block borders of its own length into a suffix of the last block
(all suffixes computed once a block) and a running prefix of the current one, and the two
are merged (van Herk 1992 and Gil and Werman 1993 for extremes; Chan, Golub and LeVeque 1983
for the merge of means and squared deviations).
"""

from __future__ import annotations

import math

import numpy as np

from quantflow.errors import ParameterError
from quantflow.signals._indicator import Slot, indicator

__all__ = ["ema", "ewma_volatility", "momentum", "rolling_max", "rolling_min", "rolling_std", "sma"]


def _window(window: int, smallest: int = 1) -> int:
    if window != int(window) or window < smallest:
        raise ParameterError(f"window is {window!r} bars; allowed: a whole number, at least {smallest}")
    return int(window)


def _sma_start(window: int) -> Slot:
    return np.zeros(3 + 2 * _window(window), dtype=np.float64)


def _window_warm_up(window: int) -> int:
    return int(window) - 1


@indicator(start=_sma_start, warm_up=_window_warm_up)
def sma(slot: Slot, value: float) -> float:
    """Return the mean of the last ``window`` values, the current one included.

    Declared as ``sma.over(window)``; first value at bar ``window``, counted from 1.
    """
    if math.isnan(value):
        return math.nan
    # Layout: position in block, blocks completed, prefix sum, block values, suffix sums.
    window = (len(slot) - 3) // 2
    position = int(slot[0])
    prefix = slot[2] + value if position > 0 else value
    slot[2] = prefix
    slot[3 + position] = value
    if position == window - 1:
        total = 0.0
        for index in range(window - 1, -1, -1):
            total += slot[3 + index]
            slot[3 + window + index] = total
        slot[0] = 0.0
        slot[1] = 1.0
        return total / window
    slot[0] = position + 1.0
    if slot[1] == 0.0:
        return math.nan
    mean: float = (slot[3 + window + position + 1] + prefix) / window
    return mean


def _ema_start(span: float) -> Slot:
    if not math.isfinite(span) or span < 1.0:
        raise ParameterError(f"span is {span!r} bars; allowed: a finite number, at least 1")
    return np.array([2.0 / (span + 1.0), math.ceil(span), 0.0, 0.0], dtype=np.float64)


def _ema_warm_up(span: float) -> int:
    return math.ceil(span) - 1


@indicator(start=_ema_start, warm_up=_ema_warm_up)
def ema(slot: Slot, value: float) -> float:
    """Return the exponential mean with weight ``2 / (span + 1)`` on the current value.

    It starts at the first value (``pandas.ewm(span=span, adjust=False)``); declared as
    ``ema.over(span)``, first answer at bar ``span``.
    """
    if math.isnan(value):
        return math.nan
    # Layout: weight, values needed, values seen, mean.
    seen = slot[2] + 1.0
    slot[2] = seen
    mean = value if seen == 1.0 else slot[3] + slot[0] * (value - slot[3])
    slot[3] = mean
    return mean if seen >= slot[1] else math.nan


def _std_start(window: int, ddof: int = 1) -> Slot:
    if ddof not in (0, 1):
        raise ParameterError(f"ddof is {ddof!r}; allowed: 0 (population) or 1 (sample)")
    slot = np.zeros(5 + 3 * _window(window, smallest=int(ddof) + 1), dtype=np.float64)
    slot[0] = ddof
    return slot


def _std_warm_up(window: int, ddof: int = 1) -> int:
    return int(window) - 1


@indicator(start=_std_start, warm_up=_std_warm_up)
def rolling_std(slot: Slot, value: float) -> float:
    """Return the standard deviation of the last ``window`` values, in the values' unit.

    Declared as ``rolling_std.over(window, ddof=1)``: the sum of squared deviations is
    divided by ``window - ddof``. First value at bar ``window``.
    """
    if math.isnan(value):
        return math.nan
    # Layout: ddof, position, blocks completed, prefix mean and squares; values, suffix means, suffix squares.
    window = (len(slot) - 5) // 3
    position = int(slot[1])
    count = position + 1.0
    if position == 0:
        slot[3] = value
        slot[4] = 0.0
    else:
        delta = value - slot[3]
        slot[3] += delta / count
        slot[4] += delta * (value - slot[3])
    slot[5 + position] = value
    if position == window - 1:
        mean = 0.0
        squares = 0.0
        for index in range(window - 1, -1, -1):
            older = slot[5 + index]
            delta = older - mean
            mean += delta / (window - index)
            squares += delta * (older - mean)
            slot[5 + window + index] = mean
            slot[5 + 2 * window + index] = squares
        slot[1] = 0.0
        slot[2] = 1.0
        return math.sqrt(squares / (window - slot[0]))
    slot[1] = position + 1.0
    if slot[2] == 0.0:
        return math.nan
    rest = window - count
    gap = slot[3] - slot[5 + window + position + 1]
    squares = slot[5 + 2 * window + position + 1] + slot[4] + gap * gap * (rest * count / window)
    return math.sqrt(squares / (window - slot[0]))


def _momentum_start(lookback: int) -> Slot:
    return np.zeros(2 + _window(lookback), dtype=np.float64)


def _momentum_warm_up(lookback: int) -> int:
    return int(lookback)


@indicator(start=_momentum_start, warm_up=_momentum_warm_up)
def momentum(slot: Slot, value: float) -> float:
    """Return the simple return over ``lookback`` bars: ``value / value lookback bars ago - 1``.

    Declared as ``momentum.over(lookback)``; first value at bar ``lookback + 1``. A past value
    of zero raises ZeroDivisionError.
    """
    if math.isnan(value):
        return math.nan
    # Layout: position in ring, whether the ring is full, ring.
    position = int(slot[0])
    past = slot[2 + position]
    slot[2 + position] = value
    full = slot[1] != 0.0
    if position == len(slot) - 3:
        slot[0] = 0.0
        slot[1] = 1.0
    else:
        slot[0] = position + 1.0
    return value / past - 1.0 if full else math.nan


def _extreme_start(window: int) -> Slot:
    return np.zeros(3 + 2 * _window(window), dtype=np.float64)


@indicator(start=_extreme_start, warm_up=_window_warm_up)
def rolling_max(slot: Slot, value: float) -> float:
    """Return the largest of the last ``window`` values, the current one included.

    Declared as ``rolling_max.over(window)``; first value at bar ``window``.
    """
    if math.isnan(value):
        return math.nan
    # Layout: position in block, blocks completed, prefix maximum, block values, suffix maxima.
    window = (len(slot) - 3) // 2
    position = int(slot[0])
    prefix = value if position == 0 or value > slot[2] else slot[2]
    slot[2] = prefix
    slot[3 + position] = value
    if position == window - 1:
        extreme = value
        for index in range(window - 1, -1, -1):
            extreme = max(extreme, slot[3 + index])
            slot[3 + window + index] = extreme
        slot[0] = 0.0
        slot[1] = 1.0
        return extreme
    slot[0] = position + 1.0
    if slot[1] == 0.0:
        return math.nan
    older: float = slot[3 + window + position + 1]
    return max(prefix, older)


@indicator(start=_extreme_start, warm_up=_window_warm_up)
def rolling_min(slot: Slot, value: float) -> float:
    """Return the smallest of the last ``window`` values, the current one included.

    Declared as ``rolling_min.over(window)``; first value at bar ``window``.
    """
    if math.isnan(value):
        return math.nan
    # Layout: position in block, blocks completed, prefix minimum, block values, suffix minima.
    window = (len(slot) - 3) // 2
    position = int(slot[0])
    prefix = value if position == 0 or value < slot[2] else slot[2]
    slot[2] = prefix
    slot[3 + position] = value
    if position == window - 1:
        extreme = value
        for index in range(window - 1, -1, -1):
            extreme = min(extreme, slot[3 + index])
            slot[3 + window + index] = extreme
        slot[0] = 0.0
        slot[1] = 1.0
        return extreme
    slot[0] = position + 1.0
    if slot[1] == 0.0:
        return math.nan
    older: float = slot[3 + window + position + 1]
    return min(prefix, older)


def _volatility_start(span: float) -> Slot:
    if not math.isfinite(span) or span < 1.0:
        raise ParameterError(f"span is {span!r} bars; allowed: a finite number, at least 1")
    return np.array([1.0 - 2.0 / (span + 1.0), math.ceil(span), 0.0, 0.0, 0.0, 0.0], dtype=np.float64)


def _volatility_warm_up(span: float) -> int:
    return math.ceil(span)


@indicator(start=_volatility_start, warm_up=_volatility_warm_up)
def ewma_volatility(slot: Slot, price: float) -> float:
    """Return the exponentially weighted volatility of simple returns, a fraction per bar.

    ``sqrt(sum(d**i * r[t-i]**2) / sum(d**i))`` over all returns so far, mean taken as zero
    (RiskMetrics), ``d = 1 - 2 / (span + 1)``. Multiply by ``sqrt(periods_per_year)`` for a
    yearly figure. Declared as ``ewma_volatility.over(span)``; first value after ``span``
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
