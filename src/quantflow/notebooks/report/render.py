"""The page itself: Jinja2 with autoescape, figures drawn by the one inlined plotly.js."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.notebooks import figures
from quantflow.notebooks.page import content_security_policy, figure_scripts, figure_slot
from quantflow.notebooks.report.model import RunReport
from quantflow.notebooks.tables import METRICS, format_metric

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_report"]

_TEMPLATES = Path(__file__).parent.parent / "templates" / "report"

#: The strip of key figures at the top.
_KEY_FIGURES = ("cagr", "volatility", "sharpe_ratio", "max_drawdown", "value_at_risk", "turnover")
#: Findings whose value and limit are fractions of equity; others are counts.
_FRACTIONS = frozenset({"position", "gross", "value_at_risk", "cvar", "volatility", "max_drawdown"})
_MEASURES = {
    "position": "Largest position",
    "gross": "Gross exposure",
    "value_at_risk": "Value at risk, one session",
    "cvar": "CVaR, one session",
    "volatility": "Volatility a year",
    "max_drawdown": "Maximum drawdown",
}
_SMALLEST_SHOWN = 5e-7


def render_report(report: RunReport) -> str:
    """Return the report as one HTML page that opens from a file, prints, and fetches nothing.

    Parts that the run does not have (no analysis, no decision, a failed notebook) are said to
    be missing, never filled in.
    """
    shown = _figures(report)
    has_figures = any(shown.values())
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            headline=_headline(report),
            key_figures=_key_figures(report),
            other_figures=_other_figures(report),
            weights=_weight_rows(report),
            figures=shown,
            policy=content_security_policy(figures=has_figures),
            scripts=figure_scripts() if has_figures else "",
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "moment": _moment,
        "finding": _finding_value,
        # A finding's message repeats value and limit, which stand beside it, before its colon.
        "consequence": lambda message: message.partition(": ")[2] or message,
        "measure": lambda name: _MEASURES.get(name, name.replace("_", " ").capitalize()),
        "words": lambda name: name.replace("_", " "),
        "plain": _plain,
        "fact": lambda value: f"{value:,}" if type(value) is int else _plain(value),
        "sure": lambda value: f"{value:.0%}",
        "count": lambda value: "n/a" if value is None else f"{value:,}",
        "seconds": lambda value: f"{value:,.1f} s",
    }
    return environment


def _headline(report: RunReport) -> dict[str, str]:
    """Return the page's first words: what was decided, or why nothing was."""
    decision, run = report.decision, report.run
    if decision is not None:
        meaning = {
            "HOLD": "Nothing changes: what is held stays as it is.",
            "FLAT": "Nothing is to be held.",
        }.get(decision.action, f"{len(_held(decision.weights))} positions, {_gross(decision.weights)} of equity.")
        return {"word": decision.action, "tone": decision.action.lower(), "meaning": meaning, "reason": decision.reason}
    if run.error is not None:
        return {
            "word": "NO DECISION",
            "tone": "none",
            "meaning": f"The run failed: {run.error.kind}.",
            "reason": run.error.message,
        }
    if report.proposal is not None:
        why = "no approval was given" if report.approval is None else "the approval was refused or did not fit"
        return {
            "word": "NO DECISION",
            "tone": "none",
            "meaning": f"A proposal was made ({report.proposal.action}), but {why}.",
            "reason": report.proposal.reason,
        }
    return {"word": "NO DECISION", "tone": "none", "meaning": "No analysis was made of this run.", "reason": ""}


def _key_figures(report: RunReport) -> list[tuple[str, str]]:
    metrics = report.metrics or {}
    return [(METRICS[name][0], format_metric(name, metrics[name])) for name in _KEY_FIGURES if name in metrics]


def _other_figures(report: RunReport) -> list[tuple[str, str]]:
    metrics = report.metrics or {}
    rest = [name for name in [*METRICS, *(name for name in metrics if name not in METRICS)] if name in metrics]
    return [
        (
            METRICS[name][0] if name in METRICS else name.replace("_", " ").capitalize(),
            format_metric(name, metrics[name]),
        )
        for name in rest
        if name not in _KEY_FIGURES
    ]


def _weight_rows(report: RunReport) -> list[dict[str, Any]]:
    """Return a row a symbol with any weight: the signal's, the proposal's, the decision's."""
    base = _base(report)
    proposed = report.proposal.weights if report.proposal else {}
    judged = report.verdict.weights if report.verdict else {}
    decided = report.decision.weights if report.decision else {}
    symbols = sorted({symbol for part in (base, proposed, judged, decided) for symbol in _held(part)})
    return [
        {
            "symbol": symbol,
            "base": base.get(symbol),
            "proposed": proposed.get(symbol),
            "judged": judged.get(symbol),
            "decided": decided.get(symbol),
        }
        for symbol in symbols
    ]


def _base(report: RunReport) -> Mapping[str, float]:
    if report.proposal is not None:
        return report.proposal.base_weights
    return report.target_weights or {}


def _figures(report: RunReport) -> dict[str, str]:
    slots: dict[str, str] = {"weights": "", "equity": "", "drawdown": "", "exposures": ""}
    base, decided = _base(report), (report.decision.weights if report.decision else None)
    if _held(base) or _held(decided or {}):
        spec = figures.weights_spec(base, decided or None, names=("what the signal asks for", "what was decided"))
        slots["weights"] = figure_slot(spec)
    if report.equity is not None and report.equity.height:
        slots["equity"] = figure_slot(figures.equity_spec(report.equity))
        slots["drawdown"] = figure_slot(figures.drawdown_spec(report.equity))
    if report.exposures is not None and report.exposures.height:
        slots["exposures"] = figure_slot(figures.exposure_spec(report.exposures))
    return slots


def _held(weights: Mapping[str, float]) -> dict[str, float]:
    return {symbol: weight for symbol, weight in weights.items() if abs(weight) > _SMALLEST_SHOWN}


def _gross(weights: Mapping[str, float]) -> str:
    return f"{sum(abs(weight) for weight in weights.values()):.2%}"


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{0.0 if abs(value) <= _SMALLEST_SHOWN else value:.2%}"


def _moment(value: datetime | date | None) -> str:
    if value is None:
        return "–"
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else f"{value:%Y-%m-%d}"


def _finding_value(value: float, measure: str) -> str:
    return _percent(value) if measure in _FRACTIONS else f"{value:,.6g}"


def _plain(value: Any) -> str:
    """Return a parameter's or fact's value as a person writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, int):
        return str(value)
    return str(value) if value not in (None, "") else "–"
