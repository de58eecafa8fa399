"""From bars to returns."""

from __future__ import annotations

import polars as pl

from quantflow.errors import InvalidBarsError

__all__ = ["bars_to_returns"]


def bars_to_returns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return simple close-to-close returns, wide: ``session`` and one Float64 column a symbol.

    Row ``t`` holds ``close[t] / close[t-1] - 1``, a fraction, known at the close of session ``t``. The
    first session has no return and no row. A return is null where either close is absent: gaps are never
    filled, so a symbol that starts later has nulls before its second bar. Symbols are in
    alphabetical order, sessions ascend.

    Raises
    ------
    InvalidBarsError
        A symbol has two rows for one session: restatements that were not resolved with ``as_of_view``.
    """
    repeated = frame.group_by("symbol", "session").len().filter(pl.col("len") > 1).sort("symbol", "session")
    if not repeated.is_empty():
        symbol, session, count = repeated.row(0)
        problem = f"{symbol} has {count} rows for session {session}; choose one version with as_of_view(frame, as_of)"
        raise InvalidBarsError([problem], source="returns")
    symbols = sorted(frame["symbol"].unique().to_list())
    if frame.is_empty():
        return pl.DataFrame(schema={"session": pl.Date})
    closes = frame.pivot(on="symbol", index="session", values="close").sort("session")
    returns = closes.select("session", *(pl.col(symbol) / pl.col(symbol).shift(1) - 1 for symbol in symbols))
    return returns.slice(1)
