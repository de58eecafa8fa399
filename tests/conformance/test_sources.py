"""Every market data source keeps the promises of the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from quantflow.data import BarStore, FileSource, MarketDataSource, YahooSource, get_source, sessions_between
from quantflow.testing.bars import make_bars
from quantflow.testing.network import no_network
from quantflow.testing.sources import SourceConformance
from quantflow.testing.yahoo import CannedYahoo, YahooBar, fresh_yfinance

BARS = make_bars({"AAPL": [100.0, 101.0, 102.5, 99.0], "MSFT": [200.0, 198.0, 201.0, 205.0]})


@pytest.fixture(autouse=True)
def _offline() -> Iterator[None]:
    with no_network():
        yield


class TestSp500(SourceConformance):
    @pytest.fixture
    def source(self) -> MarketDataSource:
        return get_source("sp500")


class TestIndex(SourceConformance):
    @pytest.fixture
    def source(self) -> MarketDataSource:
        return get_source("index")


class TestParquetFile(SourceConformance):
    @pytest.fixture
    def source(self, tmp_path: Path) -> MarketDataSource:
        BARS.write_parquet(tmp_path / "bars.parquet")
        return get_source("file", path=tmp_path / "bars.parquet")


class TestCsvFile(SourceConformance):
    @pytest.fixture
    def source(self, tmp_path: Path) -> MarketDataSource:
        BARS.select(
            pl.col("session").alias("Date"), pl.col("symbol").alias("Ticker"), pl.col("close").alias("Close")
        ).write_csv(tmp_path / "closes.csv")
        return FileSource(tmp_path / "closes.csv", adjustment="raw")


class TestStore(SourceConformance):
    @pytest.fixture
    def source(self, tmp_path: Path) -> MarketDataSource:
        store = BarStore(tmp_path / "store")
        store.append(BARS)
        restated = BARS.filter(pl.col("session") == date(2022, 1, 4)).with_columns(
            close=pl.col("close") * 0.999, known_at=pl.col("known_at") + pl.duration(days=1)
        )
        store.append(restated)
        return store


class TestYahoo(SourceConformance):
    @pytest.fixture
    def source(self, tmp_path: Path) -> MarketDataSource:
        fresh_yfinance()
        sessions = sessions_between(date(2022, 1, 3), date(2022, 1, 14)).to_list()
        history = [
            YahooBar(day, 10.0 + i, 12.0 + i, 9.0 + i, 11.0 + i, 10.5 + i, 1000) for i, day in enumerate(sessions)
        ]
        yahoo = CannedYahoo({"AAPL": history, "MSFT": history})
        return YahooSource(
            ["MSFT", "AAPL"],
            cache_dir=tmp_path,
            session=yahoo.session(),
            min_interval_s=0.0,
            now=lambda: datetime(2022, 6, 1, tzinfo=UTC),
        )
