"""What the commands share: settings, terminals, and the event log. Cheap to import."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from quantflow.cli._commands import console, error_console

if TYPE_CHECKING:
    from quantflow.events.log import EventLog
    from quantflow.settings import Settings

__all__ = ["console", "error_console", "event_log", "load_settings", "parse_parameters", "print_json", "say"]


def load_settings(**values: Any) -> Settings:
    """Return the settings of this command."""
    from quantflow.settings import Settings

    return Settings.load(**values)


def say(text: object, **options: Any) -> None:
    """Write one line or table to standard output; a line is never wrapped or coloured by its content."""
    console().print(text, highlight=False, soft_wrap=isinstance(text, str), **options)


def event_log(settings: Settings) -> EventLog:
    """Return the event log that these settings name; it connects at the first use."""
    from quantflow.events.log import EventLog

    return EventLog(settings.database)


def print_json(value: Any) -> None:
    """Write one JSON document to standard output, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
    """Return ``name=value`` pairs as a mapping; a value that is JSON is read as JSON.

    Raises
    ------
    ParameterError
        A pair without ``=``, or a name that is no identifier.
    """
    from quantflow.errors import ParameterError

    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ParameterError(
                f"parameter {pair!r} is not NAME=VALUE with an identifier as name, such as lookback=126"
            )
        try:
            parameters[name] = json.loads(text)
        except json.JSONDecodeError:
            parameters[name] = text
    return parameters
