"""Parameter combinations: the grid's order, and which of them a condition keeps.

Combinations are numbered like nested loops over the grid, the last name fastest, and never listed
before they are needed: a part of the grid is a range of numbers.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import ParameterError
from quantflow.signals import Parameter

__all__ = ["Axis", "Condition", "Grid", "GridValues", "Scalar", "make_grid"]

Scalar = bool | int | float | str | None
GridValues = Mapping[str, Any]
Condition = Callable[..., Any] | pl.Expr
Integers = npt.NDArray[np.int64]

# Candidates that a condition looks at in one go: a few megabytes.
_STRIDE = 1 << 17
# Beyond it int64 cannot number the combinations.
_MOST = 1 << 62


@dataclass(frozen=True)
class Axis:
    """One swept name with its values, in the order given; ``execution`` says it is not the signal's."""

    name: str
    values: tuple[Scalar, ...]
    execution: bool = False

    @cached_property
    def series(self) -> pl.Series:
        """The values as a column."""
        return pl.Series(self.name, self.values)


@dataclass(frozen=True)
class Grid:
    """Combinations of the axes' values, in grid order.

    ``numbers`` holds the numbers of those that are kept, ascending; None stands for all.
    """

    axes: tuple[Axis, ...]
    numbers: Integers | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of combinations before a condition or a search chose among them."""
        return math.prod(len(axis.values) for axis in self.axes)

    @property
    def count(self) -> int:
        """Number of combinations."""
        return self.size if self.numbers is None else len(self.numbers)

    @property
    def names(self) -> tuple[str, ...]:
        """The swept names, in grid order."""
        return tuple(axis.name for axis in self.axes)

    def codes(self, first: int, last: int) -> dict[str, Integers]:
        """Return each axis' value numbers for the combinations ``first <= i < last``."""
        numbers = np.arange(first, last) if self.numbers is None else self.numbers[first:last]
        return self._codes_of(numbers)

    def columns(self, first: int, last: int) -> dict[str, pl.Series]:
        """Return the values of the combinations ``first <= i < last``, a series an axis."""
        return self._columns_of(self.codes(first, last))

    def combination(self, index: int) -> dict[str, Scalar]:
        """Return one combination's values by name."""
        codes = self.codes(index, index + 1)
        return {axis.name: axis.values[int(codes[axis.name][0])] for axis in self.axes}

    def values_used(self, name: str) -> tuple[Scalar, ...]:
        """Return those of an axis' values that occur in any combination."""
        axis = next(axis for axis in self.axes if axis.name == name)
        if self.numbers is None:
            return axis.values
        used = np.zeros(len(axis.values), dtype=np.bool_)
        for numbers in self._in_strides():
            used[self._codes_of(numbers)[name]] = True
        return tuple(value for value, seen in zip(axis.values, used.tolist(), strict=True) if seen)

    def take(self, positions: Integers) -> Grid:
        """Return the combinations at these positions, in grid order."""
        chosen = np.sort(np.asarray(positions, dtype=np.int64))
        return replace(self, numbers=chosen if self.numbers is None else self.numbers[chosen])

    def kept_by(self, condition: Condition, *, at_most: int) -> Grid:
        """Return the combinations that the condition keeps.

        It stops looking, with more than ``at_most`` of them, as soon as there are too many.
        """
        kept: list[Integers] = []
        found = 0
        for numbers in self._in_strides():
            kept.append(numbers[self._mask(condition, numbers)])
            found += len(kept[-1])
            if found > at_most:
                break
        return replace(self, numbers=np.concatenate(kept) if kept else np.empty(0, dtype=np.int64))

    def sample(self, count: int, seed: int, condition: Condition | None) -> Grid:
        """Return ``count`` distinct combinations drawn uniformly among those that the condition keeps.

        All of them when there are not more. The same seed gives the same combinations.

        Raises
        ------
        ParameterError
            The condition keeps so few of a grid that is too large to list that drawing finds none.
        """
        generator = np.random.default_rng(seed)
        if self.count <= max(_STRIDE, 4 * count):
            kept = self if condition is None else self.kept_by(condition, at_most=self.count)
            chosen = generator.choice(kept.count, size=min(count, kept.count), replace=False)
            return kept.take(chosen)
        drawn: dict[int, None] = {}
        for _ in range(200):
            positions = generator.integers(0, self.count, size=max(1024, 2 * count), dtype=np.int64)
            numbers = positions if self.numbers is None else self.numbers[positions]
            if condition is not None:
                numbers = numbers[self._mask(condition, numbers)]
            drawn.update(dict.fromkeys(numbers.tolist()))
            if len(drawn) >= count:
                return replace(self, numbers=np.sort(np.array(list(drawn)[:count], dtype=np.int64)))
        raise ParameterError(
            f"where keeps so few of {self.count:,} combinations that only {len(drawn)} of the {count} asked for were "
            "found; make the grid smaller, so that it can be searched whole"
        )

    def identity(self) -> dict[str, Any]:
        """Return what tells this grid from others, for a store."""
        numbers = "all" if self.numbers is None else hashlib.sha256(self.numbers.astype("<i8").tobytes()).hexdigest()
        return {"axes": {axis.name: [repr(value) for value in axis.values] for axis in self.axes}, "numbers": numbers}

    def _in_strides(self) -> Iterator[Integers]:
        for first in range(0, self.count, _STRIDE):
            last = min(first + _STRIDE, self.count)
            yield np.arange(first, last) if self.numbers is None else self.numbers[first:last]

    def _codes_of(self, numbers: Integers) -> dict[str, Integers]:
        codes: dict[str, Integers] = {}
        rest = numbers
        for axis in reversed(self.axes):
            rest, codes[axis.name] = np.divmod(rest, len(axis.values))
        return {axis.name: codes[axis.name] for axis in self.axes}

    def _columns_of(self, codes: Mapping[str, Integers]) -> dict[str, pl.Series]:
        return {axis.name: axis.series.gather(codes[axis.name]) for axis in self.axes}

    def _mask(self, condition: Condition, numbers: Integers) -> npt.NDArray[np.bool_]:
        columns = self._columns_of(self._codes_of(numbers))
        if isinstance(condition, pl.Expr):
            return _mask_of_expression(condition, pl.DataFrame(list(columns.values())), self.names)
        return _mask_of_function(condition, columns, len(numbers))


def make_grid(
    grid: GridValues, *, owner: str, parameters: Mapping[str, Parameter] | None, options: Collection[str]
) -> Grid:
    """Return the grid of these values, each checked.

    Parameters
    ----------
    grid
        Values by name: a sequence, range, array or series, or a single value.
    owner
        The signal's name, for messages.
    parameters
        The signal's parameters; None when it declares none and takes what it is given.
    options
        Names of execution options; a parameter of the signal of the same name goes first.

    Raises
    ------
    ParameterError
        Names every unknown name, empty axis, repeated value, and value of a wrong type or out of range.
    """
    if not isinstance(grid, Mapping):
        raise ParameterError(
            f'grid of {owner} is a {type(grid).__name__}; allowed: values by name, {{"window": [10, 20]}}; '
            "where= leaves out combinations"
        )
    axes: list[Axis] = []
    problems: list[str] = []
    for name, given in grid.items():
        try:
            axes.append(_axis(name, given, owner, parameters, options))
        except ParameterError as exc:
            problems.append(str(exc))
    if problems:
        raise ParameterError(f"grid of {owner}: " + "; ".join(problems))
    made = Grid(tuple(axes))
    if made.size > _MOST:
        raise ParameterError(
            f"grid of {owner}: {made.size:.3g} combinations cannot even be numbered; take fewer values"
        )
    return made


def _axis(
    name: str, given: Any, owner: str, parameters: Mapping[str, Parameter] | None, options: Collection[str]
) -> Axis:
    declared = None if parameters is None else parameters.get(name)
    execution = declared is None and name in options
    if parameters is not None and declared is None and not execution:
        raise ParameterError(
            f"unknown name {name!r}; {owner} has the parameters {', '.join(parameters) or '(none)'}, and "
            f"execution options are {', '.join(sorted(options))}"
        )
    values = [_plain(value) for value in _listed(given)]
    if not values:
        raise ParameterError(f"{name!r} has no values; give at least one")
    strange = [value for value in values if not isinstance(value, bool | int | float | str | None)]
    if strange:
        raise ParameterError(
            f"{name!r} has the value {strange[0]!r}; a grid takes numbers, true or false, text and None"
        )
    if declared is not None:
        values = [declared.check(value) for value in values]
    elif len({type(value) for value in values} - {type(None)}) > 1:
        values = [float(value) if type(value) is int else value for value in values]
    if len(set(values)) != len(values):
        repeated = next(value for position, value in enumerate(values) if value in values[:position])
        raise ParameterError(f"{name!r} has the value {repeated!r} twice; each combination is computed once")
    return Axis(name, tuple(values), execution)


def _listed(given: Any) -> Iterable[Any]:
    if isinstance(given, np.ndarray | pl.Series):
        return given.tolist() if isinstance(given, np.ndarray) else given.to_list()
    if isinstance(given, str) or not isinstance(given, Iterable):
        return (given,)
    return list(given)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _mask_of_expression(condition: pl.Expr, frame: pl.DataFrame, names: Collection[str]) -> npt.NDArray[np.bool_]:
    try:
        kept = frame.select(condition).to_series()
    except pl.exceptions.PolarsError as exc:
        raise ParameterError(f"where: {exc}; an expression may use the columns {', '.join(names) or '(none)'}") from exc
    if kept.dtype != pl.Boolean or len(kept) not in (1, frame.height):
        raise ParameterError(f"where answers {kept.dtype} of length {len(kept)}; a condition answers true or false")
    mask: npt.NDArray[np.bool_] = kept.fill_null(value=False).to_numpy()
    return np.broadcast_to(mask, frame.height)


def _mask_of_function(
    condition: Callable[..., Any], columns: Mapping[str, pl.Series], height: int
) -> npt.NDArray[np.bool_]:
    used = {name: columns[name] for name in _arguments(condition, columns)}
    answer = _answer_on_arrays(condition, used)
    if isinstance(answer, np.ndarray) and answer.dtype == np.bool_ and answer.shape == (height,):
        return answer
    rows = zip(*(column.to_list() for column in used.values()), strict=True) if used else [()] * height
    return np.array([_kept(condition, dict(zip(used, row, strict=True))) for row in rows], dtype=np.bool_)


def _answer_on_arrays(condition: Callable[..., Any], columns: Mapping[str, pl.Series]) -> Any:
    """Ask for whole columns at once: a condition on numbers usually works on arrays, a thousand times faster."""
    if any(column.null_count() for column in columns.values()):
        return None  # an array cannot hold None beside numbers
    try:
        with np.errstate(all="ignore"):
            return condition(**{name: column.to_numpy() for name, column in columns.items()})
    except (TypeError, ValueError, AttributeError):
        return None


def _kept(condition: Callable[..., Any], values: dict[str, Any]) -> bool:
    try:
        answer = condition(**values)
    except Exception as exc:
        raise ParameterError(f"where raised {type(exc).__name__} at {json.dumps(values)}: {exc}") from exc
    if not isinstance(answer, bool | np.bool_):
        raise ParameterError(f"where answers {answer!r} at {json.dumps(values)}; a condition answers true or false")
    return bool(answer)


def _arguments(condition: Callable[..., Any], columns: Collection[str]) -> list[str]:
    taken = inspect.signature(condition).parameters.values()
    if any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in taken):
        return list(columns)
    unknown = [
        argument.name
        for argument in taken
        if argument.name not in columns and argument.default is inspect.Parameter.empty
    ]
    if unknown:
        raise ParameterError(
            f"where takes {', '.join(unknown)}; its arguments are names of the grid: {', '.join(columns) or '(none)'}"
        )
    return [argument.name for argument in taken if argument.name in columns]
