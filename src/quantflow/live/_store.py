"""The live tables: one row a symbol of state, one a bar of exposure, one a partition of progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from quantflow.errors import QuantflowError
from quantflow.events._database import Connection
from quantflow.events.log import EventLog

__all__ = ["LiveStore", "OvertakenError", "SavedState"]

_STAGE = """
    CREATE TEMPORARY TABLE live_batch (
        symbol text, session date, timestamp timestamptz, exposure double precision
    ) ON COMMIT DROP
"""
# A rebuilt signal meets the exposures that it recorded before: what was said first stays.
_PUBLISH = """
    INSERT INTO live_exposures (live_id, symbol, session, timestamp, exposure)
    SELECT %s, symbol, session, timestamp, exposure FROM live_batch
    ON CONFLICT DO NOTHING
"""
_SAVE_STATE = """
    INSERT INTO live_state (live_id, symbol, last_timestamp, bars, state) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (live_id, symbol) DO UPDATE
    SET last_timestamp = excluded.last_timestamp, bars = excluded.bars, state = excluded.state
"""
_FIRST_OFFSET = """
    INSERT INTO live_offsets (live_id, topic, partition, next_offset) VALUES (%s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
_MOVE_OFFSET = """
    UPDATE live_offsets SET next_offset = %s, updated_at = clock_timestamp()
    WHERE live_id = %s AND topic = %s AND partition = %s AND next_offset = %s
"""


class OvertakenError(QuantflowError):
    """Another process moved this signal on; load its state again."""


@dataclass(frozen=True)
class SavedState:
    """One symbol's state as it was saved."""

    symbol: str
    last_timestamp: datetime
    bars: int
    state: bytes


Place = tuple[str, int]


class LiveStore:
    """What one version of one pipeline keeps."""

    def __init__(self, log: EventLog, pipeline: str, version_id: str) -> None:
        self._log = log
        self._key = (pipeline, version_id)
        self._live_id: int | None = None

    def load(self) -> tuple[list[SavedState], dict[Place, int]]:
        """Return the saved states and next offsets, consistent with each other."""
        with self._log.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            live_id = self._identity(connection)
            states = connection.execute(
                "SELECT symbol, last_timestamp, bars, state FROM live_state WHERE live_id = %s", (live_id,)
            ).fetchall()
            offsets = self._offsets(connection, live_id)
        self._live_id = live_id
        return [SavedState(*row) for row in states], offsets

    def forget(self) -> None:
        """Drop states and offsets, so that the signal is rebuilt from the topic; exposures stay."""
        with self._log.transaction() as connection:
            self._forget(connection)

    def save(
        self,
        exposures: pl.DataFrame,
        states: Sequence[SavedState],
        moves: Mapping[Place, tuple[int | None, int]],
    ) -> None:
        """Keep a batch, all or nothing.

        Parameters
        ----------
        exposures
            ``symbol``, ``session``, ``timestamp``, ``exposure``.
        states
            The states after the batch of the symbols in it.
        moves
            By topic and partition: the next offset before (None: there was none) and after.

        Raises
        ------
        OvertakenError
            A next offset is not what it was before: another process is at work.
        """
        with self._log.transaction() as connection:
            live_id = self._live_id if self._live_id is not None else self._identity(connection)
            self._move(connection, live_id, moves)
            self._publish(connection, live_id, exposures)
            self._keep(connection, live_id, states)
            self._touch(connection, live_id)

    def report(self, error: str | None) -> None:
        """Say why the signal stands still; None: it goes on."""
        with self._log.transaction() as connection:
            live_id = self._identity(connection)
            connection.execute(
                "UPDATE live_signals SET error = %s, updated_at = clock_timestamp() WHERE live_id = %s",
                (error, live_id),
            )

    def _offsets(self, connection: Connection, live_id: int) -> dict[Place, int]:
        rows = connection.execute(
            "SELECT topic, partition, next_offset FROM live_offsets WHERE live_id = %s", (live_id,)
        ).fetchall()
        return {(topic, partition): at for topic, partition, at in rows}

    def _forget(self, connection: Connection) -> None:
        live_id = self._identity(connection)
        connection.execute("DELETE FROM live_offsets WHERE live_id = %s", (live_id,))
        connection.execute("DELETE FROM live_state WHERE live_id = %s", (live_id,))

    def _publish(self, connection: Connection, live_id: int, exposures: pl.DataFrame) -> None:
        if exposures.is_empty():
            return
        connection.execute(_STAGE)
        with connection.cursor().copy("COPY live_batch FROM STDIN (FORMAT csv)") as copy:
            copy.write(_csv(exposures))
        connection.execute(_PUBLISH, (live_id,))

    def _keep(self, connection: Connection, live_id: int, states: Sequence[SavedState]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(_SAVE_STATE, [(live_id, s.symbol, s.last_timestamp, s.bars, s.state) for s in states])

    def _move(self, connection: Connection, live_id: int, moves: Mapping[Place, tuple[int | None, int]]) -> None:
        # In one order everywhere, so that two processes cannot wait for each other.
        for (topic, partition), (before, after) in sorted(moves.items()):
            if before is None:
                done = connection.execute(_FIRST_OFFSET, (live_id, topic, partition, after))
            else:
                done = connection.execute(_MOVE_OFFSET, (after, live_id, topic, partition, before))
            if done.rowcount != 1:
                raise OvertakenError(
                    f"{self._key[0]}: another process read {topic}[{partition}] for this version; load its state again"
                )

    def _touch(self, connection: Connection, live_id: int) -> None:
        connection.execute(
            "UPDATE live_signals SET updated_at = clock_timestamp(), error = NULL WHERE live_id = %s", (live_id,)
        )

    def _identity(self, connection: Connection) -> int:
        known = connection.execute(
            "SELECT live_id FROM live_signals WHERE pipeline = %s AND version_id = %s", self._key
        ).fetchone()
        if known is None:
            connection.execute(
                "INSERT INTO live_signals (pipeline, version_id) VALUES (%s, %s) ON CONFLICT DO NOTHING", self._key
            )
            return self._identity(connection)
        return int(known[0])


def _csv(exposures: pl.DataFrame) -> str:
    """Return the rows as CSV; numbers are written so that they read back bit for bit."""
    return exposures.select("symbol", "session", "timestamp", "exposure").write_csv(
        include_header=False, datetime_format="%Y-%m-%dT%H:%M:%S%.6f%:z"
    )
