"""One signal on its market topics: records in, exposures kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import InvalidBarsError, MissingColumnError, SignalError
from quantflow.events.log import EventLog
from quantflow.events.transport import ReceivedRecord
from quantflow.live._store import LiveStore, Place, SavedState
from quantflow.signals import Decider, State
from quantflow.telemetry import get_logger

__all__ = ["BatchReport", "LiveSignal"]

_log = get_logger(__name__)


@dataclass(frozen=True)
class BatchReport:
    """What became of one batch.

    Attributes
    ----------
    records
        How many were read.
    bars
        Bars that the signal took.
    skipped
        Bars not newer than the last of their symbol; for a cross-sectional signal, all bars of
        its universe that came late or again.
    late
        Of the skipped, those that a cross-section was or will be decided without.
    """

    records: int
    bars: int
    skipped: int
    late: int = 0


@dataclass
class _Symbol:
    state: State
    last_timestamp: datetime
    bars: int


class LiveSignal:
    """A signal's live state, in memory and in the log's database.

    Bars of a symbol are taken in the order of their topic. A bar that is not newer than the
    last one taken is skipped: a replay of history changes nothing, and a restatement, which
    has the timestamp of a bar already acted on, is not unsaid. A backtest over later
    restatements can therefore differ; over what was first published it cannot.

    Memory changes only once a batch is kept, so after an error the same batch can be tried
    again; after an :class:`OvertakenError` call :meth:`load` first.
    """

    def __init__(self, pipeline: str, version_id: str, decider: Decider, log: EventLog) -> None:
        self.pipeline = pipeline
        self.version_id = version_id
        self.decider = decider
        self._store = LiveStore(log, pipeline, version_id)
        self._symbols: dict[str, _Symbol] = {}
        self._offsets: dict[Place, int] = {}

    @property
    def offsets(self) -> dict[Place, int]:
        """Next offset to read, by topic and partition."""
        return dict(self._offsets)

    def load(self) -> dict[Place, int]:
        """Take up what was kept last and return the next offsets to read.

        States that were saved by other code (after an upgrade of quantflow or Python) are
        dropped, and the signal is rebuilt from the first record of its topics.
        """
        saved, offsets = self._store.load()
        try:
            self._symbols = {
                each.symbol: _Symbol(self.decider.restore(each.state), each.last_timestamp, each.bars) for each in saved
            }
            self._offsets = offsets
        except SignalError as exc:
            _log.warning("live state rebuilt from the topic", pipeline=self.pipeline, reason=str(exc))
            self._store.forget()
            self._symbols, self._offsets = {}, {}
        return self.offsets

    def process(self, records: Sequence[ReceivedRecord], bars: pl.DataFrame) -> BatchReport:
        """Take one batch and keep everything that follows from it, in one transaction.

        Parameters
        ----------
        records
            As polled; their offsets are what is marked as read.
        bars
            The bars in them, in the order of the records; a record without a bar (a dead
            letter) just has no row.

        Raises
        ------
        MissingColumnError, InvalidBarsError, SignalError
            The signal cannot use a bar; nothing of the batch was kept.
        OvertakenError
            Another process has taken these records; nothing of the batch was kept.
        """
        fresh = self._fresh(bars)
        exposures, states = self._advance(fresh)
        moves = self._moves(records)
        self._store.save(exposures, [self._saved(name, each) for name, each in states.items()], moves)
        self._symbols |= states
        self._offsets |= {place: after for place, (_, after) in moves.items()}
        return BatchReport(len(records), fresh.height, bars.height - fresh.height)

    def fail(self, error: str) -> None:
        """Record why this signal stands still, for status pages; the next batch clears it."""
        self._store.report(error)

    def _fresh(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return the bars that are newer than all before them of their symbol, grouped by symbol."""
        names = bars["symbol"].unique().to_list()
        last = pl.DataFrame(
            {
                "symbol": names,
                "last": [self._symbols[name].last_timestamp if name in self._symbols else None for name in names],
            },
            schema={"symbol": pl.String, "last": bars.schema["timestamp"]},
        )
        newest_before = pl.max_horizontal("last", pl.col("timestamp").cum_max().shift(1).over("symbol"))
        return (
            bars.join(last, on="symbol", how="left", maintain_order="left")
            .filter((pl.col("timestamp") > newest_before) | newest_before.is_null())
            .drop("last")
            .sort("symbol", maintain_order=True)
        )

    def _advance(self, fresh: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, _Symbol]]:
        keys = fresh.select("symbol", "session", "timestamp")
        if fresh.is_empty():
            return keys.with_columns(exposure=pl.lit(0.0)), {}
        matrix = self._matrix(fresh)
        groups = fresh.group_by("symbol", maintain_order=True).agg(pl.len(), pl.col("timestamp").last())
        known = [self._symbols.get(name) for name in groups["symbol"]]
        states = np.array([self.decider.start() if each is None else each.state for each in known])
        bounds = np.concatenate([[0], np.cumsum(groups["len"].to_numpy())]).astype(np.int64)
        exposures = self.decider.advance(states, bounds, matrix, label=lambda row: _label(fresh, row))
        advanced = {
            name: _Symbol(state.copy(), timestamp, count + (0 if each is None else each.bars))
            for (name, count, timestamp), each, state in zip(groups.iter_rows(), known, states, strict=True)
        }
        return keys.with_columns(pl.Series("exposure", exposures)), advanced

    def _matrix(self, fresh: pl.DataFrame) -> npt.NDArray[np.float64]:
        for column in self.decider.columns:
            if fresh[column].null_count():
                row = int(fresh[column].is_null().arg_max() or 0)
                raise MissingColumnError(
                    f"signal {self.decider.name!r} reads the column {column!r}, which the bar of {_label(fresh, row)} "
                    "does not have; publish bars of a source that has it, or promote another signal"
                )
        matrix = np.array([fresh[column].to_numpy() for column in self.decider.columns], dtype=np.float64, order="C")
        bad = np.argwhere(~np.isfinite(matrix.T))
        if len(bad):
            row, index = bad[0]
            problem = f"{self.decider.columns[index]} is {matrix[index, row]} in the bar of {_label(fresh, int(row))}"
            raise InvalidBarsError([problem], source=self.pipeline)
        return matrix

    def _moves(self, records: Sequence[ReceivedRecord]) -> dict[Place, tuple[int | None, int]]:
        after: dict[Place, int] = {}
        for record in records:
            place = (record.topic, record.partition)
            after[place] = max(after.get(place, 0), record.offset + 1)
        return {place: (self._offsets.get(place), offset) for place, offset in after.items()}

    def _saved(self, name: str, each: _Symbol) -> SavedState:
        return SavedState(name, each.last_timestamp, each.bars, self.decider.snapshot(each.state))


def _label(bars: pl.DataFrame, row: int) -> str:
    return f"{bars['symbol'][row]} at {bars['session'][row]}"
