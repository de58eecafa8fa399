"""A cross-sectional signal bound to parameter values: timestamps in, target weights out."""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import MissingColumnError, SignalError
from quantflow.signals._cross_run import (
    initial_offsets,
    initial_state,
    is_each,
    panel_columns,
    refuse_missing,
    run_loop,
    start_of,
    warm_ups,
)
from quantflow.signals._panel import Panel, checked_symbols
from quantflow.signals._parameters import Value
from quantflow.signals._signal import State

if TYPE_CHECKING:
    from quantflow.signals._cross_section import CrossSection

__all__ = ["BoundCrossSection"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_SNAPSHOT_MAGIC = b"QFCROSS1"
_HEADER_BYTES = len(_SNAPSHOT_MAGIC) + 32


class BoundCrossSection:
    """A cross-sectional signal with parameter values. Made by :meth:`CrossSection.bind`.

    It holds no state of its own and can be shared between threads.
    """

    kind: Literal["weights"] = "weights"

    def __init__(
        self,
        signal: CrossSection,
        values: dict[str, Value],
        *,
        symbols: tuple[str, ...] | None = None,
        uncompiled: bool = False,
    ) -> None:
        self.signal = signal
        self.symbols = symbols
        self.uncompiled = uncompiled
        self._parameters = types.MappingProxyType(values)
        self._values = np.array([float(value) for value in values.values()], dtype=np.float64)
        self._slots = [(is_each(spec), start_of(spec, values)) for spec in signal._slots.values()]
        self._warm_up, self._shared_warm_up = warm_ups(signal._slots.values(), values)

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
        """Number of first bars whose target is 0.0: the longest of the indicators'."""
        return max(self._warm_up, self._shared_warm_up)

    def over(self, symbols: Sequence[str]) -> BoundCrossSection:
        """Return the same signal on this universe, in this order."""
        universe = checked_symbols(f"signal {self.name!r}", symbols)
        return BoundCrossSection(self.signal, dict(self._parameters), symbols=universe, uncompiled=self.uncompiled)

    def start(self, symbols: Sequence[str] | None = None) -> State:
        """Return the state before the first timestamp, of the bound universe or of ``symbols``.

        Raises
        ------
        SignalError
            Neither is given.
        """
        universe = self._universe() if symbols is None else checked_symbols(f"signal {self.name!r}", symbols)
        return initial_state(self._slots, len(universe))

    def step(self, state: State, bars: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Take one timestamp's bars by symbol, update ``state`` in place and return all target weights.

        Bars of symbols outside the universe are ignored.

        Raises
        ------
        MissingColumnError
            A bar lacks a column that the signal reads, or has null there.
        SignalError
            A value or weight is not finite, the signal raised, or it refuses missing symbols.
        """
        universe = self._universe()
        columns = np.full((len(self.columns), 1, len(universe)), np.nan)
        present = np.zeros((1, len(universe)), dtype=np.bool_)
        for place, symbol in enumerate(universe):
            if symbol in bars:
                present[0, place] = True
                columns[:, 0, place] = self._row(symbol, bars[symbol])
        weights = self.weigh(state, columns, present, label=lambda _, place: universe[place])
        return dict(zip(universe, weights[0].tolist(), strict=True))

    def weights(self, panel: Panel) -> Floats:
        """Return the target weights, float64[T, N], of a panel's whole history.

        Raises
        ------
        MissingColumnError
            The panel lacks a column that the signal reads.
        SignalError
            As :meth:`weigh`.
        """
        columns = panel_columns(self.name, self.columns, panel)
        return self.weigh(self.start(panel.symbols), columns, panel.present, label=panel.label)

    def evaluate(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return the target weights of a canonical frame, from its first timestamp on.

        Parameters
        ----------
        bars
            Columns ``symbol``, ``session``, ``timestamp`` and those that the signal reads; any
            row order, each (symbol, timestamp) once. The universe is the bound one (bars of
            other symbols are ignored), otherwise the frame's symbols, sorted.

        Returns
        -------
        polars.DataFrame
            ``symbol``, ``session``, ``timestamp``, ``exposure``, sorted by symbol and timestamp.
            ``exposure`` is the target weight, a fraction of equity. From its first bar on a symbol
            has a row at every timestamp, also where it has no bar.

        Raises
        ------
        MissingColumnError, InvalidBarsError, SignalError
            As :meth:`Panel.of` and :meth:`weigh`, naming symbol and session.
        """
        panel = Panel.of(bars, self.columns, symbols=self.symbols, owner=self.name)
        return panel.frame(self.weights(panel))

    def weigh(
        self,
        state: State,
        columns: Floats,
        present: Bools,
        *,
        label: Callable[[int, int], str] | None = None,
    ) -> Floats:
        """Feed timestamps to ``state``, updated in place, and return their target weights.

        Parameters
        ----------
        state
            Of :meth:`start` or :meth:`restore`.
        columns
            float64[K, T, N], C-contiguous: :attr:`columns`, timestamps, symbols. Finite where
            present.
        present
            bool[T, N].
        label
            Names the bar of a row and symbol number in messages.

        Returns
        -------
        numpy.ndarray
            float64[T, N].

        Raises
        ------
        SignalError
            The signal raised, returned a value, or wrote a number that is not finite (the
            state is then partly updated and must be dropped); or it refuses missing symbols.
        """
        name_bar = label or "row {}, symbol {}".format
        refuse_missing(self.signal, present, name_bar)
        offsets = initial_offsets(self._slots, present.shape[1])
        if state.shape != (offsets[-1],):
            raise SignalError(
                f"{self.name}: not a state of {self!r} for {present.shape[1]} symbols; make one with start() or "
                "restore()"
            )
        weights = np.empty(present.shape)
        run_loop(
            self.signal,
            state,
            (columns, present),
            (self._values, offsets, self._warm_up, self._shared_warm_up),
            weights,
            name_bar,
            compiled=not self.uncompiled,
        )
        return weights

    def bars_seen(self, state: State) -> npt.NDArray[np.int64]:
        """Return how many bars of each symbol went into a state."""
        symbols = len(self._universe())
        return state[1 : 1 + symbols].astype(np.int64)

    def timestamps_seen(self, state: State) -> int:
        """Return how many timestamps went into a state."""
        return int(state[0])

    def snapshot(self, state: State) -> bytes:
        """Return the state as bytes that :meth:`restore` understands.

        They carry the identity of code, parameters, universe and policy, so that a state is
        never continued by another signal.
        """
        return _SNAPSHOT_MAGIC + self._layout_digest + state.astype("<f8").tobytes()

    def restore(self, saved: bytes) -> State:
        """Return the state of :meth:`snapshot`, bit for bit.

        Raises
        ------
        SignalError
            The bytes were saved by other code, or with other parameters or symbols.
        """
        body = saved[_HEADER_BYTES:]
        size = 8 * int(initial_offsets(self._slots, len(self._universe()))[-1])
        if saved[:_HEADER_BYTES] != _SNAPSHOT_MAGIC + self._layout_digest or len(body) != size:
            raise SignalError(
                f"the saved state does not belong to {self!r}: other code, parameters or symbols, or damaged bytes; "
                "start again from the first timestamp"
            )
        return np.frombuffer(body, dtype="<f8").astype(np.float64)

    def compile(self) -> BoundCrossSection:
        """Compile now instead of at the first timestamp; return the same object."""
        self.signal._loop(compiled=not self.uncompiled)
        return self

    def _universe(self) -> tuple[str, ...]:
        if self.symbols is None:
            raise SignalError(
                f"signal {self.name!r} has no universe yet; give it one with bind(symbols=[...]), over([...]) or "
                "@cross_sectional(symbols=[...])"
            )
        return self.symbols

    def _row(self, symbol: str, bar: Mapping[str, float]) -> list[float]:
        values = []
        for column in self.columns:
            value = bar.get(column)
            if value is None:
                raise MissingColumnError(
                    f"signal {self.name!r} reads the column {column!r}, which the bar of {symbol} does not have"
                )
            if not math.isfinite(value):
                raise SignalError(f"{self.name}: {column} is {value} in the bar of {symbol}; nothing was changed")
            values.append(value)
        return values

    @cached_property
    def _layout_digest(self) -> bytes:
        identity = {
            "name": self.name,
            "columns": self.columns,
            "parameters": dict(self._parameters),
            "code": self.signal.fingerprint,
            "symbols": self._universe(),
            "hold": self.signal.hold,
            "slots": [(each, len(start)) for each, start in self._slots],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
