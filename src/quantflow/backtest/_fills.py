"""The rules of trading, one small function each, compiled into both engines.

``side`` is 1.0 for buying or being long and -1.0 for selling or being short; ``shares`` are
signed where they are a position or an order, positive where they are a size. The functions
take and answer numbers and tuples of numbers only: numba passes arrays between functions at a
price that a loop over bars would feel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

__all__ = [
    "LIMITED_BELOW",
    "NO_STOP",
    "NO_TRADE",
    "Counts",
    "Position",
    "Rules",
    "average_price",
    "best_price",
    "blocked_by",
    "cash_share",
    "executed_price",
    "increase_of",
    "margin_share",
    "off_target",
    "realised",
    "settle",
    "smallest_order",
    "stop_fill",
    "trail",
    "wanted",
    "whole_lots",
    "wipe_out",
]

#: Orders below this part of equity are what rounding leaves of "no trade".
NO_TRADE = 1e-12

#: An order that keeps more than this part of its size was not limited, only rounded.
LIMITED_BELOW = 1.0 - 1e-9

NO_STOP = 0
STOP_LOSS_HIT = 1
TAKE_PROFIT_HIT = 2
TRAILING_STOP_HIT = 3

# A size that falls short of a lot by rounding only is that lot.
_LOT_ROUNDING = 1.0 + 1e-12


class Rules(NamedTuple):
    """The numbers of an :class:`~quantflow.backtest.Execution`, rates a bar; stops are 0.0 for none."""

    lag: float
    at_open: float
    on_change: float
    fee: float
    fee_fixed: float
    slippage: float
    half_spread: float
    impact: float
    initial_cash: float
    leverage: float
    borrow: float
    interest: float
    lot: float
    min_order: float
    stop_loss: float
    take_profit: float
    trailing_stop: float
    risk_free: float


class Position(NamedTuple):
    """A symbol's shares, their average price paid, the best price since, the open round trip's cash so far."""

    shares: float
    entry: float
    best: float
    open_profit: float


class Counts(NamedTuple):
    """What is counted of orders; the same names in :data:`~quantflow.backtest.RAW_METRICS`.

    They stand in the opposite order there: numbers that are neighbours on both sides would be
    copied several at a time, and the processor waits long for several that were written one by one.
    """

    limited: float
    stops: float
    trade_loss: float
    trade_profit: float
    trades_won: float
    trades: float
    dividends: float
    carry: float
    slippage: float
    fees: float
    cost: float
    turnover: float
    orders: float


def executed_price(reference: float, side: float, size: float, volume: float, rules: Rules) -> float:
    """Return what a share costs: the reference moved against the order; a sale brings at least 0."""
    moved = rules.slippage
    if rules.impact > 0.0:
        moved += rules.impact * math.sqrt(size / volume)
    return max(reference * (1.0 + side * moved) + side * rules.half_spread, 0.0)


def whole_lots(shares: float, lot: float) -> float:
    """Return the shares rounded toward zero to a multiple of ``lot``; as they are for lot 0."""
    if lot > 0.0:
        return math.copysign(math.floor(abs(shares) / lot * _LOT_ROUNDING) * lot, shares)
    return shares


def off_target(weight: float, equity: float, reference: float, shares: float) -> bool:
    """Return whether a holding differs from its target by more than rounding."""
    return abs(weight * equity - shares * reference) > NO_TRADE * equity


def wanted(weight: float, equity: float, reference: float, shares: float, lot: float) -> float:
    """Return the order that leads from ``shares`` to a weight of equity; a weight of 0 closes all."""
    # np.divide has no check for zero, which would keep the processor from working on several symbols at once.
    return whole_lots(np.divide(weight * equity, reference), lot) - shares


def smallest_order(weight: float, equity: float, min_order: float) -> float:
    """Return the value that an order must exceed; closing a position has no smallest size."""
    smallest = NO_TRADE * equity
    if weight != 0.0:
        smallest = max(smallest, min_order * (1.0 - NO_TRADE))
    return smallest


def increase_of(shares: float, order: float) -> float:
    """Return the part of an order that takes the position away from zero."""
    after = shares + order
    beyond = 0.0 if abs(order) <= abs(shares) else after
    return order if shares * order >= 0.0 else beyond


def margin_share(equity: float, leverage: float, kept: float, increase: float) -> float:
    """Return which part of the increases fits: values kept and increased <= leverage x equity."""
    room = max(leverage * equity - kept, 0.0)
    return room / increase if increase > room else 1.0


def cash_share(available: float, need: float) -> float:
    """Return which part of the purchases can be paid."""
    return max(available, 0.0) / need if need > available and need > 0.0 else 1.0


def average_price(entry: float, shares: float, order: float, price: float) -> float:
    """Return the average price paid for the position after an order; 0.0 for none."""
    after = shares + order
    if after == 0.0:
        return 0.0
    if shares * after <= 0.0:
        return price
    if abs(after) > abs(shares):
        return (entry * abs(shares) + price * abs(order)) / abs(after)
    return entry


def best_price(best: float, shares: float, order: float, price: float) -> float:
    """Return the price that a trailing stop starts from after an order."""
    after = shares + order
    if after == 0.0:
        return 0.0
    return price if shares * after <= 0.0 else best


def trail(position: Position, high: float, low: float) -> Position:
    """Return the position after a bar that it outlived: its best price moved on."""
    best = max(position.best, high) if position.shares > 0.0 else min(position.best, low)
    return Position(position.shares, position.entry, best, position.open_profit)


def blocked_by(shares: float, target: float) -> float:
    """Return the side that a stop blocks: until the target was 0 or changed its sign."""
    side = 1.0 if shares > 0.0 else -1.0
    return side if side * target > 0.0 else 0.0


def realised(open_profit: float, shares: float, order: float, flow: float) -> tuple[float, float, float]:
    """Return (profit of the open round trip, profit of the one that ended, whether one ended).

    ``flow`` is the cash that the order brings (negative: costs). An order through zero ends one
    round trip and opens the next; its cash is split in proportion to the shares.
    """
    after = shares + order
    if shares == 0.0:
        return flow, 0.0, 0.0
    if after == 0.0:
        return 0.0, open_profit + flow, 1.0
    if shares * after > 0.0:
        return open_profit + flow, 0.0, 0.0
    part = -shares / order
    return flow * (1.0 - part), open_profit + flow * part, 1.0


def settle(
    order: float, reference: float, equity: float, volume: float, position: Position, counts: Counts, rules: Rules
) -> tuple[float, Position, Counts, float, float]:
    """Execute an order; return the cash it brings, the position and counts after it, its price and fee.

    ``equity`` is what turnover and cost are measured against.
    """
    size = abs(order)
    price = executed_price(reference, 1.0 if order > 0.0 else -1.0, size, volume, rules)
    fee = size * price * rules.fee + rules.fee_fixed
    slippage = size * abs(price - reference)
    flow = -order * price - fee
    open_profit, profit, ended = realised(position.open_profit, position.shares, order, flow)
    after = Position(
        position.shares + order,
        average_price(position.entry, position.shares, order, price),
        best_price(position.best, position.shares, order, price),
        open_profit,
    )
    counted = Counts(
        counts.limited,
        counts.stops,
        counts.trade_loss - min(profit, 0.0),
        counts.trade_profit + max(profit, 0.0),
        counts.trades_won + (1.0 if profit > 0.0 else 0.0),
        counts.trades + ended,
        counts.dividends,
        counts.carry,
        counts.slippage + slippage,
        counts.fees + fee,
        counts.cost + (fee + slippage) / equity,
        counts.turnover + size * reference / equity,
        counts.orders + 1.0,
    )
    return flow, after, counted, price, fee


def wipe_out(position: Position, reference: float, counts: Counts) -> Counts:
    """Return the counts after the order that takes away a position when the whole equity is lost."""
    if position.shares == 0.0:
        return counts
    profit = position.open_profit + position.shares * reference
    return Counts(
        counts.limited,
        counts.stops,
        counts.trade_loss - min(profit, 0.0),
        counts.trade_profit + max(profit, 0.0),
        counts.trades_won + (1.0 if profit > 0.0 else 0.0),
        counts.trades + 1.0,
        counts.dividends,
        counts.carry,
        counts.slippage,
        counts.fees,
        counts.cost,
        counts.turnover,
        counts.orders + 1.0,
    )


def added(counts: Counts, carry: float, dividends: float, stops: float, limited: float) -> Counts:
    """Return the counts with more carry paid, dividends received, stops and limited orders."""
    return Counts(
        counts.limited + limited,
        counts.stops + stops,
        counts.trade_loss,
        counts.trade_profit,
        counts.trades_won,
        counts.trades,
        counts.dividends + dividends,
        counts.carry + carry,
        counts.slippage,
        counts.fees,
        counts.cost,
        counts.turnover,
        counts.orders,
    )


def stop_fill(
    position: Position, first: float, high: float, low: float, only_open: bool, rules: Rules
) -> tuple[float, int]:
    """Return (price, which stop) of a position that a bar closes; (0.0, NO_STOP) where none does.

    A level that the open is already beyond fills at the open. Within the bar the stop comes
    before the take-profit. The best price is that up to the previous bar.
    """
    side = 1.0 if position.shares > 0.0 else -1.0
    kind = NO_STOP
    level = -side * math.inf
    if rules.stop_loss > 0.0:
        kind = STOP_LOSS_HIT
        level = position.entry * (1.0 - side * rules.stop_loss)
    if rules.trailing_stop > 0.0:
        trailing = position.best * (1.0 - side * rules.trailing_stop)
        if kind == NO_STOP or side * trailing > side * level:
            kind = TRAILING_STOP_HIT
            level = trailing
    target = position.entry * (1.0 + side * rules.take_profit) if rules.take_profit > 0.0 else side * math.inf
    if side * first <= side * level:
        return first, kind
    if side * first >= side * target:
        return first, TAKE_PROFIT_HIT
    if not only_open:
        if side * (low if side > 0.0 else high) <= side * level:
            return level, kind
        if side * (high if side > 0.0 else low) >= side * target:
            return target, TAKE_PROFIT_HIT
    return 0.0, NO_STOP
