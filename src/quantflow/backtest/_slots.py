"""The engine of sweeps: one symbol, one account, many combinations of parameters.

The same rules as the portfolio engine (:mod:`quantflow.backtest._portfolio`), out of the same
functions, without arrays of symbols: both come to the same numbers, bit for bit. It is
generated in two variants, so that the plain case pays nothing for what it does not use.

It works on blocks of bars for a few combinations (lanes) at a time: first each account walks
through the block, then the block's equity is measured, all lanes side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from quantflow.backtest._fills import Position
from quantflow.backtest._raw import (
    BLOCK,
    LANES,
    MEMORY,
    RAW_METRICS,
    RUINED,
    begin_measurement,
    measure_block,
    read_counts,
    read_rules,
    write_counts,
    write_measurement,
)
from quantflow.backtest._slot_step import Account, Bar, slot_step

__all__ = ["NO_CASH", "new_sums", "rests", "slots_engine", "workspace"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

# Rows of the matrix of prices; the first two are all that the plain case reads.
FILL_PRICE, CLOSE, OPEN, HIGH, LOW, VOLUME, SPLIT, DIVIDEND = range(8)

# Cash below this part of equity cannot lead to an order: see NO_TRADE.
NO_CASH = 1e-15
# Equity above this many times the cash: no order comes from it and no loss uses it up, wherever the open is.
_FAR_FROM_CASH = 1e14

_SIGNATURE = (
    "void(float64[:,::1], int64[:,::1], float64[:,::1], uint8[::1], float64[::1], int64, float64[:,::1], "
    "float64[:,::1], float64[:,::1], float64[:,::1], float64[:,::1], float64[::1])"
)

# An account's numbers, not in the order of :class:`Account`: neighbours on both sides would be copied several at a
# time, and the processor waits long for several numbers that were written one by one.
_ACCOUNT = 10
_OPEN_PROFIT, _BEST, _ENTRY, _SHARES, _PENDING, _BLOCKED, _TRADED, _TARGET, _EQUITY, _CASH = range(_ACCOUNT)


@cache
def slots_engine(general: bool) -> Callable[..., None]:
    """Return the compiled ``run(targets, bits, prices, due, options, start, equity, out, *workspace)``.

    ``targets`` B x T, ``bits`` the same memory as integers, ``prices`` 2 (plain) or 8 x T, ``due`` T
    (may targets be traded at this bar?), ``equity`` B x T or 0 x 0 for none, ``out``
    B x len(RAW_METRICS) of :func:`new_sums`, then :func:`workspace`.
    """
    from quantflow.signals._cache import compile_cached

    compiled: Callable[..., None] = compile_cached(_loop(general), _SIGNATURE, inline=True)
    return compiled


def workspace() -> tuple[Floats, Floats, Floats, Floats]:
    """Return arrays for one call: nothing is allocated in compiled code, so it need not count references."""
    # Lanes without a combination are measured, too, and never read.
    return np.ones((BLOCK, LANES)), np.zeros((BLOCK, LANES)), np.zeros((LANES, _ACCOUNT)), np.zeros(MEMORY * LANES)


def new_sums(count: int) -> Floats:
    """Return rows of :data:`RAW_METRICS` before the first bar."""
    sums = np.zeros((count, len(RAW_METRICS)))
    sums[:, RUINED] = -1.0
    return sums


def _load(accounts: Floats, lane: int) -> Account:
    return Account(
        accounts[lane, _CASH],
        accounts[lane, _EQUITY],
        accounts[lane, _TARGET],
        accounts[lane, _TRADED],
        accounts[lane, _BLOCKED],
        accounts[lane, _PENDING],
        Position(accounts[lane, _SHARES], accounts[lane, _ENTRY], accounts[lane, _BEST], accounts[lane, _OPEN_PROFIT]),
    )


def _store(accounts: Floats, lane: int, account: Account) -> None:
    accounts[lane, _CASH], accounts[lane, _EQUITY] = account.cash, account.equity
    accounts[lane, _TARGET], accounts[lane, _TRADED] = account.target, account.traded
    accounts[lane, _BLOCKED], accounts[lane, _PENDING] = account.blocked, account.pending
    accounts[lane, _SHARES], accounts[lane, _ENTRY] = account.position.shares, account.position.entry
    accounts[lane, _BEST], accounts[lane, _OPEN_PROFIT] = account.position.best, account.position.open_profit


def rests(
    cash: float, shares: float, equity: float, traded: float, target: float, lowest: float, on_change: bool
) -> bool:
    """Return whether nothing can happen to an account in the plain case while its target stays.

    It is flat, or fully invested without cash, or trades on change only; and what it may owe
    cannot use up its equity, even at the lowest price.
    """
    if target != traded or shares < 0.0:
        return False
    flat = target == 0.0 and shares == 0.0
    if not (on_change or flat or (target == 1.0 and abs(cash) <= NO_CASH * equity)):
        return False
    floor = abs(cash) * _FAR_FROM_CASH if shares > 0.0 and (not on_change or cash < 0.0) else 0.0
    return cash + shares * lowest > floor


def _bar_at(general: bool) -> Callable[..., Any]:
    def bar_at(prices: Floats, row: int) -> Bar:
        if general:
            return Bar(
                prices[FILL_PRICE, row],
                prices[CLOSE, row],
                prices[OPEN, row],
                prices[HIGH, row],
                prices[LOW, row],
                prices[VOLUME, row],
                prices[SPLIT, row],
                prices[DIVIDEND, row],
            )
        return Bar(prices[FILL_PRICE, row], prices[CLOSE, row], 0.0, 0.0, 0.0, 1.0, 1.0, 0.0)

    return bar_at


def _same(bits: Integers, who: int, column: Any, most: Any) -> Any:
    """Return for how many bars, at most ``most``, the target is the same, compared as bits and eight at a time.

    Unsigned numbers index without a check for negative ones.
    """
    first, count, eight = bits[who, column], np.uint64(1), np.uint64(8)
    while count + eight <= most:
        differs = np.int64(0)
        for ahead in range(8):
            differs |= bits[who, column + count + np.uint64(ahead)] ^ first
        if differs != 0:
            break
        count += eight
    while count < most and bits[who, column + count] == first:
        count += np.uint64(1)
    return count


def _walk(general: bool) -> Callable[..., Any]:
    step, bar_at = slot_step(general), _bar_at(general)

    def walk(
        accounts: Floats,
        lane: int,
        out: Floats,
        who: int,
        targets: Floats,
        bits: Integers,
        prices: Floats,
        lowest: float,
        due: Flags,
        options: Floats,
        first: int,
        last: int,
        equities: Floats,
        values: Floats,
    ) -> None:
        """Take one account through a block of bars; write equity and value held at each close."""
        lag, on_change = int(options[0]), options[2] != 0.0
        row = first
        while row < last and accounts[lane, _EQUITY] > 0.0:
            target = accounts[lane, _TARGET]
            if row >= lag:
                decided = targets[who, row - lag]
                # NaN: nothing was decided, the last target stands.
                if decided == decided:
                    target = decided
                cash, shares = accounts[lane, _CASH], accounts[lane, _SHARES]
                equity, traded = accounts[lane, _EQUITY], accounts[lane, _TRADED]
                if not general and rests(cash, shares, equity, traded, target, lowest, on_change):
                    now, place, column = np.uint64(row), np.uint64(row - first), np.uint64(row - lag)
                    steps = _same(bits, who, column, np.uint64(last - row))
                    for ahead in range(steps):
                        value = shares * prices[CLOSE, now + ahead]
                        equities[place + ahead, lane] = cash + value
                        values[place + ahead, lane] = value
                    row += int(steps)
                    accounts[lane, _TARGET] = target
                    accounts[lane, _EQUITY] = equities[row - first - 1, lane]
                    continue
            account, counts, value = step(
                _load(accounts, lane),
                read_counts(out, who),
                target,
                bar_at(prices, row),
                due[row] != 0,
                read_rules(options),
            )
            _store(accounts, lane, account)
            write_counts(counts, out, who)
            equities[row - first, lane] = account.equity
            values[row - first, lane] = value
            if account.equity == 0.0:
                out[who, RUINED] = row
            row += 1
        for rest in range(row - first, last - first):
            equities[rest, lane] = 0.0
            values[rest, lane] = 0.0

    return walk


def _loop(general: bool) -> Callable[..., Any]:
    walk = _walk(general)

    def run_slots(
        targets: Floats,
        bits: Integers,
        prices: Floats,
        due: Flags,
        options: Floats,
        start: int,
        equity_out: Floats,
        out: Floats,
        equities: Floats,
        values: Floats,
        accounts: Floats,
        memory: Floats,
    ) -> None:
        combinations, count = targets.shape
        rules = read_rules(options)
        lowest = np.inf
        for row in range(count):
            lowest = min(lowest, prices[CLOSE, row])
        for origin in range(0, combinations, LANES):
            lanes = min(LANES, combinations - origin)
            begin_measurement(memory, rules.initial_cash, start)
            for lane in range(lanes):
                for index in range(_ACCOUNT):
                    accounts[lane, index] = 0.0
                accounts[lane, _CASH] = rules.initial_cash
                accounts[lane, _EQUITY] = rules.initial_cash
            for first in range(start, count, BLOCK):
                last = min(first + BLOCK, count)
                for lane in range(lanes):
                    who = origin + lane
                    walk(
                        accounts,
                        lane,
                        out,
                        who,
                        targets,
                        bits,
                        prices,
                        lowest,
                        due,
                        options,
                        first,
                        last,
                        equities,
                        values,
                    )
                    if equity_out.shape[0] > 0:
                        for place in range(last - first):
                            equity_out[who, first + place] = equities[place, lane]
                measure_block(equities, values, values, first, last - first, rules.risk_free, memory)
            for lane in range(lanes):
                write_measurement(memory, lane, rules.initial_cash, count - start, out, origin + lane)

    return run_slots
