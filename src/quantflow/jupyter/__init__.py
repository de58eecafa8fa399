"""The workbench inside a notebook: ``%load_ext quantflow.jupyter``.

``%qf_promote pipelines/momentum.toml`` registers a version, ``%qf_runs [pipeline]`` shows the latest
runs, ``%qf_run RUN_ID`` one of them. The magics answer values, so that a cell can go on with them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; IPython calls this for ``%load_ext quantflow.jupyter``."""
    from quantflow.jupyter._magics import register

    register(shell)
