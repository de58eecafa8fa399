"""How long the first call of a new signal takes, and the same call in a second process, imports not counted.

Each round writes a signal that no process has seen, with a cache directory of its own, and
runs it in two processes, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._common import report

FIRST_LIMIT_S = 3.0
SECOND_LIMIT_S = 0.3

SIGNAL = '''
"""A channel breakout with a stop of several true ranges: a user's own signal."""

from quantflow.signals import atr, donchian, memory, param, signal


@signal(columns=("high", "low", "close"))
def breakout(
    bar,
    channel=donchian.over("window"),
    reach=atr.over("span"),
    held=memory(2),
    window=param(20, low=2, high=500),
    span=param(14, low=2, high=200),
    stop=param({stop}, low=0.1, high=20.0),
):
    band = donchian(channel, bar.high, bar.low)
    width = atr(reach, bar.high, bar.low, bar.close)
    if held[0] > 0.0:
        held[1] = max(held[1], bar.close)
        if bar.close < held[1] - stop * width:
            held[0] = 0.0
    elif bar.close >= band.upper:
        held[0] = 1.0
        held[1] = bar.close
    return held[0] * {scale}
'''

RUN = """
import json, time
import numba, numpy as np, quantflow.signals
from new_signal import breakout

close = 100.0 + np.cumsum(np.random.default_rng(1).normal(0.0, 1.0, 1000)).clip(-50.0)
bars = {"high": close + 1.0, "low": close - 1.0, "close": close}
started = time.perf_counter()
exposures = breakout.bind().exposures(bars)
called = time.perf_counter()
batch = breakout.batch({"window": np.arange(20, 60)})
out = np.empty((40, 1000))
batch.prepare(np.array([bars[name] for name in batch.columns])).fill(0, 40, out)
assert (out[0] == exposures).all()
print(json.dumps([called - started, time.perf_counter() - called]))
"""


def timed(directory: Path) -> list[float]:
    """Return seconds of the first call and of the first batch, in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(directory), "XDG_CACHE_HOME": str(directory / "cache")}
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, check=True, capture_output=True, text=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def main() -> None:
    """Print one JSON object: seconds of the first call, of the second process, and of the first batch of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object (always so)")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    first, second = [], []
    for index in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "new_signal.py").write_text(SIGNAL.format(stop=3.0 + index, scale=1.0 - index / 100.0))
            first.append(timed(directory))
            second.append(timed(directory))
    (first_call, first_batch), (second_call, second_batch) = (
        [min(column) for column in zip(*runs, strict=True)] for runs in (first, second)
    )
    report(
        "compile",
        ours=first_call,
        peer=FIRST_LIMIT_S,
        peer_is="the limit",
        unit="s",
        n=rounds,
        second_process=float(f"{second_call:.3g}"),
        second_process_limit=SECOND_LIMIT_S,
        first_batch=float(f"{first_batch:.3g}"),
        second_process_batch=float(f"{second_batch:.3g}"),
    )


if __name__ == "__main__":
    main()
