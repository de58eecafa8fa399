"""Plotly figures of backtests, sweeps and validations.

Each takes the frames that :func:`~quantflow.backtest.backtest`, :func:`~quantflow.backtest.sweep` and the
validations return, and gives a ``plotly.graph_objects.Figure`` that needs no network:
``figure.write_html("equity.html")`` carries everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from quantflow.backtest import _drawing as draw
from quantflow.backtest._equity_figure import equity_figure
from quantflow.backtest._sweep_figures import parallel_figure, sweep_figure
from quantflow.backtest._trades import round_trips
from quantflow.backtest._validation_figures import paths_figure, walk_forward_figure
from quantflow.backtest.metrics import rolling_sharpe_ratio
from quantflow.errors import DataError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "equity_figure",
    "exposure_figure",
    "monthly_figure",
    "monthly_returns",
    "parallel_figure",
    "paths_figure",
    "rolling_sharpe_figure",
    "sweep_figure",
    "trades_figure",
    "walk_forward_figure",
]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MOST_TRIPS = 400
_STOPS = ("stop_loss", "take_profit", "trailing_stop", "ruin")


def monthly_returns(returns: pl.DataFrame) -> pl.DataFrame:
    """Return compounded returns, a row a year: ``year``, ``Jan`` to ``Dec`` (null without sessions), ``Year``.

    Parameters
    ----------
    returns
        ``session`` and ``return`` per period, fractions.
    """
    draw.needs(returns, "returns", "session", "return")
    dated = returns.select(
        pl.col("session").dt.year().alias("year"), pl.col("session").dt.month().alias("month"), pl.col("return") + 1.0
    )
    grown = pl.col("return").product() - 1.0
    years = dated.group_by("year").agg(grown.alias("Year"))
    months = (
        dated.group_by("year", "month")
        .agg(grown)
        .with_columns(pl.col("month").replace_strict(dict(enumerate(_MONTHS, 1)), return_dtype=pl.String))
    )
    wide = months.pivot(on="month", index="year", values="return")
    absent = [pl.lit(None, dtype=pl.Float64).alias(name) for name in _MONTHS if name not in wide.columns]
    return wide.with_columns(absent).join(years, on="year").select("year", *_MONTHS, "Year").sort("year")


def monthly_figure(returns: pl.DataFrame) -> Figure:
    """Return a table of monthly and yearly returns, coloured by gain and loss; ``session`` and ``return``."""
    table = monthly_returns(returns)
    years = [str(year) for year in table["year"].to_list()]
    columns = (*_MONTHS, "Year")
    values = [[draw.rounded(value, 4) for value in row[1:]] for row in table.iter_rows()]
    largest = max((abs(value) for row in values for value in row[:-1] if value is not None), default=0.0)
    trace = {
        "type": "heatmap",
        "x": list(columns),
        "y": years,
        "z": values,
        "text": [["" if value is None else f"{round(value, 3) + 0.0:.1%}" for value in row] for row in values],
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "zmin": -largest or -1.0,
        "zmax": largest or 1.0,
        "colorscale": draw.DIVERGING,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "%{x} %{y}: %{z:.2%}<extra></extra>",
    }
    shape = draw.layout(
        height=max(150, 80 + 26 * len(years)),
        hovermode="closest",
        margin={"l": 60, "r": 20, "t": 50, "b": 20},
        xaxis=draw.axis(type="category", side="top", showgrid=False, fixedrange=True),
        yaxis=draw.axis(type="category", autorange="reversed", showgrid=False, fixedrange=True),
    )
    return draw.figure([trace], shape)


def rolling_sharpe_figure(
    returns: pl.DataFrame, *, window: int, periods_per_year: float, risk_free_rate: float
) -> Figure:
    """Return the yearly Sharpe ratio of the last ``window`` periods over time.

    Parameters
    ----------
    returns
        ``session`` and ``return`` per period; ``timestamp`` if known.
    window
        Periods, the current one included.
    """
    draw.needs(returns, "returns", "session", "return")
    ratio = rolling_sharpe_ratio(
        returns["return"].to_numpy(), window=window, periods_per_year=periods_per_year, risk_free_rate=risk_free_rate
    )
    name = f"Sharpe ratio of {window} periods"
    trace = draw.line(returns.with_columns(ratio=ratio), "ratio", name, draw.STRATEGY, number=".2f")
    shape = draw.layout(
        height=300,
        xaxis=draw.axis(type="date"),
        yaxis=draw.axis(title=f"{name}, a year", zeroline=True, zerolinewidth=1.5),
        showlegend=False,
    )
    return draw.figure([trace], shape)


def exposure_figure(weights: pl.DataFrame) -> Figure:
    """Return what is held over time, of equity: long and short as areas, net and gross as lines.

    Parameters
    ----------
    weights
        ``session``, ``timestamp`` if known, and a column a symbol: signed fractions of equity.
    """
    draw.needs(weights, "weights", "session")
    symbols = [name for name in weights.columns if name not in ("session", "timestamp")]
    if not symbols:
        raise DataError("weights have no column of a symbol; give the frame of a backtest with symbols")
    held = weights.select(
        pl.col("^session|timestamp$"),
        pl.sum_horizontal(pl.col(symbols).clip(lower_bound=0.0)).alias("long"),
        pl.sum_horizontal(pl.col(symbols).clip(upper_bound=0.0)).alias("short"),
    ).with_columns(gross=pl.col("long") - pl.col("short"), net=pl.col("long") + pl.col("short"))
    areas = []
    for name, colour, fill in (
        ("long", draw.GAIN, "rgba(27,127,77,0.18)"),
        ("short", draw.LOSS, "rgba(179,38,30,0.18)"),
    ):
        trace = draw.line(held, name, name, colour, width=0.8, number=".1%")
        areas.append({**trace, "fill": "tozeroy", "fillcolor": fill})
    lines = [
        {**draw.line(held, "gross", "gross", draw.BENCHMARK, width=1.2, number=".1%"), "visible": "legendonly"},
        draw.line(held, "net", "net", draw.STRATEGY, width=1.6, number=".1%"),
    ]
    shape = draw.layout(
        height=300, xaxis=draw.axis(type="date"), yaxis=draw.axis(title="held, of equity", tickformat=".0%")
    )
    return draw.figure([*areas, *lines], shape)


def trades_figure(bars: pl.DataFrame, orders: pl.DataFrame, *, symbol: str) -> Figure:
    """Return a symbol's orders on its price: where it bought and sold, why, and what each round trip earned.

    Parameters
    ----------
    bars
        ``symbol``, ``session``, ``timestamp``, ``close``.
    orders
        As in :class:`~quantflow.backtest.BacktestResult`. Prices are drawn as they were executed.
    symbol
        Which one.

    Raises
    ------
    DataError
        There is no bar of the symbol.
    """
    draw.needs(bars, "bars", "symbol", "session", "timestamp", "close")
    price = bars.filter(pl.col("symbol") == symbol).sort("timestamp")
    if price.is_empty():
        raise DataError(f"no bars of {symbol!r}; there are: {', '.join(sorted(bars['symbol'].unique()))}")
    mine = orders.filter(pl.col("symbol") == symbol)
    traces = [draw.line(price, "close", symbol, draw.BENCHMARK, width=1.3, number=".2f")]
    intraday = draw.is_intraday(price)
    trips = round_trips(mine)
    places = dict(mine.select("timestamp", "session").unique("timestamp").iter_rows())
    shown = trips.drop_nulls("exit_timestamp").tail(_MOST_TRIPS)
    for won, colour in ((True, draw.GAIN), (False, draw.LOSS)):
        traces.append(_trip_lines(shown.filter((pl.col("pnl") > 0.0) == won), places, won, colour, intraday))
    traces += [_markers(mine, side, intraday) for side in ("buy", "sell")]
    shape = draw.layout(
        height=420,
        hovermode="closest",
        xaxis=draw.axis(type="date"),
        yaxis=draw.axis(title=f"{symbol}, price", tickformat="~g"),
    )
    return draw.figure(traces, shape)


def _trip_lines(trips: pl.DataFrame, places: Any, won: bool, colour: str, intraday: bool) -> draw.Spec:
    x: list[str | None] = []
    y: list[float | None] = []
    for trip in trips.iter_rows(named=True):
        ends = (trip["entry_timestamp"], trip["exit_timestamp"])
        x += [*(_place(end, places[end], intraday) for end in ends), None]
        y += [draw.rounded(trip["entry_price"]), draw.rounded(trip["exit_price"]), None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "round trips with a profit" if won else "with a loss",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 1.4, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _markers(orders: pl.DataFrame, side: str, intraday: bool) -> draw.Spec:
    chosen = orders.filter(pl.col("side") == side)
    rows = list(chosen.iter_rows(named=True))
    buys = side == "buy"
    stopped = [row.get("reason") in _STOPS for row in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{side} ({len(rows)})",
        "x": [_place(row["timestamp"], row["session"], intraday) for row in rows],
        "y": [draw.rounded(row["price"]) for row in rows],
        "text": [_order_text(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": ["x" if stop else ("triangle-up" if buys else "triangle-down") for stop in stopped],
            "size": 9,
            "color": draw.GAIN if buys else draw.LOSS,
            "line": {"width": 0.8, "color": "#ffffff"},
        },
    }


def _order_text(row: dict[str, Any]) -> str:
    costs = row["fee"] + row["slippage"]
    reason = f"<br>{str(row['reason']).replace('_', ' ')}" if row.get("reason") else ""
    limited = f", limited by {row['limited_by']}" if row.get("limited_by") else ""
    what = f"{row['session']}: {row['side']} {row['shares']:,.4g} at {row['price']:,.4g}"
    return f"{what}{reason}{limited}<br>costs {costs:,.4g}"


def _place(moment: Any, session: Any, intraday: bool) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S") if intraday else str(session)
