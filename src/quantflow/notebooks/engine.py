"""papermill's execution, with a kernel of our own choosing and notebooks written whole.

What differs from papermill's engine, and why:

* The kernel is this interpreter, whatever kernel specifications are installed, in an
  environment that is given to it and nothing else of ours: a notebook is arbitrary code.
* It talks over Unix sockets in a private directory, so parallel runs cannot take each
  other's ports and other users of the machine cannot connect.
* The working directory is the kernel's alone. papermill changes this process's, which
  breaks when two runs share a process.
* A file is replaced, never overwritten: a killed run leaves a readable notebook.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager

__all__ = ["QuantflowEngine", "kernel_environment"]

_START_TIMEOUT_S = 120
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "NUMBA_CACHE_DIR", "NUMBA_CPU_NAME")


def kernel_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a kernel: a few neutral variables, and ``extra``.

    No ``QUANTFLOW_*`` setting and no ``AIRFLOW__*`` variable reaches a kernel: with Airflow's
    it would refuse to work (apache/airflow#56356), and neither's secrets are its business.
    """
    values = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if path := os.environ.get("PYTHONPATH"):
        values["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in path.split(os.pathsep) if entry)
    # Coverage of a kernel started by a test run under coverage; both are unset otherwise.
    values |= {name: os.environ[name] for name in ("COVERAGE_PROCESS_START", "COVERAGE_FILE") if name in os.environ}
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", os.defpath)])
    # Figures as data: the page that shows them brings the one copy of plotly.js.
    values["PLOTLY_RENDERER"] = "plotly_mimetype"
    values["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    return values | dict(extra)


class QuantflowEngine(NBClientEngine):  # type: ignore[misc]
    """Runs a prepared notebook; see :func:`quantflow.notebooks.run_notebook`."""

    @classmethod
    def execute_notebook(
        cls,
        nb: nbformat.NotebookNode,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool = False,
        log_output: bool = False,
        autosave_cell_every: int = 5,
        **kwargs: Any,
    ) -> nbformat.NotebookNode:
        """Execute in place; the notebook is written to ``output_path`` after every cell."""
        progress = _in_this_context(kwargs.pop("on_cell", None))
        manager = _WholeFileManager(nb, output_path, autosave_cell_every, progress)
        manager.notebook_start()
        try:
            cls.execute_managed_notebook(manager, kernel_name, log_output=log_output, **kwargs)
        finally:
            manager.notebook_complete()
        executed: nbformat.NotebookNode = manager.nb
        return executed

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        environment: Mapping[str, str],
        cwd: Path,
        deadline: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a kernel, run every cell, and end the kernel with all that it started.

        ``deadline`` is a :func:`time.monotonic` value; whatever runs then is ended.
        """
        with _kernel_manager() as kernel:
            client = PapermillNotebookClient(
                nb_man,
                km=kernel,
                kernel_name=kernel_name,
                timeout_func=None if deadline is None else _remaining(deadline),
                startup_timeout=_START_TIMEOUT_S,
                shutdown_kernel="immediate",
                store_widget_state=False,
            )
            given = {"env": kernel_environment(environment), "cwd": str(cwd), "cleanup_kc": True}
            try:
                _in_own_loop(lambda: client.execute(**given))
            except (CellTimeoutError, DeadKernelError) as exc:
                _mark_running_cell(nb_man, exc)


class _WholeFileManager(NotebookExecutionManager):  # type: ignore[misc]
    """Keeps the notebook on disk complete at every moment, and reports each cell's start."""

    def __init__(
        self,
        nb: nbformat.NotebookNode,
        output_path: str | None,
        autosave_cell_every: int,
        on_cell: Callable[[int], None] | None,
    ) -> None:
        super().__init__(nb, output_path=output_path, progress_bar=False, autosave_cell_every=autosave_cell_every)
        self._on_cell = on_cell

    def save(self, **kwargs: Any) -> None:
        if self.output_path:
            write_notebook(self.nb, Path(self.output_path))
        self.last_save_time = self.now()

    def cell_start(self, cell: nbformat.NotebookNode, cell_index: int | None = None, **kwargs: Any) -> None:
        super().cell_start(cell, cell_index, **kwargs)
        if self._on_cell is not None and cell_index is not None:
            self._on_cell(cell_index)


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook so that readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    nbformat.write(notebook, temporary, version=4)  # type: ignore[no-untyped-call]
    temporary.replace(path)


class _OwnInterpreter(KernelSpecManager):
    """The one kernel: this interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3 (quantflow)",
            language="python",
        )


@contextmanager
def _kernel_manager() -> Iterator[AsyncKernelManager]:
    # Not TMPDIR: a socket's path may have 107 characters, and pytest's directories are long.
    directory = Path(tempfile.mkdtemp(prefix="qf-kernel-", dir="/tmp"))
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=_OwnInterpreter(),
        transport="ipc",
        connection_file=str(directory / "kernel.json"),
        shutdown_wait_time=2.0,
    )
    try:
        yield manager
    finally:
        _end_process_group(manager)
        shutil.rmtree(directory, ignore_errors=True)


def _in_this_context(on_cell: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Return the callback so that it sees the caller's context variables (correlation ids)."""
    if on_cell is None:
        return None
    context = contextvars.copy_context()
    return lambda index: context.run(on_cell, index)


def _in_own_loop(work: Callable[[], Any]) -> None:
    """Run what drives a kernel on an event loop that is closed afterwards.

    jupyter_core keeps a loop, with its sockets, for every thread that it worked in.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # Without the caller's context variables, jupyter_core makes a new loop and not the caller's.
        contextvars.Context().run(_with_loop, work)
        return
    # Called from JupyterLab: a loop runs in this thread already.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_with_loop, work).result()


def _with_loop(work: Callable[[], Any]) -> None:
    loop = ensure_event_loop()
    try:
        work()
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def _end_process_group(manager: AsyncKernelManager) -> None:
    """Kill what the kernel left behind: jupyter starts it as the leader of a group of its own."""
    group = getattr(manager.provisioner, "pgid", None) if manager.provisioner is not None else None
    if group and group != os.getpgrp():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _remaining(deadline: float) -> Callable[[Any], int]:
    # nbclient counts in whole seconds and takes 0 as "no limit".
    return lambda _cell: max(1, round(deadline - time.monotonic()))


def _mark_running_cell(manager: NotebookExecutionManager, exc: BaseException) -> None:
    """Give the cell that was running an error output, as if it had raised."""
    for index, cell in enumerate(manager.nb.cells):
        papermill = cell.metadata.get("papermill", {})
        if cell.cell_type == "code" and papermill.get("start_time") and not _finished(cell):
            name = "KernelDiedError" if isinstance(exc, DeadKernelError) else "TimeLimitError"
            text = {
                "KernelDiedError": "the kernel died while this cell ran; often it was killed for using too much memory",
                "TimeLimitError": "the run's time limit ended while this cell ran",
            }[name]
            output = nbformat.NotebookNode(  # type: ignore[no-untyped-call]
                {"output_type": "error", "ename": name, "evalue": text, "traceback": [f"{name}: {text}"]}
            )
            cell.outputs = [*cell.outputs, output]
            manager.cell_exception(cell, cell_index=index)
            return
    raise exc


def _finished(cell: nbformat.NotebookNode) -> bool:
    # nbclient notes a cell's reply; papermill marks a cell complete even when it timed out.
    return "shell.execute_reply" in cell.metadata.get("execution", {})
