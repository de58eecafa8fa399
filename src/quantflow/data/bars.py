"""What a bar is: the canonical frame, and the check that names every row that is not one.

Columns
-------
symbol
    The instrument's name at its source.
session
    The exchange's trading date.
timestamp
    Close of that session, UTC.
open, high, low, volume
    Null where the source has none: they are never made up.
close
    Last price of the session, in the quote currency.
known_at
    When the row became knowable, UTC. Null means undated: the row is invisible to readers.
adjustment
    What the prices were adjusted for: ``raw``, ``splits`` or ``splits_and_dividends``.
source
    Which source said so.
frequency
    Length of the bar: ``1d`` for daily bars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import polars as pl

from quantflow.errors import InvalidBarsError

__all__ = [
    "ADJUSTMENTS",
    "BAR_COLUMNS",
    "BAR_KEY",
    "BAR_SCHEMA",
    "bars_digest",
    "empty_bars",
    "frame_digest",
    "validate_bars",
]

UTC_TIME: Final = pl.Datetime("us", "UTC")

#: Columns and types of every frame of bars, in this order.
BAR_SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "session": pl.Date(),
        "timestamp": UTC_TIME,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "known_at": UTC_TIME,
        "adjustment": pl.String(),
        "source": pl.String(),
        "frequency": pl.String(),
    }
)
BAR_COLUMNS: Final = tuple(BAR_SCHEMA)
#: Two rows with the same key are the same version of the same bar.
BAR_KEY: Final = ("symbol", "timestamp", "known_at")
ADJUSTMENTS: Final = ("raw", "splits", "splits_and_dividends")

_PRICES = ("open", "high", "low", "close")
_TIMES = ("timestamp", "known_at")
_TEXTS = ("symbol", "adjustment", "source", "frequency")
_ROWS_SHOWN = 5
# Vendors round the four prices separately, so a close may sit a few units in the last place above the high.
_ROUNDING = 1e-9


def empty_bars() -> pl.DataFrame:
    """Return a frame of bars without rows."""
    return pl.DataFrame(schema=BAR_SCHEMA)


def bars_digest(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of what bars say, whatever file or row order they came in.

    Two frames have the same digest if and only if they hold the same rows, every column included.
    """
    rows = frame.select(pl.col(name).cast(dtype) for name, dtype in BAR_SCHEMA.items())
    return frame_digest(rows.sort(BAR_COLUMNS, nulls_last=True), kind="bars")


def frame_digest(frame: pl.DataFrame, *, kind: str) -> str:
    """Return the SHA-256 of a frame of texts, numbers, dates and times, in the given order of rows and columns."""
    digest = hashlib.sha256(f"quantflow-{kind}-1:{frame.height}\n".encode())
    for name in frame.columns:
        digest.update(f"{name}\n".encode())
        digest.update(_column_bytes(frame[name]))
    return digest.hexdigest()


def _column_bytes(column: pl.Series) -> bytes:
    nulls = column.is_null().cast(pl.UInt8).to_numpy().tobytes()
    if column.dtype == pl.String:
        # Length before text, so that ("ab", "c") and ("a", "bc") differ.
        lengths = column.fill_null("").str.len_bytes().to_numpy().tobytes()
        return nulls + lengths + "".join(column.fill_null("").to_list()).encode()
    if column.dtype == pl.Float64:
        return nulls + column.fill_null(0.0).to_numpy().astype("<f8").tobytes()
    return nulls + column.to_physical().cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes()


def validate_bars(frame: pl.DataFrame, *, source: str) -> pl.DataFrame:
    """Return the frame in the canonical schema, or say which rows are not bars.

    Nothing is repaired: only types that cast without loss are changed (whole numbers to floats, time
    zones to UTC, time units to microseconds) and columns are put in order. Rows may restate a bar
    (same symbol and timestamp, another ``known_at``) and may be undated (null ``known_at``).

    Parameters
    ----------
    frame
        Rows of one frequency, ascending by timestamp, then ``known_at``, within each symbol.
    source
        Named in the error: a source's name or a file.

    Raises
    ------
    InvalidBarsError
        One line per kind of problem. Rows are counted from 0, in the given order.
    """
    problems = list(_schema_problems(frame))
    if problems:
        raise InvalidBarsError(problems, source=source)
    bars = frame.select(pl.col(name).cast(dtype) for name, dtype in BAR_SCHEMA.items())
    problems = [*_row_problems(bars), *_frame_problems(bars)]
    if problems:
        raise InvalidBarsError(problems, source=source)
    return bars


def _schema_problems(frame: pl.DataFrame) -> Iterator[str]:
    missing = [name for name in BAR_COLUMNS if name not in frame.columns]
    if missing:
        yield f"missing columns {missing}; bars have {list(BAR_COLUMNS)} (open, high, low and volume may be null)"
    unknown = [name for name in frame.columns if name not in BAR_SCHEMA]
    if unknown:
        yield f"unknown columns {unknown}; drop them, bars have {list(BAR_COLUMNS)}"
    for name, dtype in frame.schema.items():
        if name in BAR_SCHEMA and dtype != pl.Null:
            yield from _type_problem(frame, name, dtype)


def _type_problem(frame: pl.DataFrame, name: str, dtype: pl.DataType) -> Iterator[str]:
    wanted = BAR_SCHEMA[name]
    if name in _TIMES:
        if isinstance(dtype, pl.Datetime):
            if dtype.time_zone is None:
                rows = frame[name].is_not_null().arg_true().to_list()
                yield f"naive timestamps in {name!r}: rows {_some(rows)}; give the time zone, UTC is kept"
            return
        yield f"column {name!r} is {dtype}; {wanted} is needed"
    elif name == "session" and dtype != pl.Date:
        yield f"column 'session' is {dtype}; Date (the exchange's trading date) is needed"
    elif name in _TEXTS and not isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        yield f"column {name!r} is {dtype}; String is needed"
    elif wanted == pl.Float64 and not dtype.is_numeric():
        yield f"column {name!r} is {dtype}; a number is needed"


def _row_problems(bars: pl.DataFrame) -> Iterator[str]:
    rules = _rules()
    flags = bars.select(rule.fill_null(False).alias(text) for text, rule in rules.items())
    for text in rules:
        flagged = flags[text]
        if flagged.any():
            yield f"{text}: {_name_rows(bars, flagged.arg_true().to_list())}"


def _rules() -> dict[str, pl.Expr]:
    """Problem in words -> expression that is true for the rows that have it."""
    within = ("symbol",)
    rules: dict[str, pl.Expr] = {}
    for name in _TEXTS:
        rules[f"{name} is missing"] = pl.col(name).is_null() | (pl.col(name).str.strip_chars() == "")
    rules[f"adjustment is none of {list(ADJUSTMENTS)}"] = ~pl.col("adjustment").is_in(ADJUSTMENTS)
    rules["session is missing"] = pl.col("session").is_null()
    rules["timestamp is missing"] = pl.col("timestamp").is_null()
    distance = (pl.col("timestamp").dt.date() - pl.col("session")).dt.total_days().abs()
    rules["timestamp is more than a day away from its session"] = distance > 1
    rules["known before the session closed (known_at < timestamp)"] = pl.col("known_at") < pl.col("timestamp")
    rules["close is missing"] = pl.col("close").is_null()
    for name in _PRICES:
        rules[f"{name} is NaN or infinite"] = ~pl.col(name).is_finite()
        rules[f"{name} is not positive"] = pl.col(name).is_finite() & (pl.col(name) <= 0)
    rules["volume is NaN or infinite"] = ~pl.col("volume").is_finite()
    rules["volume is negative"] = pl.col("volume").is_finite() & (pl.col("volume") < 0)
    rules["high < low"] = pl.col("high") < pl.col("low")
    for name in ("open", "close"):
        rules[f"{name} above high"] = _finite(name, "high") & (pl.col(name) > pl.col("high") * (1 + _ROUNDING))
        rules[f"{name} below low"] = _finite(name, "low") & (pl.col(name) < pl.col("low") * (1 - _ROUNDING))
    # Only the later one of two equal rows is named: it is the one to remove.
    rules["duplicate of an earlier row (same symbol, timestamp and known_at)"] = (
        pl.int_range(pl.len()).over(BAR_KEY) > 0
    )
    earlier = pl.col("timestamp").shift(1).over(within)
    earlier_known = pl.col("known_at").shift(1).over(within)
    rules["unsorted (older than the symbol's row before it)"] = (pl.col("timestamp") < earlier) | (
        (pl.col("timestamp") == earlier) & (pl.col("known_at") < earlier_known)
    )
    return rules


def _finite(*names: str) -> pl.Expr:
    return pl.all_horizontal(pl.col(name).is_finite() for name in names)


def _frame_problems(bars: pl.DataFrame) -> Iterator[str]:
    frequencies = sorted(bars["frequency"].drop_nulls().unique().to_list())
    if len(frequencies) > 1:
        yield f"frequencies {frequencies} are mixed; give one frame for each"
    mixed = (
        bars.group_by("symbol")
        .agg(pl.col("adjustment").drop_nulls().unique().sort())
        .filter(pl.col("adjustment").list.len() > 1)
        .sort("symbol", nulls_last=True)
    )
    for symbol, adjustments in mixed.iter_rows():
        yield f"{symbol} mixes prices that are adjusted differently: {adjustments}; their ratio is not a return"


def _name_rows(bars: pl.DataFrame, rows: list[int]) -> str:
    named = [f"{row} ({bars['symbol'][row]} {bars['session'][row]})" for row in rows[:_ROWS_SHOWN]]
    return f"rows {', '.join(named)}{_and_more(rows)}"


def _some(rows: list[int]) -> str:
    return ", ".join(str(row) for row in rows[:_ROWS_SHOWN]) + _and_more(rows)


def _and_more(rows: list[int]) -> str:
    return f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
