"""What a backtest takes for granted, as sentences for every report."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from quantflow.backtest._options import Execution
from quantflow.errors import DataError

__all__ = ["assumptions_of"]

_FILLS = {
    "next_close": "Decisions are made at a bar's close and filled at the next bar's close.",
    "next_open": "Decisions are made at a bar's close and filled at the next bar's open.",
    "same_close": (
        "LOOK-AHEAD: decisions are filled at the very close that they are made on; no one can trade so, "
        "and the figures are too good."
    ),
}
_DAILY_FILLS = {
    "next_close": "Decisions are made at a session's close and filled at the next session's close.",
    "next_open": "Decisions are made at a session's close and filled at the next session's open.",
}
_ADJUSTMENTS = {
    "raw": "Prices are not adjusted: splits appear as losses or gains and dividends are not earned.",
    "splits": "Prices are adjusted for splits but not for dividends, which are not earned.",
    "splits_and_dividends": (
        "Prices are adjusted for splits and dividends: they are not the prices that were quoted then, and "
        "dividends count as reinvested."
    ),
}
_SCHEDULES = {
    "every_bar": "weights are traded back to target at every fill",
    "on_change": "a symbol is traded only when its target changes, and drifts in between",
    "weekly": "targets are traded at the first bar of a week",
    "monthly": "targets are traded at the first bar of a month",
    "quarterly": "targets are traded at the first bar of a quarter",
}


def assumptions_of(
    bars: pl.DataFrame,
    execution: Execution,
    *,
    slots: int | None,
    missing: int,
    acted: bool,
    limited: int,
    ruined: str | None,
) -> tuple[str, ...]:
    """Return the sentences, the most consequential first.

    ``slots`` is the number of symbols with an equal slot each, None for a signal that answers
    weights; ``acted`` says whether splits and dividends were given.
    """
    sentences = [_fill(bars, execution)]
    if ruined is not None:
        sentences.append(f"The whole equity was lost by {ruined}; nothing is held afterwards.")
    if acted:
        sentences.append("Prices are as quoted; the splits and dividends that were given change shares and cash.")
    else:
        sentences += [_ADJUSTMENTS[kind] for kind in _distinct(bars, "adjustment") if kind in _ADJUSTMENTS]
    sentences += [_survivors(source) for source in _distinct(bars, "source")]
    sentences.append(_costs(execution))
    sentences.append(_targets(execution, slots))
    sentences.append(_credit(execution))
    sentences += _stops(execution)
    if limited:
        sentences.append(f"{limited} orders were made smaller, because cash or margin did not cover them.")
    if missing:
        sentences.append(
            f"{missing} bars are missing inside the history: there the last close stands in and nothing is traded."
        )
    return tuple(sentences)


def _fill(bars: pl.DataFrame, execution: Execution) -> str:
    daily = _distinct(bars, "frequency") == ["1d"]
    return (_DAILY_FILLS if daily else _FILLS).get(execution.fill, _FILLS[execution.fill])


def _distinct(bars: pl.DataFrame, column: str) -> list[str]:
    return sorted(bars[column].drop_nulls().unique().to_list()) if column in bars.columns else []


def _costs(execution: Execution) -> str:
    parts = []
    if execution.fee_bps or execution.slippage_bps:
        parts.append(f"{execution.fee_bps:g} bp in fees and {execution.slippage_bps:g} bp in slippage of its value")
    if execution.fee_fixed:
        parts.append(f"a fixed fee of {execution.fee_fixed:g}")
    if execution.half_spread:
        parts.append(f"{execution.half_spread:g} a share for half the spread")
    if execution.impact_bps:
        parts.append(f"{execution.impact_bps:g} bp times the square root of its part of the bar's volume")
    if not parts:
        return "Trading is free: no fees, no slippage, no market impact."
    impact = "" if execution.impact_bps else "; there is no market impact"
    return f"Every trade costs {', '.join(parts)}{impact}."


def _targets(execution: Execution, slots: int | None) -> str:
    owner = "Targets are weights of equity" if slots is None else f"Each of {slots} symbols has an equal slot of equity"
    schedule = (
        _SCHEDULES[execution.rebalance]
        if isinstance(execution.rebalance, str)
        else f"targets are traded on {len(execution.rebalance)} given dates"
    )
    shares = f"in lots of {execution.lot_size:g} shares" if execution.lot_size else "in fractions of shares"
    smallest = f", orders below {execution.min_order:g} are not made" if execution.min_order else ""
    return f"{owner}; {schedule}, {shares}{smallest}."


def _credit(execution: Execution) -> str:
    rates = []
    rates.append(f"borrowed cash costs {execution.interest_bps:g} bp a year")
    rates.append(f"short positions cost {execution.borrow_bps:g} bp a year")
    limit = (
        "nothing is bought on credit"
        if execution.leverage == 1.0
        else f"orders lead to at most {execution.leverage:g} times equity"
    )
    return f"{limit[0].upper()}{limit[1:]}; {', '.join(rates)}; cash earns nothing; there are no margin calls."


def _stops(execution: Execution) -> Iterator[str]:
    if execution.has_stops:
        given = {
            "stop loss": execution.stop_loss,
            "take profit": execution.take_profit,
            "trailing stop": execution.trailing_stop,
        }
        levels = ", ".join(f"{name} {value:.4g}" for name, value in given.items() if value is not None)
        yield (
            f"Positions are closed within a bar ({levels} of the price): at the level, or at the open where that is "
            "beyond it; where a bar reaches both, the stop comes before the profit."
        )


def _survivors(source: str) -> str:
    from quantflow.data import get_source

    try:
        biased = get_source(source).info.survivorship_bias
    except DataError:
        return (
            f"Whether the symbols of source {source!r} are survivors is not known; if they are, returns are flattered."
        )
    if biased:
        return f"The symbols of source {source!r} are survivors: those that failed are absent, which flatters returns."
    return f"The symbols of source {source!r} were not chosen for having survived."
