"""Figures of sweeps: which combinations were good, and whether their neighbours were, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from quantflow.backtest import _drawing as draw
from quantflow.errors import DataError, ParameterError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["parallel_figure", "sweep_figure"]

_MOST_LINES = 3000
_LINES = [[0.0, "#d9e4f5"], [0.5, "#6a9bdc"], [1.0, "#0f2f66"]]


def sweep_figure(rows: pl.DataFrame, *, x: str, y: str, metric: str, reduce: str = "median") -> Figure:
    """Return a heat map of a metric over two swept names.

    Parameters
    ----------
    rows
        What :func:`~quantflow.backtest.sweep` returned.
    x, y
        Names of the grid.
    metric
        Column that is coloured.
    reduce
        What stands for all combinations, or symbols, that share both values: ``median``, ``mean``,
        ``max`` or ``min``. The median shows plateaus, which last; a maximum shows luck.

    Raises
    ------
    MissingColumnError
        A column is absent.
    ParameterError
        An unknown ``reduce``.
    """
    draw.needs(rows, "rows of the sweep", x, y, metric)
    ways = {"median": pl.Expr.median, "mean": pl.Expr.mean, "max": pl.Expr.max, "min": pl.Expr.min}
    if reduce not in ways:
        raise ParameterError(f"reduce is {reduce!r}; allowed: {', '.join(ways)}")
    # A value that is not finite would make the whole cell unknown.
    value = pl.when(pl.col(metric).cast(pl.Float64).is_finite()).then(pl.col(metric).cast(pl.Float64))
    cells = rows.group_by(x, y).agg(ways[reduce](value).alias("value"), pl.len().alias("count"))
    across, up = (rows[name].unique().sort(nulls_last=True).to_list() for name in (x, y))
    found = {(row[0], row[1]): row[2] for row in cells.iter_rows()}
    values = [[draw.rounded(found.get((column, row)), 5) for column in across] for row in up]
    number = ".2%" if metric in draw.PERCENT else ".3~g"
    known = [value for row in values for value in row if value is not None]
    both_signs = bool(known) and min(known) < 0.0 < max(known)
    largest = max((abs(value) for value in known), default=1.0)
    trace = {
        "type": "heatmap",
        "x": [str(value) for value in across],
        "y": [str(value) for value in up],
        "z": values,
        "colorscale": draw.DIVERGING if both_signs else draw.SEQUENTIAL,
        **({"zmin": -largest, "zmax": largest} if both_signs else {}),
        "colorbar": {"title": {"text": draw.label(metric)}, "tickformat": number, "thickness": 12, "outlinewidth": 0},
        "hoverongaps": False,
        "hovertemplate": f"{x} %{{x}}, {y} %{{y}}<br>{draw.label(metric)} %{{z:{number}}}<extra></extra>",
    }
    most = int(cells["count"].max() or 1)  # type: ignore[arg-type]
    note = f"{draw.label(metric)}, {reduce} of up to {most} rows a cell" if most > 1 else draw.label(metric)
    shape = draw.layout(
        height=max(300, min(720, 120 + 22 * len(up))),
        hovermode="closest",
        title={"text": note, "font": {"size": 13}, "x": 0.01},
        xaxis=draw.axis(type="category", title=x, showgrid=False),
        yaxis=draw.axis(type="category", title=y, showgrid=False),
    )
    return draw.figure([trace], shape)


def parallel_figure(rows: pl.DataFrame, *, metric: str, names: Sequence[str]) -> Figure:
    """Return parallel coordinates: a line a combination through its values, coloured by a metric.

    Parameters
    ----------
    rows
        What :func:`~quantflow.backtest.sweep` returned. Of more than 3,000 combinations, 3,000 are
        drawn, evenly spaced from the worst to the best.
    metric
        Column that colours; the last axis. Rows where it is not finite are left out.
    names
        Columns of the other axes: names of the grid, further metrics.
    """
    draw.needs(rows, "rows of the sweep", metric, *names)
    known = rows.filter(pl.col(metric).cast(pl.Float64).is_finite()).sort(metric)
    if known.is_empty():
        raise DataError(f"{metric} is a number in none of {rows.height} rows; draw another metric")
    if known.height > _MOST_LINES:
        step = (known.height - 1) / (_MOST_LINES - 1)
        known = known[[round(index * step) for index in range(_MOST_LINES)]]
    values = [draw.rounded(float(value)) for value in known[metric].to_list()]
    trace = {
        "type": "parcoords",
        "domain": {"x": [0.0, 0.95]},
        "dimensions": [_dimension(known[name]) for name in (*names, metric)],
        "line": {
            "color": values,
            "colorscale": _LINES if len(set(values)) > 1 else [[0.0, draw.STRATEGY], [1.0, draw.STRATEGY]],
            "showscale": True,
            "colorbar": {"title": {"text": draw.label(metric)}, "thickness": 12, "outlinewidth": 0},
        },
        "labelfont": {"size": 12},
    }
    return draw.figure([trace], draw.layout(height=420, margin={"l": 70, "r": 30, "t": 60, "b": 30}))


def _dimension(column: pl.Series) -> draw.Spec:
    numeric = column.dtype.is_numeric() and column.null_count() == 0
    if numeric:
        return {"label": draw.label(column.name), "values": [draw.rounded(float(value)) for value in column.to_list()]}
    # True, False, text and None: a tick each.
    texts = [str(value) for value in column.to_list()]
    known = sorted(set(texts))
    return {
        "label": draw.label(column.name),
        "values": [known.index(text) for text in texts],
        "tickvals": list(range(len(known))),
        "ticktext": known,
        "range": [-0.1, len(known) - 0.9],
    }
