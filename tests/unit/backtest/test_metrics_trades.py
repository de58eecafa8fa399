"""Round trips, falls with their dates, capacity: by hand, and equal to vectorbt's positions to 1e-9."""

import math
import warnings
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.backtest import capacity, drawdown_table, round_trips
from quantflow.errors import MissingColumnError, RiskError

START = datetime(2020, 1, 1, 21, tzinfo=UTC)


def orders_of(rows):
    """Orders from (day, symbol, signed shares, price, fee)."""
    return pl.DataFrame(
        [
            {
                "timestamp": START + timedelta(days=day),
                "symbol": symbol,
                "side": "buy" if shares > 0 else "sell",
                "shares": abs(float(shares)),
                "price": float(price),
                "value": abs(float(shares)) * price,
                "fee": float(fee),
                "slippage": 0.1,
                "reason": "signal",
            }
            for day, symbol, shares, price, fee in rows
        ]
    )


def day(number):
    return START + timedelta(days=number)


def test_a_round_trip_reaches_from_flat_to_flat():
    orders = orders_of([(0, "A", 10, 100, 1), (1, "A", 10, 110, 1), (2, "A", -5, 120, 1), (3, "A", -15, 100, 2)])
    trips = round_trips(orders)
    assert trips.height == 1
    trip = trips.row(0, named=True)
    assert (trip["symbol"], trip["side"], trip["orders"], trip["exit_reason"]) == ("A", "long", 4, "signal")
    assert (trip["entry_timestamp"], trip["exit_timestamp"]) == (day(0), day(3))
    assert (trip["shares"], trip["entry_price"], trip["exit_price"]) == (20.0, 105.0, 105.0)
    assert trip["pnl"] == pytest.approx(5 * 120 + 15 * 100 - 2100 - 5)
    assert trip["return"] == pytest.approx(-5 / 2100)
    assert trip["slippage"] == pytest.approx(0.4)


def test_an_order_through_zero_closes_one_and_opens_the_next():
    trips = round_trips(orders_of([(0, "A", 10, 100, 1), (1, "A", -15, 120, 3), (2, "A", 5, 100, 1)]))
    assert trips["side"].to_list() == ["long", "short"]
    assert trips["exit_timestamp"].to_list() == [day(1), day(2)]
    assert trips["pnl"].to_list() == pytest.approx([200 - 1 - 2, 100 - 1 - 1])
    assert trips["fee"].to_list() == pytest.approx([3.0, 2.0])


def test_an_open_position_is_valued_at_its_mark():
    orders = orders_of([(0, "A", 10, 100, 1), (0, "B", -4, 50, 0), (1, "A", -4, 110, 1)])
    unmarked = round_trips(orders, marks={"A": 120.0})
    assert unmarked["exit_timestamp"].null_count() == 2
    assert unmarked["exit_reason"].null_count() == 2
    assert unmarked["pnl"].to_list() == [4 * 10 + 6 * 20 - 2, None]
    assert unmarked["exit_price"].to_list() == [110.0, None]


def test_without_orders_there_are_no_round_trips():
    empty = orders_of([(0, "A", 1, 1, 0)]).head(0)
    assert round_trips(empty).height == 0
    assert round_trips(empty).schema == round_trips(orders_of([(0, "A", 1, 1, 0)])).schema
    with pytest.raises(MissingColumnError, match="orders lack fee"):
        round_trips(empty.drop("fee"))


def test_shares_before_a_split_are_counted_as_those_after_it():
    orders = orders_of([(0, "A", 10, 100, 0), (0, "B", 1, 1, 0), (2, "A", -20, 60, 0)])
    orders = orders.with_columns(session=pl.col("timestamp").dt.date())
    splits = [(date(2020, 1, 3), 2.0), (date(2020, 1, 9), None)]
    actions = pl.DataFrame([{"symbol": "A", "session": session, "split": split} for session, split in splits])
    trip = round_trips(orders, actions=actions).filter(pl.col("symbol") == "A").row(0, named=True)
    assert (trip["exit_timestamp"], trip["shares"], trip["entry_price"], trip["pnl"]) == (day(2), 20.0, 50.0, 200.0)


@given(
    sizes=st.lists(st.integers(-5, 5).filter(bool), min_size=1, max_size=25),
    seed=st.integers(0, 100),
)
def test_profits_add_up_to_the_cash_that_the_orders_brought(sizes, seed):
    prices = 100.0 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0.0, 0.05, len(sizes))))
    rows = [(index, "A", size / 3.0, price, 0.5) for index, (size, price) in enumerate(zip(sizes, prices, strict=True))]
    trips = round_trips(orders_of(rows), marks={"A": 77.0})
    held = sum(sizes) / 3.0
    cash = -sum(size / 3.0 * price + 0.5 for size, price in zip(sizes, prices, strict=True))
    assert trips["pnl"].sum() == pytest.approx(cash + held * 77.0, rel=1e-9, abs=1e-9)
    assert trips["exit_timestamp"].null_count() == (sum(sizes) != 0)
    assert trips["fee"].sum() == pytest.approx(0.5 * len(sizes))


@pytest.mark.slow  # vectorbt takes seconds to import
def test_round_trips_equal_vectorbts_positions():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vectorbt's own, at import
        import pandas as pd
        import vectorbt as vbt

        generator = np.random.default_rng(3)
        index = pd.DatetimeIndex([day(number).replace(tzinfo=None) for number in range(300)])
        close = pd.DataFrame(100.0 * np.exp(generator.normal(0, 0.02, (300, 2)).cumsum(axis=0)), index, ["A", "B"])
        held = np.repeat(generator.integers(-2, 3, (60, 2)), 5, axis=0) * np.array([10.0, 7.0])
        size = pd.DataFrame(np.diff(held, axis=0, prepend=0.0), index, ["A", "B"])
        portfolio = vbt.Portfolio.from_orders(close, size=size, fees=0.001, slippage=0.002, init_cash=1e6, freq="D")
        theirs = portfolio.positions.records_readable.sort_values(["Entry Timestamp", "Column"], kind="stable")
        records = portfolio.orders.records_readable
    orders = pl.DataFrame(
        {
            "timestamp": pl.Series(records["Timestamp"].to_numpy()).dt.cast_time_unit("us").dt.replace_time_zone("UTC"),
            "symbol": records["Column"].to_list(),
            "side": [side.lower() for side in records["Side"]],
            "shares": records["Size"].to_numpy(),
            "price": records["Price"].to_numpy(),
            "fee": records["Fees"].to_numpy(),
            "slippage": np.zeros(len(records)),
        }
    )
    ours = round_trips(orders, marks=close.iloc[-1].to_dict())
    assert ours.height == len(theirs) > 20
    assert ours["symbol"].to_list() == theirs["Column"].to_list()
    assert ours["side"].to_list() == [side.lower() for side in theirs["Direction"]]
    still_open = (theirs["Status"] == "Open").to_list()
    assert ours["exit_timestamp"].is_null().to_list() == still_open
    for name, peer in {"shares": "Size", "entry_price": "Avg Entry Price", "pnl": "PnL", "return": "Return"}.items():
        np.testing.assert_allclose(ours[name].to_numpy(), theirs[peer].to_numpy(), rtol=1e-9, atol=1e-9)


def test_falls_are_listed_with_their_dates():
    values = [1.1, 0.99, 1.0395, 0.8316, 1.2474, 1.2, 1.25, 1.24]
    peaks = np.maximum(np.maximum.accumulate(values), 1.0)
    equity = pl.DataFrame(
        {
            "session": [date(2020, 1, 1 + index) for index in range(8)],
            "equity": values,
            "drawdown": 1.0 - np.array(values) / peaks,
        }
    )
    table = drawdown_table(equity)
    assert table["peak"].to_list() == [date(2020, 1, 1), date(2020, 1, 5), date(2020, 1, 7)]
    assert table["trough"].to_list() == [date(2020, 1, 4), date(2020, 1, 6), date(2020, 1, 8)]
    assert table["recovery"].to_list() == [date(2020, 1, 5), date(2020, 1, 7), None]
    assert table["drawdown"].to_list() == pytest.approx([1 - 0.8316 / 1.1, 1 - 1.2 / 1.2474, 1 - 1.24 / 1.25])
    assert table["periods_down"].to_list() == [3, 1, 1]
    assert table["periods"].to_list() == [4, 2, 1]
    assert drawdown_table(equity, count=1).height == 1
    fallen = drawdown_table(pl.DataFrame({"session": [date(2020, 1, 1)], "drawdown": [0.1]}))
    assert fallen.row(0) == (None, date(2020, 1, 1), None, 0.1, 1, 1)
    with pytest.raises(MissingColumnError, match="'timestamp'"):
        drawdown_table(equity, at="timestamp")


def market():
    times = [day(0), day(1)]
    bars = pl.DataFrame({"timestamp": times, "symbol": ["A", "A"], "close": [10.0, 20.0], "volume": [1e4, 1e4]})
    return bars, pl.DataFrame({"timestamp": times, "equity": [1000.0, 2000.0]})


def test_capacity_is_where_an_order_reaches_its_part_of_the_volume():
    bars, equity = market()
    orders = orders_of([(0, "A", 50, 10, 0), (1, "A", -100, 20, 0)])
    # 500 of 100,000 at equity 1,000; 2,000 of 200,000 at equity 2,000.
    by_order = [0.01 * 1e5 * 1000 / 500, 0.01 * 2e5 * 2000 / 2000]
    assert capacity(orders, bars, equity, participation=0.01, quantile=0.0) == pytest.approx(min(by_order))
    # The first order is a fifth of the value traded.
    assert capacity(orders, bars, equity, participation=0.01, quantile=0.85) == pytest.approx(max(by_order))
    assert math.isnan(capacity(orders.head(0), bars, equity, participation=0.01))


def test_capacity_needs_volume_for_every_order():
    bars, equity = market()
    orders = orders_of([(0, "A", 50, 10, 0)])
    with pytest.raises(RiskError, match="1 orders have no volume, first A at 2020-01-01"):
        capacity(orders, bars.tail(1), equity, participation=0.01)
    with pytest.raises(RiskError, match="participation is 0"):
        capacity(orders, bars, equity, participation=0)
    with pytest.raises(RiskError, match="quantile is 1"):
        capacity(orders, bars, equity, participation=0.1, quantile=1)
