"""Bridges: the same backtest as a vectorbt portfolio, and bars from and to pandas.

Results are Polars frames, whose ``to_pandas()`` is all that they need.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from quantflow.data import BAR_SCHEMA
from quantflow.data.bars import validate_bars
from quantflow.errors import InvalidBarsError, SignalError

if TYPE_CHECKING:
    import pandas as pd

    from quantflow.backtest._result import BacktestResult

__all__ = ["bars_from_pandas", "bars_to_pandas", "to_vectorbt"]

# Cash below zero by this part of equity is rounding.
_NO_CREDIT = 1e-9
_VALUES = ("open", "high", "low", "close", "volume")


def to_vectorbt(result: BacktestResult, bars: pl.DataFrame) -> Any:
    """Return a ``vectorbt.Portfolio`` that trades what the backtest traded.

    The shares, price and relative slippage of every order are handed over; vectorbt then does its
    own accounting of cash, fees and slippage, which comes to the same equity to 1e-9. Where a
    symbol has several orders within a bar (a stop after a fill at the open), the bar has several
    rows, a microsecond apart; the last one bears the bar's timestamp.

    Parameters
    ----------
    result
        A backtest of these bars.
    bars
        The frame that was given to :func:`backtest`.

    Raises
    ------
    SignalError
        The backtest had splits, dividends, borrow cost, interest or purchases on credit, or lost
        its whole equity: vectorbt's portfolio does not know them.

    Notes
    -----
    vectorbt carries the Commons Clause. Its import and first call take several seconds.
    """
    _refuse_what_vectorbt_lacks(result)
    import pandas as pd
    import vectorbt

    symbols = list(result.symbols)
    timestamps = result.equity["timestamp"]
    orders = _numbered(result.orders, timestamps, symbols)
    bar_of, index, row = _rows(timestamps, orders)
    close = bars_to_pandas(bars)[symbols].ffill().to_numpy()[bar_of]
    column = orders["column"].to_numpy()
    size, price, slippage = np.full(close.shape, np.nan), close.copy(), np.zeros(close.shape)
    size[row, column] = orders["signed"].to_numpy()
    price[row, column] = orders["reference_price"].to_numpy()
    slippage[row, column] = (orders["price"] / orders["reference_price"] - 1.0).abs().to_numpy()

    def labelled(values: Any) -> Any:
        return pd.DataFrame(values, index=pd.DatetimeIndex(index), columns=symbols)

    return vectorbt.Portfolio.from_orders(
        labelled(close),
        size=labelled(size),
        size_type="amount",
        price=labelled(price),
        fees=float(result.options["fee_bps"]) / 1e4,
        fixed_fees=float(result.options["fee_fixed"]),
        slippage=labelled(slippage),
        init_cash=float(result.options["initial_cash"]),
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
        freq="D",
    )


def bars_from_pandas(
    prices: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    symbol: str | None = None,
    adjustment: str = "raw",
    source: str = "pandas",
    frequency: str = "1d",
    session_zone: str = "UTC",
    known_after: timedelta = timedelta(0),
) -> pl.DataFrame:
    """Return canonical bars of pandas frames, checked.

    Parameters
    ----------
    prices
        One of: a frame with columns open, high, low, close, volume (any case, close at least) of one
        ``symbol``; a wide frame of closes, a column a symbol; or a mapping from symbol to frames of
        the first kind. The index are the bars' closes, with a time zone, ascending.
    symbol
        Makes a frame one of the first kind.
    adjustment, source, frequency
        As in :data:`quantflow.data.BAR_SCHEMA`.
    session_zone
        Where the trading date of a bar is read off its close: the exchange's time zone.
    known_after
        How long after its close a bar became knowable.

    Returns
    -------
    polars.DataFrame
        Sorted by symbol and timestamp; rows whose close is NaN are left out (no bar).

    Raises
    ------
    InvalidBarsError
        The index has no time zone, or rows are not bars; names them.
    """
    frames = _by_symbol(prices, symbol)
    parts = [_long(name, frame, session_zone) for name, frame in sorted(frames.items())]
    known = pl.col("timestamp") + known_after
    constants = {"adjustment": adjustment, "source": source, "frequency": frequency}
    long = pl.concat(parts) if parts else pl.DataFrame(schema=BAR_SCHEMA)
    with_all = long.with_columns(
        known.alias("known_at"), *(pl.lit(text).alias(name) for name, text in constants.items())
    )
    return validate_bars(with_all.select(BAR_SCHEMA.names()), source=source)


def bars_to_pandas(bars: pl.DataFrame, column: str = "close") -> pd.DataFrame:
    """Return one column of canonical bars as a wide pandas frame: timestamps x symbols, NaN without a bar.

    Raises
    ------
    InvalidBarsError
        The bars lack the column, or a symbol has two bars at one timestamp.
    """
    import pandas as pd

    if column not in bars.columns:
        raise InvalidBarsError([f"no column {column!r}; there are: {', '.join(bars.columns)}"], source="bars_to_pandas")
    repeated = bars.filter(pl.struct("symbol", "timestamp").is_duplicated())
    if repeated.height:
        name, moment = repeated.select("symbol", "timestamp").row(0)
        problem = f"{name} has more than one bar at {moment}; choose a version with as_of_view"
        raise InvalidBarsError([problem], source="bars_to_pandas")
    wide = bars.pivot(on="symbol", index="timestamp", values=column).sort("timestamp")
    names = sorted(name for name in wide.columns if name != "timestamp")
    index = pd.DatetimeIndex(wide["timestamp"].to_list(), name="timestamp")
    values = {name: wide[name].cast(pl.Float64).to_numpy() for name in names}
    return pd.DataFrame(values, index=index, columns=names)


def _refuse_what_vectorbt_lacks(result: BacktestResult) -> None:
    unknown = [name for name in ("borrow_bps", "interest_bps") if result.options[name]]
    if (result.orders["reason"] == "ruin").any():
        unknown.append("a loss of the whole equity")
    if (result.equity["cash"] < -_NO_CREDIT * result.equity["equity"]).any():
        unknown.append("purchases on credit")
    if result.has_actions:
        unknown.append("splits and dividends")
    if unknown:
        raise SignalError(f"vectorbt's portfolio does not know {', '.join(unknown)}; backtest without to compare")


def _numbered(orders: pl.DataFrame, timestamps: pl.Series, symbols: list[str]) -> pl.DataFrame:
    """Return the orders with signed shares, bar, column and number within symbol and bar."""
    columns = {symbol: index for index, symbol in enumerate(symbols)}
    return orders.with_columns(
        signed=pl.when(pl.col("side") == "buy").then(pl.col("shares")).otherwise(-pl.col("shares")),
        bar=timestamps.search_sorted(orders["timestamp"]).cast(pl.Int64),
        column=pl.col("symbol").replace_strict(columns, return_dtype=pl.Int64),
        part=pl.int_range(pl.len()).over("symbol", "timestamp"),
    )


def _rows(timestamps: pl.Series, orders: pl.DataFrame) -> tuple[Any, list[datetime], Any]:
    """Return the bar of each row, its moment, and the row of each order."""
    parts = np.ones(len(timestamps), dtype=np.int64)
    np.maximum.at(parts, orders["bar"].to_numpy(), orders["part"].to_numpy() + 1)
    bar_of = np.repeat(np.arange(len(parts)), parts)
    first = np.cumsum(parts) - parts
    missing = (parts[bar_of] - 1) - (np.arange(len(bar_of)) - first[bar_of])
    moments = timestamps.gather(bar_of) - pl.Series(missing).cast(pl.Duration("us"))
    return bar_of, moments.to_list(), first[orders["bar"].to_numpy()] + orders["part"].to_numpy()


def _by_symbol(prices: Any, symbol: str | None) -> dict[str, Any]:
    if isinstance(prices, Mapping):
        return dict(prices)
    if symbol is not None:
        return {symbol: prices}
    return {str(name): prices[[name]].rename(columns={name: "close"}) for name in prices.columns}


def _long(symbol: str, frame: Any, session_zone: str) -> pl.DataFrame:
    if getattr(frame.index, "tz", None) is None:
        problem = f"the index of {symbol} has no time zone; localize it, e.g. frame.tz_localize('America/New_York')"
        raise InvalidBarsError([problem], source="bars_from_pandas")
    given = {str(name).lower(): name for name in frame.columns}
    if "close" not in given:
        problem = f"{symbol} has no column 'close'; there are: {', '.join(map(str, frame.columns))}"
        raise InvalidBarsError([problem], source="bars_from_pandas")
    moments = frame.index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]")
    columns = {
        name: pl.Series(name, frame[given[name]].to_numpy(dtype=np.float64)).fill_nan(None)
        if name in given
        else pl.Series(name, [None] * len(frame), dtype=pl.Float64)
        for name in _VALUES
    }
    timestamp = pl.Series("timestamp", moments).dt.replace_time_zone("UTC")
    session = timestamp.dt.convert_time_zone(session_zone).dt.date().alias("session")
    long = pl.DataFrame({"symbol": pl.Series("symbol", [symbol] * len(frame), dtype=pl.String)}).with_columns(
        session, timestamp, *columns.values()
    )
    return long.filter(pl.col("close").is_not_null())
