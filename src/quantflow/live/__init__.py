"""Live: promoted signals on market topics, bar by bar, with the backtest's numbers.

``run_live`` reads market topics and keeps, in one transaction a batch, what the signal said,
the state that it goes on from, and the offsets that led there. So it can be killed at any
moment and goes on bit for bit. ``live_exposures`` and ``live_status`` read what it keeps.

Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.live._readers import LiveStatus, PartitionPosition, latest_exposures, live_exposures, live_status
    from quantflow.live._run import run_live
    from quantflow.live._signal import BatchReport, LiveSignal

__all__ = [
    "BatchReport",
    "LiveSignal",
    "LiveStatus",
    "PartitionPosition",
    "latest_exposures",
    "live_exposures",
    "live_status",
    "run_live",
]

_HOMES = {
    "_readers": ("LiveStatus", "PartitionPosition", "latest_exposures", "live_exposures", "live_status"),
    "_run": ("run_live",),
    "_signal": ("BatchReport", "LiveSignal"),
}

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
