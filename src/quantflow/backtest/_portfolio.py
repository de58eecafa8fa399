"""The engine of accounts: many symbols, one pool of cash, bar by bar.

One compiled loop serves :func:`backtest` (a whole history), :func:`run_portfolio` (a sweep's
combination) and :class:`Account` (one bar at a time), so they agree bit for bit. What happens
when, and at which price, is stated in ``docs/backtesting.md``; the rules are in
:mod:`quantflow.backtest._fills`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

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
from quantflow.backtest._order_log import (
    BY_CASH,
    BY_MARGIN,
    ORDER_COUNT,
    ORDERS_A_BAR,
    REBALANCE,
    RUIN,
    SIGNAL,
    log_order,
)
from quantflow.backtest._raw import RUINED as RUINED_ROW
from quantflow.backtest._raw import read_counts, read_rules, write_counts
from quantflow.backtest._slots import CLOSE, DIVIDEND, FILL_PRICE, HIGH, LOW, OPEN, SPLIT, VOLUME

__all__ = ["portfolio_engine"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]

# The account's numbers.
CASH, EQUITY, RUINED = range(3)
ACCOUNT = ORDER_COUNT + 1

# What is remembered of each symbol, a row each.
SHARES, LAST, TARGET, TRADED, BLOCKED, ENTRY, BEST, OPEN_PROFIT, DECIDED, PENDING = range(10)
HELD = 10

# Series written a bar, a row each.
PATH_EQUITY, PATH_GROSS, PATH_NET, PATH_CASH, PATH_TURNOVER, PATH_COST = range(6)
PATH = 6

# What is true of each symbol now, a row each: its reference price, volume, order and the order's reason, whether it
# trades, whether its target may be traded; LISTED has the numbers of the symbols with orders.
REFERENCE, QUANTITY, WANTED, WHY, TRADABLE, READY, LISTED = range(7)
NOW = 7

_SIGNATURE = (
    "int64(float64[:,:,::1], uint8[:,::1], float64[:,::1], uint8[::1], float64[::1], float64[::1], float64[::1], "
    "float64[:,::1], float64[:,::1], float64[:,::1], float64[:,::1], float64[:,::1], float64[:,::1], int64, int64)"
)


@cache
def portfolio_engine(general: bool) -> Callable[..., int]:
    """Return the compiled loop over bars ``first`` to ``last``; it answers the first bar not done.

    It stops early where the log of orders could overflow. Arguments, in order: ``prices`` 2 (plain)
    or 8 x T x N, ``present`` and ``targets`` T x N (NaN: nothing decided), ``due`` T, ``tags`` T
    (what the log calls a bar), options, ``account``, ``held`` HELD x N, a scratch NOW x N and ``sums`` 1 x RAW_METRICS,
    updated in place, ``path`` PATH x T or 0 x 0, ``positions`` T x N or 0 x 0, ``orders`` or 0 x 0 for no
    log, ``first``, ``last``.
    """
    from quantflow.signals._cache import compile_cached

    compiled: Callable[..., int] = compile_cached(_loop(general), _SIGNATURE, inline=True)
    return compiled


def _decide(held: Floats, targets: Floats, row: int, tag: float) -> None:
    # Here and below both numbers are at hand before one is chosen: the processor then need not guess which way a
    # jump goes, which costs more than the work of an order, and takes several symbols at once.
    for symbol in range(targets.shape[1]):
        decided = targets[row, symbol]
        some = decided == decided
        held[TARGET, symbol] = decided if some else held[TARGET, symbol]
        held[DECIDED, symbol] = tag if some else held[DECIDED, symbol]


def _act(held: Floats, account: Floats, prices: Floats, row: int, counts: Counts) -> Counts:
    """Apply the splits and dividends that go ex at this bar, also where there is no bar; return the counts."""
    received = 0.0
    for symbol in range(held.shape[1]):
        split = prices[SPLIT, row, symbol]
        if split != 1.0:
            held[SHARES, symbol] *= split
            held[LAST, symbol] /= split
            held[ENTRY, symbol] /= split
            held[BEST, symbol] /= split
        received += held[SHARES, symbol] * prices[DIVIDEND, row, symbol]
    account[CASH] += received
    return added(counts, 0.0, received, 0.0, 0.0)


def _quote(
    held: Floats,
    prices: Floats,
    present: Flags,
    row: int,
    general: bool,
    rules: Rules,
    reference: Floats,
    volume: Floats,
    tradable: Floats,
) -> None:
    """Fill in at which price each symbol trades now, or that it cannot: then the last close stands in."""
    for symbol in range(held.shape[1]):
        here = present[row, symbol] != 0
        reference[symbol] = prices[FILL_PRICE, row, symbol] if here else held[LAST, symbol]
        if general:
            volume[symbol] = prices[VOLUME, row, symbol]
            here = here and (volume[symbol] > 0.0 or rules.impact == 0.0)
            if held[BLOCKED, symbol] * held[TARGET, symbol] <= 0.0:
                held[BLOCKED, symbol] = 0.0
        tradable[symbol] = 1.0 if here else 0.0


def _stop_out(
    held: Floats,
    account: Floats,
    orders: Floats,
    prices: Floats,
    tradable: Floats,
    volume: Floats,
    row: int,
    only_open: bool,
    rules: Rules,
    tag: float,
    counts: Counts,
) -> Counts:
    """Close positions whose stop or profit level the bar reaches, move trailing stops; return the counts."""
    for symbol in range(held.shape[1]):
        shares = held[SHARES, symbol]
        if shares == 0.0 or tradable[symbol] == 0.0:
            continue
        position = Position(shares, held[ENTRY, symbol], held[BEST, symbol], held[OPEN_PROFIT, symbol])
        high, low = prices[HIGH, row, symbol], prices[LOW, row, symbol]
        level, kind = stop_fill(position, prices[OPEN, row, symbol], high, low, only_open, rules)
        if kind != NO_STOP:
            held[BLOCKED, symbol] = blocked_by(shares, held[TARGET, symbol])
            flow, position, counts, price, fee = settle(
                -shares, level, account[EQUITY], volume[symbol], position, counts, rules
            )
            counts = added(counts, 0.0, 0.0, 1.0, 0.0)
            account[CASH] += flow
            if orders.shape[0] > 0:
                log_order(orders, account, tag, symbol, -shares, price, level, fee, kind, 0, np.nan)
        elif not only_open:
            position = trail(position, high, low)
        held[SHARES, symbol], held[ENTRY, symbol] = position.shares, position.entry
        held[BEST, symbol], held[OPEN_PROFIT, symbol] = position.best, position.open_profit
    return counts


def _mark(held: Floats, account: Floats, price: Floats) -> float:
    total = 0.0
    for symbol in range(held.shape[1]):
        total += held[SHARES, symbol] * price[symbol]
    return float(account[CASH] + total)


def _want(held: Floats, now: Floats, equity: float, rules: Rules) -> None:
    """Fill in the orders that lead to the targets, 0.0 for none.

    Several short loops: one that read and wrote all of these rows would take one symbol at a time.
    """
    for symbol in range(held.shape[1]):
        here = now[TRADABLE, symbol] != 0.0
        ready = here & (held[PENDING, symbol] != 0.0) & (held[BLOCKED, symbol] == 0.0)
        now[READY, symbol] = 1.0 if ready else 0.0
        held[PENDING, symbol] = 0.0 if here else held[PENDING, symbol]
    for symbol in range(held.shape[1]):
        weight, shares, price = held[TARGET, symbol], held[SHARES, symbol], now[REFERENCE, symbol]
        changed = (weight != held[TRADED, symbol]) | (rules.on_change == 0.0)
        some = (now[READY, symbol] != 0.0) & changed & off_target(weight, equity, price, shares)
        order = wanted(weight, equity, price, shares, rules.lot)
        now[WANTED, symbol] = order if some else 0.0
    for symbol in range(held.shape[1]):
        now[WHY, symbol] = SIGNAL if held[TARGET, symbol] != held[TRADED, symbol] else REBALANCE
    for symbol in range(held.shape[1]):
        held[TRADED, symbol] = held[TARGET, symbol] if now[READY, symbol] != 0.0 else held[TRADED, symbol]


def _list(held: Floats, now: Floats, equity: float, rules: Rules) -> tuple[int, int, float]:
    """List the symbols with orders, sales from the front, purchases from the back.

    Returns how many sales and purchases there are and which part of all increases margin allows.
    """
    sales, purchases, kept, increases = 0, 0, 0.0, 0.0
    last = held.shape[1] - 1
    for symbol in range(held.shape[1]):
        shares, order, price = held[SHARES, symbol], now[WANTED, symbol], now[REFERENCE, symbol]
        increase = increase_of(shares, order)
        kept += abs(shares + order - increase) * price
        increases += abs(increase) * price
        # Both ends are written in any case; a place that its count does not pass is written again.
        now[LISTED, sales] = symbol
        now[LISTED, last - purchases] = symbol
        sales += 1 if order < 0.0 else 0
        purchases += 1 if order > 0.0 else 0
    return sales, purchases, margin_share(equity, rules.leverage, kept, increases)


def _listed(now: Floats, place: int, sales: int) -> int:
    """Return the symbol of an order: sales first, then purchases, each in the order of symbols."""
    return int(now[LISTED, place if place < sales else now.shape[1] - 1 - (place - sales)])


def _affordable(
    held: Floats, account: Floats, now: Floats, sales: int, purchases: int, margin: float, equity: float, rules: Rules
) -> float:
    """Return which part of the purchases that margin allows can be paid."""
    available, need = account[CASH] + (rules.leverage - 1.0) * equity, 0.0
    for place in range(sales + purchases):
        symbol, side = _listed(now, place, sales), -1.0 if place < sales else 1.0
        order = now[WANTED, symbol]
        price = executed_price(now[REFERENCE, symbol], side, abs(order), now[QUANTITY, symbol], rules)
        unit = price * (1.0 + side * rules.fee)
        increase = increase_of(held[SHARES, symbol], order)
        available -= rules.fee_fixed + (order - increase) * unit
        if place < sales:
            available -= increase * margin * unit
        else:
            need += increase * margin * unit
    return cash_share(available, need)


def _trade(
    held: Floats,
    account: Floats,
    orders: Floats,
    now: Floats,
    sales: int,
    purchases: int,
    margin: float,
    equity: float,
    rules: Rules,
    tag: float,
    counts: Counts,
) -> Counts:
    """Execute the orders as far as margin and cash allow, sales first; return the counts."""
    affordable = _affordable(held, account, now, sales, purchases, margin, equity, rules)
    for place in range(sales + purchases):
        selling, symbol = place < sales, _listed(now, place, sales)
        order, reference = now[WANTED, symbol], now[REFERENCE, symbol]
        position = Position(held[SHARES, symbol], held[ENTRY, symbol], held[BEST, symbol], held[OPEN_PROFIT, symbol])
        increase = increase_of(position.shares, order)
        size = abs(increase) * margin
        if not selling:
            size *= affordable
        if size < abs(increase):
            size = whole_lots(size, rules.lot)
        final = order - increase + (-size if selling else size)
        if abs(final) * reference <= smallest_order(held[TARGET, symbol], equity, rules.min_order):
            continue
        limited_by = 0
        if abs(final) < abs(order) * LIMITED_BELOW:
            limited_by = BY_MARGIN if selling or rules.leverage != 1.0 else BY_CASH
            counts = added(counts, 0.0, 0.0, 0.0, 1.0)
        flow, position, counts, price, fee = settle(
            final, reference, equity, now[QUANTITY, symbol], position, counts, rules
        )
        account[CASH] += flow
        held[SHARES, symbol], held[ENTRY, symbol] = position.shares, position.entry
        held[BEST, symbol], held[OPEN_PROFIT, symbol] = position.best, position.open_profit
        if orders.shape[0] > 0:
            why, decided = now[WHY, symbol], held[DECIDED, symbol]
            log_order(orders, account, tag, symbol, final, price, reference, fee, why, limited_by, decided)
    return counts


def _lose_all(
    held: Floats, account: Floats, orders: Floats, reference: Floats, tag: float, row: int, counts: Counts
) -> Counts:
    """The whole equity is lost: nothing is held or owed afterwards; return the counts."""
    for symbol in range(held.shape[1]):
        shares = held[SHARES, symbol]
        if shares != 0.0:
            counts = wipe_out(Position(shares, 0.0, 0.0, held[OPEN_PROFIT, symbol]), reference[symbol], counts)
            if orders.shape[0] > 0:
                log_order(
                    orders, account, tag, symbol, -shares, reference[symbol], reference[symbol], 0.0, RUIN, 0, np.nan
                )
            held[SHARES, symbol] = 0.0
    account[CASH] = 0.0
    account[EQUITY] = 0.0
    account[RUINED] = row
    return counts


def _close(
    held: Floats, account: Floats, prices: Floats, present: Flags, row: int, rules: Rules, general: bool, counts: Counts
) -> tuple[float, float, Counts]:
    """Mark to the closes, accrue borrow and interest; return gross and net value held, and the counts."""
    gross, net = 0.0, 0.0
    for symbol in range(held.shape[1]):
        if present[row, symbol] != 0:
            held[LAST, symbol] = prices[CLOSE, row, symbol]
        value = held[SHARES, symbol] * held[LAST, symbol]
        gross += abs(value)
        net += value
    if general:
        charge = rules.borrow * (0.5 * (gross - net)) + rules.interest * max(-account[CASH], 0.0)
        account[CASH] -= charge
        counts = added(counts, charge, 0.0, 0.0, 0.0)
    account[EQUITY] = account[CASH] + net
    return gross, net, counts


def _copy(source: Floats, into: Floats) -> None:
    # Assigning a slice makes an array on the way, and what allocates must count references everywhere.
    for symbol in range(len(source)):
        into[symbol] = source[symbol]


def _loop(general: bool) -> Callable[..., Any]:
    def run_bars(
        prices: Floats,
        present: Flags,
        targets: Floats,
        due: Flags,
        tags: Floats,
        options: Floats,
        account: Floats,
        held: Floats,
        now: Floats,
        sums: Floats,
        path: Floats,
        positions: Floats,
        orders: Floats,
        first: int,
        last: int,
    ) -> int:
        count = held.shape[1]
        rules = read_rules(options)
        at_open = rules.at_open != 0.0
        counts = read_counts(sums, 0)
        reference, volume, tradable = now[REFERENCE], now[QUANTITY], now[TRADABLE]
        volume[:] = 1.0
        done = last
        for row in range(first, last):
            if orders.shape[0] > 0 and account[ORDER_COUNT] + ORDERS_A_BAR * count > orders.shape[0]:
                done = row
                break
            tag, turnover, cost = tags[row], counts.turnover, counts.cost
            gross, net = 0.0, 0.0
            if account[RUINED] < 0.0:
                if rules.lag == 0.0:
                    _decide(held, targets, row, tag)
                if general:
                    counts = _act(held, account, prices, row, counts)
                _quote(held, prices, present, row, general, rules, reference, volume, tradable)
                if general:
                    counts = _stop_out(
                        held, account, orders, prices, tradable, volume, row, at_open, rules, tag, counts
                    )
                if due[row] != 0:
                    held[PENDING] = 1.0
                equity = _mark(held, account, reference)
                alive = equity > 0.0
                if alive:
                    _want(held, now, equity, rules)
                    sales, purchases, margin = _list(held, now, equity, rules)
                    if sales + purchases > 0:
                        counts = _trade(
                            held, account, orders, now, sales, purchases, margin, equity, rules, tag, counts
                        )
                    if general and at_open:
                        counts = _stop_out(
                            held, account, orders, prices, tradable, volume, row, False, rules, tag, counts
                        )
                    gross, net, counts = _close(held, account, prices, present, row, rules, general, counts)
                    alive = account[EQUITY] > 0.0
                    if not alive:
                        _copy(held[LAST], reference)
                if not alive:
                    counts = _lose_all(held, account, orders, reference, tag, row, counts)
                    sums[0, RUINED_ROW] = row
                    gross, net = 0.0, 0.0
                if rules.lag != 0.0:
                    _decide(held, targets, row, tag)
            if path.shape[0] > 0:
                path[PATH_EQUITY, row], path[PATH_CASH, row] = account[EQUITY], account[CASH]
                path[PATH_GROSS, row], path[PATH_NET, row] = gross, net
                path[PATH_TURNOVER, row], path[PATH_COST, row] = counts.turnover - turnover, counts.cost - cost
            if positions.shape[0] > 0:
                _copy(held[SHARES], positions[row])
        write_counts(counts, sums, 0)
        return done

    return run_bars
