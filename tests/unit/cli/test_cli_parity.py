"""``quantflow parity``: one command says whether live repeats the backtest."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from quantflow.cli import app
from quantflow.cli.parity import DIVERGED
from quantflow.data import get_source

ROOT = Path(__file__).resolve().parents[3]
SPAN = ["--from", "2016-01-01", "--to", "2016-03-31", "--symbols", "AAPL,JPM"]
BREAKOUT = f"{ROOT}/pipelines/donchian_breakout.py:donchian_breakout"


def run(*arguments: object):
    return CliRunner().invoke(app, ["parity", *map(str, arguments)])


def words(result) -> str:
    return " ".join(result.output.split())


def test_a_shipped_contract_has_no_divergence() -> None:
    result = run(ROOT / "pipelines" / "momentum.toml", *SPAN, "-p", "lookback=10")
    assert result.exit_code == 0, result.output
    said = words(result)
    assert "momentum_signal(lookback=10" in said
    assert "next_close, fee 1 bps, slippage 2 bps" in said  # the source has closes only; costs are the contract's
    assert "no divergence" in said


def test_a_module_is_taken_as_it_is_and_json_has_everything() -> None:
    span = ["--from", "2009-01-01", "--to", "2009-03-31", "--source", "index", "--symbols", "SP500"]
    result = run(BREAKOUT, *span, "-p", "window=5", "--fee-bps", "3", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["agrees"] is True
    assert report["divergence"] is None
    assert report["parameters"]["window"] == 5
    assert (report["options"]["fill"], report["options"]["fee_bps"]) == ("next_open", 3.0)


def test_a_recorded_stream_that_diverges_is_another_exit_status(tmp_path: Path) -> None:
    bars = get_source("sp500").read(
        ["AAPL", "JPM"], start=date(2016, 1, 1), end=date(2016, 3, 31), as_of=datetime.now(UTC)
    )
    moved = bars.sort("timestamp", "symbol").with_columns(pl.col("timestamp") - timedelta(hours=5))
    moved.write_parquet(tmp_path / "seen.parquet")
    command = [ROOT / "pipelines" / "momentum.toml", *SPAN, "--recorded", tmp_path / "seen.parquet"]
    result = run(*command)
    assert result.exit_code == DIVERGED
    said = words(result)
    assert "first divergence: AAPL, 2016-01-04 21:00Z, timestamp" in said
    assert "cause: a shifted time zone" in said
    assert json.loads(run(*command, "--json").stdout)["divergence"]["field"] == "timestamp"


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ("pipelines/none.toml", "No such file"),
        (f"{ROOT}/pipelines/none.py:x", "No such file"),
        (f"{ROOT}/pipelines/donchian_breakout.py:nothing", "names nothing"),
        (f"{ROOT}/pipelines/donchian_breakout.py:atr", "allowed: a signal"),
        ("momentum", "neither a contract"),
    ],
)
def test_what_names_no_signal_is_an_error(signal: str, message: str) -> None:
    result = run(signal, *SPAN)
    assert result.exit_code == 1
    assert message in words(result)


def test_errors_of_parameters_bars_and_recordings_are_messages(tmp_path: Path) -> None:
    (tmp_path / "seen.parquet").write_text("no Parquet")
    recorded = run(BREAKOUT, *SPAN, "--recorded", tmp_path / "seen.parquet")
    for result, message in [
        (run(BREAKOUT, *SPAN, "-p", "window=1"), "'window' is 1"),
        (run(BREAKOUT, *SPAN), "'high'"),
        (run(ROOT / "pipelines" / "momentum.toml", *SPAN, "--fill", "next_open"), "'open'"),
        (recorded, "is no Parquet file of bars"),
    ]:
        assert result.exit_code == 1, result.output
        assert message in words(result)
    assert run(BREAKOUT, *SPAN, "--fill", "tomorrow").exit_code == 2
