from __future__ import annotations

from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantflow.data import BAR_COLUMNS, BAR_SCHEMA, bars_digest, empty_bars, validate_bars
from quantflow.errors import InvalidBarsError
from quantflow.testing.bars import FAULTS, bars, make_bars, versioned_bars

BARS = make_bars({"AAPL": [100.0, 101.0, 102.0], "MSFT": [200.0, 199.0]})


def problems_of(frame: pl.DataFrame) -> str:
    with pytest.raises(InvalidBarsError) as caught:
        validate_bars(frame, source="given")
    return str(caught.value)


@given(frame=versioned_bars())
def test_valid_bars_come_back_unchanged(frame: pl.DataFrame) -> None:
    assert_frame_equal(validate_bars(frame, source="drawn"), frame)


@given(data=st.data(), words=st.sampled_from(sorted(FAULTS)))
def test_each_planted_fault_is_named_with_its_row(data: st.DataObject, words: str) -> None:
    frame = data.draw(bars(full=True, min_rows=1))
    row = data.draw(st.integers(min_value=0, max_value=frame.height - 1))
    spoiled = FAULTS[words](frame, row)
    lines = problems_of(spoiled).splitlines()
    assert any(words in line and f" {row} (" in line for line in lines), lines


def test_the_error_names_source_symbol_and_session() -> None:
    message = problems_of(BARS.with_columns(close=pl.Series([100.0, -1.0, 102.0, 200.0, 199.0])))
    assert "given: not valid bars, nothing was written" in message
    assert "close is not positive: rows 1 (AAPL 2022-01-04)" in message


def test_many_bad_rows_are_counted_not_listed() -> None:
    frame = make_bars({"AAPL": [100.0] * 20}).with_columns(volume=pl.lit(-1.0))
    assert "4 (AAPL 2022-01-07) and 15 more" in problems_of(frame)


def test_all_problems_are_told_at_once() -> None:
    frame = BARS.with_columns(volume=pl.lit(-1.0), source=pl.lit(""))
    message = problems_of(frame)
    assert "volume is negative" in message
    assert "source is missing" in message


@given(frame=bars(min_rows=1), data=st.data())
def test_a_repeated_row_is_a_duplicate(frame: pl.DataFrame, data: st.DataObject) -> None:
    row = data.draw(st.integers(min_value=0, max_value=frame.height - 1))
    doubled = pl.concat([frame[: row + 1], frame[row:]])
    assert f"duplicate of an earlier row (same symbol, timestamp and known_at): rows {row + 1} (" in problems_of(
        doubled
    )


@given(frame=bars(min_rows=2, max_symbols=1), data=st.data())
def test_an_older_row_after_a_newer_one_is_unsorted(frame: pl.DataFrame, data: st.DataObject) -> None:
    row = data.draw(st.integers(min_value=1, max_value=frame.height - 1))
    order = list(range(frame.height))
    order[row - 1], order[row] = order[row], order[row - 1]
    assert f"unsorted (older than the symbol's row before it): rows {row} (" in problems_of(frame[order])


def test_symbols_may_alternate_as_they_do_on_a_topic() -> None:
    frame = BARS.sort("timestamp", "symbol")
    assert_frame_equal(validate_bars(frame, source="topic"), frame)


def test_naive_timestamps_are_refused_with_their_rows() -> None:
    naive = BARS.with_columns(pl.col("timestamp").dt.replace_time_zone(None))
    assert "naive timestamps in 'timestamp': rows 0, 1, 2, 3, 4;" in problems_of(naive)


def test_missing_and_unknown_columns_are_named() -> None:
    message = problems_of(BARS.drop("volume").with_columns(vwap=pl.lit(1.0)))
    assert "missing columns ['volume']" in message
    assert "unknown columns ['vwap']" in message


@pytest.mark.parametrize("column", ["session", "close", "symbol", "timestamp"])
def test_a_column_of_another_type_is_named(column: str) -> None:
    value = pl.lit(True)
    assert f"column '{column}' is Boolean" in problems_of(BARS.with_columns(value.alias(column)))


def test_other_zones_units_and_whole_numbers_are_converted() -> None:
    foreign = BARS.with_columns(
        pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ns"),
        pl.col("volume").cast(pl.Int64),
        open=None,
    ).select(reversed(BAR_COLUMNS))
    valid = validate_bars(foreign, source="given")
    assert valid.schema == BAR_SCHEMA
    assert_frame_equal(valid.drop("open"), BARS.drop("open"))


def test_absent_columns_stay_null() -> None:
    closes_only = BARS.with_columns(open=None, high=None, low=None, volume=None)
    valid = validate_bars(closes_only, source="closes")
    assert valid.select("open", "high", "low", "volume").null_count().row(0) == (5, 5, 5, 5)


def test_undated_rows_are_valid() -> None:
    undated = BARS.with_columns(known_at=pl.lit(None, dtype=BAR_SCHEMA["known_at"]))
    assert validate_bars(undated, source="undated").height == BARS.height


def test_one_symbol_cannot_mix_adjustments() -> None:
    mixed = BARS.with_columns(adjustment=pl.Series(["raw", "splits", "splits", "raw", "raw"]))
    assert "AAPL mixes prices that are adjusted differently: ['raw', 'splits']" in problems_of(mixed)


def test_frequencies_cannot_be_mixed() -> None:
    mixed = BARS.with_columns(frequency=pl.Series(["1d", "1h", "1d", "1d", "1d"]))
    assert "frequencies ['1d', '1h'] are mixed" in problems_of(mixed)


def test_a_close_that_rounding_puts_above_the_high_is_valid() -> None:
    rounded = BARS.with_columns(high=pl.max_horizontal("open", "close") * (1 - 1e-12))
    assert validate_bars(rounded, source="vendor").height == BARS.height


def test_no_rows_are_valid() -> None:
    assert_frame_equal(validate_bars(empty_bars(), source="nothing"), empty_bars())


@given(frame=versioned_bars(), seed=st.integers(0, 1000))
def test_the_digest_does_not_depend_on_the_order_of_rows(frame: pl.DataFrame, seed: int) -> None:
    assert bars_digest(frame.sample(fraction=1.0, shuffle=True, seed=seed)) == bars_digest(frame)


@pytest.mark.parametrize("column", BAR_COLUMNS)
def test_the_digest_sees_every_column(column: str) -> None:
    changes = {
        "session": pl.lit(date(2020, 1, 2)),
        "timestamp": pl.col("timestamp") + pl.duration(microseconds=1),
        "known_at": pl.col("known_at") + pl.duration(microseconds=1),
    }
    default = pl.lit("other") if BAR_SCHEMA[column] == pl.String else pl.col(column) + 1e-9
    changed = BARS.with_columns(changes.get(column, default).alias(column))
    assert bars_digest(changed) != bars_digest(BARS)


def test_the_digest_tells_null_from_zero() -> None:
    assert bars_digest(BARS.with_columns(volume=0.0)) != bars_digest(
        BARS.with_columns(volume=pl.lit(None, dtype=pl.Float64))
    )


def test_the_digest_is_the_same_in_every_version_of_quantflow() -> None:
    assert bars_digest(empty_bars()) == "b55a3a4179e23d6c7e8bb31b7b513cfafa829c04ba23198677dbeea3a5fa7621"
