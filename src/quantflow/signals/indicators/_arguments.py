"""Checks of indicators' arguments, shared by their starts."""

from __future__ import annotations

import math

from quantflow.errors import ParameterError

__all__ = ["bar_count", "deviation_divisor", "span_length", "width"]


def bar_count(given: float, smallest: int = 1, *, name: str = "window") -> int:
    """Return ``given`` as a whole number of bars.

    Raises
    ------
    ParameterError
        It is not whole, or smaller than ``smallest``.
    """
    if not math.isfinite(given) or given != int(given) or given < smallest:
        raise ParameterError(f"{name} is {given!r} bars; allowed: a whole number, at least {smallest}")
    return int(given)


def span_length(given: float, *, name: str = "span") -> float:
    """Return ``given`` as the span of exponential weights, in bars.

    Raises
    ------
    ParameterError
        It is not finite, or below 1.
    """
    if not math.isfinite(given) or given < 1.0:
        raise ParameterError(f"{name} is {given!r} bars; allowed: a finite number, at least 1")
    return float(given)


def deviation_divisor(given: float) -> int:
    """Return ``given`` as delta degrees of freedom, 0 or 1.

    Raises
    ------
    ParameterError
        It is neither.
    """
    if given not in (0, 1):
        raise ParameterError(f"ddof is {given!r}; allowed: 0 (population) or 1 (sample)")
    return int(given)


def width(given: float) -> float:
    """Return ``given`` as the half-width of a band, in deviations or ranges.

    Raises
    ------
    ParameterError
        It is negative or not finite.
    """
    if not math.isfinite(given) or given < 0.0:
        raise ParameterError(f"multiplier is {given!r}; allowed: a finite number, at least 0")
    return float(given)
