from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.data import as_of_view, bars_to_returns, empty_bars
from quantflow.errors import InvalidBarsError
from quantflow.testing.bars import bars, make_bars

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def test_returns_are_close_over_close_before_minus_one() -> None:
    returns = bars_to_returns(make_bars({"MSFT": [50.0, 51.0, 51.0], "AAPL": [100.0, 110.0, 99.0]}))
    assert returns.columns == ["session", "AAPL", "MSFT"]
    assert returns["AAPL"].to_list() == pytest.approx([0.1, -0.1])
    assert returns["MSFT"].to_list() == pytest.approx([0.02, 0.0])


def test_a_gap_is_not_filled() -> None:
    frame = make_bars({"AAPL": [100.0, 101.0, 102.0, 103.0], "MSFT": [50.0, 51.0, 52.0, 53.0]})
    returns = bars_to_returns(frame.filter(~((pl.col("symbol") == "MSFT") & (pl.col("close") == 51.0))))
    assert returns["MSFT"].to_list() == [None, None, pytest.approx(53 / 52 - 1)]


def test_unresolved_restatements_are_refused() -> None:
    frame = make_bars({"AAPL": [100.0]})
    both = pl.concat([frame, frame.with_columns(known_at=pl.col("known_at") + pl.duration(days=1))])
    with pytest.raises(InvalidBarsError, match="AAPL has 2 rows for session 2022-01-03; choose one version"):
        bars_to_returns(both)
    assert bars_to_returns(as_of_view(both, FAR)).is_empty()


def test_no_bars_have_no_returns() -> None:
    assert bars_to_returns(empty_bars()).columns == ["session"]


@given(frame=bars(min_rows=1), factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_returns_do_not_depend_on_the_scale_of_prices(frame: pl.DataFrame, factor: float) -> None:
    scaled = frame.with_columns(pl.col("open", "high", "low", "close") * factor)
    assert bars_to_returns(scaled).equals(bars_to_returns(frame))


@given(frame=bars(min_rows=1), data=st.data())
def test_truncating_the_future_does_not_change_the_past(frame: pl.DataFrame, data: st.DataObject) -> None:
    sessions = frame["session"].unique().sort().to_list()
    last = data.draw(st.sampled_from(sessions))
    past = bars_to_returns(frame.filter(pl.col("session") <= last))
    whole = bars_to_returns(frame).filter(pl.col("session") <= last)
    assert past.equals(whole.select(past.columns))
