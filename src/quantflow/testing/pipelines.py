"""A small pipeline on disk: contract, notebook, signal and graph, for tests that promote one."""

from __future__ import annotations

from pathlib import Path

import nbformat

__all__ = ["CONTRACT", "GRAPH", "PARAMETERS", "SIGNAL", "write_pipeline"]

CONTRACT = """\
pipeline = "tiny"
description = "A tiny pipeline"
owner = "ana"
notebook = "../notebooks/tiny.ipynb"
signal = "tiny_signal:crossing"
graph = "tiny_graph:build"
schedule = "30 22 * * MON-FRI"
approval = "auto"
approver_role = "portfolio-manager"
min_confidence = 0.4

[[inputs]]
topic = "market.bars.1d"
schema = "quantflow.market.bar"

[parameters.window]
type = "int"
default = 5
low = 2
high = 50

[parameters.fee_bps]
type = "float"
default = 1.0
low = 0.0

[parameters.side]
type = "str"
default = "long"
choices = ["long", "both"]

[limits]
max_position = 0.5
"""

PARAMETERS = 'window: int = 5\nfee_bps: float = 1.0\nside: str = "long"'

SIGNAL = '''\
"""Long above the average."""

from quantflow.signals import param, signal, sma


@signal(columns=("close",))
def crossing(bar, average=sma.over("window"), window=param(5, low=2, high=50)):
    return 1.0 if bar.close > sma(average, bar.close) else 0.0
'''

GRAPH = '''\
"""A stand-in for a graph."""


def build():
    return "graph one"
'''


def write_pipeline(
    root: Path,
    *,
    contract: str = CONTRACT,
    parameters: str = PARAMETERS,
    signal: str = SIGNAL,
    graph: str = GRAPH,
    cells: tuple[str, ...] = ("window + 1",),
    modules: dict[str, str] | None = None,
) -> Path:
    """Write the pipeline ``tiny`` below ``root`` and return its contract's path."""
    for directory in ("pipelines", "notebooks"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    notebook = nbformat.from_dict(  # type: ignore[no-untyped-call]
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {},
            "cells": [
                _cell("parameters", parameters, ["parameters"]),
                *(_cell(f"cell-{index}", source, []) for index, source in enumerate(cells)),
            ],
        }
    )
    nbformat.write(notebook, root / "notebooks" / "tiny.ipynb")  # type: ignore[no-untyped-call]
    files = {"tiny.toml": contract, "tiny_signal.py": signal, "tiny_graph.py": graph}
    files |= {f"{name}.py": source for name, source in (modules or {}).items()}
    for name, content in files.items():
        (root / "pipelines" / name).write_text(content)
    return root / "pipelines" / "tiny.toml"


def _cell(cell_id: str, source: str, tags: list[str]) -> dict[str, object]:
    return {
        "cell_type": "code",
        "id": cell_id,
        "metadata": {"tags": tags},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
