"""Performance figures; ``periods_per_year`` and the risk-free rate are always explicit.

``returns`` are 1-D simple returns per period, fractions, oldest first, the first session's
included. NaN or infinite returns are refused with a :class:`~quantflow.errors.RiskError`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from quantflow.errors import RiskError
from quantflow.risk import cvar, max_drawdown, value_at_risk, volatility

__all__ = ["annual_volatility", "cagr", "hit_rate", "portfolio_metrics", "sharpe_ratio"]


def cagr(returns: npt.ArrayLike, *, periods_per_year: float) -> float:
    """Return the compound growth a year: ``prod(1 + r) ** (periods_per_year / n) - 1``.

    -1 when the equity was lost.
    """
    values = _finite(returns)
    growth = float(np.prod(1.0 + values))
    return growth ** (periods_per_year / len(values)) - 1.0 if growth > 0.0 else -1.0


def annual_volatility(returns: npt.ArrayLike, *, periods_per_year: float) -> float:
    """Return the sample standard deviation (divisor ``n - 1``) times ``sqrt(periods_per_year)``."""
    return volatility(returns, periods_per_year=periods_per_year)


def sharpe_ratio(returns: npt.ArrayLike, *, periods_per_year: float, risk_free_rate: float = 0.0) -> float:
    """Return the yearly Sharpe ratio: ``mean(r - f) / std(r - f) * sqrt(periods_per_year)``.

    Parameters
    ----------
    returns
        Simple returns per period.
    periods_per_year
        252 for daily bars of a stock exchange.
    risk_free_rate
        A year, a fraction; per period ``f = (1 + rate) ** (1 / periods_per_year) - 1``.

    Returns
    -------
    float
        0.0 when the returns do not vary (Sharpe 1994; standard deviation with ``n - 1``).
    """
    values = _finite(returns)
    excess = values - ((1.0 + risk_free_rate) ** (1.0 / periods_per_year) - 1.0)
    deviation = float(excess.std(ddof=1))
    # Constant returns leave a deviation of rounding only.
    if deviation <= 1e-15 * max(1.0, float(np.abs(values).max())):
        return 0.0
    return float(excess.mean()) / deviation * math.sqrt(periods_per_year)


def hit_rate(returns: npt.ArrayLike) -> float:
    """Return the fraction of periods with a gain among those with a gain or a loss; 0.0 without any."""
    values = _finite(returns, at_least=0)
    gains, losses = int((values > 0.0).sum()), int((values < 0.0).sum())
    return gains / (gains + losses) if gains + losses else 0.0


def portfolio_metrics(
    returns: npt.ArrayLike,
    *,
    turnover: npt.ArrayLike,
    cost: npt.ArrayLike,
    periods_per_year: float,
    risk_free_rate: float = 0.0,
    confidence_level: float = 0.95,
) -> dict[str, float]:
    """Return the figures of a portfolio's returns by name.

    ``total_return``, ``cagr``, ``volatility`` (a year), ``sharpe_ratio``, ``max_drawdown``
    (positive), ``value_at_risk`` and ``cvar`` (historical, one period, at
    ``confidence_level``), ``hit_rate``, ``turnover`` (value traded / equity, a year, both
    sides counted), ``cost`` (fees and slippage / equity, a year), ``periods`` and
    ``periods_per_year``.
    """
    values = _finite(returns)
    years = len(values) / periods_per_year
    return {
        "total_return": float(np.prod(1.0 + values)) - 1.0,
        "cagr": cagr(values, periods_per_year=periods_per_year),
        "volatility": annual_volatility(values, periods_per_year=periods_per_year),
        "sharpe_ratio": sharpe_ratio(values, periods_per_year=periods_per_year, risk_free_rate=risk_free_rate),
        "max_drawdown": max_drawdown(values),
        "value_at_risk": value_at_risk(values, confidence_level),
        "cvar": cvar(values, confidence_level),
        "hit_rate": hit_rate(values),
        "turnover": float(np.sum(np.asarray(turnover, dtype=np.float64))) / years,
        "cost": float(np.sum(np.asarray(cost, dtype=np.float64))) / years,
        "periods": float(len(values)),
        "periods_per_year": float(periods_per_year),
    }


def _finite(returns: npt.ArrayLike, *, at_least: int = 2) -> npt.NDArray[np.float64]:
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 1 or len(values) < at_least:
        raise RiskError(f"returns of shape {values.shape}; one series of at least {at_least} returns is needed")
    if not np.isfinite(values).all():
        raise RiskError(f"return {int(np.argmin(np.isfinite(values)))} is not finite; explain the gap before measuring")
    return values
