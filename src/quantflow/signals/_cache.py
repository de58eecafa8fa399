"""Compiled functions, their machine code kept on disk for the next process.

numba's own cache follows a file's time stamp, not what a function reaches, and imports the
user's modules again. Here the key is the identity of all code reached, the signature, the
versions that translate it and the processor that runs it; an entry is machine code and the
names it needs, nothing of the user's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import re
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantflow.errors import SignalError
from quantflow.signals import _reach

__all__ = ["cache_directory", "compile_cached"]

_MAGIC = b"QFCODE03"
_HEADER_BYTES = len(_MAGIC) + 32
_LARGEST_BYTES = 256 * 2**20
_OLDEST_S = 90 * 86_400.0

_loaded: dict[str, Any] = {}


def cache_directory() -> Path:
    """Return where machine code is kept: ``$XDG_CACHE_HOME`` or ``~/.cache``, then ``quantflow/compiled``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says that a relative path is to be ignored.
    base = Path(given) if os.path.isabs(given) else Path("~/.cache").expanduser()
    return base / "quantflow" / "compiled"


def compile_cached(
    function: Callable[..., Any], signature: str, *, owner: str | None = None, inline: bool = False
) -> Any:
    """Return ``function`` compiled for one signature, from disk where it was compiled before.

    Parameters
    ----------
    function
        A plain function that numba can compile. Plain functions and indicators that it
        reaches, through globals or closures, are compiled along. It holds no fastmath, raises
        on division by zero and releases the interpreter's lock while it runs.
    signature
        numba's notation with the result's type, ``"float64(float64[::1], int64)"``. Calls with
        other types raise TypeError.
    owner
        What the function belongs to, for error messages; its name by default.
    inline
        Copy every function that is reached into its caller; see :func:`quantflow.signals._reach.jit`.

    Returns
    -------
    Callable
        numba's function. The same code and signature give the same object within a process.

    Raises
    ------
    SignalError
        numba cannot compile what the function reaches.

    Notes
    -----
    The key covers the code and constants of everything reached, numba, llvmlite, numpy and
    Python, numba's settings in the environment, and the processor's name and features. A
    damaged entry is compiled anew; a directory that cannot be written means no cache.
    """
    if not isinstance(function, types.FunctionType):
        raise SignalError(f"{function!r} cannot be compiled; give a plain function")
    from numba.core import config

    if config.DISABLE_JIT:  # type: ignore[attr-defined]  # NUMBA_DISABLE_JIT: for a debugger or coverage
        return function
    with _reach.COMPILER_LOCK:
        identity = _reach.identify(function)
        key = hashlib.sha256(f"{identity.digest}\n{signature}\n{inline}\n{_environment()}".encode()).hexdigest()
        shared = not identity.unread
        if shared and key in _loaded:
            return _loaded[key]
        entry = cache_directory() / f"{key}.bin"
        loaded = _load(function, entry) if shared else None
        compiled = loaded or _compile(owner or function.__name__, function, signature, inline)
        compiled.disable_compile()
        if shared:
            _loaded[key] = compiled
            if loaded is None:
                _save(compiled, entry)
        return compiled


def _environment() -> str:
    """Return what else decides the machine code, a line each."""
    import llvmlite  # type: ignore[import-untyped]
    import numba
    import numpy as np
    from numba.core.registry import cpu_target

    target: Any = cpu_target.target_context
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))
    versions = (platform.python_version(), platform.python_implementation(), numba.__version__, llvmlite.__version__)
    return "\n".join(map(repr, [_MAGIC, versions, np.__version__, target.codegen().magic_tuple(), settings]))


def _compile(owner: str, function: types.FunctionType, signature: str, inline: bool) -> Any:
    from numba.core.errors import NumbaError

    # Where numbers come out and nothing is allocated, references need no counting: try without first.
    if "[" not in signature.split("(")[0]:
        dispatcher = _reach.jit(function, counted=False, inline=inline)
        with contextlib.suppress(NumbaError):
            dispatcher.compile(signature)
            return dispatcher
    dispatcher = _reach.jit(function, inline=inline)
    try:
        dispatcher.compile(signature)
    except NumbaError as exc:
        raise SignalError(
            f"{owner} does not compile: {_shortened(exc)}\n"
            "What it calls must be plain functions, math, or indicators; a signal's result must be one number. "
            "bind(..., uncompiled=True) runs a signal as plain Python."
        ) from exc
    return dispatcher


def _shortened(exc: Exception) -> str:
    # Compiled functions carry their identity in their names; a reader knows them without.
    text = re.sub(r"__[0-9a-f]{20}u?i?\b", "", str(exc))
    lines = [line for line in text.splitlines() if line.strip() and "numba.readthedocs" not in line]
    return "\n".join(lines[:20])


def _load(function: types.FunctionType, entry: Path) -> Any:
    """Return the function with the machine code of ``entry``; None where there is none that is whole."""
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    body = content[_HEADER_BYTES:]
    if content[:_HEADER_BYTES] != _MAGIC + hashlib.sha256(body).digest():
        return None
    # The digest shows that the entry is as this library wrote it, into a directory of the user's own.
    imported, reduced = pickle.loads(body)  # noqa: S301
    import numba
    from numba.core.compiler import CompileResult

    dispatcher: Any = numba.njit(function)  # of its arguments only: it is not compiled
    if not _linkable(dispatcher.targetctx, imported):
        return None

    rebuild: Any = CompileResult._rebuild
    dispatcher.add_overload(rebuild(dispatcher.targetctx, *reduced))
    with contextlib.suppress(OSError):
        os.utime(entry)  # recently used: pruned last
    return dispatcher


def _linkable(target: Any, imported: list[str]) -> bool:
    """Return whether every symbol is known to the linker, which ends the process at one that is not."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]
    from numba.core.runtime.nrt import rtsys

    rtsys.initialize(target)  # memory of arrays
    if all(map(llvm.address_of_symbol, imported)):
        return True
    target.refresh()  # everything else that numba can call: a quarter of a second
    return all(map(llvm.address_of_symbol, imported))


def _imported_symbols(library: Any) -> list[str]:
    module = library._final_module
    declared = [value.name for value in (*module.functions, *module.global_variables) if value.is_declaration]
    return sorted(name for name in declared if not name.startswith("llvm."))


def _save(dispatcher: Any, entry: Path) -> None:
    from numba.core import serialize

    (result,) = dispatcher.overloads.values()
    dumps: Any = serialize.dumps
    body = dumps((_imported_symbols(result.library), result._reduce()))
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _prune(entry.parent, room_for=len(body))
        descriptor, name = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(name, entry)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def _prune(directory: Path, *, room_for: int) -> None:
    """Delete entries unused for 90 days, and the least recently used while all exceed 256 MiB."""
    used = sorted(((file.stat(), file) for file in directory.iterdir()), key=lambda pair: pair[0].st_mtime)
    total = room_for + sum(status.st_size for status, _ in used)
    oldest = time.time() - _OLDEST_S
    for status, file in used:
        if total <= _LARGEST_BYTES and status.st_mtime >= oldest:
            break
        file.unlink(missing_ok=True)
        total -= status.st_size
