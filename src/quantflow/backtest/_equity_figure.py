"""The figure of equity with its drawdown below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from quantflow.backtest import _drawing as draw

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["equity_figure"]


def equity_figure(equity: pl.DataFrame, *, log: bool = True) -> Figure:
    """Return equity over time, against the benchmark where there is one, with the drawdown below.

    Parameters
    ----------
    equity
        ``session``, ``equity``, ``drawdown`` (positive) and, if known, ``timestamp`` and ``benchmark``.
    log
        Equal ratios are equal distances.
    """
    draw.needs(equity, "equity", "session", "equity", "drawdown")
    lines = [name for name in ("equity", "benchmark") if name in equity.columns]
    # A logarithmic axis has no place for an equity that was lost.
    shown = equity.with_columns(pl.when(pl.col(name) > 0.0).then(pl.col(name)) for name in lines) if log else equity
    traces = []
    if "benchmark" in equity.columns:
        traces.append(draw.line(shown, "benchmark", "equal slots, bought and held", draw.BENCHMARK, width=1.3))
    traces.append(draw.line(shown, "equity", "strategy", draw.STRATEGY, width=1.9))
    return draw.figure([*traces, _fall(equity)], _two_panels(log))


def _fall(equity: pl.DataFrame) -> draw.Spec:
    below = equity.with_columns(-pl.col("drawdown"))
    trace = draw.line(below, "drawdown", "drawdown", draw.LOSS, width=1.1, number=".2%")
    return {**trace, "yaxis": "y2", "fill": "tozeroy", "fillcolor": "rgba(179,38,30,0.15)", "showlegend": False}


def _two_panels(log: bool) -> draw.Spec:
    scale = {"type": "log", "dtick": "D2"} if log else {"type": "linear"}
    return draw.layout(
        height=480,
        xaxis=draw.axis(type="date", anchor="y2"),
        yaxis=draw.axis(domain=[0.34, 1.0], title="equity (log)" if log else "equity", tickformat="~g", **scale),
        yaxis2=draw.axis(domain=[0.0, 0.28], title="below the peak", tickformat=".0%", rangemode="tozero"),
    )
