"""The services of the stack: what each needs, how it starts, and how one sees that it works."""

from __future__ import annotations

import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from quantflow.errors import LogUnavailableError, StackError
from quantflow.settings import Settings
from quantflow.stack.airflow import airflow_command, airflow_environment, airflow_health
from quantflow.stack.kafka import broker_answers
from quantflow.stack.postgres import database_answers

if TYPE_CHECKING:
    from quantflow.events.log import EventLog

__all__ = ["Service", "local_services", "select"]


@dataclass(frozen=True)
class Service:
    """One process that the supervisor keeps running, or one job that it runs once.

    Parameters
    ----------
    name, title
        For commands, and for people.
    command
        Its arguments; the interpreter included.
    healthy
        Called with the time of its start (Unix seconds): tells whether it works *since then*.
    needs
        Services that must be healthy, or jobs that must be done, before it starts.
    ports
        ``(setting, port)`` that it listens on.
    address
        Where a person finds it.
    once
        A job: done when it ends with 0.
    environment
        Variables on top of the supervisor's; may hold secrets.
    stop_signal, grace_s
        How it is asked to stop, and for how long.
    """

    name: str
    title: str
    command: tuple[str, ...]
    healthy: Callable[[float], bool]
    needs: tuple[str, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()
    address: str = ""
    once: bool = False
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    stop_signal: int = signal.SIGTERM
    grace_s: float = 10.0


def local_services(settings: Settings) -> dict[str, Service]:
    """Return the services that run here, each after what it needs.

    A part that a setting places elsewhere (``kafka_bootstrap``, ``database_url``,
    ``airflow_url``, ``llm_url``) is not among them.
    """
    found = [*_ground(settings), *_airflow(settings), *_quantflow(settings)]
    names = {service.name for service in found}
    return {service.name: _without(service, names) for service in found}


def select(services: dict[str, Service], only: Iterable[str] = ()) -> list[str]:
    """Return the named services and everything that they need, in order of start; all without names.

    Raises
    ------
    StackError
        A name is not one of the services that run here.
    """
    asked = [name.strip() for name in only if name.strip()]
    if unknown := [name for name in asked if name not in services]:
        known = ", ".join(services)
        raise StackError(
            f"unknown service {', '.join(map(repr, unknown))}; the services that run here are: {known}. "
            "A part whose address a setting gives does not run here."
        )
    wanted: set[str] = set()
    ahead = list(asked or services)
    while ahead:
        name = ahead.pop()
        if name not in wanted:
            wanted.add(name)
            ahead.extend(services[name].needs)
    return [name for name in services if name in wanted]


def _ground(settings: Settings) -> list[Service]:
    found = []
    if not settings.kafka_bootstrap:
        found.append(
            Service(
                name="kafka",
                title="Apache Kafka",
                command=_job("kafka"),
                healthy=lambda _started: broker_answers(settings.kafka),
                ports=(("kafka_port", settings.kafka_port), ("kafka_controller_port", settings.kafka_controller_port)),
                address=settings.kafka,
            )
        )
    # A local Airflow keeps its tables in the local PostgreSQL wherever the event log is.
    if not (settings.database_url.get_secret_value() and settings.airflow_url):
        found.append(
            Service(
                name="postgres",
                title="PostgreSQL",
                command=_job("postgres"),
                healthy=lambda _started: database_answers(settings.local_database("postgres")),
                ports=(("postgres_port", settings.postgres_port),),
                address=f"{settings.host}:{settings.postgres_port}",
                # Fast shutdown: end the sessions, write a checkpoint, go.
                stop_signal=signal.SIGINT,
            )
        )
    migrate = Service("migrate", "Event log's tables", _job("migrate"), _done, needs=("postgres",), once=True)
    topics = Service("topics", "Kafka topics", _job("topics"), _done, needs=("kafka",), once=True)
    return [*found, migrate, topics]


def _airflow(settings: Settings) -> list[Service]:
    if settings.airflow_url:
        return []
    environment = airflow_environment(settings)

    def part(name: str, title: str, report: str, needs: tuple[str, ...]) -> Service:
        # Task logs are read from the same disk; no server of them, open to the whole network, is needed.
        options = () if name == "dag-processor" else ("--skip-serve-logs",)
        return Service(
            name=f"airflow-{name}",
            title=title,
            command=tuple(airflow_command(name, *options)),
            healthy=lambda started: _beats(settings, report, started),
            needs=needs,
            environment=environment,
        )

    port = settings.airflow_port
    return [
        Service(
            name="airflow-migrate",
            title="Airflow's tables",
            command=_job("airflow-migrate"),
            healthy=_done,
            needs=("postgres",),
            environment=environment,
            once=True,
        ),
        Service(
            name="airflow-api-server",
            title="Airflow API and web UI",
            command=tuple(airflow_command("api-server")),
            healthy=lambda _started: airflow_health(settings).get("metadatabase", {}).get("status") == "healthy",
            needs=("airflow-migrate",),
            ports=(("airflow_port", port),),
            address=settings.airflow,
            environment=environment,
        ),
        part("scheduler", "Airflow scheduler", "scheduler", ("airflow-migrate",)),
        part("dag-processor", "Airflow DAG processor", "dag_processor", ("airflow-migrate", "migrate")),
        part("triggerer", "Airflow triggerer", "triggerer", ("airflow-migrate",)),
    ]


def _quantflow(settings: Settings) -> list[Service]:
    found = []
    if _embedded_llm_wanted(settings):
        found.append(
            Service(
                name="llm",
                title="Embedded language model",
                command=_module("quantflow.llm.embedded"),
                healthy=lambda _started: _http_answers(f"{settings.embedded_llm}/models"),
                ports=(("llm_port", settings.llm_port),),
                address=settings.embedded_llm,
            )
        )
    if not settings.api_url:
        found.append(
            Service(
                name="api",
                title="quantflow API",
                command=_module("quantflow.api"),
                # Itself, not what it depends on: those have rows of their own.
                healthy=lambda _started: _http_answers(f"{settings.api}/health/live"),
                needs=("migrate",),
                ports=(("api_port", settings.api_port),),
                address=settings.api,
            )
        )
    for name, title, module in (
        ("dispatcher", "Dispatcher", "quantflow.orchestration.dispatcher"),
        ("worker", "Workflow worker", "quantflow.orchestration.worker"),
        ("live", "Live signals", "quantflow.orchestration.live_service"),
    ):
        found.append(
            Service(
                name=name,
                title=title,
                command=_module(module),
                healthy=lambda started, name=name: _heartbeat(settings, name, started),  # type: ignore[misc]
                needs=("migrate", "topics"),
            )
        )
    return found


def _without(service: Service, names: set[str]) -> Service:
    kept = tuple(name for name in service.needs if name in names)
    return Service(**{**vars(service), "needs": kept})


def _job(name: str) -> tuple[str, ...]:
    return (*_module("quantflow.stack.jobs"), name)


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


def _done(_started: float) -> bool:
    """A job is judged by its exit status alone."""
    return False


def _embedded_llm_wanted(settings: Settings) -> bool:
    if settings.llm_url or settings.llm_backend in ("ollama", "none"):
        return False
    return settings.llm_backend == "embedded" or not _http_answers(f"{settings.ollama_url}/api/version", timeout_s=0.5)


def _http_answers(url: str, *, timeout_s: float = 2.0) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - an address of the settings
            return bool(answer.status < 400)
    except (OSError, ValueError):
        return False


def _beats(settings: Settings, part: str, started: float) -> bool:
    """Tell whether Airflow reports a part as healthy, by a heartbeat later than its start."""
    report = airflow_health(settings).get(part) or {}
    beat = report.get(f"latest_{part}_heartbeat")
    return report.get("status") == "healthy" and beat is not None and _unix(str(beat)) >= started


def _unix(moment: str) -> float:
    parsed = datetime.fromisoformat(moment)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _heartbeat(settings: Settings, service: str, started: float) -> bool:
    """Tell whether a service has given a sign of life, since its start and lately."""
    from quantflow.events.heartbeat import alive

    try:
        return alive(_event_log(settings.database), service, within_s=min(10.0, time.time() - started))
    except LogUnavailableError:
        return False


@cache
def _event_log(address: str) -> EventLog:
    from quantflow.events.log import EventLog

    return EventLog(address, pool_size=1, timeout_s=3.0)
