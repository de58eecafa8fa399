"""Splits and dividends as matrices, checked against the bars that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import SignalError

__all__ = ["action_matrices"]

Floats = npt.NDArray[np.float64]


def action_matrices(
    actions: pl.DataFrame | None, bars: pl.DataFrame, symbols: Sequence[str], sessions: pl.Series
) -> tuple[Floats | None, Floats | None]:
    """Return (splits, dividends), timestamps x symbols, each at the first bar of its day or later.

    Raises
    ------
    SignalError
        The frame lacks a column, repeats a day, has values that are not possible, or prices are
        already adjusted for what it says.
    """
    if actions is None:
        return None, None
    _check(actions, bars, symbols)
    splits, dividends = np.ones((len(sessions), len(symbols))), np.zeros((len(sessions), len(symbols)))
    order = {symbol: index for index, symbol in enumerate(symbols)}
    days = sessions.to_numpy().astype("datetime64[D]")
    for action in actions.sort("session").iter_rows(named=True):
        day = np.datetime64(action["session"], "D")
        row = int(np.searchsorted(days, day))
        if row == len(days) or day < days[0]:
            continue  # nothing is held before the first bar and nothing is marked after the last
        symbol = order[action["symbol"]]
        split, dividend = action.get("split"), action.get("dividend")
        # Several days without any bar: what was paid first was paid on fewer shares.
        dividends[row, symbol] = dividends[row, symbol] / (split or 1.0) + (dividend or 0.0)
        splits[row, symbol] *= split or 1.0
    return splits, dividends


def _check(actions: pl.DataFrame, bars: pl.DataFrame, symbols: Sequence[str]) -> None:
    kinds = [name for name in ("split", "dividend") if name in actions.columns]
    if not {"symbol", "session"} <= set(actions.columns) or not kinds:
        raise SignalError(
            f"actions have the columns {', '.join(actions.columns) or 'none'}; needed: symbol, session, and split or "
            "dividend"
        )
    if actions["session"].dtype != pl.Date:
        raise SignalError(f"the sessions of actions are {actions['session'].dtype}; give ex-dates, Date")
    unknown = sorted(set(actions["symbol"].to_list()) - set(symbols))
    if unknown:
        raise SignalError(f"actions name {', '.join(map(str, unknown))}, of which there are no bars")
    repeated = actions.filter(pl.struct("symbol", "session").is_duplicated())
    if repeated.height:
        symbol, session = repeated.select("symbol", "session").row(0)
        raise SignalError(f"actions have more than one row for {symbol} at {session}; add them up")
    for name in kinds:
        value = pl.col(name).cast(pl.Float64)
        possible = value > 0.0 if name == "split" else value >= 0.0
        wrong = actions.filter(value.is_not_null() & ~(possible & value.is_finite()))
        if wrong.height:
            symbol, session, given = wrong.select("symbol", "session", name).row(0)
            allowed = "above 0" if name == "split" else "at least 0"
            raise SignalError(f"the {name} of {symbol} at {session} is {given}; allowed: {allowed}, or null for none")
    _refuse_counting_twice(actions, bars, kinds)


def _refuse_counting_twice(actions: pl.DataFrame, bars: pl.DataFrame, kinds: Sequence[str]) -> None:
    if "adjustment" not in bars.columns:
        return
    adjusted = set(bars["adjustment"].drop_nulls().unique().to_list())
    neutral = {"split": 1.0, "dividend": 0.0}
    for name in kinds:
        with_it = {"splits", "splits_and_dividends"} if name == "split" else {"splits_and_dividends"}
        given = actions.filter(pl.col(name).is_not_null() & (pl.col(name) != neutral[name])).height
        if given and adjusted & with_it:
            raise SignalError(
                f"{given} {name}s are given, but the prices are adjusted for them "
                f"({', '.join(sorted(adjusted & with_it))}): they would count twice; give raw prices or no {name}s"
            )
