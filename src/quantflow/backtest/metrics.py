"""Performance figures of a series of returns, each with its formula and where it comes from.

``returns`` are 1-D simple returns per period as fractions (0.01 is +1 %), oldest first, the
first session's included. Periods in a year and the risk-free rate are always given by name:
a figure without them has no meaning. The rate is a fraction a year and becomes
``f = (1 + rate) ** (1 / periods_per_year) - 1`` per period.

NaN or infinite returns are refused with a :class:`~quantflow.errors.RiskError`: a gap is the
caller's to explain. A figure that the returns do not determine, such as a ratio to a risk of
zero, is NaN, which ranks below every number in a search; :func:`sharpe_ratio` and
:func:`hit_rate` alone answer 0.0 then.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.backtest import _series as series
from quantflow.backtest._series import NO_DEVIATION, finite, positive
from quantflow.errors import RiskError
from quantflow.risk import cvar, drawdowns, max_drawdown, value_at_risk, volatility

__all__ = [
    "annual_volatility",
    "cagr",
    "calmar_ratio",
    "expectancy",
    "hit_rate",
    "information_ratio",
    "kurtosis",
    "longest_drawdown",
    "max_drawdown_duration",
    "omega_ratio",
    "portfolio_metrics",
    "probabilistic_sharpe",
    "profit_factor",
    "rolling_sharpe_ratio",
    "sharpe_ratio",
    "skew",
    "sortino_ratio",
    "tail_ratio",
    "total_return",
    "win_rate",
]

Floats = npt.NDArray[np.float64]


def total_return(returns: npt.ArrayLike) -> float:
    """Return the compound growth of the whole series: ``prod(1 + r) - 1``."""
    return float(np.prod(1.0 + finite(returns, at_least=1))) - 1.0


def cagr(returns: npt.ArrayLike, *, periods_per_year: float) -> float:
    """Return the compound growth a year: ``prod(1 + r) ** (periods_per_year / n) - 1``.

    -1 when the equity was lost.
    """
    values = finite(returns)
    years = len(values) / positive(periods_per_year)
    growth = float(np.prod(1.0 + values))
    return growth ** (1.0 / years) - 1.0 if growth > 0.0 else -1.0


def annual_volatility(returns: npt.ArrayLike, *, periods_per_year: float) -> float:
    """Return the sample standard deviation (divisor ``n - 1``) times ``sqrt(periods_per_year)``."""
    return volatility(returns, periods_per_year=periods_per_year)


def sharpe_ratio(returns: npt.ArrayLike, *, periods_per_year: float, risk_free_rate: float) -> float:
    """Return the yearly Sharpe ratio: ``mean(r - f) / std(r - f) * sqrt(periods_per_year)``.

    Parameters
    ----------
    returns
        Simple returns per period.
    periods_per_year
        252 for daily bars of a stock exchange.
    risk_free_rate
        A year, a fraction.

    Returns
    -------
    float
        0.0 when the returns do not vary. Standard deviation with ``n - 1``.

    References
    ----------
    Sharpe, W. (1994), The Sharpe Ratio, Journal of Portfolio Management 21(1).
    """
    excess = series.excess(returns, periods_per_year, risk_free_rate)
    deviation = series.deviation(excess)
    return float(excess.mean()) / deviation * math.sqrt(periods_per_year) if deviation > 0.0 else 0.0


def sortino_ratio(returns: npt.ArrayLike, *, periods_per_year: float, risk_free_rate: float) -> float:
    """Return the yearly Sortino ratio: ``mean(r - f) / sqrt(mean(min(r - f, 0) ** 2)) * sqrt(periods_per_year)``.

    The downside deviation counts every period, those without a loss as zero. NaN when no
    period fell below the risk-free rate.

    References
    ----------
    Sortino, F. and Price, L. (1994), Performance Measurement in a Downside Risk Framework,
    Journal of Investing 3(3).
    """
    excess = series.excess(returns, periods_per_year, risk_free_rate)
    downside = math.sqrt(float(np.mean(np.minimum(excess, 0.0) ** 2)))
    return series.ratio(float(excess.mean()) * math.sqrt(periods_per_year), downside)


def calmar_ratio(returns: npt.ArrayLike, *, periods_per_year: float) -> float:
    """Return growth a year over the deepest fall: ``cagr / max_drawdown``; NaN without a fall.

    References
    ----------
    Young, T. (1991), Calmar Ratio: A Smoother Tool, Futures 20(1); here over the whole series.
    """
    fall = max_drawdown(returns)
    return series.ratio(cagr(returns, periods_per_year=periods_per_year), fall if fall > NO_DEVIATION else 0.0)


def omega_ratio(returns: npt.ArrayLike, *, periods_per_year: float, risk_free_rate: float) -> float:
    """Return gains over losses about the risk-free rate: ``sum(max(r - f, 0)) / sum(max(f - r, 0))``.

    NaN when no period fell below the rate.

    References
    ----------
    Keating, C. and Shadwick, W. (2002), A Universal Performance Measure, Journal of
    Performance Measurement 6(3).
    """
    return profit_factor(series.excess(returns, periods_per_year, risk_free_rate))


def information_ratio(returns: npt.ArrayLike, benchmark: npt.ArrayLike, *, periods_per_year: float) -> float:
    """Return the yearly information ratio: ``mean(a) / std(a) * sqrt(periods_per_year)`` with ``a = r - benchmark``.

    Parameters
    ----------
    returns, benchmark
        Simple returns of the same periods.
    periods_per_year
        1 gives the ratio per period.

    Returns
    -------
    float
        NaN when the active return does not vary. Standard deviation with ``n - 1``.

    Raises
    ------
    RiskError
        The two have different lengths, too.

    References
    ----------
    Grinold, R. and Kahn, R. (2000), Active Portfolio Management, 2nd ed., chapter 5.
    """
    values, against = finite(returns), finite(benchmark)
    if len(values) != len(against):
        raise RiskError(f"{len(values)} returns and {len(against)} of the benchmark; give both for the same periods")
    active = values - against
    return series.ratio(float(active.mean()) * math.sqrt(positive(periods_per_year)), series.deviation(active))


def probabilistic_sharpe(
    returns: npt.ArrayLike, *, periods_per_year: float, risk_free_rate: float, benchmark_sharpe: float = 0.0
) -> float:
    """Return the probability that the true Sharpe ratio is above a benchmark's.

    ``Phi((s - s0) * sqrt(n - 1) / sqrt(1 - g3 * s + (g4 - 1) / 4 * s ** 2))`` with the Sharpe ratio ``s``
    and the benchmark ``s0`` per period (the yearly ones divided by ``sqrt(periods_per_year)``),
    :func:`skew` ``g3`` and :func:`kurtosis` ``g4``.

    Parameters
    ----------
    returns, periods_per_year, risk_free_rate
        As in :func:`sharpe_ratio`.
    benchmark_sharpe
        A Sharpe ratio a year.

    Returns
    -------
    float
        Between 0 and 1; NaN for fewer than three returns, or returns that do not vary.

    References
    ----------
    Bailey, D. and Lopez de Prado, M. (2012), The Sharpe Ratio Efficient Frontier, Journal of
    Risk 15(2), equation 11.
    """
    excess = series.excess(returns, periods_per_year, risk_free_rate)
    deviation = series.deviation(excess)
    if deviation == 0.0 or len(excess) < 3:
        return math.nan
    sharpe = float(excess.mean()) / deviation
    variance = 1.0 - skew(excess) * sharpe + (kurtosis(excess) - 1.0) / 4.0 * sharpe**2
    if not variance > 0.0:
        return math.nan
    distance = (sharpe - benchmark_sharpe / math.sqrt(periods_per_year)) * math.sqrt(len(excess) - 1)
    return NormalDist().cdf(distance / math.sqrt(variance))


def skew(returns: npt.ArrayLike) -> float:
    """Return the skewness ``m3 / m2 ** 1.5`` with central moments of divisor ``n``; NaN without variation.

    Negative where the bad tail is the longer one (Fisher-Pearson, not corrected for bias).
    """
    return _standardized_moment(finite(returns), 3)


def kurtosis(returns: npt.ArrayLike) -> float:
    """Return the kurtosis ``m4 / m2 ** 2`` with central moments of divisor ``n``; NaN without variation.

    3 for the normal distribution: Pearson's, not the excess over it.
    """
    return _standardized_moment(finite(returns), 4)


def tail_ratio(returns: npt.ArrayLike) -> float:
    """Return ``abs(q95) / abs(q5)`` with the 95 % and 5 % quantiles of returns, linearly interpolated.

    Above 1 where good periods are larger than bad ones; NaN when the 5 % quantile is 0. As in
    empyrical and vectorbt.
    """
    low, high = np.quantile(finite(returns, at_least=1), [0.05, 0.95])
    return series.ratio(abs(float(high)), abs(float(low)))


def hit_rate(returns: npt.ArrayLike) -> float:
    """Return the fraction of periods with a gain among those with a gain or a loss; 0.0 without any."""
    values = finite(returns, at_least=0)
    gains, losses = int((values > 0.0).sum()), int((values < 0.0).sum())
    return gains / (gains + losses) if gains + losses else 0.0


def profit_factor(profits: npt.ArrayLike) -> float:
    """Return ``sum of gains / sum of losses``; NaN without a loss.

    Parameters
    ----------
    profits
        Profit or loss of each round trip (:func:`~quantflow.backtest.round_trips`) or period, in
        any one unit.
    """
    values = finite(profits, at_least=0)
    return series.ratio(float(values[values > 0.0].sum()), -float(values[values < 0.0].sum()))


def expectancy(profits: npt.ArrayLike) -> float:
    """Return the mean profit of a trade, in the unit of ``profits``; NaN without trades.

    The same as ``share of winners * their mean - share of losers * their mean loss``. ``profits`` as
    in :func:`profit_factor`.
    """
    values = finite(profits, at_least=0)
    return float(values.mean()) if len(values) else math.nan


def win_rate(profits: npt.ArrayLike) -> float:
    """Return the share of trades with a profit; NaN without trades. ``profits`` as in :func:`profit_factor`."""
    values = finite(profits, at_least=0)
    return float((values > 0.0).mean()) if len(values) else math.nan


def max_drawdown_duration(returns: npt.ArrayLike) -> int:
    """Return for how many periods the deepest fall lasted: from its peak until equity was back there.

    The series' end counts where equity never came back; of equally deep falls the first is
    taken; 0 without a fall. :func:`~quantflow.backtest.drawdown_table` has the dates.
    """
    falls = drawdowns(returns)
    high = np.flatnonzero(falls <= 0.0)
    deepest = int(falls.argmax())
    if not falls[deepest] > 0.0:
        return 0
    place = int(np.searchsorted(high, deepest))
    # The starting equity is a peak before the first period.
    peak = int(high[place - 1]) if place else -1
    back = int(high[place]) if place < len(high) else len(falls) - 1
    return back - peak


def longest_drawdown(returns: npt.ArrayLike) -> int:
    """Return the most periods in a row that ended below an earlier equity."""
    falls = drawdowns(returns)
    high = np.flatnonzero(falls <= 0.0)
    return int(np.diff(np.concatenate([[-1], high, [len(falls)]])).max()) - 1


def rolling_sharpe_ratio(
    returns: npt.ArrayLike, *, window: int, periods_per_year: float, risk_free_rate: float
) -> Floats:
    """Return :func:`sharpe_ratio` of the last ``window`` periods at each period, the current one included.

    NaN before the window is full, and 0.0 where it does not vary.
    """
    excess = series.excess(returns, periods_per_year, risk_free_rate)
    if window < 2:
        raise RiskError(f"window is {window!r}; allowed: at least 2 periods")
    result = np.full(len(excess), math.nan)
    if window <= len(excess):
        windows = np.lib.stride_tricks.sliding_window_view(excess, window)
        deviation = windows.std(axis=1, ddof=1)
        varies = deviation > NO_DEVIATION * np.maximum(1.0, np.abs(windows).max(axis=1))
        sharpe = windows.mean(axis=1) / np.where(varies, deviation, 1.0) * math.sqrt(periods_per_year)
        result[window - 1 :] = np.where(varies, sharpe, 0.0)
    return result


def portfolio_metrics(
    returns: npt.ArrayLike,
    *,
    turnover: npt.ArrayLike,
    cost: npt.ArrayLike,
    periods_per_year: float,
    risk_free_rate: float,
    confidence_level: float = 0.95,
    exposure: npt.ArrayLike | None = None,
    benchmark: npt.ArrayLike | None = None,
    trades: pl.DataFrame | None = None,
    initial_equity: float = 1.0,
) -> dict[str, float]:
    """Return the figures of a portfolio's returns by name.

    Parameters
    ----------
    returns
        Simple returns per period.
    turnover
        Value traded / equity in each period, both sides counted.
    cost
        Fees and slippage / equity in each period.
    periods_per_year, risk_free_rate
        As everywhere in this module.
    confidence_level
        Of value at risk and CVaR.
    exposure
        Value of all holdings, long and short added, / equity after each period.
    benchmark
        Returns of what the portfolio is compared with.
    trades
        Frame of :func:`~quantflow.backtest.round_trips`; closed ones are counted.
    initial_equity
        Equity before the first period, in the unit of the trades' profits.

    Returns
    -------
    dict
        ``total_return``, ``cagr``, ``volatility`` (a year), ``sharpe_ratio``, ``max_drawdown``
        (positive), ``value_at_risk`` and ``cvar`` (historical, one period), ``hit_rate``,
        ``turnover`` and ``cost`` (of equity, a year), ``sortino_ratio``, ``calmar_ratio``,
        ``omega_ratio``, ``probabilistic_sharpe``, ``max_drawdown_duration`` and ``longest_drawdown``
        (periods), ``tail_ratio``, ``skew``, ``kurtosis``.
        With ``exposure``: its mean and ``time_in_market``, the fraction of periods that ended with a
        holding. With ``benchmark``: ``information_ratio``. With ``trades``: ``trades`` (closed),
        ``win_rate``, ``profit_factor``, ``expectancy`` (mean profit of a trade) and ``costs_paid`` (fees and
        slippage of all), both / initial equity. Then ``periods``, ``periods_per_year``,
        ``risk_free_rate``.
    """
    values = finite(returns)
    years = len(values) / positive(periods_per_year)
    yearly = {"periods_per_year": periods_per_year}
    both = {**yearly, "risk_free_rate": risk_free_rate}
    figures = {
        "total_return": total_return(values),
        "cagr": cagr(values, **yearly),
        "volatility": annual_volatility(values, **yearly),
        "sharpe_ratio": sharpe_ratio(values, **both),
        "max_drawdown": max_drawdown(values),
        "value_at_risk": value_at_risk(values, confidence_level),
        "cvar": cvar(values, confidence_level),
        "hit_rate": hit_rate(values),
        "turnover": float(np.sum(np.asarray(turnover, dtype=np.float64))) / years,
        "cost": float(np.sum(np.asarray(cost, dtype=np.float64))) / years,
        "sortino_ratio": sortino_ratio(values, **both),
        "calmar_ratio": calmar_ratio(values, **yearly),
        "omega_ratio": omega_ratio(values, **both),
        "probabilistic_sharpe": probabilistic_sharpe(values, **both),
        "max_drawdown_duration": float(max_drawdown_duration(values)),
        "longest_drawdown": float(longest_drawdown(values)),
        "tail_ratio": tail_ratio(values),
        "skew": skew(values),
        "kurtosis": kurtosis(values),
    }
    if exposure is not None:
        held = np.asarray(exposure, dtype=np.float64)
        figures |= {"exposure": float(held.mean()), "time_in_market": float((held > 0.0).mean())}
    if benchmark is not None:
        figures["information_ratio"] = information_ratio(values, benchmark, **yearly)
    if trades is not None:
        figures |= _trade_figures(trades, initial_equity)
    return figures | {
        "periods": float(len(values)),
        "periods_per_year": float(periods_per_year),
        "risk_free_rate": float(risk_free_rate),
    }


def _trade_figures(trades: pl.DataFrame, initial_equity: float) -> dict[str, float]:
    profits = trades.filter(pl.col("exit_timestamp").is_not_null())["pnl"].to_numpy()
    return {
        "trades": float(len(profits)),
        "win_rate": win_rate(profits),
        "profit_factor": profit_factor(profits),
        "expectancy": expectancy(profits) / initial_equity,
        "costs_paid": float((trades["fee"] + trades["slippage"]).sum()) / initial_equity,
    }


def _standardized_moment(values: Floats, order: int) -> float:
    if series.deviation(values) == 0.0:
        return math.nan
    centred = values - values.mean()
    return float(np.mean(centred**order)) / math.pow(float(np.mean(centred**2)), order / 2.0)
