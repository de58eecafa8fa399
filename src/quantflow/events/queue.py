"""Work that exactly one worker at a time may do, by leases in the database's time.

Each lease carries a token that rises with every claim. A worker that lost its lease (stopped,
cut off, too slow) is refused by :meth:`WorkQueue.guard` inside the transaction in which it
wanted to write: so the effects of one piece of work come from one holder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Json

from quantflow.errors import LeaseLostError
from quantflow.events._database import Connection
from quantflow.events.log import EventLog

__all__ = ["Lease", "WorkQueue"]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on something until it is claimed by another.

    ``attempt`` counts claims from 1; ``token`` is the fencing token; ``lease_s`` the seconds
    that a claim or renewal lasts.
    """

    run_id: str
    kind: str
    owner: str
    token: int
    attempt: int
    lease_s: float
    payload: dict[str, Any]


class WorkQueue:
    """The table ``work`` of an event log's database."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def enqueue(
        self,
        connection: Connection,
        run_id: str,
        kind: str,
        priority: int = 5,
        payload: Mapping[str, Any] | None = None,
    ) -> bool:
        """Add work in the caller's transaction; False if the run has work already.

        Parameters
        ----------
        kind
            Which workers it is for.
        priority
            0 to 10; the highest goes first, then the oldest.
        """
        cursor = connection.execute(
            "INSERT INTO work (run_id, kind, priority, payload) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (run_id, kind, priority, Json(dict(payload or {}))),
        )
        return cursor.rowcount == 1

    def claim(self, kind: str, owner: str, lease_s: float) -> Lease | None:
        """Return a lease on the most urgent work that nobody holds, or None.

        Work whose lease ran out counts as held by nobody.
        """
        with self._log.transaction() as connection:
            row = connection.execute(
                "UPDATE work SET state = 'leased', owner = %(owner)s, token = token + 1, attempts = attempts + 1,"
                " lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)"
                " WHERE run_id = (SELECT run_id FROM work WHERE kind = %(kind)s AND"
                " ((state = 'ready' AND available_at <= clock_timestamp())"
                "  OR (state = 'leased' AND lease_until < clock_timestamp()))"
                " ORDER BY priority DESC, enqueued_at, run_id LIMIT 1 FOR UPDATE SKIP LOCKED)"
                " RETURNING run_id, token, attempts, payload",
                {"owner": owner, "lease_s": lease_s, "kind": kind},
            ).fetchone()
        if row is None:
            return None
        return Lease(row[0], kind, owner, row[1], row[2], lease_s, row[3])

    def renew(self, lease: Lease) -> None:
        """Extend the lease by another ``lease_s`` from now.

        Raises
        ------
        LeaseLostError
            Another has claimed the work, or it is finished.
        """
        with self._log.transaction() as connection:
            cursor = connection.execute(
                "UPDATE work SET lease_until = clock_timestamp() + make_interval(secs => %s)"
                " WHERE run_id = %s AND token = %s AND state = 'leased'",
                (lease.lease_s, lease.run_id, lease.token),
            )
            if cursor.rowcount != 1:
                raise _lost(lease)

    def guard(self, connection: Connection, lease: Lease) -> None:
        """Refuse the caller's transaction unless the lease still holds; call it before writing.

        Locks the row, so that nobody can claim the work until the transaction ends.

        Raises
        ------
        LeaseLostError
            Another has claimed the work, or it is finished.
        """
        row = connection.execute(
            "SELECT 1 FROM work WHERE run_id = %s AND token = %s AND state = 'leased' FOR UPDATE",
            (lease.run_id, lease.token),
        ).fetchone()
        if row is None:
            raise _lost(lease)

    def complete(self, connection: Connection, lease: Lease, *, error: str | None = None) -> None:
        """Finish the work in the caller's transaction: done, or failed for good if ``error`` is given.

        Raises
        ------
        LeaseLostError
            Another has claimed the work, or it is finished.
        """
        self.guard(connection, lease)
        connection.execute(
            "UPDATE work SET state = %s, error = %s, lease_until = NULL, finished_at = clock_timestamp()"
            " WHERE run_id = %s",
            ("done" if error is None else "failed", _text(error), lease.run_id),
        )

    def release(self, lease: Lease, error: str | None = None, retry_in_s: float = 0.0) -> None:
        """Give the work back, to be claimed after ``retry_in_s``; no effect on a lost lease."""
        with self._log.transaction() as connection:
            connection.execute(
                "UPDATE work SET state = 'ready', owner = NULL, lease_until = NULL, error = %s,"
                " available_at = clock_timestamp() + make_interval(secs => %s)"
                " WHERE run_id = %s AND token = %s AND state = 'leased'",
                (_text(error), retry_in_s, lease.run_id, lease.token),
            )

    def counts(self, kind: str) -> dict[str, int]:
        """Return how much work of that kind is in which state."""
        with self._log.transaction() as connection:
            rows = connection.execute("SELECT state, count(*) FROM work WHERE kind = %s GROUP BY state", (kind,))
            return {str(state): int(count) for state, count in rows}


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(
        f"{lease.owner} no longer holds the lease on {lease.run_id} (token {lease.token}): "
        "it ran out and another worker has the work, or it is finished; stop working on it"
    )


def _text(error: str | None) -> str | None:
    # PostgreSQL's text cannot hold NUL, error messages can.
    return None if error is None else error.replace("\x00", "\N{REPLACEMENT CHARACTER}")
