"""Extract, validate, load: bring a store up to date with a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import polars as pl

from quantflow.data.asof import check_as_of, restate
from quantflow.data.bars import validate_bars
from quantflow.data.sources import MarketDataSource
from quantflow.data.store import BarStore
from quantflow.errors import InvalidBarsError
from quantflow.telemetry import get_logger

__all__ = ["RefreshReport", "refresh_store"]

_log = get_logger(__name__)
_BAR = ("symbol", "timestamp")


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What one refresh read and wrote; ``read == new + restated + unchanged``.

    Parameters
    ----------
    source
        Name of the source.
    as_of
        Moment of the refresh, UTC.
    symbols
        Number of symbols read.
    read
        Bars that the source gave, all valid.
    new
        Bars that the store did not have.
    restated
        Bars that the source gives with other values than before; stored as new rows.
    unchanged
        Bars that the store has with the same values.
    vanished
        Bars that the store has and the source no longer gives; they are kept.
    first_session, last_session
        Range of what was read; None if nothing was.
    """

    source: str
    as_of: datetime
    symbols: int
    read: int
    new: int
    restated: int
    unchanged: int
    vanished: int
    first_session: date | None
    last_session: date | None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values: times and dates in ISO 8601."""
        return {key: value.isoformat() if isinstance(value, date) else value for key, value in asdict(self).items()}


def refresh_store(
    source: MarketDataSource, store: BarStore, *, as_of: datetime, symbols: Sequence[str] | None = None
) -> RefreshReport:
    """Append what the source knows at ``as_of`` and the store does not, and say what that was.

    Idempotent: a second call with the same ``as_of`` and an unchanged source appends nothing. The
    source's whole history is read each time, since vendors restate adjusted prices back to the
    beginning. A changed bar is appended with the ``known_at`` that
    :func:`~quantflow.data.asof.restate` gives it, never in place.

    Parameters
    ----------
    source
        Where to read.
    store
        Where to append; other sources' bars must be in other stores.
    as_of
        Moment of the refresh, timezone-aware: the data interval's end in a scheduled run.
    symbols
        None: all of the source's.

    Raises
    ------
    InvalidBarsError
        The source gave rows that are not bars, or the store holds another source's bars for these symbols;
        nothing was written.
    SourceUnavailableError, SchemaDriftError
        From the source; nothing was written.
    """
    moment = check_as_of(as_of)
    answer = validate_bars(source.read(symbols, as_of=moment), source=source.name)
    wanted = tuple(symbols) if symbols is not None else source.symbols()
    stored = store.read(as_of=moment).filter(pl.col("symbol").is_in(wanted))
    _refuse_foreign(stored, answer)
    rows = restate(stored, answer, observed_at=moment)
    new = rows.join(stored, on=_BAR, how="anti").height
    store.append(rows)
    sessions = answer["session"].sort().to_list()
    report = RefreshReport(
        source=source.name,
        as_of=moment,
        symbols=answer["symbol"].n_unique(),
        read=answer.height,
        new=new,
        restated=rows.height - new,
        unchanged=answer.height - rows.height,
        vanished=stored.join(answer, on=_BAR, how="anti").height,
        first_session=sessions[0] if sessions else None,
        last_session=sessions[-1] if sessions else None,
    )
    _log.info("bars refreshed", **report.as_dict())
    return report


def _refuse_foreign(stored: pl.DataFrame, answer: pl.DataFrame) -> None:
    mixed = (
        pl.concat([stored.select("symbol", "source"), answer.select("symbol", "source")])
        .group_by("symbol")
        .agg(pl.col("source").unique().sort())
        .filter(pl.col("source").list.len() > 1)
        .sort("symbol")
    )
    if not mixed.is_empty():
        # Two vendors' prices of one symbol differ in rounding and adjustment: each bar would look restated.
        problems = [
            f"{symbol} would have bars of {names}; give each source a store of its own"
            for symbol, names in mixed.rows()
        ]
        raise InvalidBarsError(problems, source="refresh")
