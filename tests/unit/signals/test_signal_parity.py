"""One definition, three lives: whole arrays, bar by bar, stopped and resumed, uncompiled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantflow.signals import Decider
from quantflow.testing.signals import bars_of, every_indicator, price_paths, random_walk, trend

# Compiling at the first example is not a slow test.
lives = settings(deadline=None, max_examples=60)

SIGNALS = [trend.bind(lookback=3, span=2), trend.bind(lookback=7, allow_short=False), every_indicator.bind(window=3)]


def columns_of(closes):
    return {"close": closes, "high": closes * 1.01, "low": closes * 0.99, "volume": closes * 10.0, "open": closes}


def bit_for_bit(left, right):
    return np.asarray(left, dtype=np.float64).tobytes() == np.asarray(right, dtype=np.float64).tobytes()


def stepped(bound, columns, state=None):
    state = bound.start() if state is None else state
    rows = len(columns["close"])
    return [bound.step(state, {name: values[row] for name, values in columns.items()}) for row in range(rows)], state


@pytest.mark.parametrize("bound", SIGNALS, ids=repr)
@lives
@given(closes=price_paths())
def test_stepping_equals_whole_arrays_bit_for_bit(bound, closes):
    columns = columns_of(closes)
    assert bit_for_bit(stepped(bound, columns)[0], bound.exposures(columns))


@pytest.mark.parametrize("bound", SIGNALS, ids=repr)
@lives
@given(closes=price_paths(min_size=2), data=st.data())
def test_a_signal_stopped_anywhere_and_resumed_equals_one_never_stopped(bound, closes, data):
    stop = data.draw(st.integers(0, len(closes)))
    columns = columns_of(closes)
    before, state = stepped(bound, {name: values[:stop] for name, values in columns.items()})
    resumed = bound.restore(bound.snapshot(state))
    after, _ = stepped(bound, {name: values[stop:] for name, values in columns.items()}, resumed)
    assert bit_for_bit(before + after, bound.exposures(columns))


@pytest.mark.parametrize("bound", SIGNALS, ids=repr)
@lives
@given(closes=price_paths(min_size=2), data=st.data())
def test_truncating_the_future_does_not_change_the_past(bound, closes, data):
    cut = data.draw(st.integers(0, len(closes)))
    columns = columns_of(closes)
    past = {name: values[:cut] for name, values in columns.items()}
    assert bit_for_bit(bound.exposures(past), bound.exposures(columns)[:cut])


@pytest.mark.parametrize("bound", SIGNALS, ids=repr)
@lives
@given(closes=price_paths())
def test_uncompiled_agrees_to_a_billionth(bound, closes):
    plain = bound.signal.bind(**bound.parameters, uncompiled=True)
    columns = columns_of(closes)
    np.testing.assert_allclose(plain.exposures(columns), bound.exposures(columns), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bound", SIGNALS, ids=repr)
def test_many_symbols_in_one_call_equal_each_on_its_own(bound):
    paths = {f"S{index}": random_walk(40 + index, seed=index) for index in range(6)}
    every = {
        name: {symbol: columns_of(path)[name] for symbol, path in paths.items()} for name in ("high", "low", "volume")
    }
    frame = bars_of(paths, **every).sample(fraction=1.0, shuffle=True, seed=1)
    together = bound.evaluate(frame)
    assert together.columns == ["symbol", "session", "timestamp", "exposure"]
    for symbol, path in paths.items():
        mine = together.filter(symbol=symbol)
        assert mine["timestamp"].is_sorted()
        assert bit_for_bit(mine["exposure"].to_numpy(), bound.exposures(columns_of(path)))


def test_continuing_many_symbols_in_pieces_equals_one_call():
    bound = trend.bind()
    paths = np.array([random_walk(100, seed=seed) for seed in range(5)])
    whole = np.array([bound.exposures({"close": path}) for path in paths])
    states = np.array([bound.start() for _ in paths])
    pieces = []
    for first, last in [(0, 1), (1, 30), (30, 30), (30, 100)]:
        width = last - first
        bounds = np.arange(len(paths) + 1) * width
        flat = np.ascontiguousarray(paths[:, first:last]).reshape(1, -1)
        pieces.append(bound.advance(states, bounds, flat).reshape(len(paths), width))
    assert bit_for_bit(np.hstack(pieces), whole)


def test_exposure_is_zero_during_the_warm_up_and_not_after():
    bound = trend.bind(lookback=10, span=4)
    assert bound.warm_up == 10
    exposures = bound.exposures({"close": np.linspace(100.0, 110.0, 30) + np.sin(np.arange(30.0))})
    assert (exposures[:10] == 0.0).all()
    assert exposures[10] != 0.0


def test_a_rising_price_is_held_and_a_falling_one_is_shorted_only_if_allowed():
    noise = np.cos(np.arange(200.0)) * 0.2
    rising, falling = 100.0 + np.arange(200.0) * 0.1 + noise, 200.0 - np.arange(200.0) * 0.1 + noise
    bound = trend.bind(lookback=60, span=30)
    assert (bound.exposures({"close": rising})[80:] > 0.1).all()
    assert (bound.exposures({"close": falling})[80:] < -0.1).all()
    assert (trend.bind(lookback=60, span=30, allow_short=False).exposures({"close": falling}) == 0.0).all()


def test_exposures_stay_within_one():
    exposures = trend.bind(target_volatility=5.0).exposures({"close": random_walk(2000, seed=3)})
    assert np.abs(exposures).max() == 1.0


def test_a_bound_signal_is_a_decider():
    assert isinstance(trend.bind(), Decider)
