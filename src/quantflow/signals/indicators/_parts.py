"""Parts of indicators: what a window or a recursion keeps, at an offset of a slot.

An indicator is one part or several behind each other in its slot; each ``*_start`` makes a
part and the function beside it takes the newest value. They take an offset and no view of
the slot, because views cost reference counting in compiled code.

Windows never subtract what leaves them, so they do not drift: time is cut into blocks of
the window's length; a window is a suffix of the last whole block (all suffixes computed once,
when the block ends) and the running prefix of the current one, and the two are merged
(van Herk 1992 and Gil and Werman 1993 for extremes; Chan, Golub and LeVeque 1983 for means
and squared deviations). Cell ``j`` holds the newest value until its block ends, then the
suffix from ``j``: the current block only overwrites suffixes that no later window needs.
Means move by ``delta * (1.0 / count)``: the division then need not wait for the mean before it.
"""

from __future__ import annotations

import math

import numpy as np

from quantflow.signals._indicator import Slot

__all__ = [
    "compensated_add",
    "ema_next",
    "ema_start",
    "maximum_next",
    "moments_next",
    "moments_start",
    "true_range",
    "weighted_sum_next",
    "wilder_range_next",
    "wilder_range_start",
    "window_start",
    "window_sum_next",
]


def window_start(window: int) -> Slot:
    """Return a part for :func:`window_sum_next`, :func:`weighted_sum_next` or :func:`maximum_next`."""
    # Layout: window, position in block, whether a block has ended, prefix, second prefix; cells.
    part = np.zeros(5 + window, dtype=np.float64)
    part[0] = window
    return part


def window_sum_next(slot: Slot, at: int, value: float) -> float:
    """Return the sum of the window ending with ``value``, NaN until the window is full."""
    window = int(slot[at])
    position = int(slot[at + 1])
    first = at + 5
    slot[first + position] = value
    if position == window - 1:
        total = 0.0
        for index in range(first + position, first - 1, -1):
            total += slot[index]
            slot[index] = total
        slot[at + 1] = 0.0
        slot[at + 2] = 1.0
        return total
    prefix = value if position == 0 else slot[at + 3] + value
    slot[at + 1] = position + 1.0
    slot[at + 3] = prefix
    if slot[at + 2] == 0.0:
        return math.nan
    whole: float = slot[first + position + 1] + prefix
    return whole


def weighted_sum_next(slot: Slot, at: int, value: float) -> float:
    """Return the window's sum with weights 1 (oldest) to ``window`` (newest), NaN until it is full."""
    window = int(slot[at])
    position = int(slot[at + 1])
    first = at + 5
    slot[first + position] = value
    if position == window - 1:
        total = 0.0
        weighted = 0.0
        for index in range(first + position, first - 1, -1):
            total += slot[index]
            weighted += total
            slot[index] = weighted
        slot[at + 1] = 0.0
        slot[at + 2] = 1.0
        return weighted
    # Prefixes: the plain sum, and the sum with weights 1, 2, ... from the block's first value on.
    prefix = value if position == 0 else slot[at + 3] + value
    rising = value if position == 0 else slot[at + 4] + (position + 1.0) * value
    slot[at + 1] = position + 1.0
    slot[at + 3] = prefix
    slot[at + 4] = rising
    if slot[at + 2] == 0.0:
        return math.nan
    older = window - position - 1.0
    whole: float = slot[first + position + 1] + (rising + older * prefix)
    return whole


def maximum_next(slot: Slot, at: int, value: float) -> float:
    """Return the largest of the window ending with ``value``, NaN until it is full."""
    window = int(slot[at])
    position = int(slot[at + 1])
    first = at + 5
    slot[first + position] = value
    if position == window - 1:
        extreme = value
        for index in range(first + position, first - 1, -1):
            if slot[index] > extreme:
                extreme = slot[index]
            slot[index] = extreme
        slot[at + 1] = 0.0
        slot[at + 2] = 1.0
        return extreme
    prefix = value if position == 0 or value > slot[at + 3] else slot[at + 3]
    slot[at + 1] = position + 1.0
    slot[at + 3] = prefix
    if slot[at + 2] == 0.0:
        return math.nan
    older: float = slot[first + position + 1]
    return older if older > prefix else prefix


def moments_start(window: int) -> Slot:
    """Return a part for :func:`moments_next`."""
    # Layout: window, position, whether a block has ended, prefix mean and squares; mean cells; squares cells.
    part = np.zeros(5 + 2 * window, dtype=np.float64)
    part[0] = window
    return part


def moments_next(slot: Slot, at: int, value: float) -> tuple[float, float]:
    """Return mean and sum of squared deviations of the window ending with ``value``, NaN until it is full."""
    window = int(slot[at])
    position = int(slot[at + 1])
    first = at + 5
    slot[first + position] = value
    if position == window - 1:
        return _moments_of_block(slot, at, window)
    count = position + 1.0
    mean = value
    squares = 0.0
    if position > 0:
        delta = value - slot[at + 3]
        mean = slot[at + 3] + delta * (1.0 / count)
        squares = slot[at + 4] + delta * (value - mean)
    slot[at + 1] = count
    slot[at + 3] = mean
    slot[at + 4] = squares
    if slot[at + 2] == 0.0:
        return math.nan, math.nan
    older = first + position + 1
    gap = mean - slot[older]
    share = count / window
    return slot[older] + gap * share, slot[older + window] + squares + gap * gap * ((window - count) * share)


def _moments_of_block(slot: Slot, at: int, window: int) -> tuple[float, float]:
    mean = 0.0
    squares = 0.0
    count = 0.0
    first = at + 5
    for index in range(first + window - 1, first - 1, -1):
        count += 1.0
        value = slot[index]
        delta = value - mean
        mean += delta * (1.0 / count)
        squares += delta * (value - mean)
        slot[index] = mean
        slot[index + window] = squares
    slot[at + 1] = 0.0
    slot[at + 2] = 1.0
    return mean, squares


def ema_start(span: float) -> Slot:
    """Return a part for :func:`ema_next`."""
    # Layout: weight of the newest value, values needed, values seen, mean.
    return np.array([2.0 / (span + 1.0), math.ceil(span), 0.0, 0.0], dtype=np.float64)


def ema_next(slot: Slot, at: int, value: float) -> float:
    """Return the exponential mean of all values so far, NaN until ``span`` of them have come."""
    seen = slot[at + 2] + 1.0
    slot[at + 2] = seen
    mean: float = value if seen == 1.0 else slot[at + 3] + slot[at] * (value - slot[at + 3])
    slot[at + 3] = mean
    return mean if seen >= slot[at + 1] else math.nan


def true_range(high: float, low: float, last_close: float) -> float:
    """Return the bar's range, widened to the close before it (Wilder 1978)."""
    above = high if high > last_close else last_close
    below = low if low < last_close else last_close
    return above - below


def wilder_range_start(window: int) -> Slot:
    """Return a part for :func:`wilder_range_next`."""
    # Layout: window, bars seen, last close, mean.
    return np.array([window, 0.0, 0.0, 0.0], dtype=np.float64)


def wilder_range_next(slot: Slot, at: int, high: float, low: float, close: float) -> float:
    """Return Wilder's mean of true ranges, NaN until ``window`` of them have come."""
    window = slot[at]
    seen = slot[at + 1]
    last_close = slot[at + 2]
    slot[at + 1] = seen + 1.0
    slot[at + 2] = close
    if seen == 0.0:
        return math.nan
    newest = true_range(high, low, last_close)
    if seen <= window:  # the plain mean of the first ranges starts it
        slot[at + 3] += (newest - slot[at + 3]) / seen
    else:
        slot[at + 3] += (newest - slot[at + 3]) / window
    mean: float = slot[at + 3]
    return mean if seen >= window else math.nan


def compensated_add(slot: Slot, at: int, value: float) -> float:
    """Add to the running sum at ``at`` and return it; ``at + 1`` keeps what rounding lost (Neumaier 1974)."""
    before = slot[at]
    after = before + value
    if abs(before) >= abs(value):
        slot[at + 1] += (before - after) + value
    else:
        slot[at + 1] += (value - after) + before
    slot[at] = after
    total: float = after + slot[at + 1]
    return total
