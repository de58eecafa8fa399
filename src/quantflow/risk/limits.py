"""Limits that a pipeline's contract sets and the risk officer enforces."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RiskLimits"]


class RiskLimits(BaseModel):
    """Limits of one portfolio; ``None`` means that the measure is not limited.

    All limits are fractions of equity (0.2 is 20 %). Value at risk and CVaR are losses over
    one session, volatility is per year.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_position: float = Field(default=1.0, gt=0, description="Largest |weight| of one symbol")
    max_gross: float = Field(default=1.0, gt=0, description="Largest sum of |weights|")
    max_var: float | None = Field(default=None, gt=0, description="Largest value at risk of one session")
    max_cvar: float | None = Field(default=None, gt=0, description="Largest expected loss in the tail, one session")
    max_volatility: float | None = Field(default=None, gt=0, description="Largest volatility a year")
    max_drawdown: float | None = Field(
        default=None, gt=0, le=1, description="Largest fall that these weights would have had in the history"
    )
    periods_per_year: int = Field(default=252, ge=1, description="Sessions in a year, for max_volatility")
    history_sessions: int = Field(default=756, ge=2, description="The last so many sessions are judged")
    min_sessions: int = Field(default=60, ge=2, description="Fewer sessions of history: rejected")
