"""Threads of a service: each repeats its work until the service stops, and survives failures."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from quantflow.errors import QuantflowError
from quantflow.telemetry import get_logger

__all__ = ["Loops", "stop_on_signals"]

log = get_logger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0


class Loops:
    """The threads of one service.

    Parameters
    ----------
    stop
        Ends every loop; set by a signal, or by a loop that died of something unexpected, so
        that the supervisor starts the whole service anew.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._threads: list[threading.Thread] = []
        self.failed = False

    def repeat(self, name: str, work: Callable[[], bool], *, pause_s: float) -> None:
        """Call ``work`` again and again; pause after each call that answers False.

        What :class:`~quantflow.errors.QuantflowError` it raises is logged once per kind of
        trouble, and the pause grows until it works again.
        """
        self._start(name, lambda: self._repeat(name, work, pause_s))

    def run(self, name: str, body: Callable[[threading.Event], None]) -> None:
        """Run ``body(stop)``, and again after a pause if it raises a QuantflowError."""

        def once() -> bool:
            body(self._stop)
            return False

        self._start(name, lambda: self._repeat(name, once, _FIRST_PAUSE_S))

    def join(self, timeout_s: float) -> bool:
        """Wait for every thread; return whether all ended in time."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, name: str, body: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                body()
            except BaseException:
                log.exception("loop died, the service ends", loop=name)
                self.failed = True
                self._stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _repeat(self, name: str, work: Callable[[], bool], pause_s: float) -> None:
        trouble: str | None = None
        retry_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                more = work()
            except QuantflowError as exc:
                if trouble != type(exc).__name__:
                    log.warning("waiting", loop=name, error=str(exc))
                trouble = type(exc).__name__
                self._stop.wait(retry_s)
                retry_s = min(retry_s * 2, _LONGEST_PAUSE_S)
                continue
            if trouble is not None:
                log.info("working again", loop=name)
            trouble, retry_s = None, _FIRST_PAUSE_S
            if not more:
                self._stop.wait(pause_s)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; call it in the main thread."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
