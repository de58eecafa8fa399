"""Is each part that the API depends on alive? Asked in parallel, each with a time limit.

Policy: Kafka and PostgreSQL are required, because without them no run can be accepted:
``unavailable``, HTTP 503. Any other part that is down makes accepted runs wait, or end in
HOLD: ``degraded``, HTTP 200, so that a load balancer keeps sending requests here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING

import quantflow
from quantflow.api.models import DependencyHealth, Health
from quantflow.errors import QuantflowError

if TYPE_CHECKING:
    from quantflow.api.service import Parts

__all__ = ["Check", "HealthBoard", "checks_of"]

#: A check answers a detail, or ``None``; it raises if its part is down.
Probe = Callable[[], str | None]


class _Disabled(Exception):
    """The part is switched off by the settings."""


@dataclass(frozen=True)
class Check:
    """How one part is asked, and whether runs can be accepted without it."""

    probe: Probe
    required: bool = False


class HealthBoard:
    """The latest health, at most ``keep_s`` seconds old.

    Parameters
    ----------
    checks
        One per dependency.
    timeout_s
        A part that has not answered by then is down; a hanging probe holds its own thread only.
    keep_s
        Callers within so many seconds get the same answer, so that nobody can load the
        parts by asking.
    """

    def __init__(self, checks: Mapping[str, Check], *, timeout_s: float = 2.0, keep_s: float = 0.5) -> None:
        self._checks = dict(checks)
        self._timeout_s = timeout_s
        self._keep_s = keep_s
        self._lock = Lock()
        self._latest: tuple[float, Health] | None = None
        self._pool = ThreadPoolExecutor(max_workers=2 * max(len(self._checks), 1), thread_name_prefix="health")
        self._running: dict[str, Future[DependencyHealth]] = {}

    def close(self) -> None:
        """Start no more probes; those that hang end with their own time limits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> Health:
        """Return the health of every dependency."""
        with self._lock:
            if self._latest is not None and time.monotonic() - self._latest[0] < self._keep_s:
                return self._latest[1]
            health = self._ask()
            self._latest = (time.monotonic(), health)
            return health

    def _ask(self) -> Health:
        for name, check in self._checks.items():
            # A probe that still hangs from last time is waited for, not started a second time.
            if name not in self._running or self._running[name].done():
                self._running[name] = self._pool.submit(_probe, check)
        deadline = time.monotonic() + self._timeout_s
        found = {name: self._collect(name, check, deadline) for name, check in self._checks.items()}
        if any(part.required and part.status == "down" for part in found.values()):
            overall = "unavailable"
        else:
            overall = "degraded" if any(part.status == "down" for part in found.values()) else "ok"
        return Health.model_validate(
            {
                "status": overall,
                "dependencies": found,
                "checked_at": datetime.now(UTC),
                "version": quantflow.__version__,
            }
        )

    def _collect(self, name: str, check: Check, deadline: float) -> DependencyHealth:
        try:
            return self._running[name].result(timeout=max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError:
            detail = f"no answer within {self._timeout_s:g} s"
            return DependencyHealth(status="down", required=check.required, detail=detail)


def _probe(check: Check) -> DependencyHealth:
    started = time.perf_counter()
    try:
        detail = check.probe()
    except _Disabled as exc:
        return DependencyHealth(status="disabled", required=check.required, detail=str(exc))
    except QuantflowError as exc:
        return DependencyHealth(status="down", required=check.required, detail=str(exc))
    except Exception as exc:  # noqa: BLE001 - whatever a probe dies of, its part is not usable
        return DependencyHealth(status="down", required=check.required, detail=f"{type(exc).__name__}: {exc}")
    milliseconds = round((time.perf_counter() - started) * 1e3, 1)
    return DependencyHealth(status="up", required=check.required, detail=detail, latency_ms=milliseconds)


def checks_of(parts: Parts) -> dict[str, Check]:
    """Return how each dependency of the API is asked."""
    checks = {
        "kafka": Check(parts.ping_broker, required=True),
        "postgres": Check(parts.ping_log, required=True),
        "airflow": Check(lambda: _airflow(parts)),
        "language_model": Check(lambda: _language_model(parts)),
    }
    for service in ("dispatcher", "worker", "live"):
        checks[service] = Check(lambda service=service: _heartbeat(parts, service))  # type: ignore[misc]
    return checks


def _airflow(parts: Parts) -> str | None:
    answer = parts.http.get(f"{parts.settings.airflow}/api/v2/monitor/health")
    answer.raise_for_status()
    found = {name: (part or {}).get("status") for name, part in answer.json().items() if part}
    sick = {name: status for name, status in found.items() if status not in ("healthy", None)}
    if sick:
        raise QuantflowError(", ".join(f"{name} is {status}" for name, status in sick.items()))
    return None


def _language_model(parts: Parts) -> str | None:
    settings = parts.settings
    if settings.llm_backend == "none":
        raise _Disabled("QUANTFLOW_LLM_BACKEND is none: every proposal is HOLD")
    if settings.llm_backend in ("auto", "ollama"):
        try:
            parts.http.get(f"{settings.ollama_url.rstrip('/')}/api/version").raise_for_status()
        except Exception:
            if settings.llm_backend == "ollama":
                raise
        else:
            return "ollama"
    parts.http.get(f"{settings.embedded_llm}/models").raise_for_status()
    return "embedded"


def _heartbeat(parts: Parts, service: str) -> str | None:
    if not parts.service_alive(service, within_s=10.0):
        raise QuantflowError("no heartbeat within 10 s. See: quantflow status")
    return None
