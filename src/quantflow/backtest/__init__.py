"""Backtests: what a signal would have earned, with its assumptions said out loud.

    >>> from quantflow.backtest import backtest            # doctest: +SKIP
    >>> result = backtest(momentum_signal.bind(), bars, fee_bps=1.0, slippage_bps=2.0)
    >>> result.metrics["sharpe_ratio"], result.assumptions

Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.backtest._engine import Fill, backtest
    from quantflow.backtest._result import BacktestResult
    from quantflow.backtest.bridge import to_vectorbt
    from quantflow.backtest.metrics import annual_volatility, cagr, hit_rate, portfolio_metrics, sharpe_ratio

__all__ = [
    "BacktestResult",
    "Fill",
    "annual_volatility",
    "backtest",
    "cagr",
    "hit_rate",
    "portfolio_metrics",
    "sharpe_ratio",
    "to_vectorbt",
]

_HOMES = {
    "_engine": ("Fill", "backtest"),
    "_result": ("BacktestResult",),
    "bridge": ("to_vectorbt",),
    "metrics": ("annual_volatility", "cagr", "hit_rate", "portfolio_metrics", "sharpe_ratio"),
}

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
