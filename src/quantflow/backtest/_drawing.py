"""How figures look: colours, axes, lines that stay light however long the history is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from quantflow.errors import MissingColumnError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "BENCHMARK",
    "DIVERGING",
    "GAIN",
    "INK",
    "LOSS",
    "PERCENT",
    "SEQUENTIAL",
    "STRATEGY",
    "Spec",
    "axis",
    "figure",
    "is_intraday",
    "label",
    "layout",
    "line",
    "moments",
    "needs",
    "rounded",
    "thinned",
]

Spec = dict[str, Any]

STRATEGY = "#1f5fbf"
BENCHMARK = "#8b95a5"
LOSS = "#b3261e"
GAIN = "#1b7f4d"
INK = "#1c2530"
DIVERGING = [[0.0, "#b3261e"], [0.5, "#ffffff"], [1.0, "#1b7f4d"]]
SEQUENTIAL = [[0.0, "#f3f6fb"], [0.35, "#a9c4ea"], [0.7, "#3f78c7"], [1.0, "#0f2f66"]]
#: Metrics that are read as percents.
PERCENT = ("total_return", "cagr", "volatility", "max_drawdown", "hit_rate", "exposure", "cost", "win_rate")
_GRID = "#e6eaf0"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
_MOST_POINTS = 1600


def figure(traces: list[Spec], shape: Spec) -> Figure:
    """Return a Plotly figure of traces and a layout."""
    import plotly.graph_objects as go

    # Without Plotly's own template: it is 7 kB in every figure, and all of it is set here.
    return go.Figure({"data": traces, "layout": {"template": {}, **shape}})


def line(frame: pl.DataFrame, column: str, name: str, colour: str, *, width: float = 1.6, number: str = ".3f") -> Spec:
    """Return a line of a column over the frame's rows in time."""
    shown = thinned(frame, column)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": moments(shown, intraday=is_intraday(frame)),
        "y": [rounded(value) for value in shown[column].to_list()],
        "line": {"color": colour, "width": width},
        "hovertemplate": f"%{{y:{number}}}<extra>{name}</extra>",
    }


def is_intraday(frame: pl.DataFrame) -> bool:
    """Tell whether a session has several rows, so that only timestamps tell them apart."""
    return "timestamp" in frame.columns and not frame["session"].is_unique().all()


def moments(frame: pl.DataFrame, *, intraday: bool) -> list[str]:
    """Return where rows lie on an axis of dates: their timestamps, or their sessions."""
    if intraday:
        return frame["timestamp"].dt.strftime("%Y-%m-%d %H:%M:%S").to_list()
    return [str(session) for session in frame["session"].to_list()]


def thinned(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return at most about 1,600 rows that are a number: of neighbours the lowest and the highest stay."""
    known = frame.filter(pl.col(column).is_finite())
    if known.height <= _MOST_POINTS:
        return known
    bucket = -(-known.height // (_MOST_POINTS // 2))
    indexed = known.with_row_index("row").with_columns((pl.col("row") // bucket).alias("bucket"))
    extremes = indexed.group_by("bucket").agg(
        pl.col("row").get(pl.col(column).arg_min()).alias("low"),
        pl.col("row").get(pl.col(column).arg_max()).alias("high"),
    )
    ends = pl.Series([0, known.height - 1], dtype=pl.get_index_type())
    return known[pl.concat([extremes["low"], extremes["high"], ends]).unique().sort().to_list()]


def rounded(value: float | None, digits: int = 6) -> float | None:
    """Return what a screen can show of a number."""
    return None if value is None else float(f"{value:.{digits}g}")


def needs(frame: pl.DataFrame, what: str, *columns: str) -> None:
    """Refuse a frame that lacks columns.

    Raises
    ------
    MissingColumnError
        Names them, and what it has.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise MissingColumnError(f"{what} lack {', '.join(missing)}; they have: {', '.join(frame.columns) or 'none'}")


def axis(**values: Any) -> Spec:
    """Return an axis; ``title`` is a text."""
    title = values.pop("title", None)
    spec: Spec = {"gridcolor": _GRID, "zerolinecolor": "#b8c0cc", "linecolor": "#b8c0cc", "automargin": True, **values}
    if title is not None:
        spec["title"] = {"text": title, "font": {"size": 12}}
    return spec


def layout(*, height: int, **values: Any) -> Spec:
    """Return a layout."""
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 60, "r": 20, "t": 36, "b": 40},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": _FONT, "size": 12, "color": INK},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": _GRID},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        **values,
    }


def label(name: str) -> str:
    """Return a column's name as words."""
    return name.replace("_", " ")
