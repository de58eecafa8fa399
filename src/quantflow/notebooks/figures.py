"""The figures that notebook and report share: Plotly specifications, drawn alike everywhere.

``*_spec`` functions return plain dictionaries, which is all that a report needs;
:func:`equity_figure`, :func:`drawdown_figure`, :func:`exposure_figure` and
:func:`weights_figure` make Plotly figures of them for a notebook.

Long histories are thinned to what a screen can show: every bucket of neighbouring sessions
keeps its lowest and its highest value, so no peak or trough disappears.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "drawdown_figure",
    "drawdown_spec",
    "equity_figure",
    "equity_spec",
    "exposure_figure",
    "exposure_spec",
    "weights_figure",
    "weights_spec",
]

Spec = dict[str, Any]

STRATEGY = "#1f5fbf"
BENCHMARK = "#8b95a5"
LOSS = "#b3261e"
BASE = "#c3cbd6"
_GRID = "#e6eaf0"
_INK = "#1c2530"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
_DIVERGING = [[0.0, "#b3261e"], [0.5, "#ffffff"], [1.0, "#1f5fbf"]]
_MOST_POINTS = 1600
_MOST_COLUMNS = 160


def equity_spec(equity: pl.DataFrame) -> Spec:
    """Return equity over time against the benchmark, on a logarithmic axis.

    Parameters
    ----------
    equity
        ``session``, ``equity`` and, if known, ``benchmark``.
    """
    traces = []
    if "benchmark" in equity.columns:
        traces.append(_line(equity, "benchmark", "equal slots, bought and held", BENCHMARK, width=1.4))
    traces.append(_line(equity, "equity", "strategy", STRATEGY, width=2))
    layout = _layout(height=360) | {
        "yaxis": _axis(type="log", title="equity, start = 1 (log)", tickformat="~g", dtick="D2", minor={"ticks": ""}),
        "xaxis": _axis(type="date"),
        "legend": {"orientation": "h", "x": 0, "y": 1.1, "yanchor": "bottom"},
    }
    return {"data": traces, "layout": layout}


def drawdown_spec(equity: pl.DataFrame) -> Spec:
    """Return the fall from the highest equity so far over time; ``session`` and ``drawdown`` (positive)."""
    below = equity.select("session", (-pl.col("drawdown")).alias("drawdown"))
    trace = _line(below, "drawdown", "drawdown", LOSS, width=1.2)
    trace |= {
        "fill": "tozeroy",
        "fillcolor": "rgba(179,38,30,0.15)",
        "hovertemplate": "%{y:.2%}<extra>drawdown</extra>",
    }
    layout = _layout(height=230) | {
        "yaxis": _axis(tickformat=".0%", title="below the peak", rangemode="tozero"),
        "xaxis": _axis(type="date"),
        "showlegend": False,
    }
    return {"data": [trace], "layout": layout}


def exposure_spec(exposures: pl.DataFrame, *, sessions: int = 756) -> Spec:
    """Return a heat map of each symbol's exposure over the last sessions: blue long, red short.

    Parameters
    ----------
    exposures
        ``symbol``, ``session``, ``exposure`` (fraction of the symbol's slot).
    sessions
        How many of the last sessions are shown.
    """
    shown = exposures["session"].unique().sort().tail(sessions)
    step = max(1, -(-len(shown) // _MOST_COLUMNS))
    # Counted from the end, so that the newest session is always a column.
    kept = shown.reverse().gather_every(step).reverse()
    wide = (
        exposures.filter(pl.col("session").is_in(kept.implode()))
        .pivot(on="session", index="symbol", values="exposure", aggregate_function="last")
        .sort("symbol", descending=True)
    )
    columns = [str(session) for session in kept.to_list()]
    rows = wide.select([name for name in columns if name in wide.columns])
    trace = {
        "type": "heatmap",
        "x": list(rows.columns),
        "y": wide["symbol"].to_list(),
        "z": [[_rounded(value, 3) for value in row] for row in rows.iter_rows()],
        "zmin": -1,
        "zmax": 1,
        "colorscale": _DIVERGING,
        "xgap": 0,
        "ygap": 1,
        "colorbar": {"tickformat": ".0%", "thickness": 12, "outlinewidth": 0, "dtick": 0.5},
        "hovertemplate": "%{y} %{x}<br>%{z:.1%} of its slot<extra></extra>",
    }
    layout = _layout(height=max(220, 90 + 19 * wide.height)) | {
        "xaxis": _axis(type="date"),
        "yaxis": {**_axis(showgrid=False, type="category", dtick=1), "automargin": True},
        "hovermode": "closest",
    }
    return {"data": [trace], "layout": layout}


def weights_spec(base: Mapping[str, float], final: Mapping[str, float] | None, *, names: tuple[str, str]) -> Spec:
    """Return bars of each symbol's weight: what the signal asked for, and what it became.

    Parameters
    ----------
    base, final
        Signed fractions of equity by symbol; ``final`` None: only ``base`` is drawn.
    names
        What the two are called in the legend.
    """
    symbols = sorted({symbol for part in (base, final or {}) for symbol, weight in part.items() if weight != 0.0})
    series = [(names[0], base, BASE if final is not None else STRATEGY)]
    if final is not None:
        series.append((names[1], final, STRATEGY))
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": symbols,
            "y": [_rounded(weights.get(symbol, 0.0), 6) for symbol in symbols],
            "marker": {"color": colour},
            "hovertemplate": "%{x}: %{y:.2%}<extra>" + name + "</extra>",
        }
        for name, weights, colour in series
    ]
    layout = _layout(height=300) | {
        "barmode": "group",
        "bargap": 0.25,
        "yaxis": _axis(tickformat=".1%", title="weight, of equity"),
        "xaxis": {**_axis(showgrid=False, type="category", dtick=1), "tickangle": -45 if len(symbols) > 12 else 0},
        "legend": {"orientation": "h", "x": 0, "y": 1.1, "yanchor": "bottom"},
        "hovermode": "closest",
    }
    return {"data": traces, "layout": layout}


def equity_figure(equity: pl.DataFrame) -> Figure:
    """Return :func:`equity_spec` as a Plotly figure."""
    return _figure(equity_spec(equity))


def drawdown_figure(equity: pl.DataFrame) -> Figure:
    """Return :func:`drawdown_spec` as a Plotly figure."""
    return _figure(drawdown_spec(equity))


def exposure_figure(exposures: pl.DataFrame, *, sessions: int = 756) -> Figure:
    """Return :func:`exposure_spec` as a Plotly figure."""
    return _figure(exposure_spec(exposures, sessions=sessions))


def weights_figure(weights: Mapping[str, float], *, name: str = "the signal's weight") -> Figure:
    """Return :func:`weights_spec` of one set of weights as a Plotly figure."""
    return _figure(weights_spec(weights, None, names=(name, "")))


def _figure(spec: Spec) -> Figure:
    import plotly.graph_objects as go

    return go.Figure(spec)


def _line(frame: pl.DataFrame, column: str, name: str, colour: str, *, width: float) -> Spec:
    shown = _thinned(frame.select("session", column).drop_nulls(), column)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [str(session) for session in shown["session"].to_list()],
        "y": [_rounded(value, 6) for value in shown[column].to_list()],
        "line": {"color": colour, "width": width},
        "hovertemplate": "%{y:.3f}<extra>" + name + "</extra>",
    }


def _thinned(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    if frame.height <= _MOST_POINTS:
        return frame
    bucket = -(-frame.height // (_MOST_POINTS // 2))
    indexed = frame.with_row_index("row").with_columns((pl.col("row") // bucket).alias("bucket"))
    extremes = indexed.group_by("bucket").agg(
        pl.col("row").get(pl.col(column).arg_min()).alias("low"),
        pl.col("row").get(pl.col(column).arg_max()).alias("high"),
    )
    kept = pl.concat([extremes["low"], extremes["high"], pl.Series([0, frame.height - 1], dtype=pl.get_index_type())])
    return frame[kept.unique().sort().to_list()]


def _rounded(value: float | None, digits: int) -> float | None:
    """Six significant digits are more than a screen shows; the page stays small."""
    return None if value is None else float(f"{value:.{digits}g}")


def _axis(**values: Any) -> Spec:
    title = values.pop("title", None)
    axis: Spec = {"gridcolor": _GRID, "zerolinecolor": "#b8c0cc", "linecolor": "#b8c0cc", "automargin": True, **values}
    if title is not None:
        axis["title"] = {"text": title, "font": {"size": 12}}
    return axis


def _layout(*, height: int) -> Spec:
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 56, "r": 16, "t": 24, "b": 40},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": _FONT, "size": 12, "color": _INK},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": _GRID},
    }
