"""``python -m quantflow.orchestration.dispatcher``: requests out of the log, into Airflow, states back.

Four threads, each of which survives the absence of what it talks to:

- the outbox relay publishes the event log to Kafka;
- the consumer puts each request for Airflow into the work queue, then commits its offset;
- the creator takes waiting work and creates the Airflow runs over REST;
- the reconciler asks Airflow about unfinished runs that were not heard of for some seconds.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from quantflow.errors import UnknownRunError
from quantflow.events.queue import WorkQueue
from quantflow.events.runs import get_run
from quantflow.events.types import ErrorDetail
from quantflow.orchestration.airflow_client import AirflowClient
from quantflow.orchestration.creation import RunCreator, enqueue_request, run_failed
from quantflow.orchestration.loops import Loops, stop_on_signals
from quantflow.orchestration.names import run_stream
from quantflow.orchestration.reconcile import Reconciler
from quantflow.settings import Settings
from quantflow.telemetry import get_logger, setup_logging

if TYPE_CHECKING:
    from psycopg import Connection

    from quantflow.events.consume import DeadLetter, EventConsumer
    from quantflow.events.envelope import Envelope
    from quantflow.events.log import EventLog
    from quantflow.events.topics import Topics
    from quantflow.events.transport import Transport

__all__ = ["main", "requests_consumer", "serve"]

log = get_logger(__name__)

SERVICE = "dispatcher"
#: How soon new work is seen, and how often Airflow is asked about runs that are quiet.
CREATE_PAUSE_S = 0.2
RECONCILE_PAUSE_S = 2.0
STOP_S = 10.0


def main() -> int:
    """Serve until SIGTERM."""
    from quantflow.events.heartbeat import beating
    from quantflow.events.log import EventLog

    settings = Settings.load()
    setup_logging(SERVICE, level=settings.log_level)
    # One line per request of the reconciliation would bury everything else.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = stop_on_signals()
    with EventLog.from_settings(settings, source="quantflow.dispatcher") as event_log, beating(event_log, SERVICE):
        return serve(settings, event_log, stop)


def serve(settings: Settings, event_log: EventLog, stop: threading.Event) -> int:
    """Run the dispatcher's threads until ``stop`` is set; return the exit status."""
    from quantflow.events.outbox import OutboxRelay
    from quantflow.events.topics import Topics
    from quantflow.events.transport import LibrdkafkaTransport

    transport = LibrdkafkaTransport(settings.kafka)
    topics = Topics(settings.topic_prefix, max_event_bytes=settings.max_event_bytes)
    airflow = AirflowClient(settings)
    reconciler = Reconciler(event_log, airflow)
    loops = Loops(stop)
    loops.run("outbox", OutboxRelay(event_log, transport, topics).run)
    loops.run("requests", requests_consumer(event_log, transport, topics).run)
    loops.repeat("create", RunCreator(event_log, airflow).once, pause_s=CREATE_PAUSE_S)
    loops.repeat("reconcile", lambda: reconciler.once() < 0, pause_s=RECONCILE_PAUSE_S)
    log.info("dispatcher runs")
    stop.wait()
    ended = loops.join(STOP_S)
    airflow.close()
    log.info("dispatcher ended", every_thread_ended=ended)
    return 1 if loops.failed else 0


def requests_consumer(event_log: EventLog, transport: Transport, topics: Topics) -> EventConsumer:
    """Return the consumer that puts requests for Airflow into the work queue."""
    from quantflow.events.consume import EventConsumer

    queue = WorkQueue(event_log)

    def accept(connection: Connection[Any], envelope: Envelope) -> None:
        if enqueue_request(queue, connection, envelope):
            log.info("request accepted for airflow", run_id=getattr(envelope.data, "run_id", None))

    return EventConsumer(
        transport,
        event_log,
        [topics.requests],
        topics.group(SERVICE),
        accept,
        max_event_bytes=topics.max_event_bytes,
        on_dead_letter=lambda connection, letter: _end_run(event_log, connection, letter),
    )


def _end_run(event_log: EventLog, connection: Connection[Any], letter: DeadLetter) -> None:
    """End the run that a given-up request names, if there is such a run and it has not begun."""
    if letter.run_id is None:
        return
    try:
        view = get_run(event_log, letter.run_id, connection=connection)
    except UnknownRunError:
        return
    if view.state != "accepted":
        # A second, broken request under the id of a run that goes well ends nothing.
        return
    detail = ErrorDetail(kind="DeadLetter", message=f"the request could not be handled: {letter.reason}")
    event_log.append(run_stream(letter.run_id), run_failed(letter.run_id, detail), connection=connection)


if __name__ == "__main__":
    sys.exit(main())
