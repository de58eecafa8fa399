"""Waiting longer after each failure in a row."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Delays that double from ``first_s`` up to ``most_s``, each shortened by up to a half at random."""

    def __init__(self, first_s: float = 0.2, most_s: float = 5.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next(self) -> float:
        """Return the seconds to wait now."""
        delay_s = self._next_s
        self._next_s = min(self._most_s, delay_s * 2)
        return delay_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start over: something worked."""
        self._next_s = self._first_s
