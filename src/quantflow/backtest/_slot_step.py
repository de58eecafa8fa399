"""One account of one symbol taken through one bar: what happens when, compiled into the engine of sweeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from quantflow.backtest._fills import (
    LIMITED_BELOW,
    NO_STOP,
    Counts,
    Position,
    Rules,
    added,
    blocked_by,
    cash_share,
    executed_price,
    increase_of,
    margin_share,
    off_target,
    settle,
    smallest_order,
    stop_fill,
    trail,
    wanted,
    whole_lots,
    wipe_out,
)

__all__ = ["Account", "Bar", "slot_step"]


class Account(NamedTuple):
    """One account of one symbol; ``equity`` at the last close, 0.0 when all was lost."""

    cash: float
    equity: float
    target: float
    traded: float  # the target that was last traded
    blocked: float  # the side that a stop blocks
    pending: float  # 1.0: targets may be traded as soon as there is a price
    position: Position


_NOTHING = Account(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, Position(0.0, 0.0, 0.0, 0.0))


class Bar(NamedTuple):
    """The prices of one bar; in the plain case only the first two are read."""

    reference: float
    close: float
    open: float
    high: float
    low: float
    volume: float
    split: float
    dividend: float


def _limited(
    order: float, shares: float, reference: float, equity: float, cash: float, volume: float, rules: Rules
) -> float:
    """Return the order as far as margin and cash allow, for an account of one symbol."""
    increase = increase_of(shares, order)
    if increase == 0.0:
        return order
    full = abs(increase)
    kept = abs(shares + order - increase) * reference
    size = full * margin_share(equity, rules.leverage, kept, full * reference)
    if order > 0.0:
        unit = executed_price(reference, 1.0, order, volume, rules) * (1.0 + rules.fee)
        available = cash + (rules.leverage - 1.0) * equity - (rules.fee_fixed + (order - increase) * unit)
        size *= cash_share(available, size * unit)
    if size < full:
        size = whole_lots(size, rules.lot)
    return order - increase + (size if increase > 0.0 else -size)


def _trade(
    cash: float, position: Position, counts: Counts, weight: float, reference: float, volume: float, rules: Rules
) -> tuple[float, Position, Counts]:
    """Trade to the target at a price; return cash, position and counts after it."""
    equity = cash + position.shares * reference
    if off_target(weight, equity, reference, position.shares):
        full = wanted(weight, equity, reference, position.shares, rules.lot)
        order = _limited(full, position.shares, reference, equity, cash, volume, rules)
        if abs(order) * reference > smallest_order(weight, equity, rules.min_order):
            limited = 1.0 if abs(order) < abs(full) * LIMITED_BELOW else 0.0
            flow, position, counts, _, _ = settle(order, reference, equity, volume, position, counts, rules)
            return cash + flow, position, added(counts, 0.0, 0.0, 0.0, limited)
    return cash, position, counts


def _stop_out(
    cash: float,
    position: Position,
    counts: Counts,
    blocked: float,
    target: float,
    equity: float,
    bar: Bar,
    only_open: bool,
    rules: Rules,
) -> tuple[float, Position, Counts, float]:
    """Close the position if the bar reaches a stop or profit level, else move the trailing stop."""
    price, kind = stop_fill(position, bar.open, bar.high, bar.low, only_open, rules)
    if kind != NO_STOP:
        blocked = blocked_by(position.shares, target)
        flow, position, counts, _, _ = settle(-position.shares, price, equity, bar.volume, position, counts, rules)
        return cash + flow, position, added(counts, 0.0, 0.0, 1.0, 0.0), blocked
    if not only_open:
        position = trail(position, bar.high, bar.low)
    return cash, position, counts, blocked


def slot_step(general: bool) -> Callable[..., tuple[Account, Counts, float]]:
    """Return ``step(account, counts, target, bar, due, rules)``; plain or general."""

    def step(
        account: Account, counts: Counts, target: float, bar: Bar, due: bool, rules: Rules
    ) -> tuple[Account, Counts, float]:
        """Return one account and its counts after one bar, and the value that it holds at the close."""
        cash, position, blocked = account.cash, account.position, account.blocked
        tradable = True
        if general:
            tradable = bar.volume > 0.0 or rules.impact == 0.0
            shares, entry, best = position.shares, position.entry, position.best
            if bar.split != 1.0:
                shares, entry, best = shares * bar.split, entry / bar.split, best / bar.split
            position = Position(shares, entry, best, position.open_profit)
            cash += shares * bar.dividend
            counts = added(counts, 0.0, shares * bar.dividend, 0.0, 0.0)
            if blocked * target <= 0.0:
                blocked = 0.0
            if position.shares != 0.0 and tradable:
                cash, position, counts, blocked = _stop_out(
                    cash, position, counts, blocked, target, account.equity, bar, rules.at_open != 0.0, rules
                )
        traded, pending = account.traded, 1.0 if due else account.pending
        if cash + position.shares * bar.reference <= 0.0:
            return _NOTHING, wipe_out(position, bar.reference, counts), 0.0
        if pending != 0.0 and tradable:
            pending = 0.0
            if blocked == 0.0 and (target != traded or rules.on_change == 0.0):
                traded = target
                cash, position, counts = _trade(cash, position, counts, target, bar.reference, bar.volume, rules)
        if general and rules.at_open != 0.0 and position.shares != 0.0 and tradable:
            cash, position, counts, blocked = _stop_out(
                cash, position, counts, blocked, target, account.equity, bar, False, rules
            )
        value = position.shares * bar.close
        if general:
            charge = rules.borrow * max(-value, 0.0) + rules.interest * max(-cash, 0.0)
            cash -= charge
            counts = added(counts, charge, 0.0, 0.0, 0.0)
        if cash + value <= 0.0:
            return _NOTHING, wipe_out(position, bar.close, counts), 0.0
        return Account(cash, cash + value, target, traded, blocked, pending, position), counts, value

    return step
