"""What a cross-sectional signal keeps: one state for its universe, and whom it decided without."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from quantflow.events._database import Connection
from quantflow.live._sections import Progress
from quantflow.live._store import LiveStore, OvertakenError, Place, SavedState

__all__ = ["SavedSection", "SectionStore"]

_LOAD = "SELECT sections, last_timestamp, state, progress FROM live_sections WHERE live_id = %s"
_FIRST = """
    INSERT INTO live_sections (live_id, sections, last_timestamp, state, progress) VALUES (%s, %s, %s, %s, %s::json)
    ON CONFLICT DO NOTHING
"""
_MOVE = """
    UPDATE live_sections SET sections = %s, last_timestamp = %s, state = %s, progress = %s::json
    WHERE live_id = %s AND sections = %s
"""
_ABSENT = """
    INSERT INTO live_absences (live_id, symbol, timestamp)
    SELECT %s, * FROM unnest(%s::text[], %s::timestamptz[]) ON CONFLICT DO NOTHING
"""
_LATE = """
    INSERT INTO live_absences AS known (live_id, symbol, timestamp, late_at)
    SELECT %s, symbol, timestamp, clock_timestamp()
    FROM unnest(%s::text[], %s::timestamptz[]) AS bars (symbol, timestamp)
    ON CONFLICT (live_id, symbol, timestamp) DO UPDATE SET late_at = excluded.late_at WHERE known.late_at IS NULL
"""
# A bar of a decided timestamp is late where the decision was made without it; otherwise it is a repetition.
_LATE_IF_ABSENT = """
    UPDATE live_absences AS known SET late_at = clock_timestamp()
    FROM unnest(%s::text[], %s::timestamptz[]) AS bars (symbol, timestamp)
    WHERE known.live_id = %s AND known.symbol = bars.symbol AND known.timestamp = bars.timestamp AND late_at IS NULL
"""


@dataclass(frozen=True)
class SavedSection:
    """The universe's state after ``sections`` timestamps, the last of them ``last_timestamp``."""

    sections: int
    last_timestamp: datetime | None
    state: bytes
    progress: Progress


class SectionStore(LiveStore):
    """What one version of one pipeline keeps, cross-sectional."""

    def load_section(self) -> tuple[SavedSection | None, dict[Place, int]]:
        """Return the saved state, None before the first, and next offsets, consistent with each other."""
        with self._log.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            live_id = self._identity(connection)
            row = connection.execute(_LOAD, (live_id,)).fetchone()
            offsets = self._offsets(connection, live_id)
        self._live_id = live_id
        if row is None:
            return None, offsets
        sections, last_timestamp, state, progress = row
        return SavedSection(sections, last_timestamp, state, _progress_of(progress)), offsets

    def forget(self) -> None:
        """Drop state and offsets, so that the signal is rebuilt from the topic; what it said stays."""
        with self._log.transaction() as connection:
            self._forget(connection)
            connection.execute("DELETE FROM live_sections WHERE live_id = %s", (self._identity(connection),))

    def save_section(
        self,
        exposures: pl.DataFrame,
        symbols: Sequence[SavedState],
        moves: Mapping[Place, tuple[int | None, int]],
        *,
        before: int | None,
        section: SavedSection,
        absent: pl.DataFrame,
        late: pl.DataFrame,
        old: pl.DataFrame,
    ) -> int:
        """Keep a batch, all or nothing, and return how many late bars were recorded.

        Parameters
        ----------
        exposures
            ``symbol``, ``session``, ``timestamp``, ``exposure``.
        symbols
            How far each symbol is, without a state of its own.
        moves
            By topic and partition: the next offset before (None: there was none) and after.
        before
            Timestamps decided before, None if nothing was kept yet.
        section
            The state after the batch.
        absent, late, old
            Symbol and timestamp: of decisions made without a bar; of bars too late for a decision
            still to be made; of bars of decided timestamps, late or repeated.

        Raises
        ------
        OvertakenError
            Another process is at work.
        """
        with self._log.transaction() as connection:
            live_id = self._live_id if self._live_id is not None else self._identity(connection)
            self._move(connection, live_id, moves)
            self._move_section(connection, live_id, before, section)
            self._publish(connection, live_id, exposures)
            self._keep(connection, live_id, symbols)
            recorded = 0
            if absent.height:
                connection.execute(_ABSENT, (live_id, *_arrays(absent)))
            if late.height:
                recorded += connection.execute(_LATE, (live_id, *_arrays(late))).rowcount
            if old.height:
                recorded += connection.execute(_LATE_IF_ABSENT, (*_arrays(old), live_id)).rowcount
            self._touch(connection, live_id)
        return recorded

    def _move_section(self, connection: Connection, live_id: int, before: int | None, section: SavedSection) -> None:
        values = (section.sections, section.last_timestamp, section.state, json.dumps(_as_json(section.progress)))
        if before is None:
            done = connection.execute(_FIRST, (live_id, *values))
        else:
            done = connection.execute(_MOVE, (*values, live_id, before))
        if done.rowcount != 1:
            raise OvertakenError(
                f"{self._key[0]}: another process decided on timestamps of this version; load its state again"
            )


def _arrays(bars: pl.DataFrame) -> tuple[list[str], list[datetime]]:
    return bars["symbol"].to_list(), bars["timestamp"].to_list()


def _as_json(progress: Progress) -> dict[str, object]:
    return {
        "newest": [[*place, timestamp.isoformat()] for place, timestamp in sorted(progress.newest.items())],
        "homes": {symbol: list(place) for symbol, place in sorted(progress.homes.items())},
    }


def _progress_of(kept: Mapping[str, Any]) -> Progress:
    return Progress(
        {(topic, partition): datetime.fromisoformat(timestamp) for topic, partition, timestamp in kept["newest"]},
        {symbol: (topic, partition) for symbol, (topic, partition) in kept["homes"].items()},
    )
