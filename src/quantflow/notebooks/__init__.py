"""Notebooks as production units: parameterized runs, recorded outputs, reports.

Inside a notebook, in JupyterLab as in production::

    from quantflow.notebooks import input_bars, load_signal, record, record_frame

    bars = input_bars(as_of=as_of)                # what the runner was given, else real history
    momentum = load_signal("momentum_signal:momentum")
    record("metrics.sharpe_ratio", 0.71)          # a typed output of this run
    record_frame("equity", equity)                # a frame as Parquet

Outside, to run one::

    run = run_notebook(path, parameters={"lookback": 126}, output_dir=directory, inputs={"bars": parquet})

and to publish it: ``render_report(RunReport(...))``, one HTML file that needs no network.

Names load on first use, so that a kernel pays only for what its notebook calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.notebooks.code import Code, load_reference
    from quantflow.notebooks.document import NotebookParameter, declared_parameters, read_notebook
    from quantflow.notebooks.export import export_html
    from quantflow.notebooks.kernel import input_bars, load_signal, record, record_frame, run_context
    from quantflow.notebooks.manifest import Manifest
    from quantflow.notebooks.report.model import RunReport
    from quantflow.notebooks.report.render import render_report
    from quantflow.notebooks.run import NotebookProgress, NotebookRun, run_notebook

__all__ = [
    "Code",
    "Manifest",
    "NotebookParameter",
    "NotebookProgress",
    "NotebookRun",
    "RunReport",
    "declared_parameters",
    "export_html",
    "input_bars",
    "load_reference",
    "load_signal",
    "read_notebook",
    "record",
    "record_frame",
    "render_report",
    "run_context",
    "run_notebook",
]

_HOMES = {
    "Code": "code",
    "Manifest": "manifest",
    "NotebookParameter": "document",
    "NotebookProgress": "run",
    "NotebookRun": "run",
    "RunReport": "report.model",
    "declared_parameters": "document",
    "export_html": "export",
    "input_bars": "kernel",
    "load_reference": "code",
    "load_signal": "kernel",
    "read_notebook": "document",
    "record": "kernel",
    "record_frame": "kernel",
    "render_report": "report.render",
    "run_context": "kernel",
    "run_notebook": "run",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
