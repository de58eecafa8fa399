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
    from quantflow.backtest._account import Account, AccountStep
    from quantflow.backtest._engine import backtest
    from quantflow.backtest._from_raw import SUMMARY_METRICS
    from quantflow.backtest._market import Market
    from quantflow.backtest._options import Execution, Fill, Rebalance
    from quantflow.backtest._orders import Order
    from quantflow.backtest._raw import RAW_METRICS
    from quantflow.backtest._result import BacktestResult
    from quantflow.backtest._runs import run_portfolio, run_slots
    from quantflow.backtest._search import RandomSearch, SuccessiveHalving
    from quantflow.backtest._sweep import sweep
    from quantflow.backtest._trades import (
        capacity,
        drawdown_table,
        round_trips,
    )
    from quantflow.backtest.bridge import bars_from_pandas, bars_to_pandas, to_vectorbt
    from quantflow.backtest.metrics import (
        annual_volatility,
        cagr,
        calmar_ratio,
        expectancy,
        hit_rate,
        information_ratio,
        kurtosis,
        longest_drawdown,
        max_drawdown_duration,
        omega_ratio,
        portfolio_metrics,
        probabilistic_sharpe,
        profit_factor,
        rolling_sharpe_ratio,
        sharpe_ratio,
        skew,
        sortino_ratio,
        tail_ratio,
        total_return,
        win_rate,
    )
    from quantflow.backtest.validation import (
        CrossValidation,
        WalkForward,
        combinatorial_purged_cv,
        walk_forward,
    )

__all__ = [
    "RAW_METRICS",
    "SUMMARY_METRICS",
    "Account",
    "AccountStep",
    "BacktestResult",
    "CrossValidation",
    "Execution",
    "Fill",
    "Market",
    "Order",
    "RandomSearch",
    "Rebalance",
    "SuccessiveHalving",
    "WalkForward",
    "annual_volatility",
    "backtest",
    "bars_from_pandas",
    "bars_to_pandas",
    "cagr",
    "calmar_ratio",
    "capacity",
    "combinatorial_purged_cv",
    "drawdown_table",
    "expectancy",
    "hit_rate",
    "information_ratio",
    "kurtosis",
    "longest_drawdown",
    "max_drawdown_duration",
    "omega_ratio",
    "portfolio_metrics",
    "probabilistic_sharpe",
    "profit_factor",
    "rolling_sharpe_ratio",
    "round_trips",
    "run_portfolio",
    "run_slots",
    "sharpe_ratio",
    "skew",
    "sortino_ratio",
    "sweep",
    "tail_ratio",
    "to_vectorbt",
    "total_return",
    "walk_forward",
    "win_rate",
]

_HOMES = {
    "validation": (
        "CrossValidation",
        "WalkForward",
        "combinatorial_purged_cv",
        "walk_forward",
    ),
    "metrics": (
        "annual_volatility",
        "cagr",
        "calmar_ratio",
        "expectancy",
        "hit_rate",
        "information_ratio",
        "kurtosis",
        "longest_drawdown",
        "max_drawdown_duration",
        "omega_ratio",
        "portfolio_metrics",
        "probabilistic_sharpe",
        "profit_factor",
        "rolling_sharpe_ratio",
        "sharpe_ratio",
        "skew",
        "sortino_ratio",
        "tail_ratio",
        "total_return",
        "win_rate",
    ),
    "_trades": (
        "capacity",
        "drawdown_table",
        "round_trips",
    ),
    "_account": ("Account", "AccountStep"),
    "_engine": ("backtest",),
    "_market": ("Market",),
    "_orders": ("Order",),
    "_options": ("Execution", "Fill", "Rebalance"),
    "_raw": ("RAW_METRICS",),
    "_result": ("BacktestResult",),
    "_runs": ("run_portfolio", "run_slots"),
    "bridge": ("bars_from_pandas", "bars_to_pandas", "to_vectorbt"),
    "_search": ("RandomSearch", "SuccessiveHalving"),
    "_sweep": ("sweep",),
    "_from_raw": ("SUMMARY_METRICS",),
}

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
