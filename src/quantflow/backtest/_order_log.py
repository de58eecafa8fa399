"""The log that the portfolio engine writes its orders into: a row of numbers an order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["log_order"]

Floats = npt.NDArray[np.float64]

# Columns of the log of orders. Reasons 1 to 3 are the kinds of stops.
TAG, SYMBOL, ORDER, PRICE, REFERENCE, ORDER_FEE, REASON, LIMITED_BY, DECIDED_TAG = range(9)
ORDER_COLUMNS = 9
SIGNAL, REBALANCE, RUIN = 4, 5, 6
BY_CASH, BY_MARGIN = 1, 2

#: Most orders of one symbol within a bar: a gap, the target, a stop, the next target or ruin.
ORDERS_A_BAR = 4

# Where an account's numbers count the orders of the log.
ORDER_COUNT = 3


def log_order(
    orders: Floats,
    account: Floats,
    tag: float,
    symbol: int,
    order: float,
    price: float,
    reference: float,
    fee: float,
    reason: float,
    limited_by: float,
    decided: float,
) -> None:
    """Add an order to the log."""
    record = int(account[ORDER_COUNT])
    orders[record, TAG] = tag
    orders[record, SYMBOL] = symbol
    orders[record, ORDER] = order
    orders[record, PRICE] = price
    orders[record, REFERENCE] = reference
    orders[record, ORDER_FEE] = fee
    orders[record, REASON] = reason
    orders[record, LIMITED_BY] = limited_by
    orders[record, DECIDED_TAG] = decided
    account[ORDER_COUNT] += 1.0
