"""The workbench inside a notebook: ``%load_ext quantflow.jupyter``.

``%qf_promote pipelines/momentum.toml`` registers a version, ``%qf_runs [pipeline]`` shows the latest
runs, ``%qf_run RUN_ID`` one of them. The magics answer values, so that a cell can go on with them.
``explore(signal, bars)`` shows a backtest under a control for each of the signal's parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.jupyter._explore import Explorer, explore

__all__ = ["Explorer", "explore", "load_ipython_extension"]

__getattr__, __dir__ = lazy_names(__name__, {"Explorer": "_explore", "explore": "_explore"})


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; IPython calls this for ``%load_ext quantflow.jupyter``."""
    from quantflow.jupyter._magics import register

    register(shell)
