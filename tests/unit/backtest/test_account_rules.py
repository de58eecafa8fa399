"""Every rule of docs/backtesting.md, computed by hand."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from quantflow.backtest import Account, Execution
from quantflow.errors import InvalidBarsError, MissingColumnError, SignalError

FIRST = datetime(2024, 1, 2, 21, tzinfo=UTC)  # a Tuesday
COLUMNS = ("open", "high", "low", "close", "volume")


def account(*symbols, **options):
    return Account(Execution(**({"initial_cash": 1000.0} | options)), symbols or ("A",))


def walk(traded, *bars, first=FIRST, **actions):
    """Feed bars, each ``(prices by symbol, targets by symbol)``; prices are open, high, low, close and volume,
    or one number for a bar that stands still. Return the steps."""
    steps = []
    for day, (prices, targets) in enumerate(bars):
        rows = {symbol: quoted(prices.get(symbol)) for symbol in traded.symbols}
        columns = {name: [rows[symbol][index] for symbol in traded.symbols] for index, name in enumerate(COLUMNS)}
        given = {name: by_day[day] for name, by_day in actions.items() if day in by_day}
        steps.append(traded.step(first + timedelta(days=day), columns, targets, **given))
    return steps


def quoted(prices):
    if prices is None:
        return (np.nan,) * 5
    return prices if isinstance(prices, tuple) else (prices,) * 4 + (1e6,)


def one(traded, *bars, **actions):
    """As :func:`walk`, for the symbol A alone."""
    return walk(
        traded, *(({"A": prices}, {} if target is None else {"A": target}) for prices, target in bars), **actions
    )


def only(step):
    (order,) = step.orders
    return order


def bar(first, high, low, close, volume=1e6):
    return (first, high, low, close, volume)


# Fills


def test_next_open_fills_at_the_open_of_the_next_bar_and_marks_at_its_close():
    decided, filled = one(account(), (100.0, 1.0), (bar(50.0, 61.0, 49.0, 60.0), 1.0))
    assert (decided.equity, decided.orders) == (1000.0, ())
    order = only(filled)
    assert (order.side, order.shares, order.price, order.reason) == ("buy", 20.0, 50.0, "signal")
    assert order.decided_at == FIRST
    assert (filled.equity, filled.cash, filled.positions) == (1200.0, 0.0, {"A": 20.0})


def test_next_close_fills_at_the_close_of_the_next_bar():
    _, filled = one(account(fill="next_close"), (100.0, 1.0), (bar(50.0, 61.0, 49.0, 40.0), 1.0))
    assert (only(filled).shares, only(filled).price, filled.equity) == (25.0, 40.0, 1000.0)


def test_same_close_fills_at_the_close_of_the_decision():
    (filled,) = one(account(fill="same_close"), (bar(50.0, 61.0, 49.0, 40.0), 1.0))
    assert (only(filled).shares, only(filled).price) == (25.0, 40.0)


# Sizes


def test_the_target_value_is_a_fraction_of_equity_marked_at_the_fill_price_before_costs():
    steps = one(account(fee_bps=100.0), (100.0, 0.5), (bar(100.0, 110.0, 90.0, 110.0), 0.5), (200.0, None))
    assert only(steps[1]).shares == 5.0  # half of 1000 at 100
    assert (steps[1].cash, steps[1].equity) == (495.0, 1045.0)
    # Equity at the next open: 495 + 5 x 200 = 1495; half of it are 3.7375 shares.
    assert only(steps[2]).shares == pytest.approx(1.2625, rel=1e-14)
    assert only(steps[2]).reason == "rebalance"


def test_purchases_that_cash_does_not_cover_are_scaled_by_one_factor():
    _, step = walk(account("A", "B", fee_bps=100.0), ({}, {"A": 0.25, "B": 0.75}), ({"A": 10.0, "B": 20.0}, {}))
    # 1000 are wanted, 1010 with fees: all is scaled by 1000 / 1010.
    assert [order.shares for order in step.orders] == pytest.approx([25.0 / 1.01, 37.5 / 1.01], rel=1e-14)
    assert {order.limited_by for order in step.orders} == {"cash"}
    assert step.cash == pytest.approx(0.0, abs=1e-12)


def test_sales_come_first_and_pay_for_purchases():
    steps = walk(
        account("A", "B"),
        ({"A": 10.0, "B": 10.0}, {"B": 1.0}),
        ({"A": 10.0, "B": 10.0}, {"A": 1.0, "B": 0.0}),
        ({"A": 10.0, "B": 10.0}, {}),
    )
    assert [(order.side, order.symbol, order.shares) for order in steps[2].orders] == [
        ("sell", "B", 100.0),
        ("buy", "A", 100.0),
    ]


def test_gross_exposure_beyond_leverage_times_equity_is_scaled_by_one_factor():
    _, step = walk(account("A", "B", leverage=1.5), ({}, {"A": 1.0, "B": -1.0}), ({"A": 10.0, "B": 10.0}, {}))
    assert step.positions == {"A": 75.0, "B": -75.0}
    assert {order.limited_by for order in step.orders} == {"margin"}


def test_leverage_lets_purchases_be_borrowed_and_costs_count_against_it():
    _, step = one(account(leverage=2.0, fee_bps=100.0), (10.0, 2.0), (10.0, None))
    # 1000 of cash and 1000 borrowed buy 2000 / 1.01 of shares.
    assert step.positions["A"] == pytest.approx(200.0 / 1.01, rel=1e-14)
    assert (only(step).limited_by, step.cash) == ("margin", pytest.approx(-1000.0))


def test_an_order_through_zero_is_limited_in_its_second_half_only():
    steps = one(account(), (10.0, 1.0), (10.0, -3.0), (10.0, None))
    assert steps[2].positions == {"A": -100.0}
    assert (only(steps[2]).shares, only(steps[2]).limited_by) == (200.0, "margin")


def test_lots_round_toward_zero_and_a_target_of_zero_sells_everything():
    steps = one(account(lot_size=10.0), (10.0, 0.555), (10.0, -0.555), (10.0, 0.0), (10.0, None))
    assert [step.positions for step in steps] == [{}, {"A": 50.0}, {"A": -50.0}, {}]
    # A split leaves an odd number of shares, which a target of 0 sells to the last.
    odd = account(lot_size=10.0, rebalance="on_change")
    steps = one(odd, (10.0, 0.5), (10.0, 0.5), (10.0, 0.0), (10.0, None), splits={2: {"A": 1.5}})
    assert [step.positions for step in steps] == [{}, {"A": 50.0}, {"A": 75.0}, {}]


def test_orders_below_the_smallest_are_not_made_except_to_close():
    small = account(min_order=100.0)
    steps = one(small, (10.0, 0.10), (10.0, 0.19), (10.0, 0.05), (10.0, 0.0), (10.0, None))
    assert [step.positions.get("A") for step in steps] == [None, 10.0, 10.0, 10.0, None]
    tiny = account(min_order=100.0, rebalance="on_change")
    steps = one(tiny, (10.0, 0.10), (1.0, 0.0), (1.0, None))
    assert steps[2].positions == {}  # 10 to close are fine


def test_a_difference_that_is_rounding_is_not_traded():
    steps = one(account(), (10.0, 1.0), (10.0, 1.0), (13.7, 1.0 + 1e-13), (11.1, None))
    assert [len(step.orders) for step in steps] == [0, 1, 0, 0]


# Costs


def test_slippage_half_spread_impact_and_fees_add_up():
    costly = account(slippage_bps=20.0, half_spread=0.02, impact_bps=100.0, fee_bps=10.0, fee_fixed=1.0)
    steps = one(costly, (10.0, 0.5), (bar(10.0, 10.0, 10.0, 10.0, 5000.0), 0.0), (bar(10, 10, 10, 10, 5000), None))
    bought, sold = only(steps[1]), only(steps[2])
    # 50 of 5000 shares: the square root of a hundredth of 1 % is 0.1 %; with slippage 0.3 %.
    assert bought.price == pytest.approx(10.0 * 1.003 + 0.02, rel=1e-14)
    assert bought.fee == pytest.approx(0.001 * 50.0 * 10.05 + 1.0, rel=1e-14)
    assert bought.slippage == pytest.approx(50.0 * 0.05, rel=1e-12)
    assert sold.price == pytest.approx(10.0 * 0.997 - 0.02, rel=1e-14)
    assert steps[2].cash == pytest.approx(1000.0 - 5.0 - bought.fee - sold.fee, rel=1e-14)


def test_a_bar_without_volume_cannot_be_traded_when_impact_depends_on_it():
    steps = one(account(impact_bps=10.0), (10.0, 1.0), (bar(10.0, 10.0, 10.0, 10.0, 0.0), 1.0), (10.0, None))
    assert [len(step.orders) for step in steps] == [0, 0, 1]


def test_interest_is_paid_on_negative_cash_at_every_close():
    borrowed = account(leverage=2.0, interest_bps=1000.0, periods_per_year=100.0, rebalance="on_change")
    steps = one(borrowed, (10.0, 2.0), (10.0, 2.0), (10.0, 2.0))
    # 10 % a year in 100 bars: 0.1 % of 1000, then of 1001.
    assert [step.equity for step in steps] == pytest.approx([1000.0, 999.0, 997.999], rel=1e-14)


def test_borrow_cost_is_paid_on_the_value_of_short_positions():
    short = account(borrow_bps=1000.0, periods_per_year=100.0, rebalance="on_change")
    steps = one(short, (10.0, -1.0), (10.0, -1.0), (12.0, -1.0))
    assert [step.equity for step in steps] == pytest.approx([1000.0, 999.0, 999.0 - 200.0 - 1.2], rel=1e-14)


# Stops


def stopped(*later, entry=100.0, target=1.0, after=None, **options):
    """Buy (or sell short) at the second bar, then feed the bars ``later``; return their steps."""
    bars = [(entry, target), (entry, target), *((prices, after) for prices in later)]
    return one(account(rebalance="on_change", **options), *bars)[2:]


@pytest.mark.parametrize(
    ("prices", "price"),
    [
        (bar(99.0, 101.0, 95.5, 96.0), None),  # not reached
        (bar(99.0, 101.0, 95.0, 96.0), 95.0),  # reached: at the level
        (bar(93.0, 99.0, 92.0, 98.0), 93.0),  # opened below: at the open
    ],
)
def test_a_stop_loss_fills_at_its_level_or_at_an_open_beyond_it(prices, price):
    (step,) = stopped(prices, stop_loss=0.05)
    assert [(order.price, order.reason, order.decided_at) for order in step.orders] == (
        [(price, "stop_loss", None)] if price else []
    )


@pytest.mark.parametrize(
    ("prices", "price"),
    [
        (bar(99.0, 112.0, 99.0, 105.0), None),
        (bar(99.0, 112.5, 99.0, 105.0), 112.5),
        (bar(115.0, 120.0, 112.0, 113.0), 115.0),
    ],
)
def test_a_take_profit_fills_at_its_level_or_at_an_open_beyond_it(prices, price):
    (step,) = stopped(prices, take_profit=0.125)
    assert [(order.price, order.reason) for order in step.orders] == ([(price, "take_profit")] if price else [])


def test_a_bar_that_reaches_both_takes_the_stop():
    (step,) = stopped(bar(100.0, 111.0, 94.0, 100.0), stop_loss=0.05, take_profit=0.10)
    assert (only(step).reason, only(step).price) == ("stop_loss", 95.0)


def test_an_open_beyond_the_profit_comes_before_a_stop_within_the_bar():
    (step,) = stopped(bar(112.0, 113.0, 94.0, 100.0), stop_loss=0.05, take_profit=0.10)
    assert (only(step).reason, only(step).price) == ("take_profit", 112.0)


def test_a_short_position_is_stopped_above_and_takes_profit_below():
    (up,) = stopped(bar(101.0, 105.0, 100.0, 103.0), target=-1.0, stop_loss=0.05, take_profit=0.10)
    assert (only(up).side, only(up).reason, only(up).price) == ("buy", "stop_loss", 105.0)
    (down,) = stopped(bar(99.0, 101.0, 89.0, 91.0), target=-1.0, stop_loss=0.05, take_profit=0.10)
    assert (only(down).reason, only(down).price) == ("take_profit", 90.0)


def test_a_trailing_stop_follows_the_best_price_up_to_the_bar_before():
    first, second, third = stopped(
        bar(101.0, 110.0, 100.0, 109.0),
        bar(109.0, 120.0, 99.5, 118.0),
        bar(118.0, 119.0, 107.0, 108.0),
        trailing_stop=0.10,
    )
    # The level is 10 % below 100, then below 110, then below 120: the bar of the high does not count its own.
    assert (first.orders, second.orders) == ((), ())
    assert (only(third).price, only(third).reason) == (108.0, "trailing_stop")


def test_a_trailing_stop_of_a_short_position_follows_the_lowest_price():
    first, second = stopped(bar(99.0, 100.0, 80.0, 85.0), bar(85.0, 88.0, 82.0, 87.0), target=-1.0, trailing_stop=0.10)
    assert (first.orders, only(second).price) == ((), 88.0)


def test_the_nearer_of_stop_loss_and_trailing_stop_counts():
    _, step = stopped(
        bar(101.0, 120.0, 100.0, 119.0), bar(110.0, 111.0, 90.0, 95.0), stop_loss=0.05, trailing_stop=0.10
    )
    assert (only(step).reason, only(step).price) == ("trailing_stop", 108.0)


def test_stops_hold_on_the_bar_of_the_entry_when_it_was_at_the_open():
    _, step = one(account(stop_loss=0.05), (100.0, 1.0), (bar(100.0, 101.0, 94.0, 96.0), 1.0))
    assert [order.reason for order in step.orders] == ["signal", "stop_loss"]
    _, step = one(account(stop_loss=0.05, fill="next_close"), (100.0, 1.0), (bar(110.0, 111.0, 94.0, 100.0), 1.0))
    assert [order.reason for order in step.orders] == ["signal"]  # bought at the close, after the low


def test_the_level_is_a_fraction_of_the_average_price_paid_slippage_included():
    steps = one(
        account(stop_loss=0.10, slippage_bps=100.0, rebalance="on_change"),
        (100.0, 0.5),
        (100.0, 0.5),  # 5 shares at 101
        (110.0, 0.8),
        (110.0, 0.8),  # 0.8 of 1045 are 7.6 shares: 2.6 more at 111.1
        (bar(100.0, 100.0, 94.0, 95.0), None),
    )
    level = 0.9 * (5.0 * 101.0 + 2.6 * 111.1) / 7.6
    assert only(steps[4]).reference_price == pytest.approx(level, rel=1e-13)
    assert only(steps[4]).price == pytest.approx(0.99 * level, rel=1e-13)


def test_after_a_stop_the_symbol_stays_flat_until_its_target_was_zero_or_changed_its_sign():
    targets = [1.0, 1.0, 1.0, 0.7, 0.0, 0.5, 0.5]
    prices = [100.0, 100.0, bar(100.0, 100.0, 90.0, 92.0), 92.0, 92.0, 92.0, 92.0]
    steps = one(account(stop_loss=0.05), *zip(prices, targets, strict=True))
    assert [bool(step.positions) for step in steps] == [False, True, False, False, False, False, True]
    flipped = one(account(stop_loss=0.05), *zip(prices[:5], [1.0, 1.0, 1.0, -1.0, -1.0], strict=True))
    assert [step.positions.get("A", 0.0) < 0.0 for step in flipped] == [False, False, False, False, True]


def test_gap_stops_come_before_the_targets_of_the_same_open():
    steps = one(account(stop_loss=0.05), (100.0, 1.0), (100.0, -1.0), (bar(90.0, 91.0, 89.0, 90.0), None))
    # Stopped at 90; the target of the opposite side is then filled at the same open.
    assert [(order.side, order.price, order.reason) for order in steps[2].orders] == [
        ("sell", 90.0, "stop_loss"),
        ("sell", 90.0, "signal"),
    ]


# Corporate actions


def test_a_split_multiplies_shares_and_moves_stop_levels():
    steps = one(
        account(stop_loss=0.05, rebalance="on_change"),
        (100.0, 1.0),
        (100.0, 1.0),
        (50.0, 1.0),
        (bar(50.0, 50.0, 47.5, 49.0), None),
        splits={2: {"A": 2.0}},
    )
    assert (steps[2].positions, steps[2].equity, steps[2].orders) == ({"A": 20.0}, 1000.0, ())
    assert only(steps[3]).price == 47.5


def test_dividends_pay_cash_on_long_positions_and_are_owed_on_short_ones():
    for target, cash in ((0.5, 500.0 + 10.0), (-0.5, 1500.0 - 10.0)):
        steps = one(
            account(rebalance="on_change"), (100.0, target), (100.0, target), (98.0, target), dividends={2: {"A": 2.0}}
        )
        assert steps[2].cash == cash


def test_a_dividend_of_the_day_of_a_split_is_paid_on_the_new_shares():
    steps = one(
        account(rebalance="on_change"),
        (100.0, 0.5),
        (100.0, 0.5),
        (50.0, 0.5),
        splits={2: {"A": 2.0}},
        dividends={2: {"A": 1.0}},
    )
    assert steps[2].cash == 500.0 + 10.0


# Bars that are missing


def test_without_a_bar_nothing_is_traded_and_the_last_close_stands_in():
    steps = walk(
        account("A", "B"),
        ({"A": 10.0, "B": 10.0}, {"A": 0.5, "B": 0.5}),
        ({"A": 10.0, "B": 10.0}, {"A": 0.0, "B": 0.5}),
        ({"B": 20.0}, {"B": 0.5}),
        ({"A": 30.0, "B": 20.0}, {}),
    )
    assert steps[2].equity == 500.0 + 1000.0  # A at its last close
    assert [order.symbol for order in steps[2].orders] == ["B"]
    # The target of A, decided two bars ago, is filled as soon as there is a price.
    filled = steps[3].orders[0]
    assert (filled.symbol, filled.price, filled.decided_at) == ("A", 30.0, FIRST + timedelta(days=1))


def test_a_split_without_a_bar_keeps_the_value_at_the_last_close():
    steps = walk(
        account("A", "B", rebalance="on_change"),
        ({"A": 10.0, "B": 10.0}, {"A": 1.0}),
        ({"A": 10.0, "B": 10.0}, {}),
        ({"B": 10.0}, {}),
        splits={2: {"A": 2.0}},
    )
    assert (steps[2].positions, steps[2].equity) == ({"A": 200.0}, 1000.0)


# Schedules


def test_on_change_trades_a_symbol_only_when_its_target_changes():
    steps = one(account(rebalance="on_change"), (10.0, 0.5), (10.0, 0.5), (20.0, 0.5), (20.0, 0.4), (20.0, None))
    assert [step.positions.get("A") for step in steps] == [None, 50.0, 50.0, 50.0, 1500.0 * 0.4 / 20.0]


@pytest.mark.parametrize(
    ("rebalance", "days"),
    [
        ("weekly", [6, 13, 20, 27]),
        ("monthly", [30]),
        ("quarterly", []),
        ([date(2024, 1, 6), date(2024, 1, 20)], [4, 18]),
    ],
)
def test_schedules_trade_at_the_first_bar_of_a_period(rebalance, days):
    # Alternating targets, so that every fill shows; 32 days from Tuesday, 2024-01-02 on.
    bars = [(10.0, 0.1 + 0.01 * day) for day in range(32)]
    steps = one(account(rebalance=rebalance), *bars)
    assert [day for day, step in enumerate(steps) if step.orders] == days


def test_a_rebalancing_day_without_a_bar_is_made_up_for():
    monday = FIRST - timedelta(days=1) + timedelta(days=6)
    bars = [({"A": 10.0, "B": 10.0}, {"A": 0.5, "B": 0.5}), ({"B": 10.0}, {}), ({"A": 10.0, "B": 10.0}, {})]
    steps = walk(account("A", "B", rebalance="weekly"), *bars, first=monday - timedelta(days=0))
    assert [[order.symbol for order in step.orders] for step in steps] == [[], ["B"], ["A"]]


# Ruin


def test_equity_of_zero_or_less_is_ruin_flat_and_zero_afterwards():
    steps = one(account(leverage=3.0), (10.0, -3.0), (10.0, -3.0), (14.0, -3.0), (5.0, 1.0), (5.0, 1.0))
    assert [step.equity for step in steps] == [1000.0, 1000.0, 0.0, 0.0, 0.0]
    assert (only(steps[2]).reason, only(steps[2]).price, steps[2].positions) == ("ruin", 14.0, {})
    assert all(not step.orders for step in steps[3:])


def test_ruin_within_a_bar_is_at_its_close():
    steps = one(
        account(leverage=3.0, rebalance="on_change"), (10.0, -3.0), (10.0, -3.0), (bar(11.0, 15.0, 11.0, 14.0), None)
    )
    assert (steps[2].equity, only(steps[2]).price) == (0.0, 14.0)


# The account itself


def test_a_restored_account_goes_on_bit_for_bit():
    options = {"trailing_stop": 0.03, "fee_bps": 3.0, "rebalance": "weekly"}
    rng = np.random.default_rng(0)
    path = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.02, 60)))
    bars = [(bar(price, price * 1.01, price * 0.99, price * 1.002), float(rng.uniform(-1.0, 1.0))) for price in path]
    whole = account(**options)
    steps = one(whole, *bars)
    begun = account(**options)
    one(begun, *bars[:25])
    resumed = account(**options)
    resumed.restore(begun.snapshot())
    later = walk(
        resumed, *(({"A": prices}, {"A": target}) for prices, target in bars[25:]), first=FIRST + timedelta(days=25)
    )
    assert later == steps[25:]
    assert resumed.snapshot() == whole.snapshot()
    assert (resumed.equity, resumed.cash, resumed.positions) == (whole.equity, whole.cash, whole.positions)


def test_a_snapshot_of_another_account_is_refused():
    saved = account(fee_bps=1.0).snapshot()
    with pytest.raises(SignalError, match="does not belong"):
        account(fee_bps=2.0).restore(saved)
    with pytest.raises(SignalError, match="does not belong"):
        account(fee_bps=1.0).restore(saved[:-8])
    fresh = account(fee_bps=1.0)
    fresh.restore(saved)
    assert fresh.snapshot() == saved


def test_what_an_account_cannot_use_is_refused_by_name_and_changes_nothing():
    fine = {name: [100.0] for name in COLUMNS}
    used = account()
    used.step(FIRST, fine, [1.0])
    before = used.snapshot()
    later = FIRST + timedelta(days=1)
    refusals = [
        (InvalidBarsError, "without a time zone", lambda: used.step(datetime(2024, 1, 3), fine, [1.0])),
        (InvalidBarsError, "not later than", lambda: used.step(FIRST, fine, [1.0])),
        (MissingColumnError, "'open'", lambda: used.step(later, {"close": [100.0]}, [1.0])),
        (InvalidBarsError, "open of A is nan", lambda: used.step(later, fine | {"open": [np.nan]}, [1.0])),
        (InvalidBarsError, r"close of A is -1\.0", lambda: used.step(later, fine | {"close": [-1.0]}, [1.0])),
        (SignalError, "shape", lambda: used.step(later, fine, [1.0, 2.0])),
        (SignalError, "target of A is inf", lambda: used.step(later, fine, [np.inf])),
        (SignalError, "targets name Z", lambda: used.step(later, fine, {"Z": 1.0})),
        (SignalError, "splits of A: 0.0", lambda: used.step(later, fine, [1.0], splits={"A": 0.0})),
        (SignalError, r"dividends of A: -1\.0", lambda: used.step(later, fine, [1.0], dividends={"A": -1.0})),
    ]
    for error, message, attempt in refusals:
        with pytest.raises(error, match=message):
            attempt()
    assert used.snapshot() == before
    for symbols in ((), ("A", "A")):
        with pytest.raises(SignalError, match="each once"):
            Account(Execution(), symbols)
