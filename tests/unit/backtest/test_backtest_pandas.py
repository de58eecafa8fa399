"""Bars from pandas and back."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest

from quantflow.backtest import backtest, bars_from_pandas, bars_to_pandas
from quantflow.data import BAR_SCHEMA
from quantflow.errors import InvalidBarsError
from quantflow.testing.signals import bars_of, random_walk, trend

INDEX = pd.DatetimeIndex(["2024-01-02 16:00", "2024-01-03 16:00", "2024-01-04 16:00"], tz="America/New_York")
PRICES = pd.DataFrame(
    {
        "Open": [1.0, 2.0, 3.0],
        "High": [2.0, 3.0, 4.0],
        "Low": [0.5, 1.5, 2.5],
        "Close": [1.5, 2.5, 3.5],
        "Volume": [10, 20, 30],
    },
    index=INDEX,
)


def test_a_frame_of_one_symbol_becomes_canonical_bars():
    bars = bars_from_pandas(PRICES, symbol="A", session_zone="America/New_York", known_after=timedelta(hours=1))
    assert bars.schema == BAR_SCHEMA
    assert bars["session"].to_list() == [date(2024, 1, 2), date(2024, 1, 3), date(2024, 1, 4)]
    assert str(bars["timestamp"][0]) == "2024-01-02 21:00:00+00:00"
    assert str(bars["known_at"][0]) == "2024-01-02 22:00:00+00:00"
    assert bars.select("open", "high", "low", "close", "volume").row(1) == (2.0, 3.0, 1.5, 2.5, 20.0)


def test_the_session_is_the_trading_date_of_the_exchange():
    late = PRICES.set_axis(INDEX + pd.Timedelta(hours=7))  # 23:00 in New York is the next day in UTC
    assert bars_from_pandas(late, symbol="A", session_zone="America/New_York")["session"][0] == date(2024, 1, 2)
    assert bars_from_pandas(late, symbol="A")["session"][0] == date(2024, 1, 3)


def test_a_wide_frame_of_closes_leaves_out_what_is_nan():
    wide = pd.DataFrame({"B": [1.0, np.nan, 3.0], "A": [4.0, 5.0, 6.0]}, index=INDEX)
    bars = bars_from_pandas(wide)
    assert bars.select("symbol", "close").rows() == [("A", 4.0), ("A", 5.0), ("A", 6.0), ("B", 1.0), ("B", 3.0)]
    assert bars["open"].null_count() == 5
    back = bars_to_pandas(bars)
    pd.testing.assert_frame_equal(back, wide[["A", "B"]].tz_convert("UTC"), check_names=False, check_freq=False)


def test_a_mapping_of_frames_becomes_bars_of_many_symbols():
    bars = bars_from_pandas({"B": PRICES, "A": PRICES[["Close"]]}, adjustment="splits", source="mine", frequency="1d")
    assert bars["symbol"].to_list() == ["A"] * 3 + ["B"] * 3
    assert bars_to_pandas(bars, "volume")["B"].to_list() == [10.0, 20.0, 30.0]
    assert bars_to_pandas(bars, "volume")["A"].isna().all()
    assert bars.select("adjustment", "source").unique().rows() == [("splits", "mine")]


def test_a_round_trip_through_pandas_changes_no_backtest():
    bars = bars_of({"A": random_walk(50, seed=1), "B": random_walk(50, seed=2)})
    again = bars_from_pandas(bars_to_pandas(bars))
    ours = backtest(trend.bind(), bars, fill="next_close").equity
    assert backtest(trend.bind(), again, fill="next_close").equity.equals(ours)
    assert list(ours.to_pandas().columns) == ours.columns


def test_frames_that_are_no_bars_are_refused():
    with pytest.raises(InvalidBarsError, match="index of A has no time zone"):
        bars_from_pandas(PRICES.tz_localize(None), symbol="A")
    with pytest.raises(InvalidBarsError, match="no column 'close'; there are: Open"):
        bars_from_pandas(PRICES[["Open"]], symbol="A")
    with pytest.raises(InvalidBarsError, match=r"close is not positive: rows 0 \(A 2024-01-02\), 1 \(A"):
        bars_from_pandas(PRICES[["Close"]] - 2.5, symbol="A", session_zone="America/New_York")
    with pytest.raises(InvalidBarsError, match="unsorted"):
        bars_from_pandas(PRICES[::-1], symbol="A")
    bars = bars_from_pandas(PRICES, symbol="A")
    with pytest.raises(InvalidBarsError, match="no column 'bid'"):
        bars_to_pandas(bars, "bid")
    with pytest.raises(InvalidBarsError, match="A has more than one bar"):
        bars_to_pandas(pl.concat([bars, bars]))
