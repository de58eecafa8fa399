"""A signal of a user's own runs in all three lives with the same numbers."""

import ast
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from quantflow.backtest import backtest, sweep
from quantflow.data import get_source
from quantflow.live import parity
from quantflow.notebooks.code import load_reference

PIPELINES = Path(__file__).resolve().parents[3] / "pipelines"
COSTS = {"fee_bps": 1.0, "slippage_bps": 2.0}


def shipped(name):
    return load_reference(PIPELINES, f"{name}:{name}")


def read(source, symbols, first, last):
    return get_source(source).read(symbols, start=first, end=last, as_of=datetime.now(UTC))


def assert_one_signal(definition, bars, grid, chosen, **options):
    rows = sweep(definition, bars, grid, progress=False, **options)
    row = rows.filter(*(pl.col(name) == value for name, value in chosen.items())).row(0, named=True)
    bound = definition.bind(**chosen)
    tested = backtest(bound, bars, **options)
    for name in ("total_return", "cagr", "volatility", "sharpe_ratio", "max_drawdown", "turnover", "cost"):
        assert row[name] == pytest.approx(tested.metrics[name], rel=1e-9, abs=1e-9), name
    assert row["orders"] == tested.orders.height > 10
    report = parity(bound, bars, **options)
    assert report.agrees, report
    assert report.tolerance == 0.0
    assert report.compared["orders"] == tested.orders.height


def test_the_breakout_is_the_same_in_sweep_backtest_and_live():
    bars = read("index", None, date(2007, 6, 1), date(2008, 9, 30))
    grid = {"window": [10, 20], "stop_atr": [1.5, 3.0]}
    chosen = {"window": 10, "stop_atr": 1.5}
    assert_one_signal(
        shipped("donchian_breakout"), bars, grid, chosen, fill="next_open", rebalance="on_change", **COSTS
    )


def test_cross_sectional_momentum_is_the_same_in_sweep_backtest_and_live():
    bars = read("sp500", ["AAPL", "AMD", "JPM", "KO", "XOM"], date(2016, 1, 1), date(2016, 5, 31))
    options = {"fill": "next_close", "rebalance": "weekly", "leverage": 2.0, "borrow_bps": 50.0}
    grid = {"lookback": [10, 20], "fraction": [0.2, 0.4]}
    assert_one_signal(shipped("cross_momentum"), bars, grid, {"lookback": 10, "fraction": 0.4}, **options, **COSTS)


@pytest.mark.parametrize("name", ["donchian_breakout", "cross_momentum"])
def test_the_shipped_examples_are_short(name):
    tree = ast.parse((PIPELINES / f"{name}.py").read_text())
    lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.arg) and not _is_text(node)}
    assert len(lines) < 20


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_the_breakout_holds_from_a_new_high_until_its_stop():
    bars = read("index", ["SP500"], date(2009, 3, 1), date(2009, 12, 31))
    said = shipped("donchian_breakout").bind(window=20, stop_atr=2.0).evaluate(bars)
    above = pl.col("close") > pl.col("high").rolling_max(20).shift(1)
    seen = bars.with_columns(said["exposure"], above=above).with_columns(before=pl.col("exposure").shift(1))
    entries = seen.filter((pl.col("exposure") == 1.0) & (pl.col("before") == 0.0))
    assert entries.height >= 3
    assert entries["above"].all()
    assert seen.filter(pl.col("above") & (pl.col("before") == 0.0))["exposure"].to_list() == [1.0] * entries.height
