"""Waiting for a run without blocking the event loop: for Airflow's triggerer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import psycopg

from quantflow.errors import LogUnavailableError, UnknownRunError
from quantflow.events._database import connect_arguments, unavailable
from quantflow.events.runs import RunView
from quantflow.telemetry import get_logger

__all__ = ["wait_for_result"]

_log = get_logger(__name__)


async def wait_for_result(dsn: str, run_id: str, *, poll_s: float = 0.5, unavailable_for_s: float = 120.0) -> RunView:
    """Return the run's view once it is finished.

    Polls the event log on one connection and survives restarts of the database.

    Parameters
    ----------
    dsn
        ``postgresql://`` address of the event log.
    poll_s
        Seconds between two looks.
    unavailable_for_s
        For how long the database may be away before this gives up.

    Raises
    ------
    UnknownRunError
        There is no such run.
    LogUnavailableError
        The database was away for too long.
    """
    loop = asyncio.get_running_loop()
    connection: psycopg.AsyncConnection[Any] | None = None
    away_since: float | None = None
    try:
        while True:
            try:
                if connection is None:
                    connection = await psycopg.AsyncConnection.connect(
                        dsn, autocommit=True, **connect_arguments("quantflow-wait", 10.0)
                    )
                view = await _look(connection, run_id)
                away_since = None
                if view.finished:
                    return view
            except psycopg.OperationalError as exc:
                await _close(connection)
                connection = None
                away_since = loop.time() if away_since is None else away_since
                if loop.time() - away_since > unavailable_for_s:
                    raise unavailable(dsn, exc) from exc
                _log.warning("event log away, waiting", run_id=run_id, reason=str(unavailable(dsn, exc)))
            await asyncio.sleep(poll_s)
    finally:
        await _close(connection)


async def _look(connection: psycopg.AsyncConnection[Any], run_id: str) -> RunView:
    cursor = await connection.execute("SELECT view FROM run_view WHERE run_id = %s", (run_id,))
    row = await cursor.fetchone()
    if row is None:
        raise UnknownRunError(f"no run {run_id!r} in the event log")
    return RunView.model_validate(row[0])


async def _close(connection: psycopg.AsyncConnection[Any] | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error, LogUnavailableError):
            await connection.close()
