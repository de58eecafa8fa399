"""vectorbt as the peer: its settings, its engines, and frames as it wants them."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._common import Floats

__all__ = [
    "CASH",
    "FEE_BPS",
    "METRICS",
    "PERIODS",
    "SLIPPAGE_BPS",
    "earlier",
    "engines",
    "frames",
    "read_figures",
    "vectorbt",
]

FEE_BPS, SLIPPAGE_BPS, CASH, PERIODS = 5.0, 3.0, 1e6, 252
METRICS = ("total_return", "sharpe_ratio", "max_drawdown", "orders")


def vectorbt(engine: str) -> Any:
    """Return the module, set to an engine: ``numba``, or ``rust`` wherever it has what is asked for.

    ``settings["engine"] = "rust"`` refuses what Rust lacks, such as shifting booleans; ``"auto"``
    takes numba for that alone, which is vectorbt at its fastest.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vectorbt as vbt
    vbt.settings["engine"] = {"numba": "numba", "rust": "auto"}[engine]
    vbt.settings.array_wrapper["freq"] = "D"
    vbt.settings.returns["year_freq"] = f"{PERIODS} days"
    return vbt


def engines() -> dict[str, str]:
    """Return the engines that are installed here, with what to call them."""
    found = {"numba": f"vectorbt {version('vectorbt')}, numba engine"}
    if find_spec("vectorbt_rust") is not None:
        found["rust"] = f"vectorbt {version('vectorbt')}, rust engine {version('vectorbt-rust')}"
    return found


def frames(prices: dict[str, Floats], names: tuple[str, ...]) -> list[Any]:
    """Return pandas frames, bars x symbols."""
    import pandas as pd

    bars, count = prices["close"].shape
    index = pd.date_range("2010-01-01", periods=bars, freq="D")
    symbols = pd.Index([f"S{number:03d}" for number in range(count)], name="symbol")
    return [pd.DataFrame(prices[name], index=index, columns=symbols) for name in names]


def read_figures(portfolio: Any, shape: tuple[int, ...]) -> dict[str, Floats]:
    """Return total return, Sharpe ratio, maximum drawdown and number of orders in our names and signs.

    vectorbt's Sharpe ratio of an account that never traded is infinity (nothing by nothing), ours is 0.
    """
    figures = (
        portfolio.total_return(),
        portfolio.sharpe_ratio(),
        -portfolio.max_drawdown(),
        portfolio.orders.count(),
    )
    found = {name: np.array(each, dtype=float).reshape(shape) for name, each in zip(METRICS, figures, strict=True)}
    found["sharpe_ratio"][found["orders"] == 0] = 0.0
    return found


def earlier(values: npt.NDArray[Any], first: float = 0.0) -> npt.NDArray[Any]:
    """Return what was known a bar before; ``first`` at the first bar."""
    shifted = np.empty_like(values)
    shifted[0] = first
    shifted[1:] = values[:-1]
    return shifted
