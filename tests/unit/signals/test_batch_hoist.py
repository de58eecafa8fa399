"""Which indicator calls are made once for many combinations: only those that the source proves unconditional."""

import linecache
import math
import types

import numpy as np
import pytest

from quantflow.signals import atr, bollinger, ema, indicator, macd, memory, momentum, param, rsi, signal, sma
from quantflow.signals._hoist import hoist
from quantflow.testing.signals import every_indicator, random_walk, trend

pytestmark = pytest.mark.slow  # as a module

COLUMNS = ("high", "low", "close")


def hoisted(definition):
    """Return the names of the slots whose calls are taken out."""
    slots = list(definition._slots)
    return [slots[call.slot] for call in hoist(definition.definition, slots, definition.columns).calls]


def both_ways(definition, values):
    """Return exposures of a batch and of its combinations one by one."""
    close = random_walk(120, seed=9, volatility=0.03)
    bars = {"high": close * 1.01, "low": close * 0.98, "close": close}
    matrix = np.array([bars[name] for name in definition.columns])
    batch = definition.batch(values)
    out = np.empty((batch.count, len(close)))
    batch.prepare(matrix).fill(0, batch.count, out)
    expected = [definition.bind(**batch.parameters(number)).exposures(bars) for number in range(batch.count)]
    return out, np.array(expected)


def slot():
    return sma.over("window")


WINDOW = param(5, low=1)


@signal()
def in_a_return(bar, one=slot(), window=WINDOW):
    return sma(one, bar.close)


@signal()
def nested_in_arithmetic(bar, one=slot(), two=slot(), window=WINDOW):
    """A docstring
    of two lines."""
    spread: float = 2.0 * (sma(one, bar.close) - 1.0) / (1.0 + abs(ema(two, bar.close)))
    spread += 1.0
    return spread


@signal()
def in_the_test_of_an_if(bar, one=slot(), two=slot(), window=WINDOW):
    if sma(one, bar.close) < bar.close:
        return 0.0
    mean = sma(two, bar.close)
    return mean if mean > 0.0 else 1.0


@signal()
def after_an_if_that_cannot_leave(bar, one=slot(), two=slot(), held=memory(), window=WINDOW):
    if bar.close > held[0]:
        held[0] = bar.close
        sma(two, bar.close)
    return sma(one, bar.close) / held[0]


@signal()
def after_a_return(bar, one=slot(), window=WINDOW):
    if bar.close > 100.0:
        return 0.0
    return sma(one, bar.close)


@signal()
def behind_an_and(bar, one=slot(), two=slot(), window=WINDOW):
    rising = sma(one, bar.close) > 100.0 and sma(two, bar.close) > 100.0
    return 1.0 if rising else 0.0


@signal()
def in_one_arm(bar, one=slot(), two=slot(), window=WINDOW):
    return sma(one, bar.close) if bar.close > 100.0 else sma(two, bar.close)


@signal()
def at_the_end_of_a_chain(bar, one=slot(), two=slot(), three=slot(), window=WINDOW):
    ordered = 0.5 * bar.close < sma(one, bar.close) < 2.0 * sma(three, bar.close)
    mean = sma(two, bar.close)
    return 1.0 if ordered and bar.close > mean else 0.0


@signal()
def in_a_loop(bar, one=slot(), window=WINDOW):
    total = 0.0
    for _ in range(2):
        total += sma(one, bar.close)
    return total


@signal()
def slot_used_twice(bar, one=slot(), window=WINDOW):
    return sma(one, bar.close) + one[0] * 0.0


@signal()
def called_twice(bar, one=slot(), window=WINDOW):
    return sma(one, bar.close) + sma(one, bar.close)


@signal()
def of_its_own_memory(bar, one=slot(), held=memory(), window=WINDOW):
    held[0] += bar.close
    return sma(one, held[0])


@signal()
def of_a_parameter(bar, one=slot(), window=WINDOW):
    return sma(one, bar.close * window)


@signal(columns=COLUMNS)
def of_expressions(bar, one=slot(), two=slot(), three=slot(), window=WINDOW):
    middle = (bar.high + bar.low) / 2
    typical = (2.0 * middle + bar.close) / 3.0
    return sma(one, middle) + sma(two, -typical * 0.5) + sma(three, bar.high - bar.low)


@signal(columns=COLUMNS)
def of_a_name_that_changes(bar, one=slot(), two=slot(), window=WINDOW):
    price = bar.high
    first = sma(one, price)
    price = bar.low
    return first + sma(two, price)


@signal(columns=COLUMNS)
def of_a_division(bar, one=slot(), two=slot(), window=WINDOW):
    return sma(one, bar.high / bar.low) + sma(two, bar.close // 2.0)


@signal()
def of_a_chain(bar, one=slot(), two=slot(), window=WINDOW):
    return ema(two, sma(one, bar.close))


@signal()
def of_another_bar(bar, one=slot(), two=slot(), window=WINDOW):
    mean = sma(one, bar.close)
    bar = bar
    return mean + sma(two, bar.close)


@signal(columns=COLUMNS)
def of_several_outputs(
    bar,
    bands=bollinger.over("window"),
    lines=macd.over(3, "window", 2),
    reach=atr.over("window"),
    strength=rsi.over(4),
    window=param(5, low=4),
):
    upper, middle, lower = bollinger(bands, bar.close)
    signals = macd(lines, bar.close)
    width = atr(reach, bar.high, bar.low, bar.close)
    return (upper - lower) / middle + signals.histogram + width + rsi(strength, bar.close) / 100.0


EXPECTED = {
    in_a_return: ["one"],
    nested_in_arithmetic: ["one", "two"],
    in_the_test_of_an_if: ["one"],
    after_an_if_that_cannot_leave: ["one"],
    after_a_return: [],
    behind_an_and: ["one"],
    in_one_arm: [],
    at_the_end_of_a_chain: ["one", "two"],
    in_a_loop: [],
    slot_used_twice: [],
    called_twice: [],
    of_its_own_memory: [],
    of_a_parameter: [],
    of_expressions: ["one", "two", "three"],
    of_a_name_that_changes: [],
    of_a_division: [],
    of_a_chain: ["one"],
    of_another_bar: [],
    of_several_outputs: ["bands", "lines", "reach", "strength"],
    every_indicator: ["fast", "slow", "spread", "top", "bottom"],
    trend: ["change", "risk"],
}


@pytest.mark.parametrize(("definition", "slots"), EXPECTED.items(), ids=lambda given: getattr(given, "name", ""))
def test_a_call_is_taken_out_only_where_it_is_made_once_a_bar(definition, slots):
    assert hoisted(definition) == slots


@pytest.mark.parametrize(
    "definition",
    [
        nested_in_arithmetic,
        in_the_test_of_an_if,
        after_an_if_that_cannot_leave,
        behind_an_and,
        at_the_end_of_a_chain,
        of_expressions,
        of_a_chain,
        of_several_outputs,
    ],
    ids=lambda definition: definition.name,
)
def test_taken_out_or_not_every_number_is_the_same(definition):
    out, expected = both_ways(definition, {"window": [5, 12, 5, 7]})
    assert out.tobytes() == expected.tobytes()
    assert np.ptp(expected) > 0.0


def test_equal_indicators_of_equal_inputs_share_their_series():
    batch = at_the_end_of_a_chain.batch({"window": [3, 4, 3, 5]})
    layout = batch._layout(0, 4)
    assert layout.table_rows == 3
    assert len(layout.groups) == 1
    assert (layout.rows[0] == layout.rows[1]).all()


@indicator(start=lambda: np.zeros(1), warm_up=lambda: 0)
def counts(slot, value):
    slot[0] += 1.0
    return int(slot[0])


@indicator(start=lambda: np.zeros(1), warm_up=lambda: 0)
def refuses_small_numbers(slot, value):
    return value / (value - 1.0)


def test_an_indicator_that_does_not_answer_floats_stays_where_it_is():
    @signal()
    def picks(bar, many=counts.over(), ring=memory(3, initial=2.0), mean=slot(), window=WINDOW):
        place = counts(many, bar.close) % 3
        ring[place] += 1.0
        return sma(mean, bar.close) * 0.0 + ring[0] + ring[1] * 2.0

    definition = picks.definition
    assert [call.slot for call in hoist(definition, list(picks._slots), picks.columns).calls] == [0, 2]
    assert [call.slot for call in picks._filler().calls] == [2]
    out, expected = both_ways(picks, {"window": [1, 2]})
    assert out.tobytes() == expected.tobytes()


def test_an_indicator_that_cannot_be_tried_stays_where_it_is():
    @signal()
    def careful(bar, one=refuses_small_numbers.over(), unused=param(1.0)):
        return refuses_small_numbers(one, bar.close)

    assert hoisted(careful) == ["one"]
    assert careful._filler().calls == ()


def test_calls_in_closures_are_found():
    smooth = ema
    limit = 0.25

    @signal()
    def closing(bar, one=ema.over("window"), window=WINDOW):
        """Indented
        docstring."""
        return smooth(one, bar.close) * limit

    assert hoisted(closing) == ["one"]
    out, expected = both_ways(closing, {"window": [5, 6]})
    assert out.tobytes() == expected.tobytes()


def test_a_name_that_is_no_indicator_is_left_alone():
    @signal()
    def shadowed(bar, one=slot(), two=slot(), window=WINDOW):
        sma = momentum  # noqa: F841
        return math.sqrt(bar.close) + len(one) + len(two)

    assert hoisted(shadowed) == []


def module_of(source, filename):
    module = types.ModuleType("cell")
    module.__dict__.update(signal=signal, sma=sma, ema=ema, param=param)
    exec(compile(source, filename, "exec"), module.__dict__)
    return module


SOURCE = """@signal()
def decide(bar, one=sma.over("window"), window=param(5)):
    return sma(one, bar.close) * {factor}
"""


def test_source_that_is_not_what_runs_is_not_believed():
    module = module_of(SOURCE.format(factor=2.0), "<cell 1>")
    assert hoisted(module.decide) == []
    for factor, expected in ((3.0, []), (2.0, ["one"])):
        text = SOURCE.format(factor=factor)
        linecache.cache["<cell 1>"] = (len(text), None, text.splitlines(keepends=True), "<cell 1>")
        assert hoisted(module.decide) == expected


@pytest.mark.parametrize("text", ["decide = signal()(lambda bar: bar.close)\n", "def decide(bar) return\n", ""])
def test_source_of_another_shape_is_not_believed(text):
    module = module_of("def plain(bar):\n    return bar.close\ndecide = signal()(plain)\n", "<cell 2>")
    linecache.cache["<cell 2>"] = (len(text), None, text.splitlines(keepends=True), "<cell 2>")
    assert hoisted(module.decide) == []
