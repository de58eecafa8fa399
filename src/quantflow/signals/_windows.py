"""The newest answer of an expression or function over many windows of bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import SignalError
from quantflow.signals._history import Floats, Label, shifted
from quantflow.signals._parameters import Value

__all__ = ["Answers", "ExpressionAnswers", "FunctionAnswers"]

Rows = npt.NDArray[np.int64]

#: Bars in memory at once while windows are laid side by side: 8 MB a column.
_CHUNK_ROWS = 1 << 20
_SAME = 1e-12
#: Not a name that a bar column or an expression could have by accident.
_WINDOW = "window of quantflow"


class Answers(Protocol):
    """How a column signal is computed, once per window or over a whole history at once."""

    def newest(self, series: Floats, ends: Rows, label: Label) -> Floats:
        """Return the newest answer of each window of bars; NaN where there is none.

        Parameters
        ----------
        series
            float64[K, n], bars by column.
        ends
            The last bar of each window, a position in ``series``.
        label
            Names the window of a position in ``ends``.
        """
        ...

    def at_once(self, series: Floats, label: Label) -> Floats:
        """Return the answer at every bar of one history, seen whole; NaN where there is none."""
        ...


class ExpressionAnswers:
    """An expression: Polars evaluates many windows in one call, as groups.

    Parameters
    ----------
    window
        Bars in a window.
    """

    def __init__(self, owner: str, expression: pl.Expr, columns: Sequence[str], window: int) -> None:
        self._owner = owner
        self._columns = tuple(columns)
        self._window = window
        _refuse_unusable(owner, expression, columns)
        self._answer = expression.cast(pl.Float64).alias("answer")
        self._grouped: bool | None = None

    def newest(self, series: Floats, ends: Rows, label: Label) -> Floats:
        if self._grouped is None and len(ends):
            self._grouped = self._groups_agree(series, ends)
        if not self._grouped:
            return np.array([self._single(series, end, label, index) for index, end in enumerate(ends)])
        answers = np.empty(len(ends))
        step = max(1, _CHUNK_ROWS // self._window)
        for first in range(0, len(ends), step):
            chunk = ends[first : first + step]
            try:
                answers[first : first + step] = self._in_groups(series, chunk)
            except Exception:  # noqa: BLE001 - raised again below: one window at a time names the bar
                found = [self._single(series, end, label, first + index) for index, end in enumerate(chunk)]
                answers[first : first + step] = found
        return answers

    def at_once(self, series: Floats, label: Label) -> Floats:
        frame = _frame(series, self._columns)
        try:
            answers = frame.select(self._answer)["answer"]
        except Exception as exc:  # whatever the user's expression raises, Python functions in it included
            raise SignalError(f"{self._owner}: the expression raised {type(exc).__name__}: {exc}") from exc
        if len(answers) == 1:  # an aggregate, or a constant: the same at every bar
            answers = pl.repeat(answers[0], frame.height, dtype=pl.Float64, eager=True)
        return _numbers(self._owner, answers, frame.height, label)

    def _in_groups(self, series: Floats, ends: Rows) -> Floats:
        window = self._window
        taken = (ends[:, None] + np.arange(1 - window, 1)).ravel()
        groups = pl.Series(_WINDOW, np.repeat(np.arange(len(ends)), window)).set_sorted()
        frame = _frame(series[:, taken], self._columns).with_columns(groups)
        answers = frame.group_by(_WINDOW, maintain_order=True).agg(self._answer.last())["answer"]
        return answers.to_numpy().astype(np.float64)

    def _single(self, series: Floats, end: int, label: Label, index: int) -> float:
        frame = _frame(series[:, end - self._window + 1 : end + 1], self._columns)
        try:
            answer = frame.select(self._answer.last())["answer"][-1]
        except Exception as exc:
            raise _raised(self._owner, exc, label(index)) from exc
        return np.nan if answer is None else float(answer)

    def _groups_agree(self, series: Floats, ends: Rows) -> bool:
        """Tell whether Polars gives groups what it gives single frames; Python functions may see groups differently."""
        sample = ends[np.unique([0, len(ends) // 2, len(ends) - 1])]
        try:
            grouped = self._in_groups(series, sample)
        except Exception:  # noqa: BLE001 - single windows decide, and raise with their bar named
            return False
        single = [self._single(series, end, lambda _: "a sampled bar", 0) for end in sample]
        return bool(np.allclose(grouped, single, rtol=_SAME, atol=_SAME, equal_nan=True))


class FunctionAnswers:
    """A function of a frame: called with each window."""

    def __init__(
        self,
        owner: str,
        definition: Callable[..., Any],
        values: Mapping[str, Value],
        columns: Sequence[str],
        window: int,
    ) -> None:
        self._owner = owner
        self._definition = definition
        self._values = dict(values)
        self._columns = tuple(columns)
        self._window = window

    def newest(self, series: Floats, ends: Rows, label: Label) -> Floats:
        frame = _frame(series, self._columns)
        answers = np.empty(len(ends))
        for index, end in enumerate(ends):
            window = frame.slice(int(end) - self._window + 1, self._window)
            answers[index] = self._answer(window, shifted(label, index + 1 - self._window))[-1]
        return answers

    def at_once(self, series: Floats, label: Label) -> Floats:
        return self._answer(_frame(series, self._columns), label)

    def _answer(self, frame: pl.DataFrame, label: Label) -> Floats:
        newest = frame.height - 1
        try:
            answer = self._definition(frame, **self._values)
            if isinstance(answer, pl.Expr):
                answer = frame.select(answer.alias("answer"))["answer"]
        except Exception as exc:
            raise _raised(self._owner, exc, label(newest)) from exc
        if not isinstance(answer, pl.Series):
            raise SignalError(
                f"{self._owner} answered a {type(answer).__name__} at {label(newest)}; allowed: a Polars series as "
                "long as the frame, or an expression"
            )
        return _numbers(self._owner, answer, frame.height, label)


def _frame(series: Floats, columns: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({name: np.ascontiguousarray(values) for name, values in zip(columns, series, strict=True)})


def _numbers(owner: str, answers: pl.Series, height: int, label: Label) -> Floats:
    if len(answers) != height:
        raise SignalError(
            f"{owner} answered {len(answers)} values for {height} bars, the newest {label(height - 1)}; "
            "allowed: one for each bar"
        )
    if not _is_number(answers.dtype):
        raise SignalError(f"{owner} answered {answers.dtype}; allowed: numbers, or booleans for 1.0 and 0.0")
    numbers: Floats = answers.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
    return numbers


def _is_number(kind: pl.DataType) -> bool:
    # Polars does not know what a Python function inside an expression returns.
    return kind.is_numeric() or kind in (pl.Boolean, pl.Null, pl.Unknown)


def _raised(owner: str, exc: Exception, where: str) -> SignalError:
    return SignalError(f"{owner} raised {type(exc).__name__} at {where}: {exc}")


def _refuse_unusable(owner: str, expression: pl.Expr, columns: Sequence[str]) -> None:
    other = sorted(set(expression.meta.root_names()) - set(columns))
    if other:
        raise SignalError(
            f"{owner}: its expression reads {', '.join(map(repr, other))}; declared: {', '.join(columns)}. "
            "Declare others with column_signal(columns=(...))"
        )
    bars = pl.LazyFrame(schema=dict.fromkeys(columns, pl.Float64))
    try:
        answers = bars.select(expression).collect_schema()
    except pl.exceptions.PolarsError as exc:
        raise SignalError(f"{owner}: Polars refuses its expression: {exc}") from exc
    if len(answers) != 1 or not _is_number(answers.dtypes()[0]):
        raise SignalError(
            f"{owner}: its expression gives {dict(answers)}; allowed: one column of numbers, or of booleans for 1.0 "
            "and 0.0"
        )
