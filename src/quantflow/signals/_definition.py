"""What promotion and sweeps ask of a signal's definition, whatever its shape."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeGuard

from quantflow.errors import SignalError
from quantflow.signals._parameters import Parameter, named

__all__ = ["Definition", "is_definition", "read_parameters"]

_MEMBERS = ("bind", "columns", "fingerprint", "kind", "name", "parameters")


class Definition(Protocol):
    """A signal before it is bound to parameter values, of any shape.

    Per symbol, cross-sectional, column and estimator signals are definitions.
    """

    @property
    def name(self) -> str:
        """Name of the signal."""
        ...

    @property
    def kind(self) -> Literal["exposure", "weights"]:
        """What it answers: a fraction of its symbol's slot, or weights of a portfolio."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Bar columns that it reads."""
        ...

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Declared parameters by name."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the code that decides."""
        ...

    def bind(self, **values: Any) -> Any:
        """Return the signal with these parameter values, defaults for the others.

        A :class:`~quantflow.signals.Decider`, or for ``kind == "weights"`` a bound cross-section.
        """
        ...


def is_definition(value: object) -> TypeGuard[Definition]:
    """Tell a signal's definition, of any shape, from other objects.

    Nothing is computed: ``isinstance`` would ask an object for its fingerprint.
    """
    missing = object()
    return all(inspect.getattr_static(value, name, missing) is not missing for name in _MEMBERS)


def read_parameters(
    owner: str, function: Callable[..., Any], *, reserved: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], Mapping[str, Parameter]]:
    """Return a function's leading plain arguments and its declared parameters.

    Parameters
    ----------
    owner
        Names the function in errors, ``"signal 'reversal'"``.
    reserved
        Names that a parameter cannot have, because ``bind`` takes them for itself.

    Raises
    ------
    SignalError
        It is no plain function, or an argument after the first parameter declares none.
    """
    if not isinstance(function, types.FunctionType):
        raise SignalError(f"{owner} is made of a plain function, not of {function!r}")
    leading: list[str] = []
    parameters: dict[str, Parameter] = {}
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD or argument.name in reserved:
            names = f", none named {' or '.join(reserved)}" if reserved else ""
            raise SignalError(f"{owner}: {argument} is not allowed; use plain arguments{names}")
        if isinstance(argument.default, Parameter):
            parameters[argument.name] = named(argument.default, argument.name)
        elif argument.default is inspect.Parameter.empty and not parameters:
            leading.append(argument.name)
        else:
            raise SignalError(
                f"{owner}: argument {argument.name!r} must be a parameter, {argument.name}=param(20), and parameters "
                "come last"
            )
    return tuple(leading), types.MappingProxyType(parameters)
