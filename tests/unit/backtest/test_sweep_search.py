"""Random and successive-halving search: part of the grid, with the grid's own figures."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.backtest import RandomSearch, SuccessiveHalving, sweep
from quantflow.backtest._grid import Grid, make_grid
from quantflow.backtest._search import halve, rungs
from quantflow.errors import ParameterError
from quantflow.testing.signals import bars_of, random_walk, trend

GRID = {"lookback": range(2, 12), "target_volatility": [0.1, 0.2, 0.3]}
NAMES = list(GRID)


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return bars_of({"A": random_walk(96, seed=1), "B": random_walk(96, seed=2)})


def searched(bars: pl.DataFrame, **options: Any) -> pl.DataFrame:
    return sweep(trend, bars, GRID, fill="next_close", fee_bps=1.0, **options)


@pytest.mark.parametrize("by", ["portfolio", "symbol"])
def test_a_random_search_has_the_rows_of_the_grid(by: Any, bars: pl.DataFrame) -> None:
    whole = searched(bars, by=by)
    drawn = searched(bars, by=by, search=RandomSearch(7, seed=3))
    assert drawn.height == 7 * (2 if by == "symbol" else 1)
    assert drawn.equals(whole.join(drawn.select(NAMES).unique(), on=NAMES, how="semi", maintain_order="left"))
    assert not drawn.equals(searched(bars, by=by, search=RandomSearch(7, seed=4)))


def test_a_random_search_draws_among_what_the_condition_keeps(bars: pl.DataFrame) -> None:
    drawn = searched(bars, search=RandomSearch(5), where=pl.col("lookback") > 8)
    assert drawn["lookback"].min() == 9
    assert searched(bars, search=RandomSearch(500), where=pl.col("lookback") > 8).height == 9


def test_halving_tries_all_on_little_and_the_best_on_the_whole_history(bars: pl.DataFrame) -> None:
    search = SuccessiveHalving(min_bars=20, factor=2)
    rows = searched(bars, search=search)
    assert rows.select(NAMES).rows() == searched(bars).select(NAMES).rows()
    assert rows["bars"].value_counts().sort("bars").rows() == [(24, 15), (48, 7), (96, 8)]
    for length in (24, 48, 96):
        known = bars.filter(pl.col("timestamp") <= bars["timestamp"].unique().sort()[length - 1])
        there = rows.filter(pl.col("bars") == length)
        alone = searched(known).join(there.select(NAMES), on=NAMES, how="semi", maintain_order="left")
        assert there.drop("bars").equals(alone)


def test_who_goes_on_was_better_than_who_does_not(bars: pl.DataFrame) -> None:
    rows = searched(bars, search=SuccessiveHalving(min_bars=30, factor=3, objective="max_drawdown", maximize=False))
    known = bars.filter(pl.col("timestamp") <= bars["timestamp"].unique().sort()[31])
    first = searched(known).with_columns(rows["bars"])
    gone, left = (first.filter((pl.col("bars") == 96) == on)["max_drawdown"] for on in (True, False))
    assert len(gone) == 10
    assert gone.max() <= left.min()  # type: ignore[operator]


def test_halving_ranks_combinations_by_their_mean_over_symbols(bars: pl.DataFrame) -> None:
    rows = searched(bars, by="symbol", search=SuccessiveHalving(min_bars=40, factor=2, n=8, seed=5))
    assert rows.height == 16
    assert rows["bars"].value_counts().sort("bars").rows() == [(48, 8), (96, 8)]
    assert (rows.group_by(NAMES).agg(pl.col("bars").n_unique())["bars"] == 1).all()


def test_halving_is_told_as_one_progress(bars: pl.DataFrame) -> None:
    told: list[tuple[int, int]] = []
    searched(bars, search=SuccessiveHalving(min_bars=20, factor=2), progress=lambda *at: told.append(at))
    assert told[-1] == (53, 53)
    assert told == sorted(set(told))


def test_halving_goes_on_from_a_store(tmp_path: Any, bars: pl.DataFrame) -> None:
    search = SuccessiveHalving(min_bars=20, factor=2)
    rows = searched(bars, search=search, store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert searched(bars, search=search, store=tmp_path).equals(rows)


@given(st.integers(2, 500), st.integers(2, 5), st.integers(2, 400))
def test_rungs_grow_by_the_factor_up_to_the_whole_history(bars: int, factor: int, smallest: int) -> None:
    lengths = rungs(SuccessiveHalving(min_bars=smallest, factor=factor), bars)
    assert lengths[-1] == bars
    assert all(shorter == longer // factor for shorter, longer in itertools.pairwise(lengths))
    assert all(length >= smallest for length in lengths[:-1])
    assert lengths[0] // factor < smallest


@given(st.integers(1, 40), st.integers(2, 4), st.integers(0, 10**6))
def test_every_combination_comes_back_once_and_nan_ranks_last(count: int, factor: int, seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(count).astype(float)
    scores[scores < count // 3] = math.nan
    grid = make_grid({"a": range(count)}, owner="made", parameters=None, options=())

    def evaluate(tried: Grid, bars: int) -> pl.DataFrame:
        chosen = tried.columns(0, tried.count)["a"]
        return pl.DataFrame([chosen, pl.Series("sharpe_ratio", scores[chosen.to_numpy()])])

    rows = halve(SuccessiveHalving(min_bars=10, factor=factor), grid, 100, evaluate)
    assert rows["a"].to_list() == list(range(count))
    last = rows.filter(pl.col("bars") == 100)
    if not np.isnan(scores).all():
        assert np.nanmax(scores) in last["sharpe_ratio"].to_list()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: RandomSearch(0), "RandomSearch.n is 0"),
        (lambda: RandomSearch(5, seed=-1), "RandomSearch.seed is -1"),
        (lambda: SuccessiveHalving(min_bars=1), "SuccessiveHalving.min_bars is 1"),
        (lambda: SuccessiveHalving(min_bars=10, factor=1), "SuccessiveHalving.factor is 1"),
        (lambda: SuccessiveHalving(min_bars=10, n=0), "SuccessiveHalving.n is 0"),
    ],
)
def test_what_is_not_a_search_is_named(made: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        made()


def test_an_objective_that_is_not_measured_is_refused(bars: pl.DataFrame) -> None:
    with pytest.raises(ParameterError, match="objective is 'skew'"):
        searched(bars, search=SuccessiveHalving(min_bars=20, objective="skew"))


def test_a_first_rung_within_the_warm_up_is_refused(bars: pl.DataFrame) -> None:
    with pytest.raises(ParameterError, match=r"the first rung has 24 bars.*lookback=30.*30 bars"):
        sweep(trend, bars, {"lookback": [3, 30]}, fill="next_close", search=SuccessiveHalving(min_bars=20, factor=2))
