"""Graphs of agents that propose, and the deterministic officer who has the last word.

A pipeline names a function that builds its graph; nodes get everything that belongs to one
run from LangGraph's runtime context::

    from quantflow.agents import DeskContext, DeskState, build_desk, desk_node

    def build():
        return build_desk()

A graph of one's own starts with ``new_desk()`` and ends with ``close_desk(graph)``, which
adds the part that no graph can do without: proposal, risk officer, approval, decision.
``run_desk`` runs one, resumes it after a crash or an approval, and checks its end again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from quantflow.agents.request import DeskRequest
from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.agents._checkpoints import open_checkpoints
    from quantflow.agents._context import DeskContext
    from quantflow.agents._desk import DESK_VERSION, build_desk, close_desk, graph_version, new_desk
    from quantflow.agents._journal import Journal, LogJournal, MemoryJournal
    from quantflow.agents._opinions import MANAGER_BRIEF, RISK_BRIEF, TECHNICAL_BRIEF, Brief
    from quantflow.agents._running import Decided, Waiting, run_desk
    from quantflow.agents._state import DeskState
    from quantflow.agents._steps import desk_node

__all__ = [
    "DESK_VERSION",
    "MANAGER_BRIEF",
    "RISK_BRIEF",
    "TECHNICAL_BRIEF",
    "Brief",
    "Decided",
    "DeskContext",
    "DeskRequest",
    "DeskState",
    "Journal",
    "LogJournal",
    "MemoryJournal",
    "Waiting",
    "build_desk",
    "close_desk",
    "desk_node",
    "graph_version",
    "new_desk",
    "open_checkpoints",
    "run_desk",
]

# Read when LangGraph's serializer is imported. Without it loading a checkpoint may run code that
# someone wrote into the table (CVE-2026-28277).
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")

# LangGraph costs half a second to import: a DAG that only writes a request does not pay for it.
_HOMES = {
    "_checkpoints": ("open_checkpoints",),
    "_context": ("DeskContext",),
    "_desk": ("DESK_VERSION", "build_desk", "close_desk", "graph_version", "new_desk"),
    "_journal": ("Journal", "LogJournal", "MemoryJournal"),
    "_opinions": ("MANAGER_BRIEF", "RISK_BRIEF", "TECHNICAL_BRIEF", "Brief"),
    "_running": ("Decided", "Waiting", "run_desk"),
    "_state": ("DeskState",),
    "_steps": ("desk_node",),
}

__getattr__, __dir__ = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})
