"""From combinations to sums: how each shape of signal is swept.

A task computes whole rows on one thread, a few combinations at a time: their exposures or weights are
written to a buffer, traded at once, and overwritten by the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from quantflow.backtest._combinations import Block, Combinations, executions_of, in_parts
from quantflow.backtest._from_raw import DETAILED_METRICS
from quantflow.backtest._market import Market
from quantflow.backtest._options import Execution
from quantflow.backtest._runs import run_portfolio, run_slots
from quantflow.errors import ParameterError, SignalError
from quantflow.signals import CrossSection, Panel, Signal
from quantflow.signals._checks import column_matrix, missing_column

if TYPE_CHECKING:
    import polars as pl

    from quantflow.backtest._sweep_job import Job
    from quantflow.signals import SignalBatch
    from quantflow.signals._batch import Prepared
    from quantflow.signals._cross_batch import PreparedPanel

__all__ = ["PathSource", "path_source"]

Floats = npt.NDArray[np.float64]
Task = Callable[[], None]
Trade = Callable[[Floats, Market, Execution], Floats]

# Exposures of a block: they and what the engine reads fit a core's second-level cache.
_BLOCK_BYTES = 1 << 19
# Exposures of all symbols, which a portfolio needs together, are beyond any cache; more share more indicators.
_PORTFOLIO_BYTES = 32 << 20
_MOST_IN_BLOCK = 64
# Tasks a thread, so that none waits long for another's last one.
_TASKS_A_THREAD = 4


class PathSource(Protocol):
    """What computes the sums of combinations."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that are traded."""
        ...

    @property
    def steps_each(self) -> int:
        """Bars of one combination, all symbols."""
        ...

    @property
    def scratch_bytes(self) -> int:
        """Memory that a thread needs."""
        ...

    def tasks(self, combinations: Combinations, raw: Floats, threads: int) -> list[Task]:
        """Return tasks that fill ``raw``, float64[combinations, rows each, sums], each a part of it."""
        ...


def path_source(job: Job, *, trade: Trade | None = None) -> PathSource:
    """Return what sweeps the job's signal, checked on its bars.

    ``trade`` answers what is written for a portfolio's weights instead of its sums.
    """
    source = _source(job)
    source.trade = trade
    return source


def _source(job: Job) -> _Slots | _Portfolios | _Panels | _Deciders:
    if isinstance(job.signal, CrossSection) and job.by == "symbol":
        raise ParameterError(
            f"{job.name} weighs symbols against each other, so by='symbol' has no meaning; use by='portfolio'"
        )
    executions = executions_of(job.grid, job.execution)
    market = Market.of(job.bars, next(executions), job.actions)
    for execution in executions:
        market.view(execution)
    if isinstance(job.signal, CrossSection):
        return _Panels(job, market)
    if not isinstance(job.signal, Signal):
        return _Deciders(job, market)
    return _Slots(job, market) if job.by == "symbol" else _Portfolios(job, market)


class _Source:
    """What all kinds share: the market, and each symbol's own bars."""

    def __init__(self, job: Job, market: Market) -> None:
        self._signal: Any = job.signal
        self._market = market
        self._rate = job.risk_free_rate
        self._start = job.start
        self._brief = DETAILED_METRICS.isdisjoint(job.metrics)
        self.trade: Trade | None = None
        self._lengths = market.present.sum(axis=0).astype(np.int64)

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._market.symbols

    @property
    def steps_each(self) -> int:
        return int(self._lengths.sum())

    def _trade(self, weights: Floats, combinations: Combinations, execution: int) -> Floats:
        options = combinations.executions[execution]
        if self.trade is not None:
            return self.trade(weights, self._market, options)
        start = self._first(self._market.timestamps)
        return run_portfolio(weights, self._market, options, risk_free_rate=self._rate, start=start)

    def _first(self, timestamps: pl.Series) -> int:
        """Return the row at which accounts begin; a symbol that ended before is worth its cash at its last bar."""
        if self._start is None:
            return 0
        return min(int(timestamps.search_sorted(self._start)), len(timestamps) - 1)

    def _trade_alone(self, targets: Floats, index: int, execution: Execution) -> Floats:
        start = 0 if self._start is None else self._first(self._market.timestamps.gather(self._market.rows_of(index)))
        return run_slots(
            targets, self._market, index, execution, risk_free_rate=self._rate, start=start, brief=self._brief
        )


class _PerSymbol(_Source):
    """Signals that see one symbol: a matrix of its bars each."""

    def __init__(self, job: Job, market: Market) -> None:
        super().__init__(job, market)
        self._matrices = [self._matrix(job, index) for index in range(len(market.symbols))]

    def _matrix(self, job: Job, index: int) -> Floats:
        rows = self._market.rows_of(index)
        known = self._market.columns
        for name in self._signal.columns:
            if name not in known:
                raise missing_column(self._signal.name, name, list(known))
        columns = {name: known[name][rows, index] for name in self._signal.columns}
        return column_matrix(self._signal.name, self._signal.columns, columns, partial(self._label, index, rows))

    def _label(self, index: int, rows: npt.NDArray[np.int64], row: int) -> str:
        return f"{self._market.symbols[index]} at {self._market.sessions[int(rows[row])]}"

    def _prepared(self, batch: SignalBatch, index: int, first: int, last: int) -> Prepared:
        label = partial(self._label, index, self._market.rows_of(index))
        return batch.prepare(self._matrices[index], first, last, label)


class _Slots(_PerSymbol):
    """Per-symbol signals, an account a symbol."""

    def __init__(self, job: Job, market: Market) -> None:
        super().__init__(job, market)
        longest = int(self._lengths.max())
        self._block = max(1, min(_MOST_IN_BLOCK, _BLOCK_BYTES // (8 * longest)))
        self.scratch_bytes = self._block * longest * 8

    def tasks(self, combinations: Combinations, raw: Floats, threads: int) -> list[Task]:
        batch = self._signal.batch(combinations.values())
        symbols = range(len(self._market.symbols))
        wanted = -(-_TASKS_A_THREAD * threads // len(symbols)) if threads > 1 else 1
        parts = in_parts(combinations.signals, self._block, wanted)
        blocks = [list(combinations.blocks(self._block, *part)) for part in parts]
        return [
            partial(self._run, batch, index, part, mine, combinations, raw)
            for index in symbols
            for part, mine in zip(parts, blocks, strict=True)
        ]

    def _run(
        self,
        batch: SignalBatch,
        index: int,
        part: tuple[int, int],
        blocks: list[Block],
        combinations: Combinations,
        raw: Floats,
    ) -> None:
        prepared = self._prepared(batch, index, *part)
        buffer = np.empty((self._block, int(self._lengths[index])))
        for block in blocks:
            exposures = buffer[: block.last - block.first]
            prepared.fill(block.first, block.last, exposures)
            for use in block.uses:
                targets = exposures if use.rows is None else exposures[use.rows]
                execution = combinations.executions[use.execution]
                raw[use.combinations, index] = self._trade_alone(targets, index, execution)


class _Portfolios(_PerSymbol):
    """Per-symbol signals, one account for all symbols: each has 1 / N of equity to fill."""

    def __init__(self, job: Job, market: Market) -> None:
        super().__init__(job, market)
        self._begins = np.concatenate([[0], np.cumsum(self._lengths)[:-1]]).astype(np.int64)
        # Where each timestamp finds each symbol's bar among the symbol's own; -1 for no bar.
        self._bar = np.where(market.present, np.cumsum(market.present, axis=0) - 1, -1).astype(np.int32)
        self._block = max(1, min(_MOST_IN_BLOCK, _PORTFOLIO_BYTES // (8 * self.steps_each)))
        self.scratch_bytes = (self._block + 1) * self._bar.size * 8

    def tasks(self, combinations: Combinations, raw: Floats, threads: int) -> list[Task]:
        batch = self._signal.batch(combinations.values())
        fair = -(-combinations.signals // (_TASKS_A_THREAD * threads)) if threads > 1 else self._block
        return [
            partial(self._run, batch, block, combinations, raw)
            for block in combinations.blocks(max(1, min(self._block, fair)))
        ]

    def _run(self, batch: SignalBatch, block: Block, combinations: Combinations, raw: Floats) -> None:
        count = block.last - block.first
        buffer = np.empty(count * self.steps_each)
        for index, (begin, length) in enumerate(zip(self._begins, self._lengths, strict=True)):
            exposures = buffer[begin * count : (begin + length) * count].reshape(count, length)
            self._prepared(batch, index, block.first, block.last).fill(block.first, block.last, exposures)
        buffer /= len(self._market.symbols)
        weights = np.empty(self._bar.shape)
        spread, at = _spread_loop(), -1
        for row, execution, combination in block.trades():
            if row != at:
                spread(buffer, self._begins * count + self._lengths * row, self._bar, weights)
                at = row
            raw[combination, 0] = self._trade(weights, combinations, execution)


class _Panels(_Source):
    """Cross-sectional signals: the weights of all symbols at once."""

    def __init__(self, job: Job, market: Market) -> None:
        super().__init__(job, market)
        self._panel = Panel.of(job.bars, job.signal.columns, symbols=job.signal.symbols, owner=job.name)
        self.scratch_bytes = 3 * market.present.size * 8
        # A universe of its own may name symbols without any bar, leave out others, and have fewer timestamps.
        same = self._panel.symbols == market.symbols and len(self._panel) == len(market.timestamps)
        self._place = None if same else self._places(market)

    def _places(self, market: Market) -> tuple[Any, Any]:
        """Return where in the market's matrix each timestamp and symbol of the panel goes; others are left out."""
        columns = {symbol: column for column, symbol in enumerate(market.symbols)}
        known = [(place, columns[symbol]) for place, symbol in enumerate(self._panel.symbols) if symbol in columns]
        rows = market.timestamps.search_sorted(self._panel.timestamps).to_numpy()
        places, targets = zip(*known, strict=True)
        return np.array(places), np.ix_(rows, np.array(targets))

    def tasks(self, combinations: Combinations, raw: Floats, threads: int) -> list[Task]:
        prepared = self._signal.batch(combinations.values()).prepare(self._panel)
        return [partial(self._run, prepared, block, combinations, raw) for block in combinations.blocks(1)]

    def _run(self, prepared: PreparedPanel, block: Block, combinations: Combinations, raw: Floats) -> None:
        filled = np.empty((1, *self._panel.present.shape))
        prepared.fill(block.first, block.last, filled)
        weights = self._in_market(filled[0])
        for use in block.uses:
            raw[use.combinations, 0] = self._trade(weights, combinations, use.execution)

    def _in_market(self, weights: Floats) -> Floats:
        if self._place is None:
            return weights
        places, targets = self._place
        placed = np.full(self._market.shape, np.nan)
        placed[targets] = weights[:, places]
        return placed


class _Deciders(_Source):
    """Anything that makes a decider of values: column signals, estimators, a user's own; one frame a combination."""

    def __init__(self, job: Job, market: Market) -> None:
        super().__init__(job, market)
        self._name = job.name
        self._by = job.by
        self._bars = job.bars
        self.scratch_bytes = 4 * self._market.present.size * 8

    def tasks(self, combinations: Combinations, raw: Floats, threads: int) -> list[Task]:
        return [partial(self._run, block, combinations, raw) for block in combinations.blocks(1)]

    def _run(self, block: Block, combinations: Combinations, raw: Floats) -> None:
        decider = self._bound(combinations.value(block.first))
        decided, kind = decider.evaluate(self._bars), getattr(decider, "kind", "exposure")
        if self._by == "symbol" and kind == "weights":
            raise ParameterError(f"{self._name} answers weights of a portfolio; use by='portfolio'")
        exposures = self._market.matrix(decided, "exposure")
        for use in block.uses:
            if self._by == "symbol":
                raw[use.combinations] = self._alone(exposures, combinations, use.execution)
            else:
                weights = exposures if kind == "weights" else exposures / len(self._market.symbols)
                raw[use.combinations, 0] = self._trade(weights, combinations, use.execution)

    def _bound(self, values: Mapping[str, Any]) -> Any:
        try:
            return getattr(self._signal, "bind", self._signal)(**values)
        except SignalError as exc:
            given = ", ".join(f"{name}={value!r}" for name, value in values.items())
            raise type(exc)(f"{exc} (combination with {given})") from exc

    def _alone(self, exposures: Floats, combinations: Combinations, execution: int) -> Floats:
        sums = [
            self._trade_alone(
                np.ascontiguousarray(exposures[self._market.rows_of(index), index])[None],
                index,
                combinations.executions[execution],
            )
            for index in range(len(self._market.symbols))
        ]
        return np.concatenate(sums)


_SPREAD = "void(float64[::1], int64[::1], int32[:,::1], float64[:,::1])"


@cache
def _spread_loop() -> Callable[..., None]:
    from quantflow.signals._cache import compile_cached

    loop: Callable[..., None] = compile_cached(_spread, _SPREAD)
    return loop


def _spread(values, begins, bar, weights):  # type: ignore[no-untyped-def]
    """Write series, one a symbol, as a row a timestamp; NaN where there is no bar."""
    for time in range(weights.shape[0]):
        for symbol in range(weights.shape[1]):
            own = bar[time, symbol]
            weights[time, symbol] = values[begins[symbol] + own] if own >= 0 else np.nan
