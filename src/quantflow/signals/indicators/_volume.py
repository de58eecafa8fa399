"""What volume says: balance of volume, and prices weighted by it."""

from __future__ import annotations

import math

import numpy as np

from quantflow.signals._indicator import Slot, indicator
from quantflow.signals.indicators._arguments import bar_count
from quantflow.signals.indicators._parts import compensated_add, window_start, window_sum_next

__all__ = ["anchored_vwap", "obv", "vwap"]


def _obv_start() -> Slot:
    # Layout: whether there is a close before, that close, total, what rounding lost of it.
    return np.zeros(4, dtype=np.float64)


def _at_once() -> int:
    return 0


@indicator(start=_obv_start, warm_up=_at_once)
def obv(slot: Slot, close: float, volume: float) -> float:
    """Return the on-balance volume, in the volume's unit.

    The first bar's volume, plus the volume of every bar that closed higher than the one before,
    less that of every one that closed lower (Granville 1963). Its level depends on where the
    history starts. Declared as ``obv.over()``; first value at bar 1. TA-Lib's ``OBV``.
    """
    if math.isnan(close) or math.isnan(volume):
        return math.nan
    signed = volume
    if slot[0] != 0.0:
        if close < slot[1]:
            signed = -volume
        elif close == slot[1]:
            signed = 0.0
    slot[0] = 1.0
    slot[1] = close
    return compensated_add(slot, 2, signed)


def _vwap_start(window: int) -> Slot:
    part = window_start(bar_count(window))
    return np.concatenate([part, part])


def _vwap_warm_up(window: int) -> int:
    return int(window) - 1


@indicator(start=_vwap_start, warm_up=_vwap_warm_up)
def vwap(slot: Slot, price: float, volume: float) -> float:
    """Return the volume-weighted mean price of the last ``window`` bars, in the price's unit.

    ``sum(price * volume) / sum(volume)``; feed the close, or ``(high + low + close) / 3``. NaN where
    the window's volume is 0: nothing was traded. Declared as ``vwap.over(window)``; first value
    at bar ``window``. TA-Lib's ``SUM`` of both.
    """
    if math.isnan(price) or math.isnan(volume):
        return math.nan
    traded = window_sum_next(slot, 0, price * volume)
    shares = window_sum_next(slot, len(slot) // 2, volume)
    return traded / shares if shares > 0.0 else math.nan


def _anchored_start() -> Slot:
    # Layout: whether there is an anchor, the anchor, value traded and what rounding lost, volume and the same.
    return np.zeros(6, dtype=np.float64)


@indicator(start=_anchored_start, warm_up=_at_once)
def anchored_vwap(slot: Slot, price: float, volume: float, anchor: float) -> float:
    """Return the volume-weighted mean price since ``anchor`` last changed, in the price's unit.

    ``anchor`` is any number that the signal keeps constant through a session, a trade or a
    swing: the bar with a new one is the first of its mean. NaN while no volume has been traded
    since. Declared as ``anchored_vwap.over()``; first value at bar 1. TA-Lib's ``SUM`` of price
    times volume and of volume, over the bars since the anchor.
    """
    if math.isnan(price) or math.isnan(volume) or math.isnan(anchor):
        return math.nan
    if slot[0] == 0.0 or anchor != slot[1]:
        slot[0] = 1.0
        slot[1] = anchor
        slot[2] = 0.0
        slot[3] = 0.0
        slot[4] = 0.0
        slot[5] = 0.0
    traded = compensated_add(slot, 2, price * volume)
    shares = compensated_add(slot, 4, volume)
    return traded / shares if shares > 0.0 else math.nan
