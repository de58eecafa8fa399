from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from polars.testing import assert_frame_equal

from quantflow.data import as_of_view, empty_bars, restate, validate_bars
from quantflow.errors import DataError
from quantflow.testing.bars import make_bars, moments, versioned_bars

BAR = ["symbol", "timestamp"]
FAR = datetime(2100, 1, 1, tzinfo=UTC)
OBSERVED = datetime(2022, 2, 1, 12, tzinfo=UTC)


def scaled(frame: pl.DataFrame, factor: float) -> pl.DataFrame:
    return frame.with_columns(pl.col("open", "high", "low", "close") * factor)


@given(frame=versioned_bars(), first=moments(), second=moments())
def test_a_later_as_of_never_removes_a_bar(frame: pl.DataFrame, first: datetime, second: datetime) -> None:
    earlier, later = sorted((first, second))
    before, after = as_of_view(frame, earlier), as_of_view(frame, later)
    assert before.join(after, on=BAR, how="anti").is_empty()


@given(frame=versioned_bars(), as_of=moments())
def test_no_row_known_later_is_seen(frame: pl.DataFrame, as_of: datetime) -> None:
    assert (as_of_view(frame, as_of)["known_at"] <= as_of.astimezone(UTC)).all()


@given(frame=versioned_bars(), as_of=moments())
def test_what_becomes_known_later_does_not_change_the_view(frame: pl.DataFrame, as_of: datetime) -> None:
    truncated = frame.filter(pl.col("known_at") <= as_of.astimezone(UTC))
    assert_frame_equal(as_of_view(truncated, as_of), as_of_view(frame, as_of))


@given(frame=versioned_bars(), as_of=moments())
def test_there_is_one_row_a_bar_and_it_is_the_latest(frame: pl.DataFrame, as_of: datetime) -> None:
    view = as_of_view(frame, as_of)
    known = frame.filter(pl.col("known_at") <= as_of.astimezone(UTC))
    latest = known.group_by(BAR).agg(pl.col("known_at").max()).sort(BAR)
    assert_frame_equal(view.select(*BAR, "known_at"), latest)


@given(frame=versioned_bars(), as_of=moments())
def test_the_view_of_a_view_is_the_view(frame: pl.DataFrame, as_of: datetime) -> None:
    view = as_of_view(frame, as_of)
    assert_frame_equal(as_of_view(view, as_of), view)


def test_undated_rows_do_not_exist() -> None:
    undated = make_bars({"AAPL": [1.0]}).with_columns(known_at=pl.lit(None, dtype=pl.Datetime("us", "UTC")))
    assert as_of_view(undated, FAR).is_empty()


def test_a_naive_as_of_is_refused() -> None:
    with pytest.raises(DataError, match="as_of is 2022-01-03T00:00:00, without a time zone"):
        as_of_view(empty_bars(), datetime(2022, 1, 3))


@given(frame=versioned_bars(undated=False))
def test_an_answer_that_says_the_same_adds_nothing(frame: pl.DataFrame) -> None:
    known = as_of_view(frame, FAR)
    assert restate(known, known, observed_at=FAR).is_empty()


@given(frame=versioned_bars(undated=False))
def test_the_first_answer_is_taken_as_it_is(frame: pl.DataFrame) -> None:
    answer = as_of_view(frame, FAR)
    assert_frame_equal(restate(empty_bars(), answer, observed_at=FAR), answer)


def test_a_corrected_bar_becomes_known_when_the_correction_was_seen() -> None:
    known = make_bars({"AAPL": [100.0, 101.0, 102.0]})
    corrected = known.with_columns(close=pl.Series([100.0, 100.5, 102.0]))
    rows = restate(known, corrected, observed_at=OBSERVED)
    assert rows.select("close", "known_at").rows() == [(100.5, OBSERVED)]
    everything = validate_bars(pl.concat([known, rows]).sort(*BAR, "known_at"), source="both")
    assert as_of_view(everything, OBSERVED - timedelta(seconds=1))["close"].to_list() == [100.0, 101.0, 102.0]
    assert as_of_view(everything, OBSERVED)["close"].to_list() == [100.0, 100.5, 102.0]


def test_a_value_that_appears_or_disappears_is_a_restatement() -> None:
    known = make_bars({"AAPL": [100.0]})
    without = known.with_columns(volume=pl.lit(None, dtype=pl.Float64))
    assert restate(known, without, observed_at=OBSERVED).height == 1
    assert restate(without, known, observed_at=OBSERVED).height == 1


def test_a_source_that_dates_its_restatements_is_believed() -> None:
    known = make_bars({"AAPL": [100.0]})
    own = datetime(2022, 1, 20, 9, tzinfo=UTC)
    answer = known.with_columns(close=pl.lit(99.5), known_at=pl.lit(own, dtype=pl.Datetime("us", "UTC")))
    assert restate(known, answer, observed_at=OBSERVED)["known_at"].to_list() == [own]


def test_a_split_restates_the_history_together_with_the_first_newer_bar() -> None:
    whole = make_bars({"AAPL": [400.0, 404.0, 101.0, 102.0]})
    known = whole.head(2)
    answer = pl.concat([scaled(known, 0.25), whole.tail(2)])
    rows = restate(known, answer, observed_at=OBSERVED)
    everything = pl.concat([known, rows])
    for as_of in [*whole["known_at"], OBSERVED, FAR]:
        closes = as_of_view(everything, as_of)["close"]
        assert (closes.pct_change().drop_nulls().abs() < 0.02).all(), f"two scales in one history at {as_of}"
    assert as_of_view(everything, whole["known_at"][1])["close"].to_list() == [400.0, 404.0]


def test_a_split_of_one_symbol_does_not_date_the_correction_of_another() -> None:
    whole = make_bars({"AAPL": [400.0, 404.0, 101.0], "MSFT": [50.0, 51.0, 52.0]})
    known = whole.filter(pl.col("close") != 101.0, pl.col("close") != 52.0)
    changed = known.with_columns(
        close=pl.when(pl.col("symbol") == "AAPL").then(pl.col("close") / 4).otherwise(pl.Series([0.0, 0.0, 50.0, 51.5]))
    )
    newer = whole.filter(pl.col("close").is_in([101.0, 52.0]))
    rows = restate(known, pl.concat([changed, newer]).sort(BAR), observed_at=OBSERVED)
    dates = dict(rows.filter(pl.col("close").is_in([100.0, 51.5])).select("symbol", "known_at").rows())
    assert dates["MSFT"] == OBSERVED
    assert dates["AAPL"] == newer["known_at"][0]


def test_a_history_multiplied_without_a_newer_bar_is_known_when_it_was_seen() -> None:
    known = make_bars({"AAPL": [400.0, 404.0]})
    rows = restate(known, scaled(known, 0.25), observed_at=OBSERVED)
    assert rows["known_at"].to_list() == [OBSERVED, OBSERVED]
