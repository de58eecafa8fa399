"""An account that takes one bar of all its symbols at a time: a paper broker, and parity's reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantflow.backtest import _order_log as log
from quantflow.backtest import _portfolio as engine
from quantflow.backtest._market import MarketView, needed_columns, stacked_prices
from quantflow.backtest._options import Execution
from quantflow.backtest._orders import LIMITS, REASONS, Order
from quantflow.backtest._runs import new_account, run_view
from quantflow.backtest._schedule import due_rows
from quantflow.errors import InvalidBarsError, MissingColumnError, SignalError

__all__ = ["Account", "AccountStep"]

Floats = npt.NDArray[np.float64]

_MAGIC = b"QFACCNT1"
_NONE = np.empty((0, 0))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400


class AccountStep(NamedTuple):
    """What one bar did to an account.

    ``equity``, ``cash`` and ``positions`` (shares by symbol, those not zero) are at its close;
    ``orders`` in the order of execution.
    """

    timestamp: datetime
    equity: float
    cash: float
    positions: dict[str, float]
    orders: tuple[Order, ...]


class Account:
    """Cash and shares of fixed symbols, traded bar by bar under the rules of a backtest.

    It runs the compiled loop that :func:`backtest` runs, so that feeding it a history's bars and
    targets one at a time gives the backtest's equity and orders bit for bit.

    Parameters
    ----------
    execution
        The assumptions; its calendar is not looked at here.
    symbols
        The symbols, in any order, each once.

    Raises
    ------
    SignalError
        No symbols, or one twice.
    """

    def __init__(self, execution: Execution, symbols: Sequence[str]) -> None:
        names = tuple(symbols)
        if not names or len(set(names)) != len(names):
            raise SignalError(f"symbols are {names}; allowed: at least one, each once")
        self.execution = execution
        self.symbols = names
        self._options = execution.to_array()
        self._numbers, self._held, self._sums = new_account(len(names), execution)
        self._last: datetime | None = None
        self._session: date | None = None

    @property
    def equity(self) -> float:
        """Cash and holdings at the last close."""
        return float(self._numbers[engine.EQUITY])

    @property
    def cash(self) -> float:
        """Cash after the last bar; negative when borrowed."""
        return float(self._numbers[engine.CASH])

    @property
    def positions(self) -> dict[str, float]:
        """Shares by symbol, those not zero."""
        held = zip(self.symbols, self._held[engine.SHARES].tolist(), strict=True)
        return {symbol: shares for symbol, shares in held if shares != 0.0}

    def step(
        self,
        timestamp: datetime,
        bars: Mapping[str, npt.ArrayLike],
        targets: npt.ArrayLike | Mapping[str, float],
        *,
        session: date | None = None,
        splits: Mapping[str, float] | None = None,
        dividends: Mapping[str, float] | None = None,
    ) -> AccountStep:
        """Take one timestamp's bars and the targets decided at their close.

        Earlier targets are filled within this bar, these within the next one (with ``same_close``:
        these, at this close).

        Parameters
        ----------
        timestamp
            Close of the bar, with a time zone, later than the last one.
        bars
            Numbers by column name, one a symbol in the order of :attr:`symbols`; NaN in ``close``
            where a symbol has no bar.
        targets
            Target fraction of equity of each symbol, as an array in that order or by symbol; NaN, or
            a symbol left out: nothing was decided, its last target stands.
        session
            Trading date; the timestamp's date in UTC by default. Schedules count in it.
        splits, dividends
            What goes ex at this bar, by symbol: new shares for an old one, cash a (new) share.

        Raises
        ------
        MissingColumnError
            ``bars`` lacks a column that the execution needs.
        InvalidBarsError
            A price is not positive, or the timestamp is not later than the last one.
        SignalError
            Targets or actions that are not possible. The account has not changed.
        """
        moment = self._checked_time(timestamp)
        day = session or moment.date()
        columns = self._checked_bars(bars)
        wanted = self._checked_targets(targets)
        split = self._checked_actions("splits", splits, 1.0, above_zero=True)
        dividend = self._checked_actions("dividends", dividends, 0.0, above_zero=False)
        acted = splits is not None or dividends is not None
        general = acted or not self.execution.is_plain
        present = ~np.isnan(columns["close"])
        view = MarketView(
            stacked_prices(self.execution, columns, general, split, dividend),
            present.astype(np.uint8),
            due_rows(np.array([day], dtype="datetime64[D]"), self.execution.rebalance, previous=self._session),
            general,
        )
        orders = np.zeros((log.ORDERS_A_BAR * len(self.symbols), log.ORDER_COLUMNS))
        # Microseconds since 1970 name the bar in the log: exact in a float until the year 2255.
        tags = np.array([(moment - _EPOCH).total_seconds() * 1e6])
        run_view(
            view, wanted, self._options, self._numbers, self._held, self._sums, _NONE, _NONE, orders, 0, 1, tags=tags
        )
        count = int(self._numbers[log.ORDER_COUNT])
        self._numbers[log.ORDER_COUNT] = 0.0
        self._last, self._session = moment, day
        executed = tuple(self._order(record, moment, day) for record in orders[:count].tolist())
        return AccountStep(moment, self.equity, self.cash, self.positions, executed)

    def snapshot(self) -> bytes:
        """Return all that the account knows, as bytes for :meth:`restore`."""
        last = np.nan if self._last is None else (self._last - _EPOCH).total_seconds() * 1e6
        day = np.nan if self._session is None else float((self._session - _EPOCH.date()).days)
        numbers = [self._numbers, self._held.ravel(), self._sums.ravel(), np.array([last, day])]
        return _MAGIC + self._identity() + np.concatenate(numbers).astype("<f8").tobytes()

    def restore(self, saved: bytes) -> None:
        """Go on from a snapshot, bit for bit.

        Raises
        ------
        SignalError
            The bytes belong to an account with other options or symbols, or are damaged.
        """
        head = _MAGIC + self._identity()
        count = self._numbers.size + self._held.size + self._sums.size + 2
        if saved[: len(head)] != head or len(saved) != len(head) + 8 * count:
            raise SignalError(
                f"the saved account does not belong to these options and the symbols {', '.join(self.symbols)}, or is "
                "damaged; start a new one"
            )
        numbers = np.frombuffer(saved[len(head) :], dtype="<f8").astype(np.float64)
        ends = np.cumsum([self._numbers.size, self._held.size, self._sums.size])
        self._numbers = numbers[: ends[0]].copy()
        self._held = numbers[ends[0] : ends[1]].reshape(self._held.shape).copy()
        self._sums = numbers[ends[1] : ends[2]].reshape(self._sums.shape).copy()
        last, day = numbers[-2:].tolist()
        self._last = None if np.isnan(last) else datetime.fromtimestamp(last / 1e6, UTC)
        self._session = None if np.isnan(day) else datetime.fromtimestamp(day * _DAY_S, UTC).date()

    def _identity(self) -> bytes:
        identity = json.dumps([self.execution.to_dict(), self.symbols], sort_keys=True)
        return hashlib.sha256(identity.encode()).digest()

    def _order(self, record: list[float], moment: datetime, day: date) -> Order:
        shares, price, reference = abs(record[log.ORDER]), record[log.PRICE], record[log.REFERENCE]
        decided = record[log.DECIDED_TAG]
        return Order(
            timestamp=moment,
            session=day,
            symbol=self.symbols[int(record[log.SYMBOL])],
            side="buy" if record[log.ORDER] > 0.0 else "sell",
            shares=shares,
            price=price,
            reference_price=reference,
            value=shares * price,
            fee=record[log.ORDER_FEE],
            slippage=shares * abs(price - reference),
            reason=REASONS[int(record[log.REASON])],
            limited_by=LIMITS[int(record[log.LIMITED_BY])],
            decided_at=None if np.isnan(decided) else datetime.fromtimestamp(decided / 1e6, UTC),
        )

    def _checked_time(self, timestamp: datetime) -> datetime:
        if timestamp.tzinfo is None:
            raise InvalidBarsError([f"timestamp is {timestamp}, without a time zone; give UTC"], source="account")
        moment = timestamp.astimezone(UTC)
        if self._last is not None and moment <= self._last:
            problem = f"timestamp is {moment}, not later than the last bar's, {self._last}; give bars in order"
            raise InvalidBarsError([problem], source="account")
        return moment

    def _checked_bars(self, bars: Mapping[str, npt.ArrayLike]) -> dict[str, Floats]:
        columns = {}
        for column, why in needed_columns(self.execution).items():
            if column not in bars:
                raise MissingColumnError(
                    f"{why} needs the column {column!r}; the bars have: {', '.join(bars) or 'none'}"
                )
            columns[column] = self._row(column, bars[column])
        present = ~np.isnan(columns["close"][0])
        for column, values in columns.items():
            fine = np.isfinite(values[0]) & ((values[0] >= 0.0) if column == "volume" else (values[0] > 0.0))
            bad = np.flatnonzero(present & ~fine)
            if len(bad):
                allowed = "at least 0" if column == "volume" else "above 0"
                problem = f"the {column} of {self.symbols[bad[0]]} is {values[0, bad[0]]}; allowed: {allowed}"
                raise InvalidBarsError([problem], source="account")
        return columns

    def _checked_targets(self, targets: npt.ArrayLike | Mapping[str, float]) -> Floats:
        row = self._by_symbol("targets", targets, np.nan) if isinstance(targets, Mapping) else targets
        values = self._row("targets", row)
        bad = np.flatnonzero(np.isinf(values[0]))
        if len(bad):
            raise SignalError(f"the target of {self.symbols[bad[0]]} is {values[0, bad[0]]}; allowed: finite numbers")
        return values

    def _checked_actions(
        self, name: str, given: Mapping[str, float] | None, neutral: float, *, above_zero: bool
    ) -> Floats:
        values = self._row(name, self._by_symbol(name, given or {}, neutral))
        fine = np.isfinite(values[0]) & ((values[0] > 0.0) if above_zero else (values[0] >= 0.0))
        if not fine.all():
            index = int(np.argmin(fine))
            allowed = "above 0" if above_zero else "at least 0"
            raise SignalError(f"{name} of {self.symbols[index]}: {values[0, index]}; allowed: {allowed}")
        return values

    def _by_symbol(self, name: str, given: Mapping[str, float], neutral: float) -> list[float]:
        unknown = sorted(set(given) - set(self.symbols))
        if unknown:
            raise SignalError(f"{name} name {', '.join(unknown)}; the account's symbols are {', '.join(self.symbols)}")
        return [given.get(symbol, neutral) for symbol in self.symbols]

    def _row(self, name: str, values: npt.ArrayLike) -> Floats:
        row = np.array(values, dtype=np.float64)
        if row.shape != (len(self.symbols),):
            raise SignalError(
                f"{name} have the shape {row.shape}; give one number for each of {len(self.symbols)} symbols"
            )
        return row.reshape(1, -1)
