"""The log of orders, from the engine's numbers to names."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest import _order_log as log

__all__ = ["ORDER_SCHEMA", "REASONS", "Order", "orders_frame"]

#: Why an order was made, by the engine's number.
REASONS = {
    1: "stop_loss",
    2: "take_profit",
    3: "trailing_stop",
    log.SIGNAL: "signal",
    log.REBALANCE: "rebalance",
    log.RUIN: "ruin",
}
LIMITS = {0: None, log.BY_CASH: "cash", log.BY_MARGIN: "margin"}

_TIME = pl.Datetime("us", "UTC")

#: Columns of :attr:`BacktestResult.orders`.
ORDER_SCHEMA = pl.Schema(
    {
        "timestamp": _TIME,
        "session": pl.Date(),
        "symbol": pl.String(),
        "side": pl.String(),
        "shares": pl.Float64(),
        "price": pl.Float64(),
        "reference_price": pl.Float64(),
        "value": pl.Float64(),
        "fee": pl.Float64(),
        "slippage": pl.Float64(),
        "reason": pl.String(),
        "limited_by": pl.String(),
        "decided_at": _TIME,
    }
)


class Order(NamedTuple):
    """One executed order; the fields are the columns of :attr:`BacktestResult.orders`."""

    timestamp: datetime
    session: date
    symbol: str
    side: str
    shares: float
    price: float
    reference_price: float
    value: float
    fee: float
    slippage: float
    reason: str
    limited_by: str | None
    decided_at: datetime | None


def orders_frame(
    logged: npt.NDArray[np.float64], symbols: tuple[str, ...], timestamps: pl.Series, sessions: pl.Series
) -> pl.DataFrame:
    """Return the log as a frame, in the order of execution; tags are rows of ``timestamps``."""
    rows = logged[:, log.TAG].astype(np.int64)
    decided = logged[:, log.DECIDED_TAG]
    decided_row = pl.Series(np.where(np.isnan(decided), -1.0, decided).astype(np.int64))
    shares, price, reference = np.abs(logged[:, log.ORDER]), logged[:, log.PRICE], logged[:, log.REFERENCE]
    names = pl.Series(list(symbols), dtype=pl.String)
    frame = pl.DataFrame(
        {
            "timestamp": timestamps.gather(rows),
            "session": sessions.gather(rows),
            "symbol": names.gather(logged[:, log.SYMBOL].astype(np.int64)),
            "side": np.where(logged[:, log.ORDER] > 0.0, "buy", "sell").tolist(),
            "shares": shares,
            "price": price,
            "reference_price": reference,
            "value": shares * price,
            "fee": logged[:, log.ORDER_FEE],
            "slippage": shares * np.abs(price - reference),
            "reason": [REASONS[int(code)] for code in logged[:, log.REASON]],
            "limited_by": [LIMITS[int(code)] for code in logged[:, log.LIMITED_BY]],
            "decided_at": timestamps.gather(decided_row.set(decided_row < 0, None)),
        },
        schema=ORDER_SCHEMA,
    )
    return frame
