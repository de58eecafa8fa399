"""The books of the two sides: the backtest's result, and the paper account that is fed bar by bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest import Account, AccountStep, BacktestResult, Execution
from quantflow.errors import DataError, SignalError
from quantflow.live._parity_compare import BAR_VALUES, Side
from quantflow.live._parity_replay import Heard

__all__ = ["backtest_side", "live_side"]

_KEYS = ("symbol", "session", "timestamp")
_SORTED = ("symbol", "timestamp")
_ORDER = ("timestamp", "symbol", "side", "price", "fee", "shares", "reason")


def backtest_side(bars: pl.DataFrame, result: BacktestResult) -> Side:
    """Return what a backtest saw, decided and did."""
    names = list(result.symbols)
    shares = result.positions.select("timestamp", *(pl.col(name) + 0.0 for name in names))
    return Side(
        bars=bars.select(*_KEYS, *BAR_VALUES).sort(_SORTED),
        exposures=result.exposures.select("symbol", "timestamp", "exposure").sort(_SORTED),
        orders=result.orders.select(_ORDER),
        positions=shares.unpivot(index="timestamp", variable_name="symbol", value_name="shares").sort(_SORTED),
        account=result.equity.select("timestamp", "cash", "equity"),
    )


def live_side(
    heard: Heard,
    symbols: Sequence[str],
    execution: Execution,
    *,
    slots: int,
    actions: pl.DataFrame | None = None,
) -> tuple[Side, Heard]:
    """Return what the live path saw and decided, and what its paper account did with it.

    Parameters
    ----------
    symbols
        Of the account; the portfolio's universe.
    slots
        Exposures are fractions of equity / slots.
    actions
        Splits and dividends; see :func:`quantflow.backtest.backtest`.

    Returns
    -------
    tuple
        The second is ``heard``, stopped where the account refuses a bar.
    """
    steps: list[AccountStep] = []
    account = Account(execution, symbols)
    pending = _Actions(actions)
    for bar in _bars_of(heard, symbols, slots):
        if bar.timestamp in heard.restarted_at:
            account = _taken_up(account)
        try:
            acted = pending.until(bar.session)
            steps.append(account.step(bar.timestamp, bar.columns, bar.targets, session=bar.session, **acted))
        except (SignalError, DataError) as exc:
            heard = replace(heard, stopped=(bar.timestamp, str(exc)))
            break
    return _side(heard, symbols, steps), heard


@dataclass(frozen=True)
class _Bar:
    timestamp: datetime
    session: date
    columns: Mapping[str, npt.NDArray[np.float64]]
    targets: Mapping[str, float]


def _bars_of(heard: Heard, symbols: Sequence[str], slots: int) -> Iterator[_Bar]:
    """Yield each timestamp's bars and what was decided at their close."""
    universe = pl.DataFrame({"symbol": list(symbols)}, schema={"symbol": pl.String})
    said: dict[datetime, dict[str, float]] = {}
    # As the backtest divides: Polars multiplies by 1 / slots, which Python's division equals only to the last digit.
    weights = heard.exposures.select("symbol", "timestamp", pl.col("exposure") / slots)
    for symbol, timestamp, weight in weights.iter_rows():
        said.setdefault(timestamp, {})[symbol] = weight
    ours = heard.taken.filter(pl.col("symbol").is_in(symbols)).sort("timestamp")
    for bars in ours.partition_by("timestamp", maintain_order=True):
        rows = universe.join(bars, on="symbol", how="left", maintain_order="left")
        columns = {name: rows[name].fill_null(np.nan).to_numpy() for name in BAR_VALUES}
        timestamp, sessions = bars["timestamp"][0], bars["session"].sort()
        decided = said.get(timestamp, {})
        yield _Bar(timestamp, sessions[-1], columns, {name: decided[name] for name in symbols if name in decided})


class _Actions:
    """Splits and dividends, handed out at the first bar of their day or later."""

    def __init__(self, actions: pl.DataFrame | None) -> None:
        self._given = actions is not None
        self._rows = [] if actions is None else list(actions.sort("session").iter_rows(named=True))
        self._begun = False

    def until(self, session: date) -> dict[str, dict[str, float]]:
        """Return what has gone ex since the last call; nothing is held before the first bar."""
        due = [row for row in self._rows if row["session"] <= session]
        self._rows = self._rows[len(due) :]
        if not self._begun:
            due = [row for row in due if row["session"] == session]
            self._begun = True
        splits: dict[str, float] = {}
        dividends: dict[str, float] = {}
        for row in due:
            split, name = row.get("split") or 1.0, row["symbol"]
            # What was paid first was paid on fewer shares.
            dividends[name] = dividends.get(name, 0.0) / split + (row.get("dividend") or 0.0)
            splits[name] = splits.get(name, 1.0) * split
        return {"splits": splits, "dividends": dividends} if self._given else {}


def _taken_up(account: Account) -> Account:
    """Return a new account that goes on from the saved state of one."""
    restarted = Account(account.execution, account.symbols)
    restarted.restore(account.snapshot())
    return restarted


def _side(heard: Heard, symbols: Sequence[str], steps: Sequence[AccountStep]) -> Side:
    time = pl.Series("timestamp", [step.timestamp for step in steps], heard.taken.schema["timestamp"])
    held = {name: pl.Series(name, [step.positions.get(name, 0.0) for step in steps], pl.Float64) for name in symbols}
    orders = [tuple(getattr(order, name) for name in _ORDER) for step in steps for order in step.orders]
    kinds = {name: pl.String if name in ("symbol", "side", "reason") else pl.Float64 for name in _ORDER[1:]}
    return Side(
        bars=heard.taken.select(*_KEYS, *BAR_VALUES).sort(_SORTED),
        exposures=heard.exposures.select("symbol", "timestamp", "exposure").sort(_SORTED),
        orders=pl.DataFrame(orders, schema={"timestamp": time.dtype, **kinds}, orient="row"),
        positions=pl.DataFrame([time, *held.values()])
        .unpivot(index="timestamp", variable_name="symbol", value_name="shares")
        .sort(_SORTED),
        account=pl.DataFrame(
            [
                time,
                pl.Series("cash", [step.cash for step in steps], pl.Float64),
                pl.Series("equity", [step.equity for step in steps], pl.Float64),
            ]
        ),
    )
