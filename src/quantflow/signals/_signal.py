"""A signal, and a signal bound to parameter values."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import SignalError
from quantflow.signals import _compile
from quantflow.signals._batch import Filler, SignalBatch, build_filler
from quantflow.signals._checks import column_matrix, missing_column, refuse_duplicates
from quantflow.signals._identity import definition_identity
from quantflow.signals._indicator import SlotSpec
from quantflow.signals._parameters import Parameter, Value, check_values, named

__all__ = ["BAR_COLUMNS", "BoundSignal", "Signal", "State", "signal"]

Floats = npt.NDArray[np.float64]

#: Everything a signal remembers of one symbol: a 1-D float64 array, updated in place.
State = Floats

#: Columns that a signal can declare.
BAR_COLUMNS = ("open", "high", "low", "close", "volume")

_ONE_BAR = np.array([0, 1], dtype=np.int64)
_SNAPSHOT_MAGIC = b"QFSTATE1"
_HEADER_BYTES = len(_SNAPSHOT_MAGIC) + 32


def signal(*, columns: Sequence[str] = ("close",), name: str | None = None) -> Callable[[Callable[..., float]], Signal]:
    """Make a signal of a plain function; see the package's docstring for the whole shape.

    Parameters
    ----------
    columns
        The bar columns that it reads; ``bar`` has exactly these as attributes.
    name
        Its name; the function's by default.

    Raises
    ------
    SignalError
        The function's signature is not ``bar`` followed by slots and parameters.
    """

    def decorate(definition: Callable[..., float]) -> Signal:
        return Signal(definition, columns=columns, name=name)

    return decorate


class Signal:
    """A signal's definition: bind parameter values to use it.

    Attributes
    ----------
    name
        Its name.
    definition
        The plain function.
    columns
        The bar columns that it reads.
    parameters
        Declared parameters by name, in order: sweeps, contracts and widgets read them here.
    """

    kind: Literal["exposure"] = "exposure"

    def __init__(
        self, definition: Callable[..., float], *, columns: Sequence[str] = ("close",), name: str | None = None
    ) -> None:
        if not isinstance(definition, types.FunctionType):
            raise SignalError(f"a signal is made of a plain function, not of {definition!r}")
        self.definition = definition
        self.name = name or definition.__name__
        self.__name__ = self.name
        self.__doc__ = definition.__doc__
        self.__module__ = definition.__module__
        self.columns = _checked_columns(self.name, columns)
        self.parameters, self._slots, self._arguments = _read_signature(self.name, definition)
        self._loops: dict[bool, Callable[..., int]] = {}
        self._fillers: list[Filler] = []
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<signal {self.name}({', '.join(self.parameters)}) on {', '.join(self.columns)}>"

    def bind(self, *, uncompiled: bool = False, **values: Value) -> BoundSignal:
        """Return the signal with these parameter values, defaults for the others.

        Parameters
        ----------
        uncompiled
            Run as plain Python, slowly, so that a debugger can step through it. Results
            agree with compiled ones to 1e-9.

        Raises
        ------
        ParameterError
            Names every parameter that is unknown, mistyped or out of range.
        """
        return BoundSignal(self, check_values(f"signal {self.name!r}", self.parameters, values), uncompiled=uncompiled)

    def batch(self, values: Mapping[str, npt.ArrayLike]) -> SignalBatch:
        """Return the signal with many combinations of parameter values, for sweeps.

        Parameters
        ----------
        values
            By parameter, a 1-D array with a value for each combination, or one value for all;
            defaults for parameters left out. Everything is checked here, at once.

        Raises
        ------
        ParameterError
            Names the parameter, its value and the combination.
        """
        return SignalBatch(self, values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides: the function, all that it reaches, and its signature's slots and defaults."""
        return definition_identity(_compile.fingerprint(self.definition), self.columns, self._slots, self.parameters)

    def _loop(self, *, compiled: bool) -> Callable[..., int]:
        with self._lock:
            if compiled not in self._loops:
                self._loops[compiled] = _compile.build_loop(
                    self.name, self.definition, self._arguments, self.columns, compiled=compiled
                )
            return self._loops[compiled]

    def _filler(self) -> Filler:
        """Return the compiled loop over combinations."""
        with self._lock:
            if not self._fillers:
                self._fillers.append(build_filler(self))
            return self._fillers[0]


class BoundSignal:
    """A signal with parameter values; a :class:`Decider`. Made by :meth:`Signal.bind`.

    It holds no state of its own and can be shared between threads.
    """

    #: What it answers is a fraction of the symbol's slot, not of the portfolio's equity.
    kind: Literal["exposure"] = "exposure"

    def __init__(self, signal: Signal, values: dict[str, Value], *, uncompiled: bool = False) -> None:
        self.signal = signal
        self.uncompiled = uncompiled
        self._parameters = types.MappingProxyType(values)
        resolved = [(spec, spec.resolve(values)) for spec in signal._slots.values()]
        slots = [np.asarray(spec.starter(**given), dtype=np.float64) for spec, given in resolved]
        self._warm_up = max((spec.warm_up(**given) for spec, given in resolved), default=0)
        # The first number of a state counts the bars seen; the slots follow.
        self._offsets = np.cumsum([1, *(len(slot) for slot in slots)], dtype=np.int64)
        self._initial = np.concatenate([np.zeros(1), *slots])
        self._values = np.array([float(value) for value in values.values()], dtype=np.float64)
        self._layout: bytes | None = None
        self._loop: Callable[..., int] | None = None

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._parameters.items())
        return f"<{self.signal.name}({values})>"

    @property
    def name(self) -> str:
        """Name of the signal."""
        return self.signal.name

    @property
    def columns(self) -> tuple[str, ...]:
        """Bar columns that it reads."""
        return self.signal.columns

    @property
    def parameters(self) -> Mapping[str, Value]:
        """The values that it is bound to, defaults included."""
        return self._parameters

    @property
    def warm_up(self) -> int:
        """Number of first bars whose exposure is 0.0: the longest of the indicators'."""
        return self._warm_up

    def start(self) -> State:
        """Return the state before a symbol's first bar."""
        return self._initial.copy()

    def step(self, state: State, bar: Mapping[str, float]) -> float:
        """Take one bar, update ``state`` in place and return the target exposure.

        Raises
        ------
        MissingColumnError
            The bar lacks a column that the signal reads, or has null there.
        SignalError
            A value or the exposure is not finite, or the signal raised.
        """
        if state.shape != self._initial.shape:
            raise SignalError(f"{self.name}: not a state of {self!r}; make one with start() or restore()")
        row = np.empty((len(self.columns), 1))
        for index, column in enumerate(self.columns):
            value = bar.get(column)
            if value is None:
                raise missing_column(self.name, column, [name for name in bar if bar[name] is not None])
            try:
                finite = math.isfinite(value)
            except TypeError:
                raise SignalError(
                    f"{self.name}: {column} is {value!r} in the bar {dict(bar)!r}; give a number"
                ) from None
            if not finite:
                raise SignalError(f"{self.name}: {column} is {value} in the bar {dict(bar)!r}; nothing was changed")
            row[index, 0] = value
        exposures = np.empty(1)
        self._run_loop(state.reshape(1, -1), _ONE_BAR, row, exposures, lambda _: f"the bar {dict(bar)!r}")
        return float(exposures[0])

    def exposures(self, columns: Mapping[str, npt.ArrayLike]) -> Floats:
        """Return the target exposure at each bar of one symbol's whole history.

        Parameters
        ----------
        columns
            1-D arrays of equal length by column name, oldest bar first. Columns that the
            signal does not read are ignored.

        Raises
        ------
        MissingColumnError
            A column that the signal reads is absent.
        InvalidBarsError
            A value is NaN or infinite, or lengths differ.
        SignalError
            The signal raised, or answered a number that is not finite.
        """
        matrix = column_matrix(self.name, self.columns, columns, "row {}".format)
        return self.advance(self._initial.reshape(1, -1).copy(), np.array([0, matrix.shape[1]]), matrix)

    def evaluate(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return the target exposures of a canonical frame, each symbol from its first bar.

        Parameters
        ----------
        bars
            Columns ``symbol``, ``session``, ``timestamp`` and those that the signal reads; any
            row order, each (symbol, timestamp) once.

        Returns
        -------
        polars.DataFrame
            ``symbol``, ``session``, ``timestamp``, ``exposure``, sorted by symbol and timestamp.

        Raises
        ------
        MissingColumnError, InvalidBarsError, SignalError
            As :meth:`exposures`, naming symbol and session.
        """
        keys = ["symbol", "session", "timestamp"]
        for column in (*keys, *self.columns):
            if column not in bars.columns:
                raise missing_column(self.name, column, bars.columns)
        ordered = bars.select(*keys, *self.columns).sort("symbol", "timestamp")
        refuse_duplicates(self.name, ordered)

        def label(row: int) -> str:
            return f"{ordered['symbol'][row]} at {ordered['session'][row]}"

        columns = {column: ordered[column].to_numpy() for column in self.columns}
        matrix = column_matrix(self.name, self.columns, columns, label)
        lengths = ordered.group_by("symbol", maintain_order=True).len()["len"].to_numpy()
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        states = np.tile(self._initial, (len(lengths), 1))
        exposures = self.advance(states, bounds, matrix, label=label)
        return ordered.select(*keys, pl.Series("exposure", exposures))

    def advance(
        self,
        states: Floats,
        bounds: npt.NDArray[np.int64],
        columns: Floats,
        *,
        label: Callable[[int], str] | None = None,
    ) -> Floats:
        """Feed ``columns[:, bounds[i]:bounds[i + 1]]`` to ``states[i]``, all in one compiled call.

        Parameters
        ----------
        states
            A row a symbol, C-contiguous; updated in place.
        bounds
            Non-decreasing row numbers, one more than there are states.
        columns
            A row for each of :attr:`columns`, in that order; finite.
        label
            Names a row in error messages; by default its number.

        Returns
        -------
        numpy.ndarray
            The target exposure of each column of ``columns``.

        Raises
        ------
        SignalError
            The signal raised, or answered a number that is not finite; states are then
            partly updated and must be dropped.
        """
        exposures = np.full(columns.shape[1], np.nan)
        self._run_loop(states, bounds, columns, exposures, label or "row {}".format)
        return exposures

    def _run_loop(
        self,
        states: Floats,
        bounds: npt.NDArray[np.int64],
        columns: Floats,
        exposures: Floats,
        name_row: Callable[[int], str],
    ) -> None:
        loop = self._loop or self._compiled_loop()
        try:
            failed = loop(states, bounds, columns, self._values, self._offsets, self._warm_up, exposures)
        except Exception as exc:
            # The loop fills exposures in order, so the first hole is the bar that raised.
            row = int(np.argmax(np.isnan(exposures)))
            raise SignalError(f"{self.name} raised {type(exc).__name__} at {name_row(row)}: {exc}") from exc
        if failed >= 0:
            raise SignalError(
                f"{self.name} answered an exposure that is not finite at {name_row(failed)}, after its warm-up of "
                f"{self._warm_up} bars; guard the division or NaN that it comes from"
            )

    def _compiled_loop(self) -> Callable[..., int]:
        self._loop = self.signal._loop(compiled=not self.uncompiled)
        return self._loop

    def snapshot(self, state: State) -> bytes:
        """Return the state as bytes that :meth:`restore` understands.

        They carry the identity of the code and parameters, so that a state is never continued
        by another signal.
        """
        return _SNAPSHOT_MAGIC + self._layout_digest() + state.astype("<f8").tobytes()

    def restore(self, saved: bytes) -> State:
        """Return the state of :meth:`snapshot`, bit for bit.

        Raises
        ------
        SignalError
            The bytes were saved by other code or with other parameters.
        """
        body = saved[_HEADER_BYTES:]
        expected = _SNAPSHOT_MAGIC + self._layout_digest()
        if saved[:_HEADER_BYTES] != expected or len(body) != self._initial.nbytes:
            raise SignalError(
                f"the saved state does not belong to {self!r}: other code, other parameters or damaged bytes; "
                "start again from the first bar"
            )
        return np.frombuffer(body, dtype="<f8").astype(np.float64)

    def compile(self) -> BoundSignal:
        """Compile now instead of at the first bar; return the same object."""
        self._compiled_loop()
        return self

    def _layout_digest(self) -> bytes:
        if self._layout is None:
            identity = {
                "name": self.name,
                "columns": self.columns,
                "parameters": dict(self._parameters),
                "code": self.signal.fingerprint,
                "offsets": self._offsets.tolist(),
            }
            self._layout = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
        return self._layout


def _checked_columns(name: str, columns: Sequence[str]) -> tuple[str, ...]:
    given = (columns,) if isinstance(columns, str) else tuple(columns)
    unknown = [column for column in given if column not in BAR_COLUMNS]
    if unknown or not given or len(set(given)) != len(given):
        raise SignalError(f"signal {name!r}: columns are {given}; allowed: some of {', '.join(BAR_COLUMNS)}, each once")
    return given


def _read_signature(
    name: str, definition: types.FunctionType
) -> tuple[Mapping[str, Parameter], Mapping[str, SlotSpec], tuple[_compile.Argument, ...]]:
    """Return parameters, slots and the kinds of all arguments after ``bar``, in call order."""
    bar, *rest = inspect.signature(definition).parameters.values() or (None,)
    if bar is None or bar.default is not inspect.Parameter.empty:
        raise SignalError(f"signal {name!r}: its first argument must be the bar, without a default")
    parameters: dict[str, Parameter] = {}
    slots: dict[str, SlotSpec] = {}
    arguments: list[_compile.Argument] = []
    for argument in rest:
        declared = argument.default
        if argument.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD or argument.name == "uncompiled":
            raise SignalError(f"signal {name!r}: {argument} is not allowed; use plain arguments, none named uncompiled")
        if isinstance(declared, Parameter):
            parameters[argument.name] = named(declared, argument.name)
            arguments.append(declared.kind)
        elif isinstance(declared, SlotSpec):
            slots[argument.name] = declared
            arguments.append("slot")
        else:
            raise SignalError(
                f"signal {name!r}: argument {argument.name!r} must be a parameter, {argument.name}=param(20), "
                f"or a slot, {argument.name}=sma.over(20) or memory()"
            )
    unknown = {used for spec in slots.values() for used in spec.parameter_names()} - set(parameters)
    if unknown:
        raise SignalError(
            f"signal {name!r}: a slot names {', '.join(sorted(unknown))}; its parameters are: "
            f"{', '.join(parameters) or 'none'}"
        )
    return types.MappingProxyType(parameters), types.MappingProxyType(slots), tuple(arguments)
