"""The engine of sweeps that measures little: the plain case, for the figures that most sweeps ask for.

The same steps as :mod:`quantflow.backtest._slots` make the same orders; between orders an
account is only marked at each close. What costs time there is not trading but measuring: this
engine leaves out what :data:`NOT_MEASURED` names, takes one combination after the other, passes
over the bars on which nothing is held, and takes the returns of an account that is fully invested
from the closes. Its lowest and highest return are only good to tell whether returns vary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from quantflow.backtest._fills import Position
from quantflow.backtest._raw import ORDERS, RAW_METRICS, RUINED, read_counts, read_rules, write_counts
from quantflow.backtest._slot_step import Account, Bar, slot_step
from quantflow.backtest._slots import CLOSE, FILL_PRICE, NO_CASH, rests

__all__ = ["NOT_MEASURED", "brief_engine", "summed_moves"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]

_MEASURED = (
    "periods",
    "sum_return",
    "sum_return_2",
    "lowest_return",
    "highest_return",
    "initial_equity",
    "final_equity",
    "max_drawdown",
)

#: Columns of :data:`~quantflow.backtest._raw.RAW_METRICS` that this engine answers NaN for.
NOT_MEASURED: frozenset[str] = frozenset(RAW_METRICS[:ORDERS]) - frozenset(_MEASURED)

_PERIODS, _SUM, _SUM_2, _LOWEST, _HIGHEST, _INITIAL, _FINAL, _FALL = map(RAW_METRICS.index, _MEASURED)

_SIGNATURE = "void(float64[:,::1], float64[:,::1], float64[:,::1], uint8[::1], float64[::1], int64, float64[:,::1])"

# Returns that are this far apart vary; nothing else is read off the lowest and the highest of them.
_VARIES = 1e-6


@cache
def brief_engine() -> Callable[..., None]:
    """Return the compiled ``run(targets, prices, moves, due, options, start, out)``, arrays as in ``slots_engine``.

    ``moves`` are :func:`summed_moves` of the closes.
    """
    from quantflow.signals._cache import compile_cached

    compiled: Callable[..., None] = compile_cached(_loop(), _SIGNATURE, inline=True)
    return compiled


def summed_moves(closes: Floats) -> Floats:
    """Return float64 [2, T + 1]: sums of the close's simple returns, and of their squares, before each bar."""
    moves = np.zeros((2, len(closes) + 1))
    changes = closes[1:] / closes[:-1] - 1.0
    np.cumsum(changes, out=moves[0, 2:])
    np.cumsum(changes * changes, out=moves[1, 2:])
    return moves


def _loop() -> Callable[..., Any]:
    step = slot_step(False)

    def run_brief(
        targets: Floats, prices: Floats, moves: Floats, due: Flags, options: Floats, start: int, out: Floats
    ) -> None:
        rules = read_rules(options)
        lag, on_change = int(rules.lag), rules.on_change != 0.0
        combinations, count = targets.shape
        lowest_price = np.inf
        for row in range(count):
            lowest_price = min(lowest_price, prices[CLOSE, row])
        for who in range(combinations):
            cash, equity, shares = rules.initial_cash, rules.initial_cash, 0.0
            entry = best = open_profit = held_target = traded = pending = 0.0
            counts = read_counts(out, who)
            total = total_2 = 0.0
            lowest, highest = np.inf, -np.inf
            # ``floor`` is the equity below which the deepest fall becomes deeper.
            peak, worst, floor = equity, 1.0, equity
            row = start
            while row < count and equity > 0.0:
                decided = targets[who, row - lag] if row >= lag else np.nan
                # NaN: nothing was decided, the last target stands.
                target = decided if decided == decided else held_target
                if decided == decided and rests(cash, shares, equity, traded, target, lowest_price, on_change):
                    # Unsigned numbers index without a check for negative ones.
                    now, column = np.uint64(row), np.uint64(row - lag)
                    length, steps = np.uint64(count - row), np.uint64(1)
                    # Eight at a time without a branch between them.
                    while steps + np.uint64(8) <= length:
                        at = column + steps
                        if not (
                            (targets[who, at] == target)
                            & (targets[who, at + np.uint64(1)] == target)
                            & (targets[who, at + np.uint64(2)] == target)
                            & (targets[who, at + np.uint64(3)] == target)
                            & (targets[who, at + np.uint64(4)] == target)
                            & (targets[who, at + np.uint64(5)] == target)
                            & (targets[who, at + np.uint64(6)] == target)
                            & (targets[who, at + np.uint64(7)] == target)
                        ):
                            break
                        steps += np.uint64(8)
                    while steps < length and targets[who, column + steps] == target:
                        steps += np.uint64(1)
                    if shares == 0.0:
                        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
                    elif abs(cash) <= NO_CASH * equity:
                        # Without cash equity moves as the close does: its returns are summed already, and what
                        # is highest and how deep it fell is seen in the closes.
                        end = now + steps
                        total += moves[0, end] - moves[0, now]
                        total_2 += moves[1, end] - moves[1, now]
                        if highest - lowest <= _VARIES:
                            for ahead in range(now, end):
                                change = np.divide(prices[CLOSE, ahead], prices[CLOSE, ahead - np.uint64(1)]) - 1.0
                                lowest, highest = min(lowest, change), max(highest, change)
                        top, bottom = np.divide(peak, shares), np.divide(floor, shares)
                        for ahead in range(now, end):
                            close = prices[CLOSE, ahead]
                            if close > top:
                                top = close
                                bottom = worst * top
                            elif close < bottom:
                                worst = np.divide(close, top)
                                bottom = close
                        peak, floor = top * shares, bottom * shares
                        equity = cash + shares * prices[CLOSE, end - np.uint64(1)]
                    else:
                        for ahead in range(now, now + steps):
                            value = cash + shares * prices[CLOSE, ahead]
                            change = np.divide(value, equity) - 1.0
                            equity = value
                            total += change
                            total_2 += change * change
                            lowest, highest = min(lowest, change), max(highest, change)
                            if value > peak:
                                peak = value
                                floor = worst * peak
                            elif value < floor:
                                worst = np.divide(value, peak)
                                floor = value
                    row += int(steps)
                    held_target = target
                    continue
                account, counts, _ = step(
                    Account(
                        cash, equity, held_target, traded, 0.0, pending, Position(shares, entry, best, open_profit)
                    ),
                    counts,
                    target,
                    Bar(prices[FILL_PRICE, row], prices[CLOSE, row], 0.0, 0.0, 0.0, 1.0, 1.0, 0.0),
                    due[row] != 0,
                    rules,
                )
                change = np.divide(account.equity, equity) - 1.0
                cash, equity, shares = account.cash, account.equity, account.position.shares
                entry, best, open_profit = account.position.entry, account.position.best, account.position.open_profit
                held_target, traded, pending = account.target, account.traded, account.pending
                total += change
                total_2 += change * change
                lowest, highest = min(lowest, change), max(highest, change)
                if equity > peak:
                    peak = equity
                    floor = worst * peak
                elif equity < floor:
                    worst = np.divide(equity, peak)
                    floor = equity
                if equity == 0.0:
                    out[who, RUINED] = row
                    if row + 1 < count:
                        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
                row += 1
            for index in range(ORDERS):
                out[who, index] = np.nan
            out[who, _PERIODS], out[who, _SUM], out[who, _SUM_2] = count - start, total, total_2
            out[who, _LOWEST], out[who, _HIGHEST] = lowest, highest
            out[who, _INITIAL], out[who, _FINAL], out[who, _FALL] = rules.initial_cash, equity, 1.0 - worst
            write_counts(counts, out, who)

    return run_brief
