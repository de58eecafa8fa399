"""The loop around a live signal: read, keep, survive the broker and the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import polars as pl

from quantflow.errors import (
    DataError,
    LogUnavailableError,
    SignalError,
    TransportError,
)
from quantflow.events._backoff import Backoff
from quantflow.events.consume import dead_letter
from quantflow.events.log import EventLog
from quantflow.events.transport import Consumer, ReceivedRecord, TopicPartitionOffset, Transport
from quantflow.live._cross_section import LiveCrossSection
from quantflow.live._decode import bars_as_published
from quantflow.live._signal import BatchReport, LiveSignal
from quantflow.live._store import OvertakenError, Place
from quantflow.signals import BoundCrossSection, Decider
from quantflow.telemetry import get_logger

__all__ = ["run_live"]

_log = get_logger(__name__)

_POLL_S = 0.5
_BATCH_RECORDS = 20_000


def run_live(
    pipeline: str,
    version_id: str,
    decider: Decider | BoundCrossSection,
    transport: Transport,
    log: EventLog,
    *,
    topics: Sequence[str],
    stop: threading.Event,
    on_batch: Callable[[BatchReport], None] | None = None,
) -> None:
    """Run one promoted signal on its market topics until ``stop`` is set.

    Reads every partition of the topics from the offsets that were kept with the state, or
    from their beginning. A broker or database that is away is waited for, with growing
    pauses. A record that is no bar goes to the topic's dead letters and is passed by.

    Parameters
    ----------
    pipeline, version_id
        Whose signal it is; exposures are kept under them.
    decider
        The bound signal of that version; a cross-sectional one with its universe.
    transport, log
        The broker and the database.
    topics
        Names of market topics. All bars of a symbol must be in one partition of one topic, and
        for a cross-sectional signal in the order of time (see :class:`LiveCrossSection`).
    stop
        Ends the loop after the batch at hand.
    on_batch
        Called after each batch that was kept.

    Raises
    ------
    SignalError, DataError
        The signal cannot use a bar: it raised, or the bars lack its column. The reason is kept
        for ``live_status``; the batch is not marked as read. Or it is cross-sectional and has
        no universe.
    """
    live = _live(pipeline, version_id, decider, log)
    backoff = Backoff()
    while not stop.is_set():
        try:
            for report in _batches(live, transport, topics, stop):
                backoff.reset()
                if on_batch is not None:
                    on_batch(report)
        except OvertakenError as exc:
            _log.warning("live signal overtaken, loading its state again", pipeline=pipeline, reason=str(exc))
            stop.wait(backoff.next())
        except (TransportError, LogUnavailableError) as exc:
            delay_s = backoff.next()
            _log.warning("live signal interrupted", pipeline=pipeline, reason=str(exc), retry_in_s=delay_s)
            stop.wait(delay_s)
        except (SignalError, DataError) as exc:
            _log.error("live signal stands still", pipeline=pipeline, version_id=version_id, reason=str(exc))
            live.fail(str(exc))
            raise


def _live(
    pipeline: str, version_id: str, decider: Decider | BoundCrossSection, log: EventLog
) -> LiveSignal | LiveCrossSection:
    if isinstance(decider, BoundCrossSection):
        return LiveCrossSection(pipeline, version_id, decider, log)
    return LiveSignal(pipeline, version_id, decider, log)


def _batches(
    live: LiveSignal | LiveCrossSection, transport: Transport, topics: Sequence[str], stop: threading.Event
) -> Iterator[BatchReport]:
    places = _places(transport, topics, live.load())
    if isinstance(live, LiveCrossSection):
        live.watch(place for place, (begin, end) in _extents(transport, topics).items() if begin < end)
    consumer = transport.consumer()
    try:
        consumer.assign(places)
        while not stop.is_set():
            records = consumer.poll(_POLL_S, _BATCH_RECORDS)
            if records:
                yield live.process(records, _bars(transport, records, live))
            if isinstance(live, LiveCrossSection):
                through = live.overdue
                if through is not None and _has_read_all(consumer, transport, topics):
                    yield live.close(through)
    finally:
        with suppress(TransportError):
            consumer.close()


def _places(
    transport: Transport, topics: Sequence[str], kept: Mapping[tuple[str, int], int]
) -> list[TopicPartitionOffset]:
    places = []
    for (topic, partition), (begin, end) in _extents(transport, topics).items():
        at = kept.get((topic, partition), begin)
        if not begin <= at <= end:
            # Another broker, or a topic made anew: bars that were seen are skipped by their time.
            _log.warning("kept offset is not in the topic", topic=topic, partition=partition, kept=at, begin=begin)
            at = begin
        places.append(TopicPartitionOffset(topic, partition, at))
    return places


def _extents(transport: Transport, topics: Sequence[str]) -> dict[Place, tuple[int, int]]:
    """Return the first offset of each partition and the one after its last."""
    admin = transport.admin()
    try:
        extents: dict[Place, tuple[int, int]] = {}
        for topic in topics:
            begins, ends = admin.begin_offsets(topic), admin.end_offsets(topic)
            extents |= {(topic, partition): (begin, ends[partition]) for partition, begin in sorted(begins.items())}
        return extents
    finally:
        admin.close()


def _has_read_all(consumer: Consumer, transport: Transport, topics: Sequence[str]) -> bool:
    extents = _extents(transport, topics)
    return all((consumer.position(*place) or 0) >= end for place, (_, end) in extents.items())


def _bars(transport: Transport, records: Sequence[ReceivedRecord], live: LiveSignal | LiveCrossSection) -> pl.DataFrame:
    """Return the bars of a batch; what is none is kept in the dead letters before it is passed by."""
    places = isinstance(live, LiveCrossSection)
    bars, rejected = bars_as_published(records, live.decider.columns, places=places)
    if rejected:
        producer = transport.producer()
        try:
            for record, reason in rejected:
                topic = dead_letter(producer, record, reason, group=f"live.{live.pipeline}")
                _log.error(
                    "dead letter",
                    dead_letter_topic=topic,
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    reason=reason,
                )
        finally:
            producer.close()
    return bars
