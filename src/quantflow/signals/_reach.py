"""What a function reaches: the identity of its code, and its compilation with all plain functions below it.

numba compiles a function with the globals that it finds; it neither follows plain Python
functions nor notices, in its own cache, that one of them changed. Both need the same walk.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from quantflow.errors import SignalError
from quantflow.signals._indicator import Indicator, SlotSpec
from quantflow.signals._parameters import Parameter

__all__ = ["COMPILER_LOCK", "Identity", "fingerprint", "identify", "jit", "plain_function"]

#: Held while anything is compiled or the tables of compiled code are read.
COMPILER_LOCK = RLock()

#: numba imports this module when it loads machine code from disk: never a user's module.
_SCOPE_NAME = "quantflow.signals"

#: Their functions are named, not read: the cache's key has their versions.
_VERSIONED = ("math", "builtins", "numpy", "numba", "llvmlite", "operator", "cmath")

_dispatchers: WeakKeyDictionary[types.FunctionType, dict[tuple[bool, bool], tuple[str, Any]]] = WeakKeyDictionary()


@dataclass
class Identity:
    """The code that a function reaches.

    Attributes
    ----------
    digest
        SHA-256 in hexadecimal.
    unread
        What could be told apart by name only. Where there is any, two functions with the
        same digest may differ, so machine code must not be shared between them.
    """

    digest: str = ""
    unread: list[str] = field(default_factory=list)


def fingerprint(definition: types.FunctionType) -> str:
    """Return a SHA-256 over the code and constants of every function that a signal reaches.

    It changes when the signal, a function of its module or an indicator changes its code; it
    does not follow comments or line numbers. It differs between Python's minor versions.
    """
    return identify(definition).digest


def identify(function: types.FunctionType) -> Identity:
    """Return the identity of the function and all that it reaches."""
    digest = hashlib.sha256()
    identity = Identity()
    seen: set[types.FunctionType] = set()

    def visit(reached: types.FunctionType) -> None:
        if reached in seen:
            digest.update(f"again {reached.__name__};".encode())
            return
        seen.add(reached)
        digest.update(_code_identity(reached.__code__, identity.unread).encode())
        digest.update(b"ours;" if _ours(reached) else b"checked;")
        for name, value in _reached_values(reached):
            plain = plain_function(value)
            if plain is not None:
                digest.update(f"{name}:".encode())
                visit(plain)
            else:
                digest.update(f"{name}={_constant_identity(value, identity.unread)};".encode())

    visit(function)
    identity.digest = digest.hexdigest()
    return identity


def plain_function(value: Any) -> types.FunctionType | None:
    """Return the Python function behind an indicator, a numba function or itself; None for anything else."""
    if isinstance(value, Indicator):
        value = value.update
    value = getattr(value, "py_func", value)  # numba's functions: compiled again here, without their options
    if isinstance(value, types.FunctionType) and not _versioned(value.__module__):
        return value
    return None


def jit(function: types.FunctionType, *, counted: bool = True, inline: bool = False) -> Any:
    """Return a new, lazy numba function for ``function``; every plain function that it reaches is compiled along.

    No fastmath and Python's error model: a division by zero raises in all three lives. User
    code is bounds-checked, because a wrong index would silently change another slot.

    Parameters
    ----------
    counted
        False leaves out the counting of references to arrays, which takes half the time of an
        indicator. It fails to compile where something is allocated, and must not be used for
        functions that return arrays.
    inline
        True copies every function into its caller. It suits engines, whose small functions hand
        each other tens of numbers, which would travel through memory; indicators gain little.

    Raises
    ------
    SignalError
        A function calls itself, directly or through others.
    """
    with COMPILER_LOCK:
        return _jit(function, identify(function).digest, (), counted, inline, called_from_python=True)


def _jit_callee(
    function: types.FunctionType, callers: tuple[types.FunctionType, ...], counted: bool, inline: bool
) -> Any:
    """Return the function compiled once for all its callers."""
    if function in callers:
        raise SignalError(f"{function.__name__} calls itself, directly or through others: signals cannot recurse")
    counted = counted or _allocates(function)
    # numba freezes globals when it compiles, so a function whose constants changed is compiled anew.
    digest = identify(function).digest
    variants = _dispatchers.setdefault(function, {})
    known_digest, known = variants.get((counted, inline), ("", None))
    if known_digest != digest:
        known = _jit(function, digest, callers, counted, inline, called_from_python=False)
        variants[counted, inline] = digest, known
    return known


def _jit(
    function: types.FunctionType,
    digest: str,
    callers: tuple[types.FunctionType, ...],
    counted: bool,
    inline: bool,
    *,
    called_from_python: bool,
) -> Any:
    import numba

    below = (*callers, function)

    def compiled(value: Any) -> Any:
        plain = plain_function(value)
        return value if plain is None else _jit_callee(plain, below, counted, inline)

    scope = {"__builtins__": function.__globals__.get("__builtins__"), "__name__": _SCOPE_NAME}
    scope |= {name: compiled(value) for name, value in _global_values(function)}
    cells = tuple(types.CellType(compiled(cell.cell_contents)) for cell in function.__closure__ or ())
    # The name becomes the linker's symbol: equal symbols must mean equal code, in every process.
    name = f"{function.__name__}__{digest[:20]}{'' if counted else 'u'}{'i' if inline else ''}"
    rebuilt = types.FunctionType(function.__code__, scope, name, _plain_defaults(function), cells)
    rebuilt.__qualname__ = name
    options: dict[str, Any] = {"boundscheck": not _ours(function), "nogil": True}
    options |= {"_nrt": counted and not _allocates_nothing(function)}
    if not called_from_python:  # a quarter of the time that compiling takes
        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": inline}
    return numba.njit(**options)(rebuilt)


def _ours(function: types.FunctionType) -> bool:
    return (function.__module__ or "").startswith("quantflow.")


def _allocates_nothing(function: types.FunctionType) -> bool:
    """Return whether it is one of the library's that need no counting wherever they are used."""
    return (function.__module__ or "").startswith(("quantflow.signals.indicators", "quantflow.signals.weights"))


def _allocates(function: types.FunctionType) -> bool:
    """Return whether it is one of the library's that make arrays of their own, which a caller never sees."""
    return function.__module__ == "quantflow.signals._ranks"


def _plain_defaults(function: types.FunctionType) -> tuple[Any, ...] | None:
    """Return default arguments; none for a signal, whose defaults declare and are always passed."""
    defaults = function.__defaults__
    return None if any(isinstance(value, Parameter | SlotSpec) for value in defaults or ()) else defaults


def _reached_values(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from _global_values(function)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents
    for index, value in enumerate(_plain_defaults(function) or ()):
        yield f"default {index}", value
    yield from _module_members(function)


def _global_values(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function's code loads, nested code included."""
    for name in _loaded_names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _module_members(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what may be loaded through a module: ``helpers.clip`` of ``import helpers``."""
    modules = [
        (name, value)
        for name, value in _global_values(function)
        if isinstance(value, types.ModuleType) and not _versioned(value.__name__)
    ]
    if modules:
        attributes = sorted(set(_attribute_names(function.__code__)))
        for name, module in modules:
            for attribute in attributes:
                if hasattr(module, attribute):
                    yield f"{name}.{attribute}", getattr(module, attribute)


@functools.lru_cache(maxsize=4096)
def _loaded_names(code: types.CodeType) -> tuple[str, ...]:
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for nested in _nested(code):
        names.update(_loaded_names(nested))
    return tuple(sorted(names))


def _attribute_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for nested in _nested(code):
        yield from _attribute_names(nested)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, types.CodeType))


def _code_identity(code: types.CodeType, unread: list[str]) -> str:
    constants = [
        _code_identity(value, unread) if isinstance(value, types.CodeType) else _constant_identity(value, unread)
        for value in code.co_consts
    ]
    return repr((code.co_name, code.co_argcount, code.co_code, code.co_names, code.co_varnames, constants))


def _constant_identity(value: Any, unread: list[str]) -> str:
    if isinstance(value, bool | int | float | complex | str | bytes | None) or value is Ellipsis:
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, tuple | frozenset):
        members = [_constant_identity(member, unread) for member in value]
        # The order of a set depends on the process.
        return f"{type(value).__name__} {sorted(members) if isinstance(value, frozenset) else members}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return hashlib.sha256(value.tobytes()).hexdigest() + str(value.dtype) + str(value.shape)
    if isinstance(value, np.generic):
        return f"{value.dtype} {value!r}"
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"  # what is used of it is read by _module_members
    if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
        return f"namedtuple {value.__name__}{value._fields}"
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    if not _known_by_name(value):
        unread.append(name)
    return name


def _known_by_name(value: Any) -> bool:
    if isinstance(value, type) and issubclass(value, BaseException):
        return True  # raised by reference: its code runs in Python
    owner = getattr(value, "__module__", None) or type(value).__module__
    return _versioned(owner) and _versioned(type(value).__module__)


def _versioned(module: str | None) -> bool:
    return module is not None and module.split(".")[0] in _VERSIONED
