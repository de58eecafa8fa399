"""What every market data source promises, as tests.

Derive a class whose name begins with ``Test`` and give it a ``source`` fixture::

    class TestMyVendor(SourceConformance):
        @pytest.fixture
        def source(self) -> MarketDataSource:
            return MyVendor(...)

The source must have at least two symbols and three sessions.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from quantflow.data.bars import ADJUSTMENTS, BAR_SCHEMA, validate_bars
from quantflow.data.returns import bars_to_returns
from quantflow.data.sources import MarketDataSource
from quantflow.errors import DataError, UnknownSymbolError

__all__ = ["SourceConformance"]

FAR = datetime(2100, 1, 1, tzinfo=UTC)
_BAR = ["symbol", "timestamp"]


class SourceConformance:
    """Tests that hold for every source; the ``source`` fixture says which."""

    @pytest.fixture
    def everything(self, source: MarketDataSource) -> pl.DataFrame:
        """All bars, as the far future knows them."""
        return source.read(as_of=FAR)

    def test_is_a_market_data_source(self, source: MarketDataSource) -> None:
        assert isinstance(source, MarketDataSource)

    def test_says_what_its_bars_are(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        info = source.info
        assert info.note
        assert info.delay >= timedelta(0)
        adjustments = set(everything["adjustment"].to_list())
        assert adjustments <= set(ADJUSTMENTS)
        assert info.adjustment is None or adjustments == {info.adjustment}

    def test_columns_it_does_not_promise_are_null(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        given = {
            name
            for name in ("open", "high", "low", "close", "volume")
            if everything[name].null_count() < everything.height
        }
        assert given == set(source.info.columns)

    def test_symbols_are_sorted_and_unique(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        symbols = source.symbols()
        assert list(symbols) == sorted(set(symbols))
        assert set(everything["symbol"].to_list()) <= set(symbols)
        assert len(symbols) >= 2

    def test_bars_are_valid_and_in_the_canonical_schema(
        self, source: MarketDataSource, everything: pl.DataFrame
    ) -> None:
        assert everything.schema == BAR_SCHEMA
        assert_frame_equal(validate_bars(everything, source=source.name), everything)

    def test_bars_are_sorted_and_there_is_one_a_symbol_and_timestamp(self, everything: pl.DataFrame) -> None:
        assert_frame_equal(everything, everything.sort(_BAR))
        assert everything.select(pl.struct(_BAR).is_unique().all()).item()

    def test_every_bar_says_when_it_became_known(self, everything: pl.DataFrame) -> None:
        assert everything["known_at"].null_count() == 0
        assert (everything["known_at"] >= everything["timestamp"]).all()

    def test_no_bar_is_known_at_midnight(self, everything: pl.DataFrame) -> None:
        # Midnight is what a date becomes when nobody asked when the exchange closed.
        local = everything["known_at"].dt.convert_time_zone("America/New_York").dt.time()
        assert (everything["known_at"].dt.time() != datetime.min.time()).all()
        assert (local != datetime.min.time()).all()

    def test_reading_twice_gives_the_same(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        assert_frame_equal(source.read(as_of=FAR), everything)

    def test_one_symbol_alone_reads_as_among_all(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        symbol = source.symbols()[-1]
        alone = source.read([symbol], as_of=FAR)
        assert_frame_equal(alone, everything.filter(pl.col("symbol") == symbol))

    def test_a_repeated_symbol_is_read_once(self, source: MarketDataSource) -> None:
        symbol = source.symbols()[0]
        assert_frame_equal(source.read([symbol, symbol], as_of=FAR), source.read([symbol], as_of=FAR))

    def test_start_and_end_are_included(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        sessions = everything["session"].unique().sort().to_list()
        first, last = sessions[1], sessions[-2]
        between = source.read(start=first, end=last, as_of=FAR)
        assert_frame_equal(between, everything.filter(pl.col("session").is_between(first, last)))
        assert between["session"].min() == first
        assert between["session"].max() == last

    def test_nothing_known_later_is_read(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        for quantile in (0.25, 0.5, 0.9):
            as_of = _moment(everything, quantile)
            early = source.read(as_of=as_of)
            assert not early.is_empty()
            assert (early["known_at"] <= as_of).all()
            assert early.join(everything, on=_BAR, how="anti").is_empty()

    def test_a_bar_is_read_from_the_moment_it_is_known(
        self, source: MarketDataSource, everything: pl.DataFrame
    ) -> None:
        bar = everything.filter(pl.col("known_at") == everything["known_at"].max()).row(0, named=True)
        wanted = (pl.col("symbol") == bar["symbol"]) & (pl.col("timestamp") == bar["timestamp"])
        now = source.read([bar["symbol"]], as_of=bar["known_at"]).filter(wanted)
        just_before = source.read([bar["symbol"]], as_of=bar["known_at"] - timedelta(microseconds=1)).filter(wanted)
        assert now.height == 1
        assert just_before.filter(pl.col("known_at") >= bar["known_at"]).is_empty()

    def test_a_later_as_of_never_removes_a_bar(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        reads = [source.read(as_of=_moment(everything, quantile)) for quantile in (0.0, 0.3, 0.6, 1.0)]
        for earlier, later in pairwise(reads):
            assert earlier.join(later, on=_BAR, how="anti").is_empty()

    def test_before_its_first_bar_there_is_nothing(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        nothing = source.read(as_of=_moment(everything, 0.0) - timedelta(seconds=1))
        assert nothing.is_empty()
        assert nothing.schema == BAR_SCHEMA

    def test_the_time_zone_of_as_of_does_not_matter(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        as_of = _moment(everything, 0.5)
        assert_frame_equal(source.read(as_of=as_of), source.read(as_of=as_of.astimezone(ZoneInfo("Asia/Tokyo"))))

    def test_a_naive_as_of_is_refused(self, source: MarketDataSource) -> None:
        with pytest.raises(DataError, match="without a time zone"):
            source.read(as_of=datetime(2022, 1, 3, 12))  # noqa: DTZ001

    def test_an_unknown_symbol_is_named(self, source: MarketDataSource) -> None:
        with pytest.raises(UnknownSymbolError, match="NO-SUCH-SYMBOL"):
            source.read(["NO-SUCH-SYMBOL"], as_of=FAR)

    def test_returns_can_be_made_of_its_bars(self, source: MarketDataSource, everything: pl.DataFrame) -> None:
        returns = bars_to_returns(everything)
        assert returns.columns == ["session", *source.symbols()]
        assert returns.height == everything["session"].n_unique() - 1


def _moment(bars: pl.DataFrame, quantile: float) -> datetime:
    """Return the moment by which this part of the bars was known."""
    moments = bars["known_at"].sort()
    moment: datetime = moments[round(quantile * (len(moments) - 1))]
    return moment
