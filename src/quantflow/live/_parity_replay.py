"""History through the live path: published, decoded, decided, one timestamp at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from quantflow.data import BAR_SCHEMA
from quantflow.errors import DataError, SignalError
from quantflow.events.market import publish_bars
from quantflow.events.transport import Message, ReceivedRecord, Transport
from quantflow.live._cross_section import LiveCrossSection
from quantflow.live._decode import bars_as_published
from quantflow.live._parity_compare import BAR_VALUES
from quantflow.live._section_store import SavedSection, SectionStore
from quantflow.live._signal import LiveSignal
from quantflow.live._store import Place, SavedState
from quantflow.signals import BoundCrossSection, Decider

if TYPE_CHECKING:
    from quantflow.events.log import EventLog

__all__ = ["Heard", "MemoryStore", "records_of", "replay"]

_TOPIC = "market.bars.parity"
_SAID = {name: BAR_SCHEMA[name] for name in ("symbol", "session", "timestamp")} | {"exposure": pl.Float64()}

Live = LiveSignal | LiveCrossSection


def records_of(bars: pl.DataFrame, *, topic: str = _TOPIC) -> list[ReceivedRecord]:
    """Return bars as the records of a market topic with one partition, in the order of the rows.

    Parameters
    ----------
    bars
        Canonical bars in the order of their arrival. Late bars and bars that come twice stay
        where they are, as on a topic.

    Raises
    ------
    InvalidBarsError
        Rows that are no bars, or without ``known_at``.
    """
    tape = _Tape()
    for piece in _publishable(bars):
        # Of a transport only a producer is needed, and it is given.
        publish_bars(cast("Transport", None), topic, piece, producer=tape)
    return tape.records


@dataclass(frozen=True)
class Heard:
    """What became of a stream of records.

    Attributes
    ----------
    received
        ``symbol``, ``session``, ``timestamp``, prices and volume, ``offset`` of each record that
        is a bar, in the order of the stream.
    taken
        Those of them that came in time and count.
    refused
        Offset and reason of each record that is none.
    exposures
        ``symbol``, ``session``, ``timestamp``, ``exposure``: what was said, in that order.
    stopped
        Where the signal stood still and why; None where it did not.
    restarted_at
        Timestamps of the first bars after a restart.
    """

    received: pl.DataFrame
    taken: pl.DataFrame
    refused: tuple[tuple[int, str], ...]
    exposures: pl.DataFrame
    stopped: tuple[datetime, str] | None
    restarted_at: tuple[datetime, ...]


def replay(decider: Decider | BoundCrossSection, records: Sequence[ReceivedRecord], *, restarts: int = 1) -> Heard:
    """Run a signal on records as the live consumer does, a timestamp at a time.

    Decoder, live signal and saved states are the live path's own; memory stands for its database.

    Parameters
    ----------
    records
        Of one partition, in the order of their offsets.
    restarts
        How many times, evenly spread, the signal is dropped and taken up from what was kept.
    """
    received, rejected = bars_as_published(records, BAR_VALUES, places=True)
    store = MemoryStore()
    live = _taken_up(decider, store, received)
    runs = list(_runs_of_timestamps(received, records))
    again = {len(runs) * number // (restarts + 1) for number in range(1, restarts + 1)} - {0}
    restarted_at, stopped = [], None
    for number, (timestamp, first, last) in enumerate(runs):
        if number in again:
            live = _taken_up(decider, store, received)
            first = _index_of(records, live.offsets, first)
            restarted_at.append(timestamp)
        batch = records[first:last]
        try:
            live.process(batch, bars_as_published(batch, BAR_VALUES, places=True)[0])
            if isinstance(live, LiveCrossSection) and number == len(runs) - 1:
                _end(live, store, received)
        except (SignalError, DataError) as exc:
            stopped = (timestamp, str(exc))
            break
    refused = tuple((record.offset, reason) for record, reason in rejected)
    taken = _in_time(received, decider)
    return Heard(received, taken, refused, store.exposures, stopped, tuple(restarted_at))


class MemoryStore(SectionStore):
    """What the live tables keep, in memory, for signals of one symbol and cross-sectional ones."""

    def __init__(self) -> None:
        self._states: dict[str, SavedState] = {}
        self._places: dict[Place, int] = {}
        self._section: SavedSection | None = None
        self._said: list[pl.DataFrame] = []

    @property
    def exposures(self) -> pl.DataFrame:
        """Everything that was said, in that order."""
        return pl.concat([pl.DataFrame(schema=_SAID), *self._said])

    @property
    def decided(self) -> datetime | None:
        """The newest timestamp that a cross-sectional signal decided on."""
        return None if self._section is None else self._section.last_timestamp

    def load(self) -> tuple[list[SavedState], dict[Place, int]]:
        """Return the saved states and next offsets."""
        return list(self._states.values()), dict(self._places)

    def load_section(self) -> tuple[SavedSection | None, dict[Place, int]]:
        """Return the saved state of the universe and next offsets."""
        return self._section, dict(self._places)

    def forget(self) -> None:
        """Drop states and offsets; what was said stays."""
        self._states, self._places, self._section = {}, {}, None

    def save(
        self, exposures: pl.DataFrame, states: Sequence[SavedState], moves: Mapping[Place, tuple[int | None, int]]
    ) -> None:
        """Keep a batch."""
        self._said.append(exposures)
        self._states |= {each.symbol: each for each in states}
        self._places |= {place: after for place, (_, after) in moves.items()}

    def save_section(
        self,
        exposures: pl.DataFrame,
        symbols: Sequence[SavedState],
        moves: Mapping[Place, tuple[int | None, int]],
        *,
        section: SavedSection,
        late: pl.DataFrame,
        **_others: Any,
    ) -> int:
        """Keep a batch of a cross-sectional signal; return how many bars came too late."""
        self.save(exposures, symbols, moves)
        self._section = section
        return late.height

    def report(self, error: str | None) -> None:
        """A replay says itself why a signal stands still."""


class _Tape:
    """A producer that keeps what is published, as one partition does."""

    def __init__(self) -> None:
        self.records: list[ReceivedRecord] = []

    def send(self, message: Message) -> None:
        at = len(self.records)
        self.records.append(ReceivedRecord(message.topic, 0, at, message.key, message.value, message.headers, at))

    def flush(self, timeout_s: float = 30.0) -> None:
        """Everything is kept at once."""

    def begin(self) -> None:
        """There are no transactions."""

    def commit(self, timeout_s: float = 30.0) -> None:
        """There are no transactions."""

    def abort(self) -> None:
        """There are no transactions."""

    def close(self) -> None:
        """The tape is read by who made it."""


def _publishable(bars: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Cut where a bar is not newer than the one of its symbol before it: one call refuses such rows."""
    back = pl.col("timestamp") <= pl.col("timestamp").shift(1).over("symbol")
    cuts = bars.select(back.fill_null(False)).to_series().arg_true().to_list()
    for first, last in zip([0, *cuts], [*cuts, bars.height], strict=True):
        yield bars.slice(first, last - first)


def _taken_up(decider: Decider | BoundCrossSection, store: MemoryStore, received: pl.DataFrame) -> Live:
    no_log = cast("EventLog", None)  # the store below stands for it
    live: Live
    if isinstance(decider, BoundCrossSection):
        live = LiveCrossSection("parity", "parity", decider, no_log)
    else:
        live = LiveSignal("parity", "parity", decider, no_log)
    live._store = store
    live.load()
    if isinstance(live, LiveCrossSection):
        live.watch(received.select("topic", "partition").unique().rows())
    return live


def _in_time(received: pl.DataFrame, decider: Decider | BoundCrossSection) -> pl.DataFrame:
    """Return the bars that count: newer than all before of their symbol; for a cross-section, of any symbol."""
    if isinstance(decider, BoundCrossSection):
        in_time = pl.col("timestamp") >= pl.col("timestamp").cum_max()
        return received.filter(in_time).unique(["symbol", "timestamp"], keep="first", maintain_order=True)
    newest = pl.col("timestamp").cum_max().shift(1).over("symbol")
    return received.filter((pl.col("timestamp") > newest) | newest.is_null())


def _end(live: LiveCrossSection, store: MemoryStore, received: pl.DataFrame) -> None:
    """Decide on what waits for a symbol: history ends here, so nobody is waited for."""
    newest: datetime = received["timestamp"].sort()[-1]
    if store.decided != newest:
        live.close(newest)


def _index_of(records: Sequence[ReceivedRecord], kept: Mapping[Place, int], otherwise: int) -> int:
    """Return the index of the first record to read after a restart."""
    offset = min(kept.values(), default=0)
    return next((index for index, record in enumerate(records) if record.offset >= offset), otherwise)


def _runs_of_timestamps(
    received: pl.DataFrame, records: Sequence[ReceivedRecord]
) -> Iterator[tuple[datetime, int, int]]:
    """Yield timestamp, first and last record of each run of one timestamp; what is no bar stays with those before."""
    starts = received.filter(pl.col("timestamp").ne_missing(pl.col("timestamp").shift(1)))
    places = {record.offset: index for index, record in enumerate(records)}
    firsts = [0, *(places[offset] for offset in starts["offset"].to_list()[1:])][: starts.height]
    lasts = [*firsts[1:], len(records)][: starts.height]
    yield from zip(starts["timestamp"].to_list(), firsts, lasts, strict=True)
