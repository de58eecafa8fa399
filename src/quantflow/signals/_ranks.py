"""Ranking scores in scratch of its own, for :mod:`quantflow.signals.weights`.

Nothing here takes or returns scratch but among itself: references to arrays are counted in
this module alone (``_reach._allocates``), which would take longer than all the rest.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["split_by_places", "weigh_by_rank"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Up to here comparing all pairs, without a branch, is faster than sorting.
_SORTED_ABOVE = 512


def split_by_places(
    weights: Floats, present: Bools, best: int, others: int, best_weight: float, worst_weight: float
) -> None:
    """Write the weights of the ``best`` best scores and of those behind ``others``; 0.0 for others that are present."""
    places = _places(_only_scores(weights, present))
    for symbol in range(len(weights)):
        if present[symbol]:
            place = places[symbol]
            weight = best_weight if place < best else (worst_weight if place >= others else 0.0)
            weights[symbol] = 0.0 if math.isnan(weights[symbol]) else weight


def weigh_by_rank(weights: Floats, present: Bools, scored: int, long_budget: float, short_budget: float) -> None:
    """Turn ``scored`` scores into their centred mean ranks, scaled to a budget on each side."""
    scores = _only_scores(weights, present)
    places = _mean_places(scores)
    side = 0.0
    for symbol in range(len(weights)):
        if not math.isnan(scores[symbol]):
            side += max(0.0, (scored - 1) / 2.0 - places[symbol])
    for symbol in range(len(weights)):
        if not present[symbol]:
            continue
        weight = 0.0
        if side > 0.0 and not math.isnan(scores[symbol]):
            rank = (scored - 1) / 2.0 - places[symbol]
            weight = rank / side * (long_budget if rank > 0.0 else short_budget)
        weights[symbol] = weight


def _only_scores(weights: Floats, present: Bools) -> Floats:
    scores = np.empty(len(weights))
    for symbol in range(len(weights)):
        scores[symbol] = weights[symbol] if present[symbol] else math.nan
    return scores


def _places(scores: Floats) -> Floats:
    """Return how many scores are better than each: 0.0 is the best, of equal ones the earlier; NaN is none."""
    count = len(scores)
    places = np.empty(count)
    if count > _SORTED_ABOVE:
        order = np.empty(count, dtype=np.int64)
        for place in range(_sort(scores, order)):
            places[order[place]] = place
        return places
    for symbol in range(count):
        places[symbol] = 0.0
    for left in range(count):
        score = scores[left]
        for right in range(count):
            places[right] += 1.0 if score > scores[right] else 0.0
    scored = 0
    total = 0.0
    for symbol in range(count):
        if not math.isnan(scores[symbol]):
            scored += 1
            total += places[symbol]
    if total < scored * (scored - 1) / 2.0:  # some are equal
        for left in range(count):
            for right in range(left + 1, count):
                if scores[left] == scores[right]:
                    places[right] += 1.0
    return places


def _mean_places(scores: Floats) -> Floats:
    """Return places as :func:`_places`, equal scores sharing the mean of theirs."""
    count = len(scores)
    places = np.empty(count)
    if count > _SORTED_ABOVE:
        order = np.empty(count, dtype=np.int64)
        scored = _sort(scores, order)
        first = 0
        while first < scored:
            last = first
            while last + 1 < scored and scores[order[last + 1]] == scores[order[first]]:
                last += 1
            for place in range(first, last + 1):
                places[order[place]] = (first + last) / 2.0
            first = last + 1
        return places
    for symbol in range(count):
        places[symbol] = -0.5  # below it is equal to itself
    for left in range(count):
        score = scores[left]
        for right in range(count):
            places[right] += (0.5 if score > scores[right] else 0.0) + (0.5 if score >= scores[right] else 0.0)
    return places


def _sort(scores: Floats, order: Ints) -> int:
    """Fill ``order`` with the symbols that have a score, best first, and return their number.

    Heapsort: a tenth of the time that numba takes to compile numpy's.
    """
    count = 0
    for symbol in range(len(scores)):
        if not math.isnan(scores[symbol]):
            order[count] = symbol
            count += 1
    for root in range(count // 2 - 1, -1, -1):
        _sink(scores, order, order[root], root, count)
    for end in range(count - 1, 0, -1):
        symbol = order[end]
        order[end] = order[0]
        _sink(scores, order, symbol, 0, end)
    return count


def _sink(scores: Floats, order: Ints, symbol: int, root: int, end: int) -> None:
    """Put a symbol into the heap below ``root``, the worst on top."""
    place = root
    while 2 * place + 1 < end:
        child = 2 * place + 1
        if child + 1 < end and _better(scores, order[child], order[child + 1]):
            child += 1
        if not _better(scores, symbol, order[child]):
            break
        order[place] = order[child]
        place = child
    order[place] = symbol


def _better(scores: Floats, left: int, right: int) -> bool:
    return bool(scores[left] > scores[right] or (scores[left] == scores[right] and left < right))
