"""A backtest to play with: one control a parameter, read from the signal itself."""

from __future__ import annotations

from typing import Any

import ipywidgets
import polars as pl
from IPython.display import clear_output, display

from quantflow.backtest import BacktestResult, backtest
from quantflow.backtest.figures import equity_figure
from quantflow.errors import QuantflowError, SignalError
from quantflow.signals import Definition, Parameter, is_definition

__all__ = ["Explorer", "explore"]

#: A slider over more steps than this cannot be aimed with a mouse: a number is typed instead.
_MOST_STEPS = 2000

_SHOWN = ("total_return", "cagr", "volatility", "sharpe_ratio", "max_drawdown", "turnover", "cost")


def explore(signal: Definition, bars: pl.DataFrame, **options: Any) -> Explorer:
    """Return controls for a signal's parameters above its backtest, which follows them.

    Parameters
    ----------
    signal
        A definition that is not bound: its parameters' types, ranges, defaults and words make the
        controls.
    bars
        Canonical frame, as for :func:`quantflow.backtest.backtest`.
    options
        Keywords of :func:`~quantflow.backtest.backtest`: fill, costs, stops.

    Returns
    -------
    Explorer
        A widget; ``result`` is the backtest that is shown, ``values`` what it is bound to.

    Raises
    ------
    SignalError
        It is not a definition with parameters.
    QuantflowError
        The first backtest, with the defaults, fails; later failures are shown below the controls.
    """
    if not is_definition(signal) or not signal.parameters:
        raise SignalError(f"{signal!r} has no parameters to explore; allowed: a definition, not bound, that has some")
    return Explorer(signal, bars, options)


class Explorer(ipywidgets.VBox):  # type: ignore[misc]
    """Controls above a backtest; made by :func:`explore`."""

    def __init__(self, signal: Definition, bars: pl.DataFrame, options: dict[str, Any]) -> None:
        self._signal, self._bars, self._options = signal, bars, options
        self.controls = {name: _control(parameter) for name, parameter in signal.parameters.items()}
        self.result = self._run()
        self._output = ipywidgets.Output()
        for control in self.controls.values():
            control.observe(self._follow, names="value")
        super().__init__([*self.controls.values(), self._output])
        self._show()

    @property
    def values(self) -> dict[str, Any]:
        """What the controls say, by parameter."""
        return {name: control.value for name, control in self.controls.items()}

    def _run(self) -> BacktestResult:
        return backtest(self._signal.bind(**self.values), self._bars, **self._options)

    def _follow(self, change: object) -> None:
        try:
            self.result = self._run()
        except QuantflowError as exc:
            with self._output:
                _replace(ipywidgets.Label(str(exc)))
            return
        self._show()

    def _show(self) -> None:
        figures = {name: [round(self.result.metrics[name], 4)] for name in _SHOWN}
        with self._output:
            _replace(equity_figure(self.result.equity), pl.DataFrame(figures))


def _replace(*shown: object) -> None:
    clear_output(wait=True)  # type: ignore[no-untyped-call]
    display(*shown)  # type: ignore[no-untyped-call]


def _control(parameter: Parameter) -> ipywidgets.Widget:
    """Return a checkbox, a slider where the range is short enough for one, or a box to type in."""
    low, high = parameter.low, parameter.high
    words = {"description": parameter.name, "tooltip": f"{parameter.doc} ({parameter.allowed})".strip()}
    if parameter.kind == "bool":
        return ipywidgets.Checkbox(value=bool(parameter.default), **words)
    # Moving on while the mouse still does would run a backtest a pixel.
    given = {"value": parameter.default, "continuous_update": False, **words}
    if low is None or high is None:
        return (ipywidgets.IntText if parameter.kind == "int" else ipywidgets.FloatText)(**given)
    given |= {"min": low, "max": high}
    if parameter.kind == "float":
        return ipywidgets.FloatSlider(**given, step=_step(low, high), readout_format=".4g")
    given |= {"min": int(low), "max": int(high)}
    return (ipywidgets.IntSlider if high - low <= _MOST_STEPS else ipywidgets.BoundedIntText)(**given)


def _step(low: float, high: float) -> float:
    """Return the largest of 1, 0.5, 0.2, 0.1, ... that divides the range into a hundred steps or more."""
    step = 1.0
    for factor in (2.0, 2.5, 2.0) * 6:
        if (high - low) / step >= 100:
            break
        step /= factor
    return step
