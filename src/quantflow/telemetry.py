"""Structured logs with correlation ids, and W3C trace context.

Log events are key-value facts, one JSON object a line on standard error. Whatever is
bound with :func:`correlation` is on every line that follows in the same context, and
travels with events (``correlationid``, ``traceparent``), so one id leads through API,
broker, Airflow and graph.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog

__all__ = [
    "correlation",
    "current_correlation",
    "current_traceparent",
    "get_logger",
    "new_traceparent",
    "setup_logging",
]

_correlation_id: ContextVar[str | None] = ContextVar("quantflow_correlation_id", default=None)
_traceparent: ContextVar[str | None] = ContextVar("quantflow_traceparent", default=None)

_SECRET_NAME = re.compile(r"password|secret|api_?key|token|authorization|fernet|dsn|database_url", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]+:)[^@\s]+@")


def setup_logging(service: str, *, level: str = "info") -> None:
    """Send this process's logs, foreign libraries' included, to standard error as JSON lines."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_context(service),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger; call it as ``log.info("run accepted", run_id=run_id)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def correlation(correlation_id: str, traceparent: str | None = None) -> Iterator[None]:
    """Bind a correlation id, and a trace context, to everything done inside."""
    id_token = _correlation_id.set(correlation_id)
    trace_token = _traceparent.set(traceparent or _traceparent.get() or new_traceparent())
    try:
        yield
    finally:
        _correlation_id.reset(id_token)
        _traceparent.reset(trace_token)


def current_correlation() -> str | None:
    """Return the bound correlation id, if any."""
    return _correlation_id.get()


def current_traceparent() -> str | None:
    """Return the bound W3C ``traceparent``, if any."""
    return _traceparent.get()


def new_traceparent() -> str:
    """Return a fresh sampled W3C ``traceparent``."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _add_context(service: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        event.setdefault("service", service)
        if (bound := _correlation_id.get()) is not None:
            event.setdefault("correlation_id", bound)
        if (trace := _traceparent.get()) is not None:
            event.setdefault("trace_id", trace.split("-")[1])
        return event

    return add


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    for key, value in event.items():
        if _SECRET_NAME.search(key):
            event[key] = "***"
        elif isinstance(value, str) and "://" in value:
            event[key] = _URL_PASSWORD.sub(r"\1***@", value)
    return event
