"""Benchmarks end with one JSON object, and compare figures that are the same; sizes are tiny here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROMISED = {"name", "ours", "peer", "ratio", "unit", "n", "machine"}
SMALL = ("--symbols", "3", "--bars", "200", "--rounds", "1", "--own-rounds", "1")


def last_line(name: str, *given: str) -> dict[str, Any]:
    """Run a benchmark as its own process; it fails where figures of ours and the peer differ."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(found) >= PROMISED
    assert found["name"] == name
    assert found["ours"] > 0
    assert found["peer"] > 0
    assert found["ratio"] > 0
    return found


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("script_bench", str(ROOT / "scripts" / "bench"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_moving_average_sweep_equals_vectorbt_and_the_loop_by_hand() -> None:
    found = last_line("sweep", "--windows", "4", *SMALL)
    assert found["n"] == 6 * 3 * 200
    assert found["peer_is"].startswith("vectorbt")
    assert {"quantflow, 1 thread", "quantflow, 2 threads"} < set(found["seconds"])
    assert found["times_the_limit"] > 0


@pytest.mark.slow
def test_the_rsi_sweep_with_atr_stops_equals_vectorbt() -> None:
    found = last_line("sweep_rsi_atr", "--windows", "2", *SMALL)
    assert found["n"] == 2 * 16 * 3 * 200


@pytest.mark.slow
def test_the_portfolio_sweep_with_shared_cash_equals_vectorbt() -> None:
    found = last_line("sweep_portfolio", "--lookbacks", "2", *SMALL)
    assert found["n"] == 2 * 5 * 3 * 200


def test_a_single_run_equals_backtesting() -> None:
    found = last_line("single_run", "--bars", "1000", "--rounds", "1", "--own-rounds", "1", "--nautilus", "0")
    assert found["unit"] == "bars/s"
    assert found["left_out"] == ["nautilus_trader: not asked for"]
    rates = found["bars_a_second"]
    assert found["ratio"] == pytest.approx(rates["quantflow"] / rates["backtesting"], rel=1e-2)


def test_a_step_from_python_is_measured() -> None:
    assert last_line("live_step", "--bars", "50", "--rounds", "1")["unit"] == "us"


def test_every_benchmark_is_run_by_make_bench(script: ModuleType) -> None:
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")}
    assert set(script.BENCHMARKS) == modules


def test_the_page_tells_figures_goals_and_commands(script: ModuleType) -> None:
    common = {"unit": "s", "n": 5, "machine": "a machine"}
    results = {
        "sweep": {"name": "sweep", "ours": 2.0, "peer": 150.0, "ratio": 75.0, "times_the_limit": 1.5, **common},
        "sweep_rsi_atr": {"name": "sweep_rsi_atr", "ours": 2.0, "peer": 50.0, "ratio": 25.0, **common},
        "single_run": {"name": "single_run", "ours": 3.0, "peer": 1.0, "ratio": 3.0, "left_out": ["why"], **common},
    }
    page = script.page(results, 0.25)
    assert "- Machine: a machine\n- Load before the start: 0.25" in page
    assert "| [sweep](#sweep) | 2.0 s | 150.0 s | 75 | ratio 100; at most 2 times the loop by hand | no |" in page
    assert "| [sweep_rsi_atr](#sweep_rsi_atr) | 2.0 s | 50.0 s | 25 | ratio 20 | yes |" in page
    assert "| [single_run](#single_run) | 3.0 s | 1.0 s | 3 | reported |  |" in page
    assert "`python -m benchmarks.sweep --json`" in page
    assert "- times_the_limit: 1.5\n" in page
    assert "- left_out: why" in page


def test_an_unknown_benchmark_is_named(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["nothing"])
    assert "unknown benchmarks nothing; there are sweep, sweep_rsi_atr" in capsys.readouterr().err
