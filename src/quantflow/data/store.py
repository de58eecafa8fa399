"""An append-only store of bars: a directory of Parquet files that are never changed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl

from quantflow.data._parquet import write_parquet
from quantflow.data.asof import as_of_view, check_as_of
from quantflow.data.bars import BAR_COLUMNS, BAR_KEY, BAR_SCHEMA, bars_digest, validate_bars
from quantflow.data.sources import SourceInfo, check_symbols
from quantflow.errors import InvalidBarsError

__all__ = ["BarStore"]

_VALUES = ("open", "high", "low", "close", "volume")
_SHOWN = 5


class BarStore:
    """Bars of one frequency, each symbol adjusted in one way; a market data source like any other.

    Rows are added and never changed: a restatement is a new row with a later ``known_at``, so a read
    with an earlier ``as_of`` gives what it always gave. Several processes may append at once.

    Parameters
    ----------
    root
        Directory of the store; made at the first append.
    name
        Name of the store when it is read as a source. Bars keep the ``source`` they came with.
    """

    def __init__(self, root: str | Path, *, name: str = "store") -> None:
        self.root = Path(root)
        self.name = name

    @property
    def info(self) -> SourceInfo:
        """What the stored bars are, as far as their rows say it."""
        rows = self._scan()
        facts = rows.select(
            pl.col("adjustment").unique().sort().implode().alias("adjustments"),
            pl.col("source").unique().sort().implode().alias("sources"),
            (pl.col("known_at") - pl.col("timestamp")).min().alias("delay"),
            *(pl.col(name).is_not_null().any().alias(name) for name in _VALUES),
        ).collect()
        fact = facts.row(0, named=True)
        adjustments, sources = fact["adjustments"], fact["sources"]
        return SourceInfo(
            adjustment=adjustments[0] if len(adjustments) == 1 else None,
            survivorship_bias=True,
            delay=fact["delay"] or timedelta(0),
            columns=tuple(name for name in _VALUES if fact[name]),
            note=f"Stored bars of {', '.join(sources) or 'no source yet'}; how their symbols were chosen is not known.",
        )

    def symbols(self) -> tuple[str, ...]:
        """Return every stored symbol, in alphabetical order."""
        return tuple(self._scan().select(pl.col("symbol").unique().sort()).collect()["symbol"].to_list())

    def append(self, frame: pl.DataFrame) -> int:
        """Add the rows that are not stored yet and return how many there were.

        Either all new rows are stored or none. Appending the same rows again does nothing.

        Raises
        ------
        InvalidBarsError
            Rows that are not bars; rows that change a stored row without a later ``known_at``; rows adjusted
            differently from the stored rows of their symbol, or of another frequency.
        """
        bars = validate_bars(frame, source=f"append to {self.name}")
        if bars.is_empty():
            return 0
        with self._locked():
            stored = self._scan().filter(pl.col("symbol").is_in(bars["symbol"].unique().implode())).collect()
            new = bars.join(stored, on=BAR_COLUMNS, how="anti", nulls_equal=True, maintain_order="left")
            problems = list(_contradictions(new, stored))
            if problems:
                raise InvalidBarsError(problems, source=f"append to {self.name}")
            if not new.is_empty():
                self._write(new)
            return new.height

    def read(
        self,
        symbols: Sequence[str] | None = None,
        *,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime,
    ) -> pl.DataFrame:
        """Return the bars known at ``as_of``; see :class:`~quantflow.data.sources.MarketDataSource`."""
        moment = check_as_of(as_of)
        rows = self._scan().filter(pl.col("known_at") <= moment)
        if symbols is not None:
            rows = rows.filter(pl.col("symbol").is_in(check_symbols(symbols, self.symbols(), source=self.name)))
        if start is not None:
            rows = rows.filter(pl.col("session") >= start)
        if end is not None:
            rows = rows.filter(pl.col("session") <= end)
        return as_of_view(rows.collect(), moment)

    def history(self, symbol: str, session: date) -> pl.DataFrame:
        """Return every version of one bar, undated ones first, then in the order in which they became known."""
        rows = self._scan().filter((pl.col("symbol") == symbol) & (pl.col("session") == session))
        return rows.collect().sort(BAR_KEY)

    def _files(self) -> list[Path]:
        return sorted(self.root.glob("[0-9]*.parquet"))

    def _scan(self) -> pl.LazyFrame:
        files = self._files()
        if not files:
            return pl.LazyFrame(schema=BAR_SCHEMA)
        return pl.scan_parquet(files)

    def _write(self, rows: pl.DataFrame) -> None:
        files = self._files()
        number = int(files[-1].name.split("-")[0]) + 1 if files else 1
        digest = bars_digest(rows)
        write_parquet(rows, self.root / f"{number:08d}-{digest[:16]}.parquet", metadata={"quantflow.digest": digest})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            # Released by the kernel when the process dies, so a killed writer leaves no lock behind.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _contradictions(new: pl.DataFrame, stored: pl.DataFrame) -> Iterator[str]:
    changed = new.join(stored, on=BAR_KEY, how="semi", nulls_equal=True, maintain_order="left")
    if not changed.is_empty():
        rows = ", ".join(
            f"{symbol} {session}" for symbol, session in changed.select("symbol", "session").head(_SHOWN).rows()
        )
        more = f" and {changed.height - _SHOWN} more" if changed.height > _SHOWN else ""
        yield f"changes stored rows without a known_at of its own: {rows}{more}; a restatement needs a later one"
    for column in ("adjustment", "frequency"):
        kept = stored.select("symbol", pl.col(column).alias("stored")).unique()
        other = new.select("symbol", column).unique().join(kept, on="symbol").filter(pl.col(column) != pl.col("stored"))
        for symbol, given, before in other.sort("symbol").head(_SHOWN).rows():
            yield f"{symbol} is stored with {column} {before!r} and given with {given!r}; use another store for it"
