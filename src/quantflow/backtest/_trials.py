"""Returns of every combination of a grid over the whole history, and figures of any of its bars."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest import _sweep_limits as limits
from quantflow.backtest._combinations import Combinations
from quantflow.backtest._from_raw import metrics_from_raw
from quantflow.backtest._grid import Condition, Grid, make_grid
from quantflow.backtest._market import Market
from quantflow.backtest._options import Execution, execution_of
from quantflow.backtest._progress import Progress, ProgressOption
from quantflow.backtest._raw import RAW_METRICS, measure_engine
from quantflow.backtest._runs import run_portfolio
from quantflow.backtest._series import period_rate
from quantflow.backtest._sweep_job import Job
from quantflow.backtest._sweep_paths import path_source
from quantflow.backtest._threads import Stopped, run_all
from quantflow.errors import ParameterError, SweepCancelledError, SweepTooLargeError

__all__ = ["RETURN_METRICS", "Trials", "best_of", "refuse_options", "trials_of"]

Floats = npt.NDArray[np.float64]

#: Figures that a series of returns tells by itself.
RETURN_METRICS = (
    "total_return",
    "cagr",
    "volatility",
    "sharpe_ratio",
    "sortino_ratio",
    "calmar_ratio",
    "omega_ratio",
    "probabilistic_sharpe",
    "max_drawdown",
    "longest_drawdown",
    "skew",
    "kurtosis",
    "hit_rate",
)

_OPTIONS = tuple(option.name for option in fields(Execution))


@dataclass(frozen=True)
class Trials:
    """Combinations and what they earned.

    Attributes
    ----------
    grid
        The combinations.
    returns
        float64[combinations, timestamps]: return of equity at each close.
    objective
        One of :data:`RETURN_METRICS`.
    """

    grid: Grid
    returns: Floats
    objective: str
    periods_per_year: float
    risk_free_rate: float
    threads: int

    def scores(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Return each combination's objective over these rows, put one after the other."""
        raw = np.zeros((len(self.returns), len(RAW_METRICS)))
        bounds = np.linspace(0, len(raw), min(self.threads, len(raw)) + 1).astype(int)
        tasks = [partial(self._measure, rows, int(first), int(last), raw) for first, last in pairwise(bounds)]
        run_all(tasks, self.threads)
        figures = metrics_from_raw(
            raw, [self.objective], periods_per_year=self.periods_per_year, risk_free_rate=self.risk_free_rate
        )
        return figures[self.objective]

    def _measure(self, rows: npt.NDArray[np.int64], first: int, last: int, raw: Floats) -> None:
        measure, rate = measure_engine(), period_rate(self.risk_free_rate, self.periods_per_year)
        for number in range(first, last):
            equity = np.cumprod(1.0 + self.returns[number, rows])
            measure(equity, equity, equity, 0, 1.0, rate, raw[number : number + 1])


def trials_of(
    signal: Any,
    bars: pl.DataFrame,
    grid: Mapping[str, Any],
    *,
    where: Condition | None,
    execution: Mapping[str, Any],
    objective: str,
    risk_free_rate: float,
    actions: pl.DataFrame | None,
    threads: int | None,
    memory_limit_bytes: int | None,
    progress: ProgressOption,
    cancelled: Callable[[], bool],
) -> Trials:
    """Return what every combination of the grid earned, each by one account over the whole history.

    Raises
    ------
    ParameterError
        An unknown objective, or a grid that is not allowed.
    SweepTooLargeError
        The returns do not fit in memory.
    SweepCancelledError
        ``cancelled`` said so.
    """
    if objective not in RETURN_METRICS:
        raise ParameterError(f"objective is {objective!r}; allowed: {', '.join(RETURN_METRICS)}")
    name = str(getattr(signal, "name", getattr(signal, "__name__", signal)))
    asked = make_grid(grid, owner=name, parameters=getattr(signal, "parameters", None), options=_OPTIONS)
    times = bars["timestamp"].n_unique()
    limit = limits.memory_limit(memory_limit_bytes)
    most = max(1, limit // (16 * max(1, times)))
    kept = asked if where is None else asked.kept_by(where, at_most=most)
    if kept.count > most:
        raise SweepTooLargeError(
            f"{kept.count:,} combinations over {times:,} timestamps need {16 * kept.count * times:,} bytes; the limit "
            f"is {limit:,}: take fewer values, a where, or a higher memory_limit_bytes"
        )
    if kept.count == 0:
        raise ParameterError(f"where keeps none of the {asked.size:,} combinations of {name}")
    job = Job(
        signal=signal,
        name=name,
        bars=bars,
        grid=kept,
        by="portfolio",
        execution=dict(execution),
        actions=actions,
        metrics=(objective,),
        risk_free_rate=risk_free_rate,
    )
    options = execution_of(dict(execution))
    workers = limits.thread_count(threads)
    equity = _equity(job, times, workers, progress, cancelled)
    before = np.concatenate([np.full((len(equity), 1), options.initial_cash), equity[:, :-1]], axis=1)
    # After ruin nothing is earned.
    returns = np.divide(equity, before, out=np.ones_like(equity), where=before > 0.0) - 1.0
    return Trials(kept, returns, objective, options.periods_per_year, risk_free_rate, workers)


def _equity(job: Job, times: int, threads: int, progress: ProgressOption, cancelled: Callable[[], bool]) -> Floats:
    combinations = Combinations(job.grid, 0, job.grid.count, job.execution)
    equity = np.empty((combinations.count, 1, times))
    tasks = path_source(job, trade=_equity_path).tasks(combinations, equity, threads)
    with Progress(progress, combinations.count) as told:
        try:
            run_all(
                tasks,
                threads,
                tick=lambda done: told.at(combinations.count * done // len(tasks)),
                cancelled=cancelled,
            )
        except Stopped:
            raise SweepCancelledError("the cross-validation was cancelled; nothing was kept", result=None) from None
    return equity[:, 0]


def _equity_path(weights: Floats, market: Market, execution: Execution) -> Floats:
    path = np.empty(len(weights))
    run_portfolio(weights, market, execution, equity=path)
    return path


def best_of(scores: npt.ArrayLike, maximize: bool, what: str) -> int:
    """Return the number of the best score, of equal ones the first.

    Raises
    ------
    ParameterError
        All are NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    if np.isnan(values).all():
        raise ParameterError(
            f"{what} is not a number for any of {len(values):,} combinations; train on more bars, or choose by another "
            "objective"
        )
    return int(np.nanargmax(values if maximize else -values))


def refuse_options(signal: Any, grid: Mapping[str, Any], options: Mapping[str, Any], reserved: Collection[str]) -> None:
    """Refuse what one account over several choices cannot do.

    Raises
    ------
    ParameterError
        The grid sweeps an option of execution, or an option is not the caller's to give.
    """
    parameters = getattr(signal, "parameters", None) or {}
    traded = [name for name in grid if name not in parameters and name in _OPTIONS]
    if traded:
        raise ParameterError(
            f"the grid has {', '.join(traded)}, an option of execution: one account trades all tests, so choose "
            "parameters of the signal only and give the option as an argument"
        )
    taken = [name for name in options if name in reserved]
    if taken:
        raise ParameterError(f"{', '.join(taken)} cannot be given here; leave it out")
