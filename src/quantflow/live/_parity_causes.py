"""Why live and backtest differ, in words: what the two sides show around the first difference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from quantflow.backtest import Execution
from quantflow.live._parity_compare import BAR_VALUES, Difference, Side
from quantflow.live._parity_replay import Heard

__all__ = ["Circumstances", "explain"]

# So many bars in a row must fit before a pattern is named; fewer where history ends.
_PATTERN_BARS = 5
_ROUNDING = 1e-6
_MOST_BARS_LATE = 3
# What lies further apart is another bar, not another clock.
_DAY = timedelta(days=1)

_OPTIONS_OF = {
    "order": ("fill", "rebalance", "min_order", "stop_loss", "take_profit", "trailing_stop"),
    "price": ("fill", "slippage_bps", "half_spread", "impact_bps"),
    "fee": ("fee_bps", "fee_fixed"),
    "order_shares": ("initial_cash", "lot_size", "leverage", "fee_bps", "fee_fixed"),
    "cash": ("initial_cash", "borrow_bps", "interest_bps"),
}


@dataclass(frozen=True)
class Circumstances:
    """What is known beside the two sides.

    Attributes
    ----------
    heard
        What became of the records that the live side was given.
    decider, live_decider, execution, live_execution
        What each side ran.
    """

    backtest: Side
    live: Side
    heard: Heard
    decider: Any
    live_decider: Any
    execution: Execution
    live_execution: Execution


def explain(difference: Difference, known: Circumstances) -> tuple[Difference, str]:
    """Return the difference, at the bar and field where it began, and its cause in words."""
    if difference.field == "bar":
        return _bar(difference, known)
    if difference.field == "session":
        return difference, "the timestamps agree and the session dates do not: days are counted in another time zone"
    if difference.field in BAR_VALUES:
        return difference, _value(difference, known)
    if difference.field == "exposure":
        return difference, _exposure(difference, known)
    return difference, _account(difference, known)


def _bar(difference: Difference, known: Circumstances) -> tuple[Difference, str]:
    """A bar that only one side has."""
    backtest, live = (_of_symbol(side.bars, difference.symbol) for side in (known.backtest, known.live))
    shifted = _shift(difference, backtest, live)
    if shifted is not None:
        return shifted
    if difference.backtest is None:
        return difference, (
            "the live side was given a bar that the backtest's history does not have: another universe, source or "
            "span of time, or history was corrected since"
        )
    at = difference.timestamp
    received = _of_symbol(known.heard.received, difference.symbol)
    here = received.filter(pl.col("timestamp") == at)
    if here.height:
        offset = here["offset"][0]
        newer = received.filter((pl.col("offset") < offset) & (pl.col("timestamp") > at))["timestamp"].sort()
        after = f"after the bar of {_moment(newer[-1])}" if len(newer) else "after a later timestamp of another symbol"
        return difference, (
            f"its record came late: at offset {offset}, {after}, and a live signal passes by what is not newer than "
            "what it took before"
        )
    late = _bars_late(_index_of(backtest, at), backtest, live)
    if late:
        return difference, f"the live feed is {_bars(late)} late: its bars carry the values of earlier ones"
    return difference, _missing(difference, backtest, live, known)


def _missing(difference: Difference, backtest: pl.DataFrame, live: pl.DataFrame, known: Circumstances) -> str:
    at = difference.timestamp
    refused = ""
    if known.heard.refused:
        offset, reason = known.heard.refused[0]
        refused = f"; {len(known.heard.refused)} records were refused, the first at offset {offset}: {reason}"
    if live.is_empty():
        return f"no bar of {difference.symbol} reached the live side{refused}"
    first, last = live["timestamp"][0], live["timestamp"][-1]
    if at < first:
        count = backtest.filter(pl.col("timestamp") < first).height
        return (
            f"the live stream of {difference.symbol} begins at {_moment(first)}, {_bars(count)} later: the live "
            f"signal starts on less history than the backtest{refused}"
        )
    if at > last:
        return f"the live stream of {difference.symbol} ends at {_moment(last)}{refused}"
    gone = backtest.join(live, on="timestamp", how="anti")
    return (
        f"the bar is missing: no record of it reached the live side, which has the bars before and after it "
        f"({gone.height} of {backtest.height} bars of {difference.symbol} are missing){refused}"
    )


def _shift(difference: Difference, backtest: pl.DataFrame, live: pl.DataFrame) -> tuple[Difference, str] | None:
    """Bars of the same session and values whose timestamps differ: the clocks of two time zones."""
    pairs = backtest.join(live, on=["session", *BAR_VALUES], how="inner", suffix="_live", nulls_equal=True)
    pairs = pairs.with_columns(by=pl.col("timestamp_live") - pl.col("timestamp")).sort("timestamp")
    moved = pairs.filter(pl.col("by") != timedelta(0), pl.col("by").abs() < _DAY)
    here = moved.filter(
        (pl.col("timestamp") == difference.timestamp) | (pl.col("timestamp_live") == difference.timestamp)
    )
    if here.is_empty():
        return None
    begin = here.row(0, named=True)
    by: timedelta = begin["by"]
    count = moved.height
    where = "later" if by > timedelta(0) else "earlier"
    moment = replace(
        difference,
        timestamp=begin["timestamp"],
        field="timestamp",
        backtest=str(begin["timestamp"]),
        live=str(begin["timestamp_live"]),
    )
    return moment, (
        f"a shifted time zone: the live bar of session {begin['session']} is stamped {_duration(by)} {where} "
        f"({count} of {backtest.height} bars of {difference.symbol} are shifted); stamp closes in UTC"
    )


def _value(difference: Difference, known: Circumstances) -> str:
    """A price or volume that differs."""
    backtest, live = (_of_symbol(side.bars, difference.symbol) for side in (known.backtest, known.live))
    versions = _of_symbol(known.heard.received, difference.symbol).filter(pl.col("timestamp") == difference.timestamp)
    if difference.backtest in versions[difference.field].to_list():
        return (
            "the bar was restated: the live side acted on what was published first, the backtest reads a later version"
        )
    if difference.live is None:
        return f"the live record has no {difference.field}"
    index = _index_of(backtest, difference.timestamp)
    late = _bars_late(index, backtest, live)
    if late:
        carried = _moment(backtest["timestamp"][index - late])
        return f"the live feed is {_bars(late)} late: this bar carries the values of {carried}"
    if _follows(live, _index_of(live, difference.timestamp), backtest, index + 1):
        return (
            "the live feed is one bar early: this bar carries the values of "
            f"{_moment(backtest['timestamp'][index + 1])}, which nobody could know"
        )
    both = backtest.join(live, on="timestamp", suffix="_live").filter(pl.col("timestamp") >= difference.timestamp)
    ratio = (both[f"{difference.field}_live"] / both[difference.field]).head(_PATTERN_BARS).to_numpy()
    if len(ratio) > 1 and np.ptp(ratio) <= _ROUNDING * abs(ratio[0]):
        return (
            f"from this bar on the live {difference.field} is {ratio[0]:.6g} times the backtest's: adjusted "
            "differently for a split or dividend"
        )
    return "the live side was given another value for the same bar"


def _exposure(difference: Difference, known: Circumstances) -> str:
    """A decision that differs although the bars so far do not."""
    if difference.live is None or difference.backtest is None:
        side = "live signal" if difference.live is None else "backtest"
        return f"the {side} decided nothing at this bar"
    backtest, live = (_of_symbol(side.exposures, difference.symbol) for side in (known.backtest, known.live))
    index = _index_of(backtest, difference.timestamp)
    warm_ups = known.decider.warm_up, known.live_decider.warm_up
    if warm_ups[0] != warm_ups[1] and index < max(warm_ups):
        return (
            f"a wrong warm-up: bar {index + 1} of {difference.symbol}; the backtest's signal warms up for "
            f"{_bars(warm_ups[0])}, the live one for {_bars(warm_ups[1])}{_and_parameters(known)}"
        )
    if index < warm_ups[0] and difference.backtest == 0.0:
        return (
            f"a wrong warm-up: bar {index + 1} of {difference.symbol} lies within the warm-up of "
            f"{_bars(warm_ups[0])}, in which the exposure is 0.0; the live signal decides already"
        )
    changed = _changed_parameters(known)
    if changed:
        return f"the parameters differ: {changed}"
    if _code(known.decider) != _code(known.live_decider):
        return "the code differs: the live signal's fingerprint is not the backtest's"
    here = _index_of(live, difference.timestamp)
    if index and _repeats(live["exposure"], here, backtest["exposure"], index - 1):
        return (
            "the live decision is one bar late: it is what the backtest decided at "
            f"{_moment(backtest['timestamp'][index - 1])}"
        )
    if difference.timestamp in known.heard.restarted_at:
        return "the first bar after a restart: the state that was restored is not the state that was saved"
    if abs(backtest["exposure"][index] - live["exposure"][here]) <= _ROUNDING:
        return "rounding: other last digits; compare lock file, CPU target and fastmath of the two sides"
    return "the same bars lead to another decision: the live signal's state is not that of a run from the first bar"


def _account(difference: Difference, known: Circumstances) -> str:
    """An order, or what orders led to, that differs although the decisions so far do not."""
    changed = _changed_options(difference.field, known)
    if changed:
        what = "a fee left out" if difference.field == "fee" and not difference.live else _UNLIKE.get(difference.field)
        return f"{what or 'the accounts differ'}: {changed}"
    if difference.field == "order":
        return _order(difference, known)
    if difference.field == "price":
        return f"the live side filled at another price{_known_price(difference, known)}"
    if difference.field == "fee":
        if not difference.live:
            return "a fee left out: the live side paid none on the same order at the same price"
        return "the live side paid another fee on the same order at the same price"
    return _UNEXPLAINED[difference.field]


_UNLIKE = {
    "order": "orders differ because the execution differs",
    "price": "filled at another price",
    "fee": "another fee",
    "order_shares": "another size",
    "cash": "other cash",
}
_UNEXPLAINED = {
    "side": "the live side traded in the other direction on the same decision",
    "order_shares": "the live side traded another size on the same decision, with the same position and equity before",
    "reason": "the live side gives another reason for the same order: a stop, or a target that had changed",
    "shares": "the positions differ although the orders so far do not: a split, or a fill outside the account",
    "cash": "cash differs although the orders so far do not: a dividend, borrow cost, interest, or a transfer",
    "equity": "equity differs although cash and positions do not: the positions were marked to another price",
}


def _order(difference: Difference, known: Circumstances) -> str:
    """An order that only one side has."""
    idle, books = ("live side", known.live) if difference.live is None else ("backtest", known.backtest)
    orders = _of_symbol(books.orders, difference.symbol)
    later = orders.filter(pl.col("timestamp") > difference.timestamp)
    when = f"; its next order of {difference.symbol} is at {_moment(later['timestamp'][0])}" if later.height else ""
    return f"the {idle} did not trade on the same decision{when}"


def _known_price(difference: Difference, known: Circumstances) -> str:
    bars = _of_symbol(known.backtest.bars, difference.symbol)
    index = _index_of(bars, difference.timestamp)
    for offset, which in ((0, "this bar"), (-1, "the bar before"), (1, "the bar after")):
        if not 0 <= index + offset < bars.height:
            continue
        for column in ("open", "close", "high", "low"):
            price = bars[column][index + offset]
            if price is not None and price == difference.live:
                return f": the {column} of {which}"
    return ""


def _changed_options(field: str, known: Circumstances) -> str:
    names = dict.fromkeys([*_OPTIONS_OF.get(field, ()), *(each.name for each in fields(Execution))])
    return _pairs((name, (getattr(known.execution, name), getattr(known.live_execution, name))) for name in names)


def _changed_parameters(known: Circumstances) -> str:
    backtest, live = dict(known.decider.parameters), dict(known.live_decider.parameters)
    return _pairs(
        (name, (backtest.get(name), live.get(name))) for name in (*backtest, *(live.keys() - backtest.keys()))
    )


def _and_parameters(known: Circumstances) -> str:
    changed = _changed_parameters(known)
    return f" ({changed})" if changed else ""


def _pairs(pairs: Iterable[tuple[str, tuple[Any, Any]]]) -> str:
    return "; ".join(
        f"{name} is {one!r} in the backtest and {other!r} live" for name, (one, other) in pairs if one != other
    )


def _code(decider: Any) -> str | None:
    owner = getattr(decider, "signal", decider)
    fingerprint: str | None = getattr(owner, "fingerprint", None)
    return fingerprint


def _bars_late(index: int, backtest: pl.DataFrame, live: pl.DataFrame) -> int:
    """Return by how many bars the live values lag behind from this bar on; 0 where they do not."""
    start = _index_of(live, backtest["timestamp"][index])
    if start == live.height:
        return 0
    there = _index_of(backtest, live["timestamp"][start])
    candidates = (late for late in range(1, _MOST_BARS_LATE + 1) if _follows(live, start, backtest, there - late))
    return next(candidates, 0)


def _follows(live: pl.DataFrame, at: int, backtest: pl.DataFrame, first: int) -> bool:
    """Say whether the live values from ``at`` on are the backtest's from ``first`` on."""
    if first < 0:
        return False
    count = min(_PATTERN_BARS, live.height - at, backtest.height - first)
    if count < 1:
        return False
    one, other = (frame.select(BAR_VALUES).slice(start, count) for frame, start in ((live, at), (backtest, first)))
    return bool(one.equals(other))


def _repeats(live: pl.Series, at: int, backtest: pl.Series, first: int) -> bool:
    count = min(_PATTERN_BARS, len(live) - at)
    return live.slice(at, count).to_list() == backtest.slice(first, count).to_list()


def _of_symbol(frame: pl.DataFrame, symbol: str | None) -> pl.DataFrame:
    return frame.filter(pl.col("symbol") == symbol)


def _index_of(frame: pl.DataFrame, at: datetime) -> int:
    return int(frame["timestamp"].search_sorted(at))


def _bars(count: int) -> str:
    return "1 bar" if count == 1 else f"{count:,} bars"


def _moment(at: object) -> str:
    return f"{at:%Y-%m-%d %H:%M}Z" if isinstance(at, datetime) else str(at)


def _duration(by: timedelta) -> str:
    minutes = abs(int(by.total_seconds())) // 60
    return f"{minutes // 60}:{minutes % 60:02d} h"
