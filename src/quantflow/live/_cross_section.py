"""One cross-sectional signal on its market topics: timestamps decided once, as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import numpy as np
import polars as pl

from quantflow.errors import SignalError
from quantflow.events.log import EventLog
from quantflow.events.transport import ReceivedRecord
from quantflow.live._section_store import SavedSection, SectionStore
from quantflow.live._sections import Progress, Taken, closing, empty_waiting, kept_at, take
from quantflow.live._signal import BatchReport
from quantflow.live._store import Place, SavedState
from quantflow.signals import BoundCrossSection, Panel, State
from quantflow.telemetry import get_logger

__all__ = ["LiveCrossSection"]

_log = get_logger(__name__)


class LiveCrossSection:
    """A cross-sectional signal's live state, in memory and in the log's database.

    A timestamp's cross-section is decided once, in the order of time, as soon as every symbol of
    the universe has its bar or cannot have it any more: its partition has shown a later
    timestamp. So bars of all symbols must be published in the order of time, and a symbol
    that shows nothing is waited for until its partition moves on. A signal with ``grace_s``
    waits no longer than that once everything published was read.

    *Late bars* came after a later timestamp of their partition, or after the decision. They
    are recorded (:func:`~quantflow.live.live_absences`) and change nothing: no decision is
    rewritten, no indicator sees them. A second bar of a symbol and timestamp is skipped.

    What waits is not kept but read again after a restart, which therefore goes on bit for bit.
    Memory changes only once a batch is kept, so after an error the same batch can be tried
    again; after an :class:`OvertakenError` call :meth:`load` first.

    Raises
    ------
    SignalError
        The signal has no universe: ``@cross_sectional(symbols=[...])`` or ``bind(symbols=[...])``.
    """

    _state: State
    _waiting: pl.DataFrame
    _progress: Progress
    _filled: frozenset[Place]
    _sections: int | None
    _decided: datetime | None
    _offsets: dict[Place, int]
    _reached: dict[Place, int]
    _arrived: dict[datetime, float]

    def __init__(
        self,
        pipeline: str,
        version_id: str,
        decider: BoundCrossSection,
        log: EventLog,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pipeline = pipeline
        self.version_id = version_id
        self.decider = decider
        self._universe = decider.symbols or ()
        self._clock = clock
        self._store = SectionStore(log, pipeline, version_id)
        self._reset()

    @property
    def offsets(self) -> dict[Place, int]:
        """Next offset to read after a restart, by topic and partition."""
        return dict(self._offsets)

    def load(self) -> dict[Place, int]:
        """Take up what was kept last and return the next offsets to read.

        A state that was saved by other code (after an upgrade of quantflow or Python) is
        dropped, and the signal is rebuilt from the first record of its topics.
        """
        self._reset()
        saved, offsets = self._store.load_section()
        if saved is None:
            return self.offsets
        try:
            self._state = self.decider.restore(saved.state)
        except SignalError as exc:
            _log.warning("live state rebuilt from the topic", pipeline=self.pipeline, reason=str(exc))
            self._store.forget()
            return self.offsets
        self._sections, self._decided, self._progress = saved.sections, saved.last_timestamp, saved.progress
        self._offsets, self._reached = offsets, dict(offsets)
        return self.offsets

    def watch(self, filled: Iterable[Place]) -> None:
        """Say which partitions hold records: a symbol that was never seen may be in any of them."""
        self._filled = frozenset(filled)

    def process(self, records: Sequence[ReceivedRecord], bars: pl.DataFrame) -> BatchReport:
        """Take one batch and keep everything that follows from it, in one transaction.

        Parameters
        ----------
        records
            As polled.
        bars
            The bars in them with their places, in the order of the records; a record without a
            bar (a dead letter) just has no row.

        Raises
        ------
        MissingColumnError, InvalidBarsError, SignalError
            The signal cannot use a bar, or refuses missing symbols; nothing of the batch was kept.
        OvertakenError
            Another process has decided on these timestamps; nothing of the batch was kept.
        """
        taken = take(bars, self._waiting, self._progress, universe=self._universe, decided=self._decided)
        waiting = pl.concat([self._waiting, taken.fresh])
        ready = closing(waiting, taken.progress, universe=self._universe, filled=self._filled)
        reached = dict(self._reached)
        for record in records:
            place = (record.topic, record.partition)
            reached[place] = max(reached.get(place, 0), record.offset + 1)
        return self._keep(len(records), taken, waiting, ready, reached)

    @property
    def overdue(self) -> datetime | None:
        """The newest timestamp that has waited for ``grace_s`` since its first bar was read, None if there is none."""
        grace_s = self.decider.signal.grace_s
        if grace_s is None or not self._arrived:
            return None
        now = self._clock()
        return max((timestamp for timestamp, at in self._arrived.items() if now - at >= grace_s), default=None)

    def close(self, through: datetime) -> BatchReport:
        """Decide on every timestamp up to ``through`` with the symbols that are there.

        Raises
        ------
        As :meth:`process`.
        """
        nothing = empty_waiting(self.decider.columns)
        taken = take(nothing, self._waiting, self._progress, universe=self._universe, decided=self._decided)
        ready = self._waiting.filter(pl.col("timestamp") <= pl.lit(through, dtype=self._waiting.schema["timestamp"]))
        report = self._keep(0, taken, self._waiting, ready, self._reached)
        _log.warning("cross-sections decided without waiting", pipeline=self.pipeline, through=str(through))
        return report

    def fail(self, error: str) -> None:
        """Record why this signal stands still, for status pages; the next batch clears it."""
        self._store.report(error)

    def _reset(self) -> None:
        self._state = self.decider.start()
        self._waiting = empty_waiting(self.decider.columns)
        self._progress = Progress()
        self._filled = frozenset()
        self._sections, self._decided = None, None
        self._offsets, self._reached, self._arrived = {}, {}, {}

    def _keep(
        self, records: int, taken: Taken, waiting: pl.DataFrame, ready: pl.DataFrame, reached: dict[Place, int]
    ) -> BatchReport:
        state, exposures, absent = self._decide(ready)
        decided = ready["timestamp"].max() if ready.height else self._decided
        assert decided is None or isinstance(decided, datetime)
        waiting = waiting.join(ready, on=["symbol", "timestamp"], how="anti")
        places = {place: kept_at(place, at, waiting, taken.progress) for place, at in reached.items()}
        newest = {place: timestamp for place, (_, timestamp) in places.items() if timestamp is not None}
        moves = {place: (self._offsets.get(place), at) for place, (at, _) in places.items()}
        section = SavedSection(
            self.decider.timestamps_seen(state),
            decided,
            self.decider.snapshot(state),
            Progress(newest, taken.progress.homes),
        )
        seen = self.decider.bars_seen(self._state)
        strangers = [symbol for symbol, bars in zip(self._universe, seen, strict=True) if bars == 0]
        unheard = pl.col("symbol").is_in(strangers)
        late = self._store.save_section(
            exposures,
            self._symbols(state, decided) if ready.height else [],
            {place: move for place, move in moves.items() if move[0] != move[1]},
            before=self._sections,
            section=section,
            absent=absent,
            # Of symbols never heard of no absence was recorded, so every bar of theirs is late.
            late=pl.concat([taken.late, taken.old.filter(unheard)]),
            old=taken.old.filter(~unheard),
        )
        self._state, self._waiting, self._progress, self._decided = state, waiting, taken.progress, decided
        self._sections, self._reached = section.sections, reached
        self._offsets = {place: at for place, (at, _) in places.items()}
        self._note_arrivals()
        return BatchReport(records, taken.fresh.height, taken.refused, late)

    def _decide(self, ready: pl.DataFrame) -> tuple[State, pl.DataFrame, pl.DataFrame]:
        """Return the state after these bars, what the signal says of each symbol, and who was absent."""
        state = self._state.copy()
        if ready.is_empty():
            keys = ready.select("symbol", "session", "timestamp")
            return state, keys.with_columns(exposure=pl.lit(0.0)), keys.select("symbol", "timestamp")
        panel = Panel.of(ready, self.decider.columns, symbols=self._universe, owner=self.decider.name)
        heard = self.decider.bars_seen(state) > 0
        weights = self.decider.weigh(state, panel.columns, panel.present, label=panel.label)
        rows, places = np.nonzero(~panel.present & (np.logical_or.accumulate(panel.present, axis=0) | heard))
        absent = pl.DataFrame(
            {
                "symbol": pl.Series(self._universe, dtype=pl.String).gather(places),
                "timestamp": panel.timestamps.gather(rows),
            }
        )
        return state, panel.frame(weights, heard), absent

    def _symbols(self, state: State, decided: datetime | None) -> list[SavedState]:
        assert decided is not None
        counts = zip(self._universe, self.decider.bars_seen(state).tolist(), strict=True)
        return [SavedState(symbol, decided, bars, b"") for symbol, bars in counts if bars]

    def _note_arrivals(self) -> None:
        if self.decider.signal.grace_s is None:
            return
        now = self._clock()
        self._arrived = {
            timestamp: self._arrived.get(timestamp, now) for timestamp in self._waiting["timestamp"].unique()
        }
