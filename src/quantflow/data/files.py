"""Bars from a Parquet or CSV file that somebody else made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from quantflow.data.bars import BAR_SCHEMA, validate_bars
from quantflow.data.calendar import session_close
from quantflow.data.sources import Adjustment, SourceInfo, select_bars
from quantflow.errors import DataError, InvalidBarsError, SourceUnavailableError

__all__ = ["FileSource"]

_ALIASES = {"date": "session", "ticker": "symbol"}
_NUMBERS = ("open", "high", "low", "close", "volume")
_TIMES = ("timestamp", "known_at")


class FileSource:
    """Reads one file; column names are matched without regard to case, others are ignored.

    A file needs ``symbol``, ``session`` (or ``date``, ``ticker``) and ``close``. What it lacks of the rest is
    filled as follows: ``open``, ``high``, ``low``, ``volume`` with null; ``timestamp`` with the close of the
    exchange's session; ``known_at`` with ``timestamp`` plus ``delay``; ``adjustment`` and ``symbol`` with the
    options. A ``known_at`` column is taken as it is: rows without a value are invisible. CSV
    dates are ``YYYY-MM-DD``, moments ISO 8601 with an offset. Rows must ascend by time within a symbol.

    Parameters
    ----------
    path
        A ``.parquet``, ``.csv`` or ``.csv.gz`` file; read once, when the source is made.
    adjustment
        How the prices are adjusted; required unless a column says it.
    symbol
        The one symbol of a file without a symbol column.
    columns
        The file's names to ours, where they differ: ``{"Adj Close": "close"}``.
    exchange
        Whose sessions the dates are, as in exchange_calendars.
    delay
        Time from a session's close until its bar was known.
    survivorship_bias
        Whether the symbols were chosen with hindsight; taken for granted unless you know better.
    name
        Name that the bars carry in ``source``, unless a column says it.

    Raises
    ------
    SourceUnavailableError
        No such file.
    InvalidBarsError
        Names the offending rows, counted from 0.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        adjustment: Adjustment | None = None,
        symbol: str | None = None,
        columns: Mapping[str, str] | None = None,
        exchange: str = "XNYS",
        delay: timedelta = timedelta(0),
        survivorship_bias: bool = True,
        name: str = "file",
    ) -> None:
        self.path = Path(path)
        self.name = name
        rows = _our_names(_read(self.path), columns or {})
        defaults = {"symbol": symbol, "adjustment": adjustment, "source": name, "frequency": "1d"}
        rows = _with_defaults(rows, defaults, path=self.path)
        rows = _with_times(rows, exchange=exchange, delay=delay)
        given = [column for column in BAR_SCHEMA if column in rows.columns]
        self._bars = validate_bars(rows.select(given), source=str(self.path))
        self._symbols = tuple(self._bars["symbol"].unique().sort().to_list())
        adjustments = self._bars["adjustment"].unique().to_list()
        self.info = SourceInfo(
            adjustment=adjustments[0] if len(adjustments) == 1 else None,
            survivorship_bias=survivorship_bias,
            delay=delay,
            columns=tuple(column for column in _NUMBERS if self._bars[column].null_count() < self._bars.height),
            note=f"Bars from the file {self.path.name}.",
        )

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol of the file, in alphabetical order."""
        return self._symbols

    def read(
        self,
        symbols: Sequence[str] | None = None,
        *,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime,
    ) -> pl.DataFrame:
        """Return the bars known at ``as_of``; see :class:`~quantflow.data.sources.MarketDataSource`."""
        return select_bars(
            self._bars, symbols, start=start, end=end, as_of=as_of, known_symbols=self._symbols, source=str(self.path)
        )


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise SourceUnavailableError(f"no file {path}; give the path of a .parquet, .csv or .csv.gz file")
    try:
        if path.suffix in (".parquet", ".pq"):
            return pl.read_parquet(path)
        if path.name.endswith((".csv", ".csv.gz")):
            # Everything as text first: guessing types would turn the symbol 0700 into 700.
            return pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as exc:
        raise DataError(f"{path} cannot be read: {exc}") from exc
    raise DataError(f"{path} has the ending {path.suffix!r}; .parquet, .csv and .csv.gz are read")


def _our_names(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise DataError(f"columns names {absent}, which the file lacks; it has {frame.columns}")
    # A column that the user names wins over one that happens to have our name.
    chosen = {ours: theirs for theirs, ours in columns.items()}
    for name in frame.columns:
        plain = name.strip().lower()
        ours = _ALIASES.get(plain, plain)
        if ours in BAR_SCHEMA and name not in columns:
            chosen.setdefault(ours, name)
    return frame.select(pl.col(theirs).alias(ours) for ours, theirs in chosen.items())


def _with_defaults(rows: pl.DataFrame, defaults: Mapping[str, str | None], *, path: Path) -> pl.DataFrame:
    for name, value in defaults.items():
        if name in rows.columns:
            continue
        if value is None:
            raise DataError(
                f"{path} has no column {name!r}; give it as an option: get_source('file', path=…, {name}=…)"
            )
        rows = rows.with_columns(pl.lit(value).alias(name))
    for name in _NUMBERS:
        if name not in rows.columns and name != "close":
            rows = rows.with_columns(pl.lit(None, dtype=pl.Float64).alias(name))
    rows, problems = _from_text(rows)
    if problems:
        raise InvalidBarsError(problems, source=str(path))
    return rows


def _with_times(rows: pl.DataFrame, *, exchange: str, delay: timedelta) -> pl.DataFrame:
    if "session" not in rows.columns:
        return rows
    rows = rows.with_columns(_as_date(rows["session"]))
    if rows["session"].dtype != pl.Date:
        return rows
    if "timestamp" not in rows.columns:
        rows = rows.with_columns(session_close(rows["session"], exchange).alias("timestamp"))
    if "known_at" not in rows.columns and isinstance(rows["timestamp"].dtype, pl.Datetime):
        rows = rows.with_columns((pl.col("timestamp") + delay).alias("known_at"))
    return rows


def _as_date(session: pl.Series) -> pl.Series:
    """pandas keeps dates as midnights: those become dates, other moments are left for the validation to refuse."""
    if isinstance(session.dtype, pl.Datetime) and bool((session.dt.time() == datetime.min.time()).all()):
        return session.dt.date()
    return session


def _from_text(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    problems: list[str] = []
    changed: list[pl.Series] = []
    for name in rows.columns:
        column = rows[name]
        if column.dtype != pl.String or BAR_SCHEMA[name] == pl.String:
            continue
        if name in _TIMES:
            parsed = _moments(column)
        elif name == "session":
            parsed = column.str.to_date("%Y-%m-%d", strict=False)
        else:
            parsed = column.str.strip_chars().cast(pl.Float64, strict=False)
        problems.extend(_unread(column, parsed))
        changed.append(parsed)
    return rows.with_columns(changed), problems


def _unread(text: pl.Series, parsed: pl.Series) -> Iterator[str]:
    rows = (text.is_not_null() & parsed.is_null()).arg_true().to_list()
    if not rows:
        return
    wanted = "an ISO 8601 moment with an offset, e.g. 2022-12-30T21:00:00Z (a naive one is not accepted)"
    if text.name == "session":
        wanted = "a date, e.g. 2022-12-30"
    elif text.name in _NUMBERS:
        wanted = "a number"
    shown = ", ".join(f"{row} ({text[row]!r})" for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    yield f"{text.name} is not {wanted}: rows {shown}{more}"


def _moments(text: pl.Series) -> pl.Series:
    moments = {value: _moment(value) for value in text.drop_nulls().unique().to_list()}
    if not moments:
        return pl.Series(text.name, [None] * len(text), dtype=BAR_SCHEMA["timestamp"])
    return text.replace_strict(
        pl.Series(list(moments)),
        pl.Series(list(moments.values()), dtype=BAR_SCHEMA["timestamp"]),
        default=None,
        return_dtype=BAR_SCHEMA["timestamp"],
    )


def _moment(value: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo is not None else None
