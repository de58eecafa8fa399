"""Indicators against plain recomputation over each window."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantflow.errors import ParameterError
from quantflow.signals import ema, ewma_volatility, momentum, rolling_max, rolling_min, rolling_std, sma
from quantflow.testing.signals import price_paths, random_walk

properties = settings(deadline=None, max_examples=80)
windows = st.integers(1, 12)


def run(indicator, values, *args, **kwargs):
    slot = indicator.over(*args, **kwargs).resolve({})
    memory = indicator.starter(**slot)
    return np.array([indicator(memory, float(value)) for value in values])


def windowed(values, window, function):
    return np.array(
        [function(values[end - window : end]) if end >= window else np.nan for end in range(1, len(values) + 1)]
    )


@properties
@given(values=price_paths(), window=windows)
def test_sma_is_the_mean_of_the_window(values, window):
    expected = windowed(values, window, lambda part: math.fsum(part) / window)
    np.testing.assert_allclose(run(sma, values, window), expected, rtol=1e-12)


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


@pytest.mark.parametrize(
    ("indicator", "argument"),
    [(sma, 7), (ema, 7), (rolling_std, 7), (momentum, 7), (rolling_max, 7), (rolling_min, 7), (ewma_volatility, 7)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_first_value_comes_after_the_stated_warm_up(indicator, argument):
    spec = indicator.over(argument)
    values = run(indicator, random_walk(30, seed=1), argument)
    warm_up = indicator.warm_up(**spec.resolve({}))
    assert np.isnan(values[:warm_up]).all()
    assert np.isfinite(values[warm_up:]).all()


@pytest.mark.parametrize("indicator", [sma, ema, rolling_std, momentum, rolling_max, rolling_min, ewma_volatility])
def test_a_nan_is_answered_with_nan_and_leaves_the_slot_unchanged(indicator):
    walk = random_walk(20, seed=2)
    with_gap = np.insert(walk, 9, np.nan)
    values = run(indicator, with_gap, 5)
    assert math.isnan(values[9])
    np.testing.assert_array_equal(np.delete(values, 9), run(indicator, walk, 5))


def test_an_outlier_leaves_no_trace_once_it_has_left_the_window():
    values = np.concatenate([random_walk(50, seed=1), [1e12], random_walk(50, seed=2)])
    clean = run(rolling_std, values[-50:], 10)[-30:]
    np.testing.assert_allclose(run(rolling_std, values, 10)[-30:], clean, rtol=1e-12)
    np.testing.assert_allclose(run(sma, values, 10)[-30:], run(sma, values[-50:], 10)[-30:], rtol=1e-14)


@pytest.mark.parametrize("start", [lambda: sma.starter(0), lambda: rolling_std.starter(1), lambda: ema.starter(0.5)])
def test_windows_too_short_are_refused(start):
    with pytest.raises(ParameterError, match="allowed"):
        start()


def test_other_bad_arguments_are_refused():
    with pytest.raises(ParameterError, match="ddof is 2"):
        rolling_std.starter(5, 2)
    with pytest.raises(ParameterError, match="span is nan"):
        ewma_volatility.starter(math.nan)
