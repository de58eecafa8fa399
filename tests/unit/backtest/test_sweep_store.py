"""A sweep that was stopped goes on where it was, and never from another sweep's rows."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from quantflow.backtest import _sweep_job, sweep
from quantflow.backtest._sweep_store import SweepStore
from quantflow.errors import SweepCancelledError
from quantflow.signals import Signal
from quantflow.testing.signals import bars_of, random_walk, trend

GRID = {"lookback": range(2, 52), "allow_short": [True, False]}
OPTIONS: dict[str, Any] = {"fill": "next_close", "fee_bps": 2.0, "by": "symbol", "metrics": ["sharpe_ratio", "orders"]}


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return bars_of({"A": random_walk(60, seed=1), "B": random_walk(60, seed=2)})


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sweep_job, "_MOST_IN_PART", 16)


def first_told(store: Path, bars: pl.DataFrame, **changed: Any) -> int:
    """Return how many combinations a sweep finds done."""
    told: list[int] = []
    sweep(trend, bars, **{"grid": GRID, **OPTIONS, **changed}, store=store, progress=lambda done, _: told.append(done))
    return told[0]


def test_a_cancelled_sweep_goes_on_from_its_store(tmp_path: Path, bars: pl.DataFrame) -> None:
    whole = sweep(trend, bars, GRID, **OPTIONS)
    cancel = threading.Event()

    def stop_at(done: int, _: int) -> None:
        if done >= 40:
            cancel.set()

    with pytest.raises(SweepCancelledError, match="the same call goes on from the store") as caught:
        sweep(trend, bars, GRID, **OPTIONS, store=tmp_path, cancel=cancel, progress=stop_at)
    kept = caught.value.result
    assert isinstance(kept, pl.DataFrame)
    assert 64 <= kept.height < whole.height
    told: list[int] = []
    rows = sweep(trend, bars, GRID, **OPTIONS, store=tmp_path, progress=lambda done, _: told.append(done))
    assert told[0] == kept.height // 2
    assert rows.equals(whole)
    assert first_told(tmp_path, bars) == 100


def test_the_store_is_plain_parquet_with_a_description(tmp_path: Path, bars: pl.DataFrame) -> None:
    rows = sweep(trend, bars, GRID, **OPTIONS, store=tmp_path)
    (directory,) = tmp_path.iterdir()
    assert pl.scan_parquet(directory / "*.parquet").collect().equals(rows)
    description = json.loads((directory / "sweep.json").read_text())
    assert description["signal"] == "trend"
    assert description["grid"]["axes"]["allow_short"] == ["True", "False"]
    assert not [path for path in directory.iterdir() if path.suffix == ".tmp"]


def test_anything_that_changes_a_number_begins_anew(tmp_path: Path, bars: pl.DataFrame) -> None:
    sweep(trend, bars, GRID, **OPTIONS, store=tmp_path)
    assert first_told(tmp_path, bars, fee_bps=3.0) == 0
    assert first_told(tmp_path, bars, grid={**GRID, "span": [5]}) == 0
    assert first_told(tmp_path, bars, where=lambda lookback: lookback < 20) == 0
    assert first_told(tmp_path, bars, risk_free_rate=0.01) == 0
    assert first_told(tmp_path, bars, by="portfolio") == 0
    assert first_told(tmp_path, bars.with_columns(pl.col("close") * 1.5)) == 0
    assert first_told(tmp_path, bars.reverse()) == 100


def test_another_default_of_a_parameter_begins_anew(tmp_path: Path, bars: pl.DataFrame) -> None:
    def defined(default: float) -> Signal:
        from quantflow.signals import memory, param

        def steady(bar: Any, held: Any = memory(), size: float = param(default, low=0.0, high=1.0)) -> float:
            held[0] += 1.0
            return size

        return Signal(steady)

    half = sweep(defined(0.5), bars, {"fee_bps": [0.0, 1.0]}, fill="next_close", store=tmp_path)
    full = sweep(defined(1.0), bars, {"fee_bps": [0.0, 1.0]}, fill="next_close", store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert not half["volatility"].equals(full["volatility"])


def test_a_damaged_part_is_computed_again(tmp_path: Path, bars: pl.DataFrame) -> None:
    whole = sweep(trend, bars, GRID, **OPTIONS, store=tmp_path)
    (directory,) = tmp_path.iterdir()
    first, second, third, *_ = sorted(directory.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(b"")
    third.unlink()
    assert first_told(tmp_path, bars) == 100 - 48
    assert sweep(trend, bars, GRID, **OPTIONS, store=tmp_path).equals(whole)


def test_a_part_of_another_sweep_or_within_another_part_is_not_read(tmp_path: Path) -> None:
    rows = pl.DataFrame({"a": [1, 2, 3, 4]})
    store = SweepStore(tmp_path, {"name": "one"})
    store.write(0, 4, rows)
    store.write(2, 6, rows)
    other = SweepStore(tmp_path, {"name": "two"})
    assert list(other.parts()) == []
    other.write(0, 4, rows)
    (path,) = other.directory.glob("*.parquet")
    (store.directory / "rows-000000000004-000000000008.parquet").write_bytes(path.read_bytes())
    (store.directory / "notes.txt").write_text("mine")
    assert [(first, last) for first, last, _ in store.parts()] == [(0, 4)]


def test_parts_of_another_size_are_used_all_the_same(
    tmp_path: Path, bars: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep(trend, bars, GRID, **OPTIONS, store=tmp_path)
    (directory,) = tmp_path.iterdir()
    for path in sorted(directory.glob("*.parquet"))[1::2]:
        path.unlink()
    monkeypatch.setattr(_sweep_job, "_MOST_IN_PART", 5)
    assert first_told(tmp_path, bars) == 64 - 12
    assert sweep(trend, bars, GRID, **OPTIONS, store=tmp_path).equals(whole)
