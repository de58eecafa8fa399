"""All indicators compiled into one signal: against plain Python, and against math.fsum after 10 million bars.

The peers keep running sums, which drift: on this history vectorbt's rolling deviation ends
2e-7 off. So each value is recomputed from the bars that define it, by exact summation.
"""

import math

import numpy as np
import pytest

from quantflow.testing.indicators import OUTPUTS, UNWRITTEN, every_output, market

BARS = 10_000_000
STOPS = (4_000_003, 7_654_321, BARS)

pytestmark = pytest.mark.slow


def records(bound, columns, stops):
    """Return what every indicator answered at the last bar before each stop, state saved and restored there."""
    place = np.flatnonzero(bound.start() == UNWRITTEN)
    matrix = np.array([columns[name] for name in bound.columns])
    states = bound.start().reshape(1, -1)
    found = []
    for first, last in zip((0, *stops[:-1]), stops, strict=True):
        bound.advance(states, np.array([0, last - first]), np.ascontiguousarray(matrix[:, first:last]))
        states = bound.restore(bound.snapshot(states[0])).reshape(1, -1)
        found.append(states[0, place].copy())
    return np.array(found)


def test_compiled_and_plain_indicators_agree_and_resume_bit_for_bit():
    columns = market(320, seed=5)
    every_bar = tuple(range(1, 321))
    compiled = records(every_output.bind(), columns, every_bar)
    plain = records(every_output.bind(uncompiled=True), columns, every_bar)
    np.testing.assert_allclose(compiled, plain, rtol=1e-9, atol=1e-9)
    assert not np.isnan(compiled[-1]).any()
    np.testing.assert_array_equal(records(every_output.bind(), columns, (320,))[0], compiled[-1])


def mean(values):
    return math.fsum(values) / len(values)


def products(left, right):
    """Return the sum of products of deviations from the means."""
    return math.fsum((left - mean(left)) * (right - mean(right)))


def deviation(values, ddof):
    return math.sqrt(products(values, values) / (len(values) - ddof))


def faded(values, weight):
    """Return the mean of a long past with weights that fall by ``1 - weight`` a bar."""
    recent = values[-math.ceil(50.0 / weight) :]  # what is left out weighs less than 1e-20
    weights = (1.0 - weight) ** np.arange(len(recent) - 1.0, -1.0, -1.0)
    return math.fsum(weights * recent) / math.fsum(weights)


def fading(values, weight, count):
    """Return :func:`faded` at each of the last ``count`` bars."""
    return np.array([faded(values[: len(values) - back], weight) for back in range(count - 1, -1, -1)])


class Reference:
    """Every output at one bar, from the bars up to it."""

    def __init__(self, columns, stop):
        self.stop = stop
        self.columns = columns
        near = slice(stop - 5_000, stop)
        self.high, self.low, self.close, self.volume = (
            columns[name][near] for name in ("high", "low", "close", "volume")
        )
        self.change = np.diff(self.close, prepend=np.nan)
        before = np.roll(self.close, 1)
        self.range = np.maximum(self.high, before) - np.minimum(self.low, before)

    def outputs(self):
        values = {
            **self.windows(),
            **self.regressions(),
            **self.oscillators(),
            **self.bands(),
            **self.directional(),
            **self.volumes(),
        }
        return np.array([values[name] for name in OUTPUTS])

    def windows(self):
        close = self.close
        weights = np.arange(1.0, 61.0)
        newest = close[-1]
        return {
            "sma": mean(close[-50:]),
            "wma": math.fsum(weights * close[-60:]) / math.fsum(weights),
            "ema": faded(close, 2.0 / 21.0),
            "rolling_std": deviation(close[-50:], 1),
            "zscore": self.scores(1)[0],
            "rolling_max": close[-50:].max(),
            "rolling_min": close[-55:].min(),
            "rolling_rank": (close[-252:] <= newest).sum() / 252.0,
            "momentum": newest / close[-31] - 1.0,
            "ewma_volatility": math.sqrt(faded((close[1:] / close[:-1] - 1.0) ** 2, 2.0 / 31.0)),
        }

    def scores(self, count):
        windows = [self.close[end - 70 : end] for end in range(len(self.close) - count + 1, len(self.close) + 1)]
        return np.array([(window[-1] - mean(window)) / deviation(window, 1) for window in windows])

    def regressions(self):
        time = np.arange(50.0)
        high, low = self.high[-50:], self.low[-50:]
        close, volume = self.close[-64:], self.volume[-64:]
        now, past = self.scores(89), self.scores(90)[:-1]
        phi = products(past, now) / products(past, past)
        return {
            "linreg_slope": products(time, self.close[-50:]) / products(time, time),
            "correlation": products(close, volume) / math.sqrt(products(close, close) * products(volume, volume)),
            "beta": products(high, low) / products(low, low),
            "half_life": math.log(0.5) / math.log(phi) if phi > 0.0 else 0.0,
        }

    def oscillators(self):
        line = fading(self.close, 2.0 / 13.0, 300) - fading(self.close, 2.0 / 27.0, 300)
        signal = faded(line, 0.2)
        gain = faded(np.maximum(self.change[1:], 0.0), 1.0 / 14.0)
        loss = faded(np.maximum(-self.change[1:], 0.0), 1.0 / 14.0)
        places = [
            100.0
            * (self.close[end - 1] - self.low[end - 14 : end].min())
            / (self.high[end - 14 : end].max() - self.low[end - 14 : end].min())
            for end in range(len(self.close) - 4, len(self.close) + 1)
        ]
        return {
            "rsi": 100.0 * gain / (gain + loss),
            "atr": faded(self.range[1:], 1.0 / 14.0),
            "macd.line": line[-1],
            "macd.signal": signal,
            "macd.histogram": line[-1] - signal,
            "stochastic.k": mean(places[-3:]),
            "stochastic.d": mean([mean(places[at : at + 3]) for at in range(3)]),
        }

    def bands(self):
        middle, reach = mean(self.close[-20:]), 2.0 * deviation(self.close[-20:], 0)
        upper, lower = self.high[-33:].max(), self.low[-33:].min()
        trend, ranges = faded(self.close, 2.0 / 21.0), 2.0 * faded(self.range[1:], 0.1)
        return {
            "bollinger.upper": middle + reach,
            "bollinger.middle": middle,
            "bollinger.lower": middle - reach,
            "donchian.upper": upper,
            "donchian.middle": (upper + lower) / 2.0,
            "donchian.lower": lower,
            "keltner.upper": trend + ranges,
            "keltner.middle": trend,
            "keltner.lower": trend - ranges,
        }

    def directional(self):
        rise, fall = np.diff(self.high), -np.diff(self.low)
        plus = np.where((rise > fall) & (rise > 0.0), rise, 0.0)
        minus = np.where((fall > rise) & (fall > 0.0), fall, 0.0)
        plus, minus, ranges = (fading(moves, 1.0 / 14.0, 700) for moves in (plus, minus, self.range[1:]))
        plus, minus = 100.0 * plus / ranges, 100.0 * minus / ranges
        return {
            "adx.plus_di": plus[-1],
            "adx.minus_di": minus[-1],
            "adx.adx": faded(100.0 * np.abs(plus - minus) / (plus + minus), 1.0 / 14.0),
        }

    def volumes(self):
        close, volume = self.columns["close"][: self.stop], self.columns["volume"][: self.stop]
        signed = np.sign(np.diff(close, prepend=0.0)) * volume
        anchored = slice((self.stop - 1) // 3_000_000 * 3_000_000, self.stop)
        traded = (self.close * self.volume)[-40:]
        return {
            "obv": math.fsum(signed),
            "vwap": math.fsum(traded) / math.fsum(self.volume[-40:]),
            "anchored_vwap": math.fsum((close * volume)[anchored]) / math.fsum(volume[anchored]),
        }


def test_after_ten_million_bars_every_indicator_equals_its_exact_recomputation():
    # Windows hardly vary beside their level: running sums of squares would lose them.
    columns = market(BARS, seed=7, volatility=2e-4)
    found = records(every_output.bind(), columns, STOPS)
    for stop, row in zip(STOPS, found, strict=True):
        expected = Reference(columns, stop).outputs()
        wrong = [
            f"{name} is {value!r} at bar {stop}, exactly {exact!r}"
            for name, value, exact in zip(OUTPUTS, row, expected, strict=True)
            if not math.isclose(value, exact, rel_tol=1e-9, abs_tol=1e-12)
        ]
        assert not wrong
