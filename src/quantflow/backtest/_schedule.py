"""At which bars targets may be traded."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from quantflow.backtest._options import Rebalance

__all__ = ["due_rows"]

# numpy counts days from Thursday, 1970-01-01: three days later a week begins.
_DAYS_TO_MONDAY = 3


def due_rows(
    sessions: npt.NDArray[Any], rebalance: Rebalance, *, previous: date | None = None
) -> npt.NDArray[np.uint8]:
    """Return 1 for each bar at which targets may be traded, 0 for the others.

    Parameters
    ----------
    sessions
        Trading date of each bar, datetime64[D], ascending.
    rebalance
        See :class:`~quantflow.backtest.Execution`. A period begins with the first bar whose date
        lies in another week (from Monday), month or quarter than the bar before.
    previous
        Date of the bar before the first one; None: there is none, and the first bar begins no
        period, because how much of its period is missing is not known.
    """
    days = sessions.astype("datetime64[D]")
    if rebalance in ("every_bar", "on_change"):
        return np.ones(len(days), dtype=np.uint8)
    if isinstance(rebalance, str):
        before = None if previous is None else np.datetime64(previous, "D")
        periods = _periods(days, rebalance)
        first = periods[:1] if before is None else _periods(np.array([before]), rebalance)
        return _changes(periods, first)
    dates = np.array(rebalance, dtype="datetime64[D]")
    passed = np.searchsorted(dates, days, side="right")
    # Dates before the first bar have passed: only one that falls on it is due there.
    start = days[:1] - 1 if previous is None else np.array([np.datetime64(previous, "D")])
    return _changes(passed, np.searchsorted(dates, start, side="right"))


def _changes(numbers: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    changes: npt.NDArray[np.uint8] = (np.diff(numbers, prepend=before) != 0).astype(np.uint8)
    return changes


def _periods(days: npt.NDArray[Any], rebalance: str) -> npt.NDArray[np.int64]:
    """Return the number of the period that each day lies in."""
    if rebalance == "weekly":
        return (days.astype(np.int64) + _DAYS_TO_MONDAY) // 7
    months: npt.NDArray[np.int64] = days.astype("datetime64[M]").astype(np.int64)
    return months // 3 if rebalance == "quarterly" else months
