"""Figures show the numbers that they were given; they are drawn in tests/browser."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from quantflow.backtest import CrossValidation, WalkForward, backtest, figures
from quantflow.backtest import _drawing as draw
from quantflow.errors import DataError, MissingColumnError, ParameterError
from quantflow.testing.signals import bars_of, random_walk, trend

BARS = bars_of({"A": random_walk(90, seed=1), "B": random_walk(90, seed=2)})


@pytest.fixture(scope="module")
def result():
    return backtest(trend.bind(target_volatility=2.0), BARS, fill="next_close", fee_bps=1.0, trailing_stop=None)


def test_equity_is_drawn_with_its_benchmark_above_its_drawdown(result):
    figure = figures.equity_figure(result.equity)
    benchmark, equity, fall = figure.data
    assert [trace.name for trace in figure.data] == ["equal slots, bought and held", "strategy", "drawdown"]
    np.testing.assert_allclose(equity.y, result.equity["equity"].to_numpy(), rtol=1e-5)
    np.testing.assert_allclose(benchmark.y, result.equity["benchmark"].to_numpy(), rtol=1e-5)
    np.testing.assert_allclose(fall.y, -result.equity["drawdown"].to_numpy(), rtol=1e-5, atol=1e-9)
    assert fall.yaxis == "y2"
    assert equity.x[0] == "2020-01-01"
    assert figure.layout.yaxis.type == "log"
    plain = figures.equity_figure(result.equity.drop("benchmark"), log=False)
    assert len(plain.data) == 2
    assert plain.layout.yaxis.type == "linear"
    with pytest.raises(MissingColumnError, match="equity lack drawdown; they have: session"):
        figures.equity_figure(result.equity.select("session", "equity"))


def test_a_lost_equity_does_not_break_the_logarithmic_axis():
    lost = pl.DataFrame(
        {"session": [date(2020, 1, day) for day in (1, 2)], "equity": [1.0, 0.0], "drawdown": [0.0, 1.0]}
    )
    assert figures.equity_figure(lost).data[0].y == (1.0,)
    assert figures.equity_figure(lost, log=False).data[0].y == (1.0, 0.0)


def test_months_and_years_are_compounded():
    returns = pl.DataFrame(
        {
            "session": [date(2020, 1, 2), date(2020, 1, 3), date(2020, 3, 2), date(2021, 1, 4)],
            "return": [0.1, -0.05, 0.02, -0.0003],
        }
    )
    table = figures.monthly_returns(returns)
    assert table["year"].to_list() == [2020, 2021]
    assert table["Jan"].to_list() == pytest.approx([1.1 * 0.95 - 1, -0.0003])
    assert table["Feb"].to_list() == [None, None]
    assert table["Year"].to_list() == pytest.approx([1.1 * 0.95 * 1.02 - 1, -0.0003])
    (heat,) = figures.monthly_figure(returns).data
    assert heat.x[0] == "Jan"
    assert heat.x[-1] == "Year"
    assert list(heat.text[0][:3]) == ["4.5%", "", "2.0%"]
    assert heat.text[1][0] == "0.0%"
    assert heat.zmax == -heat.zmin == pytest.approx(0.045)


def test_the_rolling_ratio_begins_when_its_window_is_full(result):
    (line,) = figures.rolling_sharpe_figure(result.returns, window=20, periods_per_year=252, risk_free_rate=0.0).data
    assert len(line.x) == 90 - 19
    assert line.x[0] == "2020-01-20"


def test_exposure_adds_up_long_and_short():
    weights = pl.DataFrame({"session": [date(2020, 1, 1)], "A": [0.5], "B": [-0.2], "C": [0.1]})
    drawn = {trace.name: trace.y[0] for trace in figures.exposure_figure(weights).data}
    assert drawn == pytest.approx({"long": 0.6, "short": -0.2, "gross": 0.8, "net": 0.4})
    with pytest.raises(DataError, match="no column of a symbol"):
        figures.exposure_figure(weights.select("session"))


def test_orders_lie_on_the_price_with_their_reasons(result):
    figure = figures.trades_figure(BARS, result.orders, symbol="A")
    drawn = {trace.name: trace for trace in figure.data}
    mine = result.orders.filter(pl.col("symbol") == "A")
    for side in ("buy", "sell"):
        chosen = mine.filter(pl.col("side") == side)
        markers = drawn[f"{side} ({chosen.height})"]
        assert list(markers.x) == [str(session) for session in chosen["session"]]
        np.testing.assert_allclose(markers.y, chosen["price"].to_numpy(), rtol=1e-5)
        assert all(str(reason) in text for reason, text in zip(chosen["reason"], markers.text, strict=True))
    won, lost = drawn["round trips with a profit"], drawn["with a loss"]
    assert len(won.x) + len(lost.x) == 3 * int(result.orders.filter(pl.col("symbol") == "A").pipe(_closed))
    with pytest.raises(DataError, match="no bars of 'Z'; there are: A, B"):
        figures.trades_figure(BARS, result.orders, symbol="Z")


def _closed(orders):
    from quantflow.backtest import round_trips

    return len(round_trips(orders).drop_nulls("exit_timestamp"))


def test_bars_within_a_day_are_placed_by_their_time():
    times = [datetime(2020, 1, 1, hour, tzinfo=UTC) for hour in (14, 15, 16)]
    frame = pl.DataFrame(
        {"session": [date(2020, 1, 1)] * 3, "timestamp": times, "equity": [1.0, 2.0, 1.0], "drawdown": [0.0, 0.0, 0.5]}
    )
    assert figures.equity_figure(frame).data[0].x == tuple(f"2020-01-01 {hour}:00:00" for hour in (14, 15, 16))


def test_long_histories_keep_their_extremes():
    values = np.sin(np.arange(50_000) / 500.0)
    values[12_345], values[33_333] = 9.0, -9.0
    frame = pl.DataFrame(
        {"session": [date(1900, 1, 1) + timedelta(days=day) for day in range(50_000)], "value": values}
    )
    shown = draw.thinned(frame, "value")
    assert shown.height <= 1602
    assert (shown["value"].max(), shown["value"].min()) == (9.0, -9.0)
    assert (shown["session"][0], shown["session"][-1]) == (frame["session"][0], frame["session"][-1])


ROWS = pl.DataFrame(
    {
        "fast": [1, 1, 2, 2, 1],
        "slow": [10, 20, 10, 20, 10],
        "short": [True, True, True, True, False],
        "sharpe_ratio": [1.0, 2.0, -1.0, float("nan"), 3.0],
    }
)


def test_a_sweep_is_drawn_over_two_names():
    (heat,) = figures.sweep_figure(ROWS, x="fast", y="slow", metric="sharpe_ratio").data
    assert (heat.x, heat.y) == (("1", "2"), ("10", "20"))
    assert [list(row) for row in heat.z] == [[2.0, -1.0], [2.0, None]]
    assert (heat.zmin, heat.zmax) == (-2.0, 2.0)
    figure = figures.sweep_figure(ROWS, x="fast", y="slow", metric="sharpe_ratio", reduce="max")
    assert figure.data[0].z[0][0] == 3.0
    assert "max of up to 2 rows a cell" in figure.layout.title.text
    with pytest.raises(ParameterError, match="reduce is 'best'; allowed: median, mean, max, min"):
        figures.sweep_figure(ROWS, x="fast", y="slow", metric="sharpe_ratio", reduce="best")
    with pytest.raises(MissingColumnError, match="lack medium"):
        figures.sweep_figure(ROWS, x="fast", y="medium", metric="sharpe_ratio")


def test_parallel_coordinates_show_every_finite_combination():
    (lines,) = figures.parallel_figure(ROWS, metric="sharpe_ratio", names=["fast", "short"]).data
    fast, short, metric = lines.dimensions
    assert metric.values == (-1.0, 1.0, 2.0, 3.0)
    assert fast.values == (2.0, 1.0, 1.0, 1.0)
    assert short.values == (1, 1, 1, 0)
    assert short.ticktext == ("False", "True")
    with pytest.raises(DataError, match="sharpe_ratio is a number in none of 1 rows"):
        figures.parallel_figure(ROWS[3:4], metric="sharpe_ratio", names=["fast"])


def test_of_very_many_combinations_the_worst_and_the_best_are_drawn():
    rows = pl.DataFrame({"window": range(10_000), "cagr": np.linspace(-1, 1, 10_000)})
    (lines,) = figures.parallel_figure(rows, metric="cagr", names=["window"]).data
    values = lines.dimensions[1].values
    assert len(values) == 3000
    assert (values[0], values[-1]) == (-1.0, 1.0)


def test_each_choice_of_a_walk_forward_test_is_marked(result):
    times = result.equity["timestamp"]
    folds = pl.DataFrame(
        {
            "fold": [0, 1],
            "test_from": [times[0], times[40]],
            "lookback": [5, 10],
            "speed": [0.5, 1 / 3],
            "train_cagr": [0.2, 0.3],
            "test_cagr": [0.1, None],
        }
    )
    walk = WalkForward(folds, result, "cagr", ("lookback", "speed"))
    assert walk.parameters == {"lookback": 10, "speed": 1 / 3}
    figure = figures.walk_forward_figure(walk)
    marks = figure.data[-1]
    assert marks.x == ("2020-01-01", "2020-02-10")
    assert marks.text[1] == "fold 1: lookback 10, speed 0.3333<br>cagr: train 0.3, test None"
    assert len(figure.layout.shapes) == 2


def test_all_paths_of_a_validation_are_drawn(result):
    path = result.equity.select("session", "timestamp", "equity", result.returns["return"])
    paths = pl.concat([path.select(pl.lit(number).alias("path"), pl.all()) for number in range(3)])
    metrics = pl.DataFrame({"path": [0, 1, 2], "cagr": [0.1, float("nan"), 0.3]})
    figure = figures.paths_figure(CrossValidation(pl.DataFrame(), paths, metrics, "cagr"), metric="cagr")
    assert [trace.type for trace in figure.data] == ["scatter"] * 3 + ["histogram"]
    assert figure.data[-1].x == (0.1, 0.3)
