"""A sweep's finished parts on disk, so that it goes on where it stopped.

Below the store's directory each sweep has a directory of its own, named by a digest of all that its
numbers depend on: code, bars, execution, combinations. It holds ``sweep.json``, which says in words
what was swept, and a Parquet file for each finished part, with the rows that :func:`sweep` returns:
``polars.scan_parquet(directory / "*.parquet")`` reads them at any time. Files appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from quantflow.data._parquet import write_parquet

__all__ = ["SweepStore", "pending"]

_FILE = re.compile(r"rows-(\d+)-(\d+)\.parquet")
_KEY = "quantflow_sweep"


class SweepStore:
    """The finished parts of one sweep.

    Parameters
    ----------
    root
        Directory that may hold many sweeps; made when the first part is written.
    identity
        Everything that the sweep's numbers depend on, as JSON values.
    """

    def __init__(self, root: str | Path, identity: Mapping[str, Any]) -> None:
        self._identity = json.dumps(identity, sort_keys=True, indent=1, default=str)
        self._digest = hashlib.sha256(self._identity.encode()).hexdigest()
        self.directory = Path(root) / self._digest[:32]

    def parts(self) -> Iterator[tuple[int, int, pl.DataFrame]]:
        """Yield ``(first, last, rows)`` of the finished parts, by their first combination.

        A file that is damaged, of another sweep, or overlaps an earlier part is left out: its
        combinations count as not done.
        """
        reached = 0
        for first, last in sorted(self._files()):
            if first < reached:
                continue
            rows = self._read(first, last)
            if rows is not None:
                reached = last
                yield first, last, rows

    def write(self, first: int, last: int, rows: pl.DataFrame) -> None:
        """Keep the rows of the combinations ``first <= i < last``."""
        description = self.directory / "sweep.json"
        if not description.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = description.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(self._identity, encoding="utf-8")
            temporary.replace(description)
        write_parquet(rows, self._path(first, last), metadata={_KEY: self._digest})

    def _files(self) -> Iterator[tuple[int, int]]:
        if not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if (found := _FILE.fullmatch(path.name)) is not None:
                yield int(found[1]), int(found[2])

    def _read(self, first: int, last: int) -> pl.DataFrame | None:
        path = self._path(first, last)
        try:
            if pl.read_parquet_metadata(path).get(_KEY) != self._digest:
                return None
            return pl.read_parquet(path, memory_map=False)
        except (OSError, pl.exceptions.PolarsError):
            return None

    def _path(self, first: int, last: int) -> Path:
        return self.directory / f"rows-{first:012d}-{last:012d}.parquet"


def pending(count: int, done: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of ``0 <= i < count`` that are not in ``done``, each of at most ``size``.

    ``done`` is ascending and without overlap.
    """
    first = 0
    for begin, end in [*done, (count, count)]:
        while first < begin:
            last = min(first + size, begin)
            yield first, last
            first = last
        first = max(first, end)
