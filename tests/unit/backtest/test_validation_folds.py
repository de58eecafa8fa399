"""Folds: what trains never lies within purge or embargo of what tests."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.backtest._folds import combinatorial_folds, group_spans, path_splits, walk_forward_folds
from quantflow.errors import ParameterError


def assert_apart(fold, purge, embargo):
    """No training row within ``purge`` before, or ``purge + embargo`` after, any test row."""
    train, test = fold.train_rows, fold.test_rows
    distance = train[:, None] - test[None, :]
    assert not ((distance <= 0) & (-distance <= purge)).any()
    assert not ((distance >= 0) & (distance <= purge + embargo)).any()


@given(
    count=st.integers(10, 300),
    train=st.integers(2, 60),
    test=st.integers(1, 40),
    more=st.integers(0, 10),
    anchored=st.booleans(),
    purge=st.integers(0, 8),
    embargo=st.integers(0, 8),
)
def test_walk_forward_tests_follow_their_training_at_a_distance(count, train, test, more, anchored, purge, embargo):
    options = {"train": train, "test": test, "step": test + more, "anchored": anchored, "purge": purge}
    if train + purge + embargo >= count:
        with pytest.raises(ParameterError, match="too few"):
            walk_forward_folds(count, embargo=embargo, **options)
        return
    folds = walk_forward_folds(count, embargo=embargo, **options)
    tested = np.concatenate([fold.test_rows for fold in folds])
    assert len(set(tested.tolist())) == len(tested)
    if more == 0:
        assert tested.tolist() == list(range(train + purge + embargo, count))
    for number, fold in enumerate(folds):
        assert fold.train_rows.max() == fold.test_rows.min() - purge - embargo - 1
        assert_apart(fold, purge, embargo)
        assert len(fold.train_rows) == train + (number * (test + more) if anchored else 0)
        assert (fold.train_rows.min() == 0) or not anchored


@given(
    count=st.integers(12, 200),
    groups=st.integers(2, 7),
    tested=st.integers(1, 3),
    purge=st.integers(0, 4),
    embargo=st.integers(0, 4),
)
def test_combinatorial_training_keeps_its_distance_and_nothing_else_is_left_out(count, groups, tested, purge, embargo):
    if tested >= groups:
        tested = groups - 1
    try:
        folds = combinatorial_folds(count, groups=groups, test_groups=tested, purge=purge, embargo=embargo)
    except ParameterError as exc:
        assert "nothing is left to train on" in str(exc)  # noqa: PT017 - small groups, wide purge
        return
    assert len(folds) == comb(groups, tested)
    for fold in folds:
        assert_apart(fold, purge, embargo)
        rows = np.arange(count)
        distance = rows[:, None] - fold.test_rows[None, :]
        near = ((distance <= 0) & (-distance <= purge)) | ((distance >= 0) & (distance <= purge + embargo))
        assert fold.train_rows.tolist() == rows[~near.any(axis=1)].tolist()
        spans = group_spans(count, groups)
        assert fold.test_rows.tolist() == [row for group in fold.groups for row in range(*spans[group])]


@given(groups=st.integers(2, 8), tested=st.integers(1, 4))
def test_every_path_covers_the_history_and_uses_each_test_once(groups, tested):
    tested = min(tested, groups - 1)
    folds = combinatorial_folds(50, groups=groups, test_groups=tested)
    paths = path_splits(folds)
    assert paths.shape == (comb(groups - 1, tested - 1), groups)
    used = {(int(split), group) for path in paths for group, split in enumerate(path)}
    assert used == {(number, group) for number, fold in enumerate(folds) for group in fold.groups}
    assert len(used) == paths.size


def test_splits_equal_skfolios():
    from skfolio.model_selection import CombinatorialPurgedCV

    theirs = CombinatorialPurgedCV(n_folds=6, n_test_folds=2, purged_size=3, embargo_size=2)
    ours = combinatorial_folds(120, groups=6, test_groups=2, purge=3, embargo=2)
    for fold, (train, tests) in zip(ours, theirs.split(np.zeros((120, 1))), strict=True):
        assert fold.train_rows.tolist() == train.tolist()
        assert fold.test_rows.tolist() == np.concatenate(tests).tolist()
    np.testing.assert_array_equal(path_splits(ours).T, theirs.recombined_paths)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: walk_forward_folds(100, train=1, test=5), "train is 1"),
        (lambda: walk_forward_folds(100, train=10, test=0), "test is 0"),
        (lambda: walk_forward_folds(100, train=10, test=5, step=4), "step is 4, less than test, 5"),
        (lambda: walk_forward_folds(100, train=10.0, test=5), "train is 10.0"),
        (lambda: walk_forward_folds(100, train=10, test=5, purge=-1), "purge is -1"),
        (lambda: combinatorial_folds(100, groups=1, test_groups=1), "groups is 1"),
        (lambda: combinatorial_folds(100, groups=4, test_groups=4), "test_groups is 4; allowed: 1 to 3"),
        (lambda: combinatorial_folds(3, groups=4, test_groups=1), "3 bars cannot be cut"),
        (lambda: combinatorial_folds(100, groups=30, test_groups=10), "make 30,045,015 splits"),
        (lambda: combinatorial_folds(20, groups=4, test_groups=3, purge=9), "groups 0, 1, 2 are tested"),
    ],
)
def test_numbers_that_make_no_folds_are_refused(call, message):
    with pytest.raises(ParameterError, match=message):
        call()
