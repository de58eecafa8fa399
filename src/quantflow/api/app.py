"""The application: settings in, an ASGI application out.

It starts without its dependencies and uses them as soon as they are there: nothing is
connected before it is needed, and a request that needs a missing part is answered 503.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

import quantflow
from quantflow.api import docs, problems
from quantflow.api.health import HealthBoard, checks_of
from quantflow.api.middleware import BodyLimit, Correlation, KeyRequired
from quantflow.api.routes import health_router, workflows_router
from quantflow.errors import QuantflowError, SettingsError
from quantflow.telemetry import get_logger

if TYPE_CHECKING:
    from quantflow.api.service import Parts
    from quantflow.settings import Settings

__all__ = ["build_parts", "create_app"]

log = get_logger(__name__)

DESCRIPTION = """\
Start runs of promoted pipelines and see what became of them.

A trigger is answered at once with a run id; the run itself goes through Kafka to its engine. Its status is
the fold of the events that the engines caused. Send the API key in `X-API-Key`. Errors are RFC 9457
problem documents."""

#: Largest request body: a request must fit into one event.
MAX_BODY_BYTES = 512 * 1024
BODY_TIMEOUT_S = 10.0
MIGRATE_RETRY_S = 1.0


def create_app(settings: Settings, *, parts: Parts | None = None) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    settings
        Names the broker, the database, Airflow, the language model and the API key.
    parts
        What the routes use; built from the settings if not given.

    Raises
    ------
    SettingsError
        There is no API key: an API that everybody may use is never started.
    """
    key = settings.api_key.get_secret_value()
    if not key:
        raise SettingsError("QUANTFLOW_API_KEY is empty. `quantflow up` generates one; elsewhere set it yourself")
    used = parts or build_parts(settings)
    app = FastAPI(
        title="quantflow",
        version=quantflow.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.parts = used
    app.state.ready = threading.Event()
    app.state.health = HealthBoard(checks_of(used))
    problems.install(app)
    docs.install(app)
    app.include_router(workflows_router)
    app.include_router(health_router)
    _describe_problem(app)
    # Added last means asked first: correlation, then the key, then the body.
    app.add_middleware(BodyLimit, max_bytes=min(MAX_BODY_BYTES, settings.max_event_bytes), timeout_s=BODY_TIMEOUT_S)
    app.add_middleware(KeyRequired, key=key, is_open=_is_open)
    app.add_middleware(Correlation)
    return app


def build_parts(settings: Settings) -> Parts:
    """Return the real parts that the settings name; none of them is connected yet."""
    import httpx

    from quantflow.api.service import Parts
    from quantflow.events.log import EventLog
    from quantflow.events.topics import Topics
    from quantflow.events.transport import LibrdkafkaTransport
    from quantflow.promotion import Registry

    # A caller waits no longer than this for a database that is away.
    event_log = EventLog(
        settings.database, source="quantflow.api", max_event_bytes=settings.max_event_bytes, timeout_s=3.0, pool_size=16
    )
    return Parts(
        settings=settings,
        log=event_log,
        transport=LibrdkafkaTransport(settings.kafka),
        topics=Topics(settings.topic_prefix, max_event_bytes=settings.max_event_bytes),
        promotions=Registry(event_log),
        http=httpx.Client(timeout=httpx.Timeout(2.0, connect=1.0)),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    stop = threading.Event()
    migration = threading.Thread(
        target=_migrate, args=(app.state.parts, app.state.ready, stop), name="migrate", daemon=True
    )
    migration.start()
    try:
        yield
    finally:
        stop.set()
        app.state.health.close()
        app.state.parts.http.close()
        app.state.parts.log.close()


def _migrate(parts: Parts, ready: threading.Event, stop: threading.Event) -> None:
    """Bring the database's tables up to date as soon as it answers."""
    waiting = False
    while not stop.is_set():
        try:
            parts.log.migrate()
        except QuantflowError as exc:
            if not waiting:
                log.warning("waiting for the event log", error=str(exc))
            waiting = True
            stop.wait(MIGRATE_RETRY_S)
        else:
            ready.set()
            log.info("event log is ready")
            return


def _is_open(path: str) -> bool:
    return path in (*docs.OPEN_PATHS, "/health", "/health/live") or path.startswith("/docs/assets/")


def _describe_problem(app: FastAPI) -> None:
    """Put the problem document's schema into the OpenAPI description, where responses refer to it."""
    original = app.openapi

    def openapi() -> dict[str, object]:
        schema = original()
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in schemas:
            described = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(described.pop("$defs", {}))
            schemas["Problem"] = described
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
