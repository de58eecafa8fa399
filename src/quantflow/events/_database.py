"""The pool of connections to the event log's database, and how its failures are told."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from quantflow.errors import LogUnavailableError

__all__ = ["Connection", "Database", "connect_arguments", "masked", "unavailable"]

Connection = psycopg.Connection[tuple[Any, ...]]

_FAILURES = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed)


class Database:
    """A pool that opens at first use, in each process anew (Airflow forks its tasks)."""

    def __init__(self, dsn: str, *, application: str, timeout_s: float, pool_size: int) -> None:
        self.dsn = dsn
        self._application = application
        self._timeout_s = timeout_s
        self._pool_size = pool_size
        self._pool: ConnectionPool[Connection] | None = None
        self._inherited: ConnectionPool[Connection] | None = None
        self._pid = 0
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction: committed at the end, rolled back on an error."""
        try:
            with self._open_pool().connection() as connection:
                yield connection
        except _FAILURES as exc:
            raise unavailable(self.dsn, exc) from exc

    def connect(self) -> Connection:
        """Return a connection of its own, in autocommit mode, for LISTEN and session locks."""
        try:
            return psycopg.connect(self.dsn, autocommit=True, **self._arguments())
        except _FAILURES as exc:
            raise unavailable(self.dsn, exc) from exc

    def close(self) -> None:
        """Close the pool; the next use opens it again."""
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None and self._pid == os.getpid():
                pool.close()

    def _open_pool(self) -> ConnectionPool[Connection]:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                # Kept: were it collected in a forked child, it would close the parent's connections.
                self._inherited = self._pool
                self._pid = os.getpid()
                self._pool = ConnectionPool(
                    self.dsn,
                    kwargs=self._arguments(),
                    min_size=0,
                    max_size=self._pool_size,
                    timeout=self._timeout_s,
                    reconnect_timeout=self._timeout_s,
                    max_idle=60.0,
                    # A connection may be older than the database it was made to.
                    check=ConnectionPool.check_connection,
                    name=self._application,
                    open=True,
                )
            return self._pool

    def _arguments(self) -> dict[str, Any]:
        return connect_arguments(self._application, self._timeout_s)


def connect_arguments(application: str, timeout_s: float) -> dict[str, Any]:
    """Return what every connection is made with."""
    return {
        "application_name": application,
        "connect_timeout": max(2, round(timeout_s)),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "options": "-c timezone=UTC",
    }


def unavailable(dsn: str, exc: BaseException) -> LogUnavailableError:
    """Return the error to raise for a failure of the database."""
    reason = " ".join(str(exc).split()) or type(exc).__name__
    secret = _password(dsn)
    if secret:
        reason = reason.replace(secret, "***")
    return LogUnavailableError(
        f"the event log at {masked(dsn)} failed: {reason}. "
        "Is PostgreSQL running (`quantflow status`), and is QUANTFLOW_DATABASE_URL right?"
    )


def masked(dsn: str) -> str:
    """Return the address without its password."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "an address that cannot be read"
    user = f"{quote(str(parts['user']))}@" if parts.get("user") else ""
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"postgresql://{user}{parts.get('host') or 'localhost'}{port}/{parts.get('dbname') or ''}"


def _password(dsn: str) -> str:
    try:
        return str(conninfo_to_dict(dsn).get("password") or "")
    except psycopg.ProgrammingError:
        return ""
