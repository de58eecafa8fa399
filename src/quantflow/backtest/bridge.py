"""The same backtest as a vectorbt portfolio: a second opinion, and its plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from quantflow.backtest._result import BacktestResult

__all__ = ["to_vectorbt"]

# Trades below this part of the largest holding are what rounding leaves of "no trade".
_NO_TRADE = 1e-12


def to_vectorbt(result: BacktestResult, bars: pl.DataFrame) -> Any:
    """Return a ``vectorbt.Portfolio`` that trades what the backtest traded.

    The number of shares that each fill bought or sold is handed over; vectorbt then does its own
    accounting of cash, fees and slippage, which comes to the same equity to 1e-9.

    Parameters
    ----------
    result
        A backtest of these bars.
    bars
        The frame that was given to :func:`backtest`.

    Notes
    -----
    vectorbt carries the Commons Clause. Its import and first call take several seconds.
    """
    import pandas as pd
    import vectorbt

    symbols = result.weights.columns[1:]
    index = pd.DatetimeIndex(result.equity["session"].to_list())

    def wide(column: str) -> pl.DataFrame:
        return bars.pivot(on="symbol", index="session", values=column).sort("session").select(symbols)

    def labelled(values: Any) -> Any:
        return pd.DataFrame(values, index=index, columns=symbols)

    close = wide("close").select(pl.all().forward_fill()).to_numpy()
    price = wide("open").to_numpy() if result.options["fill"] == "next_open" else close
    equity = result.equity["equity"].to_numpy()[:, None]
    shares = np.nan_to_num(result.weights.select(symbols).to_numpy() * equity / close)
    trades = np.diff(shares, axis=0, prepend=0.0)
    trades[np.abs(trades) <= _NO_TRADE * np.abs(shares).max(initial=0.0)] = np.nan
    return vectorbt.Portfolio.from_orders(
        labelled(close),
        size=labelled(trades),
        size_type="amount",
        price=labelled(price),
        fees=float(result.options["fee_bps"]) / 1e4,
        slippage=float(result.options["slippage_bps"]) / 1e4,
        init_cash=float(result.options["initial_cash"]),
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
        freq="D",
    )
