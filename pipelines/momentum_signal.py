"""Time-series momentum with a volatility target: long what rose, the calmer the larger.

The trend is the change over ``lookback`` bars in units of its own expected size, so that 1.0
means "as large as volatility alone would explain". The position is scaled to bring its
expected volatility to ``target_volatility``. Both use the current bar's close, so an
exposure can be filled at the next bar's close at the earliest.
"""

import math

from quantflow.signals import ewma_volatility, momentum, param, signal


@signal(columns=("close",))
def momentum_signal(
    bar,
    trend=momentum.over("lookback"),
    risk=ewma_volatility.over("volatility_window"),
    lookback=param(126, low=2, high=2520, doc="bars over which the trend is measured"),
    volatility_window=param(21, low=2, high=2520, doc="span of the volatility's weights, in bars"),
    target_volatility=param(0.15, low=0.001, high=5.0, doc="per year"),
    allow_short=param(False, doc="false: a falling trend is flat, not short"),
):
    change = momentum(trend, bar.close)
    volatility = ewma_volatility(risk, bar.close)
    if not volatility > 0.0:  # NaN before the warm-up's end, 0.0 while the price stands still
        return 0.0
    strength = change / (volatility * math.sqrt(lookback))
    size = target_volatility / (volatility * math.sqrt(252))
    exposure = max(-1.0, min(1.0, strength)) * size
    floor = -1.0 if allow_short else 0.0
    return max(floor, min(1.0, exposure))
