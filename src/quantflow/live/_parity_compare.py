"""Two accounts of the same history, and the first place where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["BAR_VALUES", "INPUTS", "Difference", "Side", "count_equal", "first_difference"]

BAR_VALUES = ("open", "high", "low", "close", "volume")

#: Fields of what comes in.
INPUTS = ("bar", "timestamp", "session", *BAR_VALUES)

_PLACE = "__place"
_WHOLE = "__row"
# Rounding of a fee over a value.
_RATE = 1e-9
_KEYS = ("timestamp", "symbol")


@dataclass(frozen=True)
class Side:
    """What one of the two lives saw, decided and did.

    Attributes
    ----------
    bars
        ``symbol``, ``session``, ``timestamp`` and :data:`BAR_VALUES`, each (symbol, timestamp) once.
        Like all of these sorted by symbol and timestamp, unless it says otherwise.
    exposures
        ``symbol``, ``timestamp``, ``exposure``.
    orders
        ``symbol``, ``timestamp``, ``side``, ``price``, ``fee``, ``shares``, ``reason``, in the order of execution.
    positions
        ``symbol``, ``timestamp``, ``shares`` held after the bar.
    account
        ``timestamp``, ``cash``, ``equity`` after the bar.
    """

    bars: pl.DataFrame
    exposures: pl.DataFrame
    orders: pl.DataFrame
    positions: pl.DataFrame
    account: pl.DataFrame


@dataclass(frozen=True)
class Difference:
    """A field of a bar in which the two differ; ``symbol`` is None for the account's own."""

    timestamp: datetime
    symbol: str | None
    field: str
    backtest: float | str | None
    live: float | str | None


@dataclass(frozen=True)
class _Stage:
    """A part of a :class:`Side` to compare: its key, and its columns in the order in which they come about.

    ``fields`` says what a column is called in a difference, ``row`` what a row is that only one side has.
    """

    part: str
    row: str
    keys: tuple[str, ...]
    fields: Mapping[str, str]


# Within a bar: what came in, what was decided, what was done, what it led to.
_STAGES = (
    _Stage("bars", "bar", _KEYS, {name: name for name in ("session", *BAR_VALUES)}),
    _Stage("exposures", "exposure", _KEYS, {"exposure": "exposure"}),
    _Stage(
        "orders",
        "order",
        (*_KEYS, _PLACE),
        {"side": "side", "price": "price", "fee": "fee", "shares": "order_shares", "reason": "reason"},
    ),
    _Stage("positions", "shares", _KEYS, {"shares": "shares"}),
    _Stage("account", "equity", ("timestamp",), {"cash": "cash", "equity": "equity"}),
)


def first_difference(backtest: Side, live: Side, tolerance: float) -> Difference | None:
    """Return the first difference, by bar, then by stage, then by symbol; None where there is none.

    Parameters
    ----------
    tolerance
        0.0: numbers are compared bit for bit; otherwise they may differ by this much, relative
        to the larger one where that is above 1.
    """
    found: list[tuple[datetime, int, str, Difference]] = []
    for order, stage in enumerate(_STAGES):
        difference = _first_of(stage, backtest, live, tolerance)
        if difference is not None:
            found.append((difference.timestamp, order, difference.symbol or "", difference))
    return min(found, key=lambda each: each[:3])[3] if found else None


def count_equal(backtest: Side, before: datetime | None) -> dict[str, int]:
    """Return how many rows of each part lie before a moment; all of them for None."""
    parts = {"bars": backtest.bars, "exposures": backtest.exposures, "orders": backtest.orders}
    parts["equity"] = backtest.account
    return {
        name: frame.height if before is None else frame.filter(pl.col("timestamp") < before).height
        for name, frame in parts.items()
    }


def _first_of(stage: _Stage, backtest: Side, live: Side, tolerance: float) -> Difference | None:
    both = _joined(stage, getattr(backtest, stage.part), getattr(live, stage.part))
    alone = (both["in_backtest"].is_null() | both["in_live"].is_null()).to_numpy()
    flags = {name: ~alone & _differs(both[name], both[f"{name}_live"], tolerance) for name in stage.fields}
    if stage.part == "orders":
        # A fee follows the size; it is told only where it is not the size that differs.
        flags["fee"] &= ~flags["shares"] | _differs(_fee_rate(both, ""), _fee_rate(both, "_live"), _RATE)
    flags = {_WHOLE: alone} | flags
    rows = {name: int(flag.argmax()) for name, flag in flags.items() if flag.any()}
    if not rows:
        return None
    # Rows are in the order of the keys, fields in the order in which they come about.
    row = min(rows.values())
    name = next(name for name, at in rows.items() if at == row)
    known = both.row(row, named=True)
    if name == _WHOLE:
        one = None if known["in_backtest"] is None else _row(stage, known, "")
        other = None if known["in_live"] is None else _row(stage, known, "_live")
        return Difference(known["timestamp"], known.get("symbol"), stage.row, one, other)
    field = stage.fields[name]
    return Difference(
        known["timestamp"], known.get("symbol"), field, _shown(known[name]), _shown(known[f"{name}_live"])
    )


def _row(stage: _Stage, known: Mapping[str, Any], suffix: str) -> float | str | None:
    if stage.part == "bars":
        return "bar"
    if stage.part == "orders":
        side, shares, price = (known[f"{name}{suffix}"] for name in ("side", "shares", "price"))
        return f"{side} {shares:g} at {price:g}"
    *_, name = stage.fields
    return _shown(known[f"{name}{suffix}"])


def _fee_rate(both: pl.DataFrame, suffix: str) -> pl.Series:
    return both[f"fee{suffix}"] / (both[f"shares{suffix}"] * both[f"price{suffix}"])


def _joined(stage: _Stage, backtest: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
    sides = []
    for frame, mark in ((backtest, "in_backtest"), (live, "in_live")):
        if _PLACE in stage.keys:
            frame = frame.with_columns(pl.int_range(pl.len()).over(_KEYS).alias(_PLACE))
        sides.append(frame.select(*stage.keys, *stage.fields, pl.lit(True).alias(mark)))
    joined = sides[0].join(sides[1], on=stage.keys, how="full", coalesce=True, suffix="_live", nulls_equal=True)
    return joined.sort(stage.keys)


def _differs(backtest: pl.Series, live: pl.Series, tolerance: float) -> npt.NDArray[np.bool_]:
    if backtest.dtype != pl.Float64:
        unequal: npt.NDArray[np.bool_] = backtest.ne_missing(live).to_numpy()
        return unequal
    one, other = (_numbers(series) for series in (backtest, live))
    differs: npt.NDArray[np.bool_] = one.view(np.int64) != other.view(np.int64)
    if tolerance > 0.0:
        scale = np.maximum(1.0, np.maximum(np.abs(one), np.abs(other)))
        with np.errstate(invalid="ignore"):
            differs &= ~(np.abs(one - other) <= tolerance * scale)
    return differs


def _numbers(series: pl.Series) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(series.fill_null(np.nan).to_numpy(), dtype=np.float64)


def _shown(value: Any) -> float | str | None:
    return value if value is None or isinstance(value, float | str) else str(value)
