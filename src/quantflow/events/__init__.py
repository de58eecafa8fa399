"""Event types, the event log, and Kafka.

The log (:class:`EventLog`) is the truth; topics transport it (:class:`OutboxRelay`) and market
data (:mod:`quantflow.events.market`). Names are loaded when they are first used, so that
importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.events.approvals import Ledger, auto_approval, check_decision
    from quantflow.events.blobs import Blobs
    from quantflow.events.consume import DeadLetter, EventConsumer, dead_letter
    from quantflow.events.envelope import Envelope, caused_by, decode, derived_id, encode, new_id, wrap
    from quantflow.events.heartbeat import alive, beat, beating
    from quantflow.events.log import Connection, EventLog
    from quantflow.events.market import decode_bars, digest_records, publish_bars
    from quantflow.events.outbox import OutboxRelay
    from quantflow.events.queue import Lease, WorkQueue
    from quantflow.events.records import Draft, StoredEvent
    from quantflow.events.runs import RunPage, RunView, TaskView, fold, get_run, list_runs, run_stream
    from quantflow.events.topics import Topics
    from quantflow.events.transport import (
        KafkaPythonTransport,
        LibrdkafkaTransport,
        Message,
        ReceivedRecord,
        TopicPartitionOffset,
        TopicSpec,
        Transport,
        current_slices,
        read_slice,
    )

_HOMES = {
    "approvals": ("Ledger", "auto_approval", "check_decision"),
    "blobs": ("Blobs",),
    "consume": ("DeadLetter", "EventConsumer", "dead_letter"),
    "envelope": ("Envelope", "caused_by", "decode", "derived_id", "encode", "new_id", "wrap"),
    "heartbeat": ("alive", "beat", "beating"),
    "log": ("Connection", "EventLog"),
    "market": ("decode_bars", "digest_records", "publish_bars"),
    "outbox": ("OutboxRelay",),
    "queue": ("Lease", "WorkQueue"),
    "records": ("Draft", "StoredEvent"),
    "runs": ("RunPage", "RunView", "TaskView", "fold", "get_run", "list_runs", "run_stream"),
    "topics": ("Topics",),
    "transport": (
        "KafkaPythonTransport",
        "LibrdkafkaTransport",
        "Message",
        "ReceivedRecord",
        "TopicPartitionOffset",
        "TopicSpec",
        "Transport",
        "current_slices",
        "read_slice",
    ),
}

__all__ = [
    "Blobs",
    "Connection",
    "DeadLetter",
    "Draft",
    "Envelope",
    "EventConsumer",
    "EventLog",
    "KafkaPythonTransport",
    "Lease",
    "Ledger",
    "LibrdkafkaTransport",
    "Message",
    "OutboxRelay",
    "ReceivedRecord",
    "RunPage",
    "RunView",
    "StoredEvent",
    "TaskView",
    "TopicPartitionOffset",
    "TopicSpec",
    "Topics",
    "Transport",
    "WorkQueue",
    "alive",
    "auto_approval",
    "beat",
    "beating",
    "caused_by",
    "check_decision",
    "current_slices",
    "dead_letter",
    "decode",
    "decode_bars",
    "derived_id",
    "digest_records",
    "encode",
    "fold",
    "get_run",
    "list_runs",
    "new_id",
    "publish_bars",
    "read_slice",
    "run_stream",
    "wrap",
]

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
