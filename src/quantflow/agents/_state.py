"""The state that travels through a desk: plain JSON types only, so that a checkpoint restores it exactly.

numpy scalars, time stamps and frames do not survive a checkpoint unchanged; they are read
through the context and never put here.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

__all__ = ["DeskState", "DeskUpdate", "Opinion"]


class Opinion(TypedDict):
    """One agent's answer; ``judgement`` is its choice, ``confidence`` a fraction."""

    words: str
    judgement: str
    confidence: float


def _merge(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    return {**left, **right}


class DeskState(TypedDict, total=False):
    """What nodes read and write.

    ``path`` and ``opinions`` have reducers: a node returns only what it adds. A set
    ``hold_reason`` ends in HOLD whatever else was found. ``scale`` and ``max_scale`` are
    fractions of the base weights; the smaller one counts.
    """

    run_id: str
    graph_version: str
    as_of: str
    request: dict[str, Any]
    path: Annotated[list[str], operator.add]
    facts: Annotated[dict[str, Any], _merge]
    opinions: Annotated[dict[str, Opinion], _merge]
    hold_reason: str
    max_scale: float
    scale: float
    confidence: float
    reason: str
    proposal: dict[str, Any]
    verdict: dict[str, Any]
    judged_at: str
    approval: dict[str, Any]
    decision: dict[str, Any]


#: What a node returns: the keys of the state that it sets.
DeskUpdate = dict[str, Any]
