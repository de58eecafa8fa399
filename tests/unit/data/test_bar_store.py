from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantflow.data import BarStore, as_of_view, bars_to_returns, get_source
from quantflow.errors import InvalidBarsError, UnknownSymbolError
from quantflow.testing.bars import make_bars, moments, versioned_bars

FAR = datetime(2100, 1, 1, tzinfo=UTC)
BARS = make_bars({"AAPL": [100.0, 101.0, 102.0], "MSFT": [200.0, 199.0, 198.0]})


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return BarStore(tmp_path / "bars")


@given(frame=versioned_bars(), as_of=moments())
def test_a_store_reads_as_the_view_of_what_was_appended(
    frame: pl.DataFrame, as_of: datetime, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = BarStore(tmp_path_factory.mktemp("drawn"))
    assert store.append(frame) == frame.height
    assert_frame_equal(store.read(as_of=as_of), as_of_view(frame, as_of))


@given(frame=versioned_bars(), data=st.data())
def test_appending_again_in_any_parts_adds_nothing(
    frame: pl.DataFrame, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = BarStore(tmp_path_factory.mktemp("drawn"))
    cut = data.draw(st.integers(min_value=0, max_value=frame.height))
    assert store.append(frame[:cut]) == cut
    assert store.append(frame) == frame.height - cut
    files = sorted(store.root.glob("*.parquet"))
    assert store.append(frame) == 0
    assert sorted(store.root.glob("*.parquet")) == files


def test_an_empty_store_has_nothing(store: BarStore) -> None:
    assert store.symbols() == ()
    assert store.read(as_of=FAR).is_empty()
    assert store.info.adjustment is None
    assert store.append(BARS.clear()) == 0
    assert not store.root.exists()


def test_a_restatement_is_a_new_row_and_the_past_stays(store: BarStore) -> None:
    store.append(BARS)
    seen = datetime(2022, 1, 10, 12, tzinfo=UTC)
    restated = BARS.head(1).with_columns(close=pl.lit(99.5), known_at=pl.lit(seen, dtype=pl.Datetime("us", "UTC")))
    assert store.append(restated) == 1
    before = store.read(["AAPL"], as_of=seen - timedelta(seconds=1))
    assert before["close"].to_list() == [100.0, 101.0, 102.0]
    assert store.read(["AAPL"], as_of=seen)["close"].to_list() == [99.5, 101.0, 102.0]
    assert store.history("AAPL", date(2022, 1, 3))["close"].to_list() == [100.0, 99.5]


def test_a_changed_row_without_a_later_known_at_is_refused(store: BarStore) -> None:
    store.append(BARS)
    with pytest.raises(
        InvalidBarsError, match=r"changes stored rows .*: AAPL 2022-01-03; a restatement needs a later one"
    ):
        store.append(BARS.with_columns(close=pl.Series([99.5, *BARS["close"].to_list()[1:]])))
    assert_frame_equal(store.read(as_of=FAR), BARS)


def test_invalid_bars_are_refused_and_nothing_is_written(store: BarStore) -> None:
    with pytest.raises(InvalidBarsError, match="close is not positive"):
        store.append(BARS.with_columns(close=pl.lit(0.0)))
    assert not store.root.exists()


def test_a_symbol_keeps_its_adjustment_and_frequency(store: BarStore) -> None:
    store.append(BARS)
    later = pl.col("known_at") + pl.duration(days=1)
    with pytest.raises(InvalidBarsError, match="AAPL is stored with adjustment 'splits' and given with 'raw'"):
        store.append(BARS.with_columns(known_at=later, adjustment=pl.lit("raw")))
    with pytest.raises(InvalidBarsError, match="stored with frequency '1d' and given with '1h'"):
        store.append(BARS.with_columns(known_at=later, frequency=pl.lit("1h")))


def test_undated_rows_are_stored_and_never_read(store: BarStore) -> None:
    undated = BARS.with_columns(known_at=pl.lit(None, dtype=pl.Datetime("us", "UTC")))
    assert store.append(undated) == 6
    assert store.append(undated) == 0
    assert store.read(as_of=FAR).is_empty()


def test_what_a_killed_writer_left_is_not_read(store: BarStore) -> None:
    store.append(BARS)
    (store.root / ".00000002-abc.parquet.77.tmp").write_bytes(b"PAR1 half a file")
    assert store.read(as_of=FAR).height == 6
    assert store.append(make_bars({"ZZZ": [1.0]})) == 1


def test_an_unknown_symbol_is_named(store: BarStore) -> None:
    store.append(BARS)
    with pytest.raises(UnknownSymbolError, match=r"store has no \['IBM'\]; it has AAPL, MSFT"):
        store.read(["IBM"], as_of=FAR)


def test_the_store_says_what_it_holds(store: BarStore) -> None:
    store.append(BARS.with_columns(volume=pl.lit(None, dtype=pl.Float64)))
    info = store.info
    assert info.adjustment == "splits"
    assert info.columns == ("open", "high", "low", "close")
    assert info.delay == timedelta(minutes=15)
    assert "made" in info.note


def test_a_store_is_a_source_by_name(store: BarStore) -> None:
    store.append(BARS)
    assert_frame_equal(get_source("store", root=store.root).read(as_of=FAR), BARS)


@pytest.mark.slow
def test_the_whole_sp500_set_goes_through_a_store(store: BarStore) -> None:
    bars = get_source("sp500").read(as_of=FAR)
    assert store.append(bars) == 166_260
    assert store.append(bars) == 0
    assert bars_to_returns(store.read(as_of=FAR)).equals(bars_to_returns(bars))


@pytest.mark.slow
def test_processes_that_append_at_once_lose_and_double_nothing(store: BarStore, tmp_path: Path) -> None:
    frame = make_bars({symbol: [float(price) for price in range(10, 40)] for symbol in ("AAPL", "MSFT", "XOM")})
    frame.write_parquet(tmp_path / "given.parquet")
    code = (
        "import sys, polars as pl\nfrom quantflow.data import BarStore\n"
        "frame = pl.read_parquet(sys.argv[2])\n"
        "print(sum(BarStore(sys.argv[1]).append(part) for part in frame.iter_slices(9)))"
    )
    command = [sys.executable, "-c", code, str(store.root), str(tmp_path / "given.parquet")]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    added = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert sum(added) == frame.height
    assert_frame_equal(store.read(as_of=FAR), frame)
