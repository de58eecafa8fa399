"""Backtests: what a signal would have earned, with its assumptions said out loud.

    >>> from quantflow.backtest import backtest            # doctest: +SKIP
    >>> result = backtest(momentum_signal.bind(), bars, fee_bps=1.0, slippage_bps=2.0)
    >>> result.metrics["sharpe_ratio"], result.assumptions

Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
