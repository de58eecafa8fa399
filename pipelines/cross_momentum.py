"""Cross-sectional momentum: long what rose most lately, short what rose least, as much of each."""

from quantflow.signals import cross_sectional, momentum, param
from quantflow.signals.weights import long_short


@cross_sectional(columns=("close",))
def cross_momentum(
    bars,
    weights,
    trend=momentum.over("lookback"),
    lookback=param(126, low=2, high=2520, doc="bars over which the trend is measured"),
    fraction=param(0.2, low=0.01, high=0.5, doc="of the universe, on each side"),
):
    for i in range(len(weights)):
        weights[i] = momentum(trend[i], bars.close[i])  # NaN: no bar, or not warm yet
    long_short(weights, bars.present, fraction, 1.0)
