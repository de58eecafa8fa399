"""Indicators against TA-Lib and vectorbt, to 1e-9; each test names the peer and where it defines otherwise."""

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from vectorbt.generic import nb as vectorbt_generic
from vectorbt.indicators import nb as vectorbt_indicators

from quantflow.signals import (
    adx,
    anchored_vwap,
    atr,
    beta,
    bollinger,
    correlation,
    donchian,
    ema,
    ewma_volatility,
    half_life,
    keltner,
    linreg_slope,
    macd,
    momentum,
    obv,
    rolling_max,
    rolling_min,
    rolling_rank,
    rolling_std,
    rsi,
    sma,
    stochastic,
    vwap,
    wma,
    zscore,
)
from quantflow.testing.indicators import Case, moves

pytestmark = pytest.mark.slow  # as a module

properties = settings(max_examples=60)
windows = st.integers(2, 12)
spans = st.integers(1, 12)
some_bars = moves(min_size=2)

BAR = ("high", "low", "close")


def agree(ours, peer, *, scale, where=True):
    """Check that values start at the same bar and are equal to 1e-9 of their own size or of ``scale``.

    ``where`` leaves out bars on which the peer's own arithmetic or definition is known to differ.
    """
    ours, peer = np.atleast_2d(ours), np.atleast_2d(peer)
    asked = np.broadcast_to(where, ours.shape)
    np.testing.assert_array_equal(np.isnan(ours)[asked], np.isnan(peer)[asked])
    np.testing.assert_allclose(ours[asked], peer[asked], rtol=1e-9, atol=1e-9 * scale)


def level(bars):
    return float(bars["close"].max())


def spread_out(values, window):
    """Return where the window's deviation is big enough for peers that subtract squares of prices."""
    deviation = pd.Series(values).rolling(window).std(ddof=0).to_numpy()
    return ~(deviation < 1e-3 * np.abs(values))


@properties
@given(bars=some_bars, window=windows)
def test_means_equal_talib_sma_and_wma(bars, window):
    close = bars["close"]
    agree(Case(sma, {"window": window}).values(bars), talib.SMA(close, window), scale=0.0)
    agree(Case(wma, {"window": window}).values(bars), talib.WMA(close, window), scale=0.0)


@properties
@given(bars=some_bars, window=windows)
def test_sma_equals_vectorbt_rolling_mean(bars, window):
    peer = vectorbt_generic.rolling_mean_1d_nb(bars["close"], window, window)
    agree(Case(sma, {"window": window}).values(bars), peer, scale=0.0)


@properties
@given(bars=some_bars, span=spans)
def test_ema_equals_vectorbt_exponential_mean(bars, span):
    peer = vectorbt_generic.ewm_mean_1d_nb(bars["close"], span, span, False)
    agree(Case(ema, {"span": span}).values(bars), peer, scale=0.0)


@properties
@given(bars=some_bars, window=windows)
def test_rolling_std_equals_talib_stddev_and_vectorbt_rolling_std(bars, window):
    close = bars["close"]
    clear = spread_out(close, window)
    agree(
        Case(rolling_std, {"window": window, "ddof": 0}).values(bars),
        talib.STDDEV(close, window),
        scale=0.0,
        where=clear,
    )
    for ddof in (0, 1):
        peer = vectorbt_generic.rolling_std_1d_nb(close, window, window, ddof)
        agree(Case(rolling_std, {"window": window, "ddof": ddof}).values(bars), peer, scale=0.0, where=clear)


@properties
@given(bars=some_bars, window=windows)
def test_zscore_equals_talib_sma_and_stddev(bars, window):
    close = bars["close"]
    with np.errstate(divide="ignore", invalid="ignore"):
        peer = (close - talib.SMA(close, window)) / talib.STDDEV(close, window)
    ours = Case(zscore, {"window": window, "ddof": 0}).values(bars)
    agree(ours, peer, scale=1.0, where=spread_out(close, window))


@properties
@given(bars=some_bars, window=windows)
def test_extremes_equal_talib_and_vectorbt(bars, window):
    close = bars["close"]
    largest = Case(rolling_max, {"window": window}).values(bars)[0]
    smallest = Case(rolling_min, {"window": window}).values(bars)[0]
    np.testing.assert_array_equal(largest, talib.MAX(close, window))
    np.testing.assert_array_equal(smallest, talib.MIN(close, window))
    np.testing.assert_array_equal(largest, vectorbt_generic.rolling_max_1d_nb(close, window, window))
    np.testing.assert_array_equal(smallest, vectorbt_generic.rolling_min_1d_nb(close, window, window))


@njit
def rank_of_newest(number, column, part):
    newest = part[-1]
    return (np.sum(part < newest) + (np.sum(part == newest) + 1) / 2) / len(part)


@properties
@given(bars=some_bars, window=st.integers(1, 12))
def test_rolling_rank_equals_vectorbt_rolling_apply_and_pandas(bars, window):
    coarse = {"close": np.round(bars["close"] / level(bars), 2)}  # with equal values
    ours = Case(rolling_rank, {"window": window}).values(coarse)
    peer = vectorbt_generic.rolling_apply_nb(coarse["close"].reshape(-1, 1), window, window, rank_of_newest)
    agree(ours, peer[:, 0], scale=0.0)
    agree(ours, pd.Series(coarse["close"]).rolling(window).rank(pct=True), scale=0.0)


@properties
@given(bars=some_bars, window=windows)
def test_linreg_slope_equals_talib(bars, window):
    ours = Case(linreg_slope, {"window": window}).values(bars)
    agree(ours, talib.LINEARREG_SLOPE(bars["close"], window), scale=1e-3 * level(bars))


@properties
@given(bars=some_bars, window=windows)
def test_correlation_equals_talib_correl(bars, window):
    # TA-Lib keeps running sums of squares: what has left its window must not be a million times larger.
    close, volume = bars["close"] / level(bars), 1.0 + bars["volume"] / 1e6
    clear = spread_out(close, window) & spread_out(volume, window)
    ours = Case(correlation, {"window": window}, ("close", "volume")).values({"close": close, "volume": volume})
    agree(ours, talib.CORREL(close, volume, window), scale=1.0, where=clear)


def prices_of(returns):
    """Return prices with these returns, which TA-Lib's BETA takes back out of them."""
    return np.cumprod(np.concatenate([[1.0], 1.0 + returns]))


returns = st.lists(st.integers(-900, 900), min_size=2, max_size=60).map(lambda points: np.array(points) / 1e4)


@properties
@given(pairs=st.lists(st.tuples(*[st.integers(-900, 900)] * 2), min_size=2, max_size=60), window=windows)
def test_beta_equals_talib_beta(pairs, window):
    stock, benchmark = np.array(pairs).T / 1e4
    ours = Case(beta, {"window": window}, ("stock", "benchmark")).values({"stock": stock, "benchmark": benchmark})
    # TA-Lib regresses its second argument on its first, whatever its manual calls them.
    peer = talib.BETA(prices_of(benchmark), prices_of(stock), window)[1:]
    # It computes the benchmark's variance from sums of squares, so that must not be rounding alone.
    clear = ~(pd.Series(benchmark).rolling(window).std(ddof=0).to_numpy() < 1e-3)
    agree(ours, peer, scale=1.0, where=clear)


@properties
@given(values=returns, window=st.integers(3, 12))
def test_half_life_equals_talib_beta_of_a_series_on_its_past(values, window):
    phi = talib.BETA(prices_of(values[:-1]), prices_of(values[1:]), window - 1)
    reverting = (phi > 1e-3) & (phi < 1.0 - 1e-3)
    before = pd.Series(values).shift(1).rolling(window - 1).std(ddof=0).to_numpy()
    ours = Case(half_life, {"window": window}).values({"close": values})[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        peer = np.log(0.5) / np.log(phi)
    agree(ours, peer, scale=1.0, where=reverting & ~(before < 1e-3))


@properties
@given(bars=some_bars, window=windows)
def test_rsi_equals_talib(bars, window):
    close = bars["close"]
    ours = Case(rsi, {"window": window}).values(bars)
    # While the price has never moved TA-Lib answers 0, this library 50.
    agree(ours, talib.RSI(close, window), scale=100.0, where=np.maximum.accumulate(close != close[0]) | np.isnan(ours))


@properties
@given(bars=some_bars, window=windows)
def test_atr_equals_talib(bars, window):
    ours = Case(atr, {"window": window}, BAR).values(bars)
    agree(ours, talib.ATR(*(bars[name] for name in BAR), window), scale=1e-3 * level(bars))


@properties
@given(bars=some_bars, fast=spans, slow=spans, signal=spans)
def test_macd_equals_vectorbt_with_exponential_means(bars, fast, slow, signal):
    close = bars["close"].reshape(-1, 1)
    # Its function as plain Python: compiled, it takes typed lists and dictionaries that numba warns about.
    means = {hash((span, True)): vectorbt_indicators.ma_nb(close, span, True, False) for span in (fast, slow)}
    line, smoothed = vectorbt_indicators.macd_apply_nb.py_func(close, fast, slow, signal, True, True, False, means)
    ours = Case(macd, {"fast": fast, "slow": slow, "signal": signal}).values(bars)
    started = ~np.isnan(ours[0])  # the line is held back until the signal has started, too
    np.testing.assert_array_equal(started, ~np.isnan(smoothed[:, 0]))
    peer = np.array([line[:, 0], smoothed[:, 0], (line - smoothed)[:, 0]])
    agree(ours, peer, scale=1e-3 * level(bars), where=started)


@properties
@given(bars=some_bars, window=windows, multiplier=st.sampled_from([0.5, 2.0, 3.0]))
def test_bollinger_equals_talib_bbands(bars, window, multiplier):
    close = bars["close"]
    ours = Case(bollinger, {"window": window, "multiplier": multiplier}).values(bars)
    peer = np.array(talib.BBANDS(close, window, multiplier, multiplier))
    agree(ours, peer, scale=0.0, where=spread_out(close, window))


@properties
@given(bars=some_bars, window=windows)
def test_donchian_equals_talib_max_and_min(bars, window):
    upper, middle, lower = Case(donchian, {"window": window}, ("high", "low")).values(bars)
    np.testing.assert_array_equal(upper, talib.MAX(bars["high"], window))
    np.testing.assert_array_equal(lower, talib.MIN(bars["low"], window))
    agree(middle, talib.MIDPRICE(bars["high"], bars["low"], window), scale=0.0)


@properties
@given(bars=some_bars, span=spans, window=windows)
def test_keltner_equals_vectorbt_exponential_mean_and_talib_atr(bars, span, window):
    middle = vectorbt_generic.ewm_mean_1d_nb(bars["close"], span, span, False)
    reach = 2.0 * talib.ATR(*(bars[name] for name in BAR), window)
    peer = np.array([middle + reach, middle + 0.0 * reach, middle - reach])
    agree(Case(keltner, {"span": span, "window": window, "multiplier": 2.0}, BAR).values(bars), peer, scale=level(bars))


@properties
@given(bars=some_bars, window=spans, smooth=spans, signal=spans)
def test_stochastic_equals_talib_stoch(bars, window, smooth, signal):
    ours = Case(stochastic, {"window": window, "smooth": smooth, "signal": signal}, BAR).values(bars)
    peer = np.array(talib.STOCH(*(bars[name] for name in BAR), window, smooth, 0, signal, 0))
    # A range of zero counts as 0 for TA-Lib and as 50 here, in every mean that it enters.
    ranges = pd.Series(bars["high"]).rolling(window).max() - pd.Series(bars["low"]).rolling(window).min()
    entered = (ranges <= 0.0).rolling(smooth + signal, min_periods=1).max().to_numpy() > 0.0
    agree(ours, peer, scale=100.0, where=~entered)


@properties
@given(bars=some_bars, window=windows)
def test_adx_equals_talib_adx_and_directional_indicators(bars, window):
    columns = [bars[name] for name in BAR]
    ours = Case(adx, {"window": window}, BAR).values(bars)
    started = ~np.isnan(ours[0])  # the directional indicators are held back until adx has started, too
    peer = np.array([function(*columns, window) for function in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI)])
    np.testing.assert_array_equal(started, ~np.isnan(peer[0]))
    agree(ours, peer, scale=100.0, where=started)


@properties
@given(bars=some_bars)
def test_obv_equals_talib(bars):
    ours = Case(obv, {}, ("close", "volume")).values(bars)
    agree(ours, talib.OBV(bars["close"], bars["volume"]), scale=1.0)


@properties
@given(bars=some_bars, window=windows)
def test_vwap_equals_talib_sums(bars, window):
    close, volume = bars["close"], bars["volume"]
    ours = Case(vwap, {"window": window}, ("close", "volume")).values(bars)
    agree(ours, talib.SUM(close * volume, window) / talib.SUM(volume, window), scale=0.0)


@properties
@given(bars=some_bars)
def test_anchored_vwap_equals_talib_sums_since_the_anchor(bars):
    close, volume, session = (bars[name] for name in ("close", "volume", "session"))
    ours = Case(anchored_vwap, {}, ("close", "volume", "session")).values(bars)[0]
    for bar in range(len(close)):
        since = bar - int(np.argmax(session == session[bar])) + 1
        peer = close[bar]  # TA-Lib sums at least two bars
        if since > 1:
            peer = talib.SUM(close * volume, since)[bar] / talib.SUM(volume, since)[bar]
        assert ours[bar] == pytest.approx(peer, rel=1e-9)


@properties
@given(bars=some_bars, lookback=spans)
def test_momentum_equals_talib_rocp(bars, lookback):
    agree(Case(momentum, {"lookback": lookback}).values(bars), talib.ROCP(bars["close"], lookback), scale=1.0)


@properties
@given(bars=some_bars, span=spans)
def test_ewma_volatility_equals_vectorbt_exponential_mean_of_squares(bars, span):
    squares = (bars["close"][1:] / bars["close"][:-1] - 1.0) ** 2
    peer = np.sqrt(vectorbt_generic.ewm_mean_1d_nb(squares, span, span, True))
    agree(Case(ewma_volatility, {"span": span}).values(bars)[0, 1:], peer, scale=1e-3)
