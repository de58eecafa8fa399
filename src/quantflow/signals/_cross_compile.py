"""From a cross-sectional function to one loop over timestamps, compiled or not.

As with per-symbol signals there is one generated loop: whole histories, sweeps and the live
runtime's single timestamp all run it, so they agree bit for bit.
"""

from __future__ import annotations

import linecache
import math
import types
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, Literal

from quantflow.signals._cache import compile_cached
from quantflow.signals._compile import _raising

__all__ = ["RETURNED_A_VALUE", "Argument", "build_loop"]

Argument = Literal["each", "shared", "bool", "int", "float"]

_SIGNATURE = (
    "int64(float64[::1], float64[:,:,::1], boolean[:,::1], float64[::1], int64[::1], "
    "int64, int64, int64, float64[:,::1])"
)
_CONVERSIONS = {"bool": "values[{}] != 0.0", "int": "int(values[{}])", "float": "float(values[{}])"}

#: What the loop answers where the function returned something instead of writing weights.
RETURNED_A_VALUE = -2

# The state: timestamps seen; a number a symbol of bars seen, of timestamps absent in a row,
# and of the target; then the slots, `offsets` saying where each begins. Choices instead of branches
# let LLVM do several symbols at once.
_LOOP = """\
def run(state, columns, present, values, offsets, hold, warm_up, shared_warm_up, weights):
    symbols = present.shape[1]
    seen = state[1:1 + symbols]
    absent = state[1 + symbols:1 + 2 * symbols]
    target = state[1 + 2 * symbols:1 + 3 * symbols]
{arguments}
    for row in range(present.shape[0]):
        here = present[row]
        current = weights[row]
        for symbol in range(symbols):
            gap = absent[symbol] + 1.0
            gap = 0.0 if here[symbol] else gap
            absent[symbol] = gap
            held = target[symbol]
            held = 0.0 if gap > hold else held
            target[symbol] = held
            current[symbol] = held
        timestamps = state[0]
        state[0] = timestamps + 1.0
        if decide({call}) is not None:
            return -2
        everyone_waits = timestamps < shared_warm_up
        finite = True
        for symbol in range(symbols):
            bars = seen[symbol]
            weight = current[symbol]
            held = target[symbol]
            weight = 0.0 if everyone_waits | (bars < warm_up) else weight
            weight = weight if here[symbol] else held
            seen[symbol] = bars + (1.0 if here[symbol] else 0.0)
            current[symbol] = weight
            target[symbol] = weight
            finite = finite & isfinite(weight)
        if not finite:
            for symbol in range(symbols):
                if not isfinite(current[symbol]):
                    return row * symbols + symbol
    return -1
"""


def loop_source(arguments: Sequence[Argument], columns: int) -> str:
    """Return the loop's source for a cross-sectional function of this shape."""
    lines: list[str] = []
    passed: list[str] = []
    slots = parameters = 0
    for kind in arguments:
        if kind in ("each", "shared"):
            passed.append(f"slot{slots}")
            view = f"state[offsets[{slots}]:offsets[{slots + 1}]]"
            if kind == "each":
                view += f".reshape((symbols, (offsets[{slots + 1}] - offsets[{slots}]) // symbols))"
            lines.append(f"    slot{slots} = {view}")
            slots += 1
        else:
            passed.append(f"value{parameters}")
            lines.append(f"    value{parameters} = {_CONVERSIONS[kind].format(parameters)}")
            parameters += 1
    bars = ", ".join([*(f"columns[{index}, row]" for index in range(columns)), "here"])
    return _LOOP.format(
        arguments="\n".join(lines) or "    # it keeps nothing",
        call=", ".join([f"Bars({bars})", "current", *passed]),
    )


def build_loop(
    name: str,
    definition: types.FunctionType,
    arguments: Sequence[Argument],
    columns: Sequence[str],
    *,
    compiled: bool,
) -> Callable[..., int]:
    """Return ``run(state, columns, present, values, offsets, hold, warm_up, shared_warm_up, weights)``.

    It answers -1, :data:`RETURNED_A_VALUE`, or ``row * symbols + symbol`` of the first weight
    that is not finite.

    Raises
    ------
    SignalError
        numba cannot compile what the signal reaches.
    """
    source = loop_source(arguments, len(columns))
    filename = f"<quantflow loop of {name}>"
    # Lets a debugger and tracebacks show the generated lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {
        "Bars": namedtuple("Bars", [*columns, "present"]),
        "isfinite": math.isfinite,
        "decide": definition,
        "__name__": __name__,
    }
    exec(compile(source, filename, "exec"), scope)  # noqa: S102 - generated above from counts and keywords
    run: Callable[..., int] = scope["run"]
    if not compiled:
        return _raising(run)
    # Inlined: the ranking helpers hand views to each other at every timestamp.
    loop: Callable[..., int] = compile_cached(run, _SIGNATURE, owner=f"signal {name!r}", inline=True)
    return loop
