"""A part of a grid, taken apart into what signals and executions each need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantflow.backtest._grid import Axis, Grid, Scalar
from quantflow.backtest._options import Execution, execution_of
from quantflow.errors import ParameterError, SignalError

__all__ = ["Block", "Combinations", "Use", "executions_of", "in_parts"]

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Use:
    """Exposures of a block that one execution trades.

    Attributes
    ----------
    execution
        Number of the execution.
    rows
        Which rows of the block; None for all of them, in order.
    combinations
        Which combinations of the part they are.
    """

    execution: int
    rows: Integers | None
    combinations: Integers


@dataclass(frozen=True)
class Block:
    """Signals ``first <= i < last`` of a part: few enough that their exposures stay in the cache."""

    first: int
    last: int
    uses: tuple[Use, ...]

    def trades(self) -> list[tuple[int, int, int]]:
        """Return (row of the block, execution, combination of the part) of all uses, by row."""
        whole = np.arange(self.last - self.first)
        found = [
            (row, use.execution, combination)
            for use in self.uses
            for row, combination in zip(
                (whole if use.rows is None else use.rows).tolist(), use.combinations.tolist(), strict=True
            )
        ]
        return sorted(found)


class Combinations:
    """The combinations ``first <= i < last`` of a grid, as distinct signals and distinct executions.

    Many combinations share a signal and differ in stops or costs only: its exposures are computed once.

    Attributes
    ----------
    count
        Number of combinations.
    signals
        Number of distinct values of the signal's parameters.
    executions
        Distinct executions.
    periods_per_year
        float64[count], as each combination's execution says.
    """

    def __init__(self, grid: Grid, first: int, last: int, fixed: Mapping[str, Any]) -> None:
        self.grid = grid
        self.first = first
        self.count = last - first
        codes = grid.codes(first, last)
        self._axes = [axis for axis in grid.axes if not axis.execution]
        traded = [axis for axis in grid.axes if axis.execution]
        firsts, self.signal_of = _distinct(self._axes, codes, self.count)
        self._codes = {axis.name: codes[axis.name][firsts] for axis in self._axes}
        self.signals = len(firsts)
        chosen, self.execution_of = _distinct(traded, codes, self.count)
        self.executions = [
            _execution(fixed, {axis.name: axis.values[codes[axis.name][index]] for axis in traded}) for index in chosen
        ]
        years = np.array([execution.periods_per_year for execution in self.executions])
        self.periods_per_year = years[self.execution_of]

    def values(self) -> dict[str, npt.NDArray[Any]]:
        """Return each parameter's values, one a distinct signal."""
        return {axis.name: axis.series.gather(self._codes[axis.name]).to_numpy() for axis in self._axes}

    def value(self, signal: int) -> dict[str, Scalar]:
        """Return the values of one distinct signal."""
        return {axis.name: axis.values[int(self._codes[axis.name][signal])] for axis in self._axes}

    def blocks(self, size: int, first: int = 0, last: int | None = None) -> Iterator[Block]:
        """Yield the signals ``first <= i < last``, ``size`` at a time."""
        last = self.signals if last is None else last
        order = np.argsort(self.signal_of, kind="stable")
        ordered = self.signal_of[order]
        for begin in range(first, last, size):
            end = min(begin + size, last)
            members = order[np.searchsorted(ordered, begin) : np.searchsorted(ordered, end)]
            yield Block(begin, end, tuple(self._uses(begin, end, members)))

    def _uses(self, begin: int, end: int, members: Integers) -> Iterator[Use]:
        whole = np.arange(end - begin)
        for execution in np.unique(self.execution_of[members]):
            combinations = members[self.execution_of[members] == execution]
            rows = self.signal_of[combinations] - begin
            yield Use(int(execution), None if np.array_equal(rows, whole) else rows, combinations)


def _distinct(axes: Sequence[Axis], codes: Mapping[str, Integers], count: int) -> tuple[Integers, Integers]:
    """Return where each distinct choice on these axes occurs first, in grid order, and each one's number."""
    numbers = np.zeros(count, dtype=np.int64)
    for axis in axes:
        numbers = numbers * len(axis.values) + codes[axis.name]
    _, firsts, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return firsts, inverse


def _execution(fixed: Mapping[str, Any], swept: Mapping[str, Scalar]) -> Execution:
    try:
        return execution_of({**fixed, **swept})
    except SignalError as exc:
        if not swept:
            raise
        values = ", ".join(f"{name}={value!r}" for name, value in swept.items())
        raise ParameterError(f"grid: {exc} (combination with {values})") from exc


def executions_of(grid: Grid, fixed: Mapping[str, Any]) -> Iterator[Execution]:
    """Yield executions in which each value of each swept option occurs at least once.

    Options are checked one by one, so what these accept and need, all combinations do.

    Raises
    ------
    ParameterError
        An option's value is out of range.
    """
    swept = {axis.name: grid.values_used(axis.name) for axis in grid.axes if axis.execution}
    first = {name: values[0] for name, values in swept.items()}
    yield _execution(fixed, first)
    for name, values in swept.items():
        for value in values[1:]:
            yield _execution(fixed, {**first, name: value})


def in_parts(count: int, size: int, wanted: int) -> list[tuple[int, int]]:
    """Return about ``wanted`` ranges of ``0 <= i < count``, each of whole blocks of ``size``."""
    blocks = -(-count // size)
    step = max(1, -(-blocks // max(1, wanted))) * size
    return [(first, min(first + step, count)) for first in range(0, count, step)]
