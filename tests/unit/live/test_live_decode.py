"""A live signal takes bars in the order of the topic."""

import msgspec
import polars as pl

from quantflow.data import BAR_SCHEMA
from quantflow.events import ReceivedRecord, decode_bars
from quantflow.events.market import encode_bar
from quantflow.events.types import MarketBar
from quantflow.live._decode import bars_as_published
from quantflow.live._signal import LiveSignal
from quantflow.testing.signals import bars_of, random_walk, trend


def records_of(frame, *, first_offset=0):
    events = [encode_bar(MarketBar(**row)) for row in frame.iter_rows(named=True)]
    return [
        ReceivedRecord("market.bars.1d", 0, offset, b"key", event, (), 0)
        for offset, event in enumerate(events, start=first_offset)
    ]


BARS = bars_of({"A": random_walk(20, seed=1), "B": random_walk(20, seed=2)})


def test_bars_come_in_the_order_of_the_topic_and_only_with_the_needed_columns():
    shuffled = BARS.sample(fraction=1.0, shuffle=True, seed=4)
    bars, rejected = bars_as_published(records_of(shuffled), ["close"])
    assert rejected == []
    assert bars.columns == ["symbol", "session", "timestamp", "close"]
    assert bars.equals(shuffled.select(bars.columns))


def test_sorted_they_are_what_decode_bars_reads():
    records = records_of(BARS.sample(fraction=1.0, shuffle=True, seed=4))
    columns = ["open", "high", "low", "close", "volume"]
    bars, _ = bars_as_published(records, columns)
    assert bars.sort("symbol", "timestamp").equals(decode_bars(records).select(bars.columns))


def test_records_that_are_no_bars_are_named_and_leave_no_row():
    good, spoiled = records_of(BARS.head(2))
    event = msgspec.json.decode(spoiled.value)
    event["data"]["close"] = 0.0
    bad = [
        spoiled._replace(value=msgspec.json.encode(event)),
        spoiled._replace(value=b"{}"),
        spoiled._replace(value=None),
    ]
    bars, rejected = bars_as_published([bad[0], good, *bad[1:]], ["close"])
    assert bars.height == 1
    assert [record for record, _ in rejected] == bad
    assert "close is 0.0; allowed: above 0" in rejected[0][1]


def test_no_records_are_no_bars():
    bars, rejected = bars_as_published([], ["close"])
    assert (bars.height, rejected) == (0, [])
    assert bars.schema == {name: BAR_SCHEMA[name] for name in bars.columns}


class Kept:
    """Stands for the database: remembers what was saved."""

    def __init__(self):
        self.exposures, self.states, self.moves = [], {}, []

    def save(self, exposures, states, moves):
        self.exposures.append(exposures)
        self.states |= {state.symbol: state for state in states}
        self.moves.append(dict(moves))


def live_signal():
    live = LiveSignal("momentum", "a" * 64, trend.bind(), log=None)
    live._store = Kept()
    return live


def feed(live, frame, *, first_offset=0):
    records = records_of(frame, first_offset=first_offset)
    return live.process(records, bars_as_published(records, live.decider.columns)[0])


def test_batches_of_any_size_say_the_same_as_one_evaluation():
    ordered = BARS.sort("timestamp", "symbol")
    live = live_signal()
    for start, stop in [(0, 1), (1, 8), (8, 30), (30, 40)]:
        feed(live, ordered.slice(start, stop - start), first_offset=start)
    said = pl.concat(live._store.exposures).sort("symbol", "timestamp")
    assert said.equals(trend.bind().evaluate(BARS))
    assert live.offsets == {("market.bars.1d", 0): 40}
    assert live._store.moves[-1] == {("market.bars.1d", 0): (30, 40)}
    assert live._store.states["B"].bars == 20


def test_bars_that_are_not_newer_are_skipped_within_and_between_batches():
    live = live_signal()
    first = BARS.filter(symbol="A").head(10)
    late_inside = pl.concat([first.head(5), first.slice(6, 4), first.slice(5, 1), first.tail(1)])
    assert feed(live, late_inside).skipped == 2
    assert feed(live, first, first_offset=11).bars == 0
    assert live._store.exposures[-1].height == 0
    taken = pl.concat([first.head(5), first.slice(6, 4)])
    assert live._store.exposures[0].equals(trend.bind().evaluate(taken))


def test_a_batch_that_was_not_kept_leaves_memory_as_it_was():
    live = live_signal()
    ordered = BARS.sort("timestamp", "symbol")
    feed(live, ordered.head(10))
    save = live._store.save

    def fails(*_):
        raise ConnectionError

    live._store.save = fails
    try:
        feed(live, ordered.slice(10, 30), first_offset=10)
    except ConnectionError:
        live._store.save = save
    feed(live, ordered.slice(10, 30), first_offset=10)
    said = pl.concat(live._store.exposures).sort("symbol", "timestamp")
    assert said.equals(trend.bind().evaluate(BARS))
