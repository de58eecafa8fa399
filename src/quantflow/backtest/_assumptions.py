"""What a backtest takes for granted, as sentences for every report."""

from __future__ import annotations

import polars as pl

from quantflow.errors import DataError

__all__ = ["assumptions_of"]

_FILLS = {
    "next_close": "Decisions are made at a session's close and filled at the next session's close.",
    "next_open": "Decisions are made at a session's close and filled at the next session's open.",
    "same_close": (
        "LOOK-AHEAD: decisions are filled at the very close that they are made on; no one can trade so, "
        "and the figures are too good."
    ),
}
_ADJUSTMENTS = {
    "raw": "Prices are not adjusted: splits appear as losses or gains and dividends are not earned.",
    "splits": "Prices are adjusted for splits but not for dividends, which are not earned.",
    "splits_and_dividends": (
        "Prices are adjusted for splits and dividends: they are not the prices that were quoted then, and "
        "dividends count as reinvested."
    ),
}


def assumptions_of(
    bars: pl.DataFrame,
    *,
    fill: str,
    fee_bps: float,
    slippage_bps: float,
    symbols: int,
    missing: int,
    ruined: str | None,
) -> tuple[str, ...]:
    """Return the sentences, the most consequential first."""
    sentences = [_FILLS[fill]]
    if ruined is not None:
        sentences.append(f"The whole equity was lost by {ruined}; nothing is held afterwards.")
    sentences += [_ADJUSTMENTS[kind] for kind in _distinct(bars, "adjustment") if kind in _ADJUSTMENTS]
    sentences += [_survivors(source) for source in _distinct(bars, "source")]
    sentences.append(_costs(fee_bps, slippage_bps))
    sentences.append(
        f"Each of {symbols} symbols has an equal slot of equity; weights are traded back to target at every fill, "
        "in fractions of shares; cash and short sales earn and cost no interest."
    )
    if missing:
        sentences.append(
            f"{missing} bars are missing inside the history: there the last close stands in and nothing is traded."
        )
    return tuple(sentences)


def _distinct(bars: pl.DataFrame, column: str) -> list[str]:
    return sorted(bars[column].drop_nulls().unique().to_list()) if column in bars.columns else []


def _costs(fee_bps: float, slippage_bps: float) -> str:
    if fee_bps == 0.0 and slippage_bps == 0.0:
        return "Trading is free: no fees, no slippage, no market impact."
    return (
        f"Every trade costs {fee_bps:g} bp in fees and {slippage_bps:g} bp in slippage of its value; "
        "there is no market impact."
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
