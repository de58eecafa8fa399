"""What backtest and live ask of a thing that decides exposures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["Decider"]


@runtime_checkable
class Decider(Protocol):
    """Target exposures from bars, one symbol's history at a time; :class:`BoundSignal` is one.

    States are rows of a float64 matrix that the caller owns, so that a backtest can hold
    thousands and the live runtime can save each with the offsets that led to it.
    """

    @property
    def name(self) -> str:
        """Name of the signal."""
        ...

    @property
    def kind(self) -> Literal["exposure"]:
        """``"exposure"``: it answers fractions of a symbol's slot, not of the portfolio's equity."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Bar columns that it reads."""
        ...

    @property
    def warm_up(self) -> int:
        """Number of first bars of each symbol whose exposure is 0.0."""
        ...

    @property
    def parameters(self) -> Mapping[str, bool | int | float]:
        """The values that it is bound to."""
        ...

    def start(self) -> npt.NDArray[np.float64]:
        """Return the state before a symbol's first bar."""
        ...

    def advance(
        self,
        states: npt.NDArray[np.float64],
        bounds: npt.NDArray[np.int64],
        columns: npt.NDArray[np.float64],
        *,
        label: Callable[[int], str] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Feed ``columns[:, bounds[i]:bounds[i + 1]]`` to ``states[i]``; return an exposure a row.

        ``label`` names a row in error messages.
        """
        ...

    def evaluate(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return [symbol, session, timestamp, exposure] of a canonical frame's whole history."""
        ...

    def snapshot(self, state: npt.NDArray[np.float64]) -> bytes:
        """Return the state as bytes."""
        ...

    def restore(self, saved: bytes) -> npt.NDArray[np.float64]:
        """Return the state that :meth:`snapshot` saved, bit for bit."""
        ...
