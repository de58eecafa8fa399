"""Walk-forward and combinatorial purged cross-validation, against the same done by hand."""

import threading
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from quantflow.backtest import backtest, combinatorial_purged_cv, sweep, walk_forward
from quantflow.backtest._folds import combinatorial_folds
from quantflow.backtest.metrics import sharpe_ratio
from quantflow.errors import MissingColumnError, ParameterError, SweepCancelledError, SweepTooLargeError
from quantflow.testing.signals import bars_of, random_walk, strongest, trend

GRID = {"lookback": [2, 5, 10], "allow_short": [True, False]}
COSTS = {"fill": "next_close", "fee_bps": 2.0, "slippage_bps": 1.0}


def market(symbols=3, length=160):
    return bars_of({f"S{index}": random_walk(length, seed=index) for index in range(symbols)})


BARS = market()
TIMES = BARS["timestamp"].unique().sort()


def first_rows(frame, count):
    return frame.filter(pl.col("timestamp") <= TIMES[count - 1])


def test_each_fold_chooses_the_best_combination_of_its_own_past():
    result = walk_forward(trend, BARS, GRID, train=60, test=30, purge=2, embargo=1, **COSTS)
    folds = result.folds
    assert folds["test_from"].to_list() == [TIMES[63], TIMES[93], TIMES[123], TIMES[153]]
    assert folds["test_bars"].to_list() == [30, 30, 30, 7]
    for row in folds.iter_rows(named=True):
        start = int(TIMES.search_sorted(row["train_from"]))
        assert row["train_bars"] == 60
        tried = sweep(trend, first_rows(BARS, start + 60), GRID, start=TIMES[start], metrics=("sharpe_ratio",), **COSTS)
        assert row["train_sharpe_ratio"] == tried["sharpe_ratio"].max()
        best = tried.row(tried["sharpe_ratio"].arg_max(), named=True)
        assert {name: row[name] for name in GRID} == {name: best[name] for name in GRID}
    assert result.parameters == {name: folds[name][-1] for name in GRID}
    known = folds.drop_nulls()
    expected = known["test_sharpe_ratio"].mean() / known["train_sharpe_ratio"].mean()
    assert result.efficiency == pytest.approx(expected)


def test_the_tests_are_traded_by_one_account_with_each_folds_choice():
    result = walk_forward(trend, BARS, GRID, train=60, test=30, anchored=True, **COSTS)
    assert result.folds["train_from"].unique().to_list() == [TIMES[0]]
    decided = result.result.exposures
    for row in result.folds.iter_rows(named=True):
        bound = trend.bind(**{name: row[name] for name in GRID})
        inside = pl.col("timestamp").is_between(row["test_from"], row["test_to"])
        whole = bound.evaluate(BARS).filter(inside)
        assert decided.filter(inside).select(whole.columns).equals(whole)
    assert result.result.equity["timestamp"].to_list() == TIMES[60:].to_list()
    part = result.result.returns["return"][:30].to_numpy()
    expected = sharpe_ratio(part, periods_per_year=252, risk_free_rate=0.0)
    assert result.folds["test_sharpe_ratio"][0] == pytest.approx(expected)


def test_a_grid_of_one_is_the_plain_backtest_of_the_tested_bars():
    one = walk_forward(trend, BARS, {"lookback": 5}, train=40, test=20, **COSTS)
    plain = backtest(trend.bind(lookback=5), BARS, **COSTS)
    # Weights after both accounts have traded are the same, whatever their equity.
    ours = one.result.weights.tail(-3)
    assert ours.select(pl.exclude("session", "timestamp")).to_numpy() == pytest.approx(
        plain.weights.tail(ours.height).select(pl.exclude("session", "timestamp")).to_numpy(), abs=1e-12
    )
    np.testing.assert_allclose(one.result.returns["return"][3:], plain.returns["return"][43:], atol=1e-12)


def test_nothing_is_held_between_tests_that_leave_a_gap():
    result = walk_forward(trend, BARS, {"lookback": 5}, train=40, test=20, step=40, **COSTS)
    exposures = result.result.exposures
    gap = exposures.filter(pl.col("timestamp").is_between(TIMES[60], TIMES[79]))
    assert gap.height == 60
    assert (gap["exposure"] == 0.0).all()
    assert (result.result.returns["exposure"][22:40] == 0.0).all()


def test_the_future_of_a_fold_does_not_change_it():
    whole = walk_forward(trend, BARS, GRID, train=60, test=30, **COSTS)
    past = walk_forward(trend, first_rows(BARS, 120), GRID, train=60, test=30, **COSTS)
    assert whole.folds.head(2).equals(past.folds)
    assert whole.result.equity.head(60).equals(past.result.equity)


def test_cross_sections_walk_forward_too():
    result = walk_forward(strongest, BARS, {"lookback": [3, 6]}, train=60, test=40, leverage=2.0, **COSTS)
    assert result.folds.height == 3
    assert result.result.metrics["turnover"] > 0.0


def test_less_can_be_better():
    best = walk_forward(trend, BARS, GRID, train=100, test=60, objective="max_drawdown", maximize=False, **COSTS)
    tried = sweep(trend, first_rows(BARS, 100), GRID, metrics=("max_drawdown",), **COSTS)
    assert best.folds["train_max_drawdown"][0] == pytest.approx(tried["max_drawdown"].min(), abs=1e-12)


class Remembered:
    """Decides what ``trend`` decides on the adjusted bars, whatever bars it is given."""

    name, kind, columns = "remembered", "exposure", ("close",)

    def __init__(self, lookback):
        self._decisions = trend.bind(lookback=lookback).evaluate(BARS)

    def evaluate(self, bars):
        return self._decisions.join(bars, on=["symbol", "timestamp"], how="semi")


def test_a_split_changes_prices_and_shares_but_no_choice_and_no_return():
    halved = (pl.col("symbol") == "S0") & (pl.col("timestamp") >= TIMES[110])
    raw = BARS.with_columns(pl.when(halved).then(pl.col("close") / 2).otherwise(pl.col("close")).alias("close"))
    day = BARS.filter(pl.col("timestamp") == TIMES[110])["session"][0]
    actions = pl.DataFrame({"symbol": ["S0"], "session": [day], "split": [2.0]})
    options = {"train": 60, "test": 40, **COSTS}
    split = walk_forward(Remembered, raw, {"lookback": [2, 5, 10]}, actions=actions, **options)
    plain = walk_forward(Remembered, BARS, {"lookback": [2, 5, 10]}, **options)
    assert split.folds["lookback"].to_list() == plain.folds["lookback"].to_list()
    np.testing.assert_allclose(split.result.returns["return"], plain.result.returns["return"], atol=1e-12)


def test_a_test_of_one_bar_tells_no_figure():
    folds = walk_forward(trend, first_rows(BARS, 101), {"lookback": [5]}, train=60, test=40, **COSTS).folds
    assert folds["test_bars"].to_list() == [40, 1]
    assert folds["test_sharpe_ratio"][1] is None


def test_a_cross_validation_can_be_cancelled_between_its_paths():
    cancel = threading.Event()

    def done(now, total):
        if now == total:
            cancel.set()

    with pytest.raises(SweepCancelledError, match="with 0 paths done"):
        combinatorial_purged_cv(trend, BARS, GRID, groups=3, test_groups=1, cancel=cancel, progress=done, **COSTS)


def test_progress_is_told_and_a_cancelled_walk_stops():
    told = []
    walk_forward(trend, BARS, {"lookback": 5}, train=60, test=50, progress=lambda *at: told.append(at), **COSTS)
    assert told == [(1, 2), (2, 2)]
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(SweepCancelledError):
        walk_forward(trend, BARS, GRID, train=60, test=50, cancel=cancel, **COSTS)
    with pytest.raises(SweepCancelledError):
        combinatorial_purged_cv(trend, BARS, GRID, groups=4, test_groups=2, cancel=cancel, **COSTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": {"stop_loss": [0.1, 0.2]}}, "the grid has stop_loss, an option of execution"),
        ({"metrics": ("cagr",)}, "metrics cannot be given here"),
        ({"train": 200}, "160 bars are too few"),
        ({"objective": "sharp"}, "sharp"),
        ({"objective": "profit_factor", "grid": {"target_volatility": 0.0}}, "profit_factor of fold 0 is not a number"),
    ],
)
def test_what_cannot_walk_forward_is_refused(options, message):
    given = {"grid": GRID, "train": 60, "test": 30, **COSTS, **options}
    with pytest.raises(ParameterError, match=message):
        walk_forward(trend, BARS, **given)


@pytest.fixture(scope="module")
def validated():
    return combinatorial_purged_cv(trend, BARS, GRID, groups=5, test_groups=2, purge=3, embargo=2, **COSTS)


def test_each_split_chooses_the_best_on_what_is_not_purged(validated):
    folds = combinatorial_folds(160, groups=5, test_groups=2, purge=3, embargo=2)
    combinations = sweep(trend, BARS, GRID, metrics=("cagr",), **COSTS).select(list(GRID))
    returns = [
        backtest(trend.bind(**values), BARS, **COSTS).returns["return"].to_numpy()
        for values in combinations.iter_rows(named=True)
    ]
    for row, fold in zip(validated.splits.iter_rows(named=True), folds, strict=True):
        free = {"periods_per_year": 252, "risk_free_rate": 0.0}
        train = [sharpe_ratio(values[fold.train_rows], **free) for values in returns]
        test = [sharpe_ratio(values[fold.test_rows], **free) for values in returns]
        best = int(np.argmax(train))
        assert row["groups"] == list(fold.groups)
        assert (row["train_bars"], row["test_bars"]) == (len(fold.train_rows), len(fold.test_rows))
        assert row["train_sharpe_ratio"] == pytest.approx(train[best], rel=1e-9, abs=1e-9)
        assert row["test_sharpe_ratio"] == pytest.approx(test[best], rel=1e-9, abs=1e-9)
        assert {name: row[name] for name in GRID} == combinations.row(best, named=True)
        beaten = sum(score < test[best] - 1e-12 for score in test)
        equal = sum(abs(score - test[best]) <= 1e-12 for score in test)
        assert row["test_rank"] == pytest.approx((beaten + equal / 2) / len(test))
    expected = (validated.splits["test_rank"] <= 0.5).mean()
    assert validated.overfitting_probability == pytest.approx(expected)


def test_each_path_trades_every_group_with_a_choice_that_did_not_see_it(validated):
    assert validated.metrics.height == 4
    assert validated.paths.height == 4 * 160
    bounds = [index * 160 // 5 for index in range(6)]
    used = []
    for result in validated.results:
        for group, (first, last) in enumerate(pairwise(bounds)):
            inside = pl.col("timestamp").is_between(TIMES[first], TIMES[last - 1])
            decided = result.exposures.filter(inside).drop("weight")
            matching = [
                row["split"]
                for row in validated.splits.iter_rows(named=True)
                if group in row["groups"]
                and trend.bind(**{name: row[name] for name in GRID}).evaluate(BARS).filter(inside).equals(decided)
            ]
            assert matching
            used.append(group)
    assert sorted(used) == sorted(list(range(5)) * 4)


def test_the_distribution_is_over_paths(validated):
    spread = validated.distribution("sharpe_ratio", "max_drawdown")
    values = validated.metrics["sharpe_ratio"].to_numpy()
    row = spread.row(0, named=True)
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(values.std(ddof=1))
    assert (row["min"], row["max"]) == (values.min(), values.max())
    assert row["50%"] == pytest.approx(np.median(values))
    assert validated.distribution().height == validated.metrics.width - 1
    with pytest.raises(ParameterError, match="unknown metrics sharp"):
        validated.distribution("sharp")


def test_any_number_of_threads_gives_the_same_validation(validated):
    again = combinatorial_purged_cv(
        trend, BARS, GRID, groups=5, test_groups=2, purge=3, embargo=2, threads=3, progress=lambda *_: None, **COSTS
    )
    assert again.splits.equals(validated.splits)
    assert again.paths.equals(validated.paths)


def test_a_decider_without_declared_parameters_can_be_validated():
    def made(lookback):
        return trend.bind(lookback=lookback)

    ours = combinatorial_purged_cv(made, BARS, {"lookback": [2, 5]}, groups=3, test_groups=1, **COSTS)
    same = combinatorial_purged_cv(trend, BARS, {"lookback": [2, 5]}, groups=3, test_groups=1, **COSTS)
    assert ours.splits.equals(same.splits)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"grid": {"fee_bps": [0.0, 1.0]}}, ParameterError, "the grid has fee_bps"),
        ({"objective": "turnover"}, ParameterError, "objective is 'turnover'"),
        ({"where": lambda lookback: lookback > 50}, ParameterError, "where keeps none of the 6"),
        ({"memory_limit_bytes": 10_000}, SweepTooLargeError, "6 combinations over 160 timestamps need 15,360 bytes"),
        ({"groups": 2, "test_groups": 2}, ParameterError, "test_groups is 2"),
        ({"bars": BARS.drop("timestamp")}, MissingColumnError, "'timestamp'"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(options, error, message):
    given = {"bars": BARS, "grid": GRID, "groups": 4, "test_groups": 2, "fill": "next_close", **options}
    with pytest.raises(error, match=message):
        combinatorial_purged_cv(trend, **given)
