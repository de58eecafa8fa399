"""The backtest: decisions, fills, costs, equity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest._assumptions import assumptions_of
from quantflow.backtest._result import BacktestResult
from quantflow.backtest.metrics import portfolio_metrics
from quantflow.errors import InvalidBarsError, MissingColumnError, SignalError
from quantflow.signals import Decider

__all__ = ["Fill", "backtest"]

Fill = Literal["next_close", "next_open", "same_close"]
Floats = npt.NDArray[np.float64]

_MAX_ITERATIONS = 100


def backtest(
    decider: Decider,
    bars: pl.DataFrame,
    *,
    fill: Fill = "next_close",
    fee_bps: float = 0.0,
    slippage_bps: float = 0.0,
    initial_cash: float = 1.0,
    periods_per_year: float = 252.0,
    risk_free_rate: float = 0.0,
) -> BacktestResult:
    """Return what a signal would have earned on these bars, in equal slots.

    Each of the ``N`` symbols in the frame owns the fraction ``1 / N`` of equity, during the whole
    test: the target weight is ``exposure / N``. The signal sees bars only, one at a time.

    *Order within session t*, for ``fill="next_close"`` and ``"next_open"``: holdings are marked to
    session t's fill price (close or open); they are traded to the target weights that were
    decided at the close of session ``t - 1`` or before; they are marked to the close of t; the
    signal decides again. ``"same_close"`` trades at the close of t to what was decided on that very
    close, which nobody can do; it is marked in the assumptions.

    *Costs*: a buy executes at ``price * (1 + slippage)``, a sale at ``price * (1 - slippage)``,
    and the fee is a fraction of the executed value. Target weights are fractions of equity after
    these costs, so a fully invested portfolio needs no credit. Fractional shares, no minimum,
    no borrow cost, no interest on cash, no market impact.

    *Gaps*: where a symbol has no bar, its holding keeps the last close and cannot be traded.
    Before its first bar its slot is in cash.

    *Ruin*: if equity falls to zero or below, it is zero from that session on.

    Parameters
    ----------
    decider
        A bound signal.
    bars
        Canonical frame (:data:`quantflow.data.BAR_SCHEMA`), one row a (symbol, timestamp): choose
        versions with ``as_of_view`` before.
    fill
        Which price a decision is filled at.
    fee_bps, slippage_bps
        Basis points (1/10,000) of the traded value, each at least 0.
    initial_cash
        Equity before the first session, above 0.
    periods_per_year
        Bars in a year, for yearly figures.
    risk_free_rate
        A year, a fraction, for the Sharpe ratio.

    Raises
    ------
    MissingColumnError
        The signal or the fill needs a column that these bars do not have.
    InvalidBarsError
        No bars, fewer than two sessions, duplicates, or prices that are not positive.
    SignalError
        The signal raised or answered no number, or an option is out of range.
    """
    _check_options(fill, fee_bps, slippage_bps, initial_cash, periods_per_year)
    decided = decider.evaluate(bars)
    market = _Market.of(bars, decided, fill)
    path = _simulate(market, _Costs(fee_bps / 1e4, slippage_bps / 1e4), initial_cash)
    returns = _returns(path.equity, initial_cash)
    metrics = portfolio_metrics(
        returns,
        turnover=path.turnover,
        cost=path.cost,
        periods_per_year=periods_per_year,
        risk_free_rate=risk_free_rate,
    )
    sessions = pl.Series("session", market.sessions)
    peak = np.maximum(np.maximum.accumulate(path.equity), initial_cash)
    return BacktestResult(
        equity=pl.DataFrame(
            {
                "session": sessions,
                "equity": path.equity,
                "drawdown": 1.0 - path.equity / peak,
                "benchmark": _buy_and_hold(market, initial_cash),
            }
        ),
        exposures=decided.with_columns(weight=pl.col("exposure") / len(market.symbols)),
        weights=pl.DataFrame({"session": sessions, **dict(zip(market.symbols, path.weights.T, strict=True))}),
        returns=pl.DataFrame({"session": sessions, "return": returns, "turnover": path.turnover, "cost": path.cost}),
        metrics=metrics,
        assumptions=assumptions_of(
            bars,
            fill=fill,
            fee_bps=fee_bps,
            slippage_bps=slippage_bps,
            symbols=len(market.symbols),
            missing=int((~market.tradable[market.listed]).sum()),
            ruined=None if path.ruined is None else str(market.sessions[path.ruined]),
        ),
        options={
            "fill": fill,
            "fee_bps": fee_bps,
            "slippage_bps": slippage_bps,
            "initial_cash": initial_cash,
            "periods_per_year": periods_per_year,
            "risk_free_rate": risk_free_rate,
        },
    )


@dataclass(frozen=True)
class _Costs:
    fee: float
    slippage: float

    @property
    def buy(self) -> float:
        return self.slippage + self.fee * (1.0 + self.slippage)

    @property
    def sell(self) -> float:
        return self.slippage + self.fee * (1.0 - self.slippage)


@dataclass(frozen=True)
class _Market:
    """Sessions x symbols: prices with gaps carried forward, and the target to fill at each session.

    Prices before a symbol's first bar are 1.0: nothing is held there, so any number will do.
    """

    sessions: list[object]
    symbols: list[str]
    tradable: npt.NDArray[np.bool_]
    listed: npt.NDArray[np.bool_]
    fill_price: Floats
    close: Floats
    target: Floats

    @classmethod
    def of(cls, bars: pl.DataFrame, decided: pl.DataFrame, fill: Fill) -> _Market:
        price = "open" if fill == "next_open" else "close"
        for column in {"close", price}:
            if column not in bars.columns or bars[column].null_count():
                raise MissingColumnError(
                    f"fill {fill!r} needs the column {column!r}, which these bars do not have for every row; "
                    "fill at 'next_close' or use a source that has it"
                )
        repeated = bars.filter(pl.struct("symbol", "session").is_duplicated())
        if repeated.height:
            symbol, session = repeated.select("symbol", "session").row(0)
            problem = f"{symbol} has more than one bar on {session}; a backtest takes one bar a session"
            raise InvalidBarsError([problem], source="backtest")
        symbols = sorted(bars["symbol"].unique().to_list())
        wide_close = _wide(bars, "close", symbols)
        sessions = wide_close["session"].to_list()
        if len(sessions) < 2:
            raise InvalidBarsError([f"{len(sessions)} sessions; a backtest needs at least two"], source="backtest")
        close = _matrix(wide_close, symbols)
        at_fill = close if price == "close" else _matrix(_wide(bars, price, symbols), symbols)
        exposure = _forward(_matrix(_wide(decided, "exposure", symbols), symbols))
        target = np.where(np.isnan(exposure), 0.0, exposure) / len(symbols)
        if fill != "same_close":
            target = np.vstack([np.zeros((1, len(symbols))), target[:-1]])
        tradable = ~np.isnan(at_fill)
        _refuse_bad_prices(close, at_fill, sessions, symbols)
        carried = _forward(close)
        # Where there is no bar, the last close stands in.
        before = np.vstack([np.full((1, len(symbols)), np.nan), carried[:-1]])
        at_fill = np.where(tradable, at_fill, before)
        listed = ~np.isnan(carried)
        return cls(
            sessions,
            symbols,
            tradable,
            listed,
            np.where(np.isnan(at_fill), 1.0, at_fill),
            np.where(listed, carried, 1.0),
            target,
        )


@dataclass(frozen=True)
class _Path:
    equity: Floats
    weights: Floats
    turnover: Floats
    cost: Floats
    ruined: int | None


def _simulate(market: _Market, costs: _Costs, initial_cash: float) -> _Path:
    count = len(market.sessions)
    equity, turnover, cost = np.zeros(count), np.zeros(count), np.zeros(count)
    weights = np.zeros((count, len(market.symbols)))
    held = np.zeros(len(market.symbols))  # value of each holding
    cash = initial_cash
    ruined: int | None = None
    last = market.fill_price[0]
    for row in range(count):
        held = held * (market.fill_price[row] / last)
        before = cash + float(held.sum())
        if before <= 0.0:
            ruined = row
            break
        trades, paid = _trade(held, market.target[row], market.tradable[row], before, costs)
        cash -= float(trades.sum()) + paid
        held = (held + trades) * (market.close[row] / market.fill_price[row])
        last = market.close[row]
        equity[row] = cash + float(held.sum())
        if equity[row] <= 0.0:
            equity[row] = 0.0
            ruined = row
            break
        weights[row] = held / equity[row]
        turnover[row] = float(np.abs(trades).sum()) / before
        cost[row] = paid / before
    return _Path(equity, weights, turnover, cost, ruined)


def _trade(
    held: Floats, target: Floats, tradable: npt.NDArray[np.bool_], before: float, costs: _Costs
) -> tuple[Floats, float]:
    """Return the value to buy (+) or sell (-) of each symbol, and what that costs.

    Solves ``after = before - costs(target * after - held)``. The right side changes by at most
    costs x gross exposure per unit of ``after``, so iterating it converges in a few rounds.
    """
    after, paid = before, 0.0
    trades = np.where(tradable, target * after - held, 0.0)
    if costs.buy == 0.0:
        return trades, 0.0
    for _ in range(_MAX_ITERATIONS):
        bought = float(trades[trades > 0.0].sum())
        sold = -float(trades[trades < 0.0].sum())
        paid = bought * costs.buy + sold * costs.sell
        if before - paid == after:
            break
        after = before - paid
        trades = np.where(tradable, target * after - held, 0.0)
    return trades, paid


def _returns(equity: Floats, initial_cash: float) -> Floats:
    before = np.append(initial_cash, equity[:-1])
    alive = before > 0.0
    returns: Floats = np.where(alive, equity / np.where(alive, before, 1.0) - 1.0, 0.0)
    return returns


def _buy_and_hold(market: _Market, initial_cash: float) -> Floats:
    first = np.argmax(market.listed, axis=0)
    bought = market.close[first, np.arange(len(market.symbols))]
    growth = np.where(market.listed, market.close / bought, 1.0)
    equity: Floats = initial_cash * growth.mean(axis=1)
    return equity


def _wide(frame: pl.DataFrame, column: str, symbols: list[str]) -> pl.DataFrame:
    return frame.pivot(on="symbol", index="session", values=column).sort("session").select("session", *symbols)


def _matrix(wide: pl.DataFrame, symbols: list[str]) -> Floats:
    return np.column_stack([wide[symbol].cast(pl.Float64).fill_null(np.nan).to_numpy() for symbol in symbols])


def _forward(matrix: Floats) -> Floats:
    frame = pl.DataFrame(matrix).with_columns(pl.all().fill_nan(None).forward_fill())
    return frame.select(pl.all().fill_null(np.nan)).to_numpy().copy()


def _refuse_bad_prices(close: Floats, at_fill: Floats, sessions: list[object], symbols: list[str]) -> None:
    for prices in (close, at_fill):
        bad = np.argwhere(~np.isnan(prices) & ~((prices > 0.0) & np.isfinite(prices)))
        if len(bad):
            row, column = bad[0]
            problem = f"the price of {symbols[column]} at {sessions[row]} is {prices[row, column]}; allowed: above 0"
            raise InvalidBarsError([problem], source="backtest")


def _check_options(
    fill: str, fee_bps: float, slippage_bps: float, initial_cash: float, periods_per_year: float
) -> None:
    if fill not in get_args(Fill):
        raise SignalError(f"fill is {fill!r}; allowed: {', '.join(get_args(Fill))}")
    for name, value in {"fee_bps": fee_bps, "slippage_bps": slippage_bps}.items():
        if not 0.0 <= value < 10_000.0:
            raise SignalError(f"{name} is {value!r}; allowed: basis points, at least 0 and below 10,000")
    for name, value in {"initial_cash": initial_cash, "periods_per_year": periods_per_year}.items():
        if not 0.0 < value < float("inf"):
            raise SignalError(f"{name} is {value!r}; allowed: a finite number above 0")
