"""Bounded waiting for a condition, instead of sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_until"]

Found = TypeVar("Found")


def wait_until(
    condition: Callable[[], Found | None],
    timeout_s: float = 30.0,
    describe: str | Callable[[], object] = "the condition",
    *,
    interval_s: float = 0.05,
) -> Found:
    """Return the first truthy answer of ``condition``, asking again until then.

    Parameters
    ----------
    condition
        Called repeatedly; an exception that it raises goes to the caller at once.
    timeout_s
        Seconds after which to give up.
    describe
        What was waited for, or a function that says what is the case instead; called only
        for the error.
    interval_s
        Seconds between two calls.

    Raises
    ------
    TimeoutError
        The condition did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        if found := condition():
            return found
        if time.monotonic() >= deadline:
            what = describe() if callable(describe) else describe
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        pause.wait(interval_s)
