"""Decisions of several deciders, each for its own part of a history, as those of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from quantflow.backtest._folds import Span

__all__ = ["Piece", "Stitched", "bound", "stitched"]

_COLUMNS = ("symbol", "session", "timestamp", "exposure")


@dataclass(frozen=True)
class Piece:
    """A decider and the rows (timestamps) at whose closes it decides."""

    decider: Any
    span: Span


class Stitched:
    """Decisions made already; a :class:`~quantflow.signals.Decider` as far as a backtest asks."""

    def __init__(self, name: str, kind: str, columns: tuple[str, ...], decisions: pl.DataFrame) -> None:
        self.name = name
        self.kind = kind
        self.columns = columns
        self.warm_up = 0
        self.parameters: Mapping[str, Any] = {}
        self._decisions = decisions

    def evaluate(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return the decisions at the timestamps of these bars."""
        return self._decisions.join(bars.select("symbol", "timestamp"), on=["symbol", "timestamp"], how="semi")


def bound(signal: Any, values: Mapping[str, Any]) -> Any:
    """Return the decider with these values."""
    return getattr(signal, "bind", signal)(**values)


def stitched(pieces: Sequence[Piece], bars: pl.DataFrame, times: pl.Series) -> Stitched:
    """Return one decider of the pieces, which follow each other in time.

    Each sees all bars up to its last row, none after it. Bars between two pieces, and before the
    first one, are decided flat.

    Parameters
    ----------
    times
        Timestamps of the bars, ascending; spans number them.
    """
    parts: list[pl.DataFrame] = []
    reached = 0
    for piece in pieces:
        first, last = piece.span
        if first > reached:
            parts.append(_flat(bars, times, (reached, first)))
        known = bars.filter(pl.col("timestamp") <= times[last - 1])
        decided = piece.decider.evaluate(known).select(_COLUMNS)
        parts.append(decided.filter(pl.col("timestamp") >= times[first]))
        reached = last
    if reached < len(times):
        parts.append(_flat(bars, times, (reached, len(times))))
    one = pieces[0].decider
    decisions = pl.concat(parts).sort("symbol", "timestamp")
    return Stitched(str(one.name), getattr(one, "kind", "exposure"), tuple(one.columns), decisions)


def _flat(bars: pl.DataFrame, times: pl.Series, span: Span) -> pl.DataFrame:
    first, last = span
    rows = bars.filter(pl.col("timestamp").is_between(times[first], times[last - 1]))
    return rows.select("symbol", "session", "timestamp", pl.lit(0.0).alias("exposure"))
