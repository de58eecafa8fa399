"""The live consumer on a real broker and database says what the backtest says, whatever happens."""

import threading
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from quantflow.backtest import backtest
from quantflow.data import BAR_SCHEMA
from quantflow.errors import MissingColumnError
from quantflow.events import EventLog, LibrdkafkaTransport, Message, TopicPartitionOffset, Topics, publish_bars
from quantflow.live import _run as live_run
from quantflow.live import latest_exposures, live_absences, live_exposures, live_status, run_live
from quantflow.live._store import LiveStore
from quantflow.signals import cross_sectional
from quantflow.testing.signals import bars_of, every_indicator, random_walk, strongest, trend, with_gaps

pytestmark = pytest.mark.stack

VERSION = "a" * 64
SIGNAL = trend.bind(lookback=20, span=15)
DEADLINE_S = 60.0
UNIVERSE = [f"S{index:02}" for index in range(9)]
RANKED = strongest.bind(symbols=UNIVERSE, lookback=20)


@pytest.fixture
def log(database_url):
    with EventLog(database_url) as log:
        log.migrate()
        yield log


@pytest.fixture
def transport(kafka_bootstrap):
    return LibrdkafkaTransport(kafka_bootstrap)


@pytest.fixture
def topic(transport, topic_prefix):
    topics = Topics(topic_prefix)
    admin = transport.admin()
    topics.ensure_all(admin)
    admin.close()
    return topics.market_bars()


@pytest.fixture(scope="module")
def bars():
    return bars_of({f"S{index:02}": random_walk(700, seed=index) for index in range(9)})


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(live_run, "_BATCH_RECORDS", 137)


class Crash(Exception):
    """Stands for kill -9 between two batches."""


def consume(log, transport, topic, *, bars, signal=SIGNAL, crash_after=None, pipeline="momentum"):
    """Run until ``bars`` were taken or skipped since the start, or crash."""
    stop = threading.Event()
    seen, reports = 0, []

    def on_batch(report):
        nonlocal seen
        seen += report.bars + report.skipped
        reports.append(report)
        if crash_after is not None and seen >= crash_after:
            raise Crash
        if seen >= bars:
            stop.set()

    guard = threading.Timer(DEADLINE_S, stop.set)
    guard.start()
    try:
        run_live(pipeline, VERSION, signal, transport, log, topics=[topic], stop=stop, on_batch=on_batch)
    finally:
        guard.cancel()
    assert seen >= bars, f"{seen} of {bars} bars within {DEADLINE_S} s"
    return reports


def assert_equals_backtest(log, bars, pipeline="momentum"):
    said = live_exposures(log, pipeline, VERSION)
    expected = backtest(SIGNAL, bars, fill="next_close").exposures
    assert said["symbol"].to_list() == expected["symbol"].to_list()
    assert said["timestamp"].to_list() == expected["timestamp"].to_list()
    assert said["session"].to_list() == expected["session"].to_list()
    assert said["exposure"].to_numpy().tobytes() == expected["exposure"].to_numpy().tobytes()
    assert np.count_nonzero(said["exposure"].to_numpy()) > said.height / 2


def by_time(bars):
    return bars.sort("timestamp", "symbol")


def test_restarted_in_mid_replay_it_equals_the_backtest_bit_for_bit(log, transport, topic, bars, small_batches):
    publish_bars(transport, topic, by_time(bars))
    consume(log, transport, topic, bars=1500)  # stopped in good order
    with pytest.raises(Crash):
        consume(log, transport, topic, bars=bars.height, crash_after=2000)
    so_far = live_status(log, "momentum", VERSION, transport=transport)
    assert 0 < so_far.bars < bars.height
    assert so_far.lag == bars.height - so_far.bars
    consume(log, transport, topic, bars=bars.height - so_far.bars)
    assert_equals_backtest(log, bars)


def test_killed_between_advancing_and_keeping_it_loses_and_doubles_nothing(
    log, transport, topic, bars, small_batches, monkeypatch
):
    publish_bars(transport, topic, by_time(bars))
    touch, batches = LiveStore._touch, 0

    def dies_in_batch_five(self, connection, live_id):
        nonlocal batches
        batches += 1
        if batches == 5:  # everything of the batch is written, nothing is committed
            raise Crash
        touch(self, connection, live_id)

    monkeypatch.setattr(LiveStore, "_touch", dies_in_batch_five)
    with pytest.raises(Crash):
        consume(log, transport, topic, bars=bars.height)
    so_far = live_status(log, "momentum", VERSION)
    assert 0 < so_far.bars < bars.height
    consume(log, transport, topic, bars=bars.height - so_far.bars)
    assert_equals_backtest(log, bars)


def test_a_second_replay_of_the_same_history_changes_nothing(log, transport, topic, bars):
    for _ in range(2):
        publish_bars(transport, topic, by_time(bars))
    reports = consume(log, transport, topic, bars=2 * bars.height)
    assert sum(report.bars for report in reports) == bars.height
    assert sum(report.skipped for report in reports) == bars.height
    assert_equals_backtest(log, bars)
    publish_bars(transport, topic, bars)
    before = live_exposures(log, "momentum", VERSION)
    consume(log, transport, topic, bars=bars.height)
    assert live_exposures(log, "momentum", VERSION).equals(before)
    assert live_status(log, "momentum", VERSION, transport=transport).lag == 0


def test_late_and_restated_bars_are_passed_by_whatever_the_batches_are(log, transport, topic, bars, monkeypatch):
    first, late = by_time(bars).slice(0, 3000), by_time(bars).slice(3000, 100)
    rest = by_time(bars).slice(3100)
    restated = first.tail(50).with_columns(pl.col("close") * 2.0, pl.col("known_at") + pl.duration(hours=1))
    sent = pl.concat([first, rest, late, restated])
    for piece in (first, rest, late, restated):  # one call would refuse rows that are not sorted
        publish_bars(transport, topic, piece)
    said = []
    for size, pipeline in [(89, "small"), (5000, "large")]:
        monkeypatch.setattr(live_run, "_BATCH_RECORDS", size)
        consume(log, transport, topic, bars=sent.height, pipeline=pipeline)
        said.append(live_exposures(log, pipeline, VERSION).drop("recorded_at"))
    assert said[0].equals(said[1])
    expected = SIGNAL.evaluate(pl.concat([first, rest]))
    assert said[0]["exposure"].to_numpy().tobytes() == expected["exposure"].to_numpy().tobytes()


def test_a_record_that_is_no_bar_goes_to_the_dead_letters_and_the_partition_moves_on(log, transport, topic, bars):
    few = bars.filter(pl.col("symbol") == "S00")
    publish_bars(transport, topic, few.head(300))
    producer = transport.producer()
    producer.send(Message(topic, b"not a bar at all", b"S00"))
    producer.flush()
    producer.close()
    publish_bars(transport, topic, few.tail(400))
    consume(log, transport, topic, bars=few.height)
    assert_equals_backtest(log, few)
    consumer = transport.consumer()
    admin = transport.admin()
    letters = []
    places = [TopicPartitionOffset(f"{topic}.dlq", partition, 0) for partition in admin.end_offsets(f"{topic}.dlq")]
    consumer.assign(places)
    for _ in range(20):
        letters += consumer.poll(0.5, 10)
        if letters:
            break
    consumer.close()
    admin.close()
    (letter,) = letters
    assert letter.value == b"not a bar at all"
    assert b"not a bar" in letter.header("qf-reason")


def test_bars_that_lack_the_signals_column_stop_it_and_the_reason_is_kept(log, transport, topic, bars):
    publish_bars(transport, topic, by_time(bars).head(50))
    with pytest.raises(MissingColumnError, match="'high'"):
        consume(log, transport, topic, bars=50, signal=every_indicator.bind())
    status = live_status(log, "momentum", VERSION, transport=transport, topics=[topic])
    assert "'high'" in status.error
    assert status.lag == 50


def test_a_second_process_at_work_on_the_same_version_cannot_double_or_skip(log, transport, topic, bars, small_batches):
    publish_bars(transport, topic, by_time(bars))
    stop = threading.Event()
    failures = []

    def run():
        try:
            run_live("momentum", VERSION, SIGNAL, transport, log, topics=[topic], stop=stop)
        except Exception as exc:  # shown below, in the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    pause, waited_s = threading.Event(), 0.0
    while waited_s < DEADLINE_S and not failures:
        status = live_status(log, "momentum", VERSION, transport=transport)
        if status is not None and status.bars == bars.height and status.lag == 0:
            break
        pause.wait(0.2)
        waited_s += 0.2
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_equals_backtest(log, bars)


def test_state_saved_by_other_code_is_rebuilt_from_the_topic(log, transport, topic, bars):
    publish_bars(transport, topic, by_time(bars))
    consume(log, transport, topic, bars=bars.height)
    with log.transaction() as connection:
        connection.execute("UPDATE live_state SET state = 'QFSTATE0'::bytea || state WHERE symbol = 'S03'")
    consume(log, transport, topic, bars=bars.height)
    assert_equals_backtest(log, bars)
    assert live_status(log, "momentum", VERSION).bars == bars.height


def test_the_latest_exposures_are_the_last_row_of_each_symbol(log, transport, topic, bars):
    assert latest_exposures(log, "momentum", VERSION).height == 0
    assert live_status(log, "momentum", VERSION) is None
    publish_bars(transport, topic, by_time(bars))
    consume(log, transport, topic, bars=bars.height)
    latest = latest_exposures(log, "momentum", VERSION)
    everything = live_exposures(log, "momentum", VERSION)
    assert latest.equals(everything.group_by("symbol", maintain_order=True).last().select(everything.columns))
    assert latest["recorded_at"].max() <= datetime.now(UTC)
    assert set(bars.columns) == set(BAR_SCHEMA)


def assert_said(log, decider, bars, pipeline="ranked"):
    """What a cross-sectional signal said equals its evaluation, bit for bit, but for the timestamps still open."""
    said = live_exposures(log, pipeline, VERSION).drop("recorded_at")
    expected = decider.evaluate(bars)
    assert said.equals(expected.filter(pl.col("timestamp") <= said["timestamp"].max()))
    return said["timestamp"].max()


def test_a_cross_section_restarted_in_mid_replay_equals_its_evaluation_bit_for_bit(
    log, transport, topic, bars, small_batches
):
    gappy = with_gaps(by_time(bars), 0.1, seed=4)
    publish_bars(transport, topic, gappy.head(2500))
    consume(log, transport, topic, bars=2500, signal=RANKED, pipeline="ranked")  # stopped in good order
    publish_bars(transport, topic, gappy.slice(2500))
    with pytest.raises(Crash):
        consume(log, transport, topic, bars=gappy.height, signal=RANKED, pipeline="ranked", crash_after=3000)
    so_far = live_status(log, "ranked", VERSION, transport=transport)
    assert 2500 < so_far.bars < gappy.height
    assert so_far.lag == gappy.height - so_far.bars  # what waits is read again
    consume(log, transport, topic, bars=so_far.lag, signal=RANKED, pipeline="ranked")
    last = assert_said(log, RANKED, gappy)
    status = live_status(log, "ranked", VERSION, transport=transport)
    decided = gappy.filter(pl.col("timestamp") <= last)
    assert (status.bars, status.symbols, status.lag) == (decided.height, 9, gappy.height - decided.height)
    absent = live_absences(log, "ranked", VERSION)
    first = decided.group_by("symbol").agg(pl.col("timestamp").min().alias("first"))
    possible = (
        decided.select("timestamp").unique().join(first, how="cross").filter(pl.col("timestamp") >= pl.col("first"))
    )
    assert absent.height == possible.height - decided.height
    assert absent["late_at"].null_count() == absent.height
    latest = latest_exposures(log, "ranked", VERSION)
    assert latest["symbol"].to_list() == UNIVERSE
    assert latest["timestamp"].unique().to_list() == [last]


def test_late_bars_of_a_cross_section_are_recorded_and_rewrite_nothing(log, transport, topic, bars, monkeypatch):
    ordered = by_time(bars).head(333 * 9)
    late = ordered.filter((pl.col("symbol") == "S04") & (pl.col("session").dt.day() == 17))
    on_time = ordered.join(late, on=["symbol", "timestamp"], how="anti")
    publish_bars(transport, topic, on_time)
    publish_bars(transport, topic, late)
    for size, pipeline in [(89, "small"), (5000, "large")]:
        monkeypatch.setattr(live_run, "_BATCH_RECORDS", size)
        reports = consume(log, transport, topic, bars=ordered.height, signal=RANKED, pipeline=pipeline)
        assert sum(report.late for report in reports) == late.height > 5
        assert_said(log, RANKED, on_time, pipeline)
        absent = live_absences(log, pipeline, VERSION)
        assert absent.select("symbol", "timestamp").equals(late.select("symbol", "timestamp"))
        assert absent["late_at"].null_count() == 0
    publish_bars(transport, topic, late)
    reports = consume(log, transport, topic, bars=late.height, signal=RANKED, pipeline="large")
    assert [sum(report.skipped for report in reports), sum(report.late for report in reports)] == [late.height, 0]


def hold_all(bars, weights):
    for symbol in range(len(weights)):
        weights[symbol] = 1.0 / len(weights)


def test_a_cross_section_with_grace_does_not_wait_for_a_symbol_that_never_comes(log, transport, topic, bars):
    patient = cross_sectional(grace_s=0.2)(hold_all).bind(symbols=[*UNIVERSE, "NEVER"], uncompiled=True)
    few = by_time(bars).head(45)
    publish_bars(transport, topic, few)
    stop = threading.Event()
    guard = threading.Timer(DEADLINE_S, stop.set)
    guard.start()

    def on_batch(report):
        if report.records == 0 and live_status(log, "patient", VERSION, transport=transport).lag == 0:
            stop.set()

    run_live("patient", VERSION, patient, transport, log, topics=[topic], stop=stop, on_batch=on_batch)
    guard.cancel()
    assert assert_said(log, patient, few, "patient") == few["timestamp"].max()
    assert live_status(log, "patient", VERSION, transport=transport).lag == 0


def test_two_processes_on_one_cross_section_cannot_double_or_skip(log, transport, topic, bars, small_batches):
    publish_bars(transport, topic, by_time(bars))
    stop = threading.Event()
    failures = []

    def run():
        try:
            run_live("ranked", VERSION, RANKED, transport, log, topics=[topic], stop=stop)
        except Exception as exc:  # shown below, in the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    pause, waited_s = threading.Event(), 0.0
    while waited_s < DEADLINE_S and not failures:
        status = live_status(log, "ranked", VERSION, transport=transport)
        if status is not None and status.bars == bars.height and status.lag == 0:
            break
        pause.wait(0.2)
        waited_s += 0.2
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert assert_said(log, RANKED, bars) == bars["timestamp"].max()
