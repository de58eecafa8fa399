"""``python -m quantflow.orchestration.live_service``: promoted signals on live market topics.

One thread per pipeline runs the signal of its active version. A promotion is noticed within
seconds: the old version's thread ends, the new one's starts. Code is loaded from the
registry's stored bytes only.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from quantflow.errors import QuantflowError
from quantflow.orchestration.loops import Loops, stop_on_signals
from quantflow.settings import Settings
from quantflow.telemetry import correlation, get_logger, setup_logging

if TYPE_CHECKING:
    from quantflow.events.log import EventLog
    from quantflow.promotion import Version

__all__ = ["LiveService", "main"]

log = get_logger(__name__)

SERVICE = "live"
POLL_S = 2.0
STOP_S = 10.0
#: A signal that raised will most likely raise again.
RESTART_S = 10.0

Run = Callable[["Version", threading.Event], None]


class LiveService:
    """Keeps one running thread per active version.

    Parameters
    ----------
    active
        Returns the active version of every pipeline.
    run
        Runs one version until the event is set.
    """

    def __init__(self, active: Callable[[], list[Version]], run: Run) -> None:
        self._active = active
        self._run = run
        self._running: dict[str, _Runner] = {}
        self._not_before: dict[str, float] = {}

    @property
    def running(self) -> Mapping[str, str]:
        """The version id that runs, by pipeline."""
        return {pipeline: runner.version.version_id for pipeline, runner in self._running.items() if runner.alive}

    def once(self) -> bool:
        """Bring what runs in line with what is active; threads that died are started again."""
        wanted = {version.pipeline: version for version in self._active()}
        for pipeline, runner in list(self._running.items()):
            active = wanted.get(pipeline)
            if active is None or active.version_id != runner.version.version_id or not runner.alive:
                # Two versions of one pipeline never run at once: each commits the same offsets.
                died = not runner.alive
                runner.stop(STOP_S)
                del self._running[pipeline]
                self._not_before[pipeline] = time.monotonic() + (RESTART_S if died else 0.0)
        for pipeline, version in wanted.items():
            if pipeline not in self._running and time.monotonic() >= self._not_before.get(pipeline, 0.0):
                self._running[pipeline] = _Runner(version, self._run)
        return False

    def close(self) -> None:
        """Stop every thread; each saves its state with its offsets first."""
        for runner in self._running.values():
            runner.ask_to_stop()
        for runner in self._running.values():
            runner.stop(STOP_S)


class _Runner:
    def __init__(self, version: Version, run: Run) -> None:
        self.version = version
        self._run = run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._body, name=f"live-{version.pipeline}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise QuantflowError(
                f"the live signal of {self.version.pipeline} version {self.version.number} did not stop within "
                f"{timeout_s:g} s; no other version of it is started beside it"
            )

    def _body(self) -> None:
        version = self.version
        with correlation(f"live-{version.pipeline}-{version.number}"):
            log.info("live signal starts", pipeline=version.pipeline, version_id=version.version_id)
            try:
                self._run(version, self._stop)
            except QuantflowError as exc:
                log.error("live signal stopped, it is started again", pipeline=version.pipeline, error=str(exc))
            except Exception:
                # A promoted signal is a user's code: whatever it raises, the other pipelines go on.
                log.exception("live signal raised, it is started again", pipeline=version.pipeline)
            else:
                log.info("live signal ended", pipeline=version.pipeline, version_id=version.version_id)


def run_version(settings: Settings, event_log: EventLog, version: Version, stop: threading.Event) -> None:
    """Run the signal of one version on the market topics of its contract until ``stop`` is set."""
    from quantflow.events.topics import Topics
    from quantflow.events.transport import LibrdkafkaTransport
    from quantflow.live import run_live
    from quantflow.promotion import Registry, bind_signal

    directory = Registry(event_log).materialise(version, settings.home / "versions")
    topics = Topics(settings.topic_prefix, max_event_bytes=settings.max_event_bytes)
    run_live(
        version.pipeline,
        version.version_id,
        bind_signal(directory, version.contract),
        LibrdkafkaTransport(settings.kafka),
        event_log,
        topics=sorted({topics.resolve(spec.topic) for spec in version.contract.inputs}),
        stop=stop,
    )


def main() -> int:
    """Serve until SIGTERM."""
    from quantflow.events.heartbeat import beating
    from quantflow.events.log import EventLog
    from quantflow.promotion import Registry

    settings = Settings.load()
    setup_logging(SERVICE, level=settings.log_level)
    stop = stop_on_signals()
    with EventLog.from_settings(settings, source="quantflow.live") as event_log, beating(event_log, SERVICE):
        service = LiveService(
            Registry(event_log).active, lambda version, end: run_version(settings, event_log, version, end)
        )
        loops = Loops(stop)
        loops.repeat("promotions", service.once, pause_s=POLL_S)
        stop.wait()
        loops.join(STOP_S)
        service.close()
    return 1 if loops.failed else 0


if __name__ == "__main__":
    sys.exit(main())
