"""The causality check: what depends on the future is found, with its first bar and value."""

import numpy as np
import polars as pl
import pytest

from quantflow.errors import SignalError
from quantflow.signals import check_causality, column_signal, cross_sectional, memory, param, signal
from quantflow.testing.signals import bars_of, random_walk, trend

CLOSE = pl.col("close")
BARS = bars_of({"A": random_walk(120, seed=1), "B": [None] * 60 + list(random_walk(50, seed=2))})


def made(expression, window=5):
    return column_signal(window=window, name="made")(lambda: expression)


def checks_of(report):
    return [divergence.check for divergence in report.divergences]


@column_signal(window=lambda lookback: lookback + 1)
def steady(lookback=param(10, low=1)):
    return CLOSE.pct_change(lookback).sign()


@column_signal(window=4)
def by_frame(frame):
    return frame["close"].rolling_mean(4) / frame["close"]


@cross_sectional()
def leaders(bars, weights, lookback=param(3)):
    for index in range(len(weights)):
        weights[index] = 1.0 if bars.present[index] and bars.close[index] > 100.0 else 0.0


@pytest.mark.parametrize("shape", [steady, by_frame, trend, leaders, steady.bind(lookback=3)], ids=repr)
def test_signals_of_every_shape_that_only_know_the_past_pass(shape):
    report = check_causality(shape, BARS)
    assert report.passed, report
    report.raise_if_failed()
    assert (report.bars, report.cuts) == (170, 12)
    assert "no answer depends on later bars (170 bars, cut at 12 times)" in str(report)


@pytest.mark.parametrize(
    "expression",
    [
        CLOSE.shift(-1) / CLOSE,
        CLOSE / CLOSE.max(),
        (CLOSE - CLOSE.mean()) / CLOSE.std(),
        CLOSE.rolling_mean(5, center=True),
        CLOSE.reverse() / CLOSE,
        CLOSE.rank() / pl.len(),
        CLOSE.fill_null(strategy="backward").diff(-1).fill_null(0.0),
        CLOSE.interpolate() / CLOSE.last(),
    ],
    ids=str,
)
def test_what_looks_ahead_fails_when_the_future_is_cut_or_changed(expression):
    report = check_causality(made(expression), BARS)
    assert not report.passed
    assert {"truncated", "perturbed"} & set(checks_of(report))
    assert "defined" in checks_of(report)
    with pytest.raises(SignalError, match="made is not causal"):
        report.raise_if_failed()


def test_the_first_bar_and_both_values_are_named():
    closes = np.array([100.0, 101.0, 103.0, 102.0, 104.0, 105.0])
    report = check_causality(made(CLOSE / CLOSE.max(), window=2), bars_of({"A": closes}), cuts=4)
    truncated = report.divergences[0]
    assert (truncated.check, truncated.symbol, str(truncated.session)) == ("truncated", "A", "2020-01-02")
    assert truncated.expected == pytest.approx(101.0 / 105.0)
    assert truncated.received == 1.0
    assert truncated.cut == truncated.timestamp
    assert str(truncated).startswith(
        f"truncated: A at 2020-01-02 answers {truncated.expected!r} over the whole frame, 1.0 with the future after "
        "2020-01-02 21:00 taken away or changed (1 such bars): it looks ahead"
    )
    defined = report.divergences[-1]
    assert (defined.check, str(defined.session), defined.cut, defined.bars) == ("defined", "2020-01-02", None, 4)
    assert (defined.expected, defined.received) == (truncated.expected, 1.0)


def test_an_answer_that_needs_more_than_its_window_is_found_though_it_is_causal():
    report = check_causality(made(CLOSE.ewm_mean(span=20) / CLOSE), BARS)
    assert checks_of(report) == ["defined"]
    assert "or needs a longer window" in str(report)
    longer = check_causality(made(CLOSE.ewm_mean(span=2) / CLOSE, window=30), BARS)
    assert longer.passed


def test_a_window_without_an_answer_is_found():
    report = check_causality(made(CLOSE.pct_change(5)), BARS)
    assert checks_of(report) == ["defined"]
    assert np.isnan(report.divergences[0].received)


def test_random_answers_are_found():
    report = check_causality(made(CLOSE.shuffle()), BARS)
    assert checks_of(report)[0] == "repeated"


def test_a_look_ahead_in_one_symbol_of_many_is_found():
    # Only a symbol whose price passes 105 is treated with hindsight.
    hindsight = pl.when(CLOSE.max() > 105.0).then(CLOSE / CLOSE.max()).otherwise(0.0)
    bars = bars_of({"A": np.linspace(100.0, 101.0, 30), "B": np.linspace(100.0, 110.0, 30)})
    report = check_causality(made(hindsight), bars)
    assert {divergence.symbol for divergence in report.divergences if divergence.check != "perturbed"} == {"B"}


def test_a_signal_that_keeps_state_outside_its_slots_is_found():
    heard = []

    @signal()
    def hoarding(bar, seen=memory()):
        heard.append(bar.close)
        return float(len(heard))

    report = check_causality(hoarding.bind(uncompiled=True), BARS)
    assert "repeated" in checks_of(report)


def test_a_state_that_is_not_restored_whole_is_found():
    class Forgetful(type(steady.bind())):
        def restore(self, saved):
            return self.start()

    bound = Forgetful(steady, {"lookback": 10})
    report = check_causality(bound, BARS)
    assert checks_of(report) == ["resumed"]
    assert "fed in pieces" in str(report)


def test_bars_too_few_to_tell_are_refused():
    with pytest.raises(SignalError, match="cannot be checked on 11 bars: it answers after its warm-up of 10"):
        check_causality(steady, bars_of({"A": random_walk(11, seed=1)}))
    with pytest.raises(SignalError, match="cuts is 0; allowed: at least 1"):
        check_causality(steady, BARS, cuts=0)
    assert check_causality(steady, bars_of({"A": random_walk(12, seed=1)})).cuts == 1


def test_the_tolerance_and_the_perturbation_are_the_callers():
    nearly = made(CLOSE.ewm_mean(span=2) / CLOSE, window=15)
    assert not check_causality(nearly, BARS).passed
    assert check_causality(nearly, BARS, tolerance=1e-5, seed=3).passed
