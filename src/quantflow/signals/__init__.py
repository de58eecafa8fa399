'''Signals: one bar in, one target exposure out; written once, run in sweep, backtest and live.

A signal is a plain Python function. Its first argument is the bar; the others are, in any
order, the memory it keeps between bars (indicators and :func:`memory`) and its parameters
(:func:`param`). It answers the target exposure, a fraction of its symbol's slot: 1.0 fully
long, 0.0 flat, -1.0 fully short. A complete user module::

    """Time-series momentum with a volatility target."""

    import math

    from quantflow.signals import ewma_volatility, momentum, param, signal


    @signal(columns=("close",))
    def momentum_signal(
        bar,
        trend=momentum.over("lookback"),
        risk=ewma_volatility.over("volatility_span"),
        lookback=param(126, low=2, high=2520, doc="bars over which the trend is measured"),
        volatility_span=param(63, low=2, high=2520, doc="span of the volatility's weights, in bars"),
        target_volatility=param(0.15, low=0.001, high=5.0, doc="per year"),
        periods_per_year=param(252, low=1, high=600_000, doc="bars in a year"),
        allow_short=param(False, doc="False: a falling trend is flat, not short"),
    ):
        change = momentum(trend, bar.close)
        volatility = ewma_volatility(risk, bar.close)
        if not volatility > 0.0:  # NaN before the warm-up's end, 0.0 while the price stands still
            return 0.0
        strength = change / (volatility * math.sqrt(lookback))
        size = target_volatility / (volatility * math.sqrt(periods_per_year))
        exposure = max(-1.0, min(1.0, strength)) * size
        floor = -1.0 if allow_short else 0.0
        return max(floor, min(1.0, exposure))

Used like this; every line runs the same compiled function::

    bound = momentum_signal.bind(lookback=60)         # ParameterError names what is wrong
    bound.exposures({"close": closes})                # one symbol, whole arrays
    bound.evaluate(bars)                              # canonical frame, all symbols at once
    batch = momentum_signal.batch({"lookback": [20, 60]})  # many combinations, for sweeps
    state = bound.start()                             # live: bar by bar
    exposure = bound.step(state, {"close": 101.5})
    saved = bound.snapshot(state)                     # bytes; bound.restore(saved) goes on bit for bit
    momentum_signal.bind(lookback=60, uncompiled=True)  # plain Python, for a debugger

Signals that compare symbols are cross-sectional: all symbols of one timestamp in, target
weights of the portfolio out (:func:`cross_sectional`, helpers in
:mod:`quantflow.signals.weights`); what becomes of missing and late symbols is declared.

Rules that hold for every signal:

* The function sees only the bar and its own memory, so it cannot look ahead.
* During the first ``warm_up`` bars (the longest of its indicators') the exposure is 0.0,
  whatever the function answers; afterwards an answer that is not finite is an error that
  names the bar.
* Bars that lack a declared column are refused by its name; so is a NaN or infinite value,
  by row.
* Whatever the function calls must compile with numba: other plain functions of the module,
  ``math``, indicators. No fastmath, so floating point is the same in all three lives.
* Machine code is kept in ``$XDG_CACHE_HOME/quantflow/compiled`` (``~/.cache`` by default)
  under the identity of everything that the function reaches; the directory can be deleted
  at any time.
* A sweep computes an indicator once for all combinations that share it where the source
  shows that it is called once a bar: at the function's top level, before any ``return``, with
  inputs made of ``bar`` and numbers. So call indicators first and branch afterwards; it is
  also what keeps a window free of gaps.
'''

from quantflow.signals._batch import Prepared, SignalBatch
from quantflow.signals._columns import BoundColumnSignal, ColumnSignal, column_signal
from quantflow.signals._cross_section import BoundCrossSection, CrossSection, cross_sectional, shared
from quantflow.signals._decider import Decider
from quantflow.signals._definition import Definition, is_definition
from quantflow.signals._estimator import BoundEstimatorSignal, EstimatorSignal, estimator_signal
from quantflow.signals._indicator import Indicator, indicator, memory
from quantflow.signals._panel import Panel
from quantflow.signals._parameters import Parameter, param
from quantflow.signals._signal import BoundSignal, Signal, State, signal
from quantflow.signals.causality import CausalityReport, check_causality
from quantflow.signals.indicators import (
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

__all__ = [
    "BoundColumnSignal",
    "BoundCrossSection",
    "BoundEstimatorSignal",
    "BoundSignal",
    "CausalityReport",
    "ColumnSignal",
    "CrossSection",
    "Decider",
    "Definition",
    "EstimatorSignal",
    "Indicator",
    "Panel",
    "Parameter",
    "Prepared",
    "Signal",
    "SignalBatch",
    "State",
    "adx",
    "anchored_vwap",
    "atr",
    "beta",
    "bollinger",
    "check_causality",
    "column_signal",
    "correlation",
    "cross_sectional",
    "donchian",
    "ema",
    "estimator_signal",
    "ewma_volatility",
    "half_life",
    "indicator",
    "is_definition",
    "keltner",
    "linreg_slope",
    "macd",
    "memory",
    "momentum",
    "obv",
    "param",
    "rolling_max",
    "rolling_min",
    "rolling_rank",
    "rolling_std",
    "rsi",
    "shared",
    "signal",
    "sma",
    "stochastic",
    "vwap",
    "wma",
    "zscore",
]
