"""Parameters of a signal: declared with type, range and default, checked once at the edge."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quantflow.errors import ParameterError, SignalError

__all__ = ["Kind", "Parameter", "Value", "check_arrays", "check_values", "param"]

Value = bool | int | float
Kind = Literal["bool", "int", "float"]

#: float64 carries a parameter into the compiled code; larger integers would lose digits.
_LARGEST_INT = 2**53


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    Attributes
    ----------
    name
        Its name in the signal's signature.
    kind
        ``"bool"``, ``"int"`` or ``"float"``: the type of its default.
    default
        Used when :meth:`Signal.bind` is not given a value.
    low, high
        Smallest and largest value allowed, both included; ``None`` means no limit.
    doc
        What it means, with its unit.
    """

    name: str
    kind: Kind
    default: Value
    low: float | None = None
    high: float | None = None
    doc: str = ""

    @property
    def allowed(self) -> str:
        """What may be given, for a person."""
        noun = {"bool": "true or false", "int": "a whole number", "float": "a finite number"}[self.kind]
        if self.low is not None and self.high is not None:
            return f"{noun} from {self.low} to {self.high}"
        if self.low is not None:
            return f"{noun}, at least {self.low}"
        if self.high is not None:
            return f"{noun}, at most {self.high}"
        return noun

    def check(self, value: object) -> Value:
        """Return ``value`` as this parameter's type.

        Raises
        ------
        ParameterError
            It has another type or is out of range.
        """
        converted = self._convert(value)
        if converted is None or not self._in_range(converted):
            raise ParameterError(f"parameter {self.name!r} is {value!r}; allowed: {self.allowed}")
        return converted

    def _convert(self, value: object) -> Value | None:
        if self.kind == "bool":
            return bool(value) if isinstance(value, bool) or type(value).__name__ == "bool" else None
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        number = float(value)
        if not math.isfinite(number):
            return None
        if self.kind == "float":
            return number
        # A whole number that travelled through JSON or a widget may arrive as 60.0.
        return int(number) if number.is_integer() and abs(number) <= _LARGEST_INT else None

    def _in_range(self, value: Value) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def param(default: Value, *, low: float | None = None, high: float | None = None, doc: str = "") -> Any:
    """Declare a parameter of a signal, in the signal's signature.

    The type is the default's: ``True`` and ``False`` declare a bool, ``20`` an int, ``0.1``
    a float.

    Parameters
    ----------
    default
        Value used when none is bound.
    low, high
        Smallest and largest value allowed, both included.
    doc
        What it means, with its unit.

    Returns
    -------
    Parameter
        Typed ``Any``, so that ``lookback: int = param(60)`` satisfies a type checker: inside
        the signal the name is the plain value.

    Raises
    ------
    SignalError
        The default has another type or lies outside its own range.
    """
    kind: Kind
    if isinstance(default, bool):
        kind = "bool"
    elif isinstance(default, int):
        kind = "int"
    elif isinstance(default, float):
        kind = "float"
    else:
        raise SignalError(f"a parameter's default is {default!r}; allowed: a bool, an int or a float")
    declared = Parameter("", kind, default, low, high, doc)
    try:
        declared.check(default)
    except ParameterError:
        raise SignalError(f"a parameter's default {default!r} is not {declared.allowed}") from None
    return declared


def named(declared: Parameter, name: str) -> Parameter:
    """Return the declaration under the name it has in the signal's signature."""
    return replace(declared, name=name)


def check_values(owner: str, declared: Mapping[str, Parameter], given: Mapping[str, object]) -> dict[str, Value]:
    """Return a value for every declared parameter, defaults filled in, in declaration order.

    Raises
    ------
    ParameterError
        Names every unknown, mistyped or out of range parameter at once.
    """
    problems = [
        f"unknown parameter {name!r}; {owner} has: {', '.join(declared) or 'none'}"
        for name in given
        if name not in declared
    ]
    values: dict[str, Value] = {}
    for name, parameter in declared.items():
        try:
            values[name] = parameter.check(given.get(name, parameter.default))
        except ParameterError as exc:
            problems.append(str(exc))
    if problems:
        raise ParameterError(f"{owner}: " + "; ".join(problems))
    return values


def check_arrays(
    owner: str, declared: Mapping[str, Parameter], given: Mapping[str, npt.ArrayLike]
) -> npt.NDArray[np.float64]:
    """Return many combinations of values, float64[combinations, parameters], in declaration order.

    Parameters
    ----------
    given
        A 1-D array of equal length by parameter, or one value for all combinations. The
        default stands in for parameters left out.

    Raises
    ------
    ParameterError
        Names every unknown or mistyped parameter, and of each the first combination out of
        range.
    """
    problems = [
        f"unknown parameter {name!r}; {owner} has: {', '.join(declared) or 'none'}"
        for name in given
        if name not in declared
    ]
    columns: list[npt.NDArray[np.float64]] = []
    for name, parameter in declared.items():
        try:
            columns.append(_checked_array(parameter, given.get(name, parameter.default)))
        except ParameterError as exc:
            problems.append(str(exc))
    lengths = {column.size for column in columns if column.ndim}
    if len(lengths) > 1:
        shapes = ", ".join(f"{name}: {column.size}" for name, column in zip(declared, columns, strict=False))
        problems.append(f"parameters have different numbers of combinations ({shapes}); give arrays of one length")
    if problems:
        raise ParameterError(f"{owner}: " + "; ".join(problems))
    count = lengths.pop() if lengths else 1
    values = np.empty((count, len(columns)))
    for index, column in enumerate(columns):
        values[:, index] = column
    return values


def _checked_array(parameter: Parameter, given: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(given)
    if values.ndim > 1:
        raise ParameterError(f"parameter {parameter.name!r} has shape {values.shape}; give a value or a 1-D array")
    if values.dtype.kind not in ("b" if parameter.kind == "bool" else "iuf"):
        # Mixed or foreign types: one at a time, to name the one that is wrong.
        checked = [_checked_item(parameter, index, item) for index, item in enumerate(np.atleast_1d(values).tolist())]
        return np.array(checked, dtype=np.float64).reshape(values.shape)
    numbers = values.astype(np.float64)
    allowed = np.isfinite(numbers)
    if parameter.kind == "int":
        allowed &= (numbers == np.floor(numbers)) & (np.abs(numbers) <= _LARGEST_INT)
    if parameter.low is not None:
        allowed &= numbers >= parameter.low
    if parameter.high is not None:
        allowed &= numbers <= parameter.high
    if not allowed.all():
        number = int(np.argmin(allowed))
        raise _not_allowed(parameter, number, np.atleast_1d(values)[number].item())
    return numbers


def _checked_item(parameter: Parameter, number: int, value: object) -> float:
    try:
        return float(parameter.check(value))
    except ParameterError:
        raise _not_allowed(parameter, number, value) from None


def _not_allowed(parameter: Parameter, number: int, value: object) -> ParameterError:
    return ParameterError(
        f"parameter {parameter.name!r} is {value!r} in combination {number}; allowed: {parameter.allowed}"
    )
