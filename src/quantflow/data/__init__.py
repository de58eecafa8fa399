"""Market data: bars that say when they became knowable, and reads as of a moment.

    >>> from datetime import UTC, date, datetime
    >>> from quantflow.data import get_source
    >>> bars = get_source("sp500").read(["AAPL"], start=date(2022, 12, 1), as_of=datetime(2022, 12, 3, tzinfo=UTC))
    >>> bars["session"].to_list()
    [datetime.date(2022, 12, 1), datetime.date(2022, 12, 2)]

A bar is known at its exchange session's close plus the source's delay. Rows that became
known after ``as_of``, or that do not say when, do not exist for the reader.

Names load on first use, so importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.data.asof import as_of_view, restate
    from quantflow.data.bars import ADJUSTMENTS, BAR_COLUMNS, BAR_SCHEMA, bars_digest, empty_bars, validate_bars
    from quantflow.data.calendar import known_at, session_close, sessions_between
    from quantflow.data.files import FileSource
    from quantflow.data.packaged import IndexSource, Sp500Source
    from quantflow.data.refresh import RefreshReport, refresh_store
    from quantflow.data.returns import bars_to_returns
    from quantflow.data.sources import MarketDataSource, SourceInfo, get_source, source_names
    from quantflow.data.store import BarStore
    from quantflow.data.yahoo import YahooSource

__all__ = [
    "ADJUSTMENTS",
    "BAR_COLUMNS",
    "BAR_SCHEMA",
    "BarStore",
    "FileSource",
    "IndexSource",
    "MarketDataSource",
    "RefreshReport",
    "SourceInfo",
    "Sp500Source",
    "YahooSource",
    "as_of_view",
    "bars_digest",
    "bars_to_returns",
    "empty_bars",
    "get_source",
    "known_at",
    "refresh_store",
    "restate",
    "session_close",
    "sessions_between",
    "source_names",
    "validate_bars",
]

_HOMES = {
    "asof": ("as_of_view", "restate"),
    "bars": ("ADJUSTMENTS", "BAR_COLUMNS", "BAR_SCHEMA", "bars_digest", "empty_bars", "validate_bars"),
    "calendar": ("known_at", "session_close", "sessions_between"),
    "files": ("FileSource",),
    "packaged": ("IndexSource", "Sp500Source"),
    "refresh": ("RefreshReport", "refresh_store"),
    "returns": ("bars_to_returns",),
    "sources": ("MarketDataSource", "SourceInfo", "get_source", "source_names"),
    "store": ("BarStore",),
    "yahoo": ("YahooSource",),
}

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
