"""Runs of the compiled engines that answer sums instead of paths: what a sweep calls.

Both release the interpreter's lock and keep nothing between calls, so threads may share a
market. A run's result depends on its own targets only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from quantflow.backtest import _portfolio as engine
from quantflow.backtest._brief import brief_engine
from quantflow.backtest._fills import Rules
from quantflow.backtest._market import Market, MarketView
from quantflow.backtest._options import Execution
from quantflow.backtest._portfolio import portfolio_engine
from quantflow.backtest._raw import measure_engine
from quantflow.backtest._slots import new_sums, slots_engine, workspace
from quantflow.errors import SignalError

__all__ = ["new_account", "run_portfolio", "run_slots"]

Floats = npt.NDArray[np.float64]

_NONE = np.empty((0, 0))


def run_slots(
    targets: Floats,
    market: Market,
    symbol_index: int,
    execution: Execution,
    *,
    risk_free_rate: float = 0.0,
    start: int = 0,
    equity: Floats | None = None,
    brief: bool = False,
) -> Floats:
    """Return the sums of B accounts that trade one symbol each with all their equity.

    Each row is what :func:`backtest` of that symbol's bars alone would do, to 1e-12.

    Parameters
    ----------
    targets
        float64 [B, T], a row a combination: the exposure decided at the close of each of the
        symbol's own bars (``market.rows_of(symbol_index)``), 1.0 for all equity. NaN: nothing
        was decided, the last target stands.
    risk_free_rate
        A year, a fraction; what ``sum_above``, ``sum_below`` and its square are measured from.
    start
        First bar of the account, which begins in cash; the target of the bar before is filled
        there, if the execution's lag is a bar. Sums count from this bar.
    equity
        float64 [B, T] to be filled with equity at each close from ``start`` on, or None.
    brief
        Where the execution needs no more than the plain engine, leave the columns of
        :data:`~quantflow.backtest._brief.NOT_MEASURED` NaN, which is faster.

    Returns
    -------
    numpy.ndarray
        float64 [B, len(RAW_METRICS)], columns :data:`RAW_METRICS`.

    Raises
    ------
    SignalError
        Shapes do not fit the market.
    """
    slot = market.slot(symbol_index, execution)
    given = _contiguous(targets, (len(targets), len(slot.due)), f"targets of {market.symbols[symbol_index]}")
    _check_start(start, len(slot.due))
    out = new_sums(len(given))
    kept = _NONE if equity is None else _writable(equity, given.shape)
    options = _options(execution, risk_free_rate)
    if brief and equity is None and not slot.general:
        brief_engine()(given, slot.prices, slot.moves, slot.due, options, start, out)
        return out
    slots_engine(slot.general)(
        given, given.view(np.int64), slot.prices, slot.due, options, start, kept, out, *workspace()
    )
    return out


def run_portfolio(
    weights: Floats,
    market: Market,
    execution: Execution,
    *,
    risk_free_rate: float = 0.0,
    start: int = 0,
    equity: Floats | None = None,
) -> Floats:
    """Return the sums of one account that shares its cash between all symbols.

    Parameters
    ----------
    weights
        float64 [T, N]: target fractions of equity decided at each timestamp of the market; for
        a signal per symbol exposure / N. NaN: nothing was decided, the last target stands.
    risk_free_rate, start
        As in :func:`run_slots`.
    equity
        float64 [T] to be filled with equity at each close from ``start`` on, or None.

    Returns
    -------
    numpy.ndarray
        float64 [len(RAW_METRICS)].

    Raises
    ------
    SignalError
        Shapes do not fit the market.
    """
    count, symbols = market.shape
    given = _contiguous(weights, (count, symbols), "weights")
    _check_start(start, count)
    view = market.view(execution)
    options = execution.to_array(risk_free_rate=risk_free_rate)
    account, held, sums = new_account(symbols, execution)
    if start > 0 and execution.fill != "same_close":
        held[engine.TARGET] = np.nan_to_num(given[start - 1])
        held[engine.DECIDED] = start - 1
    path = np.zeros((engine.PATH, count))
    run_view(view, given, options, account, held, sums, path, _NONE, _NONE, start, count)
    measure_path(path, start, options, sums)
    if equity is not None:
        _writable(equity, (count,))[start:] = path[engine.PATH_EQUITY, start:]
    measured: Floats = sums[0]
    return measured


@lru_cache(maxsize=1024)
def _options(execution: Execution, risk_free_rate: float) -> Floats:
    """Return what the engines read of an execution, made once; they only read it."""
    options = execution.to_array(risk_free_rate=risk_free_rate)
    return options


def new_account(symbols: int, execution: Execution) -> tuple[Floats, Floats, Floats]:
    """Return (account, held, sums) before the first bar."""
    account = np.zeros(engine.ACCOUNT)
    account[engine.CASH] = account[engine.EQUITY] = execution.initial_cash
    account[engine.RUINED] = -1.0
    held = np.zeros((engine.HELD, symbols))
    held[engine.LAST] = 1.0  # nothing is held before the first bar, so any price will do
    held[engine.DECIDED] = np.nan
    return account, held, new_sums(1)


def run_view(
    view: MarketView,
    weights: Floats,
    options: Floats,
    account: Floats,
    held: Floats,
    sums: Floats,
    path: Floats,
    positions: Floats,
    orders: Floats,
    first: int,
    last: int,
    *,
    tags: Floats | None = None,
) -> int:
    """Run the portfolio engine over bars ``first`` to ``last``; return the first that is not done.

    ``tags`` name the bars in the log of orders, by default their numbers.
    """
    run = portfolio_engine(view.general)
    return run(
        view.prices,
        view.present,
        weights,
        view.due,
        np.arange(len(view.due), dtype=np.float64) if tags is None else tags,
        options,
        account,
        held,
        np.empty((engine.NOW, held.shape[1])),
        sums,
        path,
        positions,
        orders,
        first,
        last,
    )


def measure_path(path: Floats, start: int, options: Floats, sums: Floats) -> None:
    """Write the figures of returns and exposure of a path into the sums."""
    rules = Rules(*options.tolist())
    measure_engine()(
        path[engine.PATH_EQUITY],
        path[engine.PATH_GROSS],
        path[engine.PATH_NET],
        start,
        rules.initial_cash,
        rules.risk_free,
        sums,
    )


def _contiguous(values: Floats, shape: tuple[int, ...], what: str) -> Floats:
    given = np.ascontiguousarray(values, dtype=np.float64)
    if given.shape != shape:
        raise SignalError(f"{what} have the shape {given.shape}; the market needs {shape}")
    return given


def _writable(values: Floats, shape: tuple[int, ...]) -> Floats:
    if values.shape != shape or values.dtype != np.float64 or not values.flags.c_contiguous:
        raise SignalError(f"equity is {values.dtype} {values.shape}; needed: contiguous float64 {shape}")
    return values


def _check_start(start: int, count: int) -> None:
    if not 0 <= start < count:
        raise SignalError(f"start is {start}; allowed: 0 to {count - 1}, a bar of the market")
