"""From a signal's plain function to one loop over bars, compiled or not.

The loop is generated per signature shape and is the only one there is: whole histories,
many symbols, or a single bar of the live runtime all run it, so they agree bit for bit.
Its arguments are flat arrays whatever the signal is, hence one explicit numba signature and
no compilation at call time.
"""

from __future__ import annotations

import hashlib
import linecache
import math
import types
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from threading import RLock
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from quantflow.errors import SignalError
from quantflow.signals._indicator import Indicator

__all__ = ["Argument", "build_loop", "fingerprint"]

Argument = Literal["slot", "bool", "int", "float"]

_SIGNATURE = "int64(float64[:,::1], int64[::1], float64[:,::1], float64[::1], int64[::1], int64, float64[::1])"
_CONVERSIONS = {"bool": "values[{}] != 0.0", "int": "int(values[{}])", "float": "float(values[{}])"}

_lock = RLock()
_compiled: WeakKeyDictionary[types.FunctionType, Any] = WeakKeyDictionary()


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
            parameters.append(f"{passed[-1]} = {_CONVERSIONS[kind].format(len(parameters))}")
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
        "__name__": definition.__module__,
    }
    code = compile(source, filename, "exec")
    if not compiled:
        exec(code, scope)  # noqa: S102 - generated above from two counts and four keywords
        return _raising(scope["run"])
    with _lock:
        scope["decide"] = _jit(definition)
        exec(code, scope)  # noqa: S102 - as above
        return _compile(name, scope["run"])


def _raising(run: Callable[..., int]) -> Callable[..., int]:
    """Return the plain loop, raising on division by numpy's zeros as the compiled one does."""

    def guarded(*arguments: Any) -> int:
        with np.errstate(divide="raise", invalid="ignore", over="ignore"):
            return run(*arguments)

    return guarded


def _compile(name: str, run: Callable[..., int]) -> Callable[..., int]:
    import numba

    try:
        loop: Callable[..., int] = numba.njit(_SIGNATURE, nogil=True)(run)
    except numba.core.errors.NumbaError as exc:
        raise SignalError(
            f"signal {name!r} does not compile: {_shortened(exc)}\n"
            "What a signal calls must be plain functions, math, or indicators; its result must be one number. "
            "bind(..., uncompiled=True) runs it as plain Python."
        ) from exc
    return loop


def _shortened(exc: Exception) -> str:
    lines = [line for line in str(exc).splitlines() if line.strip() and "numba.readthedocs" not in line]
    return "\n".join(lines[:20])


def _jit(function: types.FunctionType) -> Any:
    """Return ``function`` compiled lazily, with every plain function that it reaches compiled, too.

    No fastmath and Python's error model: a division by zero raises in all three lives. User
    code is bounds-checked, because a wrong index would silently change another slot.
    """
    import numba

    known = _compiled.get(function)
    if known is not None:
        return known
    _compiled[function] = None  # marks it as being built, for the check below
    try:
        scope = {"__builtins__": function.__globals__.get("__builtins__"), "__name__": function.__module__}
        scope |= {name: _jit_value(value) for name, value in _global_values(function)}
        cells = tuple(types.CellType(_jit_value(cell.cell_contents)) for cell in function.__closure__ or ())
        rebuilt = types.FunctionType(function.__code__, scope, function.__name__, None, cells)
        ours = (function.__module__ or "").startswith("quantflow.")
        dispatcher = numba.njit(boundscheck=not ours, nogil=True)(rebuilt)
    except BaseException:
        del _compiled[function]
        raise
    _compiled[function] = dispatcher
    return dispatcher


def _jit_value(value: Any) -> Any:
    if isinstance(value, Indicator):
        value = value.update
    if not isinstance(value, types.FunctionType):
        return value
    if value in _compiled and _compiled[value] is None:
        raise SignalError(f"{value.__name__} calls itself, directly or through others: signals cannot recurse")
    return _jit(value)


def _global_values(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function's code names, nested code included."""
    for name in sorted(set(_names(function.__code__))):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def fingerprint(definition: types.FunctionType) -> str:
    """Return a SHA-256 over the code and constants of every function that a signal reaches.

    It changes when the signal, a function of its module or an indicator changes its code; it
    does not follow comments or line numbers. It differs between Python's minor versions.
    """
    digest = hashlib.sha256()
    seen: set[types.FunctionType] = set()

    def visit(function: types.FunctionType) -> None:
        if function in seen:
            return
        seen.add(function)
        digest.update(_code_identity(function.__code__).encode())
        reached = [*_global_values(function)]
        reached += [
            (name, cell.cell_contents)
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        ]
        for name, value in reached:
            plain = value.update if isinstance(value, Indicator) else value
            if isinstance(plain, types.FunctionType):
                visit(plain)
            else:
                digest.update(f"{name}={_constant_identity(plain)};".encode())

    visit(definition)
    return digest.hexdigest()


def _code_identity(code: types.CodeType) -> str:
    constants = [
        _code_identity(value) if isinstance(value, types.CodeType) else _constant_identity(value)
        for value in code.co_consts
    ]
    return repr((code.co_name, code.co_argcount, code.co_code, code.co_names, code.co_varnames, constants))


def _constant_identity(value: Any) -> str:
    if isinstance(value, frozenset):  # its order depends on the process
        return repr(sorted(map(repr, value)))
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes()).hexdigest() + str(value.dtype) + str(value.shape)
    if isinstance(value, bool | int | float | str | bytes | tuple | None):
        return repr(value)
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
