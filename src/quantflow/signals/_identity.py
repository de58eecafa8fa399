"""The identity of plain Python code: what decides inside column signals and estimators.

A compiled signal can only reach what numba compiles. These can reach anything, so more kinds
of values are read here, and installed packages are known by name and version.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from quantflow.signals._indicator import SlotSpec
from quantflow.signals._parameters import Parameter

__all__ = ["definition_identity", "identity_of"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range)
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib"))


def identity_of(*values: Any) -> str:
    """Return a SHA-256 over functions and constants, with the code of the user's own that they reach.

    It changes when a function, a function or class that it calls, or a constant that it names
    changes, or an installed package's version; it does not follow comments or line numbers.
    Modules imported inside a function are known by name only. It differs between Python's
    minor versions.
    """
    walk = _Walk()
    digest = hashlib.sha256(repr([walk.describe(value) for value in values]).encode())
    digest.update(repr(sorted(walk.packages.items())).encode())
    return digest.hexdigest()


def definition_identity(
    code: str, columns: Sequence[str], slots: Mapping[str, SlotSpec], parameters: Mapping[str, Parameter]
) -> str:
    """Return a SHA-256 over a compiled definition: its code, and what its signature declares.

    ``ema.over(9)`` and ``ema.over(10)`` reach the same code: what differs is how the slot starts.
    """
    declared = {
        name: (type(spec).__name__, spec.label, spec.starter, spec.warm_up, dict(spec.arguments))
        for name, spec in slots.items()
    }
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return identity_of(code, tuple(columns), list(declared.items()), list(defaults.items()))


class _Walk:
    """One walk over everything reached; each object is read once, and described alike wherever it is met."""

    def __init__(self) -> None:
        self.packages: dict[str, str] = {}
        self._known: dict[int, str] = {}
        self._held: list[Any] = []  # an id is only unique while its object lives

    def describe(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        if id(value) not in self._known:
            self._held.append(value)
            self._known[id(value)] = "itself"  # met again below: functions that call each other
            text = f"{type(value).__name__} {self._described(value)}"
            self._known[id(value)] = hashlib.sha256(text.encode()).hexdigest()
        return self._known[id(value)]

    def _described(self, value: Any) -> str:
        if isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
        if isinstance(value, pl.Expr):
            return hashlib.sha256(value.meta.serialize()).hexdigest()
        if isinstance(value, Mapping):
            return repr(sorted((self.describe(key), self.describe(member)) for key, member in value.items()))
        if isinstance(value, set | frozenset):
            return repr(sorted(self.describe(member) for member in value))
        if isinstance(value, list | tuple):
            return repr([self.describe(member) for member in value])
        if isinstance(value, functools.partial):
            return repr([self.describe(part) for part in (value.func, value.args, value.keywords)])
        if isinstance(value, types.MethodType):
            return repr([self.describe(value.__func__), self.describe(value.__self__)])
        if isinstance(value, types.FunctionType | type | types.ModuleType):
            return self._code(value)
        return self._instance(value)

    def _code(self, value: Any) -> str:
        module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
        name = f"{module}.{getattr(value, '__qualname__', '')}"
        if isinstance(value, types.ModuleType) or self._installed(module):
            return name
        if isinstance(value, types.FunctionType):
            return repr(list(self._function(value)))
        if module.partition(".")[0] == "quantflow":
            return name
        members = [(key, self.describe(member)) for key, member in sorted(vars(value).items()) if _is_written(key)]
        return name + repr([[self.describe(base) for base in value.__bases__], members])

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        yield self._bytecode(function.__code__)
        yield self.describe(function.__defaults__)
        yield self.describe(function.__kwdefaults__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield f"{name}={self.describe(cell.cell_contents)}"
        names = sorted(set(_names(function.__code__)))
        for name in names:
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            yield f"{name}={self.describe(value)}"
            if isinstance(value, types.ModuleType) and not self._installed(value.__name__):
                # ``helpers.scale`` of ``from . import helpers``.
                yield from (
                    f"{name}.{key}={self.describe(getattr(value, key))}" for key in names if hasattr(value, key)
                )

    def _bytecode(self, code: types.CodeType) -> str:
        constants = [
            self._bytecode(value) if isinstance(value, types.CodeType) else self.describe(value)
            for value in code.co_consts
        ]
        return repr((code.co_name, code.co_argcount, code.co_code, code.co_names, code.co_varnames, constants))

    def _instance(self, value: Any) -> str:
        fingerprint = getattr(value, "fingerprint", None)
        if isinstance(fingerprint, str):
            return fingerprint
        if callable(getattr(value, "get_params", None)):
            return repr([self.describe(type(value)), self.describe(value.get_params(deep=False))])
        state = getattr(value, "__dict__", {})
        return repr([self.describe(type(value)), self.describe(dict(state))])

    def _installed(self, module: str | None) -> bool:
        """Tell the user's own code from packages, whose version is noted."""
        root = (module or "builtins").partition(".")[0]
        if root in sys.stdlib_module_names:
            return True
        path = getattr(sys.modules.get(root), "__file__", None)
        if path is None or not any(Path(path).resolve().is_relative_to(place) for place in _INSTALLED):
            return False
        self.packages[root] = _version(root)
        return True


@functools.cache
def _version(package: str) -> str:
    for distribution in metadata.packages_distributions().get(package, [package]):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _is_written(member: str) -> bool:
    """Tell a class's members that its author wrote from those that Python and dataclasses add."""
    return not (member.startswith("__") and member.endswith("__")) or member in ("__init__", "__call__")


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
