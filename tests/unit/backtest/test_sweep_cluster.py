"""Sweeps on a Dask cluster: the local result bit for bit, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import cloudpickle
import dask
import distributed
import polars as pl
import pytest

from quantflow.backtest import SuccessiveHalving, sweep
from quantflow.backtest import _cluster as cluster_sweep
from quantflow.errors import SignalError, SweepCancelledError, SweepError
from quantflow.signals import param
from quantflow.signals import signal as make_signal
from quantflow.testing.signals import bars_of, random_walk, strongest, trend

GRID = {"lookback": range(2, 42), "stop_loss": [None, 0.04]}
OPTIONS: dict[str, Any] = {"fee_bps": 2.0, "metrics": ["sharpe_ratio", "max_drawdown", "orders"]}


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    closes = {name: random_walk(120, seed=seed, volatility=0.02) for seed, name in enumerate("ABC")}
    return bars_of(closes, **dict.fromkeys(("open", "high", "low"), closes))


@pytest.fixture(scope="module")
def here() -> Iterator[Any]:
    """A cluster within this process: the same protocol, without the cost of processes."""
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("by", ["portfolio", "symbol"])
def test_a_cluster_gives_the_local_result(by: Any, here: Any, bars: pl.DataFrame) -> None:
    told: list[int] = []
    rows = sweep(trend, bars, GRID, by=by, cluster=here, progress=lambda done, _: told.append(done), **OPTIONS)
    assert rows.equals(sweep(trend, bars, GRID, by=by, **OPTIONS))
    assert len(told) == 9
    assert told[-1] == 80


def test_a_signal_of_a_notebook_travels_with_its_helpers(here: Any, bars: pl.DataFrame) -> None:
    def halved(value: float) -> float:
        return value / 2.0

    @make_signal(columns=("close",))
    def steady(bar: Any, size: float = param(0.5, low=0.0, high=1.0)) -> float:
        return halved(size)

    rows = sweep(steady, bars, {"size": [0.2, 0.4]}, cluster=here)
    assert rows.equals(sweep(steady, bars, {"size": [0.2, 0.4]}))


def test_cross_sectional_signals_and_searches_run_on_a_cluster(here: Any, bars: pl.DataFrame) -> None:
    grid = {"lookback": range(2, 12), "every": [1, 3]}
    search = SuccessiveHalving(min_bars=40, factor=3)
    rows = sweep(strongest, bars, grid, cluster=here, search=search, fill="next_close")
    assert rows.equals(sweep(strongest, bars, grid, search=search, fill="next_close"))


def test_what_fails_on_a_worker_is_raised_here(here: Any, bars: pl.DataFrame) -> None:
    def brittle(pace: int) -> Any:
        if pace == 9:
            raise SignalError("too brittle")
        return trend.bind(lookback=pace)

    with pytest.raises(SignalError, match=r"too brittle \(combination with pace=9\)"):
        sweep(brittle, bars, {"pace": range(1, 12)}, cluster=here)

    def broken(pace: int) -> Any:
        raise ZeroDivisionError("of its own")

    with pytest.raises(SweepError, match=r"combinations .* failed on the cluster: ZeroDivisionError"):
        sweep(broken, bars, {"pace": range(1, 12)}, cluster=here)


def test_what_cannot_travel_is_refused(here: Any, bars: pl.DataFrame) -> None:
    handle = threading.local()

    def tied(pace: int) -> Any:
        return trend.bind(lookback=pace + getattr(handle, "more", 0))

    with pytest.raises(SweepError, match="tied cannot be sent to a cluster"):
        sweep(tied, bars, {"pace": [1, 2]}, cluster=here)


def test_a_worker_with_other_code_or_versions_is_refused(
    here: Any, bars: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = cluster_sweep._pack

    def altered(job: Any) -> tuple[str, bytes]:
        token, data = packed(job)
        identity, sent = cloudpickle.loads(data)
        return token + "x", cloudpickle.dumps(({**identity, "versions": {"numba": "0.1"}}, _Sent(sent)))

    monkeypatch.setattr(cluster_sweep, "_pack", altered)
    with pytest.raises(SweepError, match="a worker differs from the client in versions"):
        sweep(trend, bars, {"lookback": [2, 3]}, cluster=here)


class _Sent:
    """A job that was sent: signals cannot be pickled by everyone."""

    def __init__(self, job: Any) -> None:
        self._identity = job.identity()

    def identity(self) -> Any:
        return self._identity


def test_a_sweep_on_a_cluster_can_be_cancelled(here: Any, bars: pl.DataFrame) -> None:
    cancel = threading.Event()

    def stop_at(done: int, _: int) -> None:
        if done >= 20:
            cancel.set()

    with pytest.raises(SweepCancelledError) as caught:
        sweep(trend, bars, GRID, cluster=here, cancel=cancel, progress=stop_at, **OPTIONS)
    done = caught.value.result
    assert isinstance(done, pl.DataFrame)
    assert 20 <= done.height < 80
    whole = sweep(trend, bars, GRID, **OPTIONS)
    keys = ["lookback", "stop_loss"]
    assert done.equals(whole.join(done.select(keys), on=keys, how="semi", nulls_equal=True, maintain_order="left"))


class _NoWorkers:
    def nthreads(self) -> dict[str, int]:
        return {}


def test_a_cluster_without_workers_is_refused(bars: pl.DataFrame) -> None:
    with pytest.raises(SweepError, match="has no workers"):
        sweep(trend, bars, {"lookback": [2]}, cluster=_NoWorkers())


@pytest.mark.slow
@pytest.mark.parametrize("victims", [1, 2])
def test_worker_processes_that_are_killed_cost_time_only(victims: int, bars: pl.DataFrame, tmp_path: Any) -> None:
    local = sweep(trend, bars, GRID, by="symbol", **OPTIONS)
    killed: list[int] = []
    told: list[int] = []
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        before = set(client.run(os.getpid).values())

        def kill(done: int, _: int) -> None:
            told.append(done)
            if done > 0 and not killed:
                killed.extend(sorted(before)[:victims])
                for process in killed:
                    os.kill(process, signal.SIGKILL)

        rows = sweep(trend, bars, GRID, by="symbol", cluster=client, progress=kill, store=tmp_path, **OPTIONS)
        client.wait_for_workers(2)
        after = set(client.run(os.getpid).values())
    assert rows.equals(local)
    assert len(told) > 2
    assert len(killed) == victims
    assert after & before == before - set(killed)
    # What arrived was kept: the sweep has nothing left to do.
    again: list[int] = []
    sweep(trend, bars, GRID, by="symbol", store=tmp_path, progress=lambda done, _: again.append(done), **OPTIONS)
    assert again == [80]


@pytest.mark.slow
def test_a_part_that_kills_its_workers_is_given_up(bars: pl.DataFrame) -> None:
    def deadly(pace: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(SweepError, match=r"the part with combinations 0 to .* killed the workers that tried it"),
    ):
        sweep(deadly, bars, {"pace": [1]}, cluster=client)
