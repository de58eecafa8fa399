"""Running one notebook with typed parameters, in its own directory, and keeping all of it."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.errors import ContractError, DataError, NotebookFailedError
from quantflow.notebooks.document import NotebookParameter, check_parameters, declared_parameters, read_notebook
from quantflow.notebooks.kernel import CONTEXT_VARIABLE, RunContext
from quantflow.notebooks.manifest import Manifest, digest_file, environment_digest, library_versions

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["NotebookProgress", "NotebookRun", "run_notebook"]

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class NotebookProgress:
    """A cell is starting: its number, counted from 1 over all ``cells``."""

    cell: int
    cells: int
    elapsed_s: float


@dataclass(frozen=True)
class NotebookRun:
    """What a run left behind.

    Attributes
    ----------
    notebook, html
        The executed notebook, and the same as one offline page.
    outputs
        Values recorded with :func:`~quantflow.notebooks.record`, by name.
    artifacts
        Files by name: recorded frames (Parquet), ``values`` and ``manifest``.
    parameters
        The value of every declared parameter.
    manifest
        What it saw and made; also written as ``manifest.json``.
    """

    notebook: Path
    html: Path
    outputs: Mapping[str, Any]
    artifacts: Mapping[str, Path]
    parameters: Mapping[str, Any]
    manifest: Manifest
    duration_s: float


def run_notebook(
    notebook_path: Path,
    *,
    parameters: Mapping[str, Any],
    output_dir: Path,
    inputs: Mapping[str, Path] | None = None,
    timeout_s: float | None = None,
    code_dir: Path | None = None,
    on_progress: Callable[[NotebookProgress], None] | None = None,
) -> NotebookRun:
    """Run a notebook top to bottom on a fresh kernel and return what it recorded.

    Everything is written under ``output_dir``, also when a cell fails: ``notebook.ipynb``,
    ``notebook.html``, ``values.json``, ``frames/*.parquet``, ``manifest.json``.

    Parameters
    ----------
    notebook_path
        The notebook; it is only read.
    parameters
        Values for declared parameters; those not given keep their default.
    output_dir
        Directory of this run; a run that was there before is replaced.
    inputs
        Files that the notebook reads with :func:`~quantflow.notebooks.input_bars`, by name.
    timeout_s
        Time limit of the whole run, kernel start included; None: no limit.
    code_dir
        Modules for :func:`~quantflow.notebooks.load_signal`; default: ``../pipelines`` as
        seen from the notebook, where that exists.
    on_progress
        Called in this process when a cell starts.

    Raises
    ------
    ContractError
        The file is no notebook, or its ``parameters`` cell is not what it must be.
    ParameterError
        A parameter is unknown or mistyped. No kernel was started.
    DataError
        The notebook or an input does not exist.
    NotebookFailedError
        A cell raised, the time limit ended or the kernel died.
    """
    source = _read(notebook_path)
    notebook = read_notebook(source, path=str(notebook_path))
    declared = declared_parameters(notebook, path=str(notebook_path))
    values = check_parameters(declared, parameters)
    given = _existing(inputs or {})
    context = RunContext(
        output_dir=str(output_dir.absolute()),
        code_dir=_code_directory(notebook_path, code_dir),
        inputs={name: str(path) for name, path in given.items()},
    )
    run = _Run(notebook_path, source, values, given, context, timeout_s, on_progress)
    run.prepare(notebook, declared)
    return run.execute()


@dataclass
class _Run:
    notebook_path: Path
    source: bytes
    values: dict[str, Any]
    inputs: Mapping[str, Path]
    context: RunContext
    timeout_s: float | None
    on_progress: Callable[[NotebookProgress], None] | None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)

    @property
    def directory(self) -> Path:
        return Path(self.context.output_dir)

    @property
    def executed(self) -> Path:
        return self.directory / "notebook.ipynb"

    @property
    def html(self) -> Path:
        return self.directory / "notebook.html"

    def prepare(self, notebook: NotebookNode, declared: Mapping[str, NotebookParameter]) -> None:
        """Make the run's directory and put the parameters' values after their declaration."""
        from papermill.parameterize import parameterize_notebook

        work = self.directory / "work"
        work.mkdir(parents=True, exist_ok=True)
        self.context.frames_dir.mkdir(exist_ok=True)
        for old in (self.context.values_path, self.html, self._manifest_path, *self.context.frames_dir.iterdir()):
            old.unlink(missing_ok=True)
        self.context.write(self._context_path)
        # What papermill's own loader would add, and its code relies on.
        notebook.metadata.setdefault("papermill", {})
        for cell in notebook.cells:
            cell.metadata.setdefault("tags", [])
        # papermill writes names into the cell unescaped: only declared ones, which are
        # identifiers, may get there.
        assert set(self.values) == set(declared)
        prepared = parameterize_notebook(
            notebook, self.values, comment="Values of this run", kernel_name="python3", language="python"
        )
        for index, cell in enumerate(prepared.cells):
            # New cells get random ids; the same run twice must give the same file.
            if "injected-parameters" in (cell.metadata.get("tags") or []):
                cell["id"] = f"parameters-{index}"
        self.notebook = prepared

    def execute(self) -> NotebookRun:
        from quantflow.notebooks.engine import QuantflowEngine

        state = "failed"
        try:
            QuantflowEngine.execute_notebook(
                self.notebook,
                "python3",
                output_path=str(self.executed),
                environment=self._environment(),
                cwd=self.directory / "work",
                deadline=None if self.timeout_s is None else self.started + self.timeout_s,
                on_cell=self._report_cell,
            )
            if (failure := self._failure()) is not None:
                raise failure
            state = "succeeded"
        except (RuntimeError, OSError) as exc:
            # jupyter_client raises these when a kernel does not start or answer.
            raise self._no_kernel(exc) from exc
        finally:
            self._publish(state)
        return self._result()

    def _environment(self) -> dict[str, str]:
        return {
            CONTEXT_VARIABLE: str(self._context_path),
            # A user's IPython profile or Jupyter settings must not change a run.
            "IPYTHONDIR": str(self.directory / "work" / ".ipython"),
            "JUPYTER_CONFIG_DIR": str(self.directory / "work" / ".jupyter"),
        }

    @property
    def _context_path(self) -> Path:
        return self.directory / "run.json"

    @property
    def _manifest_path(self) -> Path:
        return self.directory / "manifest.json"

    def _report_cell(self, index: int) -> None:
        if self.on_progress is not None:
            elapsed_s = time.monotonic() - self.started
            self.on_progress(NotebookProgress(index + 1, len(self.notebook.cells), elapsed_s))

    def _failure(self) -> NotebookFailedError | None:
        for index, cell in enumerate(self.notebook.cells):
            errors = [found for found in cell.get("outputs", []) if found.output_type == "error"]
            if errors and "raises-exception" not in (cell.metadata.get("tags") or []):
                return self._error(index, cell, errors[-1])
        return None

    def _error(self, index: int, cell: NotebookNode, error: NotebookNode) -> NotebookFailedError:
        traceback = plain_text("\n".join(error.get("traceback") or []))
        number, total = index + 1, len(self.notebook.cells)
        return NotebookFailedError(
            f"{self.notebook_path.name}: cell {number} of {total} raised {error.ename}: {plain_text(error.evalue)}\n"
            f"The notebook up to there is {self.executed}, as a page {self.html}",
            cell=number,
            source=cell.source,
            traceback=traceback or f"{error.ename}: {error.evalue}",
            notebook=str(self.executed),
        )

    def _no_kernel(self, exc: Exception) -> NotebookFailedError:
        return NotebookFailedError(
            f"{self.notebook_path.name}: no cell ran, because the kernel did not start: {exc}",
            cell=0,
            source="",
            traceback=f"{type(exc).__name__}: {exc}",
            notebook=str(self.executed),
        )

    def _publish(self, state: str) -> None:
        from quantflow.notebooks.engine import write_notebook
        from quantflow.notebooks.export import export_html

        finished_at = datetime.now(UTC)
        write_notebook(self.notebook, self.executed)
        self.html.write_text(export_html(self.notebook, title=self.notebook_path.stem))
        self.manifest = self._make_manifest(state, finished_at)
        self.manifest.write(self._manifest_path)

    def _make_manifest(self, state: str, finished_at: datetime) -> Manifest:
        code_dir = self.context.code_dir
        modules = sorted(Path(code_dir).glob("*.py")) if code_dir else []
        frames = sorted(self.context.frames_dir.glob("*.parquet"))
        outputs = {f"frames/{path.name}": digest_file(path) for path in frames}
        if self.context.values_path.exists():
            outputs["values.json"] = digest_file(self.context.values_path)
        return Manifest(
            state=state,
            notebook=self.notebook_path.name,
            notebook_digest=hashlib.sha256(self.source).hexdigest(),
            code={path.name: digest_file(path) for path in modules},
            parameters=self.values,
            inputs={name: digest_file(path) for name, path in self.inputs.items()},
            outputs=outputs,
            environment=environment_digest(),
            versions=dict(library_versions()),
            started_at=self.started_at,
            finished_at=finished_at,
        )

    def _result(self) -> NotebookRun:
        values_path = self.context.values_path
        outputs = json.loads(values_path.read_text()) if values_path.exists() else {}
        artifacts = {path.stem: path for path in sorted(self.context.frames_dir.glob("*.parquet"))}
        if values_path.exists():
            artifacts["values"] = values_path
        return NotebookRun(
            notebook=self.executed,
            html=self.html,
            outputs=outputs,
            artifacts=artifacts | {"manifest": self._manifest_path},
            parameters=self.values,
            manifest=self.manifest,
            duration_s=time.monotonic() - self.started,
        )


def plain_text(text: str) -> str:
    """Return text without terminal colours."""
    return _ANSI.sub("", text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f"notebook {path} cannot be read: {exc.strerror}") from exc


def _existing(inputs: Mapping[str, Path]) -> dict[str, Path]:
    missing = [f"{name}: {path}" for name, path in inputs.items() if not Path(path).is_file()]
    if missing:
        raise DataError(f"these inputs do not exist: {'; '.join(missing)}")
    return {name: Path(path).absolute() for name, path in inputs.items()}


def _code_directory(notebook_path: Path, given: Path | None) -> str | None:
    if given is not None:
        if not given.is_dir():
            raise ContractError(str(given), ["is not a directory of modules"])
        return str(given.absolute())
    beside = notebook_path.absolute().parent.parent / "pipelines"
    return str(beside) if beside.is_dir() else None
