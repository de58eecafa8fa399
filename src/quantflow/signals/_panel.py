"""Bars of many symbols as arrays: a row a timestamp, a column a symbol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import InvalidBarsError, SignalError
from quantflow.signals._checks import column_matrix, missing_column, refuse_duplicates

__all__ = ["Panel", "checked_symbols"]

_KEYS = ("symbol", "session", "timestamp")


@dataclass(frozen=True)
class Panel:
    """What a universe showed, timestamp by timestamp.

    Attributes
    ----------
    symbols
        The universe, ``N`` symbols; the order of every last axis below.
    timestamps
        ``T`` close times, ascending, each once: those at which any symbol has a bar.
    names
        The ``K`` bar columns that were asked for.
    columns
        float64[K, T, N], their values; NaN where a symbol has no bar.
    present
        bool[T, N], whether the symbol has a bar.
    sessions
        int32[T, N], days since 1970-01-01; where a symbol has no bar, the latest session
        that others have at that timestamp.
    """

    symbols: tuple[str, ...]
    timestamps: pl.Series
    names: tuple[str, ...]
    columns: npt.NDArray[np.float64]
    present: npt.NDArray[np.bool_]
    sessions: npt.NDArray[np.int32]

    @classmethod
    def of(
        cls, bars: pl.DataFrame, columns: Sequence[str], *, symbols: Sequence[str] | None = None, owner: str = "bars"
    ) -> Panel:
        """Return the panel of a canonical frame, any row order, each (symbol, timestamp) once.

        Parameters
        ----------
        columns
            Bar columns to take, in this order.
        symbols
            The universe, in this order; bars of other symbols are ignored. ``None``: the
            frame's symbols, sorted.
        owner
            Who asks, for messages.

        Raises
        ------
        MissingColumnError
            A column is absent or empty.
        InvalidBarsError
            No bars, duplicates, or values that are null, NaN or infinite; names symbol and session.
        """
        absent = [name for name in (*_KEYS, *columns) if name not in bars.columns]
        if absent:
            raise missing_column(owner, absent[0], bars.columns)
        taken = bars.select(*_KEYS, *columns)
        universe = checked_symbols(owner, symbols) if symbols is not None else _symbols_of(owner, taken)
        taken = taken.filter(pl.col("symbol").is_in(universe)).sort("timestamp", "symbol")
        if taken.is_empty():
            raise InvalidBarsError([f"no bars of {_some(universe)}"], source=owner)
        _refuse_undated(owner, taken)
        refuse_duplicates(owner, taken)
        matrix = column_matrix(
            owner,
            columns,
            {column: taken[column].to_numpy() for column in columns},
            lambda row: f"{taken['symbol'][row]} at {taken['session'][row]}",
        )
        timestamps = taken["timestamp"].unique().sort()
        rows = taken["timestamp"].rank("dense").to_numpy().astype(np.int64) - 1
        place = {symbol: index for index, symbol in enumerate(universe)}
        places = taken["symbol"].replace_strict(place, return_dtype=pl.Int64).to_numpy()
        shape = (len(timestamps), len(universe))
        present = np.zeros(shape, dtype=np.bool_)
        present[rows, places] = True
        values = np.full((len(columns), *shape), np.nan)
        values[:, rows, places] = matrix
        sessions = np.full(shape, np.iinfo(np.int32).min, dtype=np.int32)
        sessions[rows, places] = taken["session"].to_physical().to_numpy()
        sessions = np.where(present, sessions, sessions.max(axis=1, keepdims=True))
        return cls(universe, timestamps, tuple(columns), values, present, sessions)

    def __len__(self) -> int:
        return len(self.timestamps)

    def label(self, row: int, symbol: int | None = None) -> str:
        """Return the name of a timestamp, or of a symbol's bar at it, for messages."""
        if symbol is None:
            return f"{self.timestamps[row]}"
        session = np.datetime64(int(self.sessions[row, symbol]), "D")
        return f"{self.symbols[symbol]} at {session}"

    def frame(self, weights: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_] | None = None) -> pl.DataFrame:
        """Return [symbol, session, timestamp, exposure], sorted by symbol and timestamp.

        A symbol has a row at every timestamp from its first bar on, with or without a bar.

        Parameters
        ----------
        weights
            float64[T, N].
        seen
            bool[N], symbols that had a bar before this panel; none by default.
        """
        before = np.zeros(len(self.symbols), dtype=np.bool_) if seen is None else seen
        known = np.logical_or.accumulate(self.present, axis=0) | before
        order = np.argsort(np.array(self.symbols))
        places, rows = np.nonzero(known.T[order])
        places = order[places]
        return pl.DataFrame(
            {
                "symbol": pl.Series(self.symbols, dtype=pl.String).gather(places),
                "session": pl.Series(self.sessions[rows, places]).cast(pl.Date),
                "timestamp": self.timestamps.gather(rows),
                "exposure": weights[rows, places],
            }
        )


def checked_symbols(owner: str, symbols: Sequence[str]) -> tuple[str, ...]:
    """Return a universe as a tuple.

    Raises
    ------
    SignalError
        It is empty, names a symbol twice, or something in it is no symbol.
    """
    if isinstance(symbols, str):
        raise SignalError(f"{owner}: symbols is {symbols!r}; allowed: a list of symbols, such as [{symbols!r}]")
    given = tuple(symbols)
    wrong = [each for each in given if not isinstance(each, str) or not each]
    if wrong or not given:
        raise SignalError(f"{owner}: symbols are {given!r}; allowed: at least one, each a text that is not empty")
    twice = sorted({each for each in given if given.count(each) > 1})
    if twice:
        raise SignalError(f"{owner}: the universe names {', '.join(twice)} more than once; name each symbol once")
    return given


def _symbols_of(owner: str, bars: pl.DataFrame) -> tuple[str, ...]:
    found = bars["symbol"].unique().sort()
    if not len(found) or found.null_count():
        raise InvalidBarsError(["no bars" if not len(found) else "symbol is null in some rows"], source=owner)
    return tuple(found)


def _refuse_undated(owner: str, bars: pl.DataFrame) -> None:
    for key in ("session", "timestamp"):
        if bars[key].null_count():
            row = bars.filter(pl.col(key).is_null()).row(0, named=True)
            raise InvalidBarsError([f"{key} is null in a bar of {row['symbol']}"], source=owner)


def _some(symbols: Sequence[str]) -> str:
    shown = ", ".join(symbols[:5])
    return f"{shown} and {len(symbols) - 5} others" if len(symbols) > 5 else shown
