"""The states in which slots start, for many combinations of parameters at once.

A starter runs once per distinct arguments, and its array is kept as one background number
and the few that differ from it: thousands of windows take kilobytes, not gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantflow.errors import ParameterError
from quantflow.signals._indicator import SlotSpec
from quantflow.signals._parameters import Parameter, Value

__all__ = ["Starts", "distinct_rows", "pack_starts", "slot_starts"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_CONVERT: Mapping[str, Callable[[float], Value]] = {"bool": bool, "int": int, "float": float}
_AT_ONCE = 512


@dataclass(frozen=True)
class Starts:
    """Distinct starting arrays: number ``k`` is ``sizes[k]`` times ``backgrounds[k]``, but for its exceptions.

    The exceptions of ``k`` are ``numbers[marks[k]:marks[k + 1]]`` at ``places`` of the same range.
    """

    sizes: Ints
    backgrounds: Floats
    marks: Ints
    places: Ints
    numbers: Floats

    @property
    def arrays(self) -> tuple[Ints, Floats, Ints, Ints, Floats]:
        """What the compiled loops take."""
        return self.sizes, self.backgrounds, self.marks, self.places, self.numbers

    def array(self, number: int) -> Floats:
        """Return one starting array."""
        start = np.full(self.sizes[number], self.backgrounds[number])
        odd = slice(self.marks[number], self.marks[number + 1])
        start[self.places[odd]] = self.numbers[odd]
        return start


def slot_starts(
    owner: str, slots: Sequence[SlotSpec], parameters: Mapping[str, Parameter], values: Floats
) -> tuple[Starts, npt.NDArray[np.int32], Ints]:
    """Return the distinct starts of all slots, which one each combination's slots take, and warm-ups.

    Parameters
    ----------
    values
        A row a combination, a column a parameter in declaration order.

    Returns
    -------
    tuple
        The starts; ``ids`` of shape [slots, combinations]; the warm-up of each combination in bars.
        Slots of the same indicator and arguments have equal ids.

    Raises
    ------
    ParameterError
        An indicator refuses its arguments; names the first such combination.
    """
    count = len(values)
    ids = np.zeros((len(slots), count), dtype=np.int32)
    warm_up = np.zeros(count, dtype=np.int64)
    pool = _Pool()
    for members in _same_starters(slots, parameters):
        kinds, columns = zip(*(_arguments(slots[slot], parameters, values) for slot in members), strict=True)
        rows = np.concatenate(columns)
        firsts, inverse = distinct_rows(rows)
        inverse = inverse.reshape(len(members), count)
        ids[members] = inverse + len(pool)
        spec = slots[members[0]]
        warm_ups = np.zeros(len(firsts), dtype=np.int64)
        for index, first in enumerate(firsts.tolist()):
            given = _given(spec, kinds[0], rows[first])
            try:
                pool.add(spec.starter(**given))
                warm_ups[index] = spec.warm_up(**given)
            except ParameterError as exc:
                raise ParameterError(f"{owner}: combination {first % count}: {spec.label}: {exc}") from exc
        np.maximum(warm_up, warm_ups[inverse].max(axis=0), out=warm_up)
    return pool.starts(), ids, warm_up


def _same_starters(slots: Sequence[SlotSpec], parameters: Mapping[str, Parameter]) -> Iterator[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, spec in enumerate(slots):
        groups.setdefault((spec.starter, spec.warm_up, _kinds(spec, parameters)), []).append(index)
    yield from groups.values()


def _kinds(spec: SlotSpec, parameters: Mapping[str, Parameter]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, parameters[given].kind if isinstance(given, str) else type(given).__name__)
        for name, given in spec.arguments.items()
    )


def _arguments(
    spec: SlotSpec, parameters: Mapping[str, Parameter], values: Floats
) -> tuple[tuple[tuple[str, str], ...], Floats]:
    order = list(parameters)
    columns = [
        values[:, order.index(given)] if isinstance(given, str) else np.full(len(values), float(given))
        for given in spec.arguments.values()
    ]
    stacked = np.stack(columns, axis=1) if columns else np.zeros((len(values), 0))
    return _kinds(spec, parameters), stacked


def _given(spec: SlotSpec, kinds: Sequence[tuple[str, str]], row: Floats) -> dict[str, Value]:
    return {name: _CONVERT[kind](float(number)) for (name, kind), number in zip(kinds, row, strict=True)}


def distinct_rows(rows: Floats) -> tuple[Ints, Ints]:
    """Return where each distinct row occurs first, in order, and which of them each row is."""
    inverse = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        numbers, codes = np.unique(column, return_inverse=True)
        # Below the square of the number of rows, after each column again.
        _, inverse = np.unique(inverse * len(numbers) + codes, return_inverse=True)
    _, firsts = np.unique(inverse, return_index=True)
    order = np.argsort(firsts)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return firsts[order].astype(np.int64), rank[inverse]


def pack_starts(arrays: Sequence[npt.ArrayLike]) -> Starts:
    """Return starting arrays as :class:`Starts`."""
    pool = _Pool()
    for array in arrays:
        pool.add(array)
    return pool.starts()


class _Pool:
    """Starting arrays, made compact some hundred at a time."""

    def __init__(self) -> None:
        self._waiting: list[Floats] = []
        self._packed: list[tuple[Ints, Floats, Ints, Ints, Floats]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, start: npt.ArrayLike) -> None:
        self._waiting.append(np.asarray(start, dtype=np.float64))
        self._count += 1
        if len(self._waiting) == _AT_ONCE:
            self._pack()

    def starts(self) -> Starts:
        self._pack()
        if not self._packed:
            nothing = np.zeros(0, dtype=np.int64)
            return Starts(nothing, np.zeros(0), np.zeros(1, dtype=np.int64), nothing, np.zeros(0))
        sizes, backgrounds, counts, places, numbers = (
            np.concatenate([part[field] for part in self._packed]) for field in range(5)
        )
        marks = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Starts(sizes, backgrounds, marks, places, numbers)

    def _pack(self) -> None:
        if not self._waiting:
            return
        sizes = np.array([len(start) for start in self._waiting], dtype=np.int64)
        # A slot's last number is mostly the one that fills it.
        backgrounds = np.array([start[-1] if len(start) else 0.0 for start in self._waiting])
        flat = np.concatenate(self._waiting)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        begins = np.cumsum(sizes) - sizes
        # Compared as bits: NaN equals itself and -0.0 is not 0.0.
        odd = np.flatnonzero(flat.view(np.int64) != backgrounds[owner].view(np.int64))
        counts = np.bincount(owner[odd], minlength=len(sizes)).astype(np.int64)
        self._packed.append((sizes, backgrounds, counts, odd - begins[owner[odd]], flat[odd]))
        self._waiting = []
