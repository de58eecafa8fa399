"""Records to bars, in the order in which they were published."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import attrgetter

import polars as pl

from quantflow.data import BAR_SCHEMA
from quantflow.errors import EventDecodeError
from quantflow.events import market
from quantflow.events.transport import ReceivedRecord

__all__ = ["bars_as_published"]


def bars_as_published(
    records: Iterable[ReceivedRecord], columns: Sequence[str], *, places: bool = False
) -> tuple[pl.DataFrame, list[tuple[ReceivedRecord, str]]]:
    """Return ``symbol``, ``session``, ``timestamp`` and ``columns`` of these records, and those that are no bars.

    ``decode_bars`` sorts by time, which would make late bars depend on where a batch happens to
    end. A live signal takes bars in the order of the topic, whatever the batches are. With
    ``places``, the columns ``topic``, ``partition`` and ``offset`` say where each bar stands.
    """
    bars, found, rejected = [], [], []
    for record in records:
        try:
            bar = market._decode(record.value)
        except EventDecodeError as exc:
            rejected.append((record, str(exc)))
            continue
        if not (bar.close > 0.0 and math.isfinite(bar.close)):
            rejected.append((record, f"not a bar: close is {bar.close}; allowed: above 0"))
            continue
        bars.append(bar)
        found.append(record)
    kept = ("symbol", "session", "timestamp", *columns)
    series = [pl.Series(name, list(map(attrgetter(name), bars)), BAR_SCHEMA[name]) for name in kept]
    if places:
        kinds = {"topic": pl.String(), "partition": pl.Int64(), "offset": pl.Int64()}
        series += [pl.Series(name, list(map(attrgetter(name), found)), kind) for name, kind in kinds.items()]
    return pl.DataFrame(series), rejected
