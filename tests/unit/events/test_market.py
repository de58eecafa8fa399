"""Bars survive the topic bit for bit, and a second replay doubles none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.data.bars import BAR_SCHEMA
from quantflow.errors import EventDecodeError, InvalidBarsError
from quantflow.events.envelope import decode
from quantflow.events.market import decode_bars, digest_records, encode_bar, publish_bars
from quantflow.events.topics import Topics
from quantflow.events.transport import Message, ReceivedRecord
from quantflow.events.types import MarketBar
from quantflow.testing.memory import MemoryTransport
from quantflow.testing.transport import drain, fill

TOPIC = Topics().market_bars("1d")
CLOSE = datetime(2022, 1, 3, 21, tzinfo=UTC)


def bars(*closes: float, symbol: str = "AAPL") -> pl.DataFrame:
    rows = [
        {
            "symbol": symbol,
            "session": date(2022, 1, 3) + timedelta(days=day),
            "timestamp": CLOSE + timedelta(days=day),
            "close": close,
            "known_at": CLOSE + timedelta(days=day, minutes=15),
            "adjustment": "splits",
            "source": "test",
            "frequency": "1d",
        }
        for day, close in enumerate(closes)
    ]
    return pl.DataFrame(rows, schema=BAR_SCHEMA)


def broker() -> MemoryTransport:
    transport = MemoryTransport()
    Topics().ensure_all(transport.admin())
    return transport


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=5))
def test_what_is_published_is_read_back_bit_for_bit(closes: list[float]) -> None:
    transport = broker()
    sent = pl.concat([bars(*closes), bars(*closes, symbol="MSFT")])
    assert publish_bars(transport, TOPIC, sent) == 2 * len(closes)
    assert decode_bars(drain(transport, TOPIC)).equals(sent)


def test_a_second_replay_doubles_no_bar() -> None:
    transport = broker()
    for _ in range(2):
        publish_bars(transport, TOPIC, bars(1.0, 2.0))
    records = drain(transport, TOPIC)
    assert len(records) == 4
    assert decode_bars(records).equals(bars(1.0, 2.0))


def test_a_restatement_is_a_row_of_its_own() -> None:
    transport = broker()
    first = bars(1.0)
    restated = first.with_columns(pl.col("known_at") + timedelta(days=9), close=pl.lit(1.5))
    publish_bars(transport, TOPIC, first)
    publish_bars(transport, TOPIC, restated)
    assert decode_bars(drain(transport, TOPIC))["close"].to_list() == [1.0, 1.5]


def test_bars_are_keyed_by_symbol() -> None:
    transport = broker()
    publish_bars(transport, TOPIC, pl.concat([bars(1.0, 2.0), bars(3.0, symbol="MSFT")]))
    by_key = {record.key: record.partition for record in drain(transport, TOPIC)}
    assert set(by_key) == {b"AAPL", b"MSFT"}


def test_a_bar_on_the_topic_is_an_ordinary_event() -> None:
    transport = broker()
    publish_bars(transport, TOPIC, bars(1.25))
    [record] = drain(transport, TOPIC)
    envelope = decode(record.value)
    assert isinstance(envelope.data, MarketBar)
    assert (envelope.subject, envelope.time, envelope.data.close) == ("AAPL", CLOSE, 1.25)
    assert encode_bar(envelope.data) == record.value


def test_bars_that_are_not_valid_are_refused_before_anything_is_sent() -> None:
    transport = broker()
    with pytest.raises(InvalidBarsError):
        publish_bars(transport, TOPIC, bars(1.0, -1.0))
    undated = bars(1.0).with_columns(known_at=pl.lit(None, BAR_SCHEMA["known_at"]))
    with pytest.raises(InvalidBarsError, match="known_at is null"):
        publish_bars(transport, TOPIC, undated)
    assert drain(transport, TOPIC) == []


@pytest.mark.parametrize(
    "value", [b"", b"not json", b"{}", None, b'{"id":"x","source":"s","subject":"s","time":"2022-01-01T00:00:00Z"}']
)
def test_a_record_that_is_not_a_bar_is_named(value: bytes | None) -> None:
    record = ReceivedRecord(TOPIC, 2, 7, b"AAPL", value, (), 0)
    with pytest.raises(EventDecodeError, match=r"market\.bars\.1d\[2\] offset 7"):
        decode_bars([record])


def test_records_that_are_not_bars_can_be_put_aside() -> None:
    transport = broker()
    publish_bars(transport, TOPIC, bars(1.0))
    good = encode_bar(MarketBar(**bars(2.0).row(0, named=True)))
    wrong = [
        b"junk",
        good.replace(b"quantflow.market.bar", b"quantflow.market.car"),
        good.replace(b'"dataversion":1', b'"dataversion":2'),
        good.replace(b'"known_at":"2022-01-03T21:15:00Z"', b'"known_at":"2022-01-03T21:15:00"'),
    ]
    fill(transport, *(Message(TOPIC, value, b"AAPL") for value in wrong))
    aside: list[str] = []
    kept = decode_bars(drain(transport, TOPIC), rejected=lambda _record, reason: aside.append(reason))
    assert kept.equals(bars(1.0))
    assert len(aside) == len(wrong)


def test_no_records_are_an_empty_frame_of_bars() -> None:
    assert decode_bars([]).schema == BAR_SCHEMA


def test_the_digest_sees_places_keys_and_values() -> None:
    base = ReceivedRecord(TOPIC, 0, 0, b"k", b"v", (), 0)
    changed = [
        base._replace(partition=1),
        base._replace(offset=1),
        base._replace(key=b"kv", value=b""),
        base._replace(value=None),
        base._replace(value=b""),
        base._replace(topic="other"),
    ]
    digests = {digest_records([record]) for record in (base, *changed)}
    assert len(digests) == 7
    assert digest_records([base._replace(timestamp_ms=5)]) == digest_records([base])
