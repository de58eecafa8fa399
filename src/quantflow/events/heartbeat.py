"""Signs of life of services, in the database's time."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from quantflow.errors import LogUnavailableError
from quantflow.events.log import EventLog
from quantflow.telemetry import get_logger

__all__ = ["alive", "beat", "beating"]

_log = get_logger(__name__)


def beat(log: EventLog, service: str) -> None:
    """Say that this process is alive as ``service``."""
    with log.transaction() as connection:
        connection.execute(
            "INSERT INTO service_heartbeats (service, host, pid, beat_at) VALUES (%s, %s, %s, clock_timestamp())"
            " ON CONFLICT (service, host, pid) DO UPDATE SET beat_at = excluded.beat_at",
            (service, socket.gethostname(), os.getpid()),
        )
        connection.execute(
            "DELETE FROM service_heartbeats WHERE service = %s AND beat_at < clock_timestamp() - interval '1 day'",
            (service,),
        )


def alive(log: EventLog, service: str, within_s: float = 10.0) -> bool:
    """Return whether any process of the service gave a sign of life within so many seconds."""
    with log.transaction() as connection:
        row = connection.execute(
            "SELECT 1 FROM service_heartbeats WHERE service = %s"
            " AND beat_at > clock_timestamp() - make_interval(secs => %s) LIMIT 1",
            (service, within_s),
        ).fetchone()
    return row is not None


@contextmanager
def beating(log: EventLog, service: str, *, every_s: float = 2.0) -> Iterator[None]:
    """Give signs of life from a thread for as long as the block runs; survives the database's restarts."""
    done = threading.Event()

    def run() -> None:
        while True:
            try:
                beat(log, service)
            except LogUnavailableError as exc:
                _log.warning("no heartbeat", beating_service=service, reason=str(exc))
            if done.wait(every_s):
                return

    thread = threading.Thread(target=run, name=f"heartbeat-{service}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
