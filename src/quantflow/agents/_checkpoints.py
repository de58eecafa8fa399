"""Checkpoints in PostgreSQL: a cache that lets a run go on where a dead worker left it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from quantflow.errors import LogUnavailableError

if TYPE_CHECKING:
    from langgraph.checkpoint.postgres import PostgresSaver

__all__ = ["open_checkpoints"]

_SETUP_LOCK = 0x71666C67  # any number that nothing else in this database locks
_SETUP_TIMEOUT_S = 60.0


@contextmanager
def open_checkpoints(dsn: str, *, connections: int = 4) -> Iterator[PostgresSaver]:
    """Yield LangGraph's saver on this database, its tables made.

    Raises
    ------
    LogUnavailableError
        The database cannot be reached.
    """
    from langgraph.checkpoint.postgres import PostgresSaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from psycopg.rows import dict_row
    from psycopg_pool import ConnectionPool

    # What the saver's documentation demands of its connections.
    demanded: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool: ConnectionPool[psycopg.Connection[dict[str, Any]]] = ConnectionPool(
        dsn, min_size=1, max_size=connections, kwargs=demanded, check=ConnectionPool.check_connection, open=False
    )
    try:
        pool.open(wait=True, timeout=_SETUP_TIMEOUT_S)
    except psycopg.OperationalError as exc:
        pool.close()
        raise LogUnavailableError(f"the checkpoints' database cannot be reached: {exc}") from exc
    try:
        # Strict even where LangGraph was imported before this package could set its variable.
        saver = PostgresSaver(pool, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        _set_up(saver, dsn)
        yield saver
    finally:
        pool.close()


def _set_up(saver: PostgresSaver, dsn: str) -> None:
    """Make the tables, one process at a time.

    The lock is polled: its own migrations build indexes concurrently, which waits for every open
    transaction, so a process waiting inside ``pg_advisory_lock`` would hold them up for ever.
    """
    pause = threading.Event()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(int(_SETUP_TIMEOUT_S / 0.1)):
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_SETUP_LOCK,)).fetchone()
            if row is not None and row[0]:
                saver.setup()
                return
            pause.wait(0.1)
    raise LogUnavailableError(
        f"the checkpoint tables are locked by another process for more than {_SETUP_TIMEOUT_S:g} s; "
        "end the process that holds the advisory lock"
    )
