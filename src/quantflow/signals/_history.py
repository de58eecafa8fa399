"""Deciders that keep a stretch of history as their state: column signals and estimators."""

from __future__ import annotations

import hashlib
import json
import math
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import SignalError
from quantflow.signals._checks import column_matrix, missing_column, refuse_duplicates
from quantflow.signals._parameters import Value

__all__ = ["Floats", "HistoryDecider", "Label", "ordered_bars", "shifted"]

Floats = npt.NDArray[np.float64]

#: Names a row in an error message.
Label = Callable[[int], str]

_KEYS = ("symbol", "session", "timestamp")
_ONE_BAR = np.array([0, 1], dtype=np.int64)
_MAGIC = b"QFHIST01"
_HEADER_BYTES = len(_MAGIC) + 32


class HistoryDecider(ABC):
    """A :class:`~quantflow.signals.Decider` whose state is flat float64: bars seen, then history.

    It holds nothing of a symbol itself and can be shared between threads.

    Attributes
    ----------
    kind
        ``"exposure"``: what it answers is a fraction of the symbol's slot.
    name, columns, parameters, warm_up
        As in the protocol.
    """

    kind: Literal["exposure"] = "exposure"

    def __init__(
        self, name: str, columns: tuple[str, ...], values: Mapping[str, Value], *, warm_up: int, initial: Floats
    ) -> None:
        self.name = name
        self.columns = columns
        self.parameters: Mapping[str, Value] = types.MappingProxyType(dict(values))
        self.warm_up = warm_up
        self._initial = initial

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"<{self.name}({values})>"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the code that decides."""

    @abstractmethod
    def advance(
        self, states: Floats, bounds: npt.NDArray[np.int64], columns: Floats, *, label: Label | None = None
    ) -> Floats:
        """Feed ``columns[:, bounds[i]:bounds[i + 1]]`` to ``states[i]``; return an exposure a row.

        Parameters
        ----------
        states
            A row a symbol; updated in place once all answers are known, so that nothing
            changes when an error is raised.
        bounds
            Non-decreasing row numbers, one more than there are states.
        columns
            A row for each of :attr:`columns`, in that order; finite.
        label
            Names a row in error messages; by default its number.

        Raises
        ------
        SignalError
            The signal raised, or answered no finite number.
        """

    def start(self) -> Floats:
        """Return the state before a symbol's first bar."""
        return self._initial.copy()

    def step(self, state: Floats, bar: Mapping[str, float]) -> float:
        """Take one bar, update ``state`` in place and return the target exposure.

        Raises
        ------
        MissingColumnError
            The bar lacks a column that the signal reads, or has null there.
        SignalError
            A value or the exposure is not finite, or the signal raised.
        """
        for column in self.columns:
            value = bar.get(column)
            if value is None:
                raise missing_column(self.name, column, [name for name in bar if bar[name] is not None])
            if not math.isfinite(value):
                raise SignalError(f"{self.name}: {column} is {value} in the bar {dict(bar)!r}; nothing was changed")
        if state.shape != self._initial.shape:
            raise SignalError(f"{self.name}: not a state of {self!r}; make one with start() or restore()")
        row = np.array([[bar[column]] for column in self.columns], dtype=np.float64)
        return float(self.advance(state.reshape(1, -1), _ONE_BAR, row, label=lambda _: f"the bar {dict(bar)!r}")[0])

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
            The signal raised, or answered no finite number.
        """
        matrix = column_matrix(self.name, self.columns, columns, "row {}".format)
        return self._from_first_bar(matrix, np.array([0, matrix.shape[1]], dtype=np.int64), "row {}".format)

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
        keys, matrix, bounds, label = ordered_bars(self.name, self.columns, bars)
        return keys.with_columns(pl.Series("exposure", self._from_first_bar(matrix, bounds, label)))

    def snapshot(self, state: Floats) -> bytes:
        """Return the state as bytes that :meth:`restore` understands: numbers only, never a pickle.

        They carry the identity of the code and parameters, so that a state is never continued
        by another signal.
        """
        return _MAGIC + self._layout_digest + state.astype("<f8").tobytes()

    def restore(self, saved: bytes) -> Floats:
        """Return the state of :meth:`snapshot`, bit for bit.

        Raises
        ------
        SignalError
            The bytes were saved by other code or with other parameters.
        """
        body = saved[_HEADER_BYTES:]
        if saved[:_HEADER_BYTES] != _MAGIC + self._layout_digest or len(body) != self._initial.nbytes:
            raise SignalError(
                f"the saved state does not belong to {self!r}: other code, other parameters or damaged bytes; "
                "start again from the first bar"
            )
        return np.frombuffer(body, dtype="<f8").astype(np.float64)

    def _from_first_bar(self, matrix: Floats, bounds: npt.NDArray[np.int64], label: Label) -> Floats:
        states = np.tile(self._initial, (len(bounds) - 1, 1))
        return self.advance(states, bounds, matrix, label=label)

    def _refuse_unanswered(self, exposures: Floats, label: Label, hint: str) -> None:
        bad = np.flatnonzero(~np.isfinite(exposures))
        if len(bad):
            raise SignalError(
                f"{self.name} answered {exposures[bad[0]]} at {label(int(bad[0]))} ({len(bad)} such bars), after its "
                f"warm-up of {self.warm_up} bars; {hint}"
            )

    @cached_property
    def _layout_digest(self) -> bytes:
        identity = {
            "name": self.name,
            "columns": self.columns,
            "parameters": dict(self.parameters),
            "code": self.fingerprint,
            "size": len(self._initial),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()


def ordered_bars(
    name: str, columns: Sequence[str], bars: pl.DataFrame
) -> tuple[pl.DataFrame, Floats, npt.NDArray[np.int64], Label]:
    """Return a canonical frame's keys, sorted, its columns as a matrix, and where each symbol begins.

    Raises
    ------
    MissingColumnError, InvalidBarsError
        A column is absent, a value is not finite, or a symbol has two bars of one timestamp.
    """
    for column in (*_KEYS, *columns):
        if column not in bars.columns:
            raise missing_column(name, column, bars.columns)
    ordered = bars.select(*_KEYS, *columns).sort("symbol", "timestamp")
    refuse_duplicates(name, ordered)

    def label(row: int) -> str:
        return f"{ordered['symbol'][row]} at {ordered['session'][row]}"

    matrix = column_matrix(name, columns, {column: ordered[column].to_numpy() for column in columns}, label)
    lengths = ordered.group_by("symbol", maintain_order=True).len()["len"].to_numpy()
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return ordered.select(_KEYS), matrix, bounds, label


def shifted(label: Label, by: int) -> Label:
    """Return the label of rows that are counted from row ``by`` on."""
    return lambda row: label(by + row)
