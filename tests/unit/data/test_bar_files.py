from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from polars.testing import assert_frame_equal

from quantflow.data import FileSource, as_of_view
from quantflow.errors import DataError, InvalidBarsError, SourceUnavailableError, UnknownSessionError
from quantflow.testing.bars import make_bars, versioned_bars

FAR = datetime(2100, 1, 1, tzinfo=UTC)
BARS = make_bars({"AAPL": [100.0, 101.0], "MSFT": [200.0, 199.0]})


def csv(directory: Path, text: str) -> Path:
    path = directory / "bars.csv"
    path.write_text(text)
    return path


def closes(directory: Path, *lines: str) -> Path:
    return csv(directory, "\n".join(["date,ticker,close", *lines]))


@given(frame=versioned_bars())
def test_a_parquet_file_of_bars_reads_as_they_were_known(
    frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("drawn") / "bars.parquet"
    frame.write_parquet(path)
    assert_frame_equal(FileSource(path).read(as_of=FAR), as_of_view(frame, FAR))


def test_a_csv_file_of_bars_reads_as_the_parquet_file(tmp_path: Path) -> None:
    BARS.write_csv(tmp_path / "bars.csv")
    BARS.write_parquet(tmp_path / "bars.parquet")
    assert_frame_equal(
        FileSource(tmp_path / "bars.csv").read(as_of=FAR), FileSource(tmp_path / "bars.parquet").read(as_of=FAR)
    )


def test_a_bar_without_known_at_is_known_at_the_close_plus_the_delay(tmp_path: Path) -> None:
    path = closes(tmp_path, "2022-11-25,AAPL,148.11")
    bars = FileSource(path, adjustment="raw", delay=timedelta(hours=2)).read(as_of=FAR)
    assert bars["timestamp"].to_list() == [datetime(2022, 11, 25, 18, tzinfo=UTC)]
    assert bars["known_at"].to_list() == [datetime(2022, 11, 25, 20, tzinfo=UTC)]


def test_a_row_with_an_empty_known_at_is_invisible(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "date,ticker,close,known_at\n2022-01-03,AAPL,1.0,2022-01-03T22:00:00Z\n2022-01-04,AAPL,2.0,\n",
    )
    assert FileSource(path, adjustment="raw").read(as_of=FAR)["close"].to_list() == [1.0]


def test_absent_columns_are_null_and_not_promised(tmp_path: Path) -> None:
    source = FileSource(closes(tmp_path, "2022-01-03,AAPL,1.0"), adjustment="raw")
    assert source.read(as_of=FAR).select("open", "high", "low", "volume").row(0) == (None,) * 4
    assert source.info.columns == ("close",)


def test_symbols_that_look_like_numbers_stay_as_they_are(tmp_path: Path) -> None:
    source = FileSource(closes(tmp_path, "2022-01-04,0700,460.2"), adjustment="raw", exchange="XHKG")
    assert source.symbols() == ("0700",)


def test_names_can_be_given_and_differ_in_case(tmp_path: Path) -> None:
    path = csv(tmp_path, "Date,Close,Adj Close,Volume\n2022-01-03,182.01,180.1,104487900\n")
    source = FileSource(
        path, symbol="AAPL", adjustment="splits_and_dividends", columns={"Adj Close": "close"}, survivorship_bias=False
    )
    bar = source.read(as_of=FAR).row(0, named=True)
    assert (bar["symbol"], bar["close"], bar["volume"]) == ("AAPL", 180.1, 104_487_900.0)
    assert source.info.adjustment == "splits_and_dividends"
    assert not source.info.survivorship_bias


def test_a_file_that_pandas_wrote_has_midnights_for_dates(tmp_path: Path) -> None:
    frame = pl.DataFrame({"Date": [datetime(2022, 1, 3), datetime(2022, 1, 4)], "Close": [1.0, 2.0]})
    frame.write_parquet(tmp_path / "bars.parquet")
    bars = FileSource(tmp_path / "bars.parquet", symbol="AAPL", adjustment="raw").read(as_of=FAR)
    assert bars["session"].to_list() == [date(2022, 1, 3), date(2022, 1, 4)]


def test_moments_are_not_taken_for_dates(tmp_path: Path) -> None:
    pl.DataFrame({"Date": [datetime(2022, 1, 3, 16)], "Close": [1.0]}).write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(InvalidBarsError, match="column 'session' is Datetime"):
        FileSource(tmp_path / "bars.parquet", symbol="AAPL", adjustment="raw")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("03.01.2022,AAPL,1.0", r"session is not a date, e.g. 2022-12-30: rows 0 \('03.01.2022'\)"),
        ("2022-01-03,AAPL,n/a", r"close is not a number: rows 0 \('n/a'\)"),
        ("2022-01-03,AAPL,nan", r"close is NaN or infinite: rows 0 \(AAPL 2022-01-03\)"),
        ("2022-01-03,AAPL,-1", r"close is not positive: rows 0 \(AAPL 2022-01-03\)"),
        ("2022-01-03,,1.0", r"symbol is missing: rows 0 \(None 2022-01-03\)"),
    ],
)
def test_rows_that_are_not_bars_are_named(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(InvalidBarsError, match=problem):
        FileSource(closes(tmp_path, line), adjustment="raw")


def test_newest_first_is_unsorted(tmp_path: Path) -> None:
    path = closes(tmp_path, "2022-01-04,AAPL,1.0", "2022-01-03,AAPL,1.0")
    with pytest.raises(InvalidBarsError, match=r"unsorted .* rows 1 \(AAPL 2022-01-03\)"):
        FileSource(path, adjustment="raw")


def test_naive_moments_are_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "date,ticker,close,known_at\n2022-01-03,AAPL,1.0,2022-01-03 16:00\n")
    with pytest.raises(InvalidBarsError, match=r"known_at is not an ISO 8601 moment with an offset.*2022-01-03 16:00"):
        FileSource(path, adjustment="raw")
    BARS.with_columns(pl.col("known_at").dt.replace_time_zone(None)).write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(InvalidBarsError, match="naive timestamps in 'known_at': rows 0, 1, 2, 3;"):
        FileSource(tmp_path / "bars.parquet")


def test_a_day_on_which_the_exchange_was_closed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownSessionError, match="2022-01-01"):
        FileSource(closes(tmp_path, "2022-01-01,BTC,47000.0"), adjustment="raw")
    always = FileSource(closes(tmp_path, "2022-01-01,BTC,47000.0"), adjustment="raw", exchange="24/7")
    assert always.read(as_of=FAR).height == 1


def test_how_prices_are_adjusted_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'adjustment'; give it as an option"):
        FileSource(closes(tmp_path, "2022-01-03,AAPL,1.0"))


def test_a_name_that_the_file_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"columns names \['Last'\], which the file lacks"):
        FileSource(closes(tmp_path, "2022-01-03,AAPL,1.0"), adjustment="raw", columns={"Last": "close"})


def test_a_file_without_dates_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "ticker,close\nAAPL,1.0\n")
    with pytest.raises(InvalidBarsError, match=r"missing columns \['session', 'timestamp', 'known_at'\]"):
        FileSource(path, adjustment="raw")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="no file"):
        FileSource(tmp_path / "absent.parquet")
    (tmp_path / "bars.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"bars\.parquet cannot be read"):
        FileSource(tmp_path / "bars.parquet")
    (tmp_path / "bars.xlsx").write_text("")
    with pytest.raises(DataError, match=r"has the ending '.xlsx'; .parquet, .csv and .csv.gz are read"):
        FileSource(tmp_path / "bars.xlsx")


def test_mixed_adjustments_are_left_to_each_row(tmp_path: Path) -> None:
    frame = BARS.with_columns(
        adjustment=pl.when(pl.col("symbol") == "AAPL").then(pl.lit("raw")).otherwise("adjustment")
    )
    frame.write_parquet(tmp_path / "bars.parquet")
    assert FileSource(tmp_path / "bars.parquet").info.adjustment is None
