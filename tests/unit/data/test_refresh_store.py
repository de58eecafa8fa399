from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantflow.data import BarStore, SourceInfo, as_of_view, get_source, refresh_store
from quantflow.errors import DataError, InvalidBarsError
from quantflow.testing.bars import bars, make_bars

FAR = datetime(2100, 1, 1, tzinfo=UTC)
WHOLE = make_bars({"AAPL": [400.0, 404.0, 101.0, 102.0], "MSFT": [50.0, 51.0, 52.0, 53.0]}, source="vendor")


class Vendor:
    """A source whose answer tests replace."""

    name = "vendor"
    info = SourceInfo("splits", True, timedelta(minutes=15), ("open", "high", "low", "close", "volume"), "For tests.")

    def __init__(self, answer: pl.DataFrame) -> None:
        self.answer = answer

    def symbols(self) -> tuple[str, ...]:
        return tuple(self.answer["symbol"].unique().sort().to_list())

    def read(
        self,
        symbols: Sequence[str] | None = None,
        *,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime,
    ) -> pl.DataFrame:
        rows = self.answer if symbols is None else self.answer.filter(pl.col("symbol").is_in(symbols))
        return as_of_view(rows, as_of)


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return BarStore(tmp_path / "bars")


def moment(day: int, hour: int = 23) -> datetime:
    return datetime(2022, 1, day, hour, tzinfo=UTC)


def test_a_first_refresh_stores_everything_known(store: BarStore) -> None:
    report = refresh_store(Vendor(WHOLE), store, as_of=moment(4))
    assert (report.read, report.new, report.restated, report.unchanged, report.vanished) == (4, 4, 0, 0, 0)
    assert (report.symbols, report.first_session, report.last_session) == (2, date(2022, 1, 3), date(2022, 1, 4))


def test_a_second_refresh_changes_nothing(store: BarStore) -> None:
    refresh_store(Vendor(WHOLE), store, as_of=moment(4))
    report = refresh_store(Vendor(WHOLE), store, as_of=moment(4))
    assert (report.new, report.restated, report.unchanged) == (0, 0, 4)


def test_a_later_refresh_adds_what_is_new(store: BarStore) -> None:
    refresh_store(Vendor(WHOLE), store, as_of=moment(4))
    report = refresh_store(Vendor(WHOLE), store, as_of=moment(6))
    assert (report.read, report.new, report.unchanged) == (8, 4, 4)
    assert_frame_equal(store.read(as_of=FAR), WHOLE)


def test_a_correction_is_known_from_the_refresh_that_saw_it(store: BarStore) -> None:
    vendor = Vendor(WHOLE)
    refresh_store(vendor, store, as_of=moment(6))
    vendor.answer = WHOLE.with_columns(close=pl.when(pl.col("close") == 51.0).then(50.9).otherwise("close"))
    report = refresh_store(vendor, store, as_of=moment(7))
    assert (report.new, report.restated, report.unchanged) == (0, 1, 7)
    assert store.read(["MSFT"], as_of=moment(6))["close"].to_list() == [50.0, 51.0, 52.0, 53.0]
    assert store.read(["MSFT"], as_of=moment(7))["close"].to_list() == [50.0, 50.9, 52.0, 53.0]


def test_after_a_split_no_reader_sees_two_scales(store: BarStore) -> None:
    prices = pl.col("open", "high", "low", "close")
    before = WHOLE.filter(pl.col("session") <= date(2022, 1, 4))
    vendor = Vendor(before)
    refresh_store(vendor, store, as_of=moment(4))
    is_old = (pl.col("symbol") == "AAPL") & (pl.col("session") <= date(2022, 1, 4))
    vendor.answer = WHOLE.with_columns(pl.when(is_old).then(prices / 4).otherwise(prices))
    report = refresh_store(vendor, store, as_of=moment(7))
    assert (report.new, report.restated) == (4, 2)
    for as_of in [*WHOLE["known_at"], moment(7)]:
        returns = store.read(["AAPL"], as_of=as_of)["close"].pct_change().drop_nulls()
        assert (returns.abs() < 0.02).all()


def test_bars_that_the_source_no_longer_gives_are_kept_and_counted(store: BarStore) -> None:
    vendor = Vendor(WHOLE)
    refresh_store(vendor, store, as_of=moment(6))
    vendor.answer = WHOLE.filter(pl.col("session") > date(2022, 1, 3))
    report = refresh_store(vendor, store, as_of=moment(7))
    assert (report.read, report.vanished) == (6, 2)
    assert store.read(as_of=FAR).height == 8


def test_some_symbols_can_be_refreshed_alone(store: BarStore) -> None:
    refresh_store(Vendor(WHOLE), store, as_of=moment(6))
    report = refresh_store(Vendor(WHOLE), store, as_of=moment(6), symbols=["MSFT"])
    assert (report.read, report.unchanged, report.vanished) == (4, 4, 0)


def test_invalid_bars_stop_the_refresh_and_nothing_is_written(store: BarStore) -> None:
    with pytest.raises(InvalidBarsError, match=r"vendor: not valid bars, nothing was written:\n.*close is NaN"):
        refresh_store(Vendor(WHOLE.with_columns(close=pl.lit(float("nan")))), store, as_of=moment(6))
    assert not store.root.exists()


def test_another_source_of_the_same_symbols_is_refused(store: BarStore) -> None:
    refresh_store(Vendor(WHOLE), store, as_of=moment(6))
    foreign = Vendor(WHOLE.with_columns(source=pl.lit("other")))
    with pytest.raises(
        InvalidBarsError, match=r"AAPL would have bars of \['other', 'vendor'\]; give each source a store"
    ):
        refresh_store(foreign, store, as_of=moment(7))


def test_a_naive_as_of_is_refused(store: BarStore) -> None:
    with pytest.raises(DataError, match="without a time zone"):
        refresh_store(Vendor(WHOLE), store, as_of=datetime(2022, 1, 6))


def test_the_report_is_json(store: BarStore) -> None:
    report = refresh_store(Vendor(WHOLE), store, as_of=moment(4))
    assert json.loads(json.dumps(report.as_dict()))["last_session"] == "2022-01-04"
    assert report.as_dict()["as_of"] == "2022-01-04T23:00:00+00:00"


def test_a_source_that_knows_nothing_yet_gives_an_empty_report(store: BarStore) -> None:
    report = refresh_store(Vendor(WHOLE), store, as_of=datetime(2020, 1, 1, tzinfo=UTC))
    assert (report.read, report.first_session, report.last_session) == (0, None, None)


@given(first=bars(full=True), second=bars(full=True), days=st.lists(st.integers(0, 200), min_size=2, max_size=4))
def test_counts_add_up_and_the_store_ends_as_the_source(
    first: pl.DataFrame, second: pl.DataFrame, days: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = BarStore(tmp_path_factory.mktemp("drawn"))
    start = datetime(2021, 11, 1, 23, 30, tzinfo=UTC)
    for turn, day in enumerate(sorted(set(days))):
        answer = (first, second)[turn % 2]
        as_of = start + timedelta(days=day)
        report = refresh_store(Vendor(answer), store, as_of=as_of)
        assert report.read == report.new + report.restated + report.unchanged
        stored = store.read(as_of=as_of)
        given_now = as_of_view(answer, as_of)
        assert stored.join(given_now, on=["symbol", "timestamp"], how="anti").height >= report.vanished
        same = stored.join(given_now, on=["symbol", "timestamp", "open", "high", "low", "close", "volume"], how="semi")
        assert same.height == given_now.height


@pytest.mark.slow
def test_the_sp500_set_refreshes_day_by_day(store: BarStore) -> None:
    source = get_source("sp500")
    first = refresh_store(source, store, as_of=datetime(2022, 12, 27, 23, tzinfo=UTC))
    second = refresh_store(source, store, as_of=datetime(2022, 12, 28, 23, tzinfo=UTC))
    assert (first.new, second.new, second.restated) == (166_240, 20, 0)
