"""What a signal keeps between bars: slots of float64, updated in place by plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from quantflow.errors import SignalError
from quantflow.signals._parameters import Value

__all__ = ["Indicator", "Slot", "SlotSpec", "indicator", "memory"]

#: What an indicator answers: a float, or a NamedTuple of floats where it has several outputs.
Answer = TypeVar("Answer")

#: One indicator's memory: a 1-D float64 view into the signal's state.
Slot = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SlotSpec:
    """How one slot starts, given the signal's parameters.

    ``arguments`` holds numbers, or names of the signal's parameters.
    """

    label: str
    starter: Callable[..., Slot]
    warm_up: Callable[..., int]
    arguments: Mapping[str, Value | str]

    def resolve(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the arguments with parameter names replaced by their values."""
        return {name: values[given] if isinstance(given, str) else given for name, given in self.arguments.items()}

    def parameter_names(self) -> set[str]:
        """Return the names of the signal's parameters that this slot depends on."""
        return {given for given in self.arguments.values() if isinstance(given, str)}


class Indicator(Generic[Answer]):
    """A function ``update(slot, *inputs)`` with the slot that it needs, answering one float or several.

    Call it inside a signal, ``sma(slot, bar.close)``; declare its slot in the signal's
    signature, ``slot=sma.over("window")``. Compiled signals compile ``update`` along.
    """

    def __init__(
        self, update: Callable[..., Answer], starter: Callable[..., Slot], warm_up: Callable[..., int]
    ) -> None:
        self.update = update
        self.starter = starter
        self.warm_up = warm_up
        self.__name__ = update.__name__
        self.__doc__ = update.__doc__
        self.__module__ = update.__module__
        self.__wrapped__ = update

    def __call__(self, slot: Slot, *inputs: float) -> Answer:
        """Take the newest inputs and return the indicator's value, NaN before its warm-up ends."""
        return self.update(slot, *inputs)

    def __repr__(self) -> str:
        return f"<indicator {self.__name__}{inspect.signature(self.starter)}>"

    def over(self, *args: Value | str, **kwargs: Value | str) -> Any:
        """Declare this indicator's slot in a signal's signature.

        Arguments are those of the indicator (``sma.over(20)``); a string is the name of one
        of the signal's parameters (``sma.over("window")``).

        Raises
        ------
        SignalError
            The arguments do not fit the indicator.
        """
        signature = inspect.signature(self.starter)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise SignalError(f"{self.__name__}.over: {exc}; it takes {signature}") from None
        bound.apply_defaults()
        return SlotSpec(self.__name__, self.starter, self.warm_up, dict(bound.arguments))


def indicator(
    *, start: Callable[..., Slot], warm_up: Callable[..., int]
) -> Callable[[Callable[..., Answer]], Indicator[Answer]]:
    """Make an indicator of ``update(slot, *inputs)``.

    Parameters
    ----------
    start
        Returns the slot before the first bar, a 1-D float64 array, from the indicator's
        arguments. Its signature is what ``.over(...)`` takes.
    warm_up
        From the same arguments, after how many bars the first value comes: 0 when the
        first bar already has one.

    Notes
    -----
    ``update`` must compile with numba, work in place on ``slot`` only, and leave the slot
    unchanged and answer NaN when an input is NaN (so that indicators can be chained).
    It answers one float; an indicator of several outputs answers a ``typing.NamedTuple`` of
    floats, every one of them NaN until the last has its first value.
    """

    def decorate(update: Callable[..., Answer]) -> Indicator[Answer]:
        return Indicator(update, start, warm_up)

    return decorate


def memory(size: int = 1, *, initial: float = 0.0) -> Any:
    """Declare ``size`` numbers of a signal's own, kept between bars: ``held=memory(2)``.

    Inside the signal it is a float64 array, read and written by index: ``held[0] = 1.0``.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SignalError(f"memory size is {size!r}; allowed: a whole number, at least 1")
    return SlotSpec("memory", _memory_start, _no_warm_up, {"size": size, "initial": float(initial)})


def _memory_start(size: int, initial: float) -> Slot:
    return np.full(size, initial, dtype=np.float64)


def _no_warm_up(size: int, initial: float) -> int:
    return 0
