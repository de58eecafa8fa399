"""Rank of the newest value in its window, by a search tree that counts.

The tree is a treap (Seidel and Aragon 1996) laid out in the slot: each node is five numbers
(value, left, right, size, priority) and is named by the index of its first. Priorities are fixed
for each node, so the same values build the same tree; a window's oldest value gives its node
to the newest. Equal values stand in order of arrival.
"""

from __future__ import annotations

import math

import numpy as np

from quantflow.signals._indicator import Slot, indicator
from quantflow.signals.indicators._arguments import bar_count

__all__ = ["rolling_rank"]

# Fields of a node. Node 0 means "none": its size is 0 and its other fields are the header,
# which holds window, position in ring, values held, (size of none), root.
_LEFT = 1
_RIGHT = 2
_SIZE = 3
_PRIORITY = 4
_FIELDS = 5

_HELD = 2
_ROOT = 4


def _rank_start(window: int) -> Slot:
    length = bar_count(window)
    slot = np.zeros(_FIELDS * (length + 1), dtype=np.float64)
    slot[0] = length
    slot[_FIELDS + _PRIORITY :: _FIELDS] = np.random.default_rng(0).permutation(length)
    return slot


def _rank_warm_up(window: int) -> int:
    return int(window) - 1


@indicator(start=_rank_start, warm_up=_rank_warm_up)
def rolling_rank(slot: Slot, value: float) -> float:
    """Return the rank of ``value`` among the last ``window`` values, as a fraction.

    1.0 is the largest, ``1 / window`` the smallest; equal values share the mean of their ranks.
    Declared as ``rolling_rank.over(window)``; first value at bar ``window``; O(log window) a
    bar. ``pandas.Series.rolling(window).rank(pct=True)``.
    """
    if math.isnan(value):
        return math.nan
    window = slot[0]
    position = slot[1]
    node = _FIELDS * (int(position) + 1)
    if slot[_HELD] == window:
        _remove(slot, node)
    else:
        slot[_HELD] += 1.0
    slot[1] = position + 1.0 if position + 1.0 < window else 0.0
    slot[node] = value
    smaller, tied = _insert(slot, node, value)
    if slot[_HELD] < window:
        return math.nan
    rank = smaller + 1.0
    if tied:  # equal values rank from the first to the last of them
        rank = 0.5 * (rank + _count_below(slot, value) + 1.0)
    fraction: float = rank / window
    return fraction


def _count_below(slot: Slot, value: float) -> float:
    """Return how many values of the tree are smaller than ``value``."""
    count = 0.0
    node = int(slot[_ROOT])
    while node != 0:
        if slot[node] < value:
            count += slot[int(slot[node + _LEFT]) + _SIZE] + 1.0
            node = int(slot[node + _RIGHT])
        else:
            node = int(slot[node + _LEFT])
    return count


def _remove(slot: Slot, node: int) -> None:
    """Take ``node``, the oldest of its value, out of the tree."""
    value = slot[node]
    link = _ROOT
    current = int(slot[link])
    while current != node:
        slot[current + _SIZE] -= 1.0
        link = current + (_RIGHT if slot[current] < value else _LEFT)
        current = int(slot[link])
    smaller = int(slot[node + _LEFT])
    larger = int(slot[node + _RIGHT])
    while smaller != 0 and larger != 0:
        if slot[smaller + _PRIORITY] > slot[larger + _PRIORITY]:
            slot[link] = smaller
            slot[smaller + _SIZE] += slot[larger + _SIZE]
            link = smaller + _RIGHT
            smaller = int(slot[link])
        else:
            slot[link] = larger
            slot[larger + _SIZE] += slot[smaller + _SIZE]
            link = larger + _LEFT
            larger = int(slot[link])
    slot[link] = smaller + larger  # one of them is 0


def _insert(slot: Slot, node: int, value: float) -> tuple[float, bool]:
    """Put ``node`` into the tree; return how many values before it are at most its own, and whether any equals it."""
    count = 0.0
    tied = False
    link = _ROOT
    current = int(slot[link])
    while current != 0 and slot[current + _PRIORITY] > slot[node + _PRIORITY]:
        slot[current + _SIZE] += 1.0
        if slot[current] <= value:
            count += slot[int(slot[current + _LEFT]) + _SIZE] + 1.0
            tied = slot[current] == value  # the last one asked is the largest of them
            link = current + _RIGHT
        else:
            link = current + _LEFT
        current = int(slot[link])
    slot[link] = node
    above = count
    tree = current
    while current != 0:
        if slot[current] <= value:
            count += slot[int(slot[current + _LEFT]) + _SIZE] + 1.0
            tied = slot[current] == value
            current = int(slot[current + _RIGHT])
        else:
            current = int(slot[current + _LEFT])
    _hang(slot, tree, node, value, count - above)
    return count, tied


def _hang(slot: Slot, tree: int, node: int, value: float, smaller: float) -> None:
    """Split ``tree`` below ``node``: its ``smaller`` values that are at most ``value`` left, the others right."""
    size = slot[tree + _SIZE]
    slot[node + _SIZE] = size + 1.0
    # The halves' sizes are known from the top down, so one walk sets links and sizes.
    left = node + _LEFT
    right = node + _RIGHT
    current = tree
    while current != 0:
        if slot[current] <= value:
            slot[left] = current
            slot[current + _SIZE] = smaller
            left = current + _RIGHT
            current = int(slot[left])
            smaller -= size - slot[current + _SIZE]
        else:
            slot[right] = current
            slot[current + _SIZE] = size - smaller
            right = current + _LEFT
            current = int(slot[right])
        size = slot[current + _SIZE]
    slot[left] = 0.0
    slot[right] = 0.0
