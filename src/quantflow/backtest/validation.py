"""What a choice of parameters would have earned on bars that it was not made on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest._engine import backtest
from quantflow.backtest._folds import Fold, combinatorial_folds, group_spans, path_splits, walk_forward_folds
from quantflow.backtest._grid import Condition
from quantflow.backtest._progress import Progress, ProgressOption
from quantflow.backtest._result import BacktestResult
from quantflow.backtest._stitch import Piece, bound, stitched
from quantflow.backtest._sweep import sweep
from quantflow.backtest._trials import Trials, best_of, refuse_options, trials_of
from quantflow.backtest.metrics import portfolio_metrics
from quantflow.errors import MissingColumnError, ParameterError, SweepCancelledError

if TYPE_CHECKING:
    from quantflow.signals import Decider, Definition

__all__ = ["CrossValidation", "WalkForward", "combinatorial_purged_cv", "walk_forward"]

# Of the fold's own sweep; walk_forward sets them itself.
_RESERVED = ("by", "metrics", "start")
_SWEEP_OPTIONS = (
    "where",
    "search",
    "threads",
    "cluster",
    "store",
    "max_combinations",
    "memory_limit_bytes",
    "budget_s",
)


@dataclass(frozen=True)
class WalkForward:
    """A walk-forward test.

    Attributes
    ----------
    folds
        A row a fold: ``fold``, ``train_from``, ``train_to``, ``test_from``, ``test_to`` (first and last
        timestamps), ``train_bars``, ``test_bars``, the chosen parameters, and the objective on both:
        ``train_<objective>`` and ``test_<objective>`` (null where one fold's returns do not tell it).
    result
        One account that traded the tests one after the other, each with the parameters chosen before
        it: its equity, orders and metrics are out of sample.
    objective
        What parameters were chosen by.
    """

    folds: pl.DataFrame
    result: BacktestResult
    objective: str
    _names: tuple[str, ...] = field(repr=False, default=())

    @property
    def parameters(self) -> dict[str, Any]:
        """The newest fold's choice."""
        return {name: self.folds[name][-1] for name in self._names}

    @property
    def efficiency(self) -> float:
        """Mean objective in the tests over that in training; near 1 where what was chosen kept its promise.

        Walk-forward efficiency of Pardo (2008), The Evaluation and Optimization of Trading Strategies,
        chapter 11, with the objective in place of the annual profit. NaN where training promised nothing.
        """
        both = self.folds.select(f"train_{self.objective}", f"test_{self.objective}").drop_nulls().mean()
        train, test = both.row(0)
        return float(test / train) if train else float("nan")


def walk_forward(
    signal: Definition | Callable[..., Decider],
    bars: pl.DataFrame,
    grid: Mapping[str, Any],
    *,
    train: int,
    test: int,
    step: int | None = None,
    anchored: bool = False,
    purge: int = 0,
    embargo: int = 0,
    objective: str = "sharpe_ratio",
    maximize: bool = True,
    risk_free_rate: float = 0.0,
    actions: pl.DataFrame | None = None,
    progress: ProgressOption = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> WalkForward:
    """Choose parameters on a window of the past, trade them on the bars that follow, and go on.

    In each fold every combination of the grid is swept over the training window, by an account that
    begins there in cash; signals have seen all bars before it, so that they are warm. The best
    combination decides at the closes of the test window. All tests are traded by one account, which pays
    for changing from one choice to the next; the first decision is made at the first test bar's close.

    Parameters
    ----------
    signal, bars, grid
        As in :func:`sweep`; the grid holds parameters of the signal only.
    train, test
        Bars (timestamps) of a training and of a test window.
    step
        Bars from one test's begin to the next one's; ``test`` by default. Between tests that leave a
        gap nothing is held.
    anchored
        Training always begins at the first bar and grows; otherwise the window rolls.
    purge, embargo
        Bars left out between training and test, added up: ``purge`` for what was decided in training
        and still open, ``embargo`` for what neighbouring bars tell of each other. Training never
        follows its test here.
    objective
        A metric of :data:`SWEEP_METRICS`. Combinations where it is NaN are never chosen; of equal
        ones the first in the grid is.
    maximize
        False when less is better, ``max_drawdown`` for example.
    risk_free_rate, actions
        As in :func:`backtest`.
    progress
        True shows a bar; a function is called with the numbers of folds done and in all.
    cancel
        Set it from another thread to stop.
    **options
        Options of :class:`Execution`, and of :func:`sweep`: ``where``, ``search`` (random), ``threads``,
        ``cluster``, ``store``, ``max_combinations``, ``memory_limit_bytes``, ``budget_s``.

    Raises
    ------
    ParameterError
        Windows, grid or options that are not allowed, too few bars, or no combination with an objective.
    SweepCancelledError
        It was cancelled.
    SignalError, InvalidBarsError, MissingColumnError
        As :func:`backtest`.

    References
    ----------
    Pardo, R. (2008), The Evaluation and Optimization of Trading Strategies, 2nd ed., chapter 11.
    """
    refuse_options(signal, grid, options, _RESERVED)
    bars = _universe(signal, bars)
    times = _times(bars)
    folds = walk_forward_folds(
        len(times), train=train, test=test, step=step, anchored=anchored, purge=purge, embargo=embargo
    )
    sweeping = {name: options.pop(name) for name in _SWEEP_OPTIONS if name in options}
    rows: list[dict[str, Any]] = []
    pieces: list[Piece] = []
    with Progress(progress, len(folds), noun="folds") as told:
        for number, fold in enumerate(folds):
            first, last = fold.train[0]
            tried = sweep(
                signal,
                bars.filter(pl.col("timestamp") <= times[last - 1]),
                grid,
                start=times[first],
                metrics=(objective,),
                risk_free_rate=risk_free_rate,
                actions=_until(actions, bars, times[last - 1]),
                cancel=cancel,
                **sweeping,
                **options,
            )
            best = best_of(tried[objective].to_numpy(), maximize, f"{objective} of fold {number}")
            chosen = {name: tried[name][best] for name in grid}
            rows.append({**_fold_row(number, fold, times), **chosen, f"train_{objective}": tried[objective][best]})
            pieces.append(Piece(bound(signal, chosen), fold.test[0]))
            told.at(number + 1)
    decider: Any = stitched(pieces, bars, times)
    tested = bars.filter(pl.col("timestamp") >= times[folds[0].test[0][0]])
    result = backtest(decider, tested, risk_free_rate=risk_free_rate, actions=actions, **options)
    begin = folds[0].test[0][0]
    for row, fold in zip(rows, folds, strict=True):
        first, last = fold.test[0]
        row[f"test_{objective}"] = _objective(result, first - begin, last - begin, objective)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return WalkForward(frame, result, objective, tuple(grid))


@dataclass(frozen=True)
class CrossValidation:
    """A combinatorial purged cross-validation.

    Attributes
    ----------
    splits
        A row a split: ``split``, ``groups`` (tested ones), ``train_bars``, ``test_bars``, the chosen
        parameters, ``train_<objective>`` and ``test_<objective>`` of the choice, and ``test_rank``: the part of all
        combinations, of the choice itself half, that it beats in the test.
    paths
        Equity of each path: ``path``, ``session``, ``timestamp``, ``equity``, ``return``.
    metrics
        A row a path: ``path`` and the figures of its backtest.
    objective
        What parameters were chosen by.
    results
        The backtest of each path.
    """

    splits: pl.DataFrame
    paths: pl.DataFrame
    metrics: pl.DataFrame
    objective: str
    results: tuple[BacktestResult, ...] = field(repr=False, default=())

    @property
    def overfitting_probability(self) -> float:
        """Part of the splits in which the choice was no better in the test than the median combination.

        Probability of backtest overfitting of Bailey, Borwein, Lopez de Prado and Zhu (2017), Journal of
        Computational Finance 20(4), over these splits.
        """
        return float((self.splits["test_rank"] <= 0.5).mean())  # type: ignore[arg-type]

    def distribution(self, *metrics: str) -> pl.DataFrame:
        """Return mean, standard deviation and quantiles over the paths, a row a metric.

        Parameters
        ----------
        metrics
            Names of columns of ``metrics``; all of them by default. NaN are left out.
        """
        names = metrics or tuple(self.metrics.columns[1:])
        unknown = [name for name in names if name not in self.metrics.columns]
        if unknown:
            raise ParameterError(f"unknown metrics {', '.join(unknown)}; known: {', '.join(self.metrics.columns[1:])}")
        return pl.DataFrame([_spread(name, self.metrics[name].fill_nan(None).drop_nulls()) for name in names])


def combinatorial_purged_cv(
    signal: Definition | Callable[..., Decider],
    bars: pl.DataFrame,
    grid: Mapping[str, Any],
    *,
    groups: int,
    test_groups: int,
    purge: int = 0,
    embargo: int = 0,
    objective: str = "sharpe_ratio",
    maximize: bool = True,
    where: Condition | None = None,
    risk_free_rate: float = 0.0,
    actions: pl.DataFrame | None = None,
    threads: int | None = None,
    memory_limit_bytes: int | None = None,
    progress: ProgressOption = None,
    cancel: threading.Event | None = None,
    **execution: Any,
) -> CrossValidation:
    """Choose and test parameters on every choice of groups, which gives a distribution instead of one path.

    The history is cut into ``groups`` spans; each choice of ``test_groups`` of them is tested with the
    combination that is best on the others, less the bars purged. Each path takes every group's decisions
    from another split and is traded by one account over the whole history, costs of changing included.

    Every combination is traded once over the whole history; its returns at the bars that train are what
    the objective measures. So training may lie after a test, which is what purge and embargo are for.

    Parameters
    ----------
    signal, bars, grid, where
        As in :func:`sweep`; the grid holds parameters of the signal only.
    groups, test_groups
        N and k. There are ``comb(N, k)`` splits and ``comb(N - 1, k - 1)`` paths.
    purge
        Bars left out of training before and after each test: how long a decision's outcome takes.
    embargo
        Further bars left out after each test.
    objective
        A figure of returns: one of ``total_return``, ``cagr``, ``volatility``, ``sharpe_ratio``,
        ``sortino_ratio``, ``calmar_ratio``, ``omega_ratio``, ``probabilistic_sharpe``, ``max_drawdown``,
        ``longest_drawdown``, ``skew``, ``kurtosis``, ``hit_rate``.
    maximize
        False when less is better.
    risk_free_rate, actions
        As in :func:`backtest`.
    threads, memory_limit_bytes, cancel
        As in :func:`sweep`; the returns of all combinations are held, eight bytes each.
    progress
        True shows a bar; a function is called with the numbers of combinations traded and in all.
    **execution
        Options of :class:`Execution`.

    Raises
    ------
    ParameterError
        Numbers, grid or objective that are not allowed, or a split with nothing to train on.
    SweepTooLargeError
        The returns do not fit in memory.
    SweepCancelledError
        It was cancelled.
    SignalError, InvalidBarsError, MissingColumnError
        As :func:`backtest`.

    References
    ----------
    Lopez de Prado, M. (2018), Advances in Financial Machine Learning, chapter 12; purging and
    embargo: section 7.4.
    """
    refuse_options(signal, grid, execution, ())
    bars = _universe(signal, bars)
    times = _times(bars)
    folds = combinatorial_folds(len(times), groups=groups, test_groups=test_groups, purge=purge, embargo=embargo)
    trials = trials_of(
        signal,
        bars,
        grid,
        where=where,
        execution=execution,
        objective=objective,
        risk_free_rate=risk_free_rate,
        actions=actions,
        threads=threads,
        memory_limit_bytes=memory_limit_bytes,
        progress=progress,
        cancelled=lambda: cancel is not None and cancel.is_set(),
    )
    chosen: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, fold in enumerate(folds):
        row, best = _split_row(trials, number, fold, maximize)
        rows.append(row)
        chosen.append(best)
    deciders = {best: bound(signal, trials.grid.combination(best)) for best in sorted(set(chosen))}
    spans = group_spans(len(times), groups)
    results: list[BacktestResult] = []
    for path in path_splits(folds):
        _stop_if(cancel, len(results))
        pieces = [Piece(deciders[chosen[split]], span) for split, span in zip(path, spans, strict=True)]
        decider: Any = stitched(pieces, bars, times)
        results.append(backtest(decider, bars, risk_free_rate=risk_free_rate, actions=actions, **execution))
    return CrossValidation(
        splits=pl.DataFrame(rows, infer_schema_length=None),
        paths=pl.concat([_path_rows(number, result) for number, result in enumerate(results)]),
        metrics=pl.DataFrame([{"path": number, **result.metrics} for number, result in enumerate(results)]),
        objective=objective,
        results=tuple(results),
    )


def _split_row(trials: Trials, number: int, fold: Fold, maximize: bool) -> tuple[dict[str, Any], int]:
    objective = trials.objective
    train = trials.scores(fold.train_rows)
    best = best_of(train, maximize, f"{objective} of split {number}")
    test = trials.scores(fold.test_rows)
    row = {
        "split": number,
        "groups": list(fold.groups),
        "train_bars": len(fold.train_rows),
        "test_bars": len(fold.test_rows),
        **trials.grid.combination(best),
        f"train_{objective}": float(train[best]),
        f"test_{objective}": float(test[best]),
        "test_rank": _rank(test if maximize else -test, best),
    }
    return row, best


def _rank(scores: npt.NDArray[np.float64], chosen: int) -> float:
    """Return the part of all scores that the chosen one beats, ties and itself counted half; NaN beats none."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    return float((known < known[chosen]).mean() + 0.5 * (known == known[chosen]).mean())


def _path_rows(number: int, result: BacktestResult) -> pl.DataFrame:
    equity = result.equity.select("session", "timestamp", "equity", result.returns["return"])
    return equity.select(pl.lit(number).cast(pl.Int64).alias("path"), pl.all())


def _spread(name: str, values: pl.Series) -> dict[str, Any]:
    figures = {"metric": name, "mean": values.mean(), "std": values.std(), "min": values.min()}
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        figures[f"{quantile:.0%}"] = values.quantile(quantile, interpolation="linear")
    return {**figures, "max": values.max()}


def _universe(signal: Any, bars: pl.DataFrame) -> pl.DataFrame:
    """Return the bars of the symbols that a cross-sectional signal names; all where it names none."""
    for name in ("symbol", "session", "timestamp"):
        if name not in bars.columns:
            raise MissingColumnError(f"bars need the column {name!r}; they have: {', '.join(bars.columns) or 'none'}")
    symbols = getattr(signal, "symbols", None)
    return bars if symbols is None else bars.filter(pl.col("symbol").is_in(list(symbols)))


def _times(bars: pl.DataFrame) -> pl.Series:
    return bars["timestamp"].unique().sort()


def _until(actions: pl.DataFrame | None, bars: pl.DataFrame, moment: Any) -> pl.DataFrame | None:
    """Return the actions of symbols that have bars by then: later ones are not known yet."""
    if actions is None:
        return None
    known = bars.filter(pl.col("timestamp") <= moment)
    return actions.filter(
        pl.col("symbol").is_in(known["symbol"].unique().implode()) & (pl.col("session") <= known["session"].max())
    )


def _fold_row(number: int, fold: Fold, times: pl.Series) -> dict[str, Any]:
    (train_first, train_last), (test_first, test_last) = fold.train[0], fold.test[0]
    return {
        "fold": number,
        "train_from": times[train_first],
        "train_to": times[train_last - 1],
        "test_from": times[test_first],
        "test_to": times[test_last - 1],
        "train_bars": train_last - train_first,
        "test_bars": test_last - test_first,
    }


def _objective(result: BacktestResult, first: int, last: int, objective: str) -> float | None:
    """Return a figure of the rows ``first <= row < last``, None where their returns do not tell it."""
    part = result.returns[first:last]
    if part.height < 2:
        return None
    figures = portfolio_metrics(
        part["return"].to_numpy(),
        turnover=part["turnover"].to_numpy(),
        cost=part["cost"].to_numpy(),
        periods_per_year=float(result.options["periods_per_year"]),
        risk_free_rate=float(result.options["risk_free_rate"]),
    )
    return figures.get(objective)


def _stop_if(cancel: threading.Event | None, done: int) -> None:
    if cancel is not None and cancel.is_set():
        raise SweepCancelledError(f"the cross-validation was cancelled with {done} paths done", result=None)
