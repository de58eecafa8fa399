"""The figures of backtests in a real browser, without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from quantflow.backtest import backtest, combinatorial_purged_cv, figures, sweep, walk_forward
from quantflow.testing.signals import bars_of, random_walk, trend

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from plotly.graph_objects import Figure

pytestmark = pytest.mark.browser

OpenPage = Callable[[Path], "Page"]
COSTS = {"fill": "next_close", "fee_bps": 1.0}
GRID = {"lookback": [5, 20, 40], "span": [5, 20], "allow_short": [True, False]}


def drawn() -> dict[str, Figure]:
    bars = bars_of({name: random_walk(700, seed=index) for index, name in enumerate("ABC")})
    result = backtest(trend.bind(lookback=20, target_volatility=1.0), bars, rebalance="monthly", **COSTS)
    rows = sweep(trend, bars, GRID, **COSTS)
    validation = combinatorial_purged_cv(trend, bars, GRID, groups=5, test_groups=2, purge=5, **COSTS)
    return {
        "equity": figures.equity_figure(result.equity),
        "months": figures.monthly_figure(result.returns),
        "sharpe": figures.rolling_sharpe_figure(result.returns, window=60, periods_per_year=252, risk_free_rate=0.0),
        "exposure": figures.exposure_figure(result.weights),
        "trades": figures.trades_figure(bars, result.orders, symbol="A"),
        "sweep": figures.sweep_figure(rows, x="lookback", y="span", metric="sharpe_ratio"),
        "walk": figures.walk_forward_figure(walk_forward(trend, bars, GRID, train=250, test=100, **COSTS)),
        "paths": figures.paths_figure(validation),
    }


def test_every_figure_draws_its_marks_and_complains_about_nothing(tmp_path: Path, open_page: OpenPage) -> None:
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0, div_id=name)
        for number, (name, figure) in enumerate(drawn().items())
    ]
    page_file = tmp_path / "figures.html"
    page_file.write_text(f"<html><head><meta charset='utf-8'></head><body>{''.join(parts)}</body></html>")
    page = open_page(page_file)
    page.wait_for_function("document.querySelectorAll('.main-svg').length > 0")
    marks = ".scatterlayer path, .barlayer path, .heatmaplayer image, .heatmaplayer text"
    for name in drawn():
        count = page.evaluate(f"document.getElementById('{name}').querySelectorAll('{marks}').length")
        assert count > 0, name


def test_a_figure_carries_everything_that_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "equity.html"
    equity = pl.DataFrame({"session": pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 1, 5), eager=True)})
    equity = equity.with_columns(equity=pl.Series(np.linspace(1, 2, 5)), drawdown=pl.lit(0.0))
    figures.equity_figure(equity).write_html(path)
    assert path.stat().st_size > 1_000_000
