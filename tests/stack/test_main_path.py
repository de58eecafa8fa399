"""The main job, end to end, on real parts: what `make demo` promises."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from quantflow.events.types import LanguageModelCalled, NodeCompleted, RunRequested, VerdictGiven
from quantflow.live import live_exposures
from quantflow.testing.wait import wait_until

if TYPE_CHECKING:
    from conftest import Production
    from quantflow.testing.stack import LocalStack

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo_output(stack: LocalStack) -> str:
    """What `quantflow demo` printed, on the stack that already runs."""
    return stack.cli("demo", timeout_s=600).stdout


@pytest.fixture(scope="module")
def run_id(demo_output: str) -> str:
    found = re.search(r"POST /workflows/trigger -> run (\S+)", demo_output)
    assert found, demo_output
    return found.group(1)


@pytest.fixture(scope="module")
def result(production: Production, run_id: str) -> dict[str, Any]:
    status = production.status(run_id)
    assert status["status"] == "succeeded", status
    found: dict[str, Any] = status["result"]
    return found


def test_demo_ends_with_the_decision_the_addresses_and_the_times(
    demo_output: str, result: dict[str, Any], stack: LocalStack
) -> None:
    assert f"decision {result['decision']['action']}" in demo_output
    assert result["decision"]["decision_id"] in demo_output
    assert result["report"] in demo_output
    assert stack.settings.airflow in demo_output
    assert f"{stack.settings.api}/docs" in demo_output
    assert "make lab" in demo_output
    for step in (
        "start the stack",
        "replay real prices",
        "run the notebook by hand",
        "promote",
        "run it in production",
    ):
        assert re.search(rf"{step}.*\d+\.\d s", demo_output), step


def test_exactly_one_decision_is_logged_and_published(
    production: Production, run_id: str, result: dict[str, Any]
) -> None:
    logged = production.decisions(run_id)
    assert [made.decision.model_dump(mode="json") for made in logged] == [result["decision"]]
    published = wait_until(lambda: production.published_decisions(run_id), 20, "the decision on its topic")
    assert published == [result["decision"]]


def test_request_fixed_the_offsets_and_the_notebook_saw_just_these(
    production: Production, run_id: str, stack: LocalStack
) -> None:
    request = production.events(run_id)[0].event
    assert isinstance(request, RunRequested)
    held = sum(piece.end - piece.start for piece in request.inputs)
    bars = pl.read_parquet(stack.home / "runs" / run_id / "bars.parquet")
    # The topic may hold a replay twice; a reader sees each bar once.
    assert 0 < bars.height <= held
    assert bars.select("symbol", "timestamp").is_duplicated().sum() == 0
    assert bars["symbol"].n_unique() == 20
    assert (bars["known_at"] <= request.as_of).all()


def test_research_and_production_give_the_same_numbers(production: Production, run_id: str, stack: LocalStack) -> None:
    """The notebook run by hand read the source, the promoted one its slice of the topic."""
    by_hand = max((stack.home / "research").iterdir())
    promoted = stack.home / "runs" / run_id / "notebook"
    for name in ("exposures", "equity", "returns"):
        first = pl.read_parquet(next(by_hand.rglob(f"{name}.parquet")))
        second = pl.read_parquet(next(promoted.rglob(f"{name}.parquet")))
        assert first.equals(second), name


def test_live_exposures_are_the_promoted_notebooks_bit_for_bit(
    production: Production, run_id: str, stack: LocalStack
) -> None:
    version = str(production.status(run_id)["version_id"])
    promoted = stack.home / "runs" / run_id / "notebook"
    researched = pl.read_parquet(next(promoted.rglob("exposures.parquet"))).select("session", "symbol", "exposure")

    def caught_up() -> list[pl.DataFrame]:
        live = live_exposures(production.log, "momentum", version)
        return [live] if live.height >= researched.height else []

    (live,) = wait_until(caught_up, 120, "the live consumer to catch up", interval_s=0.5)
    both = researched.join(live.select("session", "symbol", pl.col("exposure").alias("live")), on=["session", "symbol"])
    assert both.height == researched.height
    assert (both["exposure"] == both["live"]).all()


def test_the_waiting_task_held_no_worker_slot(production: Production, run_id: str) -> None:
    states = [
        entry.event.state  # type: ignore[attr-defined]
        for entry in production.events(run_id)
        if getattr(entry.event, "task_id", None) == "await_analysis"
    ]
    assert "deferred" in states
    assert states[-1] == "success"


def test_every_task_is_in_the_status_with_the_time_it_was_seen(production: Production, run_id: str) -> None:
    status = production.status(run_id)
    tasks = ["take_slice", "run_notebook", "request_analysis", "await_analysis", "publish_report"]
    assert {task: status["tasks"].get(task) for task in tasks} == dict.fromkeys(tasks, "success")
    assert status["progress"] == 1.0
    assert status["observed_at"] is not None


def test_report_says_what_the_log_says(production: Production, run_id: str, result: dict[str, Any]) -> None:
    page = Path(result["report"]).read_text()
    text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", page)))
    text = re.sub(r"\s+", " ", text)
    desk = [entry.event for entry in production.events(f"{run_id}.desk")]
    words = [event.words for event in desk if isinstance(event, NodeCompleted) and event.words]
    verdict = next(event.verdict for event in desk if isinstance(event, VerdictGiven))
    assert run_id in text
    assert result["decision"]["decision_id"] in text
    assert verdict.outcome in text.lower()
    for said in words:
        assert re.sub(r"\s+", " ", said).strip() in text
    assert "survivor" in text.lower()
    assert "adjusted" in text.lower()


def test_report_is_one_offline_file(result: dict[str, Any]) -> None:
    page = Path(result["report"]).read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']https?:", page)


def test_a_real_language_model_answered(production: Production, run_id: str, stack: LocalStack) -> None:
    desk = production.events(f"{run_id}.desk")
    calls = [entry.event for entry in desk if isinstance(entry.event, LanguageModelCalled)]
    assert calls
    assert {call.backend for call in calls} == {"embedded"}
    assert Counter(call.outcome for call in calls)["ok"] >= 1, [(call.outcome, call.response) for call in calls]
    for call in calls:
        if call.outcome == "ok":
            assert isinstance(json.loads(call.response or ""), dict)


def test_one_correlation_id_leads_through_the_whole_run(production: Production, run_id: str) -> None:
    envelopes = [entry.envelope for entry in production.events(f"{run_id}.desk")]
    first = production.events(run_id)[0].envelope
    assert {envelope.correlation_id for envelope in envelopes} == {first.correlation_id}
    assert envelopes[0].causation_id is not None


def test_the_event_log_is_whole(production: Production, run_id: str) -> None:
    assert production.log.verify() is None


def test_a_second_demo_works_and_doubles_nothing(production: Production, run_id: str, stack: LocalStack) -> None:
    again = stack.cli("demo", timeout_s=600).stdout
    second = re.search(r"-> run (\S+)", again)
    assert second
    assert second.group(1) != run_id
    first_bars = pl.read_parquet(stack.home / "runs" / run_id / "bars.parquet")
    second_bars = pl.read_parquet(stack.home / "runs" / second.group(1) / "bars.parquet")
    assert second_bars.height == first_bars.height
    assert len(production.decisions(second.group(1))) == 1


def test_editing_the_working_files_after_promotion_changes_nothing(production: Production, stack: LocalStack) -> None:
    """Runs load the stored bytes only, even when the files beside them would fail."""
    edited = [stack.settings.project / "pipelines" / name for name in ("momentum_signal.py", "momentum_desk.py")]
    notebook = stack.settings.project / "notebooks" / "momentum.ipynb"
    kept = {path: path.read_bytes() for path in [*edited, notebook]}
    try:
        for path in edited:
            path.write_text("raise RuntimeError('the working file was loaded')\n")
        notebook.write_text("not even a notebook")
        status = production.finished(production.trigger())
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert status["status"] == "succeeded", status["error"]
