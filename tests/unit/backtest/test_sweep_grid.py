"""Combinations of parameters: their order, conditions on them, draws among them, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.backtest._combinations import Combinations, in_parts
from quantflow.backtest._grid import Grid, make_grid
from quantflow.backtest._sweep_store import pending
from quantflow.errors import ParameterError
from quantflow.signals import Parameter

FAST = Parameter("fast", "int", 5, low=1, high=100)
SLOW = Parameter("slow", "int", 20, low=1, high=1000)
PULL = Parameter("pull", "float", 0.5, low=0.0, high=1.0)
SHORT = Parameter("short", "bool", False)
PARAMETERS = {parameter.name: parameter for parameter in (FAST, SLOW, PULL, SHORT)}
OPTIONS = ("stop_loss", "fee_bps", "fill")


def grid_of(values: dict[str, Any]) -> Grid:
    return make_grid(values, owner="cross", parameters=PARAMETERS, options=OPTIONS)


def listed(grid: Grid) -> list[tuple[Any, ...]]:
    return pl.DataFrame(list(grid.columns(0, grid.count).values())).rows()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 200), st.integers(0, 200))
def test_combinations_are_numbered_like_nested_loops(sizes: list[int], begin: int, end: int) -> None:
    names = ["fast", "slow", "stop_loss"]
    values = {name: [(1 + step) / 10 if name == "stop_loss" else 1 + step for step in range(size)]
              for name, size in zip(names, sizes, strict=False)}  # fmt: skip
    grid = grid_of(values)
    expected = list(itertools.product(*values.values()))
    assert listed(grid) == expected
    first, last = min(begin, grid.count), min(max(begin, end), grid.count)
    assert pl.DataFrame(list(grid.columns(first, last).values())).rows() == expected[first:last]


def test_a_single_value_a_range_and_an_array_are_axes() -> None:
    grid = grid_of({"fast": 3, "slow": range(10, 13), "pull": np.array([0.0, 0.5]), "fill": "next_close"})
    assert grid.count == 6
    assert grid.combination(5) == {"fast": 3, "slow": 12, "pull": 0.5, "fill": "next_close"}
    assert [axis.execution for axis in grid.axes] == [False, False, False, True]


def test_an_option_may_have_none_beside_numbers() -> None:
    grid = grid_of({"stop_loss": [None, 1, 0.5]})
    assert grid.columns(0, 3)["stop_loss"].to_list() == [None, 1.0, 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"quick": [1]},
            r"unknown name 'quick'; cross has the parameters fast, slow, pull, short, and execution options",
        ),
        ({"fast": []}, "'fast' has no values"),
        ({"fast": [1, 2.0, 2]}, "'fast' has the value 2 twice"),
        ({"fast": [1, 101]}, "'fast' is 101; allowed: a whole number from 1 to 100"),
        ({"fast": [1.5]}, "'fast' is 1.5"),
        ({"short": [0]}, "'short' is 0; allowed: true or false"),
        ({"fee_bps": [[1.0]]}, r"'fee_bps' has the value \[1.0\]; a grid takes numbers"),
        ({"fast": [0], "slow": [0]}, "'fast' is 0.*'slow' is 0"),
        ([{"fast": 1}], "grid of cross is a list; allowed: values by name"),
    ],
)
def test_what_is_not_a_grid_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        grid_of(values)


def test_a_signal_without_declared_parameters_takes_any_name() -> None:
    assert make_grid({"any": ["a", "b"]}, owner="made", parameters=None, options=OPTIONS).count == 2


def few(fast: int, slow: int) -> bool:
    return fast < 3 and slow > 2


@pytest.mark.parametrize(
    "condition",
    [
        pl.col("fast") + pl.col("slow") < 6,
        lambda fast, slow: fast + slow < 6,
        lambda **values: values["fast"] + values["slow"] < 6,
        lambda slow, fast, unused=0: bool(fast + slow < 6) and True,
    ],
)
def test_a_condition_keeps_the_same_combinations_however_it_is_written(condition: Any) -> None:
    kept = grid_of({"fast": range(1, 6), "slow": range(1, 6)}).kept_by(condition, at_most=100)
    assert listed(kept) == [(fast, slow) for fast in range(1, 6) for slow in range(1, 6) if fast + slow < 6]


def test_a_condition_that_arrays_cannot_decide_is_asked_row_by_row() -> None:
    kept = grid_of({"fast": range(1, 6), "slow": range(1, 6)}).kept_by(few, at_most=100)
    assert listed(kept) == [(fast, slow) for fast in (1, 2) for slow in (3, 4, 5)]


def test_a_condition_sees_none_where_the_grid_has_none() -> None:
    grid = grid_of({"stop_loss": [None, 0.1], "fast": [1, 2]})
    kept = grid.kept_by(lambda stop_loss, fast: stop_loss is None or fast == 2, at_most=100)
    assert listed(kept) == [(None, 1), (None, 2), (0.1, 2)]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda quick: quick, "where takes quick; its arguments are names of the grid: fast, slow"),
        (lambda fast: fast, "where answers 1 at"),
        (lambda fast: fast.nothing, 'where raised AttributeError at {"fast": 1}'),
        (pl.col("quick") < 1, "an expression may use the columns fast, slow"),
        (pl.col("fast") + 1, "where answers Int64"),
    ],
)
def test_what_is_not_a_condition_is_named(condition: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        grid_of({"fast": [1, 2], "slow": [3, 4]}).kept_by(condition, at_most=100)


def test_a_condition_stops_looking_when_too_many_are_kept() -> None:
    asked = []

    def keep(fast: Any) -> Any:
        asked.append(len(fast))
        return fast > 0

    grid = make_grid({"fast": range(1_000_000)}, owner="big", parameters=None, options=())
    assert grid.kept_by(keep, at_most=10).count > 10
    assert sum(asked) < 1_000_000


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_a_draw_is_repeatable_distinct_and_in_grid_order(seed: int, count: int) -> None:
    grid = grid_of({"fast": range(1, 11), "slow": range(1, 6)})
    drawn = listed(grid.sample(count, seed, None))
    assert drawn == listed(grid.sample(count, seed, None))
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(count, 50)


def test_a_draw_from_an_astronomical_grid_lists_nothing() -> None:
    axes = {f"p{index}": range(1000) for index in range(6)}
    grid = make_grid(axes, owner="vast", parameters=None, options=())
    assert grid.count == 10**18
    drawn = grid.sample(500, 7, lambda p0, p5: p0 < p5)
    assert drawn.count == 500
    assert all(row[0] < row[5] for row in listed(drawn))
    assert listed(drawn) == sorted(set(listed(drawn)))


def test_a_condition_that_a_draw_never_meets_is_an_error() -> None:
    grid = make_grid({"a": range(10**6), "b": range(10**6)}, owner="vast", parameters=None, options=())
    with pytest.raises(ParameterError, match="only 0 of the 5 asked for"):
        grid.sample(5, 0, pl.lit(value=False))


def test_a_grid_that_cannot_be_numbered_is_refused() -> None:
    with pytest.raises(ParameterError, match="cannot even be numbered"):
        make_grid({f"p{index}": range(1000) for index in range(7)}, owner="vast", parameters=None, options=())


def test_draws_are_spread_evenly() -> None:
    grid = make_grid({"a": range(1000), "b": range(1000)}, owner="wide", parameters=None, options=())
    drawn = grid.sample(20_000, 3, None)
    counts = np.bincount(drawn.codes(0, drawn.count)["a"] // 100, minlength=10)
    # 2,000 expected in each tenth, with a standard deviation of 42.
    assert np.abs(counts - 2000).max() < 6 * 42


@given(st.data())
def test_blocks_name_each_combination_once_with_its_own_signal_and_execution(data: st.DataObject) -> None:
    grid = grid_of({"fast": [1, 2, 3, 4], "stop_loss": [0.1, 0.2, 0.3], "slow": [5, 6, 7]})
    kept = data.draw(st.lists(st.integers(0, grid.count - 1), min_size=1, unique=True))
    grid = grid.take(np.array(kept))
    parts = Combinations(grid, 0, grid.count, {"fill": "next_close"})
    seen: dict[int, tuple[Any, ...]] = {}
    for part in in_parts(parts.signals, 2, data.draw(st.integers(1, 5))):
        for block in parts.blocks(2, *part):
            for use in block.uses:
                rows = np.arange(block.last - block.first) if use.rows is None else use.rows
                for row, combination in zip(rows.tolist(), use.combinations.tolist(), strict=True):
                    assert combination not in seen
                    values = parts.value(block.first + row)
                    stop = parts.executions[use.execution].stop_loss
                    seen[combination] = (values["fast"], stop, values["slow"])
    assert [seen[index] for index in range(grid.count)] == listed(grid)


@given(st.integers(0, 60), st.lists(st.integers(0, 60), max_size=6, unique=True), st.integers(1, 20))
def test_what_is_pending_and_what_is_done_make_the_whole(count: int, cuts: list[int], size: int) -> None:
    marks = sorted(min(cut, count) for cut in cuts)
    done = [(first, last) for first, last in itertools.pairwise(marks) if first < last][::2]
    rest = list(pending(count, done, size))
    assert all(0 < last - first <= size for first, last in rest)
    covered = [index for first, last in [*done, *rest] for index in range(first, last)]
    assert sorted(covered) == list(range(count))
