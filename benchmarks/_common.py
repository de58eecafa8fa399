"""What every benchmark shares: prices, the best of several runs taken in turn, and the JSON line."""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = [
    "Floats",
    "Timing",
    "against",
    "arguments",
    "as_bars",
    "best_of",
    "compare",
    "machine",
    "random_prices",
    "report",
    "say",
    "short",
]

Floats = npt.NDArray[np.float64]


def say(text: str) -> None:
    """Tell a person how it goes, beside the JSON line."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """Return processor, cores that this process may use, Python, and the libraries that do the work."""
    from importlib.metadata import version

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "polars"))
    return f"{_processor()}, {cores} cores, Python {platform.python_version()}, {libraries}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def arguments(description: str | None, **defaults: int) -> argparse.Namespace:
    """Return the command line: ``--json`` (always so) and these whole numbers by name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object (always so)")
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    return parser.parse_args()


def report(
    name: str,
    *,
    ours: float,
    peer: float,
    peer_is: str,
    unit: str,
    n: int,
    more_is_better: bool = False,
    **further: object,
) -> None:
    """Print one JSON object as a line; ``ratio`` above 1 says that we are better than the peer."""
    figures = {
        "name": name,
        "ours": short(ours),
        "peer": short(peer),
        "ratio": short(ours / peer if more_is_better else peer / ours),
        "unit": unit,
        "n": n,
        "machine": machine(),
        "peer_is": peer_is,
        **further,
    }
    print(json.dumps(figures))


def short(value: float) -> float:
    """Return four digits of a figure."""
    return float(f"{value:.4g}")


def compare(found: Mapping[str, Floats], expected: Mapping[str, Floats], who: str) -> None:
    """Raise unless every figure is equal to 1e-9."""
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-9, err_msg=f"{name}, {who}")


class Timing(NamedTuple):
    """The least seconds that a run took, and the least that the processor worked for it, all threads together."""

    wall: float
    processor: float


def best_of(rounds: int, runs: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
    """Return the best times of each run by name; each round takes them in turn, after one warm-up."""
    best = dict.fromkeys(runs, Timing(math.inf, math.inf))
    for number in range(rounds + 1):
        for name, run in runs.items():
            gc.collect()
            started = time.perf_counter(), time.process_time()
            run()
            took = Timing(time.perf_counter() - started[0], time.process_time() - started[1])
            say(f"{name}: {took.wall:.4f} s{' (warm-up)' if number == 0 else ''}")
            if number:
                best[name] = Timing(*map(min, best[name], took))
    return best


def against(
    name: str,
    own: Mapping[int, Callable[[], Mapping[str, Floats]]],
    peers: Mapping[str, Callable[[], Mapping[str, Floats]]],
    *,
    rounds: int,
    own_rounds: int,
    n: int,
    goal: float,
    limits: Mapping[str, Callable[[], Mapping[str, Floats]]] | None = None,
) -> None:
    """Compare figures, then times, and report.

    Parameters
    ----------
    own
        Our run by the number of threads, 2 among them.
    peers
        The peer's runs by name; the fastest counts.
    rounds, own_rounds
        How often each is timed; the best counts.
    n
        Steps of one run: combinations x symbols x bars.
    limits
        Runs that nobody can be much faster than, by number of threads and name.
    """
    limits = limits or {}
    expected = own[2]()
    for who, run in {**limits, **peers, "one thread": own[1]}.items():
        compare(run(), expected, who)
    say("every figure is equal to 1e-9")
    times = best_of(rounds, peers)
    fastest = min(peers, key=lambda who: times[who].wall)
    ours = {count: f"quantflow, {count} thread{'s' * (count > 1)}" for count in own}
    times |= best_of(own_rounds, {**{ours[count]: run for count, run in own.items()}, **limits})
    further: dict[str, Any] = {"ratio_one_thread": short(times[fastest].wall / times[ours[1]].wall)}
    if limits:
        further["times_the_limit"] = short(times[ours[2]].wall / min(times[who].wall for who in limits))
    report(
        name,
        ours=times[ours[2]].wall,
        peer=times[fastest].wall,
        peer_is=fastest,
        unit="s",
        n=n,
        goal=goal,
        **further,
        seconds={who: short(took.wall) for who, took in times.items()},
        processor_seconds={who: short(took.processor) for who, took in times.items()},
    )


def random_prices(bars: int, symbols: int, *, step: float = 0.01, seed: int = 20261121) -> dict[str, Floats]:
    """Return ``open``, ``high``, ``low``, ``close`` and ``volume``, bars x symbols, of geometric random walks.

    ``step`` is the standard deviation of a bar's return.
    """
    random = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(random.normal(0.02 * step, step, (bars, symbols)), axis=0))
    gaps = np.exp(random.normal(0.0, 0.2 * step, (bars, symbols)))
    opened = np.vstack([close[:1], close[:-1]]) * gaps
    reach = np.exp(np.abs(random.normal(0.0, 0.4 * step, (2, bars, symbols))))
    high, low = np.maximum(opened, close) * reach[0], np.minimum(opened, close) / reach[1]
    volume = np.exp(random.normal(13.0, 0.5, (bars, symbols))).round()
    return {"open": opened, "high": high, "low": low, "close": close, "volume": volume}


def as_bars(prices: Mapping[str, Floats], *, minutes: int = 1440) -> pl.DataFrame:
    """Return bars of symbols S000, S001, ... in the canonical schema, so many minutes apart."""
    from quantflow.data import BAR_SCHEMA

    bars, symbols = prices["close"].shape
    moments = [datetime(2010, 1, 1, 21, tzinfo=UTC) + timedelta(minutes=minutes * number) for number in range(bars)]
    common = {"session": [moment.date() for moment in moments], "timestamp": moments, "known_at": moments}
    names = {"adjustment": "raw", "source": "benchmark", "frequency": "1d" if minutes == 1440 else f"{minutes}m"}
    frames = [
        pl.DataFrame(
            {"symbol": f"S{number:03d}", **common, **names, **{key: each[:, number] for key, each in prices.items()}}
        ).select(pl.col(key).cast(kind) for key, kind in BAR_SCHEMA.items())
        for number in range(symbols)
    ]
    return pl.concat(frames)
