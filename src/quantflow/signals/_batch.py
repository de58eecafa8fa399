"""Many combinations of a signal's parameters over one symbol's history, in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from quantflow.errors import SignalError
from quantflow.signals import _fill, _hoist
from quantflow.signals._parameters import Parameter, Value, check_arrays
from quantflow.signals._starts import pack_starts, slot_starts

if TYPE_CHECKING:
    from quantflow.signals._signal import Signal

__all__ = ["Prepared", "SignalBatch"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Indicator series of one prepared symbol, all combinations; beyond it each fill makes its own.
TABLE_BYTES = 32 * 2**20

_LAYOUTS_KEPT = 16


class SignalBatch:
    """A signal with ``count`` combinations of parameter values. Made by :meth:`Signal.batch`.

    It holds some ten numbers a combination and can be shared between threads.

    Attributes
    ----------
    signal
        Its definition.
    count
        Number of combinations.
    columns
        Bar columns that it reads: the rows of :meth:`prepare`'s matrix, in this order.
    warm_up
        int64[count]: number of first bars whose exposure is 0.0.
    """

    def __init__(self, signal: Signal, values: Mapping[str, npt.ArrayLike]) -> None:
        self.signal = signal
        self.columns = signal.columns
        owner = f"signal {signal.name!r}"
        self._values = check_arrays(owner, signal.parameters, values)
        self.count = len(self._values)
        self._starts, self._ids, self.warm_up = slot_starts(
            owner, list(signal._slots.values()), signal.parameters, self._values
        )
        self._layouts: dict[tuple[int, int], _Layout] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<{self.count} combinations of {self.signal!r}>"

    def parameters(self, number: int) -> dict[str, Value]:
        """Return the values of one combination, as :attr:`BoundSignal.parameters`."""
        row = self._values[number].tolist()
        return {
            name: _typed(spec, value) for (name, spec), value in zip(self.signal.parameters.items(), row, strict=True)
        }

    def prepare(
        self,
        matrix: Floats,
        first: int = 0,
        last: int | None = None,
        label: Callable[[int], str] | None = None,
    ) -> Prepared:
        """Return what fills exposures of the combinations ``first <= number < last`` on these bars.

        Indicator series that several combinations share are computed here, once.

        Parameters
        ----------
        matrix
            float64[columns, bars], C-contiguous and finite: one symbol's history, oldest bar
            first, a row for each of :attr:`columns`.
        first, last
            Combinations that will be filled; all by default. The more, the more is shared.
        label
            Names a bar in error messages; by default its row number.

        Raises
        ------
        SignalError
            An indicator raised; names the combination's parameters and the bar.
        """
        last = self.count if last is None else last
        if not 0 <= first <= last <= self.count:
            raise SignalError(f"combinations {first} to {last} were asked for; there are {self.count}")
        if matrix.dtype != np.float64 or matrix.ndim != 2 or not matrix.flags.c_contiguous:
            raise SignalError(f"bars are {matrix.dtype} of shape {matrix.shape}; give a C-contiguous float64 matrix")
        if len(matrix) != len(self.columns):
            raise SignalError(f"bars have {len(matrix)} rows; give one for each of {', '.join(self.columns)}")
        return Prepared(self, matrix, first, last, label or "row {}".format)

    def series_bytes(self, bars: int, first: int = 0, last: int | None = None) -> int:
        """Return how much memory :meth:`prepare` keeps for a history of ``bars`` bars."""
        size = self._layout(first, self.count if last is None else last).table_rows * bars * 8
        return size if size <= TABLE_BYTES else 0

    def _layout(self, first: int, last: int) -> _Layout:
        key = (first, last)
        with self._lock:
            known = self._layouts.get(key)
            if known is None:
                known = _layout(self, first, last)
                if len(self._layouts) >= _LAYOUTS_KEPT:
                    self._layouts.pop(next(iter(self._layouts)))
                self._layouts[key] = known
            return known

    def _replay(self, matrix: Floats, first: int, last: int, label: Callable[[int], str]) -> NoReturn:
        """Run combinations that failed together one by one, to name the first that fails and its bar."""
        for number in range(first, last):
            bound = self.signal.bind(uncompiled=False, **self.parameters(number))
            try:
                bound.advance(bound.start().reshape(1, -1), np.array([0, matrix.shape[1]]), matrix, label=label)
            except SignalError as exc:
                values = ", ".join(f"{name}={value!r}" for name, value in bound.parameters.items())
                raise SignalError(f"{exc} (combination {number}: {values or 'no parameters'})") from exc.__cause__
        raise SignalError(
            f"{self.signal.name} failed in one of the combinations {first} to {last}, but in none on its own: "
            "something that it reaches depends on what ran before; keep numbers in memory() only"
        )


class Prepared:
    """One symbol's bars, ready to be filled; made by :meth:`SignalBatch.prepare`, safe between threads."""

    def __init__(self, batch: SignalBatch, matrix: Floats, first: int, last: int, label: Callable[[int], str]) -> None:
        self.batch = batch
        self.first = first
        self.last = last
        self._matrix = matrix
        self._label = label
        self._filler = batch.signal._filler()
        self._shared: tuple[_Layout, Floats] | None = None
        if not self._filler.calls:
            self._shared = batch._layout(first, last), np.zeros((0, 0))
        elif (layout := batch._layout(first, last)).table_rows * matrix.shape[1] * 8 <= TABLE_BYTES:
            self._shared = layout, self._table(layout, first, last)

    def fill(self, first: int, last: int, out: Floats) -> None:
        """Write the target exposures of the combinations ``first <= number < last`` into ``out``.

        Bit for bit what ``signal.bind(**values).exposures(...)`` answers. The interpreter's
        lock is released.

        Parameters
        ----------
        out
            float64[last - first, bars], C-contiguous.

        Raises
        ------
        SignalError
            The signal raised, or answered a number that is not finite; names the
            combination's parameters and the bar. ``out`` must then be dropped.
        """
        if not self.first <= first <= last <= self.last:
            raise SignalError(f"combinations {first} to {last} were asked for, prepared: {self.first} to {self.last}")
        expected = (last - first, self._matrix.shape[1])
        if out.dtype != np.float64 or out.shape != expected or not out.flags.c_contiguous:
            raise SignalError(f"out is {out.dtype} of shape {out.shape}; give C-contiguous float64 of shape {expected}")
        batch = self.batch
        if self._shared is None:
            layout, origin = batch._layout(first, last), first
            table = self._table(layout, first, last)
        else:
            (layout, table), origin = self._shared, self.first
        scratch = np.empty(layout.scratch)
        try:
            failed = self._filler.fill(
                first, last, origin, batch._values, batch.warm_up, batch._ids, *batch._starts.arrays,
                self._matrix, table, layout.rows, scratch, out,
            )  # fmt: skip
        except Exception:  # noqa: BLE001 - named, and raised again, by the replay
            batch._replay(self._matrix, first, last, self._label)
        if failed >= 0:
            batch._replay(self._matrix, failed, last, self._label)

    def _table(self, layout: _Layout, first: int, last: int) -> Floats:
        table = np.empty((layout.table_rows, self._matrix.shape[1]))
        try:
            for group in layout.groups:
                group.run(self.batch, self._matrix, table)
        except Exception:  # noqa: BLE001 - as in fill
            self.batch._replay(self._matrix, first, last, self._label)
        return table


@dataclass(frozen=True)
class Filler:
    """The compiled loops of one signal: over its combinations, and over the starts of each hoisted call."""

    fill: Callable[..., int]
    calls: tuple[_hoist.HoistedCall, ...] = ()
    series: tuple[Callable[..., int], ...] = ()


@dataclass(frozen=True)
class _Group:
    """Slots that read the same indicator of the same inputs: which starts, and where their answers go."""

    series: Callable[..., int]
    call: _hoist.HoistedCall
    starts: Ints
    rows: Ints

    def run(self, batch: SignalBatch, matrix: Floats, table: Floats) -> None:
        inputs = np.stack([_hoist.evaluate_input(one, matrix, batch.columns) for one in self.call.inputs])
        sizes = batch._starts.sizes
        scratch = np.empty(2 * int(sizes[self.starts].max(initial=0)))
        self.series(self.starts, *batch._starts.arrays, inputs, scratch, table, self.rows)


@dataclass(frozen=True)
class _Layout:
    """Where the combinations of a range find their series, and how much scratch they need.

    ``rows[slot, number - first]`` is the first row of the table that a hoisted slot reads.
    """

    rows: Ints
    table_rows: int
    scratch: int
    groups: tuple[_Group, ...]


def build_filler(signal: Signal) -> Filler:
    """Compile a signal's loops."""
    owner = f"signal {signal.name!r}"
    slots = list(signal._slots)
    plan = _hoist.hoist(signal.definition, slots, signal.columns)
    series = _series(owner, plan.calls)
    unfit = [
        call.slot for call, loop in zip(plan.calls, series, strict=True) if not _answers_floats(signal, call, loop)
    ]
    if unfit:
        plan = _hoist.hoist(signal.definition, slots, signal.columns, leave=unfit)
        series = _series(owner, plan.calls)
    answers = {call.slot: call.answer for call in plan.calls}
    fill = _fill.build_fill(owner, plan.decide, signal._arguments, signal.columns, answers)
    return Filler(fill, plan.calls, series)


def _series(owner: str, calls: Sequence[_hoist.HoistedCall]) -> tuple[Callable[..., int], ...]:
    return tuple(_fill.build_series(owner, call.indicator.update, len(call.inputs), call.answer) for call in calls)


def _answers_floats(signal: Signal, call: _hoist.HoistedCall, series: Callable[..., int]) -> bool:
    """Return whether an indicator answers floats, which a table of float64 keeps as they are; try one bar."""
    spec = list(signal._slots.values())[call.slot]
    defaults = {name: parameter.default for name, parameter in signal.parameters.items()}
    starts = pack_starts([spec.starter(**spec.resolve(defaults))])
    table = np.empty((max(1, _fill.outputs_of(call.answer)), 1))
    one = np.zeros(1, dtype=np.int64)
    try:
        return (
            series(one, *starts.arrays, np.ones((len(call.inputs), 1)), np.empty(2 * starts.sizes[0]), table, one) == 0
        )
    except Exception:  # noqa: BLE001 - an indicator that cannot be tried stays in its signal
        return False


def _layout(batch: SignalBatch, first: int, last: int) -> _Layout:
    filler = batch.signal._filler()
    ids = batch._ids[:, first:last]
    rows = np.zeros(ids.shape, dtype=np.int64)
    groups = []
    table_rows = 0
    for series, calls in _same_calls(filler):
        slots = [call.slot for call in calls]
        starts, inverse = np.unique(ids[slots], return_inverse=True)
        width = max(1, _fill.outputs_of(calls[0].answer))
        first_rows = table_rows + np.arange(len(starts)) * width
        rows[slots] = first_rows[inverse.reshape(len(slots), last - first)]
        groups.append(_Group(series, calls[0], starts.astype(np.int64), first_rows))
        table_rows += len(starts) * width
    hoisted = {call.slot for call in filler.calls}
    plain = [slot for slot in range(len(ids)) if slot not in hoisted]
    sizes = batch._starts.sizes[ids[plain]].sum(axis=0) if plain else np.zeros(0, dtype=np.int64)
    return _Layout(rows, table_rows, int(sizes.max(initial=0)), tuple(groups))


def _same_calls(filler: Filler) -> Iterator[tuple[Callable[..., int], list[_hoist.HoistedCall]]]:
    """Yield calls of one indicator with the same inputs together: their slots share series."""
    together: dict[tuple[Callable[..., int], tuple[str, ...]], list[_hoist.HoistedCall]] = {}
    for series, call in zip(filler.series, filler.calls, strict=True):
        together.setdefault((series, call.inputs_text), []).append(call)
    for (series, _), calls in together.items():
        yield series, calls


def _typed(spec: Parameter, value: float) -> Value:
    return bool(value) if spec.kind == "bool" else int(value) if spec.kind == "int" else value
