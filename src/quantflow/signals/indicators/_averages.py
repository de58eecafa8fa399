"""Means, and the change over a lookback."""

from __future__ import annotations

import math

import numpy as np

from quantflow.signals._indicator import Slot, indicator
from quantflow.signals.indicators._arguments import bar_count, span_length
from quantflow.signals.indicators._parts import (
    ema_next,
    ema_start,
    weighted_sum_next,
    window_start,
    window_sum_next,
)

__all__ = ["ema", "momentum", "sma", "wma"]


def _window_start(window: int) -> Slot:
    return window_start(bar_count(window))


def _window_warm_up(window: int) -> int:
    return int(window) - 1


@indicator(start=_window_start, warm_up=_window_warm_up)
def sma(slot: Slot, value: float) -> float:
    """Return the mean of the last ``window`` values, the current one included.

    Declared as ``sma.over(window)``; first value at bar ``window``, counted from 1.
    TA-Lib's ``SMA``.
    """
    if math.isnan(value):
        return math.nan
    mean: float = window_sum_next(slot, 0, value) / slot[0]
    return mean


@indicator(start=_window_start, warm_up=_window_warm_up)
def wma(slot: Slot, value: float) -> float:
    """Return the linearly weighted mean of the last ``window`` values.

    The newest weighs ``window``, the oldest 1, over a sum of ``window * (window + 1) / 2``.
    Declared as ``wma.over(window)``; first value at bar ``window``. TA-Lib's ``WMA``.
    """
    if math.isnan(value):
        return math.nan
    mean: float = weighted_sum_next(slot, 0, value) / (0.5 * slot[0] * (slot[0] + 1.0))
    return mean


def _ema_start(span: float) -> Slot:
    return ema_start(span_length(span))


def _ema_warm_up(span: float) -> int:
    return math.ceil(span) - 1


@indicator(start=_ema_start, warm_up=_ema_warm_up)
def ema(slot: Slot, value: float) -> float:
    """Return the exponential mean with weight ``2 / (span + 1)`` on the current value.

    It starts at the first value (``pandas.ewm(span=span, adjust=False)``, vectorbt's
    ``MA(ewm=True)``; TA-Lib's ``EMA`` starts at the mean of the first ``span``). Declared as
    ``ema.over(span)``, first answer at bar ``span``.
    """
    if math.isnan(value):
        return math.nan
    return ema_next(slot, 0, value)


def _momentum_start(lookback: int) -> Slot:
    return np.zeros(2 + bar_count(lookback, name="lookback"), dtype=np.float64)


def _momentum_warm_up(lookback: int) -> int:
    return int(lookback)


@indicator(start=_momentum_start, warm_up=_momentum_warm_up)
def momentum(slot: Slot, value: float) -> float:
    """Return the simple return over ``lookback`` bars: ``value / value lookback bars ago - 1``.

    Declared as ``momentum.over(lookback)``; first value at bar ``lookback + 1``. TA-Lib's
    ``ROCP``. A past value of zero raises ZeroDivisionError.
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
