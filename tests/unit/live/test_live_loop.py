"""The loop around a live signal outlives its broker and database, and nothing else."""

import threading

import pytest

from quantflow.errors import LogUnavailableError, MissingColumnError, TransportError
from quantflow.events import TopicPartitionOffset
from quantflow.live import BatchReport, _run, run_live
from quantflow.live._cross_section import LiveCrossSection
from quantflow.live._signal import LiveSignal
from quantflow.live._store import OvertakenError
from quantflow.testing.signals import strongest, trend


@pytest.fixture
def stop():
    return threading.Event()


def run(stop, **options):
    run_live("momentum", "a" * 64, trend.bind(), None, None, topics=["market.bars.1d"], stop=stop, **options)


def test_a_broker_or_database_that_is_away_is_waited_for(stop, monkeypatch):
    troubles = [TransportError("no broker"), LogUnavailableError("no database"), OvertakenError("another process")]
    pauses = []

    def batches(*_):
        if troubles:
            raise troubles.pop(0)
        yield BatchReport(3, 2, 1)
        stop.set()

    monkeypatch.setattr(_run, "_batches", batches)
    monkeypatch.setattr(stop, "wait", pauses.append)
    reports = []
    run(stop, on_batch=reports.append)
    assert reports == [BatchReport(3, 2, 1)]
    assert len(pauses) == 3
    assert 0.0 < pauses[0] < pauses[-1]


def test_bars_that_the_signal_cannot_use_end_the_loop_with_the_reason_kept(stop, monkeypatch):
    def batches(*_):
        raise MissingColumnError("reads 'high'")
        yield

    kept = []
    monkeypatch.setattr(_run, "_batches", batches)
    monkeypatch.setattr(LiveSignal, "fail", lambda self, reason: kept.append(reason))
    with pytest.raises(MissingColumnError):
        run(stop)
    assert kept == ["reads 'high'"]


class Admin:
    def begin_offsets(self, topic):
        return {0: 0, 1: 5, 2: 0}

    def end_offsets(self, topic):
        return {0: 10, 1: 20, 2: 3}

    def close(self):
        pass


class Transport:
    def admin(self):
        return Admin()


def test_reading_goes_on_where_it_was_kept_and_starts_over_where_the_topic_has_no_such_offset():
    kept = {("bars", 0): 7, ("bars", 1): 2, ("bars", 2): 9}
    assert _run._places(Transport(), ["bars"], kept) == [
        TopicPartitionOffset("bars", 0, 7),
        TopicPartitionOffset("bars", 1, 5),  # kept before what is left of the partition
        TopicPartitionOffset("bars", 2, 0),  # kept beyond its end: another topic of that name
    ]
    assert _run._places(Transport(), ["bars"], {})[1] == TopicPartitionOffset("bars", 1, 5)


@pytest.mark.parametrize(("reached", "all_read"), [({0: 10, 1: 20, 2: 3}, True), ({0: 10, 1: 20}, False)])
def test_everything_is_read_once_every_partition_is_at_its_end(reached, all_read):
    class Consumer:
        def position(self, topic, partition):
            return reached.get(partition)

    assert _run._has_read_all(Consumer(), Transport(), ["bars"]) is all_read


def test_a_cross_section_that_is_overdue_is_decided_only_after_everything_was_read(stop, monkeypatch):
    class Patient(LiveCrossSection):
        overdue = "through"

        def load(self):
            return {}

        def close(self, through):
            return BatchReport(0, 0, 0)

    class Consumer:
        def assign(self, places):
            assert [place.partition for place in places] == [0, 1, 2]

        def poll(self, timeout_s, max_records):
            return []

        def close(self):
            stop.set()

    live = Patient("strongest", "a" * 64, strongest.bind(symbols=["A", "B"]), None)
    behind = [True, False]
    transport = Transport()
    transport.consumer = Consumer
    monkeypatch.setattr(_run, "_has_read_all", lambda *_: not behind.pop(0))
    batches = _run._batches(live, transport, ["bars"], stop)
    assert next(batches) == BatchReport(0, 0, 0)
    assert behind == []
    assert live._filled == {("bars", 0), ("bars", 1), ("bars", 2)}
    batches.close()
    assert stop.is_set()
