"""Which bars train and which test: walk-forward windows and combinatorial purged folds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
import numpy.typing as npt

from quantflow.errors import ParameterError

__all__ = ["Fold", "Span", "combinatorial_folds", "group_spans", "path_splits", "walk_forward_folds"]

#: Rows ``first <= row < last``.
Span = tuple[int, int]

_MOST_SPLITS = 10_000


@dataclass(frozen=True)
class Fold:
    """One training and testing of a history: spans of its rows, each ascending and apart.

    Attributes
    ----------
    train
        Rows that parameters may be chosen on.
    test
        Rows that the choice is judged on.
    groups
        Numbers of the groups tested; empty for walk-forward.
    """

    train: tuple[Span, ...]
    test: tuple[Span, ...]
    groups: tuple[int, ...] = ()

    @property
    def train_rows(self) -> npt.NDArray[np.int64]:
        """Row numbers of all training spans."""
        return _rows(self.train)

    @property
    def test_rows(self) -> npt.NDArray[np.int64]:
        """Row numbers of all test spans."""
        return _rows(self.test)


def walk_forward_folds(
    count: int,
    *,
    train: int,
    test: int,
    step: int | None = None,
    anchored: bool = False,
    purge: int = 0,
    embargo: int = 0,
) -> tuple[Fold, ...]:
    """Return folds whose training always lies before their test.

    Training ends ``purge + embargo`` rows before its test begins.

    Parameters
    ----------
    count
        Number of rows.
    train
        Rows of a training window; with ``anchored`` of the first one.
    test
        Rows of a test window; the last one may be shorter.
    step
        Rows from one test's begin to the next one's; ``test`` by default, and never less.
    anchored
        All training begins at row 0 and grows; otherwise the window rolls.
    purge, embargo
        Rows left out between training and test.

    Raises
    ------
    ParameterError
        A length is out of range, or the rows do not suffice for one fold.
    """
    lengths = {"train": (train, 2), "test": (test, 1), "purge": (purge, 0), "embargo": (embargo, 0)}
    _check_lengths({**lengths, "step": (test if step is None else step, 1)})
    stride = test if step is None else step
    if stride < test:
        raise ParameterError(
            f"step is {step}, less than test, {test}: test windows would overlap; give at least {test}"
        )
    gap = purge + embargo
    first = train + gap
    if first >= count:
        raise ParameterError(
            f"{count} bars are too few for train={train}, purge={purge} and embargo={embargo}: the first test would "
            f"begin at bar {first}; give shorter windows or more history"
        )
    return tuple(
        Fold(((0 if anchored else begin - first, begin - gap),), ((begin, min(begin + test, count)),))
        for begin in range(first, count, stride)
    )


def combinatorial_folds(
    count: int, *, groups: int, test_groups: int, purge: int = 0, embargo: int = 0
) -> tuple[Fold, ...]:
    """Return a fold for each choice of ``test_groups`` of the ``groups``, in lexicographic order.

    All other rows train, except the ``purge`` rows before a test group and the ``purge + embargo`` rows
    after it.

    Parameters
    ----------
    count
        Number of rows, cut into ``groups`` spans of almost equal length.
    groups, test_groups
        N and k of Lopez de Prado (2018), section 12.3.
    purge, embargo
        Rows left out of training around a test.

    Raises
    ------
    ParameterError
        A number is out of range, or a fold has no row to train on.
    """
    _check_lengths(
        {"groups": (groups, 2), "test_groups": (test_groups, 1), "purge": (purge, 0), "embargo": (embargo, 0)}
    )
    if test_groups >= groups:
        raise ParameterError(f"test_groups is {test_groups}; allowed: 1 to {groups - 1}, fewer than groups")
    if groups > count:
        raise ParameterError(f"{count} bars cannot be cut into {groups} groups; give at most {count}")
    if comb(groups, test_groups) > _MOST_SPLITS:
        raise ParameterError(
            f"groups={groups} and test_groups={test_groups} make {comb(groups, test_groups):,} splits; allowed: "
            f"{_MOST_SPLITS:,}, such as 10 groups with 2 tested"
        )
    spans = group_spans(count, groups)
    return tuple(
        _purged(count, chosen, [spans[group] for group in chosen], purge, embargo)
        for chosen in combinations(range(groups), test_groups)
    )


def group_spans(count: int, groups: int) -> tuple[Span, ...]:
    """Return ``groups`` neighbouring spans of 0 to ``count``; lengths differ by at most one row."""
    bounds = [index * count // groups for index in range(groups + 1)]
    return tuple(pairwise(bounds))


def path_splits(folds: tuple[Fold, ...]) -> npt.NDArray[np.int64]:
    """Return which fold tests each group on each path: int64 [paths, groups].

    Each group is tested in ``comb(N - 1, k - 1)`` folds; the j-th of them belongs to path j, so
    that every path covers the whole history and every test is used once.
    """
    groups = 1 + max(group for fold in folds for group in fold.groups)
    tested = [[number for number, fold in enumerate(folds) if group in fold.groups] for group in range(groups)]
    return np.array(tested, dtype=np.int64).T


def _purged(count: int, chosen: tuple[int, ...], tests: list[Span], purge: int, embargo: int) -> Fold:
    trains = np.ones(count, dtype=np.bool_)
    for first, last in tests:
        trains[max(0, first - purge) : last + purge + embargo] = False
    edges = np.flatnonzero(np.diff(trains.astype(np.int8), prepend=0, append=0))
    if not len(edges):
        raise ParameterError(
            f"nothing is left to train on when groups {', '.join(map(str, chosen))} are tested: purge={purge} and "
            f"embargo={embargo} take the other bars; give less of them, or fewer groups"
        )
    train = tuple((int(first), int(last)) for first, last in edges.reshape(-1, 2))
    return Fold(train, tuple(_joined(tests)), chosen)


def _joined(spans: list[Span]) -> list[Span]:
    """Return ascending spans with those that touch made one."""
    whole: list[Span] = []
    for first, last in spans:
        if whole and whole[-1][1] == first:
            whole[-1] = (whole[-1][0], last)
        else:
            whole.append((first, last))
    return whole


def _rows(spans: tuple[Span, ...]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.arange(first, last) for first, last in spans])


def _check_lengths(lengths: dict[str, tuple[int, int]]) -> None:
    for name, (value, smallest) in lengths.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
            raise ParameterError(f"{name} is {value!r}; allowed: a whole number, at least {smallest}")
