"""What a backtest hands over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

__all__ = ["BacktestResult"]


@dataclass(frozen=True)
class BacktestResult:
    """One backtest, a row a timestamp at which any symbol has a bar.

    Every frame of rows in time has ``session`` (trading date) and ``timestamp`` (UTC).

    Attributes
    ----------
    equity
        ``equity`` at the close, ``drawdown`` (fall from the highest equity so far, a
        positive fraction), ``benchmark`` (equity of the same cash in equal slots bought at
        each symbol's first close and held, dividends reinvested, without costs), ``cash``
        (negative: borrowed).
    exposures
        ``symbol``, ``exposure`` decided at that close, ``weight``: the target fraction of equity, held
        from its fill on. A signal per symbol owns an equal slot for each of N symbols, so
        weight = exposure / N; a cross-sectional signal answers weights.
    weights
        A column a symbol: the fraction of equity actually held after that close.
    positions
        A column a symbol: the shares held after that close, negative where short.
    orders
        A row an order in the order of execution: ``symbol``, ``side`` (``buy``, ``sell``), ``shares``, ``price``
        (executed), ``reference_price`` (before slippage), ``value`` (shares x price), ``fee``,
        ``slippage`` (cash), ``reason`` (``signal``: the target changed; ``rebalance``: the holding had left
        its target; ``stop_loss``, ``take_profit``, ``trailing_stop``, ``ruin``), ``limited_by`` (``cash``,
        ``margin``, or null), ``decided_at`` (null where no target led to it).
    returns
        ``return`` of equity, ``turnover`` (value traded / equity before the trade), ``cost`` (fees
        and slippage / equity before the trade), ``exposure`` (gross value held / equity).
    metrics
        Figures by name; see :func:`quantflow.backtest.portfolio_metrics`.
    assumptions
        Sentences that belong beside every figure.
    options
        What :func:`backtest` was called with: every field of :class:`Execution`, and
        ``risk_free_rate``.
    has_actions
        True when splits or dividends were given.
    """

    equity: pl.DataFrame
    exposures: pl.DataFrame
    weights: pl.DataFrame
    positions: pl.DataFrame
    orders: pl.DataFrame
    returns: pl.DataFrame
    metrics: Mapping[str, float]
    assumptions: tuple[str, ...]
    options: Mapping[str, Any]
    has_actions: bool = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that were traded, ascending."""
        return tuple(self.positions.columns[2:])

    @property
    def target_weights(self) -> dict[str, float]:
        """The weights decided at each symbol's last bar: what the signal says now."""
        last = self.exposures.group_by("symbol", maintain_order=True).last()
        return dict(zip(last["symbol"].to_list(), last["weight"].to_list(), strict=True))
