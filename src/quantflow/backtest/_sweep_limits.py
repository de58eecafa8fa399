"""What a sweep may take of memory and time, checked before it starts."""

from __future__ import annotations

import os

from quantflow.errors import ParameterError, SweepTooLargeError

__all__ = ["check_budget", "check_count", "check_memory", "memory_limit", "result_bytes", "thread_count"]

# A value in the result and, while frames are joined and handed over, once more.
_BYTES_A_VALUE = 16
_SMALLER = "take fewer values, a where, or search=RandomSearch(n)"


def memory_limit(given: int | None) -> int:
    """Return the bytes that a sweep may take: what was given, or half of what is free now."""
    if given is not None:
        if given <= 0:
            raise ParameterError(f"memory_limit_bytes is {given!r}; allowed: a number of bytes above 0")
        return int(given)
    import psutil

    return int(psutil.virtual_memory().available // 2)


def result_bytes(rows: int, columns: int) -> int:
    """Return about how many bytes a result of this shape takes while it is made."""
    return rows * columns * _BYTES_A_VALUE


def check_count(count: int, at_most: int | None, *, exact: bool = True) -> None:
    """Refuse more combinations than the caller allows; not ``exact``: there are at least so many."""
    if at_most is not None and count > at_most:
        raise SweepTooLargeError(f"the grid has {_counted(count, exact)}; max_combinations is {at_most:,}: {_SMALLER}")


def check_memory(count: int, *, rows: int, columns: int, working: int, limit: int, exact: bool = True) -> None:
    """Refuse a result that does not fit."""
    needed = result_bytes(rows, columns) + working
    if needed > limit:
        raise SweepTooLargeError(
            f"{_counted(count, exact)} make {rows:,} rows of {columns} columns: about {needed:,} bytes, "
            f"{result_bytes(rows, columns):,} of them for the result; the limit is {limit:,} bytes: {_SMALLER}, "
            "fewer metrics, or a higher memory_limit_bytes"
        )


def _counted(count: int, exact: bool) -> str:
    return f"{'' if exact else 'at least '}{count:,} combinations"


def check_budget(count: int, *, seconds: float, budget_s: float, threads: int) -> None:
    """Refuse a sweep that would take longer than its budget."""
    if seconds > budget_s:
        raise SweepTooLargeError(
            f"{count:,} combinations would take about {seconds:.3g} s on {threads} threads, measured on a few of them; "
            f"budget_s is {budget_s:g}: {_SMALLER}"
        )


def thread_count(given: int | None) -> int:
    """Return how many threads to use: what was given, or one a core that this process may use."""
    if given is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ParameterError(f"threads is {given!r}; allowed: a whole number, at least 1, or None for one a core")
    return given
