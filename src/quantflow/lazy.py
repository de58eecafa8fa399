"""Package exports that are imported when they are first used.

A command line, a DAG processor and a kernel each need other parts of a package; none of
them should pay for the import of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, home_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package whose names live in its modules.

    Parameters
    ----------
    package
        The package's ``__name__``.
    home_of
        Exported name to the module of the package that defines it.
    """

    def find(name: str) -> Any:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home}"), name)
        # The next look-up finds it without coming here.
        import_module(package).__dict__[name] = value
        return value

    return find, lambda: sorted(home_of)
