"""Ways to look at less than the whole grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from quantflow.backtest._grid import Condition, Grid
from quantflow.errors import ParameterError

__all__ = ["RandomSearch", "Search", "SuccessiveHalving", "chosen", "halve", "rungs"]


@dataclass(frozen=True)
class RandomSearch:
    """``n`` distinct combinations of the grid, drawn uniformly.

    Half of a large grid's best results lie within reach of a few hundred draws when only some of its
    names matter (Bergstra and Bengio 2012). The grid is not listed, so it may be astronomically large.

    Parameters
    ----------
    n
        Number of combinations; all of them when the grid has fewer.
    seed
        The same seed draws the same combinations.
    """

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("RandomSearch.n", self.n, 1)
        _at_least("RandomSearch.seed", self.seed, 0)


@dataclass(frozen=True)
class SuccessiveHalving:
    """Many combinations on a short history, the best of them on ever longer ones (Jamieson and Talwalkar 2016).

    The last rung is the whole history; each rung before it has the first ``1 / factor`` of the next one's
    bars, as long as that is at least ``min_bars``. The best ``1 / factor`` of a rung's combinations go on
    to the next.

    Parameters
    ----------
    min_bars
        Timestamps of the first rung, at least. Longer than the longest warm-up, or nothing is seen there.
    objective
        The metric that ranks; NaN ranks last. With ``by="symbol"`` its mean over symbols.
    maximize
        False when less is better, ``max_drawdown`` for example.
    factor
        How many times fewer combinations, and more bars, from rung to rung.
    n, seed
        Combinations of the first rung, drawn as by :class:`RandomSearch`; None takes the whole grid.
    """

    min_bars: int
    objective: str = "sharpe_ratio"
    maximize: bool = True
    factor: int = 3
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("SuccessiveHalving.min_bars", self.min_bars, 2)
        _at_least("SuccessiveHalving.factor", self.factor, 2)
        _at_least("SuccessiveHalving.seed", self.seed, 0)
        if self.n is not None:
            _at_least("SuccessiveHalving.n", self.n, 1)


Search = RandomSearch | SuccessiveHalving


def chosen(search: Search | None, grid: Grid, where: Condition | None, *, at_most: int) -> Grid:
    """Return the combinations to begin with: those kept by ``where``, or drawn among them."""
    count = None if search is None else search.n
    if search is not None and count is not None:
        return grid.sample(count, search.seed, where)
    return grid if where is None else grid.kept_by(where, at_most=at_most)


def rungs(search: SuccessiveHalving, bars: int) -> list[int]:
    """Return the rungs' numbers of timestamps, the whole history last."""
    lengths = [bars]
    while lengths[0] // search.factor >= search.min_bars:
        lengths.insert(0, lengths[0] // search.factor)
    return lengths


def halve(
    search: SuccessiveHalving, grid: Grid, bars: int, evaluate: Callable[[Grid, int], pl.DataFrame]
) -> pl.DataFrame:
    """Return a row for each combination tried, with ``bars``: the length of the last history it was tried on.

    ``evaluate(grid, bars)`` gives the rows of a grid on the first ``bars`` timestamps, in grid order.
    """
    left = grid
    out: list[pl.DataFrame] = []
    positions: list[np.ndarray] = []
    lengths = rungs(search, bars)
    alive = np.arange(grid.count)
    for length in lengths:
        left = grid.take(alive)
        rows = evaluate(left, length)
        score = _scores(search, rows, left.count)
        keep = math.ceil(left.count / search.factor) if length != lengths[-1] else 0
        # A stable order: of equal combinations the first in the grid goes on.
        best = np.sort(np.argsort(-score, kind="stable")[:keep])
        over = np.setdiff1d(np.arange(left.count), best)
        per = rows.height // left.count
        out.append(rows[(over[:, None] * per + np.arange(per)).ravel()].with_columns(bars=pl.lit(length, pl.Int64)))
        positions.append(np.repeat(alive[over], per))
        alive = alive[best]
    order = np.argsort(np.concatenate(positions), kind="stable")
    return pl.concat(out)[order]


def _scores(search: SuccessiveHalving, rows: pl.DataFrame, combinations: int) -> np.ndarray:
    values = rows[search.objective].cast(pl.Float64).to_numpy().reshape(combinations, -1)
    scores = values.mean(axis=1) if search.maximize else -values.mean(axis=1)
    return np.where(np.isnan(scores), -np.inf, scores)


def _at_least(name: str, value: int, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ParameterError(f"{name} is {value!r}; allowed: a whole number, at least {smallest}")
