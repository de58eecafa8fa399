'''Signals in columns: a Polars expression, or a function of a frame, that runs live as well.

A quant who thinks in columns writes an expression and sees its whole history at once::

    @column_signal(window="lookback", columns=("close",))
    def reversal(lookback=param(20, low=2, high=500, doc="bars")):
        """Against the deviation from the mean, in standard deviations."""
        close = pl.col("close")
        deviation = (close - close.rolling_mean(lookback)) / close.rolling_std(lookback)
        return (-deviation / 2.0).clip(-1.0, 1.0)

What it *means* is its newest answer over the last ``window`` bars, at each bar. That is what
``advance``, ``step`` and ``evaluate`` compute, hence the backtest and the live consumer: an
expression that looks ahead has nothing to look at there. ``bind(whole_frame=True)`` evaluates
each symbol's whole history at once instead, as a research notebook does; it is many times
faster, and 16 bars of each evaluation are held against the definition. Whether the two agree
everywhere is what :func:`quantflow.signals.check_causality` tells, and promotion asks it.

Rules:

* The expression sees the declared columns, as float64, and nothing else.
* Before ``window`` bars have been seen the exposure is 0.0: the warm-up is ``window - 1``.
  Afterwards null, NaN or infinity is an error that names the bar.
* ``True`` and ``False`` count as 1.0 and 0.0.
* A function whose first argument has no default is called with each window's frame and may
  answer a series or an expression. It can do anything and is slow, about 0.2 ms a bar; an
  expression takes microseconds.
* An expression without parameters needs no function:
  ``fade = column_signal(window=20, name="fade")(1.0 - pl.col("close") / pl.col("close").mean())``.
'''

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import SignalError
from quantflow.signals._definition import read_parameters
from quantflow.signals._history import Floats, HistoryDecider, Label, ordered_bars, shifted
from quantflow.signals._identity import identity_of
from quantflow.signals._parameters import Value, check_values
from quantflow.signals._signal import _checked_columns
from quantflow.signals._windows import Answers, ExpressionAnswers, FunctionAnswers

__all__ = ["BoundColumnSignal", "ColumnSignal", "column_signal"]

Bounds = npt.NDArray[np.int64]
Window = int | str | Callable[..., int]

_SAMPLED = 16
_AGREEMENT = 1e-9
_HINT = (
    "the declared window may be shorter than what the expression needs, or it looks ahead: at the newest bar there "
    "is nothing after it"
)


def column_signal(
    *, window: Window, columns: Sequence[str] = ("close",), name: str | None = None
) -> Callable[[Callable[..., Any] | pl.Expr], ColumnSignal]:
    """Make a signal of a Polars expression, or of a function that answers an expression or series.

    Parameters
    ----------
    window
        How many bars it needs, the current one included: a number, the name of one of its
        parameters, or a function of its parameters (``lambda lookback: lookback + 1``).
    columns
        The bar columns that it reads.
    name
        Its name; the function's by default. An expression needs one.

    Raises
    ------
    SignalError
        The function's arguments are not an optional frame followed by parameters, or the
        window does not follow from them.
    """

    def decorate(definition: Callable[..., Any] | pl.Expr) -> ColumnSignal:
        return ColumnSignal(definition, window=window, columns=columns, name=name)

    return decorate


class ColumnSignal:
    """A column signal's definition: bind parameter values to use it.

    Attributes
    ----------
    name
        Its name.
    definition
        The plain function.
    columns
        The bar columns that it reads.
    parameters
        Declared parameters by name, in order.
    """

    kind: Literal["exposure"] = "exposure"

    def __init__(
        self,
        definition: Callable[..., Any] | pl.Expr,
        *,
        window: Window,
        columns: Sequence[str] = ("close",),
        name: str | None = None,
    ) -> None:
        if isinstance(definition, pl.Expr):
            if name is None:
                raise SignalError(
                    "a column signal of an expression has no name; give it: column_signal(..., name='fade')"
                )
            definition = _answering(definition)
        self.name = name or str(getattr(definition, "__name__", definition))
        owner = f"column signal {self.name!r}"
        leading, self.parameters = read_parameters(owner, definition, reserved=("whole_frame",))
        if len(leading) > 1:
            raise SignalError(
                f"{owner}: arguments {', '.join(leading)} declare nothing; allowed: at most one before the "
                "parameters, the frame, and parameters as lookback=param(20)"
            )
        self.definition = definition
        self.columns = _checked_columns(self.name, columns)
        self.takes_frame = bool(leading)
        self.window = window
        self._window_arguments = _window_arguments(owner, window, self.parameters)
        self.__name__ = self.name
        self.__doc__ = definition.__doc__
        self.__module__ = definition.__module__

    def __repr__(self) -> str:
        return f"<column signal {self.name}({', '.join(self.parameters)}) on {', '.join(self.columns)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again where it arrives: what is derived from the definition does not travel.
        return partial(ColumnSignal, window=self.window, columns=self.columns, name=self.name), (self.definition,)

    def bind(self, *, whole_frame: bool = False, **values: Value) -> BoundColumnSignal:
        """Return the signal with these parameter values, defaults for the others.

        Parameters
        ----------
        whole_frame
            ``evaluate`` and ``exposures`` see each symbol's whole history at once: fast, for
            research, and able to look ahead. ``advance`` and ``step`` follow the definition
            in any case.

        Raises
        ------
        ParameterError
            Names every parameter that is unknown, mistyped or out of range.
        SignalError
            The window is no whole number of at least 1, or the definition answers no
            expression over the declared columns.
        """
        checked = check_values(f"column signal {self.name!r}", self.parameters, values)
        return BoundColumnSignal(self, checked, whole_frame=whole_frame)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the code that decides: the function, what it reaches, and Polars' version."""
        return identity_of(self.definition, self.window, self.columns, pl.Expr)

    def _window_of(self, values: Mapping[str, Value]) -> int:
        if callable(self.window):
            found: Any = self.window(**{name: values[name] for name in self._window_arguments})
        else:
            found = values[self.window] if isinstance(self.window, str) else self.window
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise SignalError(f"column signal {self.name!r}: its window is {found!r}; allowed: a whole number of bars")
        return found

    def _answers(self, values: Mapping[str, Value], window: int) -> Answers:
        owner = f"column signal {self.name!r}"
        if self.takes_frame:
            return FunctionAnswers(owner, self.definition, values, self.columns, window)
        try:
            expression = self.definition(**values)
        except Exception as exc:
            raise SignalError(f"{owner} raised {type(exc).__name__} for {dict(values)}: {exc}") from exc
        if not isinstance(expression, pl.Expr):
            raise SignalError(
                f"{owner} answered a {type(expression).__name__}; allowed: a Polars expression. A function of a frame "
                "takes it as its first argument"
            )
        return ExpressionAnswers(owner, expression, self.columns, window)


class BoundColumnSignal(HistoryDecider):
    """A column signal with parameter values; a :class:`Decider`. Made by :meth:`ColumnSignal.bind`.

    Its state is the number of bars seen and the last ``window - 1`` bars. An exposure that is
    computed again, in other company or in another life, agrees to 1e-9.
    """

    def __init__(self, signal: ColumnSignal, values: Mapping[str, Value], *, whole_frame: bool = False) -> None:
        self.signal = signal
        self.window = signal._window_of(values)
        self.whole_frame = whole_frame
        self._answers = signal._answers(values, self.window)
        kept = self.window - 1
        initial = np.zeros(1 + kept * len(signal.columns))
        super().__init__(signal.name, signal.columns, values, warm_up=kept, initial=initial)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the code that decides."""
        return self.signal.fingerprint

    def at_once(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return :meth:`evaluate`'s frame with each symbol's whole history seen at once, unchecked.

        An answer may have looked ahead; null or NaN answers, also after the warm-up, are NaN.
        """
        keys, matrix, bounds, label = ordered_bars(self.name, self.columns, bars)
        return keys.with_columns(pl.Series("exposure", self._whole(matrix, bounds, label)))

    def defined(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return :meth:`evaluate`'s frame by the definition, NaN where it has no answer."""
        keys, matrix, bounds, label = ordered_bars(self.name, self.columns, bars)
        states = np.tile(self._initial, (len(bounds) - 1, 1))
        return keys.with_columns(pl.Series("exposure", self._windowed(states, bounds, matrix, label)[0]))

    def advance(self, states: Floats, bounds: Bounds, columns: Floats, *, label: Label | None = None) -> Floats:
        name_row = label or "row {}".format
        exposures, histories = self._windowed(states, bounds, columns, name_row)
        self._refuse_unanswered(exposures, name_row, _HINT)
        kept = self.window - 1
        for state, history, first, last in zip(states, histories, bounds[:-1], bounds[1:], strict=True):
            state[0] += last - first
            held = min(kept, history.shape[1])
            if held:
                state[1:].reshape(len(self.columns), kept)[:, kept - held :] = history[:, -held:]
        return exposures

    advance.__doc__ = HistoryDecider.advance.__doc__

    def _from_first_bar(self, matrix: Floats, bounds: Bounds, label: Label) -> Floats:
        if not self.whole_frame:
            return super()._from_first_bar(matrix, bounds, label)
        exposures = self._whole(matrix, bounds, label)
        self._refuse_unanswered(exposures, label, _HINT)
        self._sample(exposures, matrix, bounds, label)
        return exposures

    def _whole(self, matrix: Floats, bounds: Bounds, label: Label) -> Floats:
        exposures = np.zeros(matrix.shape[1])
        for first, last in pairwise(bounds.tolist()):
            if last - first <= self.warm_up:
                continue
            answers = self._answers.at_once(matrix[:, first:last], shifted(label, first))
            exposures[first + self.warm_up : last] = answers[self.warm_up :]
        return exposures

    def _windowed(
        self, states: Floats, bounds: Bounds, columns: Floats, label: Label
    ) -> tuple[Floats, list[npt.NDArray[np.float64]]]:
        """Return the newest answer of each bar's window, and each symbol's known bars, new ones last."""
        kept = self.window - 1
        histories, ends, rows, held_before = [], [], [], 0
        for state, first, last in zip(states, bounds[:-1], bounds[1:], strict=True):
            seen = int(state[0])
            held = min(kept, seen)
            ring = state[1:].reshape(len(self.columns), kept)[:, kept - held :]
            histories.append(np.hstack([ring, columns[:, first:last]]))
            # From the first bar whose window is full.
            decided = np.arange(first + max(0, self.warm_up - seen), last)
            rows.append(decided)
            ends.append(held_before + held + decided - first)
            held_before += histories[-1].shape[1]
        exposures = np.zeros(columns.shape[1])
        if rows:
            decided = np.concatenate(rows).astype(np.int64)
            series = np.hstack(histories)
            at = np.concatenate(ends).astype(np.int64)
            exposures[decided] = self._answers.newest(series, at, lambda index: label(int(decided[index])))
        return exposures, histories

    def _sample(self, exposures: Floats, matrix: Floats, bounds: Bounds, label: Label) -> None:
        """Refuse answers that differ from the definition at some bars, evenly spread."""
        full = [np.arange(first + self.warm_up, last) for first, last in pairwise(bounds)]
        rows = np.concatenate([*full, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        if not len(rows):
            return
        taken = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLED).astype(np.int64))]
        expected = self._answers.newest(matrix, taken, lambda index: label(int(taken[index])))
        apart = ~np.isclose(exposures[taken], expected, rtol=_AGREEMENT, atol=_AGREEMENT)
        if apart.any():
            at = int(np.argmax(apart))
            raise SignalError(
                f"{self.name}, evaluated over the whole frame, answers {float(exposures[taken[at]])!r} at "
                f"{label(int(taken[at]))}; over the {self.window} bars known then it answers {float(expected[at])!r}: "
                "it looks ahead, or needs a longer window. bind() without whole_frame follows the definition; "
                "check_causality(signal, bars) tells more"
            )


def _answering(expression: pl.Expr) -> Callable[[], pl.Expr]:
    def answer() -> pl.Expr:
        return expression

    return answer


def _window_arguments(owner: str, window: Window, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    wanted: tuple[str, ...] = ()
    if callable(window):
        wanted = tuple(inspect.signature(window).parameters)
    elif isinstance(window, str):
        wanted = (window,)
    unknown = [name for name in wanted if name not in parameters]
    if unknown:
        raise SignalError(
            f"{owner}: its window names {', '.join(unknown)}; its parameters are: {', '.join(parameters) or 'none'}"
        )
    return wanted
