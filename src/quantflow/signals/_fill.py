"""The compiled loops of a batch: one indicator over many arguments, one signal over many combinations.

Both are generated per signature shape and take flat arrays, like the loop over bars in
``_compile``; they call the same compiled functions, so every number is the same bit for bit.
"""

from __future__ import annotations

import linecache
import math
import types
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quantflow.signals._cache import compile_cached
from quantflow.signals._compile import CONVERSIONS, Argument

__all__ = ["NOT_FLOAT", "build_fill", "build_series", "outputs_of"]

_STARTS = "int64[::1], float64[::1], int64[::1], int64[::1], float64[::1]"
_FILL_SIGNATURE = (
    f"int64(int64, int64, int64, float64[:,::1], int64[::1], int32[:,::1], {_STARTS}, "
    "float64[:,::1], float64[:,::1], int64[:,::1], float64[::1], float64[:,::1])"
)
_SERIES_SIGNATURE = f"int64(int64[::1], {_STARTS}, float64[:,::1], float64[::1], float64[:,::1], int64[::1])"

#: What a series loop answers when its indicator does not return floats.
NOT_FLOAT = 1


def start_slot(slot: Any, number: int, backgrounds: Any, marks: Any, places: Any, numbers: Any) -> None:
    """Write the start number ``number`` into the slot; see ``_starts.Starts``."""
    background = backgrounds[number]
    for index in range(len(slot)):
        slot[index] = background
    for index in range(marks[number], marks[number + 1]):
        slot[places[index]] = numbers[index]


def fill_source(arguments: Sequence[Argument], columns: int, outputs: Mapping[int, int]) -> str:
    """Return the source of ``fill`` for a signal function of this shape.

    Parameters
    ----------
    arguments
        Kinds of the arguments after ``bar``.
    columns
        How many columns a bar has.
    outputs
        Slots that are read from the table, with their number of outputs: 0 for a plain
        float, otherwise that many floats in a named tuple.
    """
    values: list[str] = []
    slots: list[str] = []
    series: list[str] = []
    passed: list[str] = []
    slot = value = 0
    for kind in arguments:
        if kind != "slot":
            values.append(f"value{value} = {CONVERSIONS[kind].format(f'values[number, {value}]')}")
            passed.append(f"value{value}")
            value += 1
            continue
        if slot in outputs:
            names = [f"series{slot}_{output}" for output in range(max(1, outputs[slot]))]
            series += [f"{name} = table[rows[{slot}, number - origin] + {index}]" for index, name in enumerate(names)]
            reads = ", ".join(f"{name}[bar]" for name in names)
            passed.append(f"Answer{slot}({reads})" if outputs[slot] else reads)
        else:
            slots += [
                f"start = ids[{slot}, number]",
                f"slot{slot} = scratch[used:used + sizes[start]]",
                "used += sizes[start]",
                f"start_slot(slot{slot}, start, backgrounds, marks, places, numbers)",
            ]
            passed.append(f"slot{slot}")
        slot += 1
    bar = ", ".join(f"column{index}[bar]" for index in range(columns))
    # Views that begin where the loop begins: an index that cannot be negative lets LLVM vectorise.
    views = [f"column{index}" for index in range(columns)] + [line.split(" = ")[0] for line in series]
    call = ", ".join([f"Bar({bar})", *passed])
    lines = [
        "def fill(first, last, origin, values, warm_ups, ids, sizes, backgrounds, marks, places, numbers,",
        "         columns, table, rows, scratch, exposures):",
        "    bars = columns.shape[1]",
        "    for number in range(first, last):",
        "        used = 0",
        *(f"        {line}" for line in [*values, *slots, *series]),
        *(f"        column{index} = columns[{index}]" for index in range(columns)),
        "        answers = exposures[number - first]",
        "        warm_up = min(warm_ups[number], bars)",
        "        for bar in range(warm_up):",
        f"            float(decide({call}))",
        "            answers[bar] = 0.0",
        "        finite = True",
        *(f"        {view} = {view}[warm_up:]" for view in [*views, "answers"]),
        "        for bar in range(len(answers)):",
        f"            exposure = float(decide({call}))",
        "            answers[bar] = exposure",
        "            finite = finite & isfinite(exposure)",
        "        if not finite:",
        "            return number",
        "    return -1",
    ]
    return "\n".join(lines) + "\n"


def build_fill(
    owner: str,
    decide: types.FunctionType,
    arguments: Sequence[Argument],
    columns: Sequence[str],
    outputs: Mapping[int, type | None],
) -> Callable[..., int]:
    """Return the compiled ``fill``, answering -1 or the first combination with an answer that is not finite.

    Parameters
    ----------
    outputs
        Slots read from the table, with the named tuple that their indicator answers, or None
        where it answers one float.

    Raises
    ------
    SignalError
        numba cannot compile what the signal reaches.
    """
    source = fill_source(arguments, len(columns), {slot: outputs_of(answer) for slot, answer in outputs.items()})
    scope: dict[str, Any] = {f"Answer{slot}": answer for slot, answer in outputs.items() if answer is not None}
    scope |= {
        "Bar": namedtuple("Bar", list(columns)),
        "decide": decide,
        "start_slot": start_slot,
        "isfinite": math.isfinite,
    }
    fill: Callable[..., int] = compile_cached(_defined(source, "fill", scope), _FILL_SIGNATURE, owner=owner)
    return fill


def build_series(owner: str, update: Callable[..., Any], inputs: int, answer: type | None) -> Callable[..., int]:
    """Return the compiled loop that writes one indicator's outputs, for many starts, into a table.

    ``series(starts, sizes, backgrounds, marks, places, numbers, inputs, scratch, table, rows)
    -> 0 or NOT_FLOAT``: ``inputs`` has a row an input, and start ``starts[k]`` writes its first
    output to row ``rows[k]`` of ``table``, further ones below.

    Raises
    ------
    SignalError
        numba cannot compile the indicator for float inputs.
    """
    given = ", ".join(f"input{index}[bar]" for index in range(inputs))
    width = outputs_of(answer)
    outputs = range(max(1, width))
    answers = [[f"value{pair}[{output}]" if width else f"value{pair}" for output in outputs] for pair in (0, 1)]
    # Two starts at a time: an indicator waits for its own last step, and the other fills the gap. An odd
    # last one runs beside itself.
    lines = [
        "def series(starts, sizes, backgrounds, marks, places, numbers, inputs, scratch, table, rows):",
        *(f"    input{index} = inputs[{index}]" for index in range(inputs)),
        "    last = len(starts) - 1",
        "    for position0 in range(0, last + 1, 2):",
        "        position1 = min(position0 + 1, last)",
        "        size = sizes[starts[position0]]",
        "        slot0 = scratch[:size]",
        "        slot1 = scratch[size:size + sizes[starts[position1]]]",
        *(
            f"        start_slot(slot{pair}, starts[position{pair}], backgrounds, marks, places, numbers)"
            for pair in (0, 1)
        ),
        *(
            f"        series{pair}_{output} = table[rows[position{pair}] + {output}]"
            for pair in (0, 1)
            for output in outputs
        ),
        "        for bar in range(table.shape[1]):",
        *(f"            value{pair} = update(slot{pair}, {given})" for pair in (0, 1)),
        *(f"            if not isinstance({one}, float): return {NOT_FLOAT}" for one in answers[0]),
        *(f"            series{pair}_{output}[bar] = {answers[pair][output]}" for pair in (0, 1) for output in outputs),
        "    return 0",
    ]
    scope = {"update": update, "start_slot": start_slot}
    function = _defined("\n".join(lines) + "\n", "series", scope)
    series: Callable[..., int] = compile_cached(function, _SERIES_SIGNATURE, owner=owner)
    return series


def outputs_of(answer: type | None) -> int:
    """Return how many floats an indicator's named tuple has, 0 where it answers a plain float."""
    fields: tuple[str, ...] = getattr(answer, "_fields", ())
    return len(fields)


def _defined(source: str, name: str, scope: dict[str, Any]) -> types.FunctionType:
    filename = f"<quantflow {name} {abs(hash(source))}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope["__name__"] = __name__
    exec(compile(source, filename, "exec"), scope)  # noqa: S102 - generated here from counts and keywords
    function: types.FunctionType = scope[name]
    return function
