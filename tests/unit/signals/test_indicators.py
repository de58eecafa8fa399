"""What holds for every indicator: warm-up, NaN, saving, arguments; exact values over each window."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantflow.errors import ParameterError
from quantflow.signals import (
    adx,
    anchored_vwap,
    atr,
    beta,
    bollinger,
    correlation,
    donchian,
    ema,
    ewma_volatility,
    half_life,
    indicators,
    keltner,
    linreg_slope,
    macd,
    momentum,
    rolling_max,
    rolling_min,
    rolling_rank,
    rolling_std,
    rsi,
    sma,
    stochastic,
    vwap,
    wma,
    zscore,
)
from quantflow.testing.indicators import CASES, Case, market, moves
from quantflow.testing.signals import price_paths, random_walk

properties = settings(max_examples=80)
windows = st.integers(1, 12)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def run(indicator, values, *args, **kwargs):
    slot = indicator.starter(*args, **kwargs)
    return np.array([indicator(slot, float(value)) for value in values])


def windowed(values, window, function):
    return np.array(
        [function(values[end - window : end]) if end >= window else np.nan for end in range(1, len(values) + 1)]
    )


def test_the_cases_cover_every_indicator():
    covered = {case.name for case in CASES}
    assert covered == {name for name in indicators.__all__ if name[0].islower()}


@properties
@given(values=price_paths(), window=windows)
def test_sma_is_the_mean_of_the_window(values, window):
    expected = windowed(values, window, lambda part: math.fsum(part) / window)
    np.testing.assert_allclose(run(sma, values, window), expected, rtol=1e-12)


@properties
@given(values=price_paths(), window=windows)
def test_wma_weighs_the_newest_most(values, window):
    weights = np.arange(1.0, window + 1.0)
    expected = windowed(values, window, lambda part: math.fsum(part * weights) / weights.sum())
    np.testing.assert_allclose(run(wma, values, window), expected, rtol=1e-12)


@properties
@given(values=price_paths(), window=st.integers(2, 12), ddof=st.sampled_from([0, 1]))
def test_rolling_std_is_the_deviation_of_the_window(values, window, ddof):
    expected = windowed(values, window, lambda part: np.std(part - part[-1], ddof=ddof))
    scale = np.abs(values).max()
    np.testing.assert_allclose(run(rolling_std, values, window, ddof=ddof), expected, rtol=1e-9, atol=1e-12 * scale)


@properties
@given(values=price_paths(), window=windows)
def test_rolling_extremes_are_those_of_the_window(values, window):
    np.testing.assert_array_equal(run(rolling_max, values, window), windowed(values, window, max))
    np.testing.assert_array_equal(run(rolling_min, values, window), windowed(values, window, min))


@properties
@given(values=price_paths(), window=windows)
def test_rolling_rank_shares_ranks_between_equals(values, window):
    def rank(part):
        return ((part < part[-1]).sum() + ((part == part[-1]).sum() + 1) / 2) / window

    np.testing.assert_array_equal(run(rolling_rank, values, window), windowed(values, window, rank))
    coarse = np.round(np.log(values))  # many equal values
    np.testing.assert_array_equal(run(rolling_rank, coarse, window), windowed(coarse, window, rank))


@properties
@given(values=price_paths(), lookback=windows)
def test_momentum_is_the_return_over_the_lookback(values, lookback):
    expected = np.full(len(values), np.nan)
    expected[lookback:] = values[lookback:] / values[:-lookback] - 1.0
    np.testing.assert_array_equal(run(momentum, values, lookback), expected)


@properties
@given(values=price_paths(), span=windows)
def test_ema_equals_the_recursion_from_the_first_value(values, span):
    expected = pl.Series(values).ewm_mean(span=span, adjust=False, min_samples=span).fill_null(np.nan).to_numpy()
    np.testing.assert_allclose(run(ema, values, span), expected, rtol=1e-12)


@properties
@given(values=price_paths(min_size=2), span=windows)
def test_ewma_volatility_weights_squared_returns(values, span):
    squares = (values[1:] / values[:-1] - 1.0) ** 2
    decay = 1.0 - 2.0 / (span + 1.0)
    expected = np.full(len(values), np.nan)
    for end in range(span, len(values)):
        weights = [decay**age for age in range(end - 1, -1, -1)]
        expected[end] = math.sqrt(math.fsum(weights * squares[:end]) / math.fsum(weights))
    np.testing.assert_allclose(run(ewma_volatility, values, span), expected, rtol=1e-9)


@properties
@given(values=price_paths(), window=st.integers(2, 12))
def test_linreg_slope_is_the_least_squares_line(values, window):
    time = np.arange(window) - (window - 1) / 2
    expected = windowed(values, window, lambda part: math.fsum(time * (part - part[0])) / math.fsum(time**2))
    np.testing.assert_allclose(
        run(linreg_slope, values, window), expected, rtol=1e-9, atol=1e-12 * np.abs(values).max()
    )


@every_case
def test_the_first_value_comes_after_the_stated_warm_up(case):
    values = case.values(market(40, seed=1))
    assert np.isnan(values[:, : case.warm_up]).all()
    assert not np.isnan(values[:, case.warm_up :]).any()


@given(data=st.data(), columns=moves(min_size=45, max_size=60))
@settings(max_examples=25)
def test_warm_up_holds_for_other_arguments(data, columns):
    short = st.integers(2, 9)
    cases = [
        Case(ema, {"span": data.draw(st.floats(1.0, 9.0))}),
        Case(stochastic, {name: data.draw(short) for name in ("window", "smooth", "signal")}, ("high", "low", "close")),
        Case(keltner, {"span": data.draw(short), "window": data.draw(short)}, ("high", "low", "close")),
        Case(macd, {name: data.draw(st.floats(1.0, 9.0)) for name in ("fast", "slow", "signal")}),
        Case(adx, {"window": data.draw(short)}, ("high", "low", "close")),
    ]
    for case in cases:
        values = case.values(columns)
        assert np.isnan(values[:, : case.warm_up]).all()
        assert np.isfinite(values[:, case.warm_up :]).all()


@every_case
def test_a_nan_in_any_input_is_answered_with_nan_and_leaves_the_slot_unchanged(case):
    whole = market(30, seed=2)
    expected = case.values(whole)
    for broken in case.inputs:
        with_gap = {name: np.insert(values, 9, values[8]) for name, values in whole.items()}
        with_gap[broken][9] = np.nan
        values = case.values(with_gap)
        assert np.isnan(values[:, 9]).all()
        np.testing.assert_array_equal(np.delete(values, 9, axis=1), expected)


@every_case
@given(columns=moves(), data=st.data())
@settings(max_examples=10)
def test_an_indicator_stopped_and_restored_goes_on_bit_for_bit(case, columns, data):
    stop = data.draw(st.integers(0, len(columns["close"])))
    slot = case.start()
    before = case.feed(slot, {name: values[:stop] for name, values in columns.items()})
    restored = np.frombuffer(slot.tobytes(), dtype=np.float64).copy()
    after = case.feed(restored, {name: values[stop:] for name, values in columns.items()})
    parts = [part for part in (before, after) if part.size]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), case.values(columns))


@every_case
def test_the_future_does_not_change_the_past(case):
    columns = market(60, seed=3)
    cut = {name: values[:41] for name, values in columns.items()}
    np.testing.assert_array_equal(case.values(columns)[:, :41], case.values(cut))


@every_case
def test_a_slot_may_be_a_view_into_a_row_of_many(case):
    columns = market(40, seed=4)
    rows = np.tile(case.start(), (3, 1))
    values = case.feed(rows[1], columns)
    np.testing.assert_array_equal(values, case.values(columns))
    np.testing.assert_array_equal(rows[[0, 2]], np.tile(case.start(), (2, 1)))


def test_an_outlier_leaves_no_trace_once_it_has_left_the_window():
    values = np.concatenate([random_walk(50, seed=1), [1e12], random_walk(50, seed=2)])
    for indicator in (sma, wma, rolling_std, zscore, linreg_slope, rolling_rank, half_life):
        clean = run(indicator, values[-50:], 10)[-30:]
        np.testing.assert_allclose(run(indicator, values, 10)[-30:], clean, rtol=1e-10, atol=1e-12)


def test_standing_still_has_no_score_correlation_slope_or_reversion_but_a_middle():
    still = {"high": np.full(20, 0.1), "low": np.full(20, 0.1), "close": np.full(20, 0.1), "volume": np.arange(20.0)}
    swapped = still | {"close": still["volume"], "volume": still["close"]}
    for case in (
        Case(zscore, {"window": 3}),
        Case(half_life, {"window": 4}),
        Case(correlation, {"window": 3}, ("close", "volume")),
    ):
        assert np.isnan(case.values(still)).all()
    assert np.isnan(Case(correlation, {"window": 3}, ("close", "volume")).values(swapped)).all()
    assert np.isnan(Case(beta, {"window": 3}, ("close", "volume")).values(swapped)).all()
    assert (Case(linreg_slope, {"window": 3}).values(still)[0, 2:] == 0.0).all()
    assert (Case(rolling_std, {"window": 3}).values(still)[0, 2:] == 0.0).all()
    assert (Case(rsi, {"window": 3}).values(still)[0, 3:] == 50.0).all()
    bar = ("high", "low", "close")
    np.testing.assert_allclose(Case(stochastic, {"window": 3, "smooth": 1}, bar).values(still)[:, 4:], 50.0)
    np.testing.assert_array_equal(Case(adx, {"window": 3}, bar).values(still)[:, 5:], 0.0)


def test_a_mean_price_needs_volume():
    slot = vwap.starter(2)
    answers = [vwap(slot, price, volume) for price, volume in [(10.0, 1.0), (20.0, 3.0), (30.0, 0.0), (40.0, 0.0)]]
    np.testing.assert_array_equal(answers, [np.nan, 17.5, 20.0, np.nan])
    slot = anchored_vwap.starter()
    bars = [(10.0, 0.0, 1.0), (20.0, 1.0, 1.0), (40.0, 3.0, 1.0), (7.0, 2.0, 2.0)]
    np.testing.assert_array_equal([anchored_vwap(slot, *bar) for bar in bars], [np.nan, 20.0, 35.0, 7.0])


def test_half_life_of_a_known_reversion():
    decaying = 100.0 * 0.5 ** (np.arange(20) / 5.0)  # half is gone in five bars
    np.testing.assert_allclose(run(half_life, decaying, 8)[7:], 5.0, rtol=1e-9)
    assert np.isinf(run(half_life, 2.0 ** np.arange(20), 8)[7:]).all()
    assert (run(half_life, (-1.0) ** np.arange(20), 8)[7:] == 0.0).all()


@given(columns=moves(min_size=30), scale=st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=15)
def test_scale_free_indicators_do_not_see_the_unit_of_the_price(columns, scale):
    scaled = {name: values * (scale if name != "volume" else 1.0) for name, values in columns.items()}
    bar = ("high", "low", "close")
    for case in (Case(rsi, {"window": 5}), Case(adx, {"window": 4}, bar), Case(stochastic, {"window": 5}, bar)):
        np.testing.assert_array_equal(case.values(columns), case.values(scaled))
    for case in (Case(zscore, {"window": 5}), Case(rolling_rank, {"window": 5}), Case(half_life, {"window": 5})):
        np.testing.assert_array_equal(case.values(columns), case.values(scaled))


@properties
@given(columns=moves(min_size=12), window=st.integers(2, 9))
def test_bands_stand_in_order_and_oscillators_stay_in_their_range(columns, window):
    bar = ("high", "low", "close")
    cases = (
        Case(bollinger, {"window": window}),
        Case(donchian, {"window": window}, ("high", "low")),
        Case(keltner, {"span": window, "window": window}, bar),
    )
    for case in cases:
        upper, middle, lower = case.values(columns)[:, case.warm_up :]
        assert (upper >= middle).all()
        assert (middle >= lower).all()
    percents = (
        Case(stochastic, {"window": window}, bar),
        Case(rsi, {"window": window}),
        Case(adx, {"window": window}, bar),
    )
    for case in percents:
        values = case.values(columns)[:, case.warm_up :]
        assert ((values >= -1e-9) & (values <= 100.0 + 1e-9)).all()


def paths(window):
    """Sequences that unbalance a naive tree."""
    rising = np.arange(4.0 * window)
    return {
        "rising": rising,
        "falling": -rising,
        "constant": np.zeros(4 * window),
        "sawtooth": rising % window,
        "zigzag": rising * (-1.0) ** rising,
    }


@pytest.mark.parametrize("shape", ["rising", "falling", "constant", "sawtooth", "zigzag"])
def test_the_tree_of_ranks_stays_shallow_whole_and_ordered(shape):
    window = 128
    slot = rolling_rank.starter(window)
    for value in paths(window)[shape]:
        rolling_rank(slot, value)
    reached = []

    def depth(node):
        if node == 0:
            return 0
        left, right = int(slot[node + 1]), int(slot[node + 2])
        deepest = depth(left)
        reached.append(slot[node])
        deepest = 1 + max(deepest, depth(right))
        assert slot[node + 3] == 1.0 + sum(slot[child + 3] for child in (left, right) if child)
        assert all(slot[child + 4] < slot[node + 4] for child in (left, right) if child)
        return deepest

    assert depth(int(slot[4])) <= 3.5 * math.log2(window)
    np.testing.assert_array_equal(reached, np.sort(paths(window)[shape][-window:]))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (lambda: sma.starter(0), "window is 0 bars; allowed: a whole number, at least 1"),
        (lambda: sma.starter(2.5), "window is 2.5 bars"),
        (lambda: sma.starter(math.nan), "window is nan bars"),
        (lambda: wma.starter(-3), "window is -3 bars"),
        (lambda: rolling_std.starter(1), "at least 2"),
        (lambda: rolling_std.starter(5, 2), "ddof is 2; allowed: 0"),
        (lambda: zscore.starter(5, -1), "ddof is -1"),
        (lambda: bollinger.starter(20, -1.0), "multiplier is -1.0"),
        (lambda: keltner.starter(20, 10, math.inf), "multiplier is inf"),
        (lambda: ema.starter(0.5), "span is 0.5 bars; allowed: a finite number, at least 1"),
        (lambda: ewma_volatility.starter(math.nan), "span is nan"),
        (lambda: macd.starter(12, 26, 0), "signal is 0 bars"),
        (lambda: momentum.starter(0), "lookback is 0 bars"),
        (lambda: linreg_slope.starter(1), "at least 2"),
        (lambda: half_life.starter(2), "at least 3"),
        (lambda: correlation.starter(1), "at least 2"),
        (lambda: rolling_rank.starter(0), "window is 0"),
        (lambda: stochastic.starter(14, 0), "smooth is 0 bars"),
        (lambda: donchian.starter(0), "window is 0"),
        (lambda: adx.starter(1), "at least 2"),
        (lambda: atr.starter(0), "at least 1"),
        (lambda: vwap.starter(0), "at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(start, message):
    with pytest.raises(ParameterError, match=message):
        start()
