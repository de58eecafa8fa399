"""Waiting for a run inside Airflow's triggerer: no worker slot is held meanwhile.

The trigger polls the event log for one run id. It never reads a shared topic: a triggerer
that waits for a correlated reply on one would have to read, and commit, everybody else's.
Its serialised arguments hold no address and no secret; the triggerer's own environment
names the event log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from quantflow.errors import LogUnavailableError, UnknownRunError
from quantflow.events.log import EventLog
from quantflow.events.runs import TERMINAL_STATES, get_run
from quantflow.settings import Settings
from quantflow.telemetry import get_logger

__all__ = ["RunFinishedTrigger"]

log = get_logger(__name__)

#: The looks of all triggers of a triggerer take turns: a thousand waiting runs open two connections.
_CONNECTIONS = 2
_looks = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="quantflow-trigger")


class RunFinishedTrigger(BaseTrigger):
    """Fire once, when the run has ended or the deadline has passed.

    Parameters
    ----------
    run_id
        The run to wait for; it need not exist yet.
    deadline
        ISO 8601 with an offset. Absolute, so that a restarted triggerer waits no longer.
    poll_s
        Seconds between two looks.
    """

    def __init__(self, run_id: str, deadline: str, poll_s: float = 0.5) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_id = run_id
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on waiting."""
        arguments = {"run_id": self.run_id, "deadline": self.deadline, "poll_s": self.poll_s}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield ``{"run_id", "state"}``; the state is ``"timeout"`` if the run has not ended in time."""
        deadline = datetime.fromisoformat(self.deadline)
        while True:
            # The log's client is synchronous: threads keep the triggerer's one event loop free.
            state = await asyncio.get_running_loop().run_in_executor(_looks, _look, self.run_id)
            if state in TERMINAL_STATES:
                yield _event({"run_id": self.run_id, "state": state})
                return
            if datetime.now(UTC) >= deadline:
                yield _event({"run_id": self.run_id, "state": "timeout", "last_state": state})
                return
            await asyncio.sleep(self.poll_s)


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def _look(run_id: str) -> str:
    try:
        return get_run(_event_log(), run_id).state
    except UnknownRunError:
        return "unknown"
    except LogUnavailableError as exc:
        log.warning("event log is not there, still waiting", run_id=run_id, error=str(exc))
        return "unknown"


@cache
def _event_log() -> EventLog:
    """Return the one log, with its one small connection pool, of all triggers of this process."""
    settings = Settings.load()
    return EventLog(settings.database, source="quantflow.triggerer", timeout_s=5.0, pool_size=_CONNECTIONS)
