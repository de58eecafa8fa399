"""The deterministic risk officer: weights in, the same or smaller weights out, or none.

Order of operations, each on the result of the one before:

1. *Data*. Every weight is finite. Every symbol with a weight has a finite return in each of
   the last ``history_sessions`` sessions given, of which there are at least
   ``min_sessions``. Otherwise: rejected. Missing data is never taken for low risk.
2. *Positions* above ``max_position`` are cut to it, each on its own.
3. *Gross exposure* above ``max_gross``: all weights are scaled by ``max_gross / gross``.
4. *Value at risk*, *CVaR*, *volatility* of the portfolio's past returns (these weights held
   constantly) above their limits: all weights are scaled by ``limit / value``; the three are
   homogeneous, so one division is exact.
5. *Maximum drawdown* of the same past returns, compounded: not homogeneous, so the scale is
   found by bisection, always on the side that keeps the limit.

No step makes any ``|weight|`` larger or turns its sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.risk.limits import RiskLimits
from quantflow.risk.measures import cvar, max_drawdown, value_at_risk, volatility

__all__ = ["OFFICER", "Finding", "RiskReview", "review"]

#: Who judged; the number is raised when the arithmetic changes.
OFFICER = "quantflow.risk.review/1"

Outcome = Literal["approved", "reduced", "rejected"]
Floats = npt.NDArray[np.float64]
Measure = Callable[[Floats], float]

_BISECTIONS = 60
# A scaled measure may exceed its limit by rounding; such an excess is not a breach.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Finding:
    """One limit that was checked: ``value`` is what was found before anything was reduced for it."""

    measure: str
    value: float
    limit: float
    breached: bool
    message: str
    symbol: str | None = None


@dataclass(frozen=True)
class RiskReview:
    """The outcome, the weights that may be acted on (none when rejected), and every finding."""

    outcome: Outcome
    weights: dict[str, float]
    findings: tuple[Finding, ...]

    @property
    def breaches(self) -> tuple[Finding, ...]:
        """The findings that reduced or rejected."""
        return tuple(finding for finding in self.findings if finding.breached)


def review(
    weights: Mapping[str, float],
    returns: pl.DataFrame,
    limits: RiskLimits,
    *,
    confidence_level: float = 0.95,
    method: Literal["historical", "parametric"] = "historical",
) -> RiskReview:
    """Return the verdict on a portfolio: approved as it is, reduced, or rejected.

    Parameters
    ----------
    weights
        Signed fractions of equity by symbol.
    returns
        ``session`` and a column of simple returns a symbol, sessions ascending, as from
        :func:`quantflow.data.bars_to_returns`. The caller chooses what was known; the officer
        looks at the last ``limits.history_sessions`` rows.
    limits
        What is allowed.
    confidence_level
        Of value at risk and CVaR.
    method
        Of value at risk and CVaR.

    Returns
    -------
    RiskReview
        Never with a larger ``|weight|`` than given. A rejected review has no weights.

    Raises
    ------
    RiskError
        The confidence level or method is not one that is known.
    """
    # A bad level must not depend on the data to be noticed.
    value_at_risk([0.0, 0.0], confidence_level, method=method)
    held = {symbol: float(weight) for symbol, weight in weights.items() if weight != 0.0}
    history = returns.tail(limits.history_sessions)
    problems = _data_findings(held, history, limits)
    if any(finding.breached for finding in problems):
        return RiskReview("rejected", {}, problems)
    steps = _Reduction(held, history)
    steps.clip_positions(limits.max_position)
    steps.scale_gross(limits.max_gross)
    steps.scale_measure("value_at_risk", limits.max_var, lambda r: value_at_risk(r, confidence_level, method=method))
    steps.scale_measure("cvar", limits.max_cvar, lambda r: cvar(r, confidence_level, method=method))
    steps.scale_measure(
        "volatility", limits.max_volatility, lambda r: volatility(r, periods_per_year=limits.periods_per_year)
    )
    steps.bisect_measure("max_drawdown", limits.max_drawdown, max_drawdown)
    findings = (*problems, *steps.findings)
    outcome: Outcome = "reduced" if any(finding.breached for finding in findings) else "approved"
    return RiskReview(outcome, {symbol: steps.weights.get(symbol, 0.0) for symbol in weights}, findings)


class _Reduction:
    """The weights on their way down, with what was found at each step."""

    def __init__(self, held: dict[str, float], history: pl.DataFrame) -> None:
        self.weights = held
        self.findings: list[Finding] = []
        self._matrix = history.select(list(held)).to_numpy().astype(np.float64) if held else np.empty((0, 0))

    def clip_positions(self, limit: float) -> None:
        breached = {symbol: weight for symbol, weight in self.weights.items() if abs(weight) > limit}
        for symbol, weight in breached.items():
            self._found("position", abs(weight), limit, True, f"{symbol} cut from {weight:+.2%}", symbol)
            self.weights[symbol] = math.copysign(limit, weight)
        if not breached:
            largest = max((abs(weight) for weight in self.weights.values()), default=0.0)
            self._found("position", largest, limit, False, "largest position")

    def scale_gross(self, limit: float) -> None:
        gross = math.fsum(abs(weight) for weight in self.weights.values())
        self._judge("gross", gross, limit)

    def scale_measure(self, name: str, limit: float | None, measure: Measure) -> None:
        if limit is not None and self.weights:
            self._judge(name, measure(self._portfolio(1.0)), limit)

    def bisect_measure(self, name: str, limit: float | None, measure: Measure) -> None:
        if limit is None or not self.weights:
            return
        value = measure(self._portfolio(1.0))
        if value <= limit * (1.0 + _ROUNDING):
            self._found(name, value, limit, False, "within its limit")
            return
        kept, broken = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (kept + broken) / 2.0
            if measure(self._portfolio(middle)) <= limit:
                kept = middle
            else:
                broken = middle
        self._scale(kept)
        self._found(name, value, limit, True, f"all weights scaled by {kept:.4f}")

    def _judge(self, name: str, value: float, limit: float) -> None:
        if value <= limit * (1.0 + _ROUNDING):
            self._found(name, value, limit, False, "within its limit")
            return
        factor = limit / value
        self._scale(factor)
        self._found(name, value, limit, True, f"all weights scaled by {factor:.4f}")

    def _scale(self, factor: float) -> None:
        self.weights = {symbol: weight * factor for symbol, weight in self.weights.items()}

    def _portfolio(self, factor: float) -> Floats:
        held: Floats = self._matrix @ (np.array(list(self.weights.values())) * factor)
        return held

    def _found(
        self, measure: str, value: float, limit: float, breached: bool, what: str, symbol: str | None = None
    ) -> None:
        relation = "exceeds" if breached else "is within"
        message = f"{measure} {value:.2%} {relation} the limit {limit:.2%}: {what}"
        self.findings.append(Finding(measure, value, limit, breached, message, symbol))


def _data_findings(held: Mapping[str, float], history: pl.DataFrame, limits: RiskLimits) -> tuple[Finding, ...]:
    findings = [
        Finding("weight", 0.0, limits.max_position, True, f"the weight of {symbol} is {weight}: not a number", symbol)
        for symbol, weight in held.items()
        if not math.isfinite(weight)
    ]
    for symbol in held:
        if symbol not in history.columns or not history[symbol].dtype.is_numeric():
            message = f"no history of returns for {symbol}: its risk is unknown"
            findings.append(Finding("history", 0.0, limits.min_sessions, True, message, symbol))
            continue
        column = history[symbol].cast(pl.Float64)
        usable = int(column.is_finite().fill_null(False).sum())
        if usable < history.height:
            message = f"{history.height - usable} of {history.height} returns of {symbol} are missing or not finite"
            findings.append(Finding("history", usable, history.height, True, message, symbol))
    if held and history.height < limits.min_sessions:
        message = f"{history.height} sessions of history; at least {limits.min_sessions} are needed to judge risk"
        findings.append(Finding("history", history.height, limits.min_sessions, True, message))
    return tuple(findings)
