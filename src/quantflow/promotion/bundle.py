"""Everything that a version consists of, read once: checks and storage see the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantflow.errors import ContractError
from quantflow.events.types import canonical_json
from quantflow.notebooks.code import REFERENCE_PATTERN, Code
from quantflow.notebooks.document import declared_parameters, read_notebook, tagged_cells
from quantflow.promotion.contract import Contract, parse_contract
from quantflow.promotion.signals import signal_problems

__all__ = ["Bundle", "read_bundle"]

_LARGEST_MODULE = 1_000_000


@dataclass(frozen=True)
class Bundle:
    """The files of a version, by path below the project: contract, notebook and modules.

    The paths keep their places to one another, so a version on disk looks like the project:
    ``pipelines/momentum.toml``, ``pipelines/momentum_signal.py``, ``notebooks/momentum.ipynb``.
    """

    contract: Contract
    contract_path: str
    notebook_path: str
    files: Mapping[str, bytes]

    @property
    def manifest(self) -> bytes:
        """Canonical JSON of what the version is; its hash is the version's id."""
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()}
        return canonical_json(
            {
                "schema": 1,
                "pipeline": self.contract.pipeline,
                "contract": self.contract_path,
                "notebook": self.notebook_path,
                "files": hashes,
            }
        )

    @property
    def version_id(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file, by path."""
        hashes: dict[str, str] = json.loads(self.manifest)["files"]
        return hashes

    def code(self, origin: Path) -> Code:
        """Return the modules beside the contract and the notebook's cells, ready to load."""
        directory = PurePosixPath(self.contract_path).parent
        modules = {
            PurePosixPath(path).stem: content
            for path, content in self.files.items()
            if path.endswith(".py") and PurePosixPath(path).parent == directory
        }
        return Code(modules, origin / directory, self.files[self.notebook_path])


def read_bundle(path: Path) -> Bundle:
    """Return a contract with all its files, each of them checked against the others.

    Raises
    ------
    ContractError
        Names every problem; nothing was written anywhere.
    """
    content = _read(path, str(path))
    contract = parse_contract(content, path=str(path))
    # Resolved once: the files' places are compared below, and a link must not lead elsewhere.
    path = path.resolve()
    root = path.parent.parent
    files = {_place(path, root): content}
    problems: list[str] = []
    notebook = (path.parent / contract.notebook).resolve()
    wanted = [(f"notebook = {contract.notebook!r}", notebook)]
    wanted += [(f"module {name!r}", path.parent / f"{name}.py") for name in contract.module_names]
    for key, file in wanted:
        try:
            files[_place(file.resolve(), root)] = _read(file, key)
        except ContractError as exc:
            problems += exc.problems
    if problems:
        raise ContractError(str(path), problems)
    bundle = Bundle(contract, _place(path, root), _place(notebook, root), files)
    problems = [*_notebook_problems(bundle), *_code_problems(bundle, root)]
    if problems:
        raise ContractError(str(path), problems)
    return bundle


def _read(path: Path, key: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ContractError(str(path), [f"{key}: {path} cannot be read: {exc.strerror}"]) from exc
    if path.suffix == ".py" and len(content) > _LARGEST_MODULE:
        raise ContractError(str(path), [f"{key}: is {len(content):,} bytes; a module may have {_LARGEST_MODULE:,}"])
    return content


def _place(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise ContractError(
            str(path), [f"{path} lies outside the project {root}; a contract may only name files inside it"]
        ) from None


def _notebook_problems(bundle: Bundle) -> Iterator[str]:
    """Yield what is wrong with the notebook, and where it and the contract's parameters differ."""
    specs = bundle.contract.parameters
    try:
        notebook = read_notebook(bundle.files[bundle.notebook_path], path=bundle.notebook_path)
        declared = declared_parameters(notebook, path=bundle.notebook_path)
    except ContractError as exc:
        yield from (f"notebook: {bundle.notebook_path} {problem}" for problem in exc.problems)
        return
    for key in ("signal", "graph"):
        match = REFERENCE_PATTERN.fullmatch(getattr(bundle.contract, key))
        if match and match["tag"] and not tagged_cells(notebook, match["tag"]):
            yield f"{key}: the notebook has no cell tagged {match['tag']!r}"
    for name in declared.keys() - specs.keys():
        yield f"parameters.{name}: missing; the notebook declares {name}: {declared[name].type}"
    for name, spec in specs.items():
        found = declared.get(name)
        if found is None:
            yield f"parameters.{name}: the notebook's parameters cell does not declare it; it has {', '.join(declared)}"
        elif found.type != spec.type:
            yield f"parameters.{name}.type: received {spec.type!r}; the notebook declares {found.type!r}"
        elif found.default != spec.default:
            yield f"parameters.{name}.default: received {spec.default!r}; the notebook has {found.default!r}"


def _code_problems(bundle: Bundle, root: Path) -> Iterator[str]:
    """Load signal and graph from the bytes that would be stored, and yield what is wrong."""
    code = bundle.code(root)
    for key in ("signal", "graph"):
        try:
            loaded = code.load(getattr(bundle.contract, key))
        except ContractError as exc:
            yield from (f"{key}: {problem}" for problem in exc.problems)
            continue
        if key == "signal":
            yield from signal_problems(bundle.contract, loaded)
        elif not callable(loaded):
            kind = type(loaded).__name__
            yield f"graph: {bundle.contract.graph!r} is a {kind}; allowed: a function that builds a graph"
