"""The backtest of one signal: decisions, fills, costs, equity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest import _order_log as log
from quantflow.backtest import _portfolio as engine
from quantflow.backtest._assumptions import assumptions_of
from quantflow.backtest._market import Market
from quantflow.backtest._options import Execution, Fill, Rebalance
from quantflow.backtest._orders import orders_frame
from quantflow.backtest._raw import RAW_METRICS
from quantflow.backtest._result import BacktestResult
from quantflow.backtest._runs import new_account, run_view
from quantflow.backtest._trades import round_trips
from quantflow.backtest.metrics import portfolio_metrics
from quantflow.errors import SignalError

if TYPE_CHECKING:
    from quantflow.signals import Decider

__all__ = ["backtest"]

Floats = npt.NDArray[np.float64]

_LOG_ROWS = 20_000


def backtest(
    decider: Decider,
    bars: pl.DataFrame,
    *,
    fill: Fill = "next_open",
    fee_bps: float = 0.0,
    fee_fixed: float = 0.0,
    slippage_bps: float = 0.0,
    half_spread: float = 0.0,
    impact_bps: float = 0.0,
    initial_cash: float = 1.0,
    leverage: float = 1.0,
    borrow_bps: float = 0.0,
    interest_bps: float = 0.0,
    lot_size: float = 0.0,
    min_order: float = 0.0,
    stop_loss: float | None = None,
    take_profit: float | None = None,
    trailing_stop: float | None = None,
    rebalance: Rebalance = "every_bar",
    calendar: str | None = None,
    periods_per_year: float = 252.0,
    actions: pl.DataFrame | None = None,
    risk_free_rate: float = 0.0,
) -> BacktestResult:
    """Return what a signal would have earned on these bars, all symbols sharing one pool of cash.

    A signal per symbol owns the fraction ``1 / N`` of equity for each of the ``N`` symbols in the
    frame, during the whole test: its target weight is ``exposure / N``. A cross-sectional
    signal answers target weights itself. The signal sees bars only.

    *Within a bar*: splits and dividends; at the open, stops that the open is beyond and, with
    ``fill="next_open"``, the targets decided at the close before; then stops and take-profits
    that the bar reaches; at the close, the fills of the other two modes; borrow cost and
    interest; equity is marked; the signal decides. ``"same_close"`` trades at the close of t to
    what was decided on that very close, which nobody can do; it is marked in the assumptions.

    *Sizes*: the target value is weight x equity, marked at the prices of the fill, before costs.
    Sales come first. If cash (or ``leverage`` x equity) does not cover all purchases, all are
    scaled by one factor. Every rule is on the page ``docs/backtesting.md``.

    Parameters
    ----------
    decider
        A bound signal.
    bars
        Canonical frame (:data:`quantflow.data.BAR_SCHEMA`), one row a (symbol, timestamp), of
        any bar length: choose versions with ``as_of_view`` before.
    fill, fee_bps, fee_fixed, slippage_bps, half_spread, impact_bps, initial_cash, leverage, \
    borrow_bps, interest_bps, lot_size, min_order, stop_loss, take_profit, trailing_stop, \
    rebalance, calendar, periods_per_year
        The fields of :class:`Execution`.
    actions
        Splits and dividends that the prices are not adjusted for: ``symbol``, ``session`` (ex-date),
        ``split`` (new shares for an old one) and ``dividend`` (cash a share).
    risk_free_rate
        A year, a fraction, for the figures that compare with it.

    Raises
    ------
    MissingColumnError
        The signal or an option needs a column that these bars do not have.
    InvalidBarsError
        No bars, fewer than two timestamps, duplicates, or prices that are not positive.
    UnknownSessionError
        A bar lies on a day that is no session of the calendar.
    SignalError
        The signal raised or answered no number, or an option or action is not possible.
    """
    execution = Execution(
        fill=fill,
        fee_bps=fee_bps,
        fee_fixed=fee_fixed,
        slippage_bps=slippage_bps,
        half_spread=half_spread,
        impact_bps=impact_bps,
        initial_cash=initial_cash,
        leverage=leverage,
        borrow_bps=borrow_bps,
        interest_bps=interest_bps,
        lot_size=lot_size,
        min_order=min_order,
        stop_loss=stop_loss,
        take_profit=take_profit,
        trailing_stop=trailing_stop,
        rebalance=rebalance,
        calendar=calendar,
        periods_per_year=periods_per_year,
    )
    market = Market.of(bars, execution, actions)
    decided = decider.evaluate(bars)
    slots = None if getattr(decider, "kind", "exposure") == "weights" else len(market.symbols)
    exposures = decided.with_columns(weight=pl.col("exposure") / (slots or 1))
    account = _run(market, market.matrix(exposures, "weight"), execution)
    return _result(bars, market, execution, exposures, account, slots=slots, risk_free_rate=risk_free_rate)


class _Ran:
    """What the engine wrote."""

    def __init__(self, path: Floats, positions: Floats, orders: Floats, sums: Floats) -> None:
        self.path = path
        self.positions = positions
        self.orders = orders
        self.sums = dict(zip(RAW_METRICS, sums.tolist(), strict=True))


def _run(market: Market, weights: Floats, execution: Execution) -> _Ran:
    infinite = np.argwhere(np.isinf(weights))
    if len(infinite):
        row, symbol = infinite[0]
        raise SignalError(
            f"the target of {market.symbols[symbol]} at {market.timestamps[int(row)]} is infinite; "
            "guard the division that it comes from"
        )
    count, symbols = market.shape
    view = market.view(execution)
    account, held, sums = new_account(symbols, execution)
    path, positions = np.zeros((engine.PATH, count)), np.zeros((count, symbols))
    orders = np.zeros((log.ORDERS_A_BAR * symbols + _LOG_ROWS, log.ORDER_COLUMNS))
    options, logged, row = execution.to_array(), [], 0
    while row < count:
        row = run_view(view, weights, options, account, held, sums, path, positions, orders, row, count)
        logged.append(orders[: int(account[log.ORDER_COUNT])].copy())
        account[log.ORDER_COUNT] = 0.0
    return _Ran(path, positions, np.concatenate(logged), sums[0])


def _result(
    bars: pl.DataFrame,
    market: Market,
    execution: Execution,
    exposures: pl.DataFrame,
    ran: _Ran,
    *,
    slots: int | None,
    risk_free_rate: float,
) -> BacktestResult:
    times = {"session": market.sessions.alias("session"), "timestamp": market.timestamps.alias("timestamp")}
    equity = ran.path[engine.PATH_EQUITY]
    returns = _returns(equity, execution.initial_cash)
    exposure = _over(ran.path[engine.PATH_GROSS], equity)
    turnover, cost = ran.path[engine.PATH_TURNOVER], ran.path[engine.PATH_COST]
    orders = orders_frame(ran.orders, market.symbols, market.timestamps, market.sessions)
    closes = _carried(market)
    benchmark = _buy_and_hold(market, closes, execution.initial_cash)
    peak = np.maximum(np.maximum.accumulate(equity), execution.initial_cash)
    ruined = int(ran.sums["ruined"])
    metrics = portfolio_metrics(
        returns,
        turnover=turnover,
        cost=cost,
        periods_per_year=execution.periods_per_year,
        risk_free_rate=risk_free_rate,
        exposure=exposure,
        benchmark=_returns(benchmark, execution.initial_cash),
        trades=round_trips(_in_last_shares(orders, market)),
        initial_equity=execution.initial_cash,
    )
    return BacktestResult(
        equity=pl.DataFrame(
            {
                **times,
                "equity": equity,
                "drawdown": 1.0 - equity / peak,
                "benchmark": benchmark,
                "cash": ran.path[engine.PATH_CASH],
            }
        ),
        exposures=exposures,
        weights=_wide(times, market, _over(ran.positions * np.nan_to_num(closes), equity[:, None])),
        positions=_wide(times, market, ran.positions),
        orders=orders,
        returns=pl.DataFrame({**times, "return": returns, "turnover": turnover, "cost": cost, "exposure": exposure}),
        metrics=metrics,
        assumptions=assumptions_of(
            bars,
            execution,
            slots=slots,
            missing=int((~market.present & ~np.isnan(closes)).sum()),
            acted=market.splits is not None,
            limited=int(ran.sums["limited"]),
            ruined=None if ruined < 0 else str(market.sessions[ruined]),
        ),
        options={**execution.to_dict(), "risk_free_rate": risk_free_rate},
        has_actions=market.splits is not None,
    )


def _wide(times: dict[str, pl.Series], market: Market, values: Floats) -> pl.DataFrame:
    return pl.DataFrame({**times, **dict(zip(market.symbols, values.T, strict=True))})


def _over(values: Floats, equity: Floats) -> Floats:
    """Return values / equity, 0.0 where no equity is left."""
    alive = equity > 0.0
    part: Floats = np.where(alive, values / np.where(alive, equity, 1.0), 0.0)
    return part


def _returns(equity: Floats, initial_cash: float) -> Floats:
    before = np.append(initial_cash, equity[:-1])
    alive = before > 0.0
    returns: Floats = np.where(alive, equity / np.where(alive, before, 1.0) - 1.0, 0.0)
    return returns


def _carried(market: Market) -> Floats:
    """Return the closes, the last one where there is no bar, NaN before the first."""
    close = market.columns["close"]
    last = np.maximum.accumulate(np.where(market.present, np.arange(len(close))[:, None], -1), axis=0)
    carried: Floats = np.where(last >= 0, np.take_along_axis(close, np.maximum(last, 0), axis=0), np.nan)
    if market.splits is None:
        return carried
    # Splits since the last bar change what the last close is worth today.
    growth = np.cumprod(market.splits, axis=0)
    adjusted: Floats = carried * np.take_along_axis(growth, np.maximum(last, 0), axis=0) / growth
    return adjusted


def _buy_and_hold(market: Market, closes: Floats, initial_cash: float) -> Floats:
    listed = ~np.isnan(closes)
    first = np.argmax(listed, axis=0)
    symbols = np.arange(len(market.symbols))
    held: Floats = np.ones_like(closes)
    if market.splits is not None and market.dividends is not None:
        # Each dividend buys more shares at that day's close.
        earned = market.splits * (1.0 + np.nan_to_num(market.dividends / closes))
        earned[np.arange(len(closes))[:, None] <= first] = 1.0
        held *= np.cumprod(earned, axis=0)
    growth = np.where(listed, held * closes / closes[first, symbols], 1.0)
    equity: Floats = initial_cash * growth.mean(axis=1)
    return equity


def _in_last_shares(orders: pl.DataFrame, market: Market) -> pl.DataFrame:
    """Return the orders in shares of the last day, so that splits do not break round trips."""
    if market.splits is None:
        return orders
    later = np.cumprod(market.splits[::-1], axis=0)[::-1] / market.splits
    row = market.timestamps.search_sorted(orders["timestamp"]).to_numpy()
    order: dict[Any, int] = {symbol: index for index, symbol in enumerate(market.symbols)}
    factor = pl.Series(later[row, [order[symbol] for symbol in orders["symbol"]]])
    return orders.with_columns(shares=pl.col("shares") * factor, price=pl.col("price") / factor)
