"""How decisions become trades: every assumption of a backtest in one frozen record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from quantflow.backtest._fills import Rules
from quantflow.errors import SignalError

__all__ = ["Execution", "Fill", "Rebalance"]

Fill = Literal["next_open", "next_close", "same_close"]
Schedule = Literal["every_bar", "on_change", "weekly", "monthly", "quarterly"]
Rebalance = Schedule | Sequence[date]

_BPS = 1e-4
_BASIS_POINTS = ("fee_bps", "slippage_bps", "impact_bps", "borrow_bps", "interest_bps")
_AT_LEAST_ZERO = ("fee_fixed", "half_spread", "lot_size", "min_order")
_ABOVE_ZERO = ("initial_cash", "periods_per_year")
_FRACTIONS = ("stop_loss", "trailing_stop")


@dataclass(frozen=True)
class Execution:
    """The assumptions of a backtest, checked when made; ``docs/backtesting.md`` states every rule.

    Attributes
    ----------
    fill
        Which price fills a decision of a bar's close: ``next_open``, ``next_close``, or
        ``same_close``, which nobody can have and every report marks.
    fee_bps, fee_fixed
        Fee of an order: basis points of the executed value, plus cash an order.
    slippage_bps, half_spread, impact_bps
        What moves the executed price against the order: basis points of the price, cash a share,
        and basis points times the square root of shares over the bar's volume.
    initial_cash
        Equity before the first bar.
    leverage
        Largest gross exposure that orders may lead to, in multiples of equity; with 1.0 nothing
        can be bought on credit.
    borrow_bps, interest_bps
        A year on the value of short positions, and on negative cash.
    lot_size
        Shares come in multiples of it; 0.0 allows fractions of any size.
    min_order
        Smallest value of an order, except one that closes a position.
    stop_loss, take_profit, trailing_stop
        Fractions of the average price paid (stop and profit) and of the best price since
        (trailing); None for none.
    rebalance
        When targets are traded: ``every_bar``; ``on_change`` of a symbol's target; at the first
        bar of a week, month or quarter; or at the first bar on or after each given date.
    calendar
        Name of an ``exchange_calendars`` calendar: bars of a day on which that exchange did not
        trade are refused.
    periods_per_year
        Bars in a year, for borrow cost, interest and yearly figures.

    Raises
    ------
    SignalError
        Names the option that is out of range and what is allowed.
    """

    fill: Fill = "next_open"
    fee_bps: float = 0.0
    fee_fixed: float = 0.0
    slippage_bps: float = 0.0
    half_spread: float = 0.0
    impact_bps: float = 0.0
    initial_cash: float = 1.0
    leverage: float = 1.0
    borrow_bps: float = 0.0
    interest_bps: float = 0.0
    lot_size: float = 0.0
    min_order: float = 0.0
    stop_loss: float | None = None
    take_profit: float | None = None
    trailing_stop: float | None = None
    rebalance: Rebalance = "every_bar"
    calendar: str | None = None
    periods_per_year: float = 252.0

    def __post_init__(self) -> None:
        if self.fill not in get_args(Fill):
            raise SignalError(f"fill is {self.fill!r}; allowed: {', '.join(get_args(Fill))}")
        for name in _BASIS_POINTS:
            self._check(name, "basis points, at least 0 and below 10,000", low=0.0, below=10_000.0)
        for name in _AT_LEAST_ZERO:
            self._check(name, "a finite number, at least 0", low=0.0)
        for name in _ABOVE_ZERO:
            self._check(name, "a finite number above 0", above=0.0)
        self._check("leverage", "a finite number, at least 1", low=1.0)
        for name in _FRACTIONS:
            self._check(name, "None or a fraction above 0 and below 1", above=0.0, below=1.0, optional=True)
        self._check("take_profit", "None or a finite fraction above 0", above=0.0, optional=True)
        object.__setattr__(self, "rebalance", _checked_rebalance(self.rebalance))
        if self.calendar is not None and not isinstance(self.calendar, str):
            raise SignalError(f"calendar is {self.calendar!r}; allowed: None or a name, such as 'XNYS'")

    @property
    def has_stops(self) -> bool:
        """True when a position can be closed within a bar."""
        return not (self.stop_loss is None and self.take_profit is None and self.trailing_stop is None)

    @property
    def is_plain(self) -> bool:
        """False for anything beyond fees and slippage in basis points, and leverage: the general engine is needed."""
        return not (
            self.has_stops
            or self.fee_fixed
            or self.half_spread
            or self.impact_bps
            or self.borrow_bps
            or self.interest_bps
            or self.lot_size
            or self.min_order
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, as texts and numbers."""
        options = asdict(self)
        if not isinstance(self.rebalance, str):
            options["rebalance"] = ",".join(day.isoformat() for day in self.rebalance)
        return options

    def to_array(self, *, risk_free_rate: float = 0.0) -> npt.NDArray[np.float64]:
        """Return what the compiled engines read, :class:`Rules` in order; ``risk_free_rate`` is a year."""
        rules = Rules(
            lag=0.0 if self.fill == "same_close" else 1.0,
            at_open=float(self.fill == "next_open"),
            on_change=float(self.rebalance == "on_change"),
            fee=self.fee_bps * _BPS,
            fee_fixed=self.fee_fixed,
            slippage=self.slippage_bps * _BPS,
            half_spread=self.half_spread,
            impact=self.impact_bps * _BPS,
            initial_cash=self.initial_cash,
            leverage=self.leverage,
            borrow=self.borrow_bps * _BPS / self.periods_per_year,
            interest=self.interest_bps * _BPS / self.periods_per_year,
            lot=self.lot_size,
            min_order=self.min_order,
            stop_loss=self.stop_loss or 0.0,
            take_profit=self.take_profit or 0.0,
            trailing_stop=self.trailing_stop or 0.0,
            risk_free=(1.0 + risk_free_rate) ** (1.0 / self.periods_per_year) - 1.0,
        )
        return np.array(rules, dtype=np.float64)

    def _check(
        self,
        name: str,
        allowed: str,
        *,
        low: float = -math.inf,
        above: float = -math.inf,
        below: float = math.inf,
        optional: bool = False,
    ) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        known = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not known or not (low <= value < below and value > above):
            raise SignalError(f"{name} is {value!r}; allowed: {allowed}")


def execution_of(options: dict[str, Any]) -> Execution:
    """Return the record of keyword options.

    Raises
    ------
    SignalError
        An option is unknown or out of range.
    """
    known = [field.name for field in fields(Execution)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SignalError(f"unknown options {', '.join(unknown)}; allowed: {', '.join(known)}")
    return Execution(**options)


def _checked_rebalance(rebalance: Rebalance) -> Schedule | tuple[date, ...]:
    if isinstance(rebalance, str):
        if rebalance in get_args(Schedule):
            return rebalance
    else:
        days = tuple(rebalance)
        # A datetime is a date to isinstance, and would compare with none.
        if days and all(type(day) is date for day in days):
            return tuple(sorted(set(days)))
    raise SignalError(f"rebalance is {rebalance!r}; allowed: {', '.join(get_args(Schedule))}, or dates (at least one)")
