"""Facts computed by rules: what analysts are told, so that no language model does arithmetic.

Windows count sessions and end with the last one of the frame, included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import MissingColumnError
from quantflow.risk import RiskLimits, cvar, max_drawdown, value_at_risk, volatility

__all__ = ["MOMENTUM_WINDOW", "TREND_WINDOW", "exposure_facts", "portfolio_returns", "risk_facts", "technical_facts"]

TREND_WINDOW = 63
MOMENTUM_WINDOW = 21
_LARGEST = 5
#: Share of the positions from which the trend counts as one.
_MAJORITY = 2 / 3
#: Share of a limit from which it counts as nearly used up.
_NEARLY = 0.85
#: Exposure below which a weight counts as none, as a fraction of equity.
NO_EXPOSURE = 1e-9


def exposure_facts(weights: Mapping[str, float]) -> dict[str, Any]:
    """Return net and gross exposure (fractions of equity) and the number of longs and shorts."""
    held = [weight for weight in weights.values() if abs(weight) > NO_EXPOSURE]
    return {
        "net": math.fsum(held),
        "gross": math.fsum(abs(weight) for weight in held),
        "longs": sum(weight > 0 for weight in held),
        "shorts": sum(weight < 0 for weight in held),
    }


def technical_facts(weights: Mapping[str, float], returns: pl.DataFrame, *, periods_per_year: float) -> dict[str, Any]:
    """Return trend, momentum and volatility of the held positions.

    ``agreement`` is the rule's summary: the trend ``agrees``, ``disagrees`` or ``is mixed``.
    A position goes with its trend if the compounded return over the window has the sign of its
    weight. ``trend_return`` and ``momentum_return`` are what the positions earned in their own
    direction, averaged by size. ``volatility`` is a year's, of the weighted portfolio. Missing
    returns are skipped per symbol.

    Raises
    ------
    MissingColumnError
        The frame lacks a held symbol.
    RiskError
        Fewer than two sessions.
    """
    held = _held(weights, returns)
    trends = {symbol: _compounded(returns, symbol, TREND_WINDOW) for symbol in held}
    momenta = {symbol: _compounded(returns, symbol, MOMENTUM_WINDOW) for symbol in held}
    largest = sorted(held, key=lambda symbol: (-abs(held[symbol]), symbol))[:_LARGEST]
    recent = portfolio_returns(held, returns)[-TREND_WINDOW:]
    with_trend = sum(trends[symbol] * weight > 0 for symbol, weight in held.items())
    trend_return = _directed_mean(held, trends)
    return {
        "agreement": _agreement(with_trend / len(held) if held else 0.0, trend_return),
        "positions": len(held),
        "with_trend": with_trend,
        "trend_return": trend_return,
        "momentum_return": _directed_mean(held, momenta),
        "volatility": volatility(recent, periods_per_year=periods_per_year),
        "largest": [{"symbol": symbol, "weight": held[symbol], "trend_return": trends[symbol]} for symbol in largest],
        "sessions": returns.height,
    }


def risk_facts(
    weights: Mapping[str, float], returns: pl.DataFrame, limits: RiskLimits, *, confidence_level: float
) -> dict[str, Any]:
    """Return the portfolio's one-session value at risk and CVaR, its drawdown, and how much of each limit is used.

    Losses and drawdown are positive fractions of equity. ``limits_used`` maps each limit that
    applies to measure / limit: above 1 it is breached. ``tightness`` is the rule's summary:
    the limits are ``comfortable``, ``nearly used up`` or ``exceeded``.
    """
    held = _held(weights, returns)
    # The same sessions that the risk officer will look at.
    series = portfolio_returns(held, returns.tail(limits.history_sessions))
    exposure = exposure_facts(held)
    measures = {
        "max_position": max((abs(weight) for weight in held.values()), default=0.0),
        "max_gross": exposure["gross"],
        "max_var": value_at_risk(series, confidence_level),
        "max_cvar": cvar(series, confidence_level),
        "max_volatility": volatility(series, periods_per_year=limits.periods_per_year),
        "max_drawdown": max_drawdown(series),
    }
    allowed = {name: getattr(limits, name) for name in measures}
    used = {name: measures[name] / limit for name, limit in allowed.items() if limit is not None}
    return {
        "value_at_risk": measures["max_var"],
        "cvar": measures["max_cvar"],
        "drawdown": measures["max_drawdown"],
        "gross": measures["max_gross"],
        "largest_position": measures["max_position"],
        "confidence_level": confidence_level,
        "limits_used": used,
        "tightness": _tightness(max(used.values(), default=0.0)),
    }


def portfolio_returns(weights: Mapping[str, float], returns: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Return the weighted portfolio's simple returns, one per session; a missing return counts as zero."""
    total = np.zeros(returns.height)
    for symbol, weight in weights.items():
        total += weight * returns[symbol].cast(pl.Float64).fill_null(0.0).fill_nan(0.0).to_numpy()
    return total


def _agreement(share_with_trend: float, trend_return: float) -> str:
    if share_with_trend >= _MAJORITY and trend_return > 0:
        return "agrees"
    return "disagrees" if share_with_trend <= 1 - _MAJORITY and trend_return < 0 else "is mixed"


def _tightness(used: float) -> str:
    if used > 1:
        return "exceeded"
    return "nearly used up" if used >= _NEARLY else "comfortable"


def _held(weights: Mapping[str, float], returns: pl.DataFrame) -> dict[str, float]:
    held = {symbol: weight for symbol, weight in weights.items() if abs(weight) > NO_EXPOSURE}
    missing = sorted(set(held) - set(returns.columns))
    if missing:
        raise MissingColumnError(
            f"no returns for {', '.join(missing)}; the frame has {', '.join(returns.columns)}. "
            "Write the returns of every symbol that has a weight into the blob."
        )
    return held


def _compounded(returns: pl.DataFrame, symbol: str, window: int) -> float:
    known = returns[symbol].drop_nulls().drop_nans().tail(window).to_numpy()
    return float(np.prod(1.0 + known) - 1.0)


def _directed_mean(held: Mapping[str, float], by_symbol: Mapping[str, float]) -> float:
    gross = math.fsum(abs(weight) for weight in held.values())
    return math.fsum(weight * by_symbol[symbol] for symbol, weight in held.items()) / gross if gross else 0.0
