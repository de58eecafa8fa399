"""Risk measures of a series of simple returns.

Every function takes 1-D simple returns per period as fractions (0.01 is +1 %), oldest
first, and returns a float. Losses are positive. NaN or infinite returns are refused, never
skipped: a gap in the data is the caller's to explain.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantflow.errors import RiskError

__all__ = ["Method", "cvar", "drawdowns", "max_drawdown", "value_at_risk", "volatility"]

Method = Literal["historical", "parametric"]
Floats = npt.NDArray[np.float64]

# (1 - 0.95) * 100 is 5.000000000000004: closer than this to a whole number counts as one.
_TIE = 1e-9


def value_at_risk(returns: npt.ArrayLike, level: float = 0.95, *, method: Method = "historical") -> float:
    """Return the loss that is not exceeded with probability ``level`` over one period.

    Parameters
    ----------
    returns
        Simple returns per period, fractions.
    level
        Confidence level, above 0.5 and below 1.
    method
        ``"historical"``: with ``k = (1 - level) * n``, the ``floor(k) + 1``-th largest loss, the
        lower ``level``-quantile of the losses (Rockafellar and Uryasev 2002). ``"parametric"``:
        ``z * s - m`` with the mean ``m``, the sample standard deviation ``s`` (divisor
        ``n - 1``) and the normal quantile ``z`` of ``level``.

    Returns
    -------
    float
        A fraction of equity; negative when even the tail is a gain.

    Raises
    ------
    RiskError
        Fewer than two returns, a return that is not finite, or a level out of range.

    Examples
    --------
    >>> value_at_risk([-0.05, -0.01, 0.0, 0.02, 0.03], level=0.75)
    0.01
    """
    values = _checked(returns)
    _check_level(level)
    if method == "parametric":
        mean, deviation = float(values.mean()), _deviation(values)
        return NormalDist().inv_cdf(level) * deviation - mean
    _check_method(method)
    whole, _ = _tail(len(values), level)
    return -float(np.partition(values, whole)[whole]) + 0.0


def cvar(returns: npt.ArrayLike, level: float = 0.95, *, method: Method = "historical") -> float:
    """Return the mean loss in the worst ``1 - level`` of periods (expected shortfall).

    Parameters
    ----------
    returns, level
        As in :func:`value_at_risk`.
    method
        ``"historical"``: with ``k = (1 - level) * n``, the mean of the ``k`` largest losses, the
        last one counted by the fraction of ``k`` that remains. ``"parametric"``:
        ``s * phi(z) / (1 - level) - m`` with the standard normal density ``phi``.

    Returns
    -------
    float
        A fraction of equity, never below :func:`value_at_risk` of the same arguments.

    Raises
    ------
    RiskError
        As :func:`value_at_risk`.
    """
    values = _checked(returns)
    _check_level(level)
    if method == "parametric":
        normal = NormalDist()
        density = normal.pdf(normal.inv_cdf(level))
        return density / (1.0 - level) * _deviation(values) - float(values.mean())
    _check_method(method)
    whole, rest = _tail(len(values), level)
    worst = np.sort(np.partition(values, whole)[: whole + 1])
    total = math.fsum(worst[:whole]) + rest * float(worst[whole])
    shortfall = -total / (whole + rest)
    # Rounding of the mean may fall an ulp below the smallest loss that it averages.
    return max(shortfall, -float(worst[whole])) + 0.0


def drawdowns(returns: npt.ArrayLike) -> Floats:
    """Return the fall from the highest equity so far, after each period.

    ``1 - equity / max(1, highest equity so far)`` with ``equity = cumprod(1 + returns)``: the
    starting equity counts as a peak. Fractions, 0 at a new high.

    Raises
    ------
    RiskError
        A return that is not finite, or no return at all.
    """
    values = _checked(returns, at_least=1)
    equity = np.cumprod(1.0 + values)
    peak = np.maximum(np.maximum.accumulate(equity), 1.0)
    fall: Floats = 1.0 - equity / peak
    return fall


def max_drawdown(returns: npt.ArrayLike) -> float:
    """Return the deepest fall from a peak of compounded equity, a positive fraction.

    See :func:`drawdowns`; above 1 only where a return below -1 made equity negative.
    """
    return float(drawdowns(returns).max())


def volatility(returns: npt.ArrayLike, *, periods_per_year: float) -> float:
    """Return the yearly volatility: sample standard deviation times ``sqrt(periods_per_year)``.

    Parameters
    ----------
    returns
        Simple returns per period, fractions.
    periods_per_year
        252 for daily bars of a stock exchange; 1 gives the volatility per period.

    Raises
    ------
    RiskError
        Fewer than two returns, one that is not finite, or periods that are not positive.
    """
    if not periods_per_year > 0:
        raise RiskError(f"periods_per_year is {periods_per_year!r}; allowed: a number above 0")
    return _deviation(_checked(returns)) * math.sqrt(periods_per_year)


def _deviation(values: Floats) -> float:
    return float(values.std(ddof=1))


def _tail(count: int, level: float) -> tuple[int, float]:
    """Return how many observations lie wholly in the tail, and the part of the next that does."""
    mass = (1.0 - level) * count
    whole = math.floor(mass + _TIE)
    rest = mass - whole
    return min(whole, count - 1), rest if rest > _TIE else 0.0


def _checked(returns: npt.ArrayLike, *, at_least: int = 2) -> Floats:
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 1:
        raise RiskError(f"returns have the shape {values.shape}; give one series, 1-D")
    if len(values) < at_least:
        raise RiskError(f"{len(values)} returns; at least {at_least} are needed")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise RiskError(
            f"return {bad[0]} is {values[bad[0]]} ({len(bad)} of {len(values)} are not finite); "
            "drop or explain the gap before measuring risk"
        )
    return values


def _check_level(level: float) -> None:
    if not 0.5 < level < 1.0:
        raise RiskError(f"confidence level is {level!r}; allowed: above 0.5 and below 1, such as 0.95")


def _check_method(method: str) -> None:
    if method != "historical":
        raise RiskError(f"unknown method {method!r}; allowed: 'historical', 'parametric'")
