"""What tells one sweep from another."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import polars as pl

from quantflow.data.bars import frame_digest

if TYPE_CHECKING:
    from quantflow.backtest._sweep_job import Job

__all__ = ["job_identity"]

_BAR_VALUES = ("symbol", "session", "timestamp", "open", "high", "low", "close", "volume")


def job_identity(job: Job) -> dict[str, Any]:
    """Return it as JSON values; equal identities mean equal figures."""
    return {
        "signal": job.name,
        "code": _code(job.signal),
        "engine": _engine(),
        "bars": _digest(job.bars.select(name for name in _BAR_VALUES if name in job.bars.columns)),
        "actions": None if job.actions is None else _digest(job.actions),
        "by": job.by,
        "start": None if job.start is None else job.start.isoformat(),
        "execution": {name: str(value) for name, value in sorted(job.execution.items())},
        "grid": job.grid.identity(),
        "metrics": list(job.metrics),
        "risk_free_rate": job.risk_free_rate,
        "versions": _versions(),
    }


def _code(signal: Any) -> dict[str, str]:
    from quantflow.signals._identity import identity_of

    # A definition's own fingerprint leaves out the defaults of its parameters and slots.
    return {
        "fingerprint": str(getattr(signal, "fingerprint", "")),
        "definition": identity_of(getattr(signal, "definition", signal), getattr(signal, "columns", None)),
    }


def _engine() -> str:
    from quantflow.backtest._from_raw import metrics_from_raw
    from quantflow.backtest._runs import run_portfolio, run_slots
    from quantflow.signals._identity import identity_of

    return identity_of(run_slots, run_portfolio, metrics_from_raw)


def _digest(frame: pl.DataFrame) -> str:
    return frame_digest(frame.sort(frame.columns), kind="sweep")


def _versions() -> dict[str, str]:
    import numba
    import numpy as np

    return {
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
        "polars": pl.__version__,
    }
