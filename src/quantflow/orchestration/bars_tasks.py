"""The tasks of the operational DAG that keeps a bar store up to date: extract, validate, load.

Each takes a path and returns a path and facts, so no bars travel through XCom. Each may run
again: extracting replaces its file, loading appends only what the store does not have.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from quantflow.data import BarStore, get_source, refresh_store, validate_bars
from quantflow.data.files import FileSource
from quantflow.settings import Settings
from quantflow.telemetry import get_logger

__all__ = ["extract", "load", "validate"]

log = get_logger(__name__)

#: How long extracted files are kept, in seconds.
_KEPT_S = 7 * 86_400.0


def extract(source: str, *, as_of: datetime, run: str) -> dict[str, Any]:
    """Read a source's whole history as known at ``as_of`` into a file of this run.

    The whole history, because vendors restate adjusted prices back to the beginning.

    Parameters
    ----------
    source
        One of :func:`quantflow.data.source_names`.
    as_of
        Timezone-aware: the scheduled moment.
    run
        Names the run's directory; reduced to letters, digits, dots and dashes.

    Raises
    ------
    UnknownSourceError, SourceUnavailableError, SchemaDriftError
        From the source; nothing was written.
    """
    frame = get_source(source).read(as_of=as_of)
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in ".-_") else "-" for letter in run)
    path = Settings.load().home / "staging" / "bars" / source / f"{safe}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    _forget_old(path.parent)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.parquet")
    frame.write_parquet(temporary)
    temporary.replace(path)
    log.info("bars extracted", source=source, rows=frame.height)
    return {"path": str(path), "rows": frame.height}


def validate(path: str, *, source: str) -> dict[str, Any]:
    """Refuse rows that are not bars, naming them.

    Raises
    ------
    InvalidBarsError
        Names the rows; the store was not touched.
    """
    import polars as pl

    bars = validate_bars(pl.read_parquet(path), source=source)
    log.info("bars are valid", source=source, rows=bars.height)
    return {"rows": bars.height, "symbols": bars["symbol"].n_unique()}


def load(path: str, *, source: str, as_of: datetime) -> dict[str, Any]:
    """Append what the store ``<home>/bars/<source>`` does not have.

    Returns
    -------
    dict
        The refresh's report: bars read, new, restated, unchanged, vanished, first and last session.
    """
    store = BarStore(Settings.load().home / "bars" / source)
    return refresh_store(FileSource(path, name=source), store, as_of=as_of).as_dict()


def _forget_old(directory: Path) -> None:
    # Kept for a while: a failed load is looked into, and tried again, with the file that it had.
    oldest = time.time() - _KEPT_S
    for path in directory.glob("*.parquet"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
