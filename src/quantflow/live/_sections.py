"""Which bars belong to a timestamp's cross-section, and when it can be decided: no state, no clock.

A bar is late when its own partition has already shown a later timestamp. Partitions are read
in the order of their offsets, so what is late, and hence what every cross-section consists of,
depends on the topic alone: not on batches, restarts, or which partition is read faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from quantflow.data import BAR_SCHEMA
from quantflow.live._store import Place

__all__ = ["Progress", "Taken", "closing", "empty_waiting", "kept_at", "take"]

_BAR = ["symbol", "timestamp"]
_PLACE = ["topic", "partition"]
_TIME = BAR_SCHEMA["timestamp"]


@dataclass(frozen=True)
class Progress:
    """What is known of the partitions.

    Attributes
    ----------
    newest
        The newest timestamp that each partition has shown.
    homes
        The partition that each symbol of the universe was last seen in.
    """

    newest: Mapping[Place, datetime] = field(default_factory=dict)
    homes: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """A batch, sorted out.

    Attributes
    ----------
    fresh
        Bars that wait for their cross-section to be decided.
    late
        Symbol and timestamp of bars that came after a later one of their partition, while
        their cross-section was still open: it will be decided without them.
    old
        Symbol and timestamp of bars whose cross-section was decided before.
    refused
        How many bars of the universe are not fresh: late, old, or there already.
    progress
        After the batch.
    """

    fresh: pl.DataFrame
    late: pl.DataFrame
    old: pl.DataFrame
    refused: int
    progress: Progress


def empty_waiting(columns: Sequence[str]) -> pl.DataFrame:
    """Return no waiting bars."""
    names = ("symbol", "session", "timestamp", *columns)
    places = {"topic": pl.String(), "partition": pl.Int64(), "offset": pl.Int64(), "before": _TIME}
    return pl.DataFrame(schema={name: BAR_SCHEMA[name] for name in names} | places)


def take(
    bars: pl.DataFrame,
    waiting: pl.DataFrame,
    progress: Progress,
    *,
    universe: Sequence[str],
    decided: datetime | None,
) -> Taken:
    """Return a batch sorted out.

    Parameters
    ----------
    bars
        As :func:`~quantflow.live._decode.bars_as_published` with places, in the order of the topic.
    waiting
        Fresh bars of earlier batches that were not decided on yet.
    decided
        The last timestamp that was decided; ``None`` at first.
    """
    marked = _with_newest_before(bars, progress.newest)
    mine = marked.filter(pl.col("symbol").is_in(universe))
    is_open = pl.lit(True) if decided is None else pl.col("timestamp") > pl.lit(decided, dtype=_TIME)
    is_late = (pl.col("timestamp") < pl.col("before")).fill_null(False)
    fresh = mine.filter(is_open & ~is_late).unique(_BAR, keep="first", maintain_order=True)
    fresh = fresh.join(waiting, on=_BAR, how="anti").select(waiting.columns)
    late = mine.filter(is_open & is_late).select(_BAR).unique(maintain_order=True)
    late = late.join(waiting, on=_BAR, how="anti").join(fresh, on=_BAR, how="anti")
    newest = bars.group_by(_PLACE).agg(pl.col("timestamp").max())
    homes = mine.group_by("symbol").agg(pl.col(_PLACE).last())
    after = dict(progress.newest)
    for topic, partition, timestamp in newest.iter_rows():
        place = (topic, partition)
        after[place] = max(timestamp, after.get(place, timestamp))
    moved = {symbol: (topic, partition) for symbol, topic, partition in homes.iter_rows()}
    return Taken(
        fresh=fresh,
        late=late,
        old=mine.filter(~is_open).select(_BAR).unique(maintain_order=True),
        refused=mine.height - fresh.height,
        progress=Progress(after, {**progress.homes, **moved}),
    )


def closing(
    waiting: pl.DataFrame, progress: Progress, *, universe: Sequence[str], filled: Iterable[Place]
) -> pl.DataFrame:
    """Return the waiting bars of cross-sections that can be decided.

    One can once every symbol has its bar, or cannot have it any more, because its partition
    has shown a later timestamp. A symbol never seen could be in any partition that holds records.
    """
    border = _border(progress, universe, filled)
    if border is None:
        return waiting.clear()
    complete = waiting.filter(pl.col("timestamp") == pl.lit(border, dtype=_TIME)).height == len(universe)
    limit = pl.lit(border, dtype=_TIME)
    return waiting.filter(pl.col("timestamp") <= limit if complete else pl.col("timestamp") < limit)


def kept_at(place: Place, reached: int, waiting: pl.DataFrame, progress: Progress) -> tuple[int, datetime | None]:
    """Return the offset from which a partition must be read again after a restart, and the newest timestamp before it.

    Waiting bars are not kept, they are read again: the offset is that of the first of them.
    """
    here = waiting.filter(topic=place[0], partition=place[1])
    if here.is_empty():
        return reached, progress.newest.get(place)
    first = here.row(here["offset"].arg_min() or 0, named=True)
    return int(first["offset"]), first["before"]


def _border(progress: Progress, universe: Sequence[str], filled: Iterable[Place]) -> datetime | None:
    """Return the timestamp before which no bar of the universe can be fresh any more."""
    homes = {progress.homes.get(symbol) for symbol in universe}
    places = homes - {None}
    if None in homes:
        places = places | set(filled) | set(progress.newest)
    newest = [progress.newest.get(place) for place in places if place is not None]
    known = [timestamp for timestamp in newest if timestamp is not None]
    return min(known) if known and len(known) == len(newest) else None


def _with_newest_before(bars: pl.DataFrame, newest: Mapping[Place, datetime]) -> pl.DataFrame:
    """Add ``before``: the newest timestamp of the partition before each bar, null for its first."""
    known = pl.DataFrame(
        [(*place, timestamp) for place, timestamp in newest.items()],
        schema={"topic": pl.String(), "partition": pl.Int64(), "known": _TIME},
        orient="row",
    )
    in_batch = pl.col("timestamp").cum_max().shift(1).over(_PLACE)
    return (
        bars.join(known, on=_PLACE, how="left", maintain_order="left")
        .with_columns(before=pl.max_horizontal("known", in_batch))
        .drop("known")
    )
