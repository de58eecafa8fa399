"""How far a long computation is: a bar, a function that is told, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "ProgressOption"]

#: None or False for none, True for a bar, or a function of (done, total).
ProgressOption = bool | Callable[[int, int], None] | None


class Progress:
    """Tells someone, never backwards and each number once; a context manager."""

    def __init__(self, option: ProgressOption, total: int, *, noun: str = "combinations") -> None:
        self._told = option if callable(option) else None
        self._wanted = option is True
        self._total = total
        self._noun = noun
        self._bar: Bar | None = None
        self._done = -1

    def __enter__(self) -> Progress:
        if self._wanted:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(TextColumn(self._noun), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar.start()
            self._bar.add_task(self._noun, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, done: int) -> None:
        """Say that ``done`` are done."""
        if done <= self._done:
            return
        self._done = done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        if self._told is not None:
            self._told(done, self._total)
