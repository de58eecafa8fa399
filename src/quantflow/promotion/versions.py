"""Versions on disk: written once, verified whenever something is loaded from them.

A version lies in a directory named by its id. ``version.json`` is its canonical manifest,
whose SHA-256 is that id, and lists the SHA-256 of every file. So a directory proves itself
without a database, and an edited file in it is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from quantflow.errors import ContractError, UnknownVersionError
from quantflow.notebooks.code import Code
from quantflow.promotion.contract import Contract, parse_contract

if TYPE_CHECKING:
    from quantflow.signals import BoundCrossSection, Decider

__all__ = ["MANIFEST_NAME", "bind_signal", "load_contract_of", "load_object", "notebook_of", "write_version"]

MANIFEST_NAME = "version.json"


def load_object(version_dir: Path, reference: str) -> Any:
    """Return what ``module:name`` or ``cell:TAG:name`` refers to in a version.

    Only the version's verified bytes are executed; the working tree is never looked at.

    Raises
    ------
    UnknownVersionError
        The directory is no version, or a file in it was edited.
    ContractError
        The reference names nothing, or its code raises.
    """
    return _code(version_dir).load(reference)


def load_contract_of(version_dir: Path) -> Contract:
    """Return the contract stored in a version, verified."""
    manifest, files = read_version(version_dir)
    return parse_contract(files[manifest["contract"]], path=str(version_dir / manifest["contract"]))


def notebook_of(version_dir: Path) -> Path:
    """Return the path of a version's notebook, after verifying the version."""
    manifest, _ = read_version(version_dir)
    return version_dir / str(manifest["notebook"])


def bind_signal(
    version_dir: Path, contract: Contract, parameters: Mapping[str, Any] | None = None
) -> Decider | BoundCrossSection:
    """Return a version's signal bound to a run's parameters; the contract's defaults without any.

    Raises
    ------
    ParameterError
        A parameter that the contract does not allow.
    """
    values = contract.resolve_parameters(parameters or {})
    signal = load_object(version_dir, contract.signal)
    bound: Decider | BoundCrossSection = signal.bind(**{name: values[name] for name in signal.parameters})
    return bound


def read_version(version_dir: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return manifest and files of a version, every hash verified.

    Raises
    ------
    UnknownVersionError
        Names the file that is missing or edited.
    """
    try:
        raw = (version_dir / MANIFEST_NAME).read_bytes()
    except OSError as exc:
        raise UnknownVersionError(f"{version_dir} holds no version: {MANIFEST_NAME} cannot be read") from exc
    if hashlib.sha256(raw).hexdigest() != version_dir.name:
        raise UnknownVersionError(
            f"{version_dir / MANIFEST_NAME} was edited: its hash is not the directory's name. Delete the directory; "
            "it is written again from the registry"
        )
    manifest: dict[str, Any] = json.loads(raw)
    return manifest, {path: _verified(version_dir, path, sha256) for path, sha256 in manifest["files"].items()}


def write_version(directory: Path, manifest: bytes, read_file: Callable[[str], bytes]) -> Path:
    """Write a version below ``directory`` unless it is there and whole; return its directory.

    Any number of processes may do so at the same time: each writes a directory of its own and
    renames it; the first one wins.

    Parameters
    ----------
    read_file
        Returns the bytes with a SHA-256.
    """
    version_id = hashlib.sha256(manifest).hexdigest()
    target = directory / version_id
    if _whole(target):
        return target
    directory.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{version_id[:12]}-", dir=directory))
    try:
        for path, sha256 in json.loads(manifest)["files"].items():
            _write(staging / _safe(path), _checked(read_file(sha256), sha256, path))
        _write(staging / MANIFEST_NAME, manifest)
        staging.chmod(0o755)
        _put_in_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    read_version(target)
    return target


def _code(version_dir: Path) -> Code:
    manifest, files = read_version(version_dir)
    directory = PurePosixPath(manifest["contract"]).parent
    modules = {
        PurePosixPath(path).stem: content
        for path, content in files.items()
        if path.endswith(".py") and PurePosixPath(path).parent == directory
    }
    return Code(modules, version_dir / directory, files[manifest["notebook"]])


def _verified(version_dir: Path, path: str, sha256: str) -> bytes:
    try:
        content = (version_dir / _safe(path)).read_bytes()
    except OSError as exc:
        raise UnknownVersionError(f"{version_dir / path} is missing from the version; delete {version_dir}") from exc
    return _checked(content, sha256, str(version_dir / path))


def _checked(content: bytes, sha256: str, path: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UnknownVersionError(
            f"{path} has SHA-256 {found[:12]}…, the version says {sha256[:12]}…: it was edited or damaged. "
            "Delete the version's directory; it is written again from the registry"
        )
    return content


def _safe(path: str) -> str:
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or not parts:
        raise ContractError(path, ["is not a path inside a version"])
    return path


def _whole(target: Path) -> bool:
    if not target.exists():
        return False
    try:
        read_version(target)
    except UnknownVersionError:
        return False
    return True


def _put_in_place(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError:
        # Another process was first, or an edited version is in the way.
        if _whole(target):
            return
        damaged = target.with_name(f".damaged-{target.name[:12]}-{os.getpid()}")
        target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
        staging.rename(target)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
