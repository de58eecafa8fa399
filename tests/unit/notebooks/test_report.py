"""Reports: every string from the run, missing parts said to be missing, nothing fetched."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from quantflow.events.types import ErrorDetail, TopicSlice
from quantflow.notebooks import RunReport, render_report
from quantflow.notebooks.figures import drawdown_spec, equity_spec, exposure_spec, weights_spec
from quantflow.testing.reports import desk_events, run_view

BASE = {"AAA": 0.05, "BBB": 0.1 + 0.2 - 0.27, "CCC": 0.0}


def frames(directory: Path, sessions: int = 40) -> dict[str, Path]:
    days = [date(2022, 1, 3) + timedelta(days=index) for index in range(sessions)]
    equity = pl.DataFrame(
        {
            "session": days,
            "equity": [1.0 + index / 1000 for index in range(sessions)],
            "drawdown": [0.0] * sessions,
            "benchmark": [1.0] * sessions,
        }
    )
    exposures = pl.DataFrame(
        [(symbol, day, weight * 20, weight) for symbol, weight in BASE.items() for day in days],
        schema=["symbol", "session", "exposure", "weight"],
        orient="row",
    )
    equity.write_parquet(directory / "equity.parquet")
    exposures.write_parquet(directory / "exposures.parquet")
    return {"equity": directory / "equity.parquet", "exposures": directory / "exposures.parquet"}


def report(tmp_path: Path, **changes) -> RunReport:
    outputs = {
        "metrics.cagr": 0.1 + 0.2,
        "metrics.sharpe_ratio": None,
        "metrics.periods": 40.0,
        "target_weights": BASE,
        "assumptions": ["Prices are adjusted."],
        "as_of_session": "2022-02-11",
    }
    values = {
        "run": run_view(),
        "outputs": outputs,
        "artifacts": frames(tmp_path),
        "desk_events": desk_events(BASE),
        "slices": [TopicSlice(topic="market.bars.1d", partition=2, start=10, end=1210)],
        "bars": {"rows": 1200, "digest": "ef" * 32},
        "parameters": {"lookback": 126, "allow_short": False, "as_of": ""},
        "version_number": 3,
        "owner": "quant-research",
        "description": "Momentum & <calm>",
        "desk_run_id": "desk-run",
        "commands": [("Show this run", "quantflow runs show 019")],
        "generated_at": datetime(2026, 11, 21, tzinfo=UTC),
    }
    return RunReport.build(**(values | changes))


def text_of(html: str) -> str:
    visible = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", visible).split())


def test_the_whole_run_is_told(tmp_path):
    text = text_of(render_report(report(tmp_path)))
    for expected in (
        "momentum · version 3",
        "LONG",
        "2 positions, 6.70% of equity.",
        "Risk officer: reduced",
        "Approval: granted , auto, by contract as portfolio-manager",
        "Agents: LONG , 80% sure",
        "30.00%",
        "Largest position (AAA) 4.50% 4.00% breached AAA cut from +4.50%",
        "Technical analyst 12 of 15 positions go with their trend.",
        "SmolLM2-135M-Instruct (embedded) 1 1 ok 512 44 1.2 s",
        "Prices are adjusted.",
        "market.bars.1d 2 10 1,210 1,200",
        "allow_short false",
        "as_of –",
        "quantflow runs show 019",
        "Data to 2022-02-11, as known at 2026-11-20 21:15:00 UTC",
    ):
        assert expected in text, f"{expected!r} not in:\n{text}"


def test_no_raw_float_is_shown(tmp_path):
    text = text_of(render_report(report(tmp_path)))
    assert re.findall(r"\d\.\d{5,}", text) == []
    assert "AAA 5.00% 4.50% 4.00% 4.00%" in text
    assert "BBB 3.00% 2.70% 2.70% 2.70%" in text
    assert "CCC" not in text


def test_what_agents_wrote_is_text_not_markup(tmp_path):
    html = render_report(report(tmp_path))
    assert "<script>document.title" not in html
    assert "&lt;script&gt;document.title" in html
    assert "Momentum &amp; &lt;calm&gt;" in html


def test_nothing_is_fetched_and_only_our_scripts_may_run(tmp_path):
    html = render_report(report(tmp_path))
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert policy[1].count("sha256-") == 2
    assert html.count("</script>") == html.count("<script")


def test_hold_says_that_nothing_changes_and_why(tmp_path):
    text = text_of(render_report(report(tmp_path, desk_events=desk_events(BASE, action="HOLD"))))
    assert "HOLD" in text
    assert "Nothing changes: what is held stays as it is." in text
    assert "risk analyst: no usable answer (timeout)" in text
    assert "1 timeout n/a n/a" in text
    assert "AAA 5.00% – – –" in text


def test_a_run_without_analysis_decides_nothing(tmp_path):
    text = text_of(render_report(report(tmp_path, desk_events=[])))
    assert "NO DECISION" in text
    assert "No analysis was made of this run." in text
    assert "The risk officer gave no verdict in this run." in text
    assert "No agent spoke in this run." in text


def test_a_proposal_without_approval_is_no_decision(tmp_path):
    events = [event for event in desk_events(BASE) if type(event).__name__ not in ("ApprovalGiven", "DecisionMade")]
    text = text_of(render_report(report(tmp_path, desk_events=events)))
    assert "NO DECISION" in text
    assert "A proposal was made (LONG), but no approval was given." in text


def test_a_failed_run_shows_its_error_and_no_figures():
    error = ErrorDetail(
        kind="NotebookFailedError",
        message="cell 5 raised",
        task_id="run_notebook",
        cell=5,
        source="1 / 0",
        traceback="ZeroDivisionError: <b>division</b>",
    )
    html = render_report(RunReport.build(run=run_view(error=error)))
    text = text_of(html)
    assert "The run failed: NotebookFailedError." in text
    assert "NotebookFailedError in task run_notebook, cell 5: cell 5 raised" in text
    assert "1 / 0" in text
    assert "<b>division</b>" not in html
    assert "Plotly" not in html
    assert "Backtest of the signal" not in text


def test_a_long_history_is_thinned_without_losing_its_extremes():
    days = [date(1990, 1, 1) + timedelta(days=index) for index in range(9000)]
    values = [1.0] * 9000
    values[4321], values[7777] = 0.123, 9.876
    frame = pl.DataFrame({"session": days, "equity": values, "drawdown": [0.0] * 9000})
    (trace,) = equity_spec(frame)["data"]
    assert len(trace["x"]) < 2000
    assert (min(trace["y"]), max(trace["y"])) == (0.123, 9.876)
    assert (trace["x"][0], trace["x"][-1]) == (str(days[0]), str(days[-1]))


def test_drawdowns_point_down():
    frame = pl.DataFrame({"session": [date(2022, 1, 3), date(2022, 1, 4)], "drawdown": [0.0, 0.25]})
    assert drawdown_spec(frame)["data"][0]["y"] == [0.0, -0.25]


def test_the_newest_session_is_always_in_the_heat_map():
    days = [date(2020, 1, 1) + timedelta(days=index) for index in range(1000)]
    frame = pl.DataFrame({"symbol": ["AAA"] * 1000, "session": days, "exposure": [0.5] * 1000})
    (trace,) = exposure_spec(frame)["data"]
    assert trace["x"][-1] == str(days[-1])
    assert len(trace["x"]) <= 160
    assert set(trace["z"][0]) == {0.5}


def test_symbols_without_weight_are_left_out_of_the_bars():
    spec = weights_spec({"A": 0.1, "B": 0.0}, {"A": 0.05}, names=("asked", "decided"))
    assert [trace["x"] for trace in spec["data"]] == [["A"], ["A"]]
    assert [trace["y"] for trace in spec["data"]] == [[0.1], [0.05]]


@pytest.mark.parametrize("figure", ["equity_figure", "drawdown_figure", "exposure_figure"])
def test_plotly_accepts_every_figure(tmp_path, figure):
    from quantflow.notebooks import figures

    name = "exposures" if figure == "exposure_figure" else "equity"
    made = getattr(figures, figure)(pl.read_parquet(frames(tmp_path)[name]))
    assert len(made.data) >= 1
    assert len(figures.weights_figure(BASE).data) == 1
