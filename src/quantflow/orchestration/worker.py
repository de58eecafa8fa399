"""``python -m quantflow.orchestration.worker``: graph runs from ``workflow.requests`` to ``decisions``.

A request goes into the inbox and the work queue in one transaction, then its offset is
committed; then a thread leases the run, runs the promoted version's graph with checkpoints in
PostgreSQL and ends it in one transaction. SIGTERM: nothing new is begun, what does not finish
within seconds is given back, and another worker resumes it from its checkpoint.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantflow.errors import GraphError
from quantflow.orchestration.loops import Loops, stop_on_signals
from quantflow.settings import Settings
from quantflow.telemetry import get_logger, setup_logging

if TYPE_CHECKING:
    from quantflow.agents import DeskRequest
    from quantflow.events.consume import EventConsumer
    from quantflow.events.log import EventLog
    from quantflow.events.topics import Topics
    from quantflow.events.transport import Transport
    from quantflow.events.types import RunRequested
    from quantflow.orchestration.desk_runs import GraphLoader

__all__ = ["main", "promoted_graphs", "requests_consumer", "serve"]

log = get_logger(__name__)

SERVICE = "worker"
#: How soon new work is seen.
CLAIM_PAUSE_S = 0.2
#: How long a run may go on after SIGTERM before its lease is given back.
STOP_S = 3.0


def main() -> int:
    """Serve until SIGTERM."""
    from quantflow.events.heartbeat import beating
    from quantflow.events.log import EventLog

    settings = Settings.load()
    setup_logging(SERVICE, level=settings.log_level)
    stop = stop_on_signals()
    with EventLog.from_settings(settings, source="quantflow.worker") as event_log:
        event_log.migrate()
        with beating(event_log, SERVICE):
            return serve(settings, event_log, stop)


def serve(
    settings: Settings, event_log: EventLog, stop: threading.Event, *, load_graph: GraphLoader | None = None
) -> int:
    """Run the worker's threads until ``stop`` is set; return the exit status.

    Parameters
    ----------
    load_graph
        Where graphs come from; by default the registry of promoted versions.
    """
    from quantflow.agents import open_checkpoints
    from quantflow.events.queue import WorkQueue
    from quantflow.events.topics import Topics
    from quantflow.events.transport import LibrdkafkaTransport
    from quantflow.llm import connect
    from quantflow.orchestration.desk_runs import DeskRuns, LeaseKeeper

    topics = Topics(settings.topic_prefix, max_event_bytes=settings.max_event_bytes)
    queue = WorkQueue(event_log)
    keeper = LeaseKeeper(queue)
    with open_checkpoints(event_log.dsn, connections=settings.worker_concurrency + 1) as checkpointer:
        runs = DeskRuns(
            event_log=event_log,
            queue=queue,
            keeper=keeper,
            topics=topics,
            checkpointer=checkpointer,
            load_graph=load_graph or promoted_graphs(settings, event_log),
            connect=lambda: connect(settings),
            lease_s=settings.lease_s,
            timeout_s=settings.llm_timeout_s,
        )
        loops = Loops(stop)
        loops.run("requests", requests_consumer(event_log, LibrdkafkaTransport(settings.kafka), topics).run)
        for number in range(settings.worker_concurrency):
            loops.repeat(f"runs-{number}", runs.once, pause_s=CLAIM_PAUSE_S)
        # On a thread of its own, beyond the stop: a run that still finishes keeps its lease.
        renewing = _renewing(keeper, every_s=settings.lease_s / 4)
        log.info("worker runs", concurrency=settings.worker_concurrency, lease_s=settings.lease_s)
        stop.wait()
        ended = loops.join(STOP_S)
        renewing.set()
        keeper.release()
    log.info("worker ended", every_thread_ended=ended)
    return 1 if loops.failed else 0


def requests_consumer(event_log: EventLog, transport: Transport, topics: Topics) -> EventConsumer:
    """Return the consumer that puts requests for graphs into the work queue."""
    from quantflow.events.consume import EventConsumer
    from quantflow.events.queue import WorkQueue
    from quantflow.orchestration.desk_runs import enqueue_desk_request

    queue = WorkQueue(event_log)

    def accept(connection: Any, envelope: Any) -> None:
        if enqueue_desk_request(event_log, queue, connection, envelope):
            log.info("request accepted", run_id=envelope.data.run_id)

    return EventConsumer(
        transport,
        event_log,
        [topics.requests],
        topics.group(SERVICE),
        accept,
        max_event_bytes=topics.max_event_bytes,
        keeps_unreadable=False,  # the dispatcher reads the same topic and keeps it
    )


def promoted_graphs(settings: Settings, event_log: EventLog) -> GraphLoader:
    """Return the loader that takes graphs from the registry's stored bytes, and from nowhere else."""
    from quantflow.promotion import Registry, load_object

    registry = Registry(event_log)
    built: dict[str, Callable[[], Any]] = {}

    def load(request: RunRequested, desk: DeskRequest) -> Callable[[], Any]:
        version = registry.get(desk.version_id)
        _check_terms(desk, version.contract)
        if version.version_id not in built:
            directory = registry.materialise(version, settings.home / "versions")
            built[version.version_id] = load_object(directory, version.contract.graph)
        return built[version.version_id]

    return load


def _check_terms(desk: DeskRequest, contract: Any) -> None:
    """Refuse a request on other terms than the reviewed contract's."""
    for name in ("pipeline", "limits", "approval", "approver_role", "min_confidence", "confidence_level"):
        asked, reviewed = getattr(desk, name), getattr(contract, name)
        if asked != reviewed:
            raise GraphError(
                f"the request has {name} = {asked!r}, the contract of its version says {reviewed!r}; "
                "change the contract and promote it"
            )


def _renewing(keeper: Any, *, every_s: float) -> threading.Event:
    done = threading.Event()

    def renew() -> None:
        while not done.wait(every_s):
            keeper.renew()

    threading.Thread(target=renew, name="leases", daemon=True).start()
    return done


if __name__ == "__main__":
    sys.exit(main())
