"""The pages in a real browser, without a network: they draw, and complain about nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

from quantflow.events.types import TopicSlice
from quantflow.notebooks import NotebookRun, RunReport, render_report, run_notebook
from quantflow.notebooks.export import export_html
from quantflow.testing.reports import desk_events, run_view

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PROJECT = Path(__file__).parents[2]
OpenPage = Callable[[Path], "Page"]


@pytest.fixture(scope="module")
def momentum(tmp_path_factory: pytest.TempPathFactory) -> NotebookRun:
    """The momentum notebook, run by hand on real history."""
    return run_notebook(
        PROJECT / "notebooks" / "momentum.ipynb",
        parameters={"lookback": 60},
        output_dir=tmp_path_factory.mktemp("momentum"),
        timeout_s=240,
    )


def write_report(path: Path, run: NotebookRun, **changes) -> Path:
    values = {
        "run": run_view(),
        "outputs": run.outputs,
        "artifacts": run.artifacts,
        "desk_events": desk_events(run.outputs["target_weights"]),
        "slices": [TopicSlice(topic="market.bars.1d", partition=index, start=0, end=41_565) for index in range(4)],
        "bars": {"rows": 166_260, "digest": "ef" * 32, "first_session": "1990-01-02"},
        "version_number": 3,
        "version_files": {"pipelines/momentum.toml": "01" * 32},
        "owner": "quant-research",
        "description": "Time-series momentum on S&P 500 stocks with a volatility target, judged by a desk of agents",
        "desk_run_id": f"{run_view().run_id}.desk",
        "commands": [("Show this run", f"quantflow runs show {run_view().run_id}")],
    }
    path.write_text(render_report(RunReport.build(**(values | changes))))
    return path


def drawn_figures(page: Page) -> list[int]:
    """Return how many marks each figure of the page holds: an empty figure has none."""
    page.wait_for_function("document.querySelectorAll('.qf-figure .main-svg').length > 0")
    marks = ".scatterlayer path, .barlayer path, .heatmaplayer image"
    counts: list[int] = page.evaluate(
        f"[...document.querySelectorAll('.qf-figure')].map(f => f.querySelectorAll('{marks}').length)"
    )
    return counts


def overflowing(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def test_the_report_draws_every_figure_and_tells_the_decision(tmp_path, momentum, open_page: OpenPage):
    page = open_page(write_report(tmp_path / "report.html", momentum))
    assert page.get_by_test_id("decision").inner_text() == "LONG"
    counts = drawn_figures(page)
    assert len(counts) == 4
    assert all(counts)
    text = page.inner_text("body")
    for expected in ("Risk officer: reduced", "Sharpe ratio", "Largest position", "The agents' words", "survivors"):
        assert expected in text
    assert page.title() == f"momentum · LONG · {run_view().run_id}"
    assert not overflowing(page)
    # What an agent wrote is shown as it is, and nothing of it ran.
    assert "<script>document.title = 'planted'</script>" in text


def test_the_report_fits_a_narrow_screen(tmp_path, momentum, open_page: OpenPage):
    page = open_page(write_report(tmp_path / "narrow.html", momentum))
    page.set_viewport_size({"width": 400, "height": 800})
    page.reload()
    assert all(drawn_figures(page))
    assert not overflowing(page)


def test_a_report_of_hold_is_honest(tmp_path, momentum, open_page: OpenPage):
    events = desk_events(momentum.outputs["target_weights"], action="HOLD")
    page = open_page(write_report(tmp_path / "hold.html", momentum, desk_events=events))
    assert page.get_by_test_id("decision").inner_text() == "HOLD"
    assert "no usable answer (timeout)" in page.inner_text("#decision")


def test_the_executed_notebook_draws_its_figures(momentum, open_page: OpenPage):
    page = open_page(momentum.html)
    counts = drawn_figures(page)
    assert len(counts) == 4
    assert all(counts)
    assert page.get_by_role("heading", name="Momentum").first.is_visible()
    assert "Sharpe ratio" in page.inner_text("body")
    assert not overflowing(page)


def test_a_planted_script_stays_inert(tmp_path, open_page: OpenPage):
    evil = "document.title = 'planted'"
    planted = f"<p id='planted'>text</p><script>{evil}</script><img src=x onerror=\"{evil}\">"
    outputs = [nbformat.v4.new_output("display_data", {"text/html": planted})]
    cells = [nbformat.v4.new_markdown_cell(planted), nbformat.v4.new_code_cell("1", outputs=outputs)]
    path = tmp_path / "planted.html"
    path.write_text(export_html(nbformat.v4.new_notebook(cells=cells), title="harmless"))
    page = open_page(path)
    assert page.title() == "harmless"
    assert page.locator("#planted").count() == 2


def test_the_report_prints(tmp_path, momentum, open_page: OpenPage):
    page = open_page(write_report(tmp_path / "printed.html", momentum))
    assert all(drawn_figures(page))
    printed = page.pdf(format="A4", print_background=True)
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000
