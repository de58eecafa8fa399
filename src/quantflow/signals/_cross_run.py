"""Running the loop of a cross-sectional signal: its state, its checks, its failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quantflow.errors import MissingColumnError, SignalError
from quantflow.signals import _cross_compile
from quantflow.signals._indicator import SlotSpec
from quantflow.signals._panel import Panel
from quantflow.signals._parameters import Value
from quantflow.signals._signal import State

if TYPE_CHECKING:
    from quantflow.signals._cross_section import CrossSection

__all__ = [
    "Shared",
    "initial_offsets",
    "initial_state",
    "is_each",
    "panel_columns",
    "refuse_missing",
    "run_loop",
    "start_of",
    "warm_ups",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Shared(SlotSpec):
    """A slot of the whole cross-section."""


def is_each(spec: SlotSpec) -> bool:
    """Return whether each symbol has a slot of its own."""
    return not isinstance(spec, Shared)


def start_of(spec: SlotSpec, values: Mapping[str, Value]) -> Floats:
    return np.asarray(spec.starter(**spec.resolve(values)), dtype=np.float64)


def warm_ups(specs: Iterable[SlotSpec], values: Mapping[str, Value]) -> tuple[int, int]:
    """Return the longest warm-up of the slots of each symbol, in bars, and of the shared ones, in timestamps."""
    longest = {True: 0, False: 0}
    for spec in specs:
        each = is_each(spec)
        longest[each] = max(longest[each], spec.warm_up(**spec.resolve(values)))
    return longest[True], longest[False]


def initial_offsets(slots: Sequence[tuple[bool, Floats]], symbols: int) -> npt.NDArray[np.int64]:
    """Return where each slot begins in a state of so many symbols, and the state's length.

    ``slots`` says of each whether every symbol has its own, and what it starts with.
    """
    lengths = [len(start) * (symbols if each else 1) for each, start in slots]
    return np.cumsum([1 + 3 * symbols, *lengths], dtype=np.int64)


def initial_state(slots: Sequence[tuple[bool, Floats]], symbols: int) -> State:
    """Return the state before the first timestamp."""
    parts = [np.tile(start, symbols) if each else start for each, start in slots]
    return np.concatenate([np.zeros(1 + 3 * symbols), *parts])


def panel_columns(name: str, columns: Sequence[str], panel: Panel) -> Floats:
    """Return a panel's columns in the order in which a signal reads them."""
    if panel.names == tuple(columns):
        return panel.columns
    absent = [column for column in columns if column not in panel.names]
    if absent:
        raise MissingColumnError(
            f"signal {name!r} reads the column {absent[0]!r}, which the panel does not have "
            f"(it has: {', '.join(panel.names)})"
        )
    return np.ascontiguousarray(panel.columns[[panel.names.index(column) for column in columns]])


def refuse_missing(signal: CrossSection, present: Bools, label: Callable[[int, int], str]) -> None:
    """Raise if the signal refuses missing symbols and there is one."""
    if signal.missing == "refuse" and not present.all():
        row, place = np.argwhere(~present)[0].tolist()
        raise SignalError(
            f"{signal.name}: no bar for {label(row, place)} ({int((~present).sum())} such gaps), and it refuses "
            'missing symbols; complete the bars, or say missing="hold" or missing="flat"'
        )


def run_loop(
    signal: CrossSection,
    state: State,
    bars: tuple[Floats, Bools],
    bound: tuple[Floats, npt.NDArray[np.int64], int, int],
    weights: Floats,
    label: Callable[[int, int], str],
    *,
    compiled: bool,
) -> None:
    """Run the loop over all timestamps, filling ``weights``; every failure as a SignalError."""
    columns, present = bars
    values, offsets, warm_up, shared_warm_up = bound
    owner = signal.name
    before = state[0]
    loop = signal._loop(compiled=compiled)
    try:
        failed = loop(state, columns, present, values, offsets, signal.hold, warm_up, shared_warm_up, weights)
    except Exception as exc:
        row = int(state[0] - before) - 1  # counted before the function is called
        here = np.flatnonzero(present[row])
        raise SignalError(
            f"{owner} raised {type(exc).__name__} at the timestamp of {label(row, int(here[0]))}: {exc}"
        ) from exc
    if failed == _cross_compile.RETURNED_A_VALUE:
        raise SignalError(f"{owner} returned a value; it must write its target weights into weights and return nothing")
    if failed >= 0:
        row, place = divmod(failed, present.shape[1])
        raise SignalError(
            f"{owner} wrote the weight {weights[row, place]} for {label(row, place)}, after its warm-up of "
            f"{warm_up} bars; guard the division or NaN that it comes from"
        )
