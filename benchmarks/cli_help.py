"""How long ``quantflow --help`` takes, against ``papermill --help``: whole processes, best of several, in turn."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._common import report

PROGRAMS = Path(sys.executable).parent


def seconds(program: str) -> float:
    """Return the wall time of one ``--help``."""
    started = time.perf_counter()
    subprocess.run([PROGRAMS / program, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print one JSON object: our seconds, the peer's, and the factor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object (always so)")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    pairs = [(seconds("quantflow"), seconds("papermill")) for _ in range(rounds)]
    ours, peer = (min(column) for column in zip(*pairs, strict=True))
    report("cli_help", ours=ours, peer=peer, peer_is="papermill --help", unit="s", n=rounds)


if __name__ == "__main__":
    main()
