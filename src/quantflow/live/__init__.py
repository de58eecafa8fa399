"""Live: promoted signals on market topics, bar by bar, with the backtest's numbers.

``run_live`` reads market topics and keeps, in one transaction a batch, what the signal said,
the state that it goes on from, and the offsets that led there. So it can be killed at any
moment and goes on bit for bit. ``live_exposures`` and ``live_status`` read what it keeps,
``live_absences`` which symbols a cross-sectional signal decided without. ``parity`` replays
history through this path and says where it first leaves the backtest.

Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.live._cross_section import LiveCrossSection
    from quantflow.live._parity import parity
    from quantflow.live._parity_replay import records_of
    from quantflow.live._parity_report import Divergence, ParityReport
    from quantflow.live._readers import (
        LiveStatus,
        PartitionPosition,
        latest_exposures,
        live_absences,
        live_exposures,
        live_status,
    )
    from quantflow.live._run import run_live
    from quantflow.live._signal import BatchReport, LiveSignal

__all__ = [
    "BatchReport",
    "Divergence",
    "LiveCrossSection",
    "LiveSignal",
    "LiveStatus",
    "ParityReport",
    "PartitionPosition",
    "latest_exposures",
    "live_absences",
    "live_exposures",
    "live_status",
    "parity",
    "records_of",
    "run_live",
]

_HOMES = {
    "_cross_section": ("LiveCrossSection",),
    "_parity": ("parity",),
    "_parity_replay": ("records_of",),
    "_parity_report": ("Divergence", "ParityReport"),
    "_readers": (
        "LiveStatus",
        "PartitionPosition",
        "latest_exposures",
        "live_absences",
        "live_exposures",
        "live_status",
    ),
    "_run": ("run_live",),
    "_signal": ("BatchReport", "LiveSignal"),
}

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
