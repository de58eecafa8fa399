"""Parity: history through the live path, bar by bar, against the backtest of the same bars.

    >>> report = parity(momentum_signal.bind(), bars, fee_bps=1.0)      # doctest: +SKIP
    >>> report.agrees, report.divergence

Each bar is published as the record that a market topic carries, decoded as the live consumer
decodes it, and taken by the live signal; only the database is replaced, by memory. What the
signal says goes, a bar at a time, into the paper account, whose compiled step is the
backtest's. On the way both are restarted from their saved states. Bars, exposures, orders,
positions, cash and equity are compared: the first difference is named by bar and field, with
its cause.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from quantflow.backtest import Execution, backtest
from quantflow.errors import SignalError
from quantflow.live._parity_account import backtest_side, live_side
from quantflow.live._parity_causes import Circumstances, explain
from quantflow.live._parity_compare import INPUTS, count_equal, first_difference
from quantflow.live._parity_replay import records_of, replay
from quantflow.live._parity_report import Divergence, ParityReport
from quantflow.signals import BoundCrossSection, BoundSignal

if TYPE_CHECKING:
    from quantflow.events.transport import ReceivedRecord
    from quantflow.signals import Decider

__all__ = ["parity"]

_TOLERANCE = 1e-9


def parity(
    decider: Decider | BoundCrossSection,
    bars: pl.DataFrame,
    *,
    records: Iterable[ReceivedRecord] | None = None,
    live_decider: Decider | BoundCrossSection | None = None,
    live_execution: Execution | None = None,
    actions: pl.DataFrame | None = None,
    restarts: int = 1,
    **options: Any,
) -> ParityReport:
    """Return whether the live path repeats the backtest of these bars, and where it first does not.

    Parameters
    ----------
    decider
        A bound signal of any kind. Compiled ones are compared bit for bit, all others to 1e-9.
    bars
        Canonical bars, one row a (symbol, timestamp), with ``known_at``.
    records
        What the live side was given: records of one partition, in the order of their offsets, such
        as :func:`records_of` makes of a recorded stream. By default the bars themselves, in the
        order of time.
    live_decider, live_execution
        What the live side runs, if it is not what the backtest runs.
    actions
        Splits and dividends, as :func:`quantflow.backtest.backtest` takes them; both sides get them.
    restarts
        How many times signal and account are stopped and taken up from their saved states.
    **options
        The backtest's, by name: ``fill``, ``fee_bps`` and the others of :class:`Execution`.

    Raises
    ------
    MissingColumnError, InvalidBarsError, SignalError
        The backtest itself cannot be run. What stops only the live side is a divergence.
    """
    if not isinstance(restarts, int) or restarts < 0:
        raise SignalError(f"restarts is {restarts!r}; allowed: a whole number, at least 0")
    execution = Execution(**options)
    expected = backtest(cast("Decider", decider), bars, actions=actions, **options)
    ordered = bars.sort("timestamp", "symbol")
    symbols = tuple(sorted(bars["symbol"].unique()))
    live = _on(live_decider or decider, symbols)
    stream = list(records) if records is not None else records_of(ordered)
    heard = replay(live, stream, restarts=restarts)
    filled = live_execution or execution
    slots = 1 if live.kind == "weights" else len(symbols)
    done, heard = live_side(heard, symbols, filled, slots=slots, actions=actions)
    tolerance = 0.0 if _is_compiled(decider) else _TOLERANCE
    known = Circumstances(backtest_side(bars, expected), done, heard, decider, live, execution, filled)
    divergence = _first(known, tolerance)
    return ParityReport(
        signal=decider.name,
        parameters=dict(decider.parameters),
        symbols=symbols,
        first_session=ordered["session"][0],
        last_session=ordered["session"][-1],
        bars=bars.height,
        tolerance=tolerance,
        options=execution.to_dict(),
        compared=count_equal(known.backtest, None if divergence is None else divergence.timestamp),
        restarts=len(heard.restarted_at),
        refused=heard.refused,
        skipped=heard.received.height - heard.taken.height,
        divergence=divergence,
    )


def _on(decider: Decider | BoundCrossSection, symbols: tuple[str, ...]) -> Decider | BoundCrossSection:
    """Return a cross-sectional signal on the universe that the backtest gives it."""
    if isinstance(decider, BoundCrossSection) and decider.symbols is None:
        return decider.over(symbols)
    return decider


def _is_compiled(decider: Decider | BoundCrossSection) -> bool:
    return isinstance(decider, BoundSignal | BoundCrossSection) and not decider.uncompiled


def _first(known: Circumstances, tolerance: float) -> Divergence | None:
    """Return the first divergence, explained; where the live side stood still, nothing after that counts."""
    difference = first_difference(known.backtest, known.live, tolerance)
    stopped = known.heard.stopped
    if stopped is not None:
        at, reason = stopped
        begun = difference is not None and (
            difference.timestamp < at or (difference.timestamp == at and difference.field in INPUTS)
        )
        if not begun:
            return Divergence(
                None, at, _session(known, at), "signal", None, None, f"the live side stands still: {reason}"
            )
    if difference is None:
        return None
    begin, cause = explain(difference, known)
    session = _session(known, begin.timestamp)
    return Divergence(begin.symbol, begin.timestamp, session, begin.field, begin.backtest, begin.live, cause)


def _session(known: Circumstances, at: datetime) -> date | None:
    """Return the trading date of a timestamp, as either side has it."""
    for side in (known.backtest, known.live):
        found = side.bars.filter(pl.col("timestamp") == at)["session"]
        if len(found):
            session: date = found[0]
            return session
    return None
