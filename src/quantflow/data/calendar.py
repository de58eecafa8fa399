"""Exchange sessions: when each one closed, early closes included.

exchange_calendars speaks pandas; it stays inside this module.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from quantflow.errors import DataError, UnknownSessionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["known_at", "session_close", "sessions_between", "time_zone"]

_SHOWN = 5
_closes: dict[str, tuple[date, date, pl.DataFrame]] = {}
_lock = threading.Lock()


def session_close(sessions: pl.Series | Iterable[date], exchange: str = "XNYS") -> pl.Series:
    """Return the close of each session, UTC, in the given order.

    Parameters
    ----------
    sessions
        Trading dates, in any order, repeated or not. Null stays null.
    exchange
        A calendar of exchange_calendars, by its market identifier code.

    Raises
    ------
    UnknownSessionError
        Names the dates on which the exchange did not trade: their close is unknown, so when the
        data of such a date became knowable is unknown, too.
    DataError
        No calendar of that name, or it does not reach that far.

    Examples
    --------
    >>> from datetime import date
    >>> session_close([date(2022, 11, 25)]).to_list()  # the day after Thanksgiving closes early
    [datetime.datetime(2022, 11, 25, 18, 0, tzinfo=zoneinfo.ZoneInfo(key='UTC'))]
    """
    dates = _as_dates(sessions)
    known = dates.drop_nulls()
    if known.is_empty():
        return pl.Series("timestamp", [None] * len(dates), dtype=pl.Datetime("us", "UTC"))
    first, last = _span(known)
    closes = _closes_between(exchange, first, last)
    joined = dates.to_frame().join(closes, on="session", how="left", maintain_order="left")
    unknown = joined.filter(pl.col("session").is_not_null() & pl.col("timestamp").is_null())["session"].unique().sort()
    if len(unknown):
        shown = ", ".join(str(day) for day in unknown.head(_SHOWN))
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise UnknownSessionError(
            f"{exchange} has no session on {shown}{more}, so when such rows became known cannot be said; "
            "give the exchange that these rows belong to, or remove them"
        )
    return joined["timestamp"]


def known_at(sessions: pl.Series | Iterable[date], *, delay: timedelta, exchange: str = "XNYS") -> pl.Series:
    """Return when the bars of these sessions became knowable, UTC: close plus the source's delay."""
    if delay < timedelta(0):
        raise DataError(f"delay is {delay}; a bar cannot be known before its session closes, give 0 or more")
    return (session_close(sessions, exchange) + delay).alias("known_at")


def sessions_between(start: date, end: date, exchange: str = "XNYS") -> pl.Series:
    """Return the exchange's sessions from ``start`` to ``end``, both included, ascending."""
    if end < start:
        return pl.Series("session", [], dtype=pl.Date)
    closes = _closes_between(exchange, start, end)
    return closes.filter(pl.col("session").is_between(start, end))["session"]


def _as_dates(sessions: pl.Series | Iterable[date]) -> pl.Series:
    series = sessions if isinstance(sessions, pl.Series) else pl.Series(list(sessions), dtype=pl.Date)
    if series.dtype != pl.Date:
        raise DataError(f"sessions are {series.dtype}; give dates: a session is a trading date, not a moment")
    return series.alias("session")


def _span(dates: pl.Series) -> tuple[date, date]:
    first, last = dates.min(), dates.max()
    if not isinstance(first, date) or not isinstance(last, date):
        raise DataError(f"sessions reach from {first!r} to {last!r}; give dates")
    return first, last


def _closes_between(exchange: str, first: date, last: date) -> pl.DataFrame:
    """Return session and close of at least the years asked for; building a calendar costs 0.1 s, so it is kept."""
    with _lock:
        kept = _closes.get(exchange)
        if kept is None or first < kept[0] or last > kept[1]:
            start = date(min(first, kept[0] if kept else first).year, 1, 1)
            end = date(max(last, kept[1] if kept else last).year, 12, 31)
            kept = (start, end, _build_closes(exchange, start, end))
            _closes[exchange] = kept
        return kept[2]


def time_zone(exchange: str) -> str:
    """Return the name of the exchange's time zone, e.g. ``America/New_York``."""
    with _quiet():
        return str(_calendar(exchange).tz)


def _build_closes(exchange: str, start: date, end: date) -> pl.DataFrame:
    with _quiet():
        closes = _calendar(exchange, start, end).closes
        moments = pl.Series(closes.dt.tz_localize(None).to_numpy().astype("datetime64[us]"))
        sessions = pl.Series(closes.index.to_numpy().astype("datetime64[D]"), dtype=pl.Date)
    return pl.DataFrame({"session": sessions, "timestamp": moments.dt.replace_time_zone("UTC")})


def _calendar(exchange: str, start: date | None = None, end: date | None = None) -> Any:
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        if start is None or end is None:
            return exchange_calendars.get_calendar(exchange)
        # The library knows some exchanges only from or until a certain day.
        kind = type(exchange_calendars.get_calendar(exchange))
        earliest, latest = kind.bound_min(), kind.bound_max()
        first = start if earliest is None else max(start, earliest.date())
        last = end if latest is None else min(end, latest.date())
        # Without a start the library begins 20 years ago: real histories are longer.
        return exchange_calendars.get_calendar(exchange, start=first.isoformat(), end=last.isoformat())
    except InvalidCalendarName as exc:
        raise DataError(
            f"no calendar {exchange!r}; give a name that exchange_calendars has: 'XNYS', 'XLON', '24/7'"
        ) from exc
    except ValueError as exc:
        raise DataError(f"the calendar of {exchange!r} has nothing from {start} to {end}: {exc}") from exc


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # exchange_calendars 4.13 calls pandas in ways that pandas 3.1 announces to end; the lock file holds the two.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
