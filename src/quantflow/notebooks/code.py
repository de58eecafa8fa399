"""Code that is loaded from given bytes, never from wherever Python would look.

A promoted version and a notebook's ``pipelines/`` directory are both a :class:`Code`: a few
modules as bytes, with an identity that is the hash of those bytes. Its modules are imported
as ``quantflow_code_<identity>.<module>``: two versions of one module live side by side, an
edited file is other code, and neither ``sys.path`` nor the working directory is looked at.
Modules reach each other by relative imports (``from .helpers import f``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from quantflow.errors import ContractError

__all__ = ["REFERENCE_PATTERN", "Code", "load_reference", "module_of"]

#: ``module:name``, or ``cell:TAG:name`` for a tagged cell of the notebook.
REFERENCE_PATTERN = re.compile(
    r"(?:cell:(?P<tag>[A-Za-z][\w-]*)|(?P<module>[A-Za-z_]\w*)):(?P<name>[A-Za-z_]\w*)", re.ASCII
)

_PREFIX = "quantflow_code_"
_codes: dict[str, Code] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Code:
    """Modules as bytes, by module name, and the notebook's bytes for its tagged cells.

    ``origin`` is where tracebacks say that the code lies.
    """

    modules: Mapping[str, bytes]
    origin: Path
    notebook: bytes | None = None

    @classmethod
    def from_directory(cls, directory: Path, *, notebook: bytes | None = None) -> Code:
        """Return all modules that lie directly in a directory, read once, now."""
        modules = {path.stem: path.read_bytes() for path in sorted(directory.glob("*.py"))}
        return cls(modules, directory, notebook)

    @property
    def identity(self) -> str:
        """The hash of names and bytes, shortened: equal code has one identity, wherever it lies."""
        digest = hashlib.sha256()
        for name, source in sorted([*self.modules.items(), (".notebook", self.notebook or b"")]):
            digest.update(f"\0{name}\0{len(source)}\0".encode())
            digest.update(source)
        return digest.hexdigest()[:20]

    def load(self, reference: str) -> Any:
        """Return the object that ``module:name`` or ``cell:TAG:name`` refers to.

        Raises
        ------
        ContractError
            The reference is malformed, names no module, cell or object, or its code raises
            when it is imported.
        """
        match = REFERENCE_PATTERN.fullmatch(reference)
        if match is None:
            raise ContractError(
                str(self.origin), [f"received reference {reference!r}; allowed: module:name or cell:TAG:name"]
            )
        module = self._module(f"cell_{match['tag']}" if match["tag"] else match["module"], reference)
        try:
            return getattr(module, match["name"])
        except AttributeError:
            known = sorted(name for name in vars(module) if not name.startswith("_"))
            raise ContractError(
                str(self.origin), [f"{reference!r} names nothing; defined there: {', '.join(known) or 'nothing'}"]
            ) from None

    def _module(self, name: str, reference: str) -> ModuleType:
        package = _install(self)
        try:
            return importlib.import_module(f"{package}.{name}")
        except ModuleNotFoundError as exc:
            raise ContractError(str(self.origin), [self._missing(exc, f"{package}.", reference)]) from exc
        except Exception as exc:
            raise ContractError(str(self.origin), [f"{reference!r} raises {type(exc).__name__}: {exc}"]) from exc

    def _missing(self, exc: ModuleNotFoundError, prefix: str, reference: str) -> str:
        name = exc.name or ""
        if name.startswith(prefix):
            missing = name.removeprefix(prefix)
            what = f"no cell tagged {missing[5:]!r}" if missing.startswith("cell_") else f"no module {missing!r}"
            return f"{reference!r} needs what is not there: {what}; there are: {', '.join(self.modules) or 'none'}"
        hint = " (write 'from .module import …' and list it in modules)" if name in self.modules or not name else ""
        return f"{reference!r} imports {name!r}, which is neither installed nor part of this code{hint}"

    def _source(self, name: str) -> bytes | None:
        if name in self.modules:
            return self.modules[name]
        if name.startswith("cell_") and self.notebook is not None:
            from quantflow.notebooks.document import read_notebook, tagged_cells

            cells = tagged_cells(read_notebook(self.notebook, path=str(self.origin)), name.removeprefix("cell_"))
            return "\n\n".join(cell.source for cell in cells).encode() if cells else None
        return None


def load_reference(directory: Path, reference: str) -> Any:
    """Return what ``module:name`` refers to among the modules of a directory, as they are now."""
    return Code.from_directory(directory).load(reference)


def module_of(reference: str) -> str | None:
    """Return the module that a reference names; None for a notebook cell or a malformed one."""
    match = REFERENCE_PATTERN.fullmatch(reference)
    return match["module"] if match else None


class _Finder(importlib.abc.MetaPathFinder):
    """Finds ``quantflow_code_<identity>`` and the modules below it, and nothing else."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        code = _codes.get(package) if package.startswith(_PREFIX) else None
        if code is None:
            return None
        if not name:
            return importlib.machinery.ModuleSpec(fullname, _Loader(b"", str(code.origin)), is_package=True)
        source = code._source(name)
        if source is None:
            return None
        filename = str(code.origin / f"{name}.py")
        spec = importlib.machinery.ModuleSpec(fullname, _Loader(source, filename), origin=filename)
        # Gives the module its __file__; no bytecode is cached, so none can be stale.
        spec.has_location = True
        return spec


class _Loader(importlib.abc.InspectLoader):
    """Runs one module from bytes; tracebacks show these bytes, not a file edited since."""

    def __init__(self, source: bytes, filename: str) -> None:
        self._source = source
        self._filename = filename

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._source)

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self._filename, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return "." not in fullname


def _install(code: Code) -> str:
    package = f"{_PREFIX}{code.identity}"
    with _lock:
        _codes[package] = code
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    return package
