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

from quantflow.signals._ranks import split_by_places, weigh_by_rank

__all__ = ["best_weights", "long_short", "pair_weights", "proportional_weights", "rank_weights", "standardise"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: So many fail only where scores are equal or lie at wildly different distances.
_MOST_CUTS = 24


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
    long_budget = _budget(weights, present, scored, gross / 2.0, 1.0)
    short_budget = _budget(weights, present, scored, gross / 2.0, -1.0)
    _split(weights, present, scored, count, count, long_budget / max(1, count), -short_budget / max(1, count))


def best_weights(weights: Floats, present: Bools, fraction: float = 0.1, gross: float = 1.0) -> None:
    """Hold the best ``fraction`` of the scores long, equally weighted: ``max(1, floor(fraction * n))`` of ``n``.

    Parameters are those of :func:`long_short`; ``fraction`` may be up to 1.
    """
    scored = _scored(weights, present)
    count = _share(scored, fraction, scored)
    budget = _budget(weights, present, scored, gross, 1.0)
    _split(weights, present, scored, count, 0, budget / max(1, count), 0.0)


def rank_weights(weights: Floats, present: Bools, gross: float = 1.0) -> None:
    """Weigh by centred rank, long and short sides of ``gross / 2`` each.

    Ranks are ``0 .. n - 1`` (equal scores share their mean rank) less ``(n - 1) / 2``, and scaled.
    Scores that are all equal, or fewer than two: 0.0 throughout.

    Parameters are those of :func:`long_short`.
    """
    scored = _scored(weights, present)
    long_budget = _budget(weights, present, scored, gross / 2.0, 1.0)
    short_budget = _budget(weights, present, scored, gross / 2.0, -1.0)
    weigh_by_rank(weights, present, scored, long_budget, short_budget)


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


def _budget(weights: Floats, present: Bools, scored: int, gross: float, side: float) -> float:
    """Return what absent symbols leave of ``gross`` on one side."""
    held = 0.0 if scored == len(weights) else _held(weights, present, side)
    return max(0.0, gross - held)


def _split(
    weights: Floats, present: Bools, scored: int, best: int, worst: int, best_weight: float, worst_weight: float
) -> None:
    """Write the weights of the ``best`` best scores and of the ``worst`` worst; 0.0 for others that are present."""
    lowest, highest = _range(weights, present)
    upper = _cut(weights, present, scored, best, lowest, highest)
    lower = _cut(weights, present, scored, scored - worst, lowest, highest)
    if math.isnan(upper) or math.isnan(lower):
        split_by_places(weights, present, best, scored - worst, best_weight, worst_weight)
        return
    for symbol in range(len(weights)):
        score = weights[symbol]
        weight = best_weight if score > upper else (worst_weight if score <= lower else 0.0)
        weights[symbol] = weight if present[symbol] else score


def _range(scores: Floats, present: Bools) -> tuple[float, float]:
    """Return the lowest and the highest score; infinity and minus infinity if there is none.

    Four at a time: a minimum waits for the one before.
    """
    quarter, last = (len(scores) + 3) // 4, len(scores) - 1
    low0 = low1 = low2 = low3 = math.inf
    high0 = high1 = high2 = high3 = -math.inf
    for place in range(quarter):
        score = _score(scores, present, place)
        low0, high0 = score if score < low0 else low0, score if score > high0 else high0
        score = _score(scores, present, min(quarter + place, last))
        low1, high1 = score if score < low1 else low1, score if score > high1 else high1
        score = _score(scores, present, min(2 * quarter + place, last))
        low2, high2 = score if score < low2 else low2, score if score > high2 else high2
        score = _score(scores, present, min(3 * quarter + place, last))
        low3, high3 = score if score < low3 else low3, score if score > high3 else high3
    return min(low0, low1, low2, low3), max(high0, high1, high2, high3)


def _score(scores: Floats, present: Bools, symbol: int) -> float:
    return scores[symbol] if present[symbol] else math.nan


def _cut(scores: Floats, present: Bools, scored: int, count: int, lowest: float, highest: float) -> float:
    """Return a number that exactly ``count`` of the scores exceed; NaN if none was found, as with equal scores.

    Between two bounds it tries three numbers about the secant's at a time. A few passes over all scores
    without a branch beat a sort, which guesses wrong at every other step.
    """
    if count == 0:
        return math.inf
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        return math.nan
    if count == scored:
        return -math.inf
    low, high = lowest, highest
    above_low, above_high = scored, 0
    for _ in range(_MOST_CUTS):
        width = high - low
        left = low + 0.7 * width * (above_low - count) / (above_low - above_high)
        middle, right = left + 0.15 * width, left + 0.3 * width
        above_left, above_middle, above_right = _above(scores, present, left, middle, right)
        if (above_left == count) | (above_middle == count) | (above_right == count):
            return left if above_left == count else (middle if above_middle == count else right)
        if above_right > count:
            low, above_low = right, above_right
        elif above_middle > count:
            low, above_low, high, above_high = middle, above_middle, right, above_right
        elif above_left > count:
            low, above_low, high, above_high = left, above_left, middle, above_middle
        else:
            high, above_high = left, above_left
    return math.nan


def _above(scores: Floats, present: Bools, left: float, middle: float, right: float) -> tuple[int, int, int]:
    """Return how many scores are above each of three numbers."""
    above_left = above_middle = above_right = 0
    for symbol in range(len(scores)):
        score, here = scores[symbol], present[symbol]
        above_left += here & (score > left)
        above_middle += here & (score > middle)
        above_right += here & (score > right)
    return above_left, above_middle, above_right
