"""Bars as the engines read them: timestamps x symbols, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest._actions import action_matrices
from quantflow.backtest._brief import summed_moves
from quantflow.backtest._options import Execution
from quantflow.backtest._schedule import due_rows
from quantflow.backtest._slots import CLOSE, DIVIDEND, SPLIT
from quantflow.errors import InvalidBarsError, MissingColumnError, SignalError

__all__ = ["Market", "MarketView", "SlotView", "needed_columns", "stacked_prices"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]

_KEYS = ("symbol", "session", "timestamp")
_COLUMNS = ("open", "high", "low", "close", "volume")
_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class MarketView:
    """What the portfolio engine reads for one execution; see :mod:`quantflow.backtest._portfolio`."""

    prices: Floats
    present: Flags
    due: Flags
    general: bool


@dataclass(frozen=True)
class SlotView:
    """What the engine of sweeps reads of one symbol: its own bars, without gaps."""

    prices: Floats
    due: Flags
    general: bool

    @cached_property
    def moves(self) -> Floats:
        """Sums of the close's returns and of their squares before each bar, for the brief engine."""
        return summed_moves(self.prices[CLOSE])


@dataclass(frozen=True)
class Market:
    """Prices of N symbols at the T timestamps at which any of them has a bar; made by :meth:`of`.

    Attributes
    ----------
    symbols
        Ascending; the columns of every matrix.
    timestamps, sessions
        T moments (UTC, ascending) and the trading date of each; the rows of every matrix.
    columns
        ``close`` and what else the bars have of open, high, low and volume: float64 [T, N], NaN
        where a symbol has no bar.
    present
        bool [T, N]: where a symbol has a bar. Elsewhere it is not traded and its last close stands in.
    splits, dividends
        float64 [T, N]: new shares for an old one, and cash a (new) share, at the first bar of the
        ex-date; None without corporate actions.
    """

    symbols: tuple[str, ...]
    timestamps: pl.Series
    sessions: pl.Series
    columns: Mapping[str, Floats]
    present: npt.NDArray[np.bool_]
    splits: Floats | None = None
    dividends: Floats | None = None
    _views: dict[Any, MarketView] = field(default_factory=dict, repr=False, compare=False)
    _slots: dict[Any, SlotView] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, bars: pl.DataFrame, execution: Execution, actions: pl.DataFrame | None = None) -> Market:
        """Return the market of these bars, checked for what the execution needs of them.

        Parameters
        ----------
        bars
            Canonical frame, any row order, each (symbol, timestamp) once, at least two timestamps.
        execution
            Its fill, stops, impact and calendar decide what is needed. The market serves every
            other execution, too, whose needs the bars meet: :meth:`view` checks.
        actions
            Splits and dividends: ``symbol``, ``session`` (ex-date) and ``split`` (new shares for
            an old one) or ``dividend`` (cash a share, counted after a split of the same day), or
            both; null for none. Prices must not be adjusted for what is given here.

        Raises
        ------
        MissingColumnError
            The bars lack a column, or have null in one that is needed.
        InvalidBarsError
            No bars or one timestamp, duplicates, naive timestamps, prices that are not
            positive; names symbol and session.
        UnknownSessionError
            A bar lies on a day that is no session of the calendar.
        SignalError
            Actions that do not fit the bars.
        """
        columns, present, symbols, keys = _matrices(bars)
        splits, dividends = action_matrices(actions, bars, symbols, keys["session"])
        market = cls(tuple(symbols), keys["timestamp"], keys["session"], columns, present, splits, dividends)
        market.view(execution)
        return market

    @property
    def shape(self) -> tuple[int, int]:
        """Number of timestamps and symbols."""
        return len(self.timestamps), len(self.symbols)

    def rows_of(self, symbol_index: int) -> npt.NDArray[np.int64]:
        """Return the rows at which a symbol has a bar."""
        return np.flatnonzero(self.present[:, symbol_index])

    def matrix(self, frame: pl.DataFrame, column: str) -> Floats:
        """Return a column of a frame with ``symbol`` and ``timestamp`` as float64 [T, N], NaN elsewhere.

        Raises
        ------
        SignalError
            The frame has values other than 0 of a symbol or timestamp that the market lacks.
        """
        moments, ours = _microseconds(frame["timestamp"]), _microseconds(self.timestamps)
        known = np.minimum(np.searchsorted(ours, moments), len(ours) - 1)
        hit = ours[known] == moments
        order = {symbol: index for index, symbol in enumerate(self.symbols)}
        index = frame["symbol"].replace_strict(order, default=-1, return_dtype=pl.Int64).to_numpy()
        values = frame[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
        fits = hit & (index >= 0)
        strange = np.flatnonzero(~fits & ~((values == 0.0) | np.isnan(values)))
        if len(strange):
            first = frame.row(int(strange[0]), named=True)
            raise SignalError(
                f"{column} is {first[column]} for {first['symbol']} at {first['timestamp']}, which the bars do not "
                "have; decide on the same bars that are traded"
            )
        matrix = np.full(self.shape, np.nan)
        matrix[known[fits], index[fits]] = values[fits]
        return matrix

    def view(self, execution: Execution) -> MarketView:
        """Return what the portfolio engine reads for an execution; kept for the next call.

        Raises
        ------
        MissingColumnError, InvalidBarsError, UnknownSessionError
            As :meth:`of`.
        """
        key = _needs(execution)
        if key not in self._views:
            self._views[key] = self._portfolio_view(execution)
        return self._views[key]

    def slot(self, symbol_index: int, execution: Execution) -> SlotView:
        """Return what the engine of sweeps reads of one symbol; kept for the next call."""
        key = (symbol_index, *_needs(execution))
        if key not in self._slots:
            self._slots[key] = self._slot_view(symbol_index, execution)
        return self._slots[key]

    def _portfolio_view(self, execution: Execution) -> MarketView:
        self._check(execution)
        general = not execution.is_plain or self.splits is not None
        prices = stacked_prices(execution, self.columns, general, self.splits, self.dividends)
        due = due_rows(self.sessions.to_numpy(), execution.rebalance)
        return MarketView(prices, self.present.astype(np.uint8), due, general)

    def _slot_view(self, symbol_index: int, execution: Execution) -> SlotView:
        whole = self.view(execution)
        rows = self.rows_of(symbol_index)
        due = due_rows(self.sessions.to_numpy()[rows], execution.rebalance)
        prices = whole.prices[:, rows, symbol_index]
        if self.splits is not None and self.dividends is not None:
            _carry_actions(prices, rows, self.splits[:, symbol_index], self.dividends[:, symbol_index])
        return SlotView(np.ascontiguousarray(prices), due, whole.general)

    def _check(self, execution: Execution) -> None:
        for column, why in needed_columns(execution).items():
            if column not in self.columns:
                instead = "fill at 'next_close'" if why.startswith("fill") else f"leave out {why}"
                raise MissingColumnError(
                    f"{why} needs the column {column!r}, which these bars do not have; {instead} or use a source that "
                    "has it"
                )
            matrix = self.columns[column]
            zero_allowed = column == "volume"
            fine = np.isfinite(matrix) & ((matrix >= 0.0) if zero_allowed else (matrix > 0.0))
            bad = np.argwhere(self.present & ~fine)
            if len(bad):
                row, index = bad[0]
                what = "price" if column == "close" else column
                problem = (
                    f"the {what} of {self.symbols[index]} at {self.sessions[int(row)]} is {matrix[row, index]} "
                    f"({len(bad)} such rows); allowed: {'at least 0' if zero_allowed else 'above 0'}, {why} needs it"
                )
                raise InvalidBarsError([problem], source="backtest")
        if execution.calendar is not None:
            from quantflow.data.calendar import session_close

            session_close(self.sessions.unique().sort(), execution.calendar)


def _microseconds(times: pl.Series) -> npt.NDArray[np.int64]:
    return times.cast(_TIME).to_physical().to_numpy()


def _needs(execution: Execution) -> tuple[Any, ...]:
    """Return what of an execution decides its view."""
    return (
        execution.fill == "next_open",
        execution.has_stops,
        execution.is_plain,
        bool(execution.impact_bps),
        execution.rebalance,
        execution.calendar,
    )


def needed_columns(execution: Execution) -> dict[str, str]:
    """Return the columns that an execution reads, and what needs each."""
    needed = {"close": f"fill {execution.fill!r}"}
    if execution.fill == "next_open":
        needed["open"] = f"fill {execution.fill!r}"
    stops = ("stop_loss", "take_profit", "trailing_stop")
    given = next((name for name in stops if getattr(execution, name) is not None), None)
    if given is not None:
        needed = {"open": given, "high": given, "low": given} | needed
    if execution.impact_bps:
        needed["volume"] = "impact_bps"
    return needed


def stacked_prices(
    execution: Execution,
    columns: Mapping[str, Floats],
    general: bool,
    splits: Floats | None,
    dividends: Floats | None,
) -> Floats:
    """Return what the engines read as one array: fill price and close, or all eight of them, x T x N."""
    close = columns["close"]
    fill = columns["open"] if execution.fill == "next_open" else close
    if not general:
        return np.stack([fill, close])
    ones, zeros = np.ones_like(close), np.zeros_like(close)
    ranges = [columns[name] if execution.has_stops else close for name in ("open", "high", "low")]
    volume = np.nan_to_num(columns["volume"]) if execution.impact_bps else ones
    return np.stack(
        [fill, close, *ranges, volume, ones if splits is None else splits, zeros if dividends is None else dividends]
    )


def _matrices(bars: pl.DataFrame) -> tuple[dict[str, Floats], npt.NDArray[np.bool_], Sequence[str], pl.DataFrame]:
    """Return columns, where there are bars, symbols, and timestamp with session of each row."""
    _check_keys(bars)
    frame = bars.with_columns(bars["timestamp"].cast(_TIME))
    keys, symbols, row, index = _even_places(frame) or _places(frame)
    if keys.height < 2:
        what = "bar has" if keys.height == 1 else "bars have"
        problem = f"{keys.height} {what} a timestamp of its own; a backtest needs at least two timestamps"
        raise InvalidBarsError([problem], source="backtest")
    shape = (keys.height, len(symbols))
    present = np.zeros(shape, dtype=np.bool_)
    present[row, index] = True
    if int(present.sum()) != frame.height:
        _refuse_duplicates(frame)
    columns = {}
    for name in _COLUMNS:
        # A column of nulls only is one that the source does not have.
        if name in frame.columns and frame[name].null_count() < frame.height:
            matrix = np.full(shape, np.nan)
            matrix[row, index] = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            columns[name] = matrix
    return columns, present, symbols, keys


Places = tuple[pl.DataFrame, list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _places(frame: pl.DataFrame) -> Places:
    """Return timestamps with their session, symbols, and the row and column of each bar among them."""
    keys = frame.group_by("timestamp").agg(pl.col("session").max()).sort("timestamp")
    symbols = sorted(frame["symbol"].unique().to_list())
    order = {symbol: index for index, symbol in enumerate(symbols)}
    row = keys["timestamp"].search_sorted(frame["timestamp"]).to_numpy()
    index = frame["symbol"].replace_strict(order, return_dtype=pl.Int64).to_numpy()
    return keys, symbols, row.astype(np.int64), index


def _even_places(frame: pl.DataFrame) -> Places | None:
    """Return the same for a frame of one symbol after the other, all with the same ascending timestamps.

    Most frames are so, and it is seen in a fifth of the time that looking each bar up takes. None for others.
    """
    if frame.is_empty():
        return None
    runs = frame["symbol"].rle().struct.unnest()
    symbols, length = runs["value"].to_list(), runs["len"][0]
    if len(set(symbols)) != len(symbols) or (runs["len"] != length).any():
        return None
    moments = frame["timestamp"].to_physical().to_numpy().reshape(len(symbols), length)
    if (moments != moments[0]).any() or (np.diff(moments[0]) <= 0).any():
        return None
    sessions = frame["session"].to_physical().to_numpy().reshape(len(symbols), length).max(axis=0)
    keys = frame.select("timestamp").head(length).with_columns(session=pl.Series(sessions).cast(frame["session"].dtype))
    ranks = np.argsort(np.argsort(np.array(symbols)))
    row = np.tile(np.arange(length), len(symbols))
    return keys, sorted(symbols), row, np.repeat(ranks, length)


def _check_keys(bars: pl.DataFrame) -> None:
    for name in _KEYS:
        if name not in bars.columns:
            raise MissingColumnError(f"bars need the column {name!r}; they have: {', '.join(bars.columns) or 'none'}")
        if bars[name].null_count():
            row = int(bars[name].is_null().arg_true()[0])
            raise InvalidBarsError([f"{name} is missing in row {row}"], source="backtest")
    dtype = bars["timestamp"].dtype
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise InvalidBarsError(
            [f"timestamps are {dtype}; give moments with a time zone, UTC is kept"], source="backtest"
        )


def _refuse_duplicates(bars: pl.DataFrame) -> None:
    repeated = bars.filter(pl.struct("symbol", "timestamp").is_duplicated())
    symbol, session, moment = repeated.select("symbol", "session", "timestamp").row(0)
    problem = f"{symbol} has more than one bar at {moment} ({session}); choose a version with as_of_view"
    raise InvalidBarsError([problem], source="backtest")


def _carry_actions(prices: Floats, rows: npt.NDArray[np.int64], splits: Floats, dividends: Floats) -> None:
    """Give actions of rows without a bar to the symbol's next bar, in place."""
    prices[SPLIT] = 1.0
    prices[DIVIDEND] = 0.0
    for row in np.flatnonzero((splits != 1.0) | (dividends != 0.0)):
        at = int(np.searchsorted(rows, row))
        if at < len(rows):
            # Cash was paid on the shares before later splits.
            prices[DIVIDEND, at] = prices[DIVIDEND, at] / splits[row] + dividends[row]
            prices[SPLIT, at] *= splits[row]
