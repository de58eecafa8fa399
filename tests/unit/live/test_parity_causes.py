"""Which words a difference gets, where neither options nor parameters tell: the books are changed by hand."""

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from quantflow.backtest import Execution, backtest
from quantflow.live._parity_account import backtest_side
from quantflow.live._parity_causes import Circumstances, explain
from quantflow.live._parity_compare import first_difference
from quantflow.live._parity_replay import records_of, replay
from quantflow.testing.signals import bars_of, random_walk, trend

OPTIONS = {"fill": "next_close", "fee_bps": 5.0, "initial_cash": 1e5}
SIGNAL = trend.bind(lookback=5, span=4)
BARS = bars_of({"A": random_walk(40, seed=1), "B": random_walk(40, seed=2)})


@pytest.fixture(scope="module")
def known():
    side = backtest_side(BARS, backtest(SIGNAL, BARS, **OPTIONS))
    heard = replace(replay(SIGNAL, records_of(BARS.sort("timestamp", "symbol"))), exposures=side.exposures)
    execution = Execution(**OPTIONS)
    return Circumstances(side, side, heard, SIGNAL, SIGNAL, execution, execution)


def told(known, **parts):
    """Return field, symbol, timestamp and cause of the first difference of a live side with these parts."""
    changed = replace(known, live=replace(known.live, **parts))
    difference = first_difference(changed.backtest, changed.live, 0.0)
    assert difference is not None
    begin, cause = explain(difference, changed)
    return begin.field, begin.symbol, begin.timestamp, cause


def at_row(frame, row, **values):
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(
        pl.when(here).then(value).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    )


def test_equal_sides_have_no_difference(known):
    assert first_difference(known.backtest, known.live, 0.0) is None


def test_differences_within_the_tolerance_are_none(known):
    near = known.live.exposures.with_columns(pl.col("exposure") * (1.0 + 1e-13))
    live = replace(known.live, exposures=near)
    assert first_difference(known.backtest, live, 1e-9) is None
    found = first_difference(known.backtest, live, 0.0)
    assert found.field == "exposure"
    assert "rounding" in explain(found, known)[1]


ORDER = 7


@pytest.mark.parametrize(
    ("field", "changes", "cause"),
    [
        ("side", {"side": pl.lit("hold")}, "traded in the other direction"),
        ("price", {"price": pl.col("price") * 1.01}, "filled at another price"),
        ("fee", {"fee": pl.lit(0.0)}, "a fee left out: the live side paid none"),
        ("fee", {"fee": pl.col("fee") * 2.0}, "paid another fee on the same order"),
        ("order_shares", {"shares": pl.col("shares") * 2.0, "fee": pl.col("fee") * 2.0}, "traded another size"),
        ("reason", {"reason": pl.lit("stop_loss")}, "another reason for the same order"),
    ],
)
def test_orders_that_differ_say_in_what(known, field, changes, cause):
    order = known.live.orders.row(ORDER, named=True)
    found = told(known, orders=at_row(known.live.orders, ORDER, **changes))
    assert found[:3] == (field, order["symbol"], order["timestamp"])
    assert cause in found[3]


@pytest.mark.parametrize(("rows", "which"), [(-1, "the bar before"), (1, "the bar after")])
def test_a_price_of_another_bar_is_recognised(known, rows, which):
    order = known.live.orders.row(ORDER, named=True)
    bars = known.live.bars.filter(pl.col("symbol") == order["symbol"])
    price = bars["close"][bars["timestamp"].to_list().index(order["timestamp"]) + rows]
    found = told(known, orders=at_row(known.live.orders, ORDER, price=pl.lit(price)))
    assert f"filled at another price: the close of {which}" in found[3]


def test_orders_that_one_side_has_alone_are_named_with_the_next_one(known):
    order = known.live.orders.row(ORDER, named=True)
    gone = known.live.orders.filter(pl.int_range(pl.len()) != ORDER)
    found = told(known, orders=gone)
    assert found[:3] == ("order", order["symbol"], order["timestamp"])
    assert "the live side did not trade on the same decision; its next order" in found[3]
    more = pl.concat(
        [known.live.orders, known.live.orders.tail(1).with_columns(pl.col("timestamp") + timedelta(days=9))]
    )
    assert told(known, orders=more)[3] == "the backtest did not trade on the same decision"


def test_books_that_differ_without_orders_say_what_can_move_them(known):
    shares = told(known, positions=at_row(known.live.positions, 30, shares=pl.col("shares") + 1.0))
    assert shares[0] == "shares"
    assert "a split, or a fill outside the account" in shares[3]
    cash = told(known, account=at_row(known.live.account, 30, cash=pl.col("cash") - 1.0))
    assert (cash[0], cash[1], cash[2]) == ("cash", None, known.live.account["timestamp"][30])
    assert "a dividend, borrow cost, interest" in cash[3]
    equity = told(known, account=at_row(known.live.account, 30, equity=pl.col("equity") - 1.0))
    assert (equity[0], "marked to another price" in equity[3]) == ("equity", True)
    ended = told(known, account=known.live.account.head(35))
    assert (ended[0], ended[2]) == ("equity", known.live.account["timestamp"][35])


def test_decisions_that_differ_without_a_reason_to_be_seen_point_to_the_state(known):
    changed = at_row(known.live.exposures, 30, exposure=pl.lit(0.123))
    found = told(known, exposures=changed)
    assert (found[0], found[1]) == ("exposure", "A")
    assert "another decision: the live signal's state" in found[3]
    restarted = replace(known, heard=replace(known.heard, restarted_at=(known.live.exposures["timestamp"][30],)))
    assert "the first bar after a restart" in told(restarted, exposures=changed)[3]
    assert "the live signal decided nothing" in told(known, exposures=known.live.exposures.head(60))[3]
    other = replace(known, live_decider=trend.bind(lookback=5, span=4, allow_short=False))
    assert "allow_short is True in the backtest and False live" in told(other, exposures=changed)[3]


VALUES = ["open", "high", "low", "close", "volume"]


def test_values_of_the_next_bar_are_named_as_early(known):
    early = known.live.bars.with_columns(
        pl.when(pl.int_range(pl.len()).over("symbol") >= 20)
        .then(pl.col(VALUES).shift(-1).over("symbol"))
        .otherwise(pl.col(VALUES))
    ).filter(pl.col("close").is_not_null())
    received = early.with_row_index("offset")
    found = told(replace(known, heard=replace(known.heard, received=received)), bars=early)
    assert found[:2] == ("close", "A")
    assert "one bar early" in found[3]


def test_a_stream_that_ends_says_where(known):
    found = told(known, bars=known.live.bars.filter(pl.col("timestamp") < known.live.bars["timestamp"][35]))
    # What was received says otherwise here, so the record came and was not taken.
    assert found[0] == "bar"
    ended = replace(known, heard=replace(known.heard, received=known.heard.received.head(70)))
    found = told(ended, bars=known.live.bars.filter(pl.col("timestamp") < known.live.bars["timestamp"][35]))
    assert "the live stream of A ends at" in found[3]
