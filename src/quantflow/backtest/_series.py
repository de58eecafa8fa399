"""A series of returns, checked, and what every figure of it shares."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from quantflow.errors import RiskError

__all__ = ["NO_DEVIATION", "deviation", "excess", "finite", "period_rate", "positive", "ratio"]

Floats = npt.NDArray[np.float64]

# A deviation below this part of the largest return, or a fall below it, is what rounding leaves of none.
NO_DEVIATION = 1e-15


def period_rate(risk_free_rate: float, periods_per_year: float) -> float:
    """Return a yearly rate per period: ``(1 + rate) ** (1 / periods_per_year) - 1``.

    Raises
    ------
    RiskError
        The rate is not a finite number above -1, or the periods are not above 0.
    """
    if not -1.0 < risk_free_rate < math.inf:
        raise RiskError(f"risk_free_rate is {risk_free_rate!r}; allowed: a fraction a year above -1, such as 0.03")
    return math.pow(1.0 + risk_free_rate, 1.0 / positive(periods_per_year)) - 1.0


def excess(returns: npt.ArrayLike, periods_per_year: float, risk_free_rate: float) -> Floats:
    """Return what each period earned above the risk-free rate."""
    return finite(returns) - period_rate(risk_free_rate, periods_per_year)


def deviation(values: Floats) -> float:
    """Return the sample standard deviation; exactly 0.0 where only rounding makes values differ."""
    spread = float(values.std(ddof=1))
    return spread if spread > NO_DEVIATION * max(1.0, float(np.abs(values).max())) else 0.0


def ratio(numerator: float, denominator: float) -> float:
    """Return the ratio to something positive; NaN to nothing."""
    return numerator / denominator if denominator > 0.0 else math.nan


def positive(periods_per_year: float) -> float:
    """Return the periods in a year, refused unless they are a finite number above 0."""
    if not 0.0 < periods_per_year < math.inf:
        raise RiskError(f"periods_per_year is {periods_per_year!r}; allowed: a finite number above 0, such as 252")
    return periods_per_year


def finite(returns: npt.ArrayLike, *, at_least: int = 2) -> Floats:
    """Return one series of finite numbers; anything else is refused, naming the first one."""
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 1 or len(values) < at_least:
        raise RiskError(f"returns of shape {values.shape}; one series of at least {at_least} returns is needed")
    if not np.isfinite(values).all():
        raise RiskError(f"return {int(np.argmin(np.isfinite(values)))} is not finite; explain the gap before measuring")
    return values
