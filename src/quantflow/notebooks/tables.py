"""Tables of a notebook to read: figures with their names, units and rounding, nothing cut off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

__all__ = ["METRICS", "Table", "bars_table", "format_metric", "metrics_table", "risk_table"]


@dataclass(frozen=True)
class Table:
    """Rows of text under column names; shows itself in a notebook, in full."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [_padded(row, widths) for row in (self.columns, *self.rows)]
        return "\n".join(lines)


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def bars_table(bars: pl.DataFrame) -> Table:
    """Return what a frame of bars holds, a row a symbol."""
    import polars as pl

    symbols = (
        bars.group_by("symbol")
        .agg(
            pl.len().alias("bars"),
            pl.col("session").min().alias("first"),
            pl.col("session").max().alias("last"),
            pl.col("close").sort_by("session").last().alias("close"),
            pl.col("adjustment").unique().sort().str.join(", "),
            pl.col("source").unique().sort().str.join(", "),
        )
        .sort("symbol")
    )
    rows = [
        (symbol, f"{count:,}", str(first), str(last), f"{close:,.2f}", adjustment.replace("_", " "), source)
        for symbol, count, first, last, close, adjustment, source in symbols.iter_rows()
    ]
    columns = ("symbol", "bars", "first session", "last session", "last close", "adjusted for", "source")
    return Table(columns, tuple(rows))


#: Metrics in reading order: (label, unit). Units: percent, ratio, count, times (of equity a year).
METRICS: Mapping[str, tuple[str, str]] = {
    "total_return": ("Total return", "percent"),
    "cagr": ("Return a year (CAGR)", "percent"),
    "volatility": ("Volatility a year", "percent"),
    "sharpe_ratio": ("Sharpe ratio", "ratio"),
    "probabilistic_sharpe": ("Probability of a Sharpe ratio above 0", "percent"),
    "sortino_ratio": ("Sortino ratio", "ratio"),
    "calmar_ratio": ("Calmar ratio", "ratio"),
    "omega_ratio": ("Omega ratio", "ratio"),
    "information_ratio": ("Information ratio, against the benchmark", "ratio"),
    "max_drawdown": ("Maximum drawdown", "percent"),
    "max_drawdown_duration": ("Its length, peak to recovery", "count"),
    "longest_drawdown": ("Most sessions below a peak", "count"),
    "value_at_risk": ("Value at risk, one session, 95%", "percent"),
    "cvar": ("CVaR, one session, 95%", "percent"),
    "tail_ratio": ("Tail ratio, 95% over 5%", "ratio"),
    "skew": ("Skewness", "ratio"),
    "kurtosis": ("Kurtosis, normal is 3", "ratio"),
    "hit_rate": ("Sessions with a gain", "percent"),
    "exposure": ("Mean gross exposure", "percent"),
    "time_in_market": ("Sessions with a holding", "percent"),
    "trades": ("Round trips closed", "count"),
    "win_rate": ("Round trips with a profit", "percent"),
    "profit_factor": ("Profit factor", "ratio"),
    "expectancy": ("Mean profit of a round trip, of initial equity", "percent"),
    "turnover": ("Turnover a year, of equity", "times"),
    "cost": ("Costs a year, of equity", "percent"),
    "costs_paid": ("Costs paid in all, of initial equity", "percent"),
    "periods": ("Sessions", "count"),
    "periods_per_year": ("Sessions in a year", "count"),
    "risk_free_rate": ("Risk-free rate a year", "percent"),
}


def format_metric(name: str, value: float | None) -> str:
    """Return a metric as a person reads it: percent with two decimals, never a raw float."""
    if value is None or not math.isfinite(value):
        return "n/a"
    unit = METRICS.get(name, ("", "ratio"))[1]
    return {
        "percent": f"{value:.2%}",
        "ratio": f"{value:.2f}",
        "times": f"{value:.2f}x",
        "count": f"{value:,.0f}",
    }[unit]


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """Return the figures of a backtest."""
    names = [*(name for name in METRICS if name in metrics), *(name for name in metrics if name not in METRICS)]
    rows = [(METRICS[name][0] if name in METRICS else name, format_metric(name, metrics[name])) for name in names]
    return Table(("figure", "value"), tuple(rows))


def risk_table(returns: pl.DataFrame, weights: Mapping[str, float], *, level: float = 0.95) -> Table:
    """Return the risk of holding these weights through the whole history.

    Parameters
    ----------
    returns
        ``session`` and simple returns, a column a symbol; sessions with a gap are left out.
    weights
        Signed fractions of equity; symbols without a column have no part in it.
    level
        Confidence level of value at risk and CVaR.
    """
    from quantflow.risk import cvar, max_drawdown, value_at_risk, volatility

    held = [symbol for symbol, weight in weights.items() if weight and symbol in returns.columns]
    gross = sum(abs(weight) for weight in weights.values())
    rows = [("Gross exposure", f"{gross:.2%}"), ("Net exposure", f"{sum(weights.values()):.2%}")]
    history = returns.select(held).drop_nulls()
    if held and history.height >= 2:
        portfolio = (history.to_numpy() * [weights[symbol] for symbol in held]).sum(axis=1)
        historical, parametric = (
            value_at_risk(portfolio, level, method=method) for method in ("historical", "parametric")
        )
        rows += [
            (f"Value at risk, one session, {level:.0%}, historical", f"{historical:.2%}"),
            (f"Value at risk, one session, {level:.0%}, parametric", f"{parametric:.2%}"),
            (f"CVaR, one session, {level:.0%}, historical", f"{cvar(portfolio, level):.2%}"),
            ("Volatility a year", f"{volatility(portfolio, periods_per_year=252):.2%}"),
            ("Maximum drawdown", f"{max_drawdown(portfolio):.2%}"),
            ("Sessions of history", f"{history.height:,}"),
        ]
    return Table(("measure", "value"), tuple(rows))
