"""Many combinations at once: the same numbers as one by one, and every mistake named."""

import math
import threading

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.errors import ParameterError, SignalError
from quantflow.signals import _batch, indicator, memory, param, signal, sma
from quantflow.signals._fill import start_slot
from quantflow.signals._starts import pack_starts
from quantflow.testing.signals import every_indicator, price_paths, random_walk, trend

pytestmark = pytest.mark.slow  # as a module


def columns_of(closes):
    return {"close": closes, "high": closes * 1.01, "low": closes * 0.99, "volume": closes * 10.0, "open": closes}


def matrix_of(definition, closes):
    return np.array([columns_of(closes)[name] for name in definition.columns])


def filled(batch, matrix, first=0, last=None, **options):
    last = batch.count if last is None else last
    out = np.empty((last - first, matrix.shape[1]))
    batch.prepare(matrix, first, last, **options).fill(first, last, out)
    return out


def one_by_one(batch, closes):
    bound = [batch.signal.bind(**batch.parameters(number)) for number in range(batch.count)]
    return np.array([one.exposures(columns_of(closes)) for one in bound]).reshape(batch.count, len(closes))


@signal()
def cross(bar, fast=sma.over("short"), slow=sma.over("long"), short=param(3, low=1), long=param(8, low=1)):
    return 1.0 if sma(fast, bar.close) > sma(slow, bar.close) else -1.0


def combinations(definition, count):
    """Strategies of arrays for every parameter of the definition."""
    kinds = {
        "int": lambda spec: st.integers(max(int(spec.low), 2), 9),
        "float": lambda spec: st.floats(spec.low, min(spec.high, 1.0)),
        "bool": lambda spec: st.booleans(),
    }
    return st.fixed_dictionaries(
        {
            name: st.lists(kinds[spec.kind](spec), min_size=count, max_size=count)
            for name, spec in definition.parameters.items()
        }
    )


@pytest.mark.parametrize("definition", [trend, every_indicator, cross], ids=repr)
@given(closes=price_paths(), count=st.integers(1, 7), data=st.data())
def test_a_batch_equals_its_combinations_one_by_one_bit_for_bit(definition, closes, count, data):
    given_values = data.draw(combinations(definition, count))
    batch = definition.batch(given_values)
    expected = one_by_one(batch, closes)
    assert filled(batch, matrix_of(definition, closes)).tobytes() == expected.tobytes()
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    part = filled(batch, matrix_of(definition, closes), first, last)
    assert part.tobytes() == expected[first:last].tobytes()


def test_a_batch_knows_warm_ups_parameters_and_columns():
    batch = trend.batch({"lookback": [3, 20.0, 4], "span": np.array([9, 2, 2]), "allow_short": True})
    assert batch.count == 3
    assert batch.columns == ("close",)
    assert batch.warm_up.tolist() == [trend.bind(**batch.parameters(number)).warm_up for number in range(3)]
    assert batch.parameters(1) == dict(trend.bind(lookback=20, span=2).parameters)
    assert [type(value) for value in batch.parameters(1).values()] == [int, int, float, bool]


def test_values_come_from_lists_series_and_scalars():
    batch = cross.batch({"short": pl.Series([2, 3]), "long": 9})
    assert [batch.parameters(number) for number in range(2)] == [{"short": 2, "long": 9}, {"short": 3, "long": 9}]
    assert cross.batch({}).count == 1
    assert cross.batch({"short": []}).count == 0
    assert filled(cross.batch({"short": []}), np.ones((1, 5))).shape == (0, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lookback": [5, 0]}, "parameter 'lookback' is 0 in combination 1; allowed: a whole number from 1 to 500"),
        ({"lookback": [5.5]}, "'lookback' is 5.5 in combination 0"),
        ({"lookback": [2**60]}, "'lookback' is 1152921504606846976"),
        ({"target_volatility": [0.1, math.nan]}, "'target_volatility' is nan in combination 1"),
        ({"target_volatility": [math.inf]}, "'target_volatility' is inf"),
        ({"target_volatility": [0.1, None]}, "'target_volatility' is None in combination 1"),
        ({"lookback": ["5"]}, "'lookback' is '5' in combination 0"),
        ({"lookback": [True]}, "'lookback' is True"),
        ({"allow_short": [1, 0]}, "'allow_short' is 1 in combination 0; allowed: true or false"),
        ({"lookback": [[5]]}, r"'lookback' has shape \(1, 1\)"),
        ({"lookback": [5, 6], "span": [2, 3, 4]}, "lookback: 2, span: 3"),
        ({"horizon": [1]}, "unknown parameter 'horizon'"),
    ],
)
def test_a_bad_value_names_parameter_and_combination(values, message):
    with pytest.raises(ParameterError, match=message):
        trend.batch(values)


def test_an_indicator_that_refuses_its_arguments_names_the_combination():
    @signal()
    def windowed(bar, mean=sma.over("window"), window=param(5)):
        return sma(mean, bar.close)

    with pytest.raises(ParameterError, match="combination 2: sma: window is 0 bars"):
        windowed.batch({"window": [5, 4, 0, -1]})


def no_warm_up(window, weight):
    return 0


def test_starters_run_once_per_distinct_arguments():
    started = []

    @indicator(start=lambda window, weight: started.append((window, weight)) or [weight, 0.0], warm_up=no_warm_up)
    def weighted(slot, value):
        return slot[0] * value

    @signal()
    def two(
        bar, one=weighted.over("window", "weight"), other=weighted.over(7, 0.5), window=param(3), weight=param(0.5)
    ):
        return weighted(one, bar.close) + weighted(other, bar.close)

    count = 100_000
    windows, weights = np.arange(count) % 5 + 3, np.arange(count) % 2 / 2.0
    batch = two.batch({"window": windows, "weight": weights})
    # Ten of the first slot; the second's (7, 0.5) is one of them.
    assert len(started) == 10
    assert all(type(window) is int and type(weight) is float for window, weight in started)
    part = filled(batch, np.array([[1.0, 2.0]]), 90_000, 90_004)
    expected = (weights[90_000:90_004, None] + 0.5) * np.array([[1.0, 2.0]])
    assert part.tolist() == expected.tolist()


@given(arrays=st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf]), max_size=6), max_size=5))
def test_packed_starts_are_written_back_as_they_were(arrays):
    starts = pack_starts(arrays)
    sizes, *packed = starts.arrays
    for number, array in enumerate(arrays):
        slot = np.empty(sizes[number])
        start_slot(slot, number, *packed)
        assert slot.tobytes() == np.array(array, dtype=np.float64).tobytes()


def test_slots_start_as_their_starters_say():
    start = np.array([1.0, -0.0, math.nan, 0.0, 0.0, 5.0, math.nan])

    @indicator(start=lambda size: start[-size:], warm_up=lambda size: 0)
    def reads(slot, value):
        total = 0.0
        for index in range(len(slot)):
            held = slot[index]
            total += 0.25 if math.isnan(held) else held if held != 0.0 else math.copysign(0.5, held)
        return total

    @signal()
    def read(bar, slot=reads.over("size"), own=memory(3, initial=2.5), size=param(1)):
        return reads(slot, bar.close) + own[0] + own[2]

    batch = read.batch({"size": [1, 2, 7, 7, 3]})
    assert filled(batch, np.ones((1, 1)))[:, 0].tolist() == [5.25, 10.25, 12.0, 12.0, 10.75]


@signal()
def divides(bar, mean=sma.over(2), seen=memory(), at=param(3.0), answer=param(1.0)):
    seen[0] += 1.0
    wrong = math.sqrt(answer) if seen[0] > 2.0 and answer < 0.0 else 0.0
    return sma(mean, bar.close) * 0.0 + wrong + 1.0 / (at - seen[0])


def test_a_combination_that_raises_names_its_parameters_and_the_bar():
    batch = divides.batch({"at": [9.5, 9.5, 4.0, 2.0], "answer": 1.0})
    message = r"raised ZeroDivisionError at day 3: division by zero \(combination 2: at=4.0, answer=1.0\)"
    with pytest.raises(SignalError, match=message):
        filled(batch, np.ones((1, 6)), label="day {}".format)
    assert np.isfinite(filled(batch, np.ones((1, 6)), 0, 2)).all()


def test_a_combination_whose_answer_is_not_finite_names_its_parameters_and_the_bar():
    @signal()
    def roots(bar, seen=memory(), limit=param(3.0)):
        seen[0] += 1.0
        return math.sqrt(limit - seen[0]) if seen[0] <= limit else math.nan

    with pytest.raises(SignalError, match=r"not finite at row 4(.|\n)*\(combination 1: limit=4.0\)"):
        filled(roots.batch({"limit": [9.0, 4.0, 2.0]}), np.ones((1, 6)))


@indicator(start=lambda step: [float(step), 0.0], warm_up=lambda step: 0)
def counted_down(slot, value: float) -> float:
    """Divide by zero at bar ``step``."""
    slot[1] += 1.0
    return value / (slot[0] - slot[1])


def test_an_indicator_that_raises_names_the_combination_and_the_bar():
    @signal()
    def falling(bar, slot=counted_down.over("step"), step=param(3)):
        return counted_down(slot, bar.close)

    batch = falling.batch({"step": [90, 5, 90]})
    assert len(falling._filler().calls) == 1
    with pytest.raises(SignalError, match=r"ZeroDivisionError at row 4(.|\n)*\(combination 1: step=5\)"):
        batch.prepare(np.ones((1, 8)))
    # Bars that do not reach it, and combinations without it, are no error.
    assert np.isfinite(filled(batch, np.ones((1, 4)))).all()
    assert np.isfinite(filled(batch, np.ones((1, 8)), 2, 3)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda batch: batch.prepare(np.ones((2, 5))), "2 rows; give one for each of close"),
        (lambda batch: batch.prepare(np.ones((1, 5), dtype=np.float32)), "float32"),
        (lambda batch: batch.prepare(np.ones((1, 10))[:, ::2]), "C-contiguous"),
        (lambda batch: batch.prepare(np.ones((1, 5)), 1, 4), "combinations 1 to 4 were asked for; there are 3"),
        (lambda batch: batch.prepare(np.ones((1, 5)), 0, 2).fill(1, 3, np.ones((2, 5))), "prepared: 0 to 2"),
        (lambda batch: batch.prepare(np.ones((1, 5))).fill(0, 2, np.ones((2, 4))), r"of shape \(2, 5\)"),
        (lambda batch: batch.prepare(np.ones((1, 5))).fill(0, 2, np.ones((5, 2)).T), "C-contiguous"),
    ],
)
def test_arrays_of_another_shape_are_refused(call, message):
    with pytest.raises(SignalError, match=message):
        call(cross.batch({"short": [2, 3, 4]}))


def test_series_that_exceed_their_memory_are_made_block_by_block(monkeypatch):
    closes = random_walk(300, seed=4)
    batch = cross.batch({"short": np.arange(2, 22), "long": np.arange(30, 50)})
    expected = filled(batch, closes.reshape(1, -1))
    assert batch.series_bytes(300) == 40 * 300 * 8
    assert batch.series_bytes(300, 0, 5) == 10 * 300 * 8
    monkeypatch.setattr(_batch, "TABLE_BYTES", 39 * 300 * 8)
    assert batch.series_bytes(300) == 0
    prepared = batch.prepare(closes.reshape(1, -1))
    assert prepared._shared is None
    out = np.empty((4, 300))
    for first in range(0, 20, 4):
        prepared.fill(first, first + 4, out)
        assert out.tobytes() == expected[first : first + 4].tobytes()


def test_threads_may_share_a_batch_and_what_it_prepared():
    closes = random_walk(2000, seed=5)
    batch = every_indicator.batch({"window": np.arange(2, 42), "pull": np.linspace(0.0, 1.0, 40)})
    matrix = matrix_of(every_indicator, closes)
    expected = filled(batch, matrix)
    out = np.empty_like(expected)
    prepared = batch.prepare(matrix)

    def work(first):
        for number in range(first, 40, 4):
            prepared.fill(number, number + 1, out[number : number + 1])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out.tobytes() == expected.tobytes()


def test_what_fails_only_among_others_is_said_to(monkeypatch):
    def fails(*given):
        raise ValueError

    batch = cross.batch({"short": [2, 3]})
    prepared = batch.prepare(np.ones((1, 20)))
    monkeypatch.setattr(prepared, "_filler", _batch.Filler(fails))
    with pytest.raises(SignalError, match="combinations 0 to 2, but in none on its own"):
        prepared.fill(0, 2, np.empty((2, 20)))


def test_an_empty_history_is_filled_with_nothing():
    assert filled(cross.batch({"short": [2, 3]}), np.empty((1, 0))).shape == (2, 0)
