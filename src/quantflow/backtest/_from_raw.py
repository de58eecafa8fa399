"""Figures of many backtests at once, from the sums that the compiled engines keep.

Each is the figure of the same name in :func:`quantflow.backtest.portfolio_metrics`, to 1e-9, without
the path of returns. Those that need the whole path (value at risk, CVaR, tail ratio, the
duration of the deepest fall) have no such sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantflow.backtest._raw import RAW_METRICS
from quantflow.backtest._series import period_rate
from quantflow.errors import RiskError

__all__ = ["DETAILED_METRICS", "SUMMARY_METRICS", "metrics_from_raw"]

Floats = npt.NDArray[np.float64]

# Returns that differ by less than this part of the largest one differ by rounding only.
_NO_DIFFERENCE = 1e-15


def metrics_from_raw(
    raw: npt.ArrayLike, metrics: Collection[str], *, periods_per_year: float, risk_free_rate: float
) -> dict[str, Floats]:
    """Return figures by name, each with a number a row of ``raw``.

    Parameters
    ----------
    raw
        A row a backtest, columns :data:`~quantflow.backtest._raw.RAW_METRICS`, measured with the
        same risk-free rate.
    metrics
        Names of :data:`SUMMARY_METRICS`.
    periods_per_year, risk_free_rate
        As in :func:`~quantflow.backtest.portfolio_metrics`.

    Raises
    ------
    RiskError
        An unknown figure, or columns that are not the engines'.
    """
    sums = np.atleast_2d(np.asarray(raw, dtype=np.float64))
    if sums.ndim != 2 or sums.shape[1] != len(RAW_METRICS):
        raise RiskError(f"sums have the shape {sums.shape}; allowed: a row a backtest, {len(RAW_METRICS)} columns")
    unknown = [name for name in metrics if name not in _FIGURES]
    if unknown:
        raise RiskError(f"unknown metrics {', '.join(unknown)}; known: {', '.join(SUMMARY_METRICS)}")
    sample = _Sample(sums, periods_per_year, period_rate(risk_free_rate, periods_per_year))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: np.array(_FIGURES[name](sample), dtype=np.float64) for name in metrics}


@dataclass(frozen=True)
class _Sample:
    """The sums, and what several figures share."""

    sums: Floats
    periods_per_year: float
    rate: float

    def __getitem__(self, name: str) -> Floats:
        column: Floats = self.sums[:, RAW_METRICS.index(name)]
        return column

    @property
    def count(self) -> Floats:
        return self["periods"]

    @property
    def years(self) -> Floats:
        return self.count / self.periods_per_year

    @property
    def mean(self) -> Floats:
        return self["sum_return"] / self.count

    @property
    def varies(self) -> npt.NDArray[np.bool_]:
        low, high = self["lowest_return"], self["highest_return"]
        largest = np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
        different: npt.NDArray[np.bool_] = (high - low) > _NO_DIFFERENCE * largest
        return different & (self.squares > 0.0)

    @property
    def squares(self) -> Floats:
        """Sum of squared distances from the mean; slightly negative where rounding is all there is."""
        return self["sum_return_2"] - self["sum_return"] * self.mean

    @property
    def deviation(self) -> Floats:
        """Sample standard deviation of returns, 0.0 where they do not vary."""
        return np.where(self.varies, np.sqrt(np.maximum(self.squares, 0.0) / (self.count - 1.0)), 0.0)

    @property
    def sharpe(self) -> Floats:
        """Sharpe ratio per period, 0.0 where returns do not vary."""
        return np.where(self.varies, (self.mean - self.rate) / np.where(self.varies, self.deviation, 1.0), 0.0)

    @property
    def max_drawdown(self) -> Floats:
        """Deepest fall; the engines divide by a rounded inverse, which leaves an ulp of none."""
        fall = self["max_drawdown"]
        return np.where(fall > _NO_DIFFERENCE, fall, 0.0)

    def yearly(self, ratio: Floats) -> Floats:
        return ratio * math.sqrt(self.periods_per_year)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    positive = denominator > 0.0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)


def _total_return(sample: _Sample) -> Floats:
    return sample["final_equity"] / sample["initial_equity"] - 1.0


def _cagr(sample: _Sample) -> Floats:
    growth = sample["final_equity"] / sample["initial_equity"]
    return np.where(growth > 0.0, np.maximum(growth, 0.0) ** (1.0 / sample.years) - 1.0, -1.0)


def _sortino(sample: _Sample) -> Floats:
    downside = np.sqrt(sample["sum_below_2"] / sample.count)
    return _ratio(sample.yearly(sample.mean - sample.rate), downside)


def _probabilistic_sharpe(sample: _Sample) -> Floats:
    sharpe = sample.sharpe
    variance = 1.0 - _skew(sample) * sharpe + (_kurtosis(sample) - 1.0) / 4.0 * sharpe**2
    defined = (variance > 0.0) & (sample.count >= 3.0)
    distance = sharpe * np.sqrt(sample.count - 1.0) / np.sqrt(np.where(defined, variance, 1.0))
    return np.where(defined, _normal_cdf(distance), np.nan)


def _normal_cdf(distance: Floats) -> Floats:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in distance.tolist()])


def _skew(sample: _Sample) -> Floats:
    mean, count = sample.mean, sample.count
    third = sample["sum_return_3"] / count - 3.0 * mean * sample["sum_return_2"] / count + 2.0 * mean**3
    return np.where(sample.varies, third / (sample.squares / count) ** 1.5, np.nan)


def _kurtosis(sample: _Sample) -> Floats:
    mean, count = sample.mean, sample.count
    second = 6.0 * mean**2 * sample["sum_return_2"] / count
    fourth = sample["sum_return_4"] / count - 4.0 * mean * sample["sum_return_3"] / count + second - 3.0 * mean**4
    return np.where(sample.varies, fourth / (sample.squares / count) ** 2, np.nan)


def _column(name: str) -> Callable[[_Sample], Floats]:
    return lambda sample: sample[name]


def _yearly_sum(name: str) -> Callable[[_Sample], Floats]:
    return lambda sample: sample[name] / sample.years


def _mean_of(name: str) -> Callable[[_Sample], Floats]:
    return lambda sample: sample[name] / sample.count


def _hit_rate(sample: _Sample) -> Floats:
    moved = sample["gains"] + sample["losses"]
    return np.where(moved > 0.0, sample["gains"] / np.where(moved > 0.0, moved, 1.0), 0.0)


def _of_cash(name: str) -> Callable[[_Sample], Floats]:
    return lambda sample: sample[name] / sample["initial_equity"]


def _expectancy(sample: _Sample) -> Floats:
    profit = (sample["trade_profit"] - sample["trade_loss"]) / sample["initial_equity"]
    return _ratio(profit, sample["trades"])


_FIGURES: dict[str, Callable[[_Sample], Floats]] = {
    "total_return": _total_return,
    "cagr": _cagr,
    "volatility": lambda sample: sample.yearly(sample.deviation),
    "sharpe_ratio": lambda sample: sample.yearly(sample.sharpe),
    "sortino_ratio": _sortino,
    "calmar_ratio": lambda sample: _ratio(_cagr(sample), sample.max_drawdown),
    "omega_ratio": lambda sample: _ratio(sample["sum_above"], sample["sum_below"]),
    "probabilistic_sharpe": _probabilistic_sharpe,
    "max_drawdown": lambda sample: sample.max_drawdown,
    "longest_drawdown": _column("longest_drawdown"),
    "skew": _skew,
    "kurtosis": _kurtosis,
    "hit_rate": _hit_rate,
    "turnover": _yearly_sum("turnover"),
    "cost": _yearly_sum("cost"),
    "exposure": _mean_of("sum_gross"),
    "net_exposure": _mean_of("sum_net"),
    "time_in_market": _mean_of("invested"),
    "orders": _column("orders"),
    "stops": _column("stops"),
    "limited": _column("limited"),
    "fees": _of_cash("fees"),
    "slippage": _of_cash("slippage"),
    "costs_paid": lambda sample: (sample["fees"] + sample["slippage"]) / sample["initial_equity"],
    "carry": _of_cash("carry"),
    "trades": _column("trades"),
    "win_rate": lambda sample: _ratio(sample["trades_won"], sample["trades"]),
    "profit_factor": lambda sample: _ratio(sample["trade_profit"], sample["trade_loss"]),
    "expectancy": _expectancy,
    "ruined": lambda sample: (sample["ruined"] >= 0.0).astype(np.float64),
    "periods": _column("periods"),
}

#: Figures that :func:`metrics_from_raw` knows.
SUMMARY_METRICS: tuple[str, ...] = tuple(_FIGURES)

#: Those that need sums which the brief engine leaves out.
DETAILED_METRICS: frozenset[str] = frozenset(
    {
        "exposure",
        "hit_rate",
        "kurtosis",
        "longest_drawdown",
        "net_exposure",
        "omega_ratio",
        "probabilistic_sharpe",
        "skew",
        "sortino_ratio",
        "time_in_market",
    }
)
