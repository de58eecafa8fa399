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

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
