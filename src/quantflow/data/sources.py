"""Where bars come from: one protocol, and sources by name.

Plugins register a callable under the entry point group ``quantflow.sources``; it gets the
options given to :func:`get_source`. The conformance suite that every source must
pass is ``quantflow.testing.sources``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any, Literal, Protocol, runtime_checkable

import polars as pl

from quantflow.data.asof import as_of_view
from quantflow.errors import DataError, UnknownSourceError, UnknownSymbolError

__all__ = ["Adjustment", "MarketDataSource", "SourceInfo", "get_source", "select_bars", "source_names"]

Adjustment = Literal["raw", "splits", "splits_and_dividends"]
ENTRY_POINT_GROUP = "quantflow.sources"

_BUILT_IN = {
    "sp500": "quantflow.data.packaged:Sp500Source",
    "index": "quantflow.data.packaged:IndexSource",
    "file": "quantflow.data.files:FileSource",
    "store": "quantflow.data.store:BarStore",
    "yahoo": "quantflow.data.yahoo:YahooSource",
}


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a reader must know about a source before believing a number made from it.

    Parameters
    ----------
    adjustment
        How every price is adjusted; None: it differs, see each row's ``adjustment``.
    survivorship_bias
        True if symbols were chosen with hindsight: results on them are too good.
    delay
        Time from a session's close until its bar is known.
    columns
        The price and volume columns that are not always null.
    note
        One or two sentences for a report.
    """

    adjustment: Adjustment | None
    survivorship_bias: bool
    delay: timedelta
    columns: tuple[str, ...]
    note: str


@runtime_checkable
class MarketDataSource(Protocol):
    """Reads bars as they were known at a moment."""

    @property
    def name(self) -> str:
        """Name that its bars carry in ``source``."""

    @property
    def info(self) -> SourceInfo:
        """What its bars are."""

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that can be read, in alphabetical order."""

    def read(
        self,
        symbols: Sequence[str] | None = None,
        *,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime,
    ) -> pl.DataFrame:
        """Return valid bars, one row a symbol and timestamp, sorted by both.

        Parameters
        ----------
        symbols
            None: all of them.
        start, end
            First and last session, both included; None: no limit.
        as_of
            Timezone-aware. Rows that became known later, and undated rows, do not exist.

        Raises
        ------
        UnknownSymbolError
            The source does not have one of the symbols.
        """


def source_names() -> tuple[str, ...]:
    """Return the names that :func:`get_source` knows: built in and installed plugins, sorted."""
    return tuple(sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}))


def get_source(name: str, **options: Any) -> MarketDataSource:
    """Return a market data source by name.

    Parameters
    ----------
    name
        One of :func:`source_names`.
    **options
        Given to the source: ``get_source("file", path="bars.parquet")``.

    Raises
    ------
    UnknownSourceError
        No source of that name, or a plugin that cannot be imported.
    DataError
        Options that the source does not take.
    """
    factory = _factory(name)
    _check_options(name, factory, options)
    source = factory(**options)
    if not isinstance(source, MarketDataSource):
        raise UnknownSourceError(f"plugin {name!r} gives a {type(source).__name__}; a MarketDataSource is needed")
    return source


def _check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        accepted = signature(factory)
    except ValueError:
        # A callable without a readable signature says itself what it does not take.
        return
    try:
        accepted.bind(**options)
    except TypeError as exc:
        raise DataError(f"source {name!r} was given {sorted(options)}: {exc}; it takes {accepted}") from exc


def _factory(name: str) -> Callable[..., Any]:
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name].split(":")
        built_in: Callable[..., Any] = getattr(import_module(module), attribute)
        return built_in
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            plugin: Callable[..., Any] = point.load()
        except (ImportError, AttributeError) as exc:
            raise UnknownSourceError(
                f"source {name!r} is registered as {point.value} and cannot be imported: {exc}"
            ) from exc
        return plugin
    known = ", ".join(repr(known) for known in source_names())
    raise UnknownSourceError(
        f"unknown source {name!r}; known: {known}. Install the plugin that registers it under {ENTRY_POINT_GROUP!r}"
    )


def select_bars(
    frame: pl.DataFrame,
    symbols: Sequence[str] | None,
    *,
    start: date | None,
    end: date | None,
    as_of: datetime,
    known_symbols: Sequence[str],
    source: str,
) -> pl.DataFrame:
    """Return what a read of ``frame`` gives; the common end of every source."""
    wanted = check_symbols(symbols, known_symbols, source=source)
    rows = frame
    if symbols is not None:
        rows = rows.filter(pl.col("symbol").is_in(wanted))
    if start is not None:
        rows = rows.filter(pl.col("session") >= start)
    if end is not None:
        rows = rows.filter(pl.col("session") <= end)
    return as_of_view(rows, as_of)


def check_symbols(symbols: Sequence[str] | None, known: Sequence[str], *, source: str) -> tuple[str, ...]:
    """Return the symbols wanted, without repeats, or name those that the source lacks."""
    if isinstance(symbols, str):
        raise DataError(f"symbols is the text {symbols!r}; give a list: [{symbols!r}]")
    if symbols is None:
        return tuple(known)
    wanted = tuple(dict.fromkeys(symbols))
    unknown = [symbol for symbol in wanted if symbol not in set(known)]
    if unknown:
        raise UnknownSymbolError(f"{source} has no {unknown}; it has {_listing(known)}")
    return wanted


def _listing(symbols: Sequence[str], limit: int = 30) -> str:
    shown = ", ".join(symbols[:limit]) or "no symbols"
    return f"{shown} and {len(symbols) - limit} more" if len(symbols) > limit else shown
