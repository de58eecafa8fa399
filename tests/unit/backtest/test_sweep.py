"""Sweeps: every row is a backtest, whatever the signal's shape, the costs, the threads."""

from __future__ import annotations

import threading
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from quantflow.backtest import _sweep_job, backtest, sweep
from quantflow.backtest._from_raw import SUMMARY_METRICS
from quantflow.errors import (
    InvalidBarsError,
    MissingColumnError,
    ParameterError,
    SignalError,
    SweepCancelledError,
    SweepTooLargeError,
)
from quantflow.signals import column_signal, param
from quantflow.testing.signals import bars_of, random_walk, strongest, trend, with_gaps

COSTS: dict[str, Any] = {"fee_bps": 3.0, "slippage_bps": 2.0}
GRID = {"lookback": [2, 5, 9], "target_volatility": [0.1, 0.4], "allow_short": [True, False]}


def market_of(symbols: int = 3, bars: int = 90) -> pl.DataFrame:
    closes = {f"S{index}": random_walk(bars, seed=index, volatility=0.02) for index in range(symbols)}
    opens = {name: np.roll(values, 1) * 1.002 for name, values in closes.items()}
    highs = {name: np.maximum(values, opens[name]) * 1.004 for name, values in closes.items()}
    lows = {name: np.minimum(values, opens[name]) * 0.996 for name, values in closes.items()}
    volume = {name: np.full(bars, 1e5) for name in closes}
    return bars_of(closes, open=opens, high=highs, low=lows, volume=volume)


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return market_of()


@pytest.fixture(scope="module")
def ragged() -> pl.DataFrame:
    """Three symbols with holes; one begins late, one ends early."""
    whole = market_of()
    first, last = whole["session"].min(), whole["session"].max()
    late = (pl.col("symbol") == "S1") & (pl.col("session") < pl.lit(first) + pl.duration(days=20))
    ended = (pl.col("symbol") == "S2") & (pl.col("session") > pl.lit(last) - pl.duration(days=15))
    return with_gaps(whole.filter(~late & ~ended), 0.1, seed=3)


def assert_each_row_is_a_backtest(rows: pl.DataFrame, tests: list[Any]) -> None:
    assert rows.height == len(tests)
    for row, result in zip(rows.iter_rows(named=True), tests, strict=True):
        common = [name for name in SUMMARY_METRICS if name in row and name in result.metrics]
        assert len(common) >= 8
        for name in common:
            expected = pytest.approx(result.metrics[name], rel=1e-9, abs=1e-9, nan_ok=True)
            assert float(row[name]) == expected, name


def parameters_of(row: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: row[name] for name in names}


@pytest.mark.parametrize("gaps", [False, True])
def test_a_portfolio_row_is_the_backtest_of_its_combination(
    gaps: bool, bars: pl.DataFrame, ragged: pl.DataFrame
) -> None:
    known = ragged if gaps else bars
    rows = sweep(trend, known, GRID, metrics=SUMMARY_METRICS, risk_free_rate=0.02, threads=1, **COSTS)
    assert rows.columns == [*GRID, *SUMMARY_METRICS]
    bound = [trend.bind(**parameters_of(row, GRID)) for row in rows.iter_rows(named=True)]
    assert_each_row_is_a_backtest(rows, [backtest(one, known, risk_free_rate=0.02, **COSTS) for one in bound])


@pytest.mark.parametrize("gaps", [False, True])
def test_a_symbol_row_is_the_backtest_of_that_symbol_alone(
    gaps: bool, bars: pl.DataFrame, ragged: pl.DataFrame
) -> None:
    known = ragged if gaps else bars
    rows = sweep(trend, known, GRID, by="symbol", metrics=SUMMARY_METRICS, **COSTS)
    assert rows.columns == [*GRID, "symbol", *SUMMARY_METRICS]
    assert rows["symbol"].to_list() == ["S0", "S1", "S2"] * 12
    assert_each_row_is_a_backtest(
        rows,
        [
            backtest(trend.bind(**parameters_of(row, GRID)), known.filter(pl.col("symbol") == row["symbol"]), **COSTS)
            for row in rows.iter_rows(named=True)
        ],
    )


EXECUTION_GRID = {
    "stop_loss": [None, 0.03],
    "lookback": [3, 6],
    "fill": ["next_open", "next_close"],
    "rebalance": ["every_bar", "on_change", "weekly"],
    "periods_per_year": [252.0, 365.0],
}


@pytest.mark.parametrize("by", ["portfolio", "symbol"])
def test_execution_options_are_swept_like_parameters(by: Any, bars: pl.DataFrame) -> None:
    def keep(stop_loss: float | None, fill: str, lookback: int, rebalance: str) -> bool:
        return stop_loss is None or fill == "next_open" or (lookback == 3 and rebalance == "weekly")

    rows = sweep(trend, bars, EXECUTION_GRID, by=by, where=keep, metrics=SUMMARY_METRICS, **COSTS)
    assert rows.height == 38 * (3 if by == "symbol" else 1)
    assert rows["stop_loss"].dtype == pl.Float64
    assert rows["fill"].dtype == pl.String
    rows = rows[::5] if by == "portfolio" else rows[::11]
    tests = []
    for row in rows.iter_rows(named=True):
        given = parameters_of(row, EXECUTION_GRID)
        known = bars if by == "portfolio" else bars.filter(pl.col("symbol") == row["symbol"])
        tests.append(backtest(trend.bind(lookback=given.pop("lookback")), known, **given, **COSTS))
    assert_each_row_is_a_backtest(rows, tests)


@pytest.mark.parametrize("universe", [None, ("S2", "S0"), ("S0", "S2", "ZZ")])
def test_a_cross_sectional_signal_is_swept_with_shared_cash(universe: Any, ragged: pl.DataFrame) -> None:
    from quantflow.signals import CrossSection

    signal = strongest if universe is None else CrossSection(strongest.definition, symbols=universe, name="two")
    # A timestamp at which only a symbol outside the universe has a bar.
    known = ragged.filter(
        (pl.col("session") != pl.lit(ragged["session"].unique().sort()[40])) | (pl.col("symbol") == "S1")
    )
    grid = {"lookback": [2, 5], "every": [1, 4], "fraction": [0.34, 0.5]}
    rows = sweep(signal, known, grid, metrics=SUMMARY_METRICS, **COSTS)
    bound = [signal.bind(**parameters_of(row, grid)) for row in rows.iter_rows(named=True)]
    assert_each_row_is_a_backtest(rows, [backtest(one, known, **COSTS) for one in bound])


def test_a_cross_sectional_signal_has_no_row_a_symbol(bars: pl.DataFrame) -> None:
    with pytest.raises(ParameterError, match="by='symbol' has no meaning; use by='portfolio'"):
        sweep(strongest, bars, {"lookback": [2, 5]}, by="symbol")


@column_signal(window=10, columns=("close",))
def above_mean(span: int = param(5, low=2, high=10)) -> pl.Expr:
    return (pl.col("close") > pl.col("close").rolling_mean(span)).cast(pl.Float64)


@pytest.mark.parametrize("by", ["portfolio", "symbol"])
def test_any_definition_is_swept(by: Any, ragged: pl.DataFrame) -> None:
    grid = {"span": [3, 8], "fee_bps": [0.0, 5.0]}
    rows = sweep(above_mean, ragged, grid, by=by, metrics=SUMMARY_METRICS)
    tests = []
    for row in rows.iter_rows(named=True):
        known = ragged if by == "portfolio" else ragged.filter(pl.col("symbol") == row["symbol"])
        tests.append(backtest(above_mean.bind(span=row["span"]), known, fee_bps=row["fee_bps"]))
    assert_each_row_is_a_backtest(rows, tests)


def test_any_function_from_values_to_a_decider_is_swept(bars: pl.DataFrame) -> None:
    def chosen(which: str, pace: int) -> Any:
        return {"fast": trend.bind(lookback=pace), "slow": strongest.bind(lookback=pace)}[which]

    rows = sweep(chosen, bars, {"which": ["fast", "slow"], "pace": [2, 4]}, metrics=SUMMARY_METRICS, **COSTS)
    tests = [backtest(chosen(row["which"], row["pace"]), bars, **COSTS) for row in rows.iter_rows(named=True)]
    assert_each_row_is_a_backtest(rows, tests)
    with pytest.raises(ParameterError, match="answers weights of a portfolio"):
        sweep(chosen, bars, {"which": ["slow"], "pace": [2]}, by="symbol")


@pytest.mark.parametrize("by", ["portfolio", "symbol"])
def test_the_result_does_not_depend_on_the_number_of_threads(by: Any, ragged: pl.DataFrame) -> None:
    grid = {"lookback": range(2, 40), "stop_loss": [None, 0.05], "target_volatility": [0.1, 0.2]}
    one, *others = (sweep(trend, ragged, grid, by=by, threads=threads, **COSTS) for threads in (1, 2, 3, 7))
    assert one.height == 152 * (3 if by == "symbol" else 1)
    for other in others:
        assert one.equals(other)


def test_parts_make_the_same_result_as_one_piece(monkeypatch: pytest.MonkeyPatch, ragged: pl.DataFrame) -> None:
    grid = {"lookback": range(2, 60), "stop_loss": [None, 0.05]}
    whole = sweep(trend, ragged, grid, by="symbol")
    monkeypatch.setattr(_sweep_job, "_MOST_IN_PART", 16)
    assert sweep(trend, ragged, grid, by="symbol").equals(whole)


def test_a_swept_name_of_the_signal_goes_before_an_option_of_the_same_name(bars: pl.DataFrame) -> None:
    def levered(leverage: int) -> Any:
        return trend.bind(lookback=leverage)

    levered.parameters = {"leverage": trend.parameters["lookback"]}  # type: ignore[attr-defined]
    rows = sweep(levered, bars, {"leverage": [2, 4]}, metrics=["total_return"])
    same = sweep(trend, bars, {"lookback": [2, 4]}, metrics=["total_return"])
    assert rows["total_return"].equals(same["total_return"])


def test_counts_are_whole_numbers_and_ruin_is_true_or_false(bars: pl.DataFrame) -> None:
    rows = sweep(trend, bars, {"lookback": [3]}, metrics=["orders", "trades", "ruined", "sharpe_ratio"])
    assert rows.dtypes == [pl.Int64, pl.Int64, pl.Int64, pl.Boolean, pl.Float64]


def test_an_empty_grid_is_the_signal_with_its_defaults(bars: pl.DataFrame) -> None:
    rows = sweep(trend, bars, {}, metrics=SUMMARY_METRICS)
    assert_each_row_is_a_backtest(rows, [backtest(trend.bind(), bars)])


def test_the_order_of_bars_does_not_matter(ragged: pl.DataFrame) -> None:
    mixed = ragged.sample(fraction=1.0, shuffle=True, seed=1)
    assert sweep(trend, mixed, GRID).equals(sweep(trend, ragged, GRID))


def test_accounts_can_begin_after_the_signal_has_seen_earlier_bars(bars: pl.DataFrame) -> None:
    start = datetime(2020, 2, 10, tzinfo=UTC)
    rows = sweep(trend, bars, {"lookback": [2, 30]}, by="symbol", start=start, metrics=["periods", "total_return"])
    assert rows["periods"].to_list() == [int((bars["timestamp"] >= start).sum() / 3)] * 6
    assert sweep(trend, bars, {"lookback": [2]}, start=bars["timestamp"].min()).equals(
        sweep(trend, bars, {"lookback": [2]})
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metrics": ["sharp"]}, ParameterError, "metrics are .*sharp.*; allowed: some of total_return"),
        ({"metrics": []}, ParameterError, "metrics are"),
        ({"by": "month"}, ParameterError, "by is 'month'; allowed: 'portfolio', 'symbol'"),
        ({"threads": 0}, ParameterError, "threads is 0; allowed"),
        ({"grid": {"lookback": [0]}}, ParameterError, "'lookback' is 0"),
        ({"grid": {"stop_loss": [0.1, 2.0], "fee_bps": [1.0]}}, ParameterError, "stop_loss is 2.0.*fee_bps=1.0"),
        ({"fee_bps": -1.0}, SignalError, "fee_bps is -1.0"),
        ({"free_bps": 1.0}, ParameterError, "unknown argument 'free_bps'; execution options are borrow_bps"),
        (
            {"grid": {"fee_bps": [1.0]}, "fee_bps": 1.0},
            ParameterError,
            "fee_bps is given as an argument and in the grid",
        ),
        ({"where": lambda lookback: lookback > 99}, ParameterError, "where keeps none of the grid's 2 combinations"),
        ({"memory_limit_bytes": 0}, ParameterError, "memory_limit_bytes is 0"),
        ({"start": datetime(2050, 1, 1, tzinfo=UTC)}, ParameterError, "after the last bar"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str, bars: pl.DataFrame
) -> None:
    with pytest.raises(error, match=message):
        sweep(trend, bars, arguments.pop("grid", {"lookback": [2, 3]}), **arguments)


def test_a_grid_name_that_is_a_column_of_the_result_is_refused(bars: pl.DataFrame) -> None:
    with pytest.raises(ParameterError, match="the grid has the name 'symbol'"):
        sweep(lambda symbol: trend.bind(), bars, {"symbol": [1]})


def test_bars_that_cannot_be_traded_are_refused_before_work(bars: pl.DataFrame) -> None:
    with pytest.raises(MissingColumnError, match="symbol and timestamp"):
        sweep(trend, bars.drop("symbol"), GRID)
    with pytest.raises(MissingColumnError, match="'open'"):
        sweep(trend, bars.drop("open"), GRID)
    with pytest.raises(MissingColumnError, match="'volume'"):
        sweep(trend, bars.drop("volume"), {"impact_bps": [0.0, 1.0]})
    with pytest.raises(InvalidBarsError, match="more than one bar"):
        sweep(trend, pl.concat([bars, bars[:1]]), GRID)
    broken = bars.with_columns(close=pl.when(pl.int_range(pl.len()) == 40).then(0.0).otherwise(pl.col("close")))
    with pytest.raises(InvalidBarsError, match="S0 at 2020-02-10"):
        sweep(trend, broken, GRID)


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_names_the_first_combination_that_fails_on_any_number_of_threads(
    threads: int, bars: pl.DataFrame
) -> None:
    def brittle(pace: int) -> Any:
        if pace % 7 == 6:
            raise SignalError("too brittle")
        return trend.bind(lookback=pace)

    with pytest.raises(SignalError, match=r"too brittle \(combination with pace=6\)"):
        sweep(brittle, bars, {"pace": range(1, 60)}, threads=threads)


def test_a_batch_error_names_its_parameters(bars: pl.DataFrame) -> None:
    from quantflow.signals import momentum, signal

    @signal(columns=("close",))
    def divides(bar: Any, change: Any = momentum.over(1), gap: float = param(1.0, low=0.0, high=9.0)) -> float:
        return momentum(change, bar.close) / gap

    with pytest.raises(SignalError, match=r"ZeroDivisionError at S0 at 2020-01-0[12].*gap=0.0"):
        sweep(divides, bars, {"gap": [1.0, 0.0]}, by="symbol")


def test_more_combinations_than_allowed_are_refused_before_any_is_listed(bars: pl.DataFrame) -> None:
    vast = {"target_volatility": np.linspace(0.0, 5.0, 100_000), "fee_bps": np.linspace(0.0, 99.0, 100_000)}
    with pytest.raises(
        SweepTooLargeError, match=r"10,000,000,000 combinations make 10,000,000,000 rows .* the limit is"
    ):
        sweep(trend, bars, vast)
    with pytest.raises(SweepTooLargeError, match=r"10,000,000,000 combinations; max_combinations is 1,000"):
        sweep(trend, bars, vast, max_combinations=1000)
    with pytest.raises(SweepTooLargeError, match=r"at least .* combinations; max_combinations is 1,000"):
        sweep(trend, bars, vast, where=lambda fee_bps: fee_bps > 1.0, max_combinations=1000)
    with pytest.raises(SweepTooLargeError, match=r"12 combinations make 36 rows .* the limit is 2,000 bytes"):
        sweep(trend, bars, GRID, by="symbol", memory_limit_bytes=2_000)


def test_a_sweep_that_would_take_longer_than_its_budget_is_refused(bars: pl.DataFrame) -> None:
    with pytest.raises(
        SweepTooLargeError, match=r"12 combinations would take about .* s on 2 threads.*budget_s is 1e-09"
    ):
        sweep(trend, bars, GRID, budget_s=1e-9, threads=2)
    assert sweep(trend, bars, GRID, budget_s=3600.0).height == 12


def test_progress_is_told_from_nothing_to_everything(bars: pl.DataFrame) -> None:
    told: list[tuple[int, int]] = []
    sweep(trend, bars, GRID, progress=lambda done, total: told.append((done, total)), by="symbol", threads=2)
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    assert told == sorted(set(told))


def test_a_progress_bar_is_shown_when_asked(bars: pl.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(trend, bars, GRID, progress=True)
    assert "12/12" in capsys.readouterr().out


def test_cancelling_hands_over_what_is_done(monkeypatch: pytest.MonkeyPatch, bars: pl.DataFrame) -> None:
    monkeypatch.setattr(_sweep_job, "_MOST_IN_PART", 16)
    cancel = threading.Event()

    def stop_at(done: int, _: int) -> None:
        if done >= 32:
            cancel.set()

    grid = {"lookback": range(2, 102)}
    with pytest.raises(SweepCancelledError, match=r"cancelled with (32|48) of 100 combinations done") as caught:
        sweep(trend, bars, grid, cancel=cancel, progress=stop_at)
    done = caught.value.result
    assert isinstance(done, pl.DataFrame)
    assert done.height in (32, 48)
    assert done.equals(sweep(trend, bars, grid)[: done.height])


def test_a_sweep_cancelled_before_it_begins_has_no_rows(bars: pl.DataFrame) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(SweepCancelledError, match="with 0 of 12") as caught:
        sweep(trend, bars, GRID, cancel=cancel)
    assert isinstance(caught.value.result, pl.DataFrame)
    assert caught.value.result.height == 0
    assert caught.value.result.columns[:3] == list(GRID)


def test_an_interrupt_from_the_keyboard_ends_all_threads(bars: pl.DataFrame) -> None:
    before = threading.active_count()

    def interrupt(done: int, _: int) -> None:
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(trend, bars, {"lookback": range(2, 102)}, threads=4, progress=interrupt)
    assert threading.active_count() == before


def test_memory_beside_the_result_does_not_grow_with_the_grid(
    monkeypatch: pytest.MonkeyPatch, bars: pl.DataFrame
) -> None:
    monkeypatch.setattr(_sweep_job, "_MOST_IN_PART", 256)
    one = bars.filter(pl.col("symbol") == "S0")

    def beside(side: int) -> int:
        grid = {"target_volatility": np.linspace(0.1, 5.0, side), "fee_bps": np.linspace(0.0, 9.0, side)}
        tracemalloc.start()
        try:
            rows = sweep(trend, one, grid, threads=1, fill="next_close")
            return int(tracemalloc.get_traced_memory()[1] - rows.estimated_size())
        finally:
            tracemalloc.stop()

    beside(24)
    # The sums behind the figures of 4,608 more rows would take 1.3 MB, their paths 3.3 MB each of equity and exposure.
    assert beside(72) < beside(24) + 500_000
