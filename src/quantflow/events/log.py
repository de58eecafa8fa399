"""The event log: one append-only, hash-chained table that is the truth about every run.

Appends take one lock for the whole log. So positions have no gaps, become visible in their
order (a reader that has seen position n will never see a new event below n), and each event
can name the hash of the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg

from quantflow.errors import EventError, EventTooLargeError
from quantflow.events import _migrate, _rows
from quantflow.events._database import Connection, Database, masked, unavailable
from quantflow.events._rows import CHANNEL
from quantflow.events.envelope import DEFAULT_SOURCE, Envelope, encode, wrap
from quantflow.events.records import GENESIS_HASH, Draft, StoredEvent
from quantflow.settings import Settings

__all__ = ["CHANNEL", "Connection", "Draft", "EventLog", "StoredEvent"]


class EventLog:
    """The log in one database. Connects at first use; safe to share between threads.

    Parameters
    ----------
    dsn
        ``postgresql://`` address.
    source
        CloudEvents source of what this process appends.
    max_event_bytes
        Larger events are refused: they would not fit their topic.
    timeout_s
        How long to wait for a connection.
    pool_size
        Most connections at once.
    """

    def __init__(
        self,
        dsn: str,
        *,
        source: str = DEFAULT_SOURCE,
        max_event_bytes: int = 900_000,
        timeout_s: float = 10.0,
        pool_size: int = 8,
    ) -> None:
        self.source = source
        self.max_event_bytes = max_event_bytes
        self._database = Database(dsn, application=source, timeout_s=timeout_s, pool_size=pool_size)

    @classmethod
    def from_settings(cls, settings: Settings, *, source: str = DEFAULT_SOURCE) -> Self:
        """Return the log of these settings."""
        return cls(settings.database, source=source, max_event_bytes=settings.max_event_bytes)

    @property
    def dsn(self) -> str:
        """The address, password included: never log it."""
        return self._database.dsn

    def __repr__(self) -> str:
        return f"EventLog({masked(self.dsn)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._database.close()

    def migrate(self) -> list[str]:
        """Bring the database's tables up to date; return the names of the files applied."""
        with self.transaction() as connection:
            return _migrate.apply(connection, _migrate.find())

    def transaction(self) -> AbstractContextManager[Connection]:
        """Return a context that yields a connection in a transaction.

        It is committed at the end of the block and rolled back on an error. Lock rows first and
        append last: an append holds the log's one lock until the transaction ends.
        """
        return self._database.transaction()

    def connect(self) -> Connection:
        """Return a connection of its own in autocommit mode (LISTEN, session locks); close it."""
        return self._database.connect()

    def append(
        self,
        stream: str,
        drafts: Iterable[Draft],
        *,
        expected_version: int | None = None,
        connection: Connection | None = None,
    ) -> list[StoredEvent]:
        """Append events to a stream and return them as stored.

        A draft whose event id is in the log already is not appended again: the stored event is
        returned in its place. So a retried append with derived ids is harmless.

        Parameters
        ----------
        stream
            Name of the stream, such as ``run-<run_id>``.
        drafts
            The events, in order.
        expected_version
            Version that the stream must have, 0 for a new one; not checked when every draft is
            in the log already.
        connection
            Transaction to append in; by default one of its own.

        Raises
        ------
        VersionConflictError
            The stream has another version.
        EventTooLargeError
            An event is larger than ``max_event_bytes``.
        EventError
            An event id is taken by an event of another stream or type.
        LogUnavailableError
            The database cannot be reached.
        """
        wanted = [(draft, self._envelope(stream, draft)) for draft in drafts]
        with self.transaction() if connection is None else nullcontext(connection) as active:
            return _rows.append(active, stream, wanted, expected_version)

    def read_stream(
        self, stream: str, *, after_version: int = 0, connection: Connection | None = None
    ) -> list[StoredEvent]:
        """Return the events of a stream, oldest first; empty for an unknown one."""
        where: LiteralString = "stream = %s AND stream_version > %s ORDER BY stream_version"
        return self._read(where, (stream, after_version), connection)

    def read_all(
        self,
        after: int = 0,
        limit: int = 1000,
        *,
        types: Sequence[str] | None = None,
        connection: Connection | None = None,
    ) -> list[StoredEvent]:
        """Return up to ``limit`` events behind position ``after``, in log order, of all or some types."""
        if types is None:
            return self._read("position > %s ORDER BY position LIMIT %s", (after, limit), connection)
        where: LiteralString = "position > %s AND type = ANY(%s) ORDER BY position LIMIT %s"
        return self._read(where, (after, list(types), limit), connection)

    def read_positions(self, positions: Sequence[int], *, connection: Connection | None = None) -> list[StoredEvent]:
        """Return the events at these positions, in log order."""
        return self._read("position = ANY(%s) ORDER BY position", (list(positions),), connection)

    def log_id(self) -> str:
        """Return the id of this log: positions mean nothing in another one."""
        with self.transaction() as connection:
            row = connection.execute("SELECT log_id FROM log_identity").fetchone()
        if row is None:
            raise EventError("the log has no identity; run `quantflow up` to migrate its database")
        return str(row[0])

    def get(self, event_id: str, *, connection: Connection | None = None) -> StoredEvent | None:
        """Return the event of that id, or None."""
        found = self._read("event_id = %s", (event_id,), connection)
        return found[0] if found else None

    def stream_version(self, stream: str, *, connection: Connection | None = None) -> int:
        """Return the version of the stream's last event, 0 for an unknown stream."""
        with self.transaction() if connection is None else nullcontext(connection) as active:
            return _rows.stream_version(active, stream)

    def head(self) -> tuple[int, str]:
        """Return position and hash of the last event: the fingerprint of the whole log."""
        with self.transaction() as connection:
            return _rows.head(connection)

    def verify(self, *, batch: int = 2000) -> int | None:
        """Return the first position whose event was edited, removed or moved, or None.

        Cutting off the end of the log is not seen here: compare :meth:`head` with one kept elsewhere.
        """
        ended, before = (0, GENESIS_HASH), None
        while ended != before:
            before = ended
            with self.transaction() as connection:
                broken, ended = _rows.first_broken(connection, before, batch)
            if broken is not None:
                return broken
        return None

    def notifications(self, connection: Connection, timeout_s: float) -> bool:
        """Wait on a listening connection (see :meth:`listen`); return whether something was appended."""
        with _translated(self.dsn):
            return any(True for _ in connection.notifies(timeout=timeout_s, stop_after=1))

    def try_lock(self, connection: Connection, key: int) -> bool:
        """Take a lock that lasts as long as the connection; False where another process holds it."""
        with _translated(self.dsn):
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
        return row is not None and bool(row[0])

    @contextmanager
    def listen(self) -> Iterator[Connection]:
        """Yield a connection that hears of every append."""
        connection = self.connect()
        try:
            with _translated(self.dsn):
                connection.execute(f"LISTEN {CHANNEL}")
            yield connection
        finally:
            connection.close()

    def _read(
        self, where: LiteralString, parameters: tuple[Any, ...], connection: Connection | None
    ) -> list[StoredEvent]:
        with self.transaction() if connection is None else nullcontext(connection) as active:
            return _rows.select(active, where, parameters)

    def _envelope(self, stream: str, draft: Draft) -> Envelope:
        envelope = wrap(draft.event, subject=draft.subject or stream, event_id=draft.event_id, source=self.source)
        size = len(encode(envelope))
        if size > self.max_event_bytes:
            raise EventTooLargeError(
                f"{envelope.type} for {stream} has {size:,} bytes; {self.max_event_bytes:,} are allowed "
                "(QUANTFLOW_MAX_EVENT_BYTES). Put large content into the blob store and refer to it by hash."
            )
        return envelope


@contextmanager
def _translated(dsn: str) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as exc:
        raise unavailable(dsn, exc) from exc
