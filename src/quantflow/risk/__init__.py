"""Risk: measures with formulas, limits, and the deterministic risk officer's arithmetic.

    >>> import polars as pl
    >>> from quantflow.risk import RiskLimits, review
    >>> returns = pl.DataFrame({"session": range(100), "AAPL": [0.01, -0.02] * 50})
    >>> verdict = review({"AAPL": 0.8}, returns, RiskLimits(max_position=0.5))
    >>> verdict.outcome, verdict.weights
    ('reduced', {'AAPL': 0.5})

Losses are positive fractions of equity. Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.risk.limits import RiskLimits
    from quantflow.risk.measures import cvar, drawdowns, max_drawdown, value_at_risk, volatility
    from quantflow.risk.officer import OFFICER, Finding, RiskReview, review

__all__ = [
    "OFFICER",
    "Finding",
    "RiskLimits",
    "RiskReview",
    "cvar",
    "drawdowns",
    "max_drawdown",
    "review",
    "value_at_risk",
    "volatility",
]

_HOMES = {
    "limits": ("RiskLimits",),
    "measures": ("cvar", "drawdowns", "max_drawdown", "value_at_risk", "volatility"),
    "officer": ("OFFICER", "Finding", "RiskReview", "review"),
}

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
