"""How long one bar takes through a signal from Python, the way the live runtime calls it: best of several runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

from benchmarks._common import report
from quantflow.signals import BoundSignal
from quantflow.testing.signals import every_indicator, trend

LIMIT_US = 5.0
BAR = {"open": 100.0, "high": 101.0, "low": 99.0, "close": 100.5, "volume": 1e6}


def microseconds_a_step(bound: BoundSignal, bar: Mapping[str, float], bars: int) -> float:
    """Return the mean time of ``step`` over ``bars`` bars."""
    state = bound.start()
    started = time.perf_counter()
    for _ in range(bars):
        bound.step(state, bar)
    return (time.perf_counter() - started) / bars * 1e6


def main() -> None:
    """Print one JSON object: microseconds a step of a signal on one column, and of one on four."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object (always so)")
    parser.add_argument("--bars", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    best = {
        bound.name: min(microseconds_a_step(bound, BAR, given.bars) for _ in range(given.rounds))
        for bound in (trend.bind().compile(), every_indicator.bind().compile())
    }
    report(
        "live_step",
        ours=best["trend"],
        peer=LIMIT_US,
        peer_is="the limit",
        unit="us",
        n=given.bars,
        five_indicators_four_columns=float(f"{best['every_indicator']:.4g}"),
    )


if __name__ == "__main__":
    main()
