"""Wilder's averages of moves and ranges, and Appel's difference of means."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from quantflow.signals._indicator import Slot, indicator
from quantflow.signals.indicators._arguments import bar_count, span_length, width
from quantflow.signals.indicators._dispersion import Band
from quantflow.signals.indicators._parts import (
    ema_next,
    ema_start,
    true_range,
    wilder_range_next,
    wilder_range_start,
)

__all__ = ["Directional", "Macd", "adx", "atr", "keltner", "macd", "rsi"]


class Macd(NamedTuple):
    """Difference of two means, its own mean, and the difference of these, in the price's unit."""

    line: float
    signal: float
    histogram: float


class Directional(NamedTuple):
    """Strength of the trend and of moves up and down, each between 0 and 100."""

    adx: float
    plus_di: float
    minus_di: float


def _rsi_start(window: int = 14) -> Slot:
    # Layout: window, prices seen, last price, mean gain, mean loss.
    return np.array([bar_count(window), 0.0, 0.0, 0.0, 0.0], dtype=np.float64)


def _after_window(window: int = 14) -> int:
    return int(window)


@indicator(start=_rsi_start, warm_up=_after_window)
def rsi(slot: Slot, price: float) -> float:
    """Return the relative strength index, between 0 and 100.

    ``100 * gain / (gain + loss)``, the means of rises and falls by Wilder's smoothing (weight
    ``1 / window``), started by the plain means of the first ``window`` changes (Wilder 1978).
    50 while the price has never moved. Declared as ``rsi.over(window=14)``; first value at bar
    ``window + 1``. TA-Lib's ``RSI`` (which says 0 for a price that stands still).
    """
    if math.isnan(price):
        return math.nan
    window = slot[0]
    seen = slot[1]
    change = price - slot[2]
    slot[1] = seen + 1.0
    slot[2] = price
    if seen == 0.0:
        return math.nan
    share = 1.0 / (seen if seen < window else window)
    rise = change if change > 0.0 else 0.0
    fall = -change if change < 0.0 else 0.0
    gain = slot[3] + (rise - slot[3]) * share
    loss = slot[4] + (fall - slot[4]) * share
    slot[3] = gain
    slot[4] = loss
    if seen < window:
        return math.nan
    moved = gain + loss
    return 100.0 * (gain / moved) if moved > 0.0 else 50.0


def _atr_start(window: int = 14) -> Slot:
    return wilder_range_start(bar_count(window))


@indicator(start=_atr_start, warm_up=_after_window)
def atr(slot: Slot, high: float, low: float, close: float) -> float:
    """Return the average true range, in the price's unit.

    The true range reaches from the bar's low to its high, widened to the close before it; the
    mean is Wilder's (weight ``1 / window``), started by the plain mean of the first ``window``
    (Wilder 1978). Declared as ``atr.over(window=14)``; first value at bar ``window + 1``.
    TA-Lib's ``ATR``.
    """
    if math.isnan(high) or math.isnan(low) or math.isnan(close):
        return math.nan
    return wilder_range_next(slot, 0, high, low, close)


def _keltner_start(span: float = 20, window: int = 10, multiplier: float = 2.0) -> Slot:
    # Layout: multiplier, exponential mean (4 numbers), average true range.
    middle = ema_start(span_length(span))
    return np.concatenate([[width(multiplier)], middle, wilder_range_start(bar_count(window))])


def _keltner_warm_up(span: float = 20, window: int = 10, multiplier: float = 2.0) -> int:
    return max(math.ceil(span) - 1, int(window))


@indicator(start=_keltner_start, warm_up=_keltner_warm_up)
def keltner(slot: Slot, high: float, low: float, close: float) -> Band:
    """Return Keltner's channel: the close's exponential mean, ``multiplier`` true ranges on each side.

    ``ema(span)`` of closes and ``atr(window)``. Declared as ``keltner.over(span=20, window=10,
    multiplier=2.0)``; first value at the later of bars ``span`` and ``window + 1``. vectorbt's
    ``MA(ewm=True)`` and TA-Lib's ``ATR``.
    """
    if math.isnan(high) or math.isnan(low) or math.isnan(close):
        return Band(math.nan, math.nan, math.nan)
    middle = ema_next(slot, 1, close)
    reach = slot[0] * wilder_range_next(slot, 5, high, low, close)
    if math.isnan(middle) or math.isnan(reach):
        return Band(math.nan, math.nan, math.nan)
    return Band(middle + reach, middle, middle - reach)


def _macd_start(fast: float = 12, slow: float = 26, signal: float = 9) -> Slot:
    spans = {"fast": fast, "slow": slow, "signal": signal}
    return np.concatenate([ema_start(span_length(span, name=name)) for name, span in spans.items()])


def _macd_warm_up(fast: float = 12, slow: float = 26, signal: float = 9) -> int:
    return max(math.ceil(fast), math.ceil(slow)) + math.ceil(signal) - 2


@indicator(start=_macd_start, warm_up=_macd_warm_up)
def macd(slot: Slot, value: float) -> Macd:
    """Return Appel's moving average convergence divergence.

    ``line = ema(fast) - ema(slow)``, ``signal = ema(signal)`` of the line from its first value
    on, ``histogram = line - signal``. Declared as ``macd.over(fast=12, slow=26, signal=9)``;
    first value at bar ``slow + signal - 1``. vectorbt's ``MACD`` with exponential means
    (TA-Lib starts its means otherwise, see :func:`ema`).
    """
    if math.isnan(value):
        return Macd(math.nan, math.nan, math.nan)
    line = ema_next(slot, 0, value) - ema_next(slot, 4, value)
    if math.isnan(line):
        return Macd(math.nan, math.nan, math.nan)
    signal = ema_next(slot, 8, line)
    if math.isnan(signal):
        return Macd(math.nan, math.nan, math.nan)
    return Macd(line, signal, line - signal)


def _adx_start(window: int = 14) -> Slot:
    # Layout: window, bars seen, last high, low and close, smoothed rises, falls and true ranges, adx.
    slot = np.zeros(9, dtype=np.float64)
    slot[0] = bar_count(window, smallest=2)
    return slot


def _adx_warm_up(window: int = 14) -> int:
    return 2 * int(window) - 1


@indicator(start=_adx_start, warm_up=_adx_warm_up)
def adx(slot: Slot, high: float, low: float, close: float) -> Directional:
    """Return the average directional index with its directional indicators, each 0 to 100.

    Wilder (1978): moves beyond the bar before, up or down, and true ranges are summed with
    weight ``1 - 1 / window`` on the past; ``plus_di`` and ``minus_di`` are the moves in percent of
    the ranges; ``adx`` smooths ``100 * abs(plus_di - minus_di) / (plus_di + minus_di)``, started by
    its plain mean over ``window`` bars. A bar after which both are 0 leaves ``adx`` as it was.
    Declared as ``adx.over(window=14)``; first value at bar ``2 * window``. TA-Lib's ``ADX``,
    ``PLUS_DI`` and ``MINUS_DI``.
    """
    if math.isnan(high) or math.isnan(low) or math.isnan(close):
        return Directional(math.nan, math.nan, math.nan)
    window = slot[0]
    seen = slot[1]
    if seen > 0.0:
        _add_moves(slot, high, low)
    slot[1] = seen + 1.0
    slot[2] = high
    slot[3] = low
    slot[4] = close
    if seen < window:
        return Directional(math.nan, math.nan, math.nan)
    ranges = slot[7]
    plus = 100.0 * (slot[5] / ranges) if ranges > 0.0 else 0.0
    minus = 100.0 * (slot[6] / ranges) if ranges > 0.0 else 0.0
    strength = 100.0 * (abs(plus - minus) / (plus + minus)) if plus + minus > 0.0 else 0.0
    if seen < 2.0 * window:
        slot[8] += strength / window
    elif plus + minus > 0.0:
        slot[8] += (strength - slot[8]) / window
    if seen < 2.0 * window - 1.0:
        return Directional(math.nan, math.nan, math.nan)
    return Directional(slot[8], plus, minus)


def _add_moves(slot: Slot, high: float, low: float) -> None:
    rise = high - slot[2]
    fall = slot[3] - low
    plus = rise if rise > 0.0 and rise > fall else 0.0
    minus = fall if fall > 0.0 and fall > rise else 0.0
    newest = true_range(high, low, slot[4])
    # The first window - 1 bars are summed as they are (Wilder's start, as TA-Lib has it).
    kept = 1.0 - 1.0 / slot[0] if slot[1] >= slot[0] else 1.0
    slot[5] = kept * slot[5] + plus
    slot[6] = kept * slot[6] + minus
    slot[7] = kept * slot[7] + newest
