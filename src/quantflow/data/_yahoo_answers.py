"""What Yahoo answered, kept on disk: two downloads of the same prices may differ, so a read must be repeatable."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import polars as pl

from quantflow.data._parquet import write_parquet
from quantflow.data.bars import frame_digest
from quantflow.errors import DataError

#: Yahoo's daily prices as yfinance gives them with ``auto_adjust=False``: open to close adjusted for splits.
ANSWER_SCHEMA: Final = pl.Schema(
    {
        "session": pl.Date(),
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "adj_close": pl.Float64(),
        "volume": pl.Float64(),
        "dividends": pl.Float64(),
        "splits": pl.Float64(),
    }
)
_PREFIX = "quantflow."


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: every session of ``symbol`` from ``start`` to ``through`` as it was told at ``retrieved_at``."""

    symbol: str
    start: date
    through: date
    retrieved_at: datetime
    currency: str
    time_zone: str
    client: str
    rows: pl.DataFrame

    @property
    def digest(self) -> str:
        """SHA-256 of the rows."""
        return frame_digest(self.rows, kind="yahoo")


class AnswerCache:
    """A directory with one Parquet file an answer, its request and digest in the file's metadata."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def keep(self, answer: Answer) -> Path:
        """Write the answer and return its file."""
        stamp = answer.retrieved_at.strftime("%Y%m%dT%H%M%S%fZ")
        path = self._directory(answer.symbol) / f"{stamp}-{answer.digest[:16]}.parquet"
        facts = {
            "symbol": answer.symbol,
            "start": answer.start.isoformat(),
            "through": answer.through.isoformat(),
            "retrieved_at": answer.retrieved_at.isoformat(),
            "currency": answer.currency,
            "time_zone": answer.time_zone,
            "client": answer.client,
            "digest": answer.digest,
        }
        write_parquet(answer.rows, path, metadata={_PREFIX + key: value for key, value in facts.items()})
        return path

    def covering(self, symbol: str, start: date, through: date) -> list[Answer]:
        """Return the answers that hold every session from ``start`` to ``through``, the earliest given first."""
        answers = []
        for path in sorted(self._directory(symbol).glob("[0-9]*.parquet")):
            facts = _facts(path)
            if date.fromisoformat(facts["start"]) <= start and date.fromisoformat(facts["through"]) >= through:
                answers.append(_load(path, facts))
        return answers

    def _directory(self, symbol: str) -> Path:
        # Symbols such as BTC-USD, ^GSPC or A/B become safe names; no two symbols share one.
        return self.root / quote(symbol, safe="")


def _facts(path: Path) -> dict[str, str]:
    try:
        metadata = pl.read_parquet_metadata(path)
        return {
            key: metadata[_PREFIX + key]
            for key in ("symbol", "start", "through", "retrieved_at", "currency", "time_zone", "client", "digest")
        }
    except (pl.exceptions.PolarsError, KeyError, OSError) as exc:
        raise DataError(f"{path} is not a cached answer ({exc}); delete it to read again") from exc


def _load(path: Path, facts: dict[str, str]) -> Answer:
    answer = Answer(
        symbol=facts["symbol"],
        start=date.fromisoformat(facts["start"]),
        through=date.fromisoformat(facts["through"]),
        retrieved_at=datetime.fromisoformat(facts["retrieved_at"]),
        currency=facts["currency"],
        time_zone=facts["time_zone"],
        client=facts["client"],
        rows=pl.read_parquet(path),
    )
    if answer.rows.schema != ANSWER_SCHEMA or answer.digest != facts["digest"]:
        raise DataError(f"{path} no longer holds what was read (its digest differs); delete it to read again")
    return answer
