"""From scores to target weights, in place, inside cross-sectional signals.

A signal writes a score a symbol into ``weights``, NaN for a symbol that has none, and calls
one of these; afterwards ``weights`` are fractions of equity. Absent symbols (``present`` is
false) keep the weight with which they came: what is held of them uses up its part of
``gross``, so the whole never exceeds it. Under ``missing="flat"`` they come with 0.0.

Equal scores are told apart by the order of the universe, the earlier symbol counting as the
better one, so that results never depend on how a sort works. All compile with numba.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["best_weights", "long_short", "pair_weights", "proportional_weights", "rank_weights", "standardise"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Up to here comparing all pairs, without a branch, is faster than sorting.
_SORTED_ABOVE = 512


def long_short(weights: Floats, present: Bools, fraction: float = 0.1, gross: float = 1.0) -> None:
    """Hold the best ``fraction`` of the scores long and the worst short, equally weighted on each side.

    With ``fraction=0.1`` these are the deciles of Jegadeesh and Titman (1993). Of ``n`` scores
    each side has ``max(1, floor(fraction * n))`` symbols, at most ``n // 2``, and ``gross / 2`` of
    equity. Fewer than two scores: 0.0 throughout.

    Parameters
    ----------
    weights
        float64[N]: scores in, weights out.
    present
        bool[N], which symbols have a bar: ``bars.present``.
    fraction
        Of the scores, on each side: above 0 and at most 0.5.
    gross
        Sum of absolute weights.
    """
    scored = _scored(weights, present)
    count = _share(scored, fraction, scored // 2)
    places = _places(_only_scores(weights, present))
    long_budget = max(0.0, gross / 2.0 - _held(weights, present, 1.0))
    short_budget = max(0.0, gross / 2.0 - _held(weights, present, -1.0))
    for symbol in range(len(weights)):
        if not present[symbol]:
            continue
        weight = 0.0
        if not math.isnan(weights[symbol]):
            if places[symbol] < count:
                weight = long_budget / count
            elif places[symbol] >= scored - count:
                weight = -short_budget / count
        weights[symbol] = weight


def best_weights(weights: Floats, present: Bools, fraction: float = 0.1, gross: float = 1.0) -> None:
    """Hold the best ``fraction`` of the scores long, equally weighted: ``max(1, floor(fraction * n))`` of ``n``.

    Parameters are those of :func:`long_short`; ``fraction`` may be up to 1.
    """
    scored = _scored(weights, present)
    count = _share(scored, fraction, scored)
    places = _places(_only_scores(weights, present))
    budget = max(0.0, gross - _held(weights, present, 1.0))
    for symbol in range(len(weights)):
        if present[symbol]:
            best = not math.isnan(weights[symbol]) and places[symbol] < count
            weights[symbol] = budget / count if best else 0.0


def rank_weights(weights: Floats, present: Bools, gross: float = 1.0) -> None:
    """Weigh by centred rank, long and short sides of ``gross / 2`` each.

    Ranks are ``0 .. n - 1`` (equal scores share their mean rank) less ``(n - 1) / 2``, and scaled.
    Scores that are all equal, or fewer than two: 0.0 throughout.

    Parameters are those of :func:`long_short`.
    """
    scores = _only_scores(weights, present)
    places = _mean_places(scores)
    scored = _scored(weights, present)
    long_budget = max(0.0, gross / 2.0 - _held(weights, present, 1.0))
    short_budget = max(0.0, gross / 2.0 - _held(weights, present, -1.0))
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


def proportional_weights(weights: Floats, present: Bools, gross: float = 1.0) -> None:
    """Weigh in proportion to the scores, absolute weights adding up to ``gross``.

    A negative score is a short position; scores of ``1 / volatility`` give equal risk. Scores
    that are all zero: 0.0 throughout.

    Parameters are those of :func:`long_short`.
    """
    budget = max(0.0, gross - _held(weights, present, 1.0) - _held(weights, present, -1.0))
    total = 0.0
    for symbol in range(len(weights)):
        if present[symbol] and not math.isnan(weights[symbol]):
            total += abs(weights[symbol])
    for symbol in range(len(weights)):
        if present[symbol]:
            score = weights[symbol]
            weights[symbol] = 0.0 if math.isnan(score) or total == 0.0 else score / total * budget


def standardise(scores: Floats, present: Bools, limit: float = 3.0) -> None:
    """Turn scores into cross-sectional z-scores (population standard deviation), cut off at ``limit``.

    NaN and absent symbols stay as they are. Scores that are all equal become 0.0.
    """
    count = _scored(scores, present)
    if count == 0:
        return
    mean = 0.0
    for symbol in range(len(scores)):
        if present[symbol] and not math.isnan(scores[symbol]):
            mean += scores[symbol] / count
    squares = 0.0
    for symbol in range(len(scores)):
        if present[symbol] and not math.isnan(scores[symbol]):
            squares += (scores[symbol] - mean) ** 2
    deviation = math.sqrt(squares / count)
    for symbol in range(len(scores)):
        if present[symbol] and not math.isnan(scores[symbol]):
            z = (scores[symbol] - mean) / deviation if deviation > 0.0 else 0.0
            scores[symbol] = max(-limit, min(limit, z))


def pair_weights(
    weights: Floats,
    first: int,
    second: int,
    z: float,
    enter: float = 2.0,
    leave: float = 0.5,
    ratio: float = 1.0,
    gross: float = 1.0,
) -> None:
    """Trade the spread of two symbols back to its mean, from the position that ``weights`` hold.

    The spread is bought (``first`` long, ``second`` short) when ``z <= -enter`` and sold when
    ``z >= enter``; a position is closed once ``z`` has come back to within ``leave``, and turned
    at the other side's entry. Between, and while ``z`` is NaN (a leg without a bar, or not
    warm yet), the weights stay as they are.

    Parameters
    ----------
    weights
        float64[N], as the signal received them: the targets of the timestamp before.
    first, second
        Numbers of the two symbols in the universe.
    z
        Z-score of the spread, for example of ``log(first) - ratio * log(second)``.
    enter, leave
        Of ``z``, ``enter`` above ``leave``, both at least 0.
    ratio
        Value of ``second`` held against one of ``first``.
    gross
        Sum of the two absolute weights.
    """
    if math.isnan(z):
        return
    held = weights[first]
    if z <= -enter:
        side = 1.0
    elif z >= enter:
        side = -1.0
    elif (held > 0.0 and z >= -leave) or (held < 0.0 and z <= leave):
        side = 0.0
    else:
        return
    if (held > 0.0 and side > 0.0) or (held < 0.0 and side < 0.0):
        return  # the hedge of the entry is kept
    weights[first] = side * gross / (1.0 + abs(ratio))
    weights[second] = -side * ratio * gross / (1.0 + abs(ratio))


def _scored(scores: Floats, present: Bools) -> int:
    count = 0
    for symbol in range(len(scores)):
        if present[symbol] and not math.isnan(scores[symbol]):
            count += 1
    return count


def _only_scores(weights: Floats, present: Bools) -> Floats:
    scores = np.empty(len(weights))
    for symbol in range(len(weights)):
        scores[symbol] = weights[symbol] if present[symbol] else math.nan
    return scores


def _share(scored: int, fraction: float, most: int) -> int:
    # 0.29 * 100 is 28.999999999999996 in floating point.
    return min(most, max(1, int(fraction * scored + 1e-9)))


def _held(weights: Floats, present: Bools, side: float) -> float:
    """Return the absolute weights of absent symbols on one side."""
    held = 0.0
    for symbol in range(len(weights)):
        if not present[symbol]:
            held += max(0.0, side * weights[symbol])
    return held


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
