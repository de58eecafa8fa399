"""Sweeps: one row for each combination of parameters, as fast as the machine allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest import _sweep_limits as limits
from quantflow.backtest._combinations import Combinations
from quantflow.backtest._grid import Condition, Grid, make_grid
from quantflow.backtest._options import Execution
from quantflow.backtest._progress import Progress, ProgressOption
from quantflow.backtest._search import Search, SuccessiveHalving, chosen, halve, rungs
from quantflow.backtest._sweep_job import By, Job, Runner
from quantflow.backtest._sweep_store import SweepStore, pending
from quantflow.backtest._threads import Stopped
from quantflow.errors import ParameterError, SweepCancelledError
from quantflow.signals import CrossSection, Signal

if TYPE_CHECKING:
    from distributed import Client

    from quantflow.signals import Decider, Definition

__all__ = ["DEFAULT_METRICS", "sweep"]

#: What :func:`sweep` reports unless asked for other metrics.
DEFAULT_METRICS = (
    "total_return",
    "cagr",
    "volatility",
    "sharpe_ratio",
    "max_drawdown",
    "turnover",
    "cost",
    "orders",
)

# Combinations whose warm-up is looked at in one go.
_AT_ONCE = 4096
Part = tuple[int, int]
Figures = npt.NDArray[np.float64]

_OPTIONS = tuple(option.name for option in fields(Execution))


def sweep(
    signal: Definition | Callable[..., Decider],
    bars: pl.DataFrame,
    grid: Mapping[str, Any],
    *,
    where: Condition | None = None,
    by: By = "portfolio",
    metrics: Sequence[str] = DEFAULT_METRICS,
    risk_free_rate: float = 0.0,
    actions: pl.DataFrame | None = None,
    start: datetime | None = None,
    search: Search | None = None,
    threads: int | None = None,
    cluster: Client | None = None,
    store: str | Path | None = None,
    progress: ProgressOption = None,
    cancel: threading.Event | None = None,
    max_combinations: int | None = None,
    memory_limit_bytes: int | None = None,
    budget_s: float | None = None,
    **execution: Any,
) -> pl.DataFrame:
    """Return a row for each combination of the grid: its values, then its metrics.

    Every figure is that of :func:`backtest` with the same values, to 1e-9; paths are never kept, so
    memory grows with the rows returned and nothing else. Each row is computed by one thread wholly:
    the result does not depend on their number, nor on a cluster or store.

    Parameters
    ----------
    signal
        A signal of any shape, or a function from values to a :class:`~quantflow.signals.Decider`.
    bars
        Canonical frame, one row a (symbol, timestamp).
    grid
        Values by name: parameters of the signal, and options of :class:`Execution` such as
        ``stop_loss``. A sequence, range or array, or a single value. Rows come in the order of nested
        loops, the last name fastest. A parameter of the signal goes before an option of the same name.
    where
        Which combinations to keep: a Polars expression on the grid's names, or a function with
        names of the grid as arguments, ``lambda fast, slow: fast < slow``.
    by
        ``"portfolio"``: one account trades all symbols, a row a combination. ``"symbol"``: an account
        a symbol, a row a combination and symbol, as if each symbol were tested alone.
    metrics
        Names of :data:`SUMMARY_METRICS`, in the order of columns.
    risk_free_rate
        A year, a fraction.
    actions
        Splits and dividends, as for :func:`backtest`.
    start
        Accounts begin at the first bar at or after this moment, in cash, and figures count from there;
        signals see the bars before it, so that they are warm, and the last decision before it is
        filled there. None: at the first bar.
    search
        :class:`RandomSearch` or :class:`SuccessiveHalving` instead of the whole grid. The latter's rows have
        ``bars``, the length of the last history that each combination was tried on.
    threads
        How many threads compute; one a core by default. Ignored with a cluster.
    cluster
        A ``distributed.Client``: its workers compute, and a worker that dies costs time only.
    store
        Directory that keeps finished parts: the same sweep goes on where it was stopped.
    progress
        True shows a bar; a function is called with the numbers of combinations done and in all.
    cancel
        Set it from another thread to stop within a second or so.
    max_combinations, memory_limit_bytes, budget_s
        The sweep is refused before work when it has more combinations, needs more memory (half of
        what is free, by default), or would take longer, as measured on a few combinations.
    **execution
        Options of :class:`Execution`, the same for all combinations.

    Returns
    -------
    polars.DataFrame
        The grid's names, ``symbol`` when ``by="symbol"``, then the metrics.

    Raises
    ------
    ParameterError
        A name or value of the grid, the condition, or an argument is not allowed.
    SweepTooLargeError
        Too many combinations for memory, budget or ``max_combinations``.
    SweepCancelledError
        It was cancelled; ``.result`` has the rows that are done.
    SignalError, InvalidBarsError, MissingColumnError
        As :func:`backtest`; the message names the combination.

    Examples
    --------
    >>> sweep(cross, bars, {"fast": range(5, 30), "slow": range(20, 200, 10)},
    ...       where=lambda fast, slow: fast < slow, fee_bps=1.0)  # doctest: +SKIP
    """
    parameters = getattr(signal, "parameters", None)
    name = str(getattr(signal, "name", getattr(signal, "__name__", signal)))
    axes = make_grid(grid, owner=name, parameters=parameters, options=_OPTIONS)
    _refuse_twice(axes, execution)
    memory = limits.memory_limit(memory_limit_bytes)
    each = bars["symbol"].n_unique() if by == "symbol" and "symbol" in bars.columns else 1
    shape = _Shape(each, len(axes.axes) + len(metrics) + (by == "symbol"), memory, max_combinations)
    tried = _tried(axes, where, search, shape)
    job = Job(
        signal=signal,
        name=name,
        bars=bars,
        grid=tried,
        by=by,
        execution=execution,
        actions=actions,
        metrics=tuple(metrics),
        risk_free_rate=risk_free_rate,
        start=_checked_start(start, bars, search),
    )
    work = _Work(limits.thread_count(threads), cluster, store, cancel, memory, budget_s)
    if not isinstance(search, SuccessiveHalving):
        with Progress(progress, tried.count) as bar:
            return work.rows(job, bar.at)
    return _halved(search, job, work, progress)


@dataclass(frozen=True)
class _Shape:
    """How large a result may become: rows a combination and columns, within the caller's limits."""

    rows_each: int
    columns: int
    memory: int
    max_combinations: int | None

    @property
    def most(self) -> int:
        """Number of combinations that fit."""
        fit = self.memory // max(1, limits.result_bytes(self.rows_each, self.columns))
        return max(1, fit if self.max_combinations is None else min(fit, self.max_combinations))

    def check(self, count: int, *, exact: bool = True) -> None:
        """Refuse more combinations than that."""
        limits.check_count(count, self.max_combinations, exact=exact)
        rows = count * self.rows_each
        limits.check_memory(count, rows=rows, columns=self.columns, working=0, limit=self.memory, exact=exact)


def _tried(axes: Grid, where: Condition | None, search: Search | None, shape: _Shape) -> Grid:
    """Return the combinations to begin with, refused before they are listed where they are too many."""
    if search is None and where is None:
        shape.check(axes.count)
    tried = chosen(search, axes, where, at_most=shape.most)
    if tried.count == 0:
        raise ParameterError(f"where keeps none of the grid's {axes.count:,} combinations; loosen it")
    # A condition stops looking where there are too many.
    shape.check(tried.count, exact=tried.count <= shape.most)
    return tried


def _checked_start(start: datetime | None, bars: pl.DataFrame, search: Search | None) -> datetime | None:
    if start is None:
        return None
    if not isinstance(start, datetime) or start.tzinfo is None:
        raise ParameterError(f"start is {start!r}; allowed: None or a moment with a time zone")
    if isinstance(search, SuccessiveHalving):
        raise ParameterError("start does not go with SuccessiveHalving, whose first rungs are the earliest bars")
    if "timestamp" in bars.columns and bars.height and not (bars["timestamp"] >= start).any():
        raise ParameterError(f"start is {start}, after the last bar, {bars['timestamp'].max()!s}")
    return start


def _refuse_twice(grid: Grid, execution: Mapping[str, Any]) -> None:
    unknown = [name for name in execution if name not in _OPTIONS]
    if unknown:
        raise ParameterError(f"unknown argument {unknown[0]!r}; execution options are {', '.join(sorted(_OPTIONS))}")
    twice = [axis.name for axis in grid.axes if axis.execution and axis.name in execution]
    if twice:
        raise ParameterError(f"{', '.join(twice)} is given as an argument and in the grid; give it once")


def _halved(search: SuccessiveHalving, job: Job, work: _Work, progress: ProgressOption) -> pl.DataFrame:
    timestamps = job.bars["timestamp"].unique().sort()
    lengths = rungs(search, len(timestamps))
    _refuse_blind(search, job, lengths)
    total, count = 0, job.grid.count
    for _ in lengths:
        total += count
        count = -(-count // search.factor)
    with Progress(progress, total) as bar:
        before = 0

        def evaluate(grid: Grid, length: int) -> pl.DataFrame:
            nonlocal before
            known = job.bars.filter(pl.col("timestamp") <= timestamps[length - 1])
            rows = work.rows(job.on(grid, known), lambda done: bar.at(before + done))
            before += grid.count
            return rows

        return halve(search, job.grid, len(timestamps), evaluate)


def _refuse_blind(search: SuccessiveHalving, job: Job, lengths: Sequence[int]) -> None:
    """Refuse to rank by what is not measured, or on bars at which some combinations cannot trade yet."""
    if search.objective not in job.metrics:
        raise ParameterError(
            f"SuccessiveHalving.objective is {search.objective!r}; the metrics of this sweep are: "
            f"{', '.join(job.metrics)}"
        )
    if len(lengths) == 1 or not isinstance(job.signal, Signal | CrossSection):
        return
    for first in range(0, job.grid.count, _AT_ONCE):
        part = Combinations(job.grid, first, min(first + _AT_ONCE, job.grid.count), job.execution)
        warm_ups = job.signal.batch(part.values()).warm_up
        worst = int(np.argmax(warm_ups))
        if warm_ups.flat[worst] >= lengths[0] - 1:
            values = ", ".join(f"{name}={value!r}" for name, value in part.value(worst % part.signals).items())
            raise ParameterError(
                f"the first rung has {lengths[0]} bars, and {job.name} with {values or 'its defaults'} decides nothing "
                f"for the first {warm_ups.flat[worst]} bars: raise SuccessiveHalving.min_bars, now {search.min_bars}"
            )


class _Work:
    """How the parts of a job are computed: where, within which limits, kept in which store."""

    def __init__(
        self,
        threads: int,
        cluster: Client | None,
        store: str | Path | None,
        cancel: threading.Event | None,
        memory: int,
        budget_s: float | None,
    ) -> None:
        self._threads = threads
        self._cluster = cluster
        self._store = store
        self._cancel = cancel
        self._memory = memory
        self._budget_s = budget_s

    def rows(self, job: Job, at: Callable[[int], None]) -> pl.DataFrame:
        """Return the rows of all combinations of the job."""
        runner = Runner(job)
        store = None if self._store is None else SweepStore(self._store, job.identity())
        done = _Done()
        for first, last, rows in store.parts() if store is not None else ():
            done.add((first, last), rows)
        self._refuse(runner, runner.count - done.count)
        at(done.count)

        def arrived(part: Part, figures: Figures) -> None:
            rows = runner.frame(*part, figures)
            if store is not None:
                store.write(*part, rows)
            done.add(part, rows)
            at(done.count)

        parts = pending(runner.count, sorted(done.parts), self._part_size(runner))
        if self._cluster is None:
            self._run_here(runner, parts, arrived, lambda more: at(done.count + more))
        else:
            from quantflow.backtest._cluster import run_on_cluster

            run_on_cluster(self._cluster, job, parts, arrived, cancelled=self._cancelled)
        found = done.rows(empty=runner.frame(0, 0, runner.no_figures))
        if done.count < runner.count:
            raise SweepCancelledError(
                f"the sweep was cancelled with {done.count:,} of {runner.count:,} combinations done; their rows are "
                f"in .result, {'and the same call goes on from the store' if store else 'and a store would keep them'}",
                result=found,
            )
        return found

    def _run_here(
        self,
        runner: Runner,
        parts: Iterator[Part],
        arrived: Callable[[Part, Figures], None],
        at: Callable[[int], None],
    ) -> None:
        for part in parts:
            try:
                figures = runner.run(*part, threads=self._threads, at=at, cancelled=self._cancelled)
            except Stopped:
                return
            arrived(part, figures)

    def _cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.is_set()

    def _computing(self) -> int:
        if self._cluster is None:
            return self._threads
        from quantflow.backtest._cluster import cluster_threads

        return cluster_threads(self._cluster)

    def _part_size(self, runner: Runner) -> int:
        if self._cluster is None:
            return runner.part_size
        return max(1, min(runner.part_size, -(-runner.count // (4 * self._computing()))))

    def _refuse(self, runner: Runner, left: int) -> None:
        threads = self._computing()
        limits.check_memory(
            runner.count,
            rows=runner.count * runner.rows_each,
            columns=runner.width,
            working=runner.working_bytes(threads if self._cluster is None else 1),
            limit=self._memory,
        )
        if self._budget_s is not None:
            seconds = runner.seconds_each() * left / threads
            limits.check_budget(left, seconds=seconds, budget_s=self._budget_s, threads=threads)


class _Done:
    """The rows of finished parts, kept in pieces: joining them copies nothing."""

    def __init__(self) -> None:
        self.parts: dict[Part, pl.DataFrame] = {}
        self.count = 0

    def add(self, part: Part, rows: pl.DataFrame) -> None:
        self.parts[part] = rows
        self.count += part[1] - part[0]

    def rows(self, *, empty: pl.DataFrame) -> pl.DataFrame:
        return pl.concat([self.parts[part] for part in sorted(self.parts)] or [empty], rechunk=False)
