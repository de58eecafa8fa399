"""What a backtest hands over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

__all__ = ["BacktestResult"]


@dataclass(frozen=True)
class BacktestResult:
    """One backtest, a row a session of the union of all symbols' sessions.

    Attributes
    ----------
    equity
        ``session``, ``equity`` at the close, ``drawdown`` (fall from the highest equity so far, a
        positive fraction), ``benchmark`` (equity of the same cash in equal slots bought at
        each symbol's first close and held, without costs).
    exposures
        ``symbol``, ``session``, ``timestamp``, ``exposure`` decided at that close, ``weight`` =
        exposure / number of symbols: the target fraction of equity, held from its fill on.
    weights
        ``session`` and a column a symbol: the fraction of equity actually held after that close.
    returns
        ``session``, ``return`` of equity, ``turnover`` (value traded / equity before the
        trade), ``cost`` (fees and slippage / equity before the trade).
    metrics
        Figures by name; see :func:`quantflow.backtest.portfolio_metrics`.
    assumptions
        Sentences that belong beside every figure.
    options
        What :func:`backtest` was called with: ``fill``, ``fee_bps``, ``slippage_bps``, ``initial_cash``,
        ``periods_per_year``, ``risk_free_rate``.
    """

    equity: pl.DataFrame
    exposures: pl.DataFrame
    weights: pl.DataFrame
    returns: pl.DataFrame
    metrics: Mapping[str, float]
    assumptions: tuple[str, ...]
    options: Mapping[str, str | float]

    @property
    def target_weights(self) -> dict[str, float]:
        """The weights decided at each symbol's last bar: what the signal says now."""
        last = self.exposures.group_by("symbol", maintain_order=True).last()
        return dict(zip(last["symbol"].to_list(), last["weight"].to_list(), strict=True))
