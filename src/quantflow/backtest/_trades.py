"""What orders and equity tell beyond returns: round trips, falls with their dates, capacity."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import polars as pl

from quantflow.errors import MissingColumnError, RiskError

__all__ = ["capacity", "drawdown_table", "round_trips"]

# A position below this part of the largest one held so far is what rounding leaves of none.
_FLAT = 1e-9

_TIME = pl.Datetime("us", "UTC")
_TRIPS = pl.Schema(
    {
        "symbol": pl.String(),
        "side": pl.String(),
        "entry_timestamp": _TIME,
        "exit_timestamp": _TIME,
        "shares": pl.Float64(),
        "entry_price": pl.Float64(),
        "exit_price": pl.Float64(),
        "orders": pl.UInt32(),
        "fee": pl.Float64(),
        "slippage": pl.Float64(),
        "pnl": pl.Float64(),
        "return": pl.Float64(),
        "exit_reason": pl.String(),
    }
)
_FALLS = ("peak", "trough", "recovery", "drawdown", "periods_down", "periods")


def round_trips(
    orders: pl.DataFrame, *, marks: Mapping[str, float] | None = None, actions: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return each position from its first order until it was flat again, a row a round trip.

    An order through zero closes one round trip and opens the next; its value and costs are split
    in proportion to the shares. Dividends, borrow cost and interest are not in it: they belong to
    no order.

    Parameters
    ----------
    orders
        As in :class:`~quantflow.backtest.BacktestResult`: ``timestamp``, ``symbol``, ``side``, ``shares``
        (positive), ``price`` (executed), ``fee``, ``slippage`` and, if known, ``reason``; in the order of
        their execution.
    marks
        Last price by symbol, to value positions that are still open.
    actions
        The splits that the backtest was given: shares and prices before one are counted in the
        shares after it, which needs ``session`` in ``orders``.

    Returns
    -------
    polars.DataFrame
        ``symbol``, ``side`` (``long`` or ``short``), ``entry_timestamp``, ``exit_timestamp`` (null while open),
        ``shares`` (added in all entries), ``entry_price`` and ``exit_price`` (mean, weighted by shares, after
        slippage), ``orders``, ``fee``, ``slippage`` (already in the prices), ``pnl`` (after all costs; null
        where open and unmarked), ``return`` (``pnl`` / value of all entries), ``exit_reason`` (of the
        closing order); sorted by entry, then symbol.

    Raises
    ------
    MissingColumnError
        ``orders`` lacks a column.
    """
    needed = ("timestamp", "symbol", "side", "shares", "price", "fee", "slippage")
    missing = [name for name in needed if name not in orders.columns]
    if missing:
        raise MissingColumnError(f"orders lack {', '.join(missing)}; round trips need {', '.join(needed)}")
    if orders.is_empty():
        return pl.DataFrame(schema=_TRIPS)
    steps = _steps(orders if actions is None or "split" not in actions.columns else _after_splits(orders, actions))
    entries = pl.col("signed") * pl.col("direction") > 0.0
    trips = (
        steps.with_columns(pl.col("signed").first().over("symbol", "trip").sign().alias("direction"))
        .group_by("symbol", "trip", maintain_order=True)
        .agg(
            pl.when(pl.col("direction").first() > 0).then(pl.lit("long")).otherwise(pl.lit("short")).alias("side"),
            pl.col("timestamp").first().alias("entry_timestamp"),
            pl.when(pl.col("after").last() == 0.0).then(pl.col("timestamp").last()).alias("exit_timestamp"),
            pl.col("signed").filter(entries).abs().sum().alias("shares"),
            (pl.col("signed") * pl.col("price")).filter(entries).abs().sum().alias("bought"),
            pl.col("signed").filter(~entries).abs().sum().alias("left_shares"),
            (pl.col("signed") * pl.col("price")).filter(~entries).abs().sum().alias("left"),
            pl.len().alias("orders"),
            pl.col("fee").sum(),
            pl.col("slippage").sum(),
            (-pl.col("signed") * pl.col("price") - pl.col("fee")).sum().alias("flow"),
            pl.col("after").last().alias("held"),
            pl.when(pl.col("after").last() == 0.0).then(pl.col("reason").last()).alias("exit_reason"),
        )
    )
    given = dict(marks or {})
    known = pl.DataFrame(
        {"symbol": list(given), "mark": list(given.values())}, schema={"symbol": pl.String, "mark": pl.Float64}
    )
    return (
        trips.join(known, on="symbol", how="left")
        .with_columns(
            entry_price=pl.col("bought") / pl.col("shares"),
            exit_price=pl.when(pl.col("left_shares") > 0.0).then(pl.col("left") / pl.col("left_shares")),
            pnl=pl.col("flow") + pl.when(pl.col("held") == 0.0).then(0.0).otherwise(pl.col("held") * pl.col("mark")),
        )
        .with_columns((pl.col("pnl") / pl.col("bought")).alias("return"))
        .sort("entry_timestamp", "symbol", "trip")
        .select(pl.col(name).cast(dtype) for name, dtype in _TRIPS.items())
    )


def _after_splits(orders: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Return the orders in the shares that there are after the last split."""
    factor = np.ones(orders.height)
    splits = actions.filter(pl.col("split").is_not_null() & (pl.col("split") != 1.0))
    for symbol, day, split in splits.select("symbol", "session", "split").iter_rows():
        factor[((orders["symbol"] == symbol) & (orders["session"] < day)).to_numpy()] *= split
    return orders.with_columns(pl.col("shares") * factor, pl.col("price") / factor)


def _steps(orders: pl.DataFrame) -> pl.DataFrame:
    """Return the orders, those through zero as two, with the position after each and the round trip's number."""
    reason = pl.col("reason").cast(pl.String) if "reason" in orders.columns else pl.lit(None, dtype=pl.String)
    signed = pl.col("shares") * pl.when(pl.col("side") == "buy").then(1.0).otherwise(-1.0)
    held = pl.col("signed").cum_sum().over("symbol")
    flat = held.abs() <= _FLAT * pl.col("signed").abs().cum_max().over("symbol")
    through = pl.col("before") * pl.col("after") < 0.0
    opened = (pl.col("after") != 0.0) & ((pl.col("before") == 0.0) | through)
    numbered = (
        orders.sort("timestamp", maintain_order=True)
        .with_row_index("row")
        .with_columns(signed.alias("signed"), reason.alias("reason"))
        .with_columns(pl.when(flat).then(0.0).otherwise(held).alias("after"))
        .with_columns(pl.col("after").shift(1, fill_value=0.0).over("symbol").alias("before"))
        .filter((pl.col("before") != 0.0) | (pl.col("after") != 0.0))
        .with_columns(opened.cum_sum().over("symbol").alias("trip"), through.alias("through"))
        .with_columns((pl.col("before").abs() / (pl.col("before").abs() + pl.col("after").abs())).alias("part"))
    )
    split = numbered.filter("through")
    scaled = ("signed", "fee", "slippage")
    closing = split.with_columns(
        *(pl.col(name) * pl.col("part") for name in scaled), pl.col("trip") - 1, after=pl.lit(0.0)
    )
    opening = split.with_columns(*(pl.col(name) * (1.0 - pl.col("part")) for name in scaled))
    # The closing part of an order comes before the part that opens the next round trip.
    return pl.concat([numbered.filter(~pl.col("through")), closing, opening]).sort("row", "trip", maintain_order=True)


def drawdown_table(equity: pl.DataFrame, *, at: str = "session", count: int = 5) -> pl.DataFrame:
    """Return the deepest falls of equity with their dates, the deepest first.

    Parameters
    ----------
    equity
        ``equity``, ``drawdown`` (fall from the highest equity so far, a positive fraction) and the
        column ``at``, oldest first, as in :class:`~quantflow.backtest.BacktestResult`.
    at
        The column that dates them: ``session`` or ``timestamp``.
    count
        How many at most.

    Returns
    -------
    polars.DataFrame
        ``peak`` (null where equity fell from its start), ``trough``, ``recovery`` (first time back at the
        peak's equity; null if not yet), ``drawdown``, ``periods_down`` (peak to trough), ``periods`` (peak to
        recovery, or to the end). Each fall reaches from a peak to the recovery from it, so falls do not
        overlap.

    Raises
    ------
    MissingColumnError
        ``equity`` lacks a column.
    """
    for name in ("drawdown", at):
        if name not in equity.columns:
            raise MissingColumnError(f"equity lacks the column {name!r}; it has {', '.join(equity.columns)}")
    times = equity[at]
    fall = equity["drawdown"].to_numpy()
    high = np.concatenate([[-1], np.flatnonzero(fall <= 0.0), [len(fall)]])
    rows = []
    for peak, back in pairwise(high):
        if back - peak > 1:
            trough = peak + 1 + int(fall[peak + 1 : back].argmax())
            rows.append((peak, trough, back, float(fall[trough])))
    rows.sort(key=lambda row: -row[3])
    dated = [
        (
            times[int(peak)] if peak >= 0 else None,
            times[int(trough)],
            times[int(back)] if back < len(fall) else None,
            depth,
            int(trough - peak),
            int(min(back, len(fall) - 1) - peak),
        )
        for peak, trough, back, depth in rows[:count]
    ]
    kinds = [times.dtype, times.dtype, times.dtype, pl.Float64(), pl.Int64(), pl.Int64()]
    return pl.DataFrame(dated, schema=dict(zip(_FALLS, kinds, strict=True)), orient="row")


def capacity(
    orders: pl.DataFrame, bars: pl.DataFrame, equity: pl.DataFrame, *, participation: float, quantile: float = 0.05
) -> float:
    """Return the equity up to which orders stay a small part of the market's volume.

    An order of value ``v``, made with equity ``E`` on a bar in which ``V = volume * close`` changed hands,
    takes the part ``participation`` of it when equity is ``participation * V * E / v``. The capacity is
    the value-weighted ``quantile`` of these: all but that part of the value traded fits. It is an
    estimate from volume alone, of the strategy as traded here; impact on prices is not in it.

    Parameters
    ----------
    orders
        ``timestamp``, ``symbol``, ``value``.
    bars
        ``timestamp``, ``symbol``, ``close``, ``volume``; prices and volumes adjusted alike.
    equity
        ``timestamp``, ``equity``.
    participation
        Largest part of a bar's volume that an order may be, above 0 and at most 1; 0.01 is cautious.
    quantile
        Part of the value traded that may exceed it, 0 to below 1; 0 lets the tightest order decide.

    Returns
    -------
    float
        In the currency of the prices; NaN without orders; 0.0 where too much is traded without volume.

    Raises
    ------
    RiskError
        An option is out of range, or a bar that was traded has no volume known.

    Notes
    -----
    No standard formula exists; a limit on participation is how desks and brokers state it.
    """
    if not 0.0 < participation <= 1.0:
        raise RiskError(f"participation is {participation!r}; allowed: above 0 and at most 1, such as 0.01")
    if not 0.0 <= quantile < 1.0:
        raise RiskError(f"quantile is {quantile!r}; allowed: at least 0 and below 1, such as 0.05")
    market = bars.select("timestamp", "symbol", (pl.col("volume") * pl.col("close")).alias("traded"))
    joined = (
        orders.select("timestamp", "symbol", pl.col("value").abs())
        .filter(pl.col("value") > 0.0)
        .join(market, on=["timestamp", "symbol"], how="left")
        .join(equity.select("timestamp", "equity"), on="timestamp", how="left")
    )
    if joined.is_empty():
        return float("nan")
    unknown = joined.filter(pl.col("traded").is_null() | pl.col("traded").is_nan() | pl.col("equity").is_null())
    if unknown.height:
        first = unknown.row(0, named=True)
        raise RiskError(
            f"{unknown.height} orders have no volume, first {first['symbol']} at {first['timestamp']}; "
            "capacity needs bars with volume for every order"
        )
    sizes = joined.with_columns((participation * pl.col("traded") * pl.col("equity") / pl.col("value")).alias("size"))
    ranked = sizes.sort("size")
    share = ranked["value"].cum_sum() / ranked["value"].sum()
    # Rounding may leave the last share a little below 1.
    place = min(int((share <= quantile).sum()), ranked.height - 1)
    return float(ranked["size"][place])
