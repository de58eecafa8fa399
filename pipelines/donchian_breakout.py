"""Donchian breakout with an ATR stop: long above the old highs, out when a bar closes below the trailing stop."""

from quantflow.signals import atr, donchian, memory, param, signal


@signal(columns=("high", "low", "close"))
def donchian_breakout(
    bar,
    channel=donchian.over("window"),
    risk=atr.over(14),
    kept=memory(2),  # the highest high before this bar; the stop, 0.0 while flat
    window=param(20, low=2, high=500, doc="bars of the channel"),
    stop_atr=param(3.0, low=0.1, high=20.0, doc="distance of the trailing stop, in true ranges"),
):
    top, reach = kept[0], atr(risk, bar.high, bar.low, bar.close)
    kept[0] = donchian(channel, bar.high, bar.low).upper
    entered = bar.close > top > 0.0 and reach > 0.0  # false while either warms up: 0.0, then NaN
    if (kept[1] > 0.0 and bar.close > kept[1]) or (kept[1] == 0.0 and entered):
        kept[1] = max(kept[1], bar.close - stop_atr * reach)
        return 1.0
    kept[1] = 0.0
    return 0.0
