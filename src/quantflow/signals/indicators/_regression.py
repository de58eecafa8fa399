"""Least squares over a window: against time, against another series, against its own past."""

from __future__ import annotations

import math

import numpy as np

from quantflow.signals._indicator import Slot, indicator
from quantflow.signals.indicators._arguments import bar_count

__all__ = ["beta", "correlation", "half_life", "linreg_slope"]


def _slope_start(window: int) -> Slot:
    length = bar_count(window, smallest=2)
    # Layout: window, position, whether a block has ended, prefix mean and co-moment with time;
    # mean cells; co-moment cells (blocks as in _parts).
    slot = np.zeros(5 + 2 * length, dtype=np.float64)
    slot[0] = length
    return slot


def _window_warm_up(window: int) -> int:
    return int(window) - 1


@indicator(start=_slope_start, warm_up=_window_warm_up)
def linreg_slope(slot: Slot, value: float) -> float:
    """Return the slope of the least-squares line through the last ``window`` values, a bar.

    Declared as ``linreg_slope.over(window)``; first value at bar ``window``. TA-Lib's
    ``LINEARREG_SLOPE``.
    """
    if math.isnan(value):
        return math.nan
    window = int(slot[0])
    position = int(slot[1])
    slot[5 + position] = value
    # Squared deviations of 0, 1, ..., window - 1 from their mean.
    spread = window * (window * float(window) - 1.0) / 12.0
    if position == window - 1:
        return _slope_of_block(slot, window) / spread
    mean = value
    moment = 0.0
    if position > 0:
        # The newest of n + 1 bars stands (n + 1) / 2 after the mean time of the n before it.
        delta = value - slot[3]
        mean = slot[3] + delta * (1.0 / (position + 1.0))
        moment = slot[4] + 0.5 * (position + 1.0) * (value - mean)
    slot[1] = position + 1.0
    slot[3] = mean
    slot[4] = moment
    if slot[2] == 0.0:
        return math.nan
    older = 5 + position + 1
    newer = position + 1.0
    gap = mean - slot[older]
    whole: float = slot[older + window] + moment + 0.5 * gap * (newer * (window - newer))
    return whole / spread


def _slope_of_block(slot: Slot, window: int) -> float:
    mean = 0.0
    moment = 0.0
    count = 0.0
    for index in range(5 + window - 1, 4, -1):
        count += 1.0
        value = slot[index]
        mean += (value - mean) * (1.0 / count)
        moment -= 0.5 * count * (value - mean)
        slot[index] = mean
        slot[index + window] = moment
    slot[1] = 0.0
    slot[2] = 1.0
    return moment


def _pair_start(window: int) -> Slot:
    return _pair_part(bar_count(window, smallest=2))


def _pair_part(window: int) -> Slot:
    # Layout: window, position, whether a block has ended, prefix means of x and y, squares of x and y,
    # products; then cells of each of these five (blocks as in _parts).
    part = np.zeros(8 + 5 * window, dtype=np.float64)
    part[0] = window
    return part


def _pair_next(slot: Slot, at: int, x: float, y: float) -> tuple[float, float, float]:
    """Return squared deviations of x, of y, and their products over the window; NaN until it is full."""
    window = int(slot[at])
    position = int(slot[at + 1])
    first = at + 8
    slot[first + position] = x
    slot[first + window + position] = y
    if position == window - 1:
        return _pair_of_block(slot, at, window)
    count = position + 1.0
    mean_x = x
    mean_y = y
    squares_x = 0.0
    squares_y = 0.0
    products = 0.0
    if position > 0:
        delta_x = x - slot[at + 3]
        delta_y = y - slot[at + 4]
        share = 1.0 / count
        mean_x = slot[at + 3] + delta_x * share
        mean_y = slot[at + 4] + delta_y * share
        squares_x = slot[at + 5] + delta_x * (x - mean_x)
        squares_y = slot[at + 6] + delta_y * (y - mean_y)
        products = slot[at + 7] + delta_x * (y - mean_y)
    slot[at + 1] = count
    slot[at + 3] = mean_x
    slot[at + 4] = mean_y
    slot[at + 5] = squares_x
    slot[at + 6] = squares_y
    slot[at + 7] = products
    if slot[at + 2] == 0.0:
        return math.nan, math.nan, math.nan
    older = first + position + 1
    gap_x = mean_x - slot[older]
    gap_y = mean_y - slot[older + window]
    weight = count * (window - count) / window
    return (
        slot[older + 2 * window] + squares_x + gap_x * gap_x * weight,
        slot[older + 3 * window] + squares_y + gap_y * gap_y * weight,
        slot[older + 4 * window] + products + gap_x * gap_y * weight,
    )


def _pair_of_block(slot: Slot, at: int, window: int) -> tuple[float, float, float]:
    mean_x = 0.0
    mean_y = 0.0
    squares_x = 0.0
    squares_y = 0.0
    products = 0.0
    count = 0.0
    first = at + 8
    for index in range(first + window - 1, first - 1, -1):
        count += 1.0
        x = slot[index]
        y = slot[index + window]
        delta_x = x - mean_x
        delta_y = y - mean_y
        share = 1.0 / count
        mean_x += delta_x * share
        mean_y += delta_y * share
        squares_x += delta_x * (x - mean_x)
        squares_y += delta_y * (y - mean_y)
        products += delta_x * (y - mean_y)
        slot[index] = mean_x
        slot[index + window] = mean_y
        slot[index + 2 * window] = squares_x
        slot[index + 3 * window] = squares_y
        slot[index + 4 * window] = products
    slot[at + 1] = 0.0
    slot[at + 2] = 1.0
    return squares_x, squares_y, products


@indicator(start=_pair_start, warm_up=_window_warm_up)
def correlation(slot: Slot, first: float, second: float) -> float:
    """Return Pearson's correlation of two series over the last ``window`` bars, in [-1, 1].

    Declared as ``correlation.over(window)``; first value at bar ``window``; NaN where a series
    stands still. TA-Lib's ``CORREL`` (which says 0 there).
    """
    if math.isnan(first) or math.isnan(second):
        return math.nan
    squares_first, squares_second, products = _pair_next(slot, 0, first, second)
    scale = math.sqrt(squares_first) * math.sqrt(squares_second)
    if not scale > 0.0:
        return math.nan
    return max(-1.0, min(1.0, products / scale))


@indicator(start=_pair_start, warm_up=_window_warm_up)
def beta(slot: Slot, value: float, benchmark: float) -> float:
    """Return the slope of ``value`` on ``benchmark`` over the last ``window`` bars.

    ``cov(value, benchmark) / var(benchmark)`` of the series as given: feed returns for a
    stock's beta, prices for a pair's hedge ratio. Declared as ``beta.over(window)``; first
    value at bar ``window``; NaN where the benchmark stands still. TA-Lib's ``BETA`` takes prices
    and computes the returns itself, its first argument being the benchmark.
    """
    if math.isnan(value) or math.isnan(benchmark):
        return math.nan
    squares, _, products = _pair_next(slot, 0, benchmark, value)
    return products / squares if squares > 0.0 else math.nan


def _half_life_start(window: int) -> Slot:
    return np.concatenate([[0.0, 0.0], _pair_part(bar_count(window, smallest=3) - 1)])


@indicator(start=_half_life_start, warm_up=_window_warm_up)
def half_life(slot: Slot, value: float) -> float:
    """Return in how many bars half a deviation from the mean is expected to be gone.

    ``ln(1/2) / ln(phi)``, ``phi`` the least-squares slope of each value on the one before it
    among the last ``window`` (a first-order autoregression; Chan 2013, ch. 2, with ``phi - 1``
    for ``ln(phi)``). Infinite where ``phi >= 1`` (no reversion), 0.0 where ``phi <= 0`` (gone
    within the bar), NaN where the values stand still. Declared as ``half_life.over(window)``;
    first value at bar ``window``.
    """
    if math.isnan(value):
        return math.nan
    # Layout: whether there is a value before, that value; pairs.
    before = slot[1]
    slot[1] = value
    if slot[0] == 0.0:
        slot[0] = 1.0
        return math.nan
    squares, _, products = _pair_next(slot, 2, before, value)
    if not squares > 0.0:
        return math.nan
    phi = products / squares
    if phi >= 1.0:
        return math.inf
    if phi <= 0.0:
        return 0.0
    return math.log(0.5) / math.log(phi)
