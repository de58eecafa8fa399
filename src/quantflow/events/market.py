"""Bars on market topics: fast in both directions, in the one envelope.

A bar's event id says which version of which bar it is, so publishing the same bars again
gives the same ids, and readers keep one row per symbol, timestamp and ``known_at``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from datetime import date, datetime
from typing import TYPE_CHECKING

import msgspec

from quantflow.data.bars import BAR_COLUMNS, BAR_KEY, BAR_SCHEMA, empty_bars, validate_bars
from quantflow.errors import EventDecodeError, InvalidBarsError
from quantflow.events.transport import Message, Producer, ReceivedRecord, Transport
from quantflow.events.types import MarketBar

if TYPE_CHECKING:
    import polars as pl

__all__ = ["decode_bars", "digest_records", "encode_bar", "publish_bars"]

_SOURCE = "quantflow/market"


class _Bar(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The payload of :class:`~quantflow.events.types.MarketBar`, without pydantic's cost."""

    symbol: str
    session: date
    timestamp: datetime
    open: float | None
    high: float | None
    low: float | None
    close: float
    volume: float | None
    known_at: datetime
    adjustment: str
    source: str
    frequency: str


class _BarEvent(msgspec.Struct, gc=False):
    """The envelope of a bar."""

    id: str
    source: str
    subject: str
    time: datetime
    data: _Bar
    type: str = MarketBar.type
    specversion: str = "1.0"
    datacontenttype: str = "application/json"
    dataversion: int = MarketBar.version


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_BarEvent)


def publish_bars(transport: Transport, topic: str, frame: pl.DataFrame, *, producer: Producer | None = None) -> int:
    """Publish bars, keyed by symbol, and return their number once the broker has them all.

    Parameters
    ----------
    topic
        Full name of a market topic.
    frame
        Canonical bars (:data:`quantflow.data.BAR_SCHEMA`); sent in the frame's order.
    producer
        To be used instead of one of its own; it is flushed, not closed.

    Raises
    ------
    InvalidBarsError
        Rows that are not bars, or without ``known_at``; nothing was sent.
    TransportError
        The broker did not take them all. Publishing again doubles nothing for readers.
    """
    bars = validate_bars(frame, source=topic)
    undated = bars["known_at"].is_null()
    if undated.any():
        rows = undated.arg_true().head(5).to_list()
        raise InvalidBarsError([f"known_at is null in {undated.sum()} rows: {rows}; say when they became known"])
    own = producer or transport.producer()
    try:
        send, encode, identities = own.send, _encoder.encode, _identities(bars)
        for identity, row in zip(identities, bars.iter_rows(), strict=True):
            bar = _Bar(*row)
            send(Message(topic, encode(_event(identity, bar)), bar.symbol.encode()))
        own.flush(120.0)
    finally:
        if producer is None:
            own.close()
    return int(bars.height)


def encode_bar(bar: MarketBar) -> bytes:
    """Return one bar as it is published."""
    import polars as pl

    fields = {name: getattr(bar, name) for name in BAR_COLUMNS}
    frame = pl.DataFrame([fields], schema=BAR_SCHEMA)
    return _encoder.encode(_event(_identities(frame)[0], _Bar(**fields)))


def decode_bars(
    records: Iterable[ReceivedRecord], *, rejected: Callable[[ReceivedRecord, str], None] | None = None
) -> pl.DataFrame:
    """Return the bars of these records: one row per symbol, timestamp and ``known_at``, sorted by these.

    Bars that were published twice appear once, the first one read.

    Parameters
    ----------
    rejected
        Called with each record that is not a bar, and why; without it such a record is an error.

    Raises
    ------
    EventDecodeError
        A record is not a bar; names topic, partition and offset.
    """
    import polars as pl

    bars = []
    for record in records:
        try:
            bars.append(_decode(record.value))
        except EventDecodeError as exc:
            if rejected is None:
                place = f"{record.topic}[{record.partition}] offset {record.offset}"
                raise EventDecodeError(f"{place}: {exc}") from exc
            rejected(record, str(exc))
    if not bars:
        return empty_bars()
    columns = {name: [getattr(bar, name) for bar in bars] for name in BAR_COLUMNS}
    frame = pl.DataFrame(columns, schema=BAR_SCHEMA)
    return frame.unique(BAR_KEY, keep="first", maintain_order=True).sort(BAR_KEY)


def digest_records(records: Iterable[ReceivedRecord]) -> str:
    """Return the SHA-256 of records by place, key and value: what a run read, in one line."""
    digest = hashlib.sha256()
    for record in records:
        topic = record.topic.encode()
        digest.update(struct.pack(">Hqq", len(topic), record.partition, record.offset) + topic)
        for part in (record.key, record.value):
            # A missing part and an empty one differ.
            digest.update(struct.pack(">q", -1 if part is None else len(part)))
            digest.update(part or b"")
    return digest.hexdigest()


def _decode(value: bytes | None) -> _Bar:
    try:
        event = _decoder.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise EventDecodeError(f"not a bar: {exc}") from exc
    if event.type != MarketBar.type or event.dataversion != MarketBar.version:
        raise EventDecodeError(
            f"not a bar: {event.type} version {event.dataversion}; {MarketBar.type} version {MarketBar.version} is read"
        )
    bar = event.data
    if bar.timestamp.tzinfo is None or bar.known_at.tzinfo is None:
        raise EventDecodeError("not a bar: timestamp and known_at need an offset, such as Z")
    return bar


def _identities(bars: pl.DataFrame) -> list[str]:
    import polars as pl

    times = [pl.col(name).dt.strftime("%Y%m%dT%H%M%S%6fZ") for name in ("timestamp", "known_at")]
    parts = [pl.col("source"), pl.col("frequency"), pl.col("adjustment"), pl.col("symbol"), *times]
    identities: list[str] = bars.select(pl.concat_str(parts, separator="/"))[:, 0].to_list()
    return identities


def _event(identity: str, bar: _Bar) -> _BarEvent:
    return _BarEvent(identity, _SOURCE, bar.symbol, bar.timestamp, bar)
