"""Many combinations of a cross-sectional signal's parameters over one panel, for sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quantflow.errors import SignalError
from quantflow.signals import _cross_run as cross
from quantflow.signals._panel import Panel
from quantflow.signals._parameters import Value, check_arrays
from quantflow.signals._starts import Starts, slot_starts

if TYPE_CHECKING:
    from quantflow.signals._cross_section import CrossSection

__all__ = ["CrossSectionBatch", "PreparedPanel"]

Floats = npt.NDArray[np.float64]


class CrossSectionBatch:
    """A cross-sectional signal with ``count`` combinations of parameter values. Made by :meth:`CrossSection.batch`.

    It holds some ten numbers a combination and can be shared between threads.

    Attributes
    ----------
    signal
        Its definition.
    count
        Number of combinations.
    columns
        Bar columns that it reads.
    symbols
        The definition's universe; ``None``: whatever the panel has.
    warm_up
        int64[count]: number of first bars whose target is 0.0.
    """

    def __init__(self, signal: CrossSection, values: Mapping[str, npt.ArrayLike]) -> None:
        self.signal = signal
        self.columns = signal.columns
        self.symbols = signal.symbols
        owner = f"signal {signal.name!r}"
        self._values = check_arrays(owner, signal.parameters, values)
        self.count = len(self._values)
        specs = list(signal._slots.values())
        # A signal's slots of both kinds, in its own order: (whether each symbol has one, its place among its kind).
        places = {True: 0, False: 0}
        self._order: list[tuple[bool, int]] = []
        for spec in specs:
            each = cross.is_each(spec)
            self._order.append((each, places[each]))
            places[each] += 1
        self._starts: dict[bool, tuple[Starts, npt.NDArray[np.int32]]] = {}
        self._warm_ups: dict[bool, npt.NDArray[np.int64]] = {}
        for each in (True, False):
            members = [spec for spec in specs if cross.is_each(spec) is each]
            starts, ids, self._warm_ups[each] = slot_starts(owner, members, signal.parameters, self._values)
            self._starts[each] = starts, ids
        self.warm_up = np.maximum(self._warm_ups[True], self._warm_ups[False])

    def __repr__(self) -> str:
        return f"<{self.count} combinations of {self.signal!r}>"

    def parameters(self, number: int) -> dict[str, Value]:
        """Return the values of one combination, as :attr:`BoundCrossSection.parameters`."""
        row = self._values[number].tolist()
        return {
            name: spec.check(value if spec.kind != "bool" else bool(value))
            for (name, spec), value in zip(self.signal.parameters.items(), row, strict=True)
        }

    def prepare(self, panel: Panel, first: int = 0, last: int | None = None) -> PreparedPanel:
        """Return what fills target weights of the combinations ``first <= number < last`` on this panel.

        Raises
        ------
        MissingColumnError
            The panel lacks a column that the signal reads.
        SignalError
            The range is not within the combinations, the panel has other symbols than the
            definition, or a symbol is missing and the signal refuses that.
        """
        last = self.count if last is None else last
        if not 0 <= first <= last <= self.count:
            raise SignalError(f"combinations {first} to {last} were asked for; there are {self.count}")
        if self.symbols is not None and panel.symbols != self.symbols:
            raise SignalError(
                f"{self.signal.name}: the panel has the symbols {', '.join(panel.symbols)}; the definition names "
                f"{', '.join(self.symbols)}: make it with Panel.of(bars, columns, symbols=...)"
            )
        cross.refuse_missing(self.signal, panel.present, panel.label)
        return PreparedPanel(self, panel, first, last)

    def _initial(self, number: int) -> list[tuple[bool, Floats]]:
        slots = []
        for each, place in self._order:
            starts, ids = self._starts[each]
            slots.append((each, starts.array(int(ids[place, number]))))
        return slots


class PreparedPanel:
    """One panel, ready to be filled; made by :meth:`CrossSectionBatch.prepare`, safe between threads."""

    def __init__(self, batch: CrossSectionBatch, panel: Panel, first: int, last: int) -> None:
        self.batch = batch
        self.panel = panel
        self.first = first
        self.last = last
        self._columns = cross.panel_columns(batch.signal.name, batch.columns, panel)
        batch.signal._loop(compiled=True)

    def fill(self, first: int, last: int, out: Floats) -> None:
        """Write the target weights of the combinations ``first <= number < last`` into ``out``.

        Bit for bit what ``signal.bind(**values).weights(panel)`` answers. The interpreter's
        lock is released while a combination is computed.

        Parameters
        ----------
        out
            float64[last - first, T, N], C-contiguous.

        Raises
        ------
        SignalError
            The signal raised, returned a value or wrote one that is not finite; names the
            combination's parameters and the bar. ``out`` must then be dropped.
        """
        if not self.first <= first <= last <= self.last:
            raise SignalError(f"combinations {first} to {last} were asked for, prepared: {self.first} to {self.last}")
        expected = (last - first, *self.panel.present.shape)
        if out.dtype != np.float64 or out.shape != expected or not out.flags.c_contiguous:
            raise SignalError(f"out is {out.dtype} of shape {out.shape}; give C-contiguous float64 of shape {expected}")
        for number in range(first, last):
            self._fill(number, out[number - first])

    def _fill(self, number: int, out: Floats) -> None:
        batch = self.batch
        slots = batch._initial(number)
        symbols = len(self.panel.symbols)
        warm_ups = int(batch._warm_ups[True][number]), int(batch._warm_ups[False][number])
        try:
            cross.run_loop(
                batch.signal,
                cross.initial_state(slots, symbols),
                (self._columns, self.panel.present),
                (batch._values[number], cross.initial_offsets(slots, symbols), *warm_ups),
                out,
                self.panel.label,
                compiled=True,
            )
        except SignalError as exc:
            values = ", ".join(f"{name}={value!r}" for name, value in batch.parameters(number).items())
            raise SignalError(f"{exc} (combination {number}: {values or 'no parameters'})") from exc.__cause__
