"""Independent tasks on a few threads, stopped at the first error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

__all__ = ["Stopped", "run_all"]

Task = Callable[[], None]


class Stopped(Exception):
    """The caller cancelled; tasks are left."""


def run_all(
    tasks: Sequence[Task],
    threads: int,
    *,
    tick: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Run every task once, on the calling thread and ``threads - 1`` others.

    Tasks release the interpreter's lock where they spend their time. An error stops what has not begun
    and is raised when all threads are done: that of the first task in order that failed, on any number of
    threads, because tasks begin in order. So does an interrupt from the keyboard.

    Parameters
    ----------
    tick
        Called on the calling thread with the number of tasks done.
    cancelled
        Asked before each task; True stops with :class:`Stopped`.
    """
    state = _State(tasks, cancelled or (lambda: False))
    helpers = [threading.Thread(target=state.work, daemon=True) for _ in range(min(threads, len(tasks)) - 1)]
    for helper in helpers:
        helper.start()
    try:
        state.work(tick)
    finally:
        state.stop = True
        for helper in helpers:
            helper.join()
    if state.errors:
        raise min(state.errors, key=lambda pair: pair[0])[1]
    if state.done < len(tasks):
        raise Stopped
    if tick is not None:
        tick(state.done)


class _State:
    def __init__(self, tasks: Sequence[Task], cancelled: Callable[[], bool]) -> None:
        self._tasks = tasks
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._next = 0
        self.done = 0
        self.stop = False
        self.errors: list[tuple[int, Exception]] = []

    def work(self, tick: Callable[[int], None] | None = None) -> None:
        while not (self.stop or self._cancelled()):
            with self._lock:
                index = self._next
                self._next += 1
            if index >= len(self._tasks):
                return
            try:
                self._tasks[index]()
            except Exception as exc:  # noqa: BLE001 - raised again by run_all
                self.errors.append((index, exc))
                self.stop = True
                return
            with self._lock:
                self.done += 1
            if tick is not None:
                tick(self.done)
