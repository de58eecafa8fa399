"""Declaring, binding and refusing signals."""

import math
import textwrap
import types
from datetime import date

import numpy as np
import polars as pl
import pytest

import quantflow.signals
from quantflow.errors import InvalidBarsError, MissingColumnError, ParameterError, SignalError
from quantflow.signals import ema, indicator, memory, momentum, param, signal, sma
from quantflow.testing.signals import bars_of, every_indicator, random_walk, trend


def test_a_signal_lists_its_parameters_with_type_range_and_default():
    lookback = trend.parameters["lookback"]
    assert (lookback.kind, lookback.default, lookback.low, lookback.high) == ("int", 5, 1, 500)
    assert [parameter.kind for parameter in trend.parameters.values()] == ["int", "int", "float", "bool"]
    assert trend.columns == ("close",)
    assert trend.name == "trend"


def test_bound_values_are_complete_and_typed():
    bound = trend.bind(lookback=60.0, target_volatility=1)
    assert dict(bound.parameters) == {"lookback": 60, "span": 4, "target_volatility": 1.0, "allow_short": True}
    assert isinstance(bound.parameters["lookback"], int)
    assert isinstance(bound.parameters["target_volatility"], float)


def test_every_bad_parameter_is_named_at_once():
    with pytest.raises(ParameterError) as caught:
        trend.bind(lookback=0, span=2.5, allow_short=1, horizon=3)
    message = str(caught.value)
    for part in (
        "'lookback' is 0",
        "from 1 to 500",
        "'span' is 2.5",
        "'allow_short' is 1",
        "unknown parameter 'horizon'",
    ):
        assert part in message


@pytest.mark.parametrize("value", [math.nan, math.inf, "60", None, True])
def test_values_that_are_no_numbers_are_refused(value):
    with pytest.raises(ParameterError, match="target_volatility"):
        trend.bind(target_volatility=value)


def test_a_default_outside_its_range_is_refused():
    with pytest.raises(SignalError, match="default 5"):
        param(5, low=6)
    with pytest.raises(SignalError, match="allowed: a bool"):
        param("fast")


def test_the_packages_example_is_a_working_module():
    documented = quantflow.signals.__doc__.split("A complete user module::")[1].split("Used like this")[0]
    module = types.ModuleType("documented_signal")
    exec(textwrap.dedent(documented), module.__dict__)
    bound = module.momentum_signal.bind(lookback=60)
    exposures = bound.exposures({"close": random_walk(500, seed=1)})
    assert (exposures[:63] == 0.0).all()
    assert exposures.max() > 0.0
    assert exposures.min() == 0.0


def test_a_missing_column_is_refused_by_name():
    closes = random_walk(10, seed=1)
    with pytest.raises(MissingColumnError, match="'high'"):
        every_indicator.bind().exposures({"close": closes})
    with pytest.raises(MissingColumnError, match="'high'"):
        every_indicator.bind().evaluate(bars_of({"A": closes}))
    bar = {"high": 2.0, "low": 1.0, "close": 1.5, "volume": None}
    with pytest.raises(MissingColumnError, match="'volume'"):
        every_indicator.bind().step(every_indicator.bind().start(), bar)


def test_values_that_are_not_finite_are_refused_by_row():
    with pytest.raises(InvalidBarsError, match="close is nan at row 2"):
        trend.bind().exposures({"close": [1.0, 2.0, math.nan]})
    frame = bars_of({"A": [1.0, 2.0], "B": [1.0, math.inf]})
    with pytest.raises(InvalidBarsError, match="close is inf at B at 2020-01-02"):
        trend.bind().evaluate(frame)
    state = trend.bind().start()
    with pytest.raises(SignalError, match="close is nan"):
        trend.bind().step(state, {"close": math.nan})
    with pytest.raises(SignalError, match=r"close is '1\.5' in the bar"):
        trend.bind().step(state, {"close": "1.5"})
    assert (state == trend.bind().start()).all()


def test_duplicate_bars_are_refused():
    frame = bars_of({"A": [1.0, 2.0]})
    with pytest.raises(InvalidBarsError, match="first A at 2020-01-01"):
        trend.bind().evaluate(pl.concat([frame, frame.head(1)]))


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InvalidBarsError, match="equal length"):
        every_indicator.bind().exposures({"high": [1.0, 2.0], "low": [1.0], "close": [1.0], "volume": [1.0]})


def test_an_empty_history_has_no_exposures():
    assert len(trend.bind().exposures({"close": []})) == 0
    assert trend.bind().evaluate(bars_of({})).height == 0


@signal()
def raises_at_seven(bar, seen=memory()):
    seen[0] += 1.0
    return 1.0 / (7.0 - seen[0])


@signal()
def answers_nan_after_five(bar, mean=sma.over(3), seen=memory(initial=5.0)):
    sma(mean, bar.close)
    seen[0] -= 1.0
    return math.sqrt(seen[0]) if seen[0] >= 0.0 else math.nan


@pytest.mark.parametrize("uncompiled", [False, True])
def test_a_signal_that_raises_names_the_bar(uncompiled):
    bound = raises_at_seven.bind(uncompiled=uncompiled)
    with pytest.raises(SignalError, match=r"raised (ZeroDivision|FloatingPoint)Error at row 6"):
        bound.exposures({"close": random_walk(10, seed=1)})
    with pytest.raises(SignalError, match="at B at 2020-01-07"):
        bound.evaluate(bars_of({"A": [1.0] * 3, "B": [1.0] * 9}))


@pytest.mark.parametrize("uncompiled", [False, True])
def test_an_exposure_that_is_not_finite_names_the_bar(uncompiled):
    bound = answers_nan_after_five.bind(uncompiled=uncompiled)
    with pytest.raises(SignalError, match="not finite at row 5"):
        bound.exposures({"close": random_walk(10, seed=1)})


def test_a_state_is_restored_only_by_the_same_code_and_parameters():
    bound = trend.bind()
    saved = bound.snapshot(bound.start())
    assert (bound.restore(saved) == bound.start()).all()
    for other in (trend.bind(target_volatility=0.2), every_indicator.bind()):
        with pytest.raises(SignalError, match="does not belong"):
            other.restore(saved)
    with pytest.raises(SignalError, match="does not belong"):
        bound.restore(saved[:-1])
    with pytest.raises(SignalError, match="not a state"):
        bound.step(every_indicator.bind().start(), {"close": 1.0})


def module_with(factor):
    module = types.ModuleType("helper_module")
    exec(f"def helper(x):\n    return x * {factor}\n", module.__dict__)
    exec("def decide(bar):\n    return helper(bar.close)\n", module.__dict__)
    return signal(name="helped")(module.decide)


def test_the_fingerprint_covers_the_functions_that_a_signal_reaches():
    assert module_with(0.5).fingerprint == module_with(0.5).fingerprint
    assert module_with(0.5).fingerprint != module_with(0.25).fingerprint


def spanned(span, default=1.0):
    @signal(name="spanned")
    def decide(bar, mean=ema.over(span), size=param(default)):
        return size if bar.close > ema(mean, bar.close) else 0.0

    return decide


def test_a_slot_that_starts_otherwise_is_another_signal():
    nine, ten = spanned(9), spanned(10)
    assert nine.fingerprint == spanned(9).fingerprint
    assert nine.fingerprint != ten.fingerprint
    assert nine.fingerprint != spanned(9, default=0.5).fingerprint
    with pytest.raises(SignalError, match="does not belong"):
        ten.bind().restore(nine.bind().snapshot(nine.bind().start()))


def test_two_modules_with_the_same_names_do_not_share_compiled_code():
    assert module_with(0.5).bind().exposures({"close": [1.0]})[0] == 0.5
    assert module_with(0.25).bind().exposures({"close": [1.0]})[0] == 0.25


def test_functions_in_closures_are_compiled_along():
    def scaled(x):
        return x / 4.0

    @signal()
    def closing(bar):
        return scaled(bar.close)

    assert closing.bind().exposures({"close": [1.0]})[0] == 0.25


def test_a_user_can_add_an_indicator():
    @indicator(start=lambda: np.zeros(1), warm_up=lambda: 1)
    def gap(slot, value):
        previous = slot[0]
        slot[0] = value
        return value - previous if previous else math.nan

    @signal()
    def gaps(bar, slot=gap.over()):
        return gap(slot, bar.close)

    bound = gaps.bind()
    assert bound.warm_up == 1
    assert bound.exposures({"close": [1.0, 3.0, 4.0]}).tolist() == [0.0, 2.0, 1.0]


def test_indexing_outside_a_memory_raises_instead_of_reading_another_slot():
    @signal()
    def careless(bar, mine=memory(1), other=memory(1, initial=9.0)):
        return mine[1] + other[0]

    with pytest.raises(SignalError, match="IndexError"):
        careless.bind().exposures({"close": [1.0]})


def test_what_numba_cannot_compile_is_explained_and_still_runs_uncompiled():
    @signal()
    def dictionary(bar):
        return float(len({"a": 1, 2: "b"}) * 0 + date(2020, 1, 1).day * 0) + 0.5

    with pytest.raises(SignalError, match=r"does not compile(.|\n)*uncompiled=True"):
        dictionary.bind().compile()
    assert dictionary.bind(uncompiled=True).exposures({"close": [1.0]})[0] == 0.5


def test_recursion_is_refused():
    module = types.ModuleType("recursive")
    exec("def again(x):\n    return again(x - 1.0) if x > 0.0 else x\n", module.__dict__)
    exec("def decide(bar):\n    return again(bar.close)\n", module.__dict__)
    with pytest.raises(SignalError, match="calls itself"):
        signal()(module.decide).bind().compile()


def no_bar():
    return 0.0


def bare_argument(bar, window):
    return 0.0


def variable(bar, *rest):
    return 0.0


def unknown_name(bar, mean=ema.over("span")):
    return 0.0


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (no_bar, "first argument"),
        (bare_argument, "must be a parameter"),
        (variable, "not allowed"),
        (unknown_name, "a slot names span"),
        (print, "plain function"),
    ],
)
def test_a_signature_of_another_shape_is_refused(definition, message):
    with pytest.raises(SignalError, match=message):
        signal()(definition)


@pytest.mark.parametrize("columns", [("price",), (), ("close", "close")])
def test_unknown_columns_are_refused(columns):
    with pytest.raises(SignalError, match="columns are"):
        signal(columns=columns)(no_bar)


def test_indicator_arguments_are_checked():
    with pytest.raises(SignalError, match="it takes"):
        sma.over(3, 4)
    with pytest.raises(SignalError, match="memory size"):
        memory(0)

    @signal()
    def windowed(bar, mean=sma.over("window"), window=param(0)):
        return sma(mean, bar.close)

    with pytest.raises(ParameterError, match="window is 0 bars"):
        windowed.bind()
    assert "lookback" in repr(momentum)
