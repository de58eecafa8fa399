"""One sweep as a value that can be sent anywhere, and what computes its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest._combinations import Combinations
from quantflow.backtest._from_raw import SUMMARY_METRICS, metrics_from_raw
from quantflow.backtest._grid import Grid
from quantflow.backtest._raw import RAW_METRICS
from quantflow.backtest._sweep_paths import PathSource, path_source
from quantflow.backtest._threads import run_all
from quantflow.errors import MissingColumnError, ParameterError

__all__ = ["By", "Job", "Runner"]

By = Literal["portfolio", "symbol"]
Floats = npt.NDArray[np.float64]

# Figures that are counts.
_INTEGERS = ("orders", "stops", "limited", "trades", "periods", "longest_drawdown")
# A part is about a second of work and a few megabytes of sums, so that memory stays flat and little is lost.
_PART_STEPS = 1 << 27
_PART_BYTES = 8 << 20
_MOST_IN_PART = 4096
_SAMPLE = 16


@dataclass(frozen=True)
class Job:
    """Everything that a sweep's figures depend on.

    ``execution`` holds the options that are the same for all combinations. Accounts begin at the first
    bar at or after ``start``, None: at the first of all.
    """

    signal: Any
    name: str
    bars: pl.DataFrame = field(repr=False)
    grid: Grid
    by: By
    execution: Mapping[str, Any]
    actions: pl.DataFrame | None
    metrics: tuple[str, ...]
    risk_free_rate: float
    start: datetime | None = None

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise ParameterError(f"by is {self.by!r}; allowed: {', '.join(map(repr, get_args(By)))}")
        unknown = [name for name in self.metrics if name not in SUMMARY_METRICS]
        if unknown or not self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise ParameterError(
                f"metrics are {self.metrics}; allowed: some of {', '.join(SUMMARY_METRICS)}, each once"
            )
        taken = [name for name in self.grid.names if name in (*self.metrics, "symbol", "bars")]
        if taken:
            raise ParameterError(f"the grid has the name {taken[0]!r}, which is a column of the result; leave it out")
        if "symbol" not in self.bars.columns or "timestamp" not in self.bars.columns:
            raise MissingColumnError(
                f"bars need symbol and timestamp; they have: {', '.join(self.bars.columns) or 'none'}"
            )

    def on(self, grid: Grid, bars: pl.DataFrame) -> Job:
        """Return the same sweep of other combinations on other bars."""
        return replace(self, grid=grid, bars=bars)

    def identity(self) -> dict[str, Any]:
        """Return what tells this sweep from others, as JSON values.

        It changes with the code of the signal and of the engines, with bars, options and combinations.
        """
        from quantflow.backtest._sweep_identity import job_identity

        return job_identity(self)


class Runner:
    """Computes parts of a job; bars are laid out once.

    Attributes
    ----------
    count
        Number of combinations.
    rows_each
        Rows of a combination: one, or one a symbol.
    part_size
        Combinations that are computed in one go.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._source: PathSource = path_source(job)
        self._rate = job.risk_free_rate
        self.symbols = self._source.symbols if job.by == "symbol" else ()
        self.metrics = job.metrics
        self.count = job.grid.count
        self.rows_each = len(self.symbols) if job.by == "symbol" else 1
        self.part_size = self._part_size()

    @property
    def width(self) -> int:
        """Number of columns of the result."""
        return len(self._job.grid.axes) + (self._job.by == "symbol") + len(self.metrics)

    def run(
        self,
        first: int,
        last: int,
        *,
        threads: int = 1,
        at: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Floats:
        """Return the figures of the combinations ``first <= i < last``: a row a metric, a column a row of the result.

        Parameters
        ----------
        at
            Told how many of these combinations are done, about.
        cancelled
            True stops with :class:`~quantflow.backtest._threads.Stopped`.
        """
        combinations = Combinations(self._job.grid, first, last, self._job.execution)
        raw = np.empty((combinations.count, self.rows_each, len(RAW_METRICS)))
        tasks = self._source.tasks(combinations, raw, threads)

        def tick(done: int) -> None:
            if at is not None:
                at(combinations.count * done // len(tasks))

        run_all(tasks, threads, tick=tick, cancelled=cancelled)
        return self._figures(combinations, raw)

    def seconds_each(self) -> float:
        """Return how long one thread takes for one combination, measured on a few of them."""
        if self.count == 0:
            return 0.0
        sample = np.unique(np.linspace(0, self.count - 1, _SAMPLE).astype(np.int64))
        few = Combinations(self._job.grid.take(sample), 0, len(sample), self._job.execution)
        raw = np.empty((few.count, self.rows_each, len(RAW_METRICS)))
        tasks = self._source.tasks(few, raw, 1)
        # One task stands for all. It runs twice, because the first time may compile.
        tasks[0]()
        started = time.perf_counter()
        tasks[0]()
        return (time.perf_counter() - started) * len(tasks) / few.count

    def working_bytes(self, threads: int) -> int:
        """Return about how many bytes are needed beside the result."""
        return threads * self._source.scratch_bytes + 3 * self._raw_bytes(min(self.part_size, self.count))

    def frame(self, first: int, last: int, figures: Floats) -> pl.DataFrame:
        """Return the rows of the combinations ``first <= i < last`` with their figures."""
        columns = list(self._job.grid.columns(first, last).values())
        if self._job.by == "symbol":
            rows = np.repeat(np.arange(last - first), self.rows_each)
            columns = [column.gather(rows) for column in columns]
            columns.append(
                pl.Series("symbol", self.symbols, dtype=pl.String).gather(
                    np.tile(np.arange(self.rows_each), last - first)
                )
            )
        for name, values in zip(self.metrics, figures, strict=True):
            columns.append(_typed(pl.Series(name, values)))
        return pl.DataFrame(columns)

    @property
    def no_figures(self) -> Floats:
        """Figures of no combination, of the right shape."""
        return np.empty((len(self.metrics), 0))

    def _figures(self, combinations: Combinations, raw: Floats) -> Floats:
        flat = raw.reshape(-1, len(RAW_METRICS))
        years = np.repeat(combinations.periods_per_year, self.rows_each)
        figures = np.empty((len(self.metrics), len(flat)))
        for periods in np.unique(years):
            chosen = years == periods
            found = metrics_from_raw(
                flat if chosen.all() else flat[chosen],
                self.metrics,
                periods_per_year=float(periods),
                risk_free_rate=self._rate,
            )
            figures[:, chosen] = np.stack([found[name] for name in self.metrics])
        return figures

    def _part_size(self) -> int:
        by_steps = _PART_STEPS // max(1, self._source.steps_each)
        by_bytes = _PART_BYTES // self._raw_bytes(1)
        return max(_SAMPLE, min(by_steps, by_bytes, _MOST_IN_PART))

    def _raw_bytes(self, combinations: int) -> int:
        return max(1, combinations * self.rows_each * len(RAW_METRICS) * 8)


def _typed(column: pl.Series) -> pl.Series:
    if column.name in _INTEGERS:
        return column.cast(pl.Int64)
    return column.cast(pl.Boolean) if column.name == "ruined" else column
