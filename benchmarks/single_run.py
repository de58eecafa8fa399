"""One backtest of one symbol: bars a second against ``backtesting`` and ``nautilus_trader``.

A cross of two moving averages on minute bars, 90 % of equity in whole shares. Ours is timed from
the frame to the result with its metrics, orders and trades, after one warm-up; the peers from
loaded data to the end of their run. Two settings, because the peers differ:

- against ``backtesting``: filled at the next open, a commission of 5 basis points; the equity at
  every bar and the number of orders are equal to 1e-9. It counts commission in the size of an
  order, ours does not, so its size is given by that much larger.
- against ``nautilus_trader``: filled at the close that decides, which is what its bars do to
  market orders; no fee, because it rounds fees to cents; equity at the end and number of orders
  are equal to 1e-9.

``ratio`` is by the faster peer. nautilus_trader's wheels fit pandas and numpy of their own, so it
lives in an environment apart, made by uv in the user's cache at the first run; where that cannot
be made ``left_out`` says why.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks._common import Floats, arguments, as_bars, best_of, compare, random_prices, report, say, short
from quantflow.backtest import BacktestResult, backtest
from quantflow.signals import param, signal, sma

FAST, SLOW, PART, CASH, FEE_BPS = 20, 100, 0.9, 1e6, 5.0
# Means of prices in cents are often the same, up to rounding; half of their smallest difference is not rounding.
MARGIN = 0.00005
PRICES = ("open", "high", "low", "close")
LONGEST_INSTALL_S = 600


@signal(columns=("close",))
def cross(
    bar: Any,
    quick: Any = sma.over("fast"),
    calm: Any = sma.over("slow"),
    fast: int = param(FAST, low=1, high=1000, doc="bars"),
    slow: int = param(SLOW, low=2, high=1000, doc="bars"),
) -> float:
    """Nine tenths long while the fast mean is above the slow one."""
    return 0.9 if sma(quick, bar.close) > sma(calm, bar.close) + MARGIN else 0.0


def ours(bars: pl.DataFrame, fill: Any, fee_bps: float) -> BacktestResult:
    """Return one backtest."""
    return backtest(
        cross.bind(),
        bars,
        fill=fill,
        fee_bps=fee_bps,
        initial_cash=CASH,
        lot_size=1.0,
        rebalance="on_change",
        periods_per_year=252 * 390,
    )


def figures(result: BacktestResult) -> dict[str, Floats]:
    """Return equity at every bar, and the number of orders."""
    return {"equity": result.equity["equity"].to_numpy(), "orders": np.array([float(result.orders.height)])}


class BacktestingRun:
    """The same in ``backtesting``."""

    def __init__(self, prices: dict[str, Floats]) -> None:
        import pandas as pd

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from backtesting import Backtest, Strategy

        def mean(values: Any, window: int) -> Any:
            return pd.Series(values).rolling(window).mean()

        class Cross(Strategy):  # type: ignore[misc]
            def init(self) -> None:
                self.quick = self.I(mean, self.data.Close, FAST)
                self.calm = self.I(mean, self.data.Close, SLOW)

            def next(self) -> None:
                above = self.quick[-1] > self.calm[-1] + MARGIN
                if above and not self.position:
                    self.buy(size=PART * (1.0 + FEE_BPS / 1e4))
                elif not above and self.position:
                    self.position.close()

        frame = pd.DataFrame(
            {name.capitalize(): values[:, 0] for name, values in prices.items()},
            index=pd.date_range("2010-01-01 21:00", periods=len(prices["close"]), freq="min"),
        )
        self._run = Backtest(frame, Cross, cash=CASH, commission=FEE_BPS / 1e4)

    def __call__(self) -> Any:
        """Run once."""
        with warnings.catch_warnings():
            # A position that is open at the end.
            warnings.simplefilter("ignore")
            return self._run.run()

    def figures(self) -> dict[str, Floats]:
        """Return equity at every bar, and the number of orders."""
        stats = self()
        closed, still_open = stats["# Trades"], bool(stats._strategy.position)
        return {
            "equity": stats._equity_curve["Equity"].to_numpy(),
            "orders": np.array([2.0 * closed + still_open]),
        }


class NautilusRun:
    """The same in ``nautilus_trader``, in its own environment and process."""

    def __init__(self, prices: dict[str, Floats], python: Path, folder: Path) -> None:
        path = folder / "prices.npz"
        np.savez(path, *(prices[name][:, 0] for name in PRICES))
        script = Path(__file__).with_name("_nautilus.py")
        self._command = [str(python), "-I", str(script), str(path), *map(str, (FAST, SLOW, CASH, PART, MARGIN))]

    def __call__(self) -> dict[str, float]:
        """Return seconds, orders and the equity at the end."""
        done = subprocess.run(self._command, capture_output=True, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def nautilus_python() -> Path | str:
    """Return the interpreter of an environment with nautilus_trader, made where there is none, or why there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "quantflow" / "peers" / "nautilus_trader"
    python = folder / "bin" / "python"
    if not python.exists() or not _imports(python):
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv is None:
            return "nautilus_trader: there is no uv to make its environment"
        try:
            _install(uv, folder, python)
        except subprocess.SubprocessError as exc:
            said = str(getattr(exc, "stderr", None) or exc).strip().splitlines()[-1]
            return f"nautilus_trader: its environment could not be made: {said}"
    return python if _imports(python) else "nautilus_trader: it is installed, but does not import"


def _install(uv: str, folder: Path, python: Path) -> None:
    say(f"installing nautilus_trader into {folder}")
    run = partial(subprocess.run, capture_output=True, text=True, check=True, timeout=LONGEST_INSTALL_S)
    run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    run([uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", str(python), "nautilus_trader"])


def _imports(python: Path) -> bool:
    command = [str(python), "-I", "-c", "import nautilus_trader.backtest.engine"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _minutes(count: int) -> dict[str, Floats]:
    """Return prices in cents, as every engine here can have them."""
    prices = random_prices(count, 1, step=0.001)
    return {name: values.round(0 if name == "volume" else 2) for name, values in prices.items()}


def main() -> None:
    """Compare the figures, then the bars a second."""
    given = arguments(__doc__, bars=100_000, rounds=3, own_rounds=7, nautilus=1)
    prices = _minutes(given.bars)
    bars = as_bars(prices, minutes=1)
    peer = BacktestingRun(prices)
    compare(peer.figures(), figures(ours(bars, "next_open", FEE_BPS)), "backtesting")
    seconds = {"backtesting": best_of(given.rounds, {"backtesting": peer})["backtesting"].wall}
    left_out: list[str] = []
    python = nautilus_python() if given.nautilus else "nautilus_trader: not asked for"
    if isinstance(python, Path):
        seconds["nautilus_trader"] = _nautilus(prices, bars, python, given.rounds)
    else:
        left_out.append(python)
    mine: dict[str, Callable[[], object]] = {
        "quantflow": partial(ours, bars, "next_open", FEE_BPS),
        "quantflow, the decider alone": partial(cross.bind().evaluate, bars),
    }
    times = {name: took.wall for name, took in best_of(given.own_rounds, mine).items()}
    fastest = min(seconds, key=lambda name: seconds[name])
    rates = {name: short(given.bars / value) for name, value in (seconds | times).items()}
    report(
        "single_run",
        ours=given.bars / times["quantflow"],
        peer=given.bars / seconds[fastest],
        peer_is=fastest,
        unit="bars/s",
        n=given.bars,
        more_is_better=True,
        bars_a_second=rates,
        left_out=left_out,
    )


def _nautilus(prices: dict[str, Floats], bars: pl.DataFrame, python: Path, rounds: int) -> float:
    """Return the best seconds of a run, after its figures were compared."""
    result = ours(bars, "same_close", 0.0)
    expected = figures(result)
    expected["equity"] = expected["equity"][-1:]
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        run = NautilusRun(prices, python, Path(folder))
        for _ in range(rounds):
            found = run()
            compare({name: np.array([found[name]]) for name in expected}, expected, "nautilus_trader")
            say(f"nautilus_trader: {found['seconds']:.4f} s")
            best = min(best, found["seconds"])
    return best


if __name__ == "__main__":
    main()
