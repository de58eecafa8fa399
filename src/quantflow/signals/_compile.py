"""From a signal's plain function to one loop over bars, compiled or not.

The loop is generated per signature shape and is the only one there is: whole histories,
many symbols, or a single bar of the live runtime all run it, so they agree bit for bit.
Its arguments are flat arrays whatever the signal is, hence one explicit numba signature and
no compilation at call time.
"""

from __future__ import annotations

import linecache
import math
import types
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from quantflow.signals._cache import compile_cached
from quantflow.signals._reach import fingerprint

__all__ = ["CONVERSIONS", "Argument", "build_loop", "fingerprint"]

Argument = Literal["slot", "bool", "int", "float"]

_SIGNATURE = "int64(float64[:,::1], int64[::1], float64[:,::1], float64[::1], int64[::1], int64, float64[::1])"

#: How a loop makes a parameter of the float64 that carries it.
CONVERSIONS = {"bool": "{} != 0.0", "int": "int({})", "float": "float({})"}


def loop_source(arguments: Sequence[Argument], columns: int) -> str:
    """Return the loop's source for a signal function of this shape."""
    parameters: list[str] = []
    slots: list[str] = []
    passed: list[str] = []
    for kind in arguments:
        if kind == "slot":
            passed.append(f"slot{len(slots)}")
            slots.append(f"{passed[-1]} = state[offsets[{len(slots)}]:offsets[{len(slots) + 1}]]")
        else:
            passed.append(f"value{len(parameters)}")
            parameters.append(f"{passed[-1]} = {CONVERSIONS[kind].format(f'values[{len(parameters)}]')}")
    bar = ", ".join(f"float(columns[{index}, row])" for index in range(columns))
    call = ", ".join([f"Bar({bar})", *passed])
    lines = [
        "def run(states, bounds, columns, values, offsets, warm_up, exposures):",
        *(f"    {line}" for line in parameters),
        "    for symbol in range(len(bounds) - 1):",
        "        state = states[symbol]",
        *(f"        {line}" for line in slots),
        "        for row in range(bounds[symbol], bounds[symbol + 1]):",
        "            seen = state[0]",
        "            state[0] = seen + 1.0",
        f"            exposure = float(decide({call}))",
        "            if seen < warm_up:",
        "                exposure = 0.0",
        "            elif not isfinite(exposure):",
        "                return row",
        "            exposures[row] = exposure",
        "    return -1",
    ]
    return "\n".join(lines) + "\n"


def build_loop(
    name: str,
    definition: types.FunctionType,
    arguments: Sequence[Argument],
    columns: Sequence[str],
    *,
    compiled: bool,
) -> Callable[..., int]:
    """Return ``run(states, bounds, columns, values, offsets, warm_up, exposures) -> row or -1``.

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
        "Bar": namedtuple("Bar", list(columns)),
        "isfinite": math.isfinite,
        "decide": definition,
        "__name__": __name__,
    }
    exec(compile(source, filename, "exec"), scope)  # noqa: S102 - generated above from two counts and four keywords
    run: Callable[..., int] = scope["run"]
    if not compiled:
        return _raising(run)
    loop: Callable[..., int] = compile_cached(run, _SIGNATURE, owner=f"signal {name!r}")
    return loop


def _raising(run: Callable[..., int]) -> Callable[..., int]:
    """Return the plain loop, raising on division by numpy's zeros as the compiled one does."""

    def guarded(*arguments: Any) -> int:
        with np.errstate(divide="raise", invalid="ignore", over="ignore"):
            return run(*arguments)

    return guarded
