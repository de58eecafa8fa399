"""Peak memory of a sweep of 100,000 combinations against one of 100: whole processes, one after the other.

Resident memory includes the interpreter and the libraries, which both have; what the sweep itself adds to them
is reported, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from benchmarks._common import report
from quantflow.backtest import sweep
from quantflow.signals import param, signal, sma

MANY, FEW = 100_000, 100
SYMBOLS, BARS = 2, 504


@signal(columns=("close",))
def cross(
    bar: Any,
    quick: Any = sma.over("fast"),
    calm: Any = sma.over("slow"),
    fast: int = param(10, low=1, high=2000, doc="bars"),
    slow: int = param(50, low=1, high=2000, doc="bars"),
) -> float:
    """Long while the fast mean is above the slow one."""
    short = sma(quick, bar.close)
    long = sma(calm, bar.close)
    return 1.0 if short > long else 0.0


def walks() -> pl.DataFrame:
    """Return seeded random walks as bars."""
    times = pl.Series("timestamp", [datetime(2015, 1, 1, 21, tzinfo=UTC) + timedelta(days=day) for day in range(BARS)])
    frames = []
    for number in range(SYMBOLS):
        steps = np.random.default_rng(number).normal(0.0002, 0.015, BARS)
        close = pl.Series("close", 100.0 * np.exp(np.cumsum(steps)))
        symbol = pl.Series("symbol", [f"S{number}"] * BARS)
        frames.append(pl.DataFrame([symbol, times.dt.date().alias("session"), times, close]))
    return pl.concat(frames)


def peak_mib() -> float:
    """Return the most resident memory that this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measured(combinations: int, by: str, threads: int) -> dict[str, float]:
    """Sweep in this process and return its figures."""
    bars = walks()
    side = round(combinations**0.5)
    grid = {"fast": range(1, side + 1), "slow": range(1, -(-combinations // side) + 1)}
    # What a first sweep loads is in both.
    sweep(cross, bars, {"fast": [5], "slow": [20]}, by=by, fill="next_close", threads=1)
    before = peak_mib()
    rows = sweep(cross, bars, grid, by=by, fill="next_close", fee_bps=1.0, slippage_bps=2.0, threads=threads)
    return {"rows": rows.height, "before": before, "peak": peak_mib(), "result": rows.estimated_size("mb")}


def child(combinations: int, by: str, threads: int) -> dict[str, float]:
    """Return the figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sweep_memory", "--measure", str(combinations)]
    done = subprocess.run([*command, "--by", by, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print one JSON object: our peak, that of the small sweep, and the factor between them, at most 1.2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object (always so)")
    parser.add_argument("--measure", type=int, help="sweep so many combinations in this process")
    parser.add_argument("--by", choices=("portfolio", "symbol"), default="symbol")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measured(given.measure, given.by, given.threads)))
        return
    # The compiler takes more memory than the sweep: machine code is on disk from here on.
    child(1, given.by, given.threads)
    many, few = (child(combinations, given.by, given.threads) for combinations in (MANY, FEW))
    report(
        "sweep_memory",
        ours=many["peak"],
        peer=few["peak"],
        peer_is=f"the peak of a sweep of {FEW} combinations",
        unit="MiB",
        n=MANY,
        factor=round(many["peak"] / few["peak"], 3),
        limit=1.2,
        rows=int(many["rows"]),
        by=given.by,
        threads=given.threads,
        added_by_ours=round(many["peak"] - many["before"], 1),
        added_by_peer=round(few["peak"] - few["before"], 1),
        result_itself=round(many["result"], 1),
    )


if __name__ == "__main__":
    main()
