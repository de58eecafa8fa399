"""The desk of the momentum pipeline: the graph that its contract names as ``momentum_desk:build``.

Promotion stores these bytes; runs load only the stored ones. Replace the body by a graph of
your own: start with ``new_desk()``, add nodes, lead every path to ``"propose"`` and end with
``close_desk(graph)``. The risk officer, the approval and the decision are checked again when
the graph has ended, so no graph can go round them.
"""

from quantflow.agents import build_desk


def build():
    """Return the graph: technical analyst, risk analyst, portfolio manager, risk officer."""
    return build_desk()
