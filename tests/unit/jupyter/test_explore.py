"""A backtest under controls: they are made of the signal's parameters, and the backtest follows them."""

import ipywidgets
import pytest

from quantflow.backtest import backtest
from quantflow.errors import MissingColumnError, SignalError
from quantflow.jupyter import explore
from quantflow.jupyter._explore import _control, _step
from quantflow.signals import Parameter
from quantflow.testing.signals import bars_of, random_walk, trend

BARS = bars_of({"A": random_walk(80, seed=1), "B": random_walk(80, seed=2)})


@pytest.mark.parametrize(
    ("parameter", "widget"),
    [
        (Parameter("flag", "bool", True), ipywidgets.Checkbox),
        (Parameter("window", "int", 5, low=1, high=500), ipywidgets.IntSlider),
        (Parameter("window", "int", 5, low=1, high=600_000), ipywidgets.BoundedIntText),
        (Parameter("window", "int", 5, low=1), ipywidgets.IntText),
        (Parameter("size", "float", 0.5, low=0.0, high=1.0), ipywidgets.FloatSlider),
        (Parameter("size", "float", 0.5), ipywidgets.FloatText),
    ],
)
def test_each_type_and_range_has_its_control(parameter, widget):
    control = _control(parameter)
    assert type(control) is widget
    assert control.value == parameter.default
    assert control.description == parameter.name


def test_a_slider_moves_in_a_hundred_steps_or_more():
    for low, high in ((0.0, 1.0), (0.001, 5.0), (0.0, 250.0)):
        assert 100 <= (high - low) / _step(low, high) <= 260


def test_the_backtest_follows_the_controls():
    shown = explore(trend, BARS, fill="next_close", fee_bps=1.0)
    assert shown.values == {name: parameter.default for name, parameter in trend.parameters.items()}
    before = shown.result
    shown.controls["lookback"].value = 12
    expected = backtest(trend.bind(lookback=12), BARS, fill="next_close", fee_bps=1.0)
    assert shown.result.equity.equals(expected.equity)
    assert not shown.result.equity.equals(before.equity)


def test_what_cannot_be_explored_is_refused():
    with pytest.raises(SignalError, match="no parameters to explore"):
        explore(trend.bind(), BARS)
    with pytest.raises(MissingColumnError, match="open"):
        explore(trend, BARS, fill="next_open")
