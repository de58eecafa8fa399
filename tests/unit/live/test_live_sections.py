"""A live cross-section is decided once, and what it consists of depends on the topic alone."""

from datetime import UTC, datetime
from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantflow.errors import InvalidBarsError, SignalError
from quantflow.events import ReceivedRecord
from quantflow.events.market import encode_bar
from quantflow.events.types import MarketBar
from quantflow.live import _run
from quantflow.live._cross_section import LiveCrossSection
from quantflow.live._decode import bars_as_published
from quantflow.live._section_store import _as_json, _progress_of
from quantflow.live._sections import Progress
from quantflow.live._signal import LiveSignal
from quantflow.signals import cross_sectional
from quantflow.testing.signals import bars_of, random_walk, strongest, trend, with_gaps

TOPIC = "market.bars.1d"
SYMBOLS = ("A", "B", "C", "D", "E")
BARS = bars_of({symbol: random_walk(30, seed=seed) for seed, symbol in enumerate(SYMBOLS)})
BOUND = strongest.bind(symbols=SYMBOLS)


class Kept:
    """Stands for the database: remembers what was saved, and refuses a second process."""

    def __init__(self):
        self.offsets, self.section, self.symbols = {}, None, {}
        self.said, self.absences = [], {}

    def load_section(self):
        return self.section, dict(self.offsets)

    def forget(self):
        self.offsets, self.section, self.symbols = {}, None, {}

    def save_section(self, exposures, symbols, moves, *, before, section, absent, late, old):
        assert before == (self.section.sections if self.section else None)
        for place, (at, after) in moves.items():
            assert self.offsets.get(place) == at
            self.offsets[place] = after
        progress = _progress_of(_as_json(section.progress))
        assert progress == section.progress
        self.section = section
        self.symbols |= {each.symbol: each for each in symbols}
        self.said.append(exposures)
        for key in absent.iter_rows():
            self.absences.setdefault(key, False)
        candidates = [*late.iter_rows(), *(key for key in old.iter_rows() if key in self.absences)]
        recorded = [key for key in candidates if not self.absences.get(key, False)]
        self.absences |= dict.fromkeys(recorded, True)
        return len(recorded)

    @property
    def everything(self):
        return pl.concat(self.said).sort("symbol", "timestamp")

    @property
    def late(self):
        return sorted(key for key, late in self.absences.items() if late)


def live_on(kept, decider=BOUND, **options):
    live = LiveCrossSection("strongest", "a" * 64, decider, None, **options)
    live._store = kept
    return live


def log_of(frame, partition=0, first=0):
    """Return the frame as records of one partition, in its order."""
    events = [encoded(**row) for row in frame.iter_rows(named=True)]
    return [ReceivedRecord(TOPIC, partition, offset, b"", event, (), 0) for offset, event in enumerate(events, first)]


@cache
def encoded(**row):
    return encode_bar(MarketBar(**row))


def feed(live, records):
    return live.process(records, bars_as_published(records, live.decider.columns, places=True)[0])


def by_time(bars):
    return bars.sort("timestamp", "symbol")


def test_complete_timestamps_are_decided_at_once():
    kept = Kept()
    live = live_on(kept)
    report = feed(live, log_of(by_time(BARS).head(14)))
    assert (report.records, report.bars, report.skipped, report.late) == (14, 14, 0, 0)
    assert kept.everything["timestamp"].n_unique() == 2
    assert kept.everything.equals(BOUND.evaluate(by_time(BARS).head(10)))
    # The third timestamp's four bars wait: they are read again after a restart.
    assert live.offsets == kept.offsets == {(TOPIC, 0): 10}
    feed(live, log_of(by_time(BARS).slice(14), first=14))
    assert kept.everything.equals(BOUND.evaluate(BARS))
    assert kept.offsets == {(TOPIC, 0): 150}
    assert kept.symbols["C"].bars == 30
    assert kept.symbols["C"].last_timestamp == BARS["timestamp"].max()


def test_a_symbol_without_a_bar_is_waited_for_until_its_partition_moves_on():
    kept = Kept()
    live = live_on(kept)
    gappy = by_time(BARS).filter((pl.col("symbol") != "B") | (pl.col("session") != pl.date(2020, 1, 3)))
    feed(live, log_of(gappy.head(14)))
    assert kept.everything["timestamp"].n_unique() == 2
    feed(live, log_of(gappy.slice(14, 1), first=14))
    assert kept.everything["timestamp"].n_unique() == 3
    assert kept.everything.equals(BOUND.evaluate(gappy.head(14)))
    assert kept.absences == {("B", datetime(2020, 1, 3, 21, tzinfo=UTC)): False}


def test_a_partition_that_is_behind_holds_every_symbol_up():
    kept = Kept()
    live = live_on(kept)
    live.watch([(TOPIC, 0), (TOPIC, 1)])
    first, second = BARS.filter(pl.col("symbol") < "D"), BARS.filter(pl.col("symbol") >= "D")
    feed(live, log_of(by_time(first)))
    assert kept.everything.is_empty()
    assert kept.offsets == {(TOPIC, 0): 0}
    feed(live, log_of(by_time(second).head(11), partition=1))
    assert kept.everything["timestamp"].n_unique() == 5
    feed(live, log_of(by_time(second).slice(11), partition=1, first=11))
    assert kept.everything.equals(BOUND.evaluate(BARS))


def test_late_bars_are_recorded_and_change_nothing():
    kept = Kept()
    live = live_on(kept)
    ordered = by_time(BARS)
    late = pl.concat([ordered.slice(17, 1), ordered.slice(42, 1)])  # C on days 4 and 9
    on_time = ordered.join(late, on=["symbol", "timestamp"], how="anti")
    report = feed(live, log_of(pl.concat([on_time.head(20), late.head(1), on_time.slice(20), late])))
    assert (report.bars, report.skipped, report.late) == (148, 3, 2)
    assert kept.everything.equals(BOUND.evaluate(on_time))
    assert kept.late == sorted(late.select("symbol", "timestamp").iter_rows())
    again = feed(live, log_of(late, first=151))
    assert (again.bars, again.skipped, again.late) == (0, 2, 0)
    assert kept.everything.equals(BOUND.evaluate(on_time))


def test_a_replay_and_restatements_are_skipped_and_not_late():
    kept = Kept()
    live = live_on(kept)
    restated = by_time(BARS).with_columns(pl.col("close") * 2.0)
    twice = pl.concat([by_time(BARS).head(13), restated.slice(12, 1), by_time(BARS).slice(13), restated])
    report = feed(live, log_of(twice))
    assert (report.bars, report.skipped, report.late) == (150, 151, 0)
    assert kept.everything.equals(BOUND.evaluate(BARS))


def test_a_symbol_that_was_never_seen_holds_nothing_up_once_all_partitions_moved_on():
    kept = Kept()
    live = live_on(kept, strongest.bind(symbols=(*SYMBOLS, "NEW")))
    live.watch([(TOPIC, 0), (TOPIC, 1)])
    feed(live, log_of(by_time(BARS).head(60)))
    assert kept.everything.is_empty()
    others = bars_of({"OTHER": random_walk(9, seed=9)})  # not of the universe, but it shows the time
    report = feed(live, log_of(others, partition=1))
    assert (report.bars, report.skipped) == (0, 0)
    assert kept.everything["timestamp"].n_unique() == 8
    assert "NEW" not in kept.everything["symbol"].to_list()
    new = bars_of({"NEW": random_walk(30, seed=3)})
    report = feed(live, log_of(new.slice(7), partition=1, first=9))
    assert report.late == 1  # the eighth day was decided already
    feed(live, log_of(by_time(BARS).slice(60), first=60))
    assert kept.everything.equals(live.decider.evaluate(pl.concat([BARS, new.slice(8)])))


def test_other_symbols_of_the_topic_are_passed_by():
    kept = Kept()
    few = strongest.bind(symbols=("D", "A"))
    feed(live_on(kept, few), log_of(by_time(BARS)))
    assert kept.everything.equals(few.evaluate(BARS))
    assert kept.offsets == {(TOPIC, 0): 150}


@settings(max_examples=12)
@given(
    seed=st.integers(0, 500),
    share=st.floats(0.0, 0.4),
    homes=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    sizes=st.lists(st.integers(4, 80), min_size=6, max_size=6),
    restarts=st.sets(st.integers(0, 12)),
)
def test_batches_partitions_and_restarts_do_not_matter(seed, share, homes, sizes, restarts):
    bars = by_time(with_gaps(BARS, share, seed=seed))
    home = dict(zip(SYMBOLS, homes, strict=True))
    logs = {
        place: log_of(bars.filter(pl.col("symbol").replace_strict(home) == place), place) for place in sorted({*homes})
    }
    kept = Kept()
    live = live_on(kept)
    live.watch([(TOPIC, place) for place in logs])
    at, turn = dict.fromkeys(logs, 0), 0
    while open_ := [place for place in logs if at[place] < len(logs[place])]:
        place, size = open_[seed * turn % len(open_)], sizes[turn % len(sizes)]
        feed(live, logs[place][at[place] : at[place] + size])
        at[place] += size
        if turn in restarts:
            live = live_on(kept)
            offsets = live.load()
            live.watch([(TOPIC, place) for place in logs])
            at = {place: offsets.get((TOPIC, place), 0) for place in logs}
        turn += 1
    said, expected = kept.everything, BOUND.evaluate(bars)
    assert said.equals(expected.filter(pl.col("timestamp") <= said["timestamp"].max()))
    assert kept.late == []
    # Open is at most what a partition that ended earlier could still have had.
    border = min(bars.filter(pl.col("symbol").replace_strict(home) == place)["timestamp"].max() for place in logs)
    assert expected.filter(pl.col("timestamp") < border).height <= said.height


def test_a_batch_that_was_not_kept_leaves_memory_as_it_was():
    kept = Kept()
    live = live_on(kept)
    ordered = by_time(BARS)
    feed(live, log_of(ordered.head(13)))
    save, kept.save_section = kept.save_section, lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        feed(live, log_of(ordered.slice(13), first=13))
    kept.save_section = save
    feed(live, log_of(ordered.slice(13), first=13))
    assert kept.everything.equals(BOUND.evaluate(BARS))


def test_state_saved_by_other_code_is_rebuilt_from_the_topic():
    kept = Kept()
    feed(live_on(kept), log_of(by_time(BARS).head(70)))
    other = live_on(kept, strongest.bind(symbols=SYMBOLS, lookback=5))
    assert other.load() == {}
    assert kept.section is None
    kept.said.clear()
    feed(other, log_of(by_time(BARS)))
    assert kept.everything.equals(other.decider.evaluate(BARS))


def put_ones(bars, weights):
    for symbol in range(len(weights)):
        weights[symbol] = 1.0


def test_a_signal_with_grace_decides_without_those_that_do_not_come():
    now = 0.0
    patient = cross_sectional(grace_s=30.0)(put_ones).bind(symbols=SYMBOLS, uncompiled=True)
    kept = Kept()
    live = live_on(kept, patient, clock=lambda: now)
    gappy = by_time(BARS.filter(pl.col("symbol") != "B"))
    feed(live, log_of(by_time(BARS).head(5)))
    assert live.overdue is None
    now = 10.0
    feed(live, log_of(gappy.slice(4, 3), first=5))
    now = 39.0
    assert live.overdue is None
    feed(live, log_of(gappy.slice(7, 1), first=8))
    now = 40.0
    assert live.overdue == datetime(2020, 1, 2, 21, tzinfo=UTC)
    report = live.close(live.overdue)
    assert (report.records, report.bars) == (0, 0)
    assert live.overdue is None
    assert kept.everything.equals(patient.evaluate(pl.concat([by_time(BARS).head(5), gappy.slice(4, 4)])))
    assert kept.offsets == {(TOPIC, 0): 9}
    late = feed(live, log_of(by_time(BARS).slice(6, 1), first=9))
    assert (late.skipped, late.late) == (1, 1)
    assert kept.late == [("B", datetime(2020, 1, 2, 21, tzinfo=UTC))]


def test_without_grace_nothing_is_ever_overdue():
    live = live_on(Kept(), clock=lambda: np.inf)
    feed(live, log_of(by_time(BARS).head(3)))
    assert live.overdue is None


def test_a_signal_that_refuses_missing_symbols_stands_still():
    strict = cross_sectional(missing="refuse")(put_ones).bind(symbols=SYMBOLS, uncompiled=True)
    kept = Kept()
    live = live_on(kept, strict)
    with pytest.raises(SignalError, match="no bar for B at 2020-01-02"):
        feed(live, log_of(pl.concat([by_time(BARS).head(6), by_time(BARS).slice(7, 8)])))
    assert kept.said == []


def test_bars_that_cannot_be_used_are_named():
    live = live_on(Kept())
    bars = by_time(BARS).head(5)
    records = log_of(bars)
    decoded = bars_as_published(records, ["close"], places=True)[0]
    with pytest.raises(InvalidBarsError, match="close is inf at C at 2020-01-01"):
        live.process(
            records, decoded.with_columns(close=pl.when(pl.col("symbol") == "C").then(np.inf).otherwise("close"))
        )


def test_a_live_signal_needs_a_universe_and_each_kind_gets_its_runtime():
    with pytest.raises(SignalError, match="has no universe yet"):
        _run._live("strongest", "a" * 64, strongest.bind(), None)
    assert isinstance(_run._live("strongest", "a" * 64, BOUND, None), LiveCrossSection)
    assert isinstance(_run._live("trend", "a" * 64, trend.bind(), None), LiveSignal)


def test_progress_survives_the_database():
    moment = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
    progress = Progress({("t", 0): moment, ("t", 1): moment}, {"A": ("t", 1)})
    assert _progress_of(_as_json(progress)) == progress
