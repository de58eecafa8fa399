"""Parity: live repeats the backtest for what is shipped, and each planted fault is found where it was planted."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge

from quantflow.backtest import Execution
from quantflow.data import get_source
from quantflow.errors import MissingColumnError, SignalError
from quantflow.events.transport import ReceivedRecord
from quantflow.live import parity, records_of
from quantflow.notebooks.code import load_reference
from quantflow.signals import column_signal, estimator_signal, memory, param, signal, sma
from quantflow.testing.signals import bars_of, trend

pytestmark = pytest.mark.slow  # as a module

PIPELINES = Path(__file__).resolve().parents[3] / "pipelines"
COSTS = {"fee_bps": 2.0, "slippage_bps": 1.0, "initial_cash": 1e6}


def shipped(name):
    return load_reference(PIPELINES, f"{name}:{name}")


def read(source, symbols, first, last):
    bars = get_source(source).read(symbols, start=first, end=last, as_of=datetime.now(UTC))
    return bars.sort("timestamp", "symbol")


@pytest.fixture(scope="module")
def stocks():
    return read("sp500", ["AAPL", "JPM"], date(2016, 1, 1), date(2016, 6, 30))


@pytest.fixture(scope="module")
def index():
    """Full bars of one symbol."""
    return read("index", ["SP500"], date(2009, 1, 1), date(2009, 9, 30))


TREND = trend.bind(lookback=10, span=12)


def run(bars, decider=TREND, **options):
    return parity(decider, bars, **({"fill": "next_close"} | COSTS | options))


def first_divergence(bars, decider=TREND, **options):
    found = run(bars, decider, **options).divergence
    assert found is not None
    return found


def of_symbol(bars, symbol):
    return bars.filter(pl.col("symbol") == symbol).sort("timestamp")


def bar_of(bars, symbol, row):
    return of_symbol(bars, symbol).row(row, named=True)


def without(bars, symbol, row):
    at = bar_of(bars, symbol, row)["timestamp"]
    return bars.filter(~((pl.col("symbol") == symbol) & (pl.col("timestamp") == at)))


# What is shipped diverges nowhere.


def test_the_momentum_pipeline_repeats_its_backtest_bit_for_bit():
    # Three symbols: a third is rounded, so whoever divides otherwise is found out.
    bars = read("sp500", ["AAPL", "JPM", "XOM"], date(2016, 1, 1), date(2016, 6, 30))
    report = run(bars, shipped("momentum_signal").bind(lookback=21))
    assert report.agrees, report
    assert report.tolerance == 0.0
    assert report.restarts == 1
    assert report.compared["bars"] == report.compared["exposures"] == bars.height
    assert report.compared["orders"] > 100
    assert "live equals the backtest bit for bit" in str(report)


def test_the_breakout_with_every_option_of_the_account_repeats_its_backtest(index):
    report = run(
        index,
        shipped("donchian_breakout").bind(),
        fill="next_open",
        fee_fixed=1.0,
        half_spread=0.1,
        impact_bps=5.0,
        lot_size=1.0,
        borrow_bps=50.0,
        interest_bps=300.0,
        leverage=1.5,
        trailing_stop=0.04,
        rebalance="on_change",
        restarts=4,
    )
    assert report.agrees, report
    assert report.restarts == 4
    assert report.compared["orders"] > 3


@pytest.mark.parametrize("options", [{"fill": "same_close"}, {"rebalance": "monthly"}])
def test_fills_at_once_and_calendars_repeat_too(stocks, options):
    assert run(stocks, **options).agrees


def test_cross_sectional_weights_repeat_although_a_symbol_comes_late_and_ends_early(stocks):
    ragged = stocks.filter(
        (pl.col("symbol") != "JPM") | pl.col("session").is_between(date(2016, 2, 1), date(2016, 4, 29))
    )
    gapped = without(ragged, "AAPL", 50)
    report = run(
        gapped.filter(pl.col("session") < date(2016, 6, 1)), shipped("cross_momentum").bind(lookback=5), restarts=3
    )
    assert report.agrees, report
    assert report.compared["orders"] > 50


def test_splits_and_dividends_reach_both_sides(index):
    actions = pl.DataFrame({"symbol": ["SP500"], "session": [date(2009, 6, 1)], "split": [2.0], "dividend": [0.5]})
    assert run(index, actions=actions).agrees


def test_bars_in_any_order_of_symbols_and_doubled_bars_change_nothing(stocks):
    mixed = stocks.sort("timestamp", "symbol", descending=[False, True])
    doubled = pl.concat([mixed.head(100), mixed.slice(60, 40), mixed.slice(100)])
    report = run(stocks, records=records_of(doubled))
    assert report.agrees, report
    assert report.skipped == 40


# Planted faults.


def test_a_bar_that_is_missing_is_found_at_its_place(stocks):
    found = first_divergence(stocks, records=records_of(without(stocks, "JPM", 60)))
    assert (found.symbol, found.timestamp, found.field) == ("JPM", bar_of(stocks, "JPM", 60)["timestamp"], "bar")
    assert "the bar is missing" in found.cause
    assert "1 of 125" in found.cause


def test_a_feed_that_is_one_bar_late_is_found_at_its_first_late_bar(stocks):
    values = ["open", "high", "low", "close", "volume"]
    late = stocks.with_columns(pl.col(values).shift(1).over("symbol")).filter(pl.col("close").is_not_null())
    found = first_divergence(stocks, records=records_of(late))
    assert found.timestamp == stocks["timestamp"][0]
    assert "the live feed is 1 bar late" in found.cause
    second_half = pl.when(pl.col("session") >= date(2016, 5, 2)).then(pl.col(values).shift(1).over("symbol"))
    found = first_divergence(stocks, records=records_of(stocks.with_columns(second_half.otherwise(pl.col(values)))))
    assert (found.symbol, found.session, found.field) == ("AAPL", date(2016, 5, 2), "close")
    assert "the live feed is 1 bar late: this bar carries the values of 2016-04-29 20:00Z" in found.cause


def test_a_bar_that_is_published_after_a_newer_one_is_named_as_late(stocks):
    pair = of_symbol(stocks, "AAPL").slice(80, 2)
    others = stocks.join(pair, on=["symbol", "timestamp"], how="anti")
    at = pair["timestamp"][1]
    stream = pl.concat(
        [others.filter(pl.col("timestamp") < at), pair.reverse(), others.filter(pl.col("timestamp") >= at)]
    )
    found = first_divergence(stocks, records=records_of(stream))
    assert (found.symbol, found.timestamp, found.field) == ("AAPL", pair["timestamp"][0], "bar")
    assert "its record came late" in found.cause


def test_a_decision_that_is_one_bar_late_is_named(stocks):
    @signal()
    def above(bar, average=sma.over(5)):
        return bar.close / sma(average, bar.close) - 1.0

    @signal(name="above")
    def above_late(bar, average=sma.over(5), kept=memory(1)):
        said = kept[0]
        kept[0] = bar.close / sma(average, bar.close) - 1.0
        return said if said == said else 0.0

    class SameCode:
        """The late signal as a bug of the live side: it claims to be the same code."""

        def __init__(self, bound):
            self._bound = bound
            self.signal = above

        def __getattr__(self, name):
            return getattr(self._bound, name)

    found = first_divergence(stocks, above.bind(), live_decider=SameCode(above_late.bind()))
    assert (found.symbol, found.timestamp, found.field) == ("AAPL", stocks["timestamp"][8], "exposure")
    assert "one bar late" in found.cause
    assert "the code differs" in first_divergence(stocks, above.bind(), live_decider=above_late.bind()).cause


@pytest.mark.parametrize(
    ("left_out", "field"), [("fee_bps", "fee"), ("slippage_bps", "price"), ("lot_size", "order_shares")]
)
def test_a_cost_that_is_left_out_is_found_in_the_first_order(stocks, left_out, field):
    options = COSTS | {"lot_size": 10.0}
    live = Execution(**({"fill": "next_close"} | options | {left_out: 0.0}))
    found = first_divergence(stocks, live_execution=live, **options)
    assert (found.symbol, found.field) == ("AAPL", field)
    assert found.timestamp == of_symbol(stocks, "AAPL")["timestamp"][13]  # the bar after the warm-up of 12
    assert f"{left_out} is {options[left_out]!r} in the backtest and 0.0 live" in found.cause


def test_a_fill_at_another_price_is_found_in_the_first_order(index):
    live = Execution(**(COSTS | {"fill": "next_close"}))
    found = first_divergence(index, fill="next_open", live_execution=live)
    assert found.field == "price"
    assert "fill is 'next_open' in the backtest and 'next_close' live" in found.cause


def test_carry_that_is_left_out_is_found_in_cash(stocks):
    live = Execution(**({"fill": "next_close"} | COSTS))
    found = first_divergence(stocks, live_execution=live, borrow_bps=100.0)
    assert (found.symbol, found.field) == (None, "cash")
    assert "borrow_bps" in found.cause


def test_a_wrong_warm_up_is_found_at_the_first_bar_that_it_changes(stocks):
    found = first_divergence(stocks, live_decider=trend.bind(lookback=10, span=6))
    assert (found.symbol, found.timestamp, found.field) == ("AAPL", stocks["timestamp"][20], "exposure")
    assert (found.backtest, found.cause[:15]) == (0.0, "a wrong warm-up")
    assert "12 bars" in found.cause
    assert "10 bars" in found.cause
    assert "span is 12 in the backtest and 6 live" in found.cause


def test_a_live_signal_that_decides_within_its_warm_up_is_named(stocks):
    class Impatient:
        def __init__(self, bound):
            self._bound = bound

        def __getattr__(self, name):
            return getattr(self._bound, name)

        def advance(self, states, bounds, columns, *, label=None):
            said = self._bound.advance(states, bounds, columns, label=label)
            return np.where(said == 0.0, 0.5, said)

    found = first_divergence(stocks, live_decider=Impatient(TREND))
    assert (found.symbol, found.timestamp, found.live) == ("AAPL", stocks["timestamp"][0], 0.5)
    assert "bar 1 of AAPL lies within the warm-up of 12 bars" in found.cause


def test_a_live_stream_that_starts_on_less_history_is_named(stocks):
    begin = stocks["timestamp"].unique().sort()[5]
    found = first_divergence(stocks, records=records_of(stocks.filter(pl.col("timestamp") >= begin)))
    assert (found.field, found.timestamp) == ("bar", stocks["timestamp"][0])
    assert "5 bars later" in found.cause


@pytest.mark.parametrize("hours", [5, -5])
def test_a_shifted_time_zone_is_named_with_its_offset(stocks, hours):
    by = timedelta(hours=hours)
    shifted = stocks.with_columns(pl.col("timestamp") + by, pl.col("known_at") + by)
    found = first_divergence(stocks, records=records_of(shifted))
    assert (found.symbol, found.field) == ("AAPL", "timestamp")
    assert (found.timestamp, found.session) == (stocks["timestamp"][0], stocks["session"][0])
    where = "later" if hours > 0 else "earlier"
    assert f"a shifted time zone: the live bar of session 2016-01-04 is stamped 5:00 h {where}" in found.cause
    assert "125 of 125" in found.cause


def test_a_time_zone_that_shifts_in_summer_only_is_found_in_spring(stocks):
    summer = pl.col("session").is_between(date(2016, 3, 13), date(2016, 11, 5))
    moved = [
        pl.when(summer).then(pl.col(name) + timedelta(hours=1)).otherwise(pl.col(name)).alias(name)
        for name in ("timestamp", "known_at")
    ]
    found = first_divergence(stocks, records=records_of(stocks.with_columns(moved)))
    assert (found.session, found.field) == (date(2016, 3, 14), "timestamp")
    assert "1:00 h later" in found.cause


def test_days_counted_in_another_time_zone_are_named(stocks):
    found = first_divergence(stocks, records=records_of(stocks.with_columns(pl.col("session") + timedelta(days=1))))
    assert (found.field, found.live) == ("session", "2016-01-05")


@pytest.mark.parametrize(
    ("factor", "cause"), [(0.25, "0.25 times the backtest's"), (None, "another value for the same bar")]
)
def test_prices_that_differ_are_named(stocks, factor, cause):
    there = (pl.col("symbol") == "AAPL") & (pl.col("session") >= date(2016, 5, 2))
    here = there & (pl.col("session") == date(2016, 5, 2))
    changed = pl.when(there if factor else here).then(pl.col("close") * (factor or 1.01)).otherwise(pl.col("close"))
    found = first_divergence(stocks, records=records_of(stocks.with_columns(close=changed)))
    assert (found.symbol, found.session, found.field) == ("AAPL", date(2016, 5, 2), "close")
    assert cause in found.cause


def test_a_restated_bar_is_told_from_a_wrong_one(stocks):
    first = stocks.with_row_index().filter(pl.col("index") == 100).drop("index")
    published = pl.concat([stocks.head(100), first.with_columns(pl.col("close") * 1.01), first, stocks.slice(101)])
    found = first_divergence(stocks, records=records_of(published))
    assert (found.symbol, found.timestamp, found.field) == (first["symbol"][0], first["timestamp"][0], "close")
    assert "restated" in found.cause


def test_a_record_that_is_no_bar_is_named_beside_the_bar_that_is_missing(stocks):
    records = records_of(stocks)
    records[200] = ReceivedRecord(*records[200][:4], b"{}", (), 0)
    report = run(stocks, records=records)
    assert report.divergence.timestamp == stocks["timestamp"][200]
    assert "1 records were refused, the first at offset 200" in report.divergence.cause
    assert report.refused[0][0] == 200


def test_bars_that_history_does_not_have_are_named(stocks):
    found = first_divergence(without(stocks, "JPM", 30), records=records_of(stocks))
    assert (found.symbol, found.field, found.backtest) == ("JPM", "bar", None)
    assert "does not have" in found.cause


def test_a_live_signal_that_stands_still_is_a_divergence_with_its_words(stocks):
    @signal()
    def fragile(bar):
        if bar.close < 0.0:
            return 1.0
        return 0.5

    class Raises:
        def __init__(self, bound):
            self._bound, self._left = bound, 40

        def __getattr__(self, name):
            return getattr(self._bound, name)

        def advance(self, states, bounds, columns, *, label=None):
            self._left -= 1
            if not self._left:
                raise SignalError("fragile raised ZeroDivisionError at AAPL")
            return self._bound.advance(states, bounds, columns, label=label)

    found = first_divergence(stocks, fragile.bind(), live_decider=Raises(fragile.bind()))
    assert (found.timestamp, found.field) == (stocks["timestamp"][78], "signal")
    assert "ZeroDivisionError" in found.cause


# The rest.


def test_the_first_of_two_faults_is_reported_and_what_lies_before_it_is_counted(stocks):
    faulty = without(without(stocks, "AAPL", 110), "JPM", 100)
    report = run(stocks, records=records_of(faulty))
    assert report.divergence.timestamp == bar_of(stocks, "JPM", 100)["timestamp"]
    assert report.compared["bars"] == 200
    assert "live diverges at JPM" in str(report)
    told = report.to_dict()
    assert (told["agrees"], told["divergence"]["field"]) == (False, "bar")


def test_uncompiled_signals_are_compared_to_a_tolerance(stocks):
    few = stocks.head(60)
    report = run(few, trend.bind(lookback=3, span=4, uncompiled=True), live_decider=trend.bind(lookback=3, span=4))
    assert report.agrees, report
    assert report.tolerance == 1e-9


def test_column_signals_and_estimators_repeat_to_a_tolerance(stocks):
    @column_signal(window=5)
    def reversal():
        return (1.0 - pl.col("close") / pl.col("close").rolling_mean(5)) * 20.0

    def least_squares(penalty=param(1.0, low=0.0, high=10.0)):
        return Ridge(alpha=penalty, random_state=0)

    @estimator_signal(estimator=least_squares, features=(reversal,), train=30, refit_every=10)
    def learned(prediction):
        return max(-1.0, min(1.0, 100.0 * prediction))

    for kind in (reversal, learned):
        report = run(stocks.head(160), kind.bind(), restarts=2)
        assert report.agrees, report
        assert report.tolerance == 1e-9
        assert report.compared["orders"] > 20


def test_what_the_backtest_cannot_do_is_an_error(stocks):
    with pytest.raises(MissingColumnError, match="'open'"):
        run(stocks, fill="next_open")
    with pytest.raises(SignalError, match="restarts is -1"):
        run(stocks, restarts=-1)


def test_no_records_at_all_are_a_divergence_at_the_first_bar(stocks):
    found = first_divergence(stocks, records=[])
    assert (found.timestamp, found.field) == (stocks["timestamp"][0], "bar")
    assert "no bar of AAPL reached the live side" in found.cause


def test_prices_that_the_paper_account_refuses_are_found_as_prices(index):
    there = pl.col("session") == date(2009, 3, 2)
    without_opens = index.with_columns(open=pl.when(there).then(None).otherwise(pl.col("open")))
    found = first_divergence(index, fill="next_open", records=records_of(without_opens))
    assert (found.session, found.field, found.live) == (date(2009, 3, 2), "open", None)
    assert "the live record has no open" in found.cause


def test_a_late_bar_of_a_cross_section_is_named(stocks):
    pair = of_symbol(stocks, "JPM").slice(40, 1)
    others = stocks.join(pair, on=["symbol", "timestamp"], how="anti")
    at = pair["timestamp"][0]
    stream = pl.concat(
        [others.filter(pl.col("timestamp") <= at), others.filter(pl.col("timestamp") > at).head(1), pair]
    )
    rest = others.join(stream, on=["symbol", "timestamp"], how="anti")
    found = first_divergence(
        stocks, shipped("cross_momentum").bind(lookback=5), records=records_of(pl.concat([stream, rest]))
    )
    assert (found.symbol, found.timestamp, found.field) == ("JPM", at, "bar")
    assert "after a later timestamp of another symbol" in found.cause


def test_made_up_bars_of_one_symbol_repeat_too():
    walk = 100.0 * np.exp(np.cumsum(np.random.default_rng(3).normal(0.0, 0.01, 60)))
    assert run(bars_of({"A": walk}), trend.bind(lookback=3, span=4)).agrees
