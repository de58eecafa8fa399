"""What the compiled engines measure while they run: sums from which figures follow.

A sweep returns these instead of paths. :data:`RAW_METRICS` names the columns; everything about
returns is measured by :func:`_observe`, bar by bar, in both engines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from quantflow.backtest._fills import Counts, Rules

__all__ = ["RAW_METRICS"]

Floats = npt.NDArray[np.float64]
State = tuple[float, ...]

#: Columns of what ``run_slots`` and ``run_portfolio`` answer, in this order.
#:
#: ``r`` is the return of equity a bar, ``f`` the risk-free rate a bar.
#:
#: ==================  ====================================================================
#: periods             number of bars, n
#: sum_return, _2.._4  sums of r, r**2, r**3, r**4
#: lowest_return, highest_return
#: sum_above           sum of max(r - f, 0)
#: sum_below, _2       sums of max(f - r, 0) and its square
#: gains, losses       number of bars with r > 0 and r < 0
#: initial_equity, final_equity
#: max_drawdown        largest fall from the highest equity so far (initial included), a fraction
#: drawdown_peak, drawdown_trough
#:                     rows of that fall's start and bottom; -1 for the start: before the first bar
#: longest_drawdown    most bars in a row below an earlier equity
#: sum_gross, sum_net  sums of gross and net value held / equity, at the closes
#: invested            number of closes at which anything is held
#: orders              number of orders
#: turnover            sum of value traded (at prices before slippage) / equity before
#: cost                sum of fees and slippage / equity before
#: fees, slippage, carry, dividends
#:                     sums in cash; carry is borrow cost and interest, dividends are net of those
#:                     paid on short positions
#: trades, trades_won  round trips that ended, and those of them with a profit after costs
#: trade_profit, trade_loss
#:                     sums of the profits and (positive) losses of round trips, in cash
#: stops               orders of stop loss, take profit and trailing stop
#: limited             orders that cash or margin made smaller
#: ruined              row at which the whole equity was lost, or -1
#: ==================  ====================================================================
RAW_METRICS: tuple[str, ...] = (
    "periods",
    "sum_return",
    "sum_return_2",
    "sum_return_3",
    "sum_return_4",
    "lowest_return",
    "highest_return",
    "sum_above",
    "sum_below",
    "sum_below_2",
    "gains",
    "losses",
    "initial_equity",
    "final_equity",
    "max_drawdown",
    "drawdown_peak",
    "drawdown_trough",
    "longest_drawdown",
    "sum_gross",
    "sum_net",
    "invested",
    "orders",
    "turnover",
    "cost",
    "fees",
    "slippage",
    "carry",
    "dividends",
    "trades",
    "trades_won",
    "trade_profit",
    "trade_loss",
    "stops",
    "limited",
    "ruined",
)

ORDERS = RAW_METRICS.index("orders")
RUINED = RAW_METRICS.index("ruined")

# value / before - 1 is rounded to zero within these.
_LEAST_GAIN, _LEAST_LOSS = 2.0**-53, -(2.0**-54)

#: Combinations that are measured side by side, so that the processor works on eight at once.
LANES = 16

#: Bars that are measured at a time: their equity stays in the nearest cache.
BLOCK = 64

#: How many numbers a measurement remembers of a path, for each lane.
MEMORY = 23


def begin_measurement(memory: Floats, initial: float, start: int) -> None:
    """Set the memory of :data:`LANES` measurements to what it is before bar ``start``."""
    for lane in range(LANES):
        _store(memory, lane, _first(initial, start))


def _first(initial: float, start: int) -> State:
    before = start - 1.0
    returns = (initial, 0.0, 0.0, 0.0, 0.0, np.inf, -np.inf)
    return returns + (0.0,) * 8 + (initial, 1.0 / initial, before, 1.0, before, before, 0.0, 1.0 / initial)


def measure_block(
    equity: Floats, gross: Floats, net: Floats, first: int, rows: int, rate: float, memory: Floats
) -> None:
    """Measure ``rows`` bars of all lanes: arrays are BLOCK x LANES, their row 0 is bar ``first``.

    Two bars are taken at a time, which halves the traffic between processor and memory.
    """
    for row in range(0, rows - 1, 2):
        number = float(first + row)
        for lane in range(LANES):
            state = _load(memory, lane)
            state = _observe(state, equity[row, lane], gross[row, lane], net[row, lane], number, rate)
            state = _observe(state, equity[row + 1, lane], gross[row + 1, lane], net[row + 1, lane], number + 1.0, rate)
            _store(memory, lane, state)
    if rows % 2 == 1:
        row = rows - 1
        for lane in range(LANES):
            state = _load(memory, lane)
            state = _observe(state, equity[row, lane], gross[row, lane], net[row, lane], float(first + row), rate)
            _store(memory, lane, state)


def write_measurement(memory: Floats, lane: int, initial: float, periods: int, out: Floats, who: int) -> None:
    """Write the figures of one lane into ``out[who, :ORDERS]``."""
    _write(_load(memory, lane), initial, periods, out, who)


def measure(equity: Floats, gross: Floats, net: Floats, start: int, initial: float, rate: float, out: Floats) -> None:
    """Write the figures of one path, from bar ``start`` on, into ``out[0, :ORDERS]``."""
    state = _first(initial, start)
    for row in range(start, len(equity)):
        state = _observe(state, equity[row], gross[row], net[row], float(row), rate)
    _write(state, initial, len(equity) - start, out, 0)


def _observe(state: State, value: float, gross: float, net: float, number: float, rate: float) -> State:
    """Return what is remembered after one more close.

    A negative ``gross`` counts by its size, so that one array may serve as both. np.divide has no
    check for zero, which would keep the processor from working on several lanes at once.
    """
    before, total, total_2, total_3, total_4, lowest, highest = state[:7]
    above, below, below_2, gains, losses, gross_sum, net_sum, invested = state[7:15]
    peak, inverse_peak, peak_row, worst, worst_peak, worst_row, longest, inverse_before = state[15:]
    # The same as value / before - 1, with one division a bar: a processor divides slowly.
    change = (value - before) * inverse_before
    # After ruin equity stays zero: nothing is earned and nothing is held.
    inverse = np.divide(1.0, value) if value > 0.0 else 0.0
    square = change * change
    excess = change - rate
    short = min(excess, 0.0)
    up = value >= peak
    inverse_peak = inverse if up else inverse_peak
    peak_row = number if up else peak_row
    part = 1.0 if up else value * inverse_peak
    worse = part < worst
    return (
        value,
        total + change,
        total_2 + square,
        total_3 + square * change,
        total_4 + square * square,
        min(lowest, change),
        max(highest, change),
        above + max(excess, 0.0),
        below - short,
        below_2 + short * short,
        gains + (1.0 if change > _LEAST_GAIN else 0.0),
        losses + (1.0 if change < _LEAST_LOSS else 0.0),
        gross_sum + abs(gross) * inverse,
        net_sum + net * inverse,
        invested + (1.0 if gross != 0.0 else 0.0),
        max(peak, value),
        inverse_peak,
        peak_row,
        part if worse else worst,
        peak_row if worse else worst_peak,
        number if worse else worst_row,
        max(longest, number - peak_row),
        inverse,
    )


def _load(memory: Floats, lane: int) -> State:
    return (
        memory[lane],
        memory[1 * LANES + lane],
        memory[2 * LANES + lane],
        memory[3 * LANES + lane],
        memory[4 * LANES + lane],
        memory[5 * LANES + lane],
        memory[6 * LANES + lane],
        memory[7 * LANES + lane],
        memory[8 * LANES + lane],
        memory[9 * LANES + lane],
        memory[10 * LANES + lane],
        memory[11 * LANES + lane],
        memory[12 * LANES + lane],
        memory[13 * LANES + lane],
        memory[14 * LANES + lane],
        memory[15 * LANES + lane],
        memory[16 * LANES + lane],
        memory[17 * LANES + lane],
        memory[18 * LANES + lane],
        memory[19 * LANES + lane],
        memory[20 * LANES + lane],
        memory[21 * LANES + lane],
        memory[22 * LANES + lane],
    )


def _store(memory: Floats, lane: int, state: State) -> None:
    memory[lane] = state[0]
    memory[1 * LANES + lane] = state[1]
    memory[2 * LANES + lane] = state[2]
    memory[3 * LANES + lane] = state[3]
    memory[4 * LANES + lane] = state[4]
    memory[5 * LANES + lane] = state[5]
    memory[6 * LANES + lane] = state[6]
    memory[7 * LANES + lane] = state[7]
    memory[8 * LANES + lane] = state[8]
    memory[9 * LANES + lane] = state[9]
    memory[10 * LANES + lane] = state[10]
    memory[11 * LANES + lane] = state[11]
    memory[12 * LANES + lane] = state[12]
    memory[13 * LANES + lane] = state[13]
    memory[14 * LANES + lane] = state[14]
    memory[15 * LANES + lane] = state[15]
    memory[16 * LANES + lane] = state[16]
    memory[17 * LANES + lane] = state[17]
    memory[18 * LANES + lane] = state[18]
    memory[19 * LANES + lane] = state[19]
    memory[20 * LANES + lane] = state[20]
    memory[21 * LANES + lane] = state[21]
    memory[22 * LANES + lane] = state[22]


def _write(state: State, initial: float, periods: int, out: Floats, who: int) -> None:
    out[who, 0] = periods
    for index in range(11):  # sum_return to losses
        out[who, 1 + index] = state[1 + index]
    out[who, 12], out[who, 13] = initial, state[0]
    out[who, 14] = 1.0 - state[18]
    out[who, 15], out[who, 16], out[who, 17] = state[19], state[20], state[21]
    out[who, 18], out[who, 19], out[who, 20] = state[12], state[13], state[14]


def write_counts(counts: Counts, out: Floats, who: int) -> None:
    """Write what was counted of orders into ``out[who, ORDERS:]``."""
    last = len(counts) - 1
    for index in range(len(counts)):
        out[who, ORDERS + last - index] = counts[index]


def read_counts(out: Floats, who: int) -> Counts:
    """Return what :func:`write_counts` wrote."""
    return Counts(
        out[who, ORDERS + 12],
        out[who, ORDERS + 11],
        out[who, ORDERS + 10],
        out[who, ORDERS + 9],
        out[who, ORDERS + 8],
        out[who, ORDERS + 7],
        out[who, ORDERS + 6],
        out[who, ORDERS + 5],
        out[who, ORDERS + 4],
        out[who, ORDERS + 3],
        out[who, ORDERS + 2],
        out[who, ORDERS + 1],
        out[who, ORDERS],
    )


def read_rules(options: Floats) -> Rules:
    """Return the options as names; see :meth:`Execution.to_array`."""
    return Rules(
        options[0],
        options[1],
        options[2],
        options[3],
        options[4],
        options[5],
        options[6],
        options[7],
        options[8],
        options[9],
        options[10],
        options[11],
        options[12],
        options[13],
        options[14],
        options[15],
        options[16],
        options[17],
    )


@cache
def measure_engine() -> Callable[..., None]:
    """Return :func:`measure`, compiled."""
    from quantflow.signals._cache import compile_cached

    signature = "void(float64[::1], float64[::1], float64[::1], int64, float64, float64, float64[:,::1])"
    compiled: Callable[..., None] = compile_cached(measure, signature)
    return compiled
