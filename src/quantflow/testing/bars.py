"""Strategies for property tests on bars: valid frames, frames with restatements, and planted faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from functools import cache
from typing import Final

import polars as pl
from hypothesis import strategies as st

from quantflow.data.bars import BAR_KEY, BAR_SCHEMA
from quantflow.data.calendar import session_close, sessions_between

__all__ = ["FAULTS", "bars", "make_bars", "moments", "versioned_bars"]

DELAY: Final = timedelta(minutes=15)
_PRICES = st.floats(min_value=0.01, max_value=10_000, allow_nan=False, allow_infinity=False)
_VOLUMES = st.integers(min_value=0, max_value=10**12).map(float)


def make_bars(
    closes: Mapping[str, list[float]],
    *,
    start: date = date(2022, 1, 3),
    delay: timedelta = DELAY,
    adjustment: str = "splits",
    source: str = "made",
) -> pl.DataFrame:
    """Return full daily bars with these closes, one list a symbol, on XNYS sessions from ``start``.

    Opens equal the close before, highs and lows lie one percent outside, volumes are 1,000.
    """
    longest = max((len(values) for values in closes.values()), default=0)
    sessions = sessions_between(start, start + timedelta(days=10 + 2 * longest)).head(longest).to_list()
    rows = [
        {
            "symbol": symbol,
            "session": session,
            "open": values[max(index - 1, 0)],
            "high": max(values[index], values[max(index - 1, 0)]) * 1.01,
            "low": min(values[index], values[max(index - 1, 0)]) * 0.99,
            "close": values[index],
            "volume": 1000.0,
        }
        for symbol, values in sorted(closes.items())
        for index, session in enumerate(sessions[: len(values)])
    ]
    return _finish(pl.DataFrame(rows), delay=delay, adjustment=adjustment, source=source)


def _finish(rows: pl.DataFrame, *, delay: timedelta, adjustment: str, source: str) -> pl.DataFrame:
    if rows.is_empty():
        return pl.DataFrame(schema=BAR_SCHEMA)
    closes = session_close(rows["session"])
    return rows.with_columns(
        timestamp=closes,
        known_at=closes + delay,
        adjustment=pl.lit(adjustment),
        source=pl.lit(source),
        frequency=pl.lit("1d"),
    ).select(pl.col(name).cast(dtype) for name, dtype in BAR_SCHEMA.items())


@cache
def _sessions() -> tuple[date, ...]:
    # Holidays, early closes and both changes of the clock lie in between.
    return tuple(sessions_between(date(2021, 11, 1), date(2022, 3, 31)).to_list())


def bars(
    *, max_symbols: int = 3, max_sessions: int = 12, min_rows: int = 0, full: bool | None = None
) -> st.SearchStrategy[pl.DataFrame]:
    """Strategy: a valid frame of daily bars, one row a symbol and session, sorted.

    Parameters
    ----------
    max_symbols, max_sessions
        Largest number of symbols, and of sessions of each.
    min_rows
        Smallest number of rows.
    full
        True: all columns; False: closes only; None: either.
    """
    # The calendar is built before the first example, which would look slow otherwise.
    _sessions()
    return _bars(max_symbols, max_sessions, min_rows, full)


@st.composite
def _bars(draw: st.DrawFn, max_symbols: int, max_sessions: int, min_rows: int, full: bool | None) -> pl.DataFrame:
    names = st.sampled_from(["AAPL", "BRK-B", "JPM", "XOM", "ZZZ"])
    symbols = draw(st.lists(names, min_size=min(1, min_rows), max_size=max_symbols, unique=True))
    whole = draw(st.booleans()) if full is None else full
    rows: list[dict[str, object]] = []
    for symbol in sorted(symbols):
        least = min_rows - len(rows) if symbol == max(symbols) else 0
        chosen = draw(st.sets(st.sampled_from(_sessions()), min_size=max(least, 0), max_size=max(max_sessions, least)))
        rows.extend(_row(draw, symbol, session, whole=whole) for session in sorted(chosen))
    schema = {name: BAR_SCHEMA[name] for name in ("symbol", "session", "open", "high", "low", "close", "volume")}
    return _finish(pl.DataFrame(rows, schema=schema), delay=DELAY, adjustment="splits", source="drawn")


def _row(draw: st.DrawFn, symbol: str, session: date, *, whole: bool) -> dict[str, object]:
    if not whole:
        return {"symbol": symbol, "session": session, "close": draw(_PRICES)}
    low, first, second, high = sorted(draw(st.tuples(_PRICES, _PRICES, _PRICES, _PRICES)))
    swap = draw(st.booleans())
    return {
        "symbol": symbol,
        "session": session,
        "open": second if swap else first,
        "high": high,
        "low": low,
        "close": first if swap else second,
        "volume": draw(_VOLUMES),
    }


@st.composite
def versioned_bars(draw: st.DrawFn, *, undated: bool = True) -> pl.DataFrame:
    """Strategy: a valid frame in which some bars are restated later, and some rows are undated."""
    frame = draw(bars())
    versions = [frame]
    if not frame.is_empty():
        for _ in range(draw(st.integers(min_value=0, max_value=3))):
            chosen = draw(st.sets(st.integers(min_value=0, max_value=frame.height - 1)))
            factor = draw(st.floats(min_value=0.5, max_value=2.0))
            later = timedelta(hours=draw(st.integers(min_value=1, max_value=2000)))
            prices = [pl.col(name) * factor for name in ("open", "high", "low", "close")]
            versions.append(frame[sorted(chosen)].with_columns(*prices, known_at=pl.col("known_at") + later))
        if undated and draw(st.booleans()):
            versions.append(frame.head(1).with_columns(known_at=pl.lit(None, dtype=BAR_SCHEMA["known_at"])))
    return pl.concat(versions).unique(BAR_KEY, keep="first", maintain_order=True).sort(BAR_KEY)


def moments() -> st.SearchStrategy[datetime]:
    """Strategy: moments, in any time zone, around those at which drawn bars become known."""
    naive = st.datetimes(min_value=datetime(2021, 10, 25), max_value=datetime(2022, 6, 30))  # noqa: DTZ001
    return st.builds(lambda moment, zone: moment.replace(tzinfo=zone), naive, st.timezones())


def _set(column: str, value: object) -> Callable[[pl.DataFrame, int], pl.DataFrame]:
    def plant(frame: pl.DataFrame, row: int) -> pl.DataFrame:
        here = pl.int_range(pl.len()) == row
        literal = pl.lit(value, dtype=BAR_SCHEMA[column])
        return frame.with_columns(pl.when(here).then(literal).otherwise(pl.col(column)).alias(column))

    return plant


def _shift(column: str, by: timedelta) -> Callable[[pl.DataFrame, int], pl.DataFrame]:
    def plant(frame: pl.DataFrame, row: int) -> pl.DataFrame:
        here = pl.int_range(pl.len()) == row
        return frame.with_columns(pl.when(here).then(pl.col(column) + by).otherwise(pl.col(column)).alias(column))

    return plant


def _swap_high_and_low(frame: pl.DataFrame, row: int) -> pl.DataFrame:
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(
        high=pl.when(here).then(pl.col("close") * 0.5).otherwise(pl.col("high")),
        low=pl.when(here).then(pl.col("close") * 2.0).otherwise(pl.col("low")),
    )


#: Words of the problem -> plants it in one row of a full frame. Each makes exactly that row wrong.
FAULTS: Final[Mapping[str, Callable[[pl.DataFrame, int], pl.DataFrame]]] = {
    "symbol is missing": _set("symbol", None),
    "source is missing": _set("source", " "),
    "session is missing": _set("session", None),
    "timestamp is missing": _set("timestamp", None),
    "timestamp is more than a day away": _set("session", date(1999, 1, 4)),
    "known before the session closed": _shift("known_at", -timedelta(hours=1)),
    "close is missing": _set("close", None),
    "close is NaN or infinite": _set("close", float("nan")),
    "open is NaN or infinite": _set("open", float("inf")),
    "close is not positive": _set("close", 0.0),
    "low is not positive": _set("low", -1.0),
    "volume is NaN or infinite": _set("volume", float("nan")),
    "volume is negative": _set("volume", -1.0),
    "high < low": _swap_high_and_low,
    "close above high": _set("close", 1e9),
    "open below low": _set("open", 1e-9),
    "adjustment is none of": _set("adjustment", "back"),
}
