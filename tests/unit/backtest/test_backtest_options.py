"""Options, schedules, calendars, bars within a day, and what a backtest hands over."""

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.backtest import Execution, backtest, round_trips
from quantflow.backtest._schedule import due_rows
from quantflow.errors import MissingColumnError, SignalError, UnknownSessionError
from quantflow.signals import memory, signal
from quantflow.testing.signals import bars_of, random_walk, trend


@signal()
def hold_then_sell(bar, seen=memory()):
    """Long for the first three bars, then flat."""
    seen[0] += 1.0
    return 1.0 if seen[0] <= 3.0 else 0.0


def opened(closes, factor=1.0):
    """Bars whose opens are the closes before, times a factor."""
    return bars_of(closes, open={s: [v[0], *(x * factor for x in v[:-1])] for s, v in closes.items()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": "tomorrow"}, "fill is 'tomorrow'; allowed: next_open, next_close, same_close"),
        ({"fee_bps": -1.0}, "fee_bps is -1.0; allowed: basis points"),
        ({"slippage_bps": 10_000}, "slippage_bps is 10000"),
        ({"impact_bps": math.nan}, "impact_bps is nan"),
        ({"fee_fixed": math.inf}, "fee_fixed is inf; allowed: a finite number, at least 0"),
        ({"half_spread": "wide"}, "half_spread is 'wide'"),
        ({"initial_cash": 0.0}, "initial_cash is 0.0; allowed: a finite number above 0"),
        ({"initial_cash": True}, "initial_cash is True"),
        ({"leverage": 0.5}, "leverage is 0.5; allowed: a finite number, at least 1"),
        ({"stop_loss": 1.0}, "stop_loss is 1.0; allowed: None or a fraction above 0 and below 1"),
        ({"trailing_stop": 0.0}, "trailing_stop is 0.0"),
        ({"take_profit": -0.1}, "take_profit is -0.1; allowed: None or a finite fraction above 0"),
        ({"rebalance": "hourly"}, "rebalance is 'hourly'; allowed: every_bar, on_change, weekly"),
        ({"rebalance": []}, "at least one"),
        ({"rebalance": [datetime(2024, 1, 1, tzinfo=UTC)]}, "or dates"),
        ({"calendar": 7}, "calendar is 7"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(SignalError, match=message.replace("(", r"\(")):
        Execution(**options)
    with pytest.raises(SignalError, match=message.replace("(", r"\(")):
        backtest(trend.bind(), bars_of({"A": random_walk(10, seed=1)}), **options)


def test_executions_are_values():
    dates = [date(2024, 2, 1), date(2024, 1, 1), date(2024, 2, 1)]
    one, other = Execution(rebalance=dates), Execution(rebalance=(date(2024, 1, 1), date(2024, 2, 1)))
    assert one == other
    assert hash(one) == hash(other)
    assert one.to_dict()["rebalance"] == "2024-01-01,2024-02-01"
    assert Execution().is_plain
    assert not Execution(min_order=1.0).is_plain


def days(count, first=date(2024, 1, 1)):
    return np.arange(np.datetime64(first), np.datetime64(first) + count)


def test_a_period_begins_with_its_first_bar_that_exists():
    monday = date(2024, 1, 1)
    sessions = np.array(
        [monday + timedelta(days=offset) for offset in (0, 1, 4, 8, 9, 30, 31, 92)], dtype="datetime64[D]"
    )
    assert due_rows(sessions, "weekly").tolist() == [0, 0, 0, 1, 0, 1, 0, 1]
    assert due_rows(sessions, "monthly").tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert due_rows(sessions, "quarterly").tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
    assert due_rows(sessions, "every_bar").tolist() == [1] * 8


def test_dates_are_due_at_the_first_bar_on_or_after_them():
    sessions = days(10)
    dates = (date(2023, 6, 1), date(2024, 1, 1), date(2024, 1, 4), date(2025, 1, 1))
    assert due_rows(sessions, dates).tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert due_rows(sessions[1:], dates).tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert due_rows(sessions[1:], dates, previous=date(2023, 12, 31)).tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0]


@given(
    offsets=st.lists(st.integers(0, 900), min_size=1, max_size=40, unique=True).map(sorted),
    rebalance=st.sampled_from(["weekly", "monthly", "quarterly", (date(2024, 3, 1), date(2025, 7, 7))]),
    cut=st.integers(0, 40),
)
def test_schedules_do_not_depend_on_where_a_history_is_cut(offsets, rebalance, cut):
    sessions = np.datetime64("2024-01-01") + np.array(offsets)
    whole = due_rows(sessions, rebalance)
    cut = min(cut, len(sessions) - 1)
    if cut:
        previous = sessions[cut - 1].item()
        assert due_rows(sessions[cut:], rebalance, previous=previous).tolist() == whole[cut:].tolist()


def test_the_next_open_is_the_default_and_its_column_is_asked_for():
    assert backtest(trend.bind(), opened({"A": random_walk(20, seed=1)})).options["fill"] == "next_open"
    with pytest.raises(MissingColumnError, match=r"'open', which these bars do not have; fill at 'next_close'"):
        backtest(trend.bind(), bars_of({"A": random_walk(20, seed=1)}))


def test_orders_say_why_when_and_at_which_price():
    bars = opened({"A": [100.0, 100.0, 110.0, 120.0, 120.0, 120.0]})
    result = backtest(hold_then_sell.bind(), bars, fee_bps=10.0, slippage_bps=100.0, initial_cash=1000.0)
    first, last = result.orders.row(0, named=True), result.orders.row(-1, named=True)
    assert result.orders.height == 2
    assert (first["side"], first["reason"], first["limited_by"], first["reference_price"]) == (
        "buy",
        "signal",
        "cash",
        100.0,
    )
    assert first["price"] == pytest.approx(101.0)
    assert first["shares"] == pytest.approx(1000.0 / (101.0 * 1.001))
    assert (first["value"], first["fee"]) == pytest.approx((first["shares"] * 101.0, first["shares"] * 0.101))
    assert first["slippage"] == pytest.approx(first["shares"])
    assert (first["timestamp"], first["decided_at"]) == (bars["timestamp"][1], bars["timestamp"][0])
    assert (last["side"], last["session"], last["limited_by"]) == ("sell", date(2020, 1, 5), None)
    assert result.positions["A"].to_list() == [0.0, *[first["shares"]] * 3, 0.0, 0.0]
    assert result.equity["cash"][-1] == result.equity["equity"][-1]
    trip = round_trips(result.orders).row(0, named=True)
    assert trip["pnl"] == pytest.approx(result.equity["equity"][-1] - 1000.0)


def test_frames_have_session_and_timestamp_and_one_row_a_timestamp():
    result = backtest(trend.bind(), opened({"A": random_walk(30, seed=1), "B": random_walk(30, seed=2)}))
    for frame in (result.equity, result.returns, result.weights, result.positions):
        assert frame.columns[:2] == ["session", "timestamp"]
        assert frame.height == 30
    assert result.symbols == ("A", "B")
    held = result.weights.select("A", "B").sum_horizontal() * result.equity["equity"] + result.equity["cash"]
    np.testing.assert_allclose(held, result.equity["equity"], rtol=1e-12)


def test_bars_within_a_day_are_traded_bar_by_bar():
    start = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
    moments = [start + timedelta(days=day, hours=hour) for day in range(3) for hour in range(4)]
    closes = 100.0 * np.exp(np.linspace(0.0, 0.1, 12))
    bars = bars_of({"A": closes}).with_columns(
        timestamp=pl.Series(moments), session=pl.Series([moment.date() for moment in moments]), frequency=pl.lit("1h")
    )
    result = backtest(hold_then_sell.bind(), bars, fill="next_close", periods_per_year=1512.0)
    assert result.equity.height == 12
    assert result.orders["timestamp"].to_list() == [moments[1], moments[4]]
    assert result.assumptions[0] == "Decisions are made at a bar's close and filled at the next bar's close."
    daily = backtest(hold_then_sell.bind(), bars, fill="next_close", rebalance=[date(2024, 1, 3)])
    assert daily.orders.height == 0  # flat again when the date comes
    result = backtest(trend.bind(), bars, fill="next_close", rebalance=[date(2024, 1, 4)])
    assert set(result.orders["timestamp"].to_list()) <= {moments[8]}


def test_a_calendar_refuses_bars_of_days_without_trading():
    week = [100.0, 101.0, 102.0]
    bars = bars_of({"A": week}, first=date(2024, 1, 3))
    assert backtest(trend.bind(), bars, fill="next_close", calendar="XNYS").equity.height == 3
    longer = bars_of({"A": [*week, 103.0, 104.0]}, first=date(2024, 1, 3))
    with pytest.raises(UnknownSessionError, match="XNYS has no session on 2024-01-06, 2024-01-07"):
        backtest(trend.bind(), longer, fill="next_close", calendar="XNYS")


def test_splits_and_dividends_keep_equity_benchmark_and_round_trips_right():
    quoted = [100.0, 100.0, 50.0, 49.0, 50.0, 50.0]  # 2 for 1 on the third day, 1 a share on the fourth
    bars = bars_of({"A": quoted})
    actions = pl.DataFrame(
        {"symbol": ["A", "A"], "session": bars["session"].gather([2, 3]), "split": [2.0, None], "dividend": [None, 1.0]}
    )
    result = backtest(hold_then_sell.bind(), bars, fill="next_close", actions=actions, rebalance="on_change")
    np.testing.assert_allclose(result.equity["equity"], [1.0, 1.0, 1.0, 1.0, 1.02, 1.02], rtol=1e-12)
    np.testing.assert_allclose(result.equity["benchmark"], [1.0, 1.0, 1.0, 1.0, 50 / 49, 50 / 49], rtol=1e-12)
    assert result.positions["A"].to_list() == [0.0, 0.01, 0.02, 0.02, 0.0, 0.0]
    assert (result.metrics["trades"], result.metrics["win_rate"]) == (1.0, 0.0)  # the dividend is no part of it
    assert any("splits and dividends that were given" in sentence for sentence in result.assumptions)
    assert result.has_actions


class Weights:
    """Answers target weights, as a cross-sectional signal does."""

    kind = "weights"

    def evaluate(self, bars):
        return bars.select("symbol", "session", "timestamp", exposure=pl.lit(0.5)).sort("symbol", "timestamp")


def test_weights_of_a_cross_sectional_signal_are_not_divided_by_the_number_of_symbols():
    result = backtest(Weights(), opened({"A": random_walk(9, seed=1), "B": random_walk(9, seed=2)}))
    assert result.exposures["weight"].unique().to_list() == [0.5]
    assert result.weights["A"][-1] + result.weights["B"][-1] == pytest.approx(1.0, abs=0.02)
    assert any(sentence.startswith("Targets are weights") for sentence in result.assumptions)


def test_every_assumption_is_said():
    walk = random_walk(40, seed=3)
    columns = {name: {"A": walk} for name in ("open", "high", "low", "volume")}
    options = {
        "fee_fixed": 1.0,
        "half_spread": 0.01,
        "impact_bps": 10.0,
        "leverage": 2.0,
        "borrow_bps": 50.0,
        "interest_bps": 200.0,
        "lot_size": 10.0,
        "min_order": 100.0,
        "stop_loss": 0.05,
        "trailing_stop": 0.1,
        "rebalance": [date(2020, 1, 20)],
        "initial_cash": 1e5,
    }
    text = " ".join(backtest(trend.bind(), bars_of({"A": walk}, **columns), **options).assumptions)
    for part in (
        "a fixed fee of 1",
        "0.01 a share",
        "10 bp times the square root",
        "at most 2 times equity",
        "borrowed cash costs 200 bp",
        "short positions cost 50 bp",
        "lots of 10 shares",
        "orders below 100",
        "1 given dates",
        "stop loss 0.05, trailing stop 0.1",
        "the stop comes before the profit",
    ):
        assert part in text, part


def test_a_long_log_of_orders_loses_none():
    walks = {f"S{index:02}": random_walk(500, seed=index) for index in range(60)}
    result = backtest(trend.bind(lookback=2, target_volatility=0.2), bars_of(walks), fill="next_close")
    assert result.orders.height > 20_240  # more than the engine's log holds at once
    assert result.orders["timestamp"].is_sorted()
    turnover = (result.orders["shares"] * result.orders["reference_price"]).sum()
    assert turnover == pytest.approx(float((result.returns["turnover"] * result.equity["equity"]).sum()), rel=0.01)
    signed = pl.when(pl.col("side") == "buy").then("shares").otherwise(-pl.col("shares"))
    held = result.orders.group_by("symbol").agg(signed.sum().alias("held")).sort("symbol")["held"]
    np.testing.assert_allclose(held, result.positions.row(-1)[2:], atol=1e-12)
