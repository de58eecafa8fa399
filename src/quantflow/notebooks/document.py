"""What a notebook file says about itself: its tagged cells and its typed parameters."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from quantflow.errors import ContractError, ParameterError

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "PARAMETER_TYPES",
    "NotebookParameter",
    "check_parameters",
    "declared_parameters",
    "read_notebook",
    "tagged_cells",
    "typed_value",
]

#: The types that a parameter may have; values of them are data, never code.
PARAMETER_TYPES: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}

_LARGEST_NOTEBOOK = 20_000_000


@dataclass(frozen=True)
class NotebookParameter:
    """One line of the ``parameters`` cell: ``name: type = default``."""

    name: str
    type: str
    default: bool | int | float | str


def read_notebook(content: bytes, *, path: str) -> NotebookNode:
    """Return the notebook in these bytes, in format 4.

    Raises
    ------
    ContractError
        The bytes are not a notebook, or larger than 20 MB.
    """
    import nbformat

    if len(content) > _LARGEST_NOTEBOOK:
        raise ContractError(path, [f"is {len(content):,} bytes; a notebook may have {_LARGEST_NOTEBOOK:,}"])
    try:
        notebook: NotebookNode = nbformat.reads(content.decode(), as_version=4)  # type: ignore[no-untyped-call]
        nbformat.validate(notebook)
    except (ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as exc:
        # nbformat raises any of these for JSON that is no notebook.
        reason = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
        raise ContractError(path, [f"is not a Jupyter notebook: {reason}"]) from exc
    return notebook


def tagged_cells(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """Return the code cells that carry this tag, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and tag in (cell.metadata.get("tags") or [])]


def declared_parameters(notebook: NotebookNode, *, path: str) -> dict[str, NotebookParameter]:
    """Return what the one ``parameters`` cell declares, in order.

    Each line reads ``name: type = default`` with type ``bool``, ``int``, ``float`` or ``str``
    and a literal default. Anything else in that cell is refused, because papermill puts the
    values of a run after it and a computed value would keep the default's.

    Raises
    ------
    ContractError
        No such cell or several, or a line that is something else; names every such line.
    """
    cells = tagged_cells(notebook, "parameters")
    if len(cells) != 1:
        raise ContractError(path, [f"has {len(cells)} cells tagged 'parameters'; exactly one is needed"])
    try:
        body = ast.parse(cells[0].source).body
    except SyntaxError as exc:
        raise ContractError(path, [f"parameters cell, line {exc.lineno}: {exc.msg}"]) from exc
    declared: dict[str, NotebookParameter] = {}
    problems: list[str] = []
    for node in body:
        try:
            parameter = _declaration(node)
        except ValueError as exc:
            problems.append(f"parameters cell, line {node.lineno}: {exc}")
            continue
        if parameter.name in declared:
            problems.append(f"parameters cell, line {node.lineno}: {parameter.name!r} is declared twice")
        declared[parameter.name] = parameter
    if problems:
        raise ContractError(path, problems)
    return declared


def check_parameters(
    declared: Mapping[str, NotebookParameter], given: Mapping[str, Any]
) -> dict[str, bool | int | float | str]:
    """Return the values of a run: ``given`` checked, the rest from the defaults.

    Raises
    ------
    ParameterError
        Names every unknown or mistyped parameter. No kernel was started.
    """
    problems = [f"{_unknown(name, declared)}" for name in given if name not in declared]
    values: dict[str, bool | int | float | str] = {}
    for name, parameter in declared.items():
        try:
            values[name] = typed_value(given[name], parameter.type) if name in given else parameter.default
        except ValueError as exc:
            problems.append(f"{name}: {exc}")
    if problems:
        raise ParameterError("the notebook cannot be run with these parameters:\n  - " + "\n  - ".join(problems))
    return values


def typed_value(value: Any, type_name: str) -> bool | int | float | str:
    """Return ``value`` as this type, or raise ``ValueError`` with what was received and what is allowed.

    An int is a float where one is wanted; nothing else is converted. Floats are finite.
    """
    wanted = PARAMETER_TYPES[type_name]
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ValueError(f"received {value!r} ({type(value).__name__}); allowed: {type_name}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"received {value!r}; allowed: a finite {type_name}")
    return wanted(value)  # type: ignore[no-any-return]


def closest(name: str, known: Sequence[str]) -> str:
    """Return `` did you mean …?`` where a known name is close, else nothing."""
    matches = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _unknown(name: str, declared: Mapping[str, NotebookParameter]) -> str:
    known = list(declared)
    return f"{str(name)[:80]!r} is not a parameter{closest(str(name), known)} Declared: {', '.join(known) or 'none'}"


def _declaration(node: ast.stmt) -> NotebookParameter:
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
        raise ValueError(f"received {ast.unparse(node)[:80]!r}; allowed: name: type = default")
    name = node.target.id
    annotation = ast.unparse(node.annotation)
    if annotation not in PARAMETER_TYPES:
        raise ValueError(f"{name} has type {annotation!r}; allowed: {', '.join(PARAMETER_TYPES)}")
    if name.startswith("_"):
        raise ValueError(f"{name!r} starts with an underscore; a parameter's name does not")
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        raise ValueError(f"{name} has default {ast.unparse(node.value)[:80]!r}; allowed: a literal") from None
    try:
        return NotebookParameter(name, annotation, typed_value(default, annotation))
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}") from None
