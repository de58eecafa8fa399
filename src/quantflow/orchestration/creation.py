"""Accepted requests become Airflow runs: from the work queue, over REST, with patience.

The queue holds the work, so Kafka's offset never waits for Airflow, and a dispatcher that
dies in between is followed by another that tries the same run id again: Airflow answers 409
for a run that it has.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from quantflow.errors import EngineUnavailableError, OrchestrationError
from quantflow.events.envelope import derived_id
from quantflow.events.queue import Lease, WorkQueue
from quantflow.events.records import Draft
from quantflow.events.types import ErrorDetail, RunErrorRecorded, RunRequested, RunStateObserved
from quantflow.orchestration.names import dag_id_of, run_stream
from quantflow.orchestration.observations import run_seen
from quantflow.telemetry import correlation, get_logger

if TYPE_CHECKING:
    from psycopg import Connection

    from quantflow.events.envelope import Envelope
    from quantflow.events.log import EventLog

__all__ = ["AIRFLOW_WORK", "RunCreator", "enqueue_request", "run_failed"]

log = get_logger(__name__)

#: Kind of work in the queue.
AIRFLOW_WORK = "airflow"

#: How long Airflow may be away, or not know the DAG, before the run fails.
GIVE_UP_AFTER = timedelta(minutes=10)
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 10.0


class Starts(Protocol):
    """What is asked of Airflow here."""

    def trigger(self, dag_id: str, dag_run_id: str, conf: dict[str, Any]) -> bool:
        """Create a run; False if it is there already."""
        ...


def enqueue_request(queue: WorkQueue, connection: Connection[Any], envelope: Envelope) -> bool:
    """Put a request for Airflow into the work queue, in the caller's transaction; ignore all else."""
    request = envelope.data
    if not isinstance(request, RunRequested) or request.workflow_type != "airflow":
        return False
    payload = {
        "dag_id": dag_id_of(request.workflow_id),
        "accepted_at": envelope.time.isoformat(),
        "correlation_id": envelope.correlation_id,
        "traceparent": envelope.traceparent,
    }
    return queue.enqueue(connection, request.run_id, AIRFLOW_WORK, request.priority, payload)


class RunCreator:
    """Creates the Airflow runs that are waiting in the queue.

    Parameters
    ----------
    airflow
        Airflow's client.
    lease_s
        Longer than one call of Airflow may take: until then nobody else tries the same run.
    give_up_after
        Age of a request at which an Airflow that cannot take it is no longer asked.
    """

    def __init__(
        self,
        event_log: EventLog,
        airflow: Starts,
        *,
        lease_s: float = 60.0,
        give_up_after: timedelta = GIVE_UP_AFTER,
    ) -> None:
        self._log = event_log
        self._queue = WorkQueue(event_log)
        self._airflow = airflow
        self._lease_s = lease_s
        self._give_up_after = give_up_after
        self._owner = f"dispatcher@{socket.gethostname()}:{os.getpid()}"

    def once(self) -> bool:
        """Try the most urgent waiting run; return whether there was one."""
        lease = self._queue.claim(AIRFLOW_WORK, self._owner, self._lease_s)
        if lease is None:
            return False
        with correlation(lease.payload.get("correlation_id") or lease.run_id, lease.payload.get("traceparent")):
            self._create(lease)
        return True

    def _create(self, lease: Lease) -> None:
        dag_id = str(lease.payload["dag_id"])
        try:
            created = self._airflow.trigger(dag_id, lease.run_id, {"run_id": lease.run_id})
        except EngineUnavailableError as exc:
            if _age(lease.payload) < self._give_up_after:
                retry_in_s = min(_FIRST_RETRY_S * 2 ** min(lease.attempt - 1, 10), _LONGEST_RETRY_S)
                log.warning(
                    "airflow cannot start the run yet", run_id=lease.run_id, attempt=lease.attempt, error=str(exc)
                )
                self._queue.release(lease, str(exc), retry_in_s)
                return
            minutes = self._give_up_after.total_seconds() / 60
            self._give_up(lease, exc, f"not started within {minutes:g} minutes: {exc}")
        except OrchestrationError as exc:
            self._give_up(lease, exc, str(exc))
        else:
            log.info("airflow run created" if created else "airflow run was there", run_id=lease.run_id, dag_id=dag_id)
            self._finish(lease, [run_seen(lease.run_id, "queued", at=datetime.now(UTC), origin="dispatcher")])

    def _give_up(self, lease: Lease, exc: OrchestrationError, message: str) -> None:
        log.error("run cannot be started", run_id=lease.run_id, error=message)
        detail = ErrorDetail(kind=type(exc).__name__, message=message)
        self._finish(lease, run_failed(lease.run_id, detail), error=message)

    def _finish(self, lease: Lease, drafts: list[Draft], *, error: str | None = None) -> None:
        with self._log.transaction() as connection:
            self._queue.complete(connection, lease, error=error)
            self._log.append(run_stream(lease.run_id), drafts, connection=connection)


def run_failed(run_id: str, detail: ErrorDetail) -> list[Draft]:
    """Return the events that end a run which never reached its engine."""
    failed = RunStateObserved(
        run_id=run_id,
        engine="airflow",
        state="failed",
        observed_at=datetime.now(UTC),
        origin="dispatcher",
        detail=detail.message[:500],
    )
    return [
        Draft(RunErrorRecorded(run_id=run_id, error=detail), event_id=derived_id(run_id, "error", "dispatcher")),
        Draft(failed, event_id=derived_id(run_id, "dispatcher", "failed")),
    ]


def _age(payload: Mapping[str, Any]) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(str(payload["accepted_at"]))
