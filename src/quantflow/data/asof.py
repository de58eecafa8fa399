"""What was known at a moment, and how a later answer of a vendor becomes rows of its own."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from quantflow.data.bars import BAR_KEY, BAR_SCHEMA
from quantflow.errors import DataError

__all__ = ["as_of_view", "check_as_of", "restate"]

_BAR = ("symbol", "timestamp")
_VALUES = ("open", "high", "low", "close", "volume")
# A split or dividend multiplies a whole history; what is left after dividing is the vendor's rounding.
_REBASING_SPREAD = 1e-4


def check_as_of(as_of: datetime) -> datetime:
    """Return the moment in UTC.

    Raises
    ------
    DataError
        The moment has no time zone.
    """
    if as_of.tzinfo is None:
        raise DataError(
            f"as_of is {as_of.isoformat()}, without a time zone; give e.g. datetime(2022, 12, 30, tzinfo=UTC)"
        )
    return as_of.astimezone(UTC)


def as_of_view(frame: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Return the bars as a reader at ``as_of`` knew them: one row a symbol and timestamp.

    Rows known later and undated rows (null ``known_at``) do not exist. Of several versions of a bar
    the one that became known last is kept. A later ``as_of`` never removes a bar, it only adds bars
    or replaces their values.

    Parameters
    ----------
    frame
        Valid bars, restatements included.
    as_of
        Timezone-aware; rows known exactly then are included.
    """
    moment = check_as_of(as_of)
    known = frame.filter(pl.col("known_at").is_not_null() & (pl.col("known_at") <= moment))
    return known.sort(BAR_KEY, maintain_order=True).unique(_BAR, keep="last", maintain_order=True)


def restate(known: pl.DataFrame, answer: pl.DataFrame, *, observed_at: datetime) -> pl.DataFrame:
    """Return the rows of a later answer that must be appended to what is known already.

    Equal rows are left out. A row that changes a known bar is a restatement: a new row, whose
    ``known_at`` is the moment at which the change was observed. If the answer multiplies a symbol's whole
    known history by one factor and goes on with newer bars (a split or dividend that the vendor
    worked into its adjusted prices), the restated rows become known together with the first
    newer bar: nobody ever reads a history whose halves are on different scales.

    Parameters
    ----------
    known
        One row a bar, as read before: :func:`as_of_view` of what is stored.
    answer
        One row a bar, as the vendor gives them now, with the ``known_at`` of a first reading.
    observed_at
        When the vendor gave the answer; timezone-aware.
    """
    moment = check_as_of(observed_at)
    before = known.select(*_BAR, *(pl.col(name).alias(f"{name}_before") for name in (*_VALUES, "known_at")))
    both = answer.join(before, on=_BAR, how="left", maintain_order="left")
    is_known = pl.col("known_at_before").is_not_null()
    changed = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in _VALUES)
    fresh = both.filter(~is_known)
    restated = both.filter(is_known & changed)
    if restated.is_empty():
        return fresh.select(BAR_SCHEMA.names())
    rebased_from = _rebasings(both)
    restated = restated.join(rebased_from, on="symbol", how="left", maintain_order="left").with_columns(
        known_at=pl.max_horizontal(
            # A source that dates its restatements itself (later than before) is believed.
            pl.when(pl.col("known_at") > pl.col("known_at_before"))
            .then(pl.col("known_at"))
            .otherwise(pl.coalesce("rebased_at", pl.lit(moment, dtype=BAR_SCHEMA["known_at"]))),
        )
    )
    rows = pl.concat([fresh.select(BAR_SCHEMA.names()), restated.select(BAR_SCHEMA.names())])
    return rows.sort(BAR_KEY)


def _rebasings(both: pl.DataFrame) -> pl.DataFrame:
    """Return, for symbols whose whole known history was multiplied, when the first newer bar was known."""
    ratio = pl.col("close") / pl.col("close_before")
    newer = pl.col("known_at_before").is_null() & (pl.col("timestamp") > pl.col("last_known_bar"))
    return (
        both.with_columns(
            ratio=ratio,
            last_known_bar=pl.col("timestamp").filter(pl.col("known_at_before").is_not_null()).max().over("symbol"),
        )
        .group_by("symbol")
        .agg(
            lowest=pl.col("ratio").min(),
            highest=pl.col("ratio").max(),
            rebased_at=pl.col("known_at").filter(newer).min(),
            known_before=pl.col("known_at_before").max(),
        )
        .filter(
            pl.col("rebased_at").is_not_null()
            & (pl.col("rebased_at") > pl.col("known_before"))
            & (pl.col("highest") / pl.col("lowest") - 1 <= _REBASING_SPREAD)
            & ((pl.col("highest") - 1).abs() > _REBASING_SPREAD)
        )
        .select("symbol", "rebased_at")
    )
