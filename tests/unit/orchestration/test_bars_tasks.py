"""The operational tasks: extract, validate, load of bars."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from quantflow.data import BarStore, empty_bars, get_source
from quantflow.errors import InvalidBarsError, UnknownSourceError
from quantflow.orchestration import bars_tasks, pipeline_tasks

AS_OF = datetime(2023, 1, 3, tzinfo=UTC)
RUN = "scheduled__2023-01-03T00:00:00+00:00"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTFLOW_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def extracted(home: Path) -> str:
    return str(bars_tasks.extract("index", as_of=AS_OF, run=RUN)["path"])


def test_extract_validate_load_fills_the_store_and_a_second_run_adds_nothing(home: Path, extracted: str) -> None:
    assert Path(extracted).is_relative_to(home / "staging" / "bars" / "index")
    valid = bars_tasks.validate(extracted, source="index")
    report = bars_tasks.load(extracted, source="index", as_of=AS_OF)
    assert report["new"] == report["read"] == valid["rows"] > 1000
    again = bars_tasks.load(extracted, source="index", as_of=AS_OF)
    assert (again["new"], again["unchanged"]) == (0, report["read"])
    stored = BarStore(home / "bars" / "index").read(as_of=AS_OF)
    assert stored.height == report["read"]
    assert stored["source"].unique().to_list() == get_source("index").read(as_of=AS_OF)["source"].unique().to_list()


def test_rows_that_are_no_bars_stop_at_validation(home: Path, extracted: str) -> None:
    frame = pl.read_parquet(extracted)
    frame.with_columns(close=-pl.col("close")).write_parquet(extracted)
    with pytest.raises(InvalidBarsError, match="close"):
        bars_tasks.validate(extracted, source="index")
    assert not (home / "bars").exists()


def test_a_run_id_never_leaves_the_staging_directory(home: Path) -> None:
    path = Path(bars_tasks.extract("index", as_of=AS_OF, run="../../../x/y")["path"])
    assert path.parent == home / "staging" / "bars" / "index"


def test_old_extracts_are_forgotten(extracted: str) -> None:
    os.utime(extracted, (0, 0))
    bars_tasks.extract("index", as_of=AS_OF, run="later")
    assert not Path(extracted).exists()


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(UnknownSourceError, match="nope"):
        bars_tasks.extract("nope", as_of=AS_OF, run=RUN)


def test_only_the_last_sessions_weights_are_asked_for() -> None:
    frame = pl.DataFrame(
        {
            "session": [datetime(2024, 1, 2), datetime(2024, 1, 3), datetime(2024, 1, 3)],
            "symbol": ["A", "B", "A"],
            "weight": [0.9, 0, 1],
        },
        schema_overrides={"session": pl.Date},
        strict=False,
    )
    assert pipeline_tasks._latest_weights(frame) == {"A": 1.0, "B": 0.0}
    with pytest.raises(Exception, match="weight"):
        pipeline_tasks._latest_weights(empty_bars())
