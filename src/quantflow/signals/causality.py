"""Whether a signal's past depends on its future: the check that makes a column signal promotable.

    report = check_causality(reversal.bind(lookback=20), bars)
    report.passed
    print(report)          # which bar, what it answered, what it should have answered

Five checks, the first three of which need nothing but the answers over a whole frame:

repeated
    A second evaluation gives the same answers.
truncated
    Without the bars after a cut, the answers up to the cut are the same.
perturbed
    With other prices and volumes after a cut, the answers up to the cut are the same.
defined
    Column signals: the whole frame's answers are those of the declared window at every bar,
    and every bar after the warm-up has an answer.
resumed
    Fed in pieces, saved and restored between them as the live consumer does, it answers the
    same.

A column signal is looked at as research runs it, over each symbol's whole history at once.
What passes has been shown on these bars, not proved for all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import SignalError
from quantflow.signals._columns import BoundColumnSignal
from quantflow.signals._decider import Decider
from quantflow.signals._definition import Definition
from quantflow.signals._history import Label, ordered_bars

__all__ = ["CausalityReport", "Check", "Divergence", "check_causality"]

Check = Literal["repeated", "truncated", "perturbed", "defined", "resumed"]

_KEYS = ("symbol", "timestamp")
_PRICES = ("open", "high", "low", "close")
_LARGEST_FACTOR = 10.0
_CAUSES = {
    "repeated": "evaluated again on the same bars it answers otherwise: it draws random numbers or keeps state outside",
    "truncated": "it looks ahead: the answer changes when later bars are taken away",
    "perturbed": "it looks ahead: the answer changes when later bars have other prices",
    "defined": "the declared window's bars alone give another answer or none: it looks ahead, or needs a longer window",
    "resumed": "fed in pieces, saved and restored between them, it answers otherwise than in one piece",
}


@dataclass(frozen=True)
class Divergence:
    """The first bar, in time, at which one check failed.

    Attributes
    ----------
    check
        Which check.
    symbol, session, timestamp
        The bar.
    expected
        Its answer over the whole frame, NaN if none.
    received
        Its answer under the check, NaN if none.
    cut
        The last bar that was left as it was; ``None`` where nothing was cut.
    bars
        How many bars differed.
    """

    check: Check
    symbol: str
    session: date
    timestamp: datetime
    expected: float
    received: float
    cut: datetime | None
    bars: int

    def __str__(self) -> str:
        where = f"{self.symbol} at {self.session}"
        cut = "" if self.cut is None else f" with the future after {self.cut:%Y-%m-%d %H:%M} taken away or changed"
        return (
            f"{self.check}: {where} answers {self.expected!r} over the whole frame, {self.received!r}{cut} "
            f"({self.bars} such bars): {_CAUSES[self.check]}"
        )


@dataclass(frozen=True)
class CausalityReport:
    """What :func:`check_causality` found.

    Attributes
    ----------
    signal
        The signal's name.
    bars, cuts
        How many bars were evaluated, and at how many times the future was cut.
    divergences
        The first divergence of each check that failed.
    """

    signal: str
    bars: int
    cuts: int
    divergences: tuple[Divergence, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.divergences

    def __str__(self) -> str:
        if self.passed:
            return f"{self.signal}: no answer depends on later bars ({self.bars} bars, cut at {self.cuts} times)"
        return f"{self.signal} is not causal:\n" + "\n".join(f"  - {each}" for each in self.divergences)

    def raise_if_failed(self) -> None:
        """Do nothing if all checks passed.

        Raises
        ------
        SignalError
            Names the first bar of each failed check, what was expected and received.
        """
        if not self.passed:
            raise SignalError(str(self))


def check_causality(
    signal: Definition | Decider, bars: pl.DataFrame, *, cuts: int = 12, tolerance: float = 1e-9, seed: int = 0
) -> CausalityReport:
    """Return whether a signal's answers stay when the future is taken away or changed.

    Parameters
    ----------
    signal
        A signal of any shape, bound or not; defaults are bound.
    bars
        Canonical frame, longer than the signal's warm-up.
    cuts
        At how many times, evenly spread after the warm-up, the future is cut.
    tolerance
        Largest difference of two equal answers, absolute and relative to the larger one.
    seed
        Of the perturbation: every later price is multiplied by a factor between 1/10 and 10,
        the same for the four prices of a bar; volumes by another.

    Raises
    ------
    SignalError
        The bars are too few, or the signal raised.
    """
    decider = signal if isinstance(signal, Decider) else signal.bind()
    times = bars["timestamp"].unique().sort()
    if len(times) <= decider.warm_up + 1:
        raise SignalError(
            f"{decider.name} cannot be checked on {len(times)} bars: it answers after its warm-up of "
            f"{decider.warm_up} bars, and at least one more is needed"
        )
    if cuts < 1:
        raise SignalError(f"cuts is {cuts}; allowed: at least 1")
    places = np.unique(np.linspace(decider.warm_up, len(times) - 2, cuts).astype(np.int64))
    trial = _Trial(decider, bars, [times[int(place)] for place in places], tolerance, seed)
    return CausalityReport(decider.name, bars.height, len(places), tuple(trial.run()))


class _Trial:
    """One signal on one frame, its answers over the whole frame known."""

    def __init__(self, decider: Decider, bars: pl.DataFrame, cuts: list[datetime], tolerance: float, seed: int) -> None:
        self._decider = decider
        self._bars = bars
        self._cuts = cuts
        self._tolerance = tolerance
        self._seed = seed
        self._evaluate: Callable[[pl.DataFrame], pl.DataFrame] = (
            decider.at_once if isinstance(decider, BoundColumnSignal) else decider.evaluate
        )
        self._whole = self._evaluate(bars)

    def run(self) -> Iterator[Divergence]:
        """Yield the first divergence of each check that fails."""
        failed = False
        for check in (self._repeated, self._truncated, self._perturbed, self._defined):
            for divergence in islice(check(), 1):
                failed = True
                yield divergence
        # Pieces of what already differs would only say the same again.
        if not failed and getattr(self._decider, "kind", "exposure") == "exposure":
            yield from islice(self._resumed(), 1)

    def _repeated(self) -> Iterator[Divergence]:
        yield from self._compare("repeated", self._evaluate(self._bars))

    def _truncated(self) -> Iterator[Divergence]:
        for cut in self._cuts:
            past = self._bars.filter(pl.col("timestamp") <= cut)
            yield from self._compare("truncated", self._evaluate(past), cut)

    def _perturbed(self) -> Iterator[Divergence]:
        span = np.log(_LARGEST_FACTOR)
        for index, cut in enumerate(self._cuts):
            draw = np.random.default_rng([self._seed, index])
            factors = np.exp(draw.uniform(-span, span, (2, self._bars.height)))
            factors[:, (self._bars["timestamp"] <= cut).to_numpy()] = 1.0
            changed = [
                pl.col(name) * pl.lit(pl.Series(factors[0 if name in _PRICES else 1]))
                for name in (*_PRICES, "volume")
                if name in self._bars.columns
            ]
            yield from self._compare("perturbed", self._evaluate(self._bars.with_columns(changed)), cut)

    def _defined(self) -> Iterator[Divergence]:
        if isinstance(self._decider, BoundColumnSignal):
            yield from self._compare("defined", self._decider.defined(self._bars), answered=True)

    def _resumed(self) -> Iterator[Divergence]:
        """Feed all symbols the bars between two cuts at a time; save and restore every state in between."""
        decider = self._decider
        keys, matrix, bounds, label = ordered_bars(decider.name, decider.columns, self._bars)
        exposures = np.zeros(matrix.shape[1])
        # In which piece each bar lies; a symbol's rows are in order of time, so its pieces are, too.
        piece = keys["timestamp"].map_elements(lambda time: bisect_left(self._cuts, time), return_dtype=pl.Int64)
        states = [decider.start() for _ in bounds[1:]]
        for number in range(len(self._cuts) + 1):
            rows = np.flatnonzero(piece.to_numpy() == number)
            matrix_rows = np.ascontiguousarray(matrix[:, rows])
            resumed = np.array([decider.restore(decider.snapshot(state)) for state in states])
            exposures[rows] = decider.advance(
                resumed, rows.searchsorted(bounds).astype(np.int64), matrix_rows, label=partial(_at, label, rows)
            )
            states = list(resumed)
        yield from self._compare("resumed", keys.with_columns(pl.Series("exposure", exposures)))

    def _compare(
        self, check: Check, answers: pl.DataFrame, cut: datetime | None = None, *, answered: bool = False
    ) -> Iterator[Divergence]:
        """Yield the first bar up to the cut at which the answers differ, or, if asked, have none."""
        both = self._whole.join(answers.select(*_KEYS, received="exposure"), on=_KEYS, how="left")
        both = both.with_columns(pl.col("received").fill_null(np.nan))
        if cut is not None:
            both = both.filter(pl.col("timestamp") <= cut)
        received, tolerance = both["received"].to_numpy(), self._tolerance
        same = np.isclose(both["exposure"].to_numpy(), received, rtol=tolerance, atol=tolerance, equal_nan=not answered)
        apart = both.filter(pl.Series(~same)).sort("timestamp", "symbol")
        if apart.height:
            first = apart.row(0, named=True)
            yield Divergence(
                check=check,
                symbol=first["symbol"],
                session=first["session"],
                timestamp=first["timestamp"],
                expected=first["exposure"],
                received=first["received"],
                cut=cut,
                bars=apart.height,
            )


def _at(label: Label, rows: npt.NDArray[np.int64], row: int) -> str:
    return label(int(rows[row]))
