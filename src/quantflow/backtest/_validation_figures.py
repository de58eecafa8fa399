"""Figures of validations: what choices earned on bars that they were not made on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from quantflow.backtest import _drawing as draw
from quantflow.backtest._equity_figure import equity_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from quantflow.backtest.validation import CrossValidation, WalkForward

__all__ = ["paths_figure", "walk_forward_figure"]


def walk_forward_figure(walk: WalkForward) -> Figure:
    """Return the out-of-sample equity of a walk-forward test; a mark where each fold's choice begins says it."""
    figure = equity_figure(walk.result.equity)
    equity = walk.result.equity
    begins = equity.join(walk.folds.select(pl.col("test_from").alias("timestamp"), "fold"), on="timestamp").sort("fold")
    where = draw.moments(begins, intraday=draw.is_intraday(equity))
    marks = {
        "type": "scatter",
        "mode": "markers",
        "name": "a new choice",
        "x": where,
        "y": [draw.rounded(value) for value in begins["equity"].to_list()],
        "text": [_choice(row, walk) for row in walk.folds.iter_rows(named=True)],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": draw.STRATEGY, "size": 8, "line": {"color": "#ffffff", "width": 1.5}},
    }
    figure.add_trace(marks)
    figure.update_layout(shapes=[_upright(moment) for moment in where])
    return figure


def _choice(row: dict[str, Any], walk: WalkForward) -> str:
    chosen = ", ".join(f"{name} {_short(row[name])}" for name in walk.parameters)
    scores = (f"{part} {_short(row[f'{part}_{walk.objective}'])}" for part in ("train", "test"))
    return f"fold {row['fold']}: {chosen}<br>{draw.label(walk.objective)}: {', '.join(scores)}"


def _upright(moment: str) -> draw.Spec:
    line = {"color": "#c3cbd6", "width": 1, "dash": "dot"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": moment, "x1": moment, "y0": 0, "y1": 1, "line": line}


def paths_figure(validation: CrossValidation, *, metric: str = "sharpe_ratio") -> Figure:
    """Return the equity of every path of a cross-validation, and how a metric spreads over the paths."""
    draw.needs(validation.metrics, "metrics of the paths", metric)
    traces = []
    for (number,), path in validation.paths.group_by("path", maintain_order=True):
        trace = draw.line(path, "equity", f"path {number}", draw.STRATEGY, width=1.0)
        traces.append({**trace, "opacity": 0.45, "showlegend": False})
    values = [draw.rounded(value) for value in validation.metrics[metric].fill_nan(None).drop_nulls().to_list()]
    traces.append(
        {
            "type": "histogram",
            "x": values,
            "xaxis": "x2",
            "yaxis": "y2",
            "marker": {"color": draw.STRATEGY},
            "showlegend": False,
            "hovertemplate": "%{x}: %{y} paths<extra></extra>",
        }
    )
    shape = draw.layout(
        height=420,
        hovermode="closest",
        xaxis=draw.axis(type="date", domain=[0.0, 0.64]),
        yaxis=draw.axis(title="equity of each path (log)", type="log", tickformat="~g", dtick="D2"),
        xaxis2=draw.axis(
            domain=[0.74, 1.0],
            anchor="y2",
            title=draw.label(metric),
            tickformat=".0%" if metric in draw.PERCENT else "~g",
        ),
        yaxis2=draw.axis(anchor="x2", title="paths", dtick=1 if len(values) < 12 else None),
        bargap=0.06,
    )
    return draw.figure(traces, shape)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
