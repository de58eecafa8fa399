"""What a parity run hands over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any

__all__ = ["Divergence", "ParityReport"]

Shown = float | str | None


@dataclass(frozen=True)
class Divergence:
    """The first place where live and backtest differ.

    Attributes
    ----------
    symbol
        None where the whole account differs (cash, equity) or the live signal stood still.
    timestamp, session
        The bar, UTC.
    field
        ``bar``, ``timestamp``, ``session``, ``open`` ... ``volume`` (what came in), ``exposure`` (what was
        decided), ``order``, ``side``, ``price``, ``fee``, ``order_shares`` (what was done), ``shares``,
        ``cash``, ``equity`` (what it led to), or ``signal`` (the live signal stood still).
    backtest, live
        The two values; None where a side has none.
    cause
        Why, in words.
    """

    symbol: str | None
    timestamp: datetime
    session: date | None
    field: str
    backtest: Shown
    live: Shown
    cause: str


@dataclass(frozen=True)
class ParityReport:
    """Whether the live path repeats a backtest, and where it first does not.

    Attributes
    ----------
    signal, parameters
        What was run.
    first_session, last_session, symbols, bars
        On which bars.
    tolerance
        0.0: compared bit for bit; otherwise the allowed difference, relative where a value
        is above 1.
    options
        The backtest's execution options.
    compared
        How many values of each kind were found equal: ``bars``, ``exposures``, ``orders``, ``equity``.
        Only the part before a divergence is counted.
    restarts
        How many times the live signal was stopped and taken up from its saved state.
    refused
        Records that were no bars, which the live consumer sends to its dead letters: offset and why.
    skipped
        Bars that came after a newer one of their symbol, or twice, and were passed by.
    divergence
        None: there is none.
    """

    signal: str
    parameters: Mapping[str, Any]
    symbols: tuple[str, ...]
    first_session: date
    last_session: date
    bars: int
    tolerance: float
    options: Mapping[str, Any]
    compared: Mapping[str, int]
    restarts: int
    refused: tuple[tuple[int, str], ...] = field(default=())
    skipped: int = 0
    divergence: Divergence | None = None

    @property
    def agrees(self) -> bool:
        """True where nothing diverges."""
        return self.divergence is None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as texts, numbers, dates and moments."""
        return {"agrees": self.agrees, **asdict(self)}

    def __str__(self) -> str:
        equal = ", ".join(f"{count:,} {kind}" for kind, count in self.compared.items())
        how = "bit for bit" if self.tolerance == 0.0 else f"to {self.tolerance:g}"
        where = f"{self.signal}, {self.first_session} to {self.last_session}, {len(self.symbols)} symbols"
        if self.divergence is None:
            return f"{where}: live equals the backtest {how} ({equal})"
        at = self.divergence
        who = at.symbol or "account"
        values = f"backtest {at.backtest}, live {at.live}"
        return (
            f"{where}: live diverges at {who} {at.timestamp:%Y-%m-%d %H:%M}Z in {at.field} ({values})\n"
            f"  cause: {at.cause}"
        )
