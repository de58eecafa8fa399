"""The real parts on one machine: started, watched, restarted and stopped, without Docker or root.

``quantflow up`` is :func:`up`. A supervisor process starts every service under a guard of
its own, so that none of them outlives the stack; what runs where is told by the settings,
and a part whose address they give is not started here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantflow.stack.airflow import airflow_environment
    from quantflow.stack.control import ServiceStatus, StackStatus, down, follow_log, log_tail, reset, status, up
    from quantflow.stack.services import Service, local_services

__all__ = [
    "Service",
    "ServiceStatus",
    "StackStatus",
    "airflow_environment",
    "down",
    "follow_log",
    "local_services",
    "log_tail",
    "reset",
    "status",
    "up",
]

_HOMES = {"airflow_environment": "airflow", "Service": "services", "local_services": "services"}


def __getattr__(name: str) -> Any:
    # A server's start must not wait for the import of what only the command line needs.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'control')}"), name)
