"""A command group that imports a command only when it is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from quantflow.errors import QuantflowError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Command", "QuantflowGroup", "console", "error_console"]


@dataclass(frozen=True)
class Command:
    """Where a command is, and what the overview says about it.

    Parameters
    ----------
    module, attribute
        A function with Typer's annotations, or a ``typer.Typer`` with subcommands.
    help
        One line.
    panel
        Heading in the overview.
    """

    module: str
    attribute: str
    help: str
    panel: str

    def stub(self, name: str) -> TyperCommand:
        """Return what the overview needs, without importing the command."""
        return TyperCommand(name, help=self.help, rich_help_panel=self.panel)

    def load(self, name: str) -> Any:
        """Import the command and return it."""
        target = getattr(import_module(self.module), self.attribute)
        if not isinstance(target, typer.Typer):
            target = _single(name, target)
        command = typer.main.get_command(target)
        command.name = name
        return command


class QuantflowGroup(TyperGroup):
    """Shows a table of commands, and loads the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        from quantflow.cli import COMMANDS

        stubs: Any = {name: command.stub(name) for name, command in COMMANDS.items()}
        super().__init__(**{**attributes, "commands": stubs})

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments name, imported now."""
        from quantflow.cli import COMMANDS

        name, found, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            _quiet_logs()
            found = COMMANDS[name].load(name)
        return name, found, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; its errors on purpose become a message and exit status 1."""
        try:
            return super().invoke(ctx)
        except QuantflowError as exc:
            if os.environ.get("QUANTFLOW_LOG_LEVEL", "").lower() == "debug":
                raise
            error_console().print(f"[bold red]error:[/] {_escaped(str(exc))}", soft_wrap=True, highlight=False)
            raise typer.Exit(1) from None


def _quiet_logs() -> None:
    """Log to standard error, and only what a person at a terminal must know, unless asked for more."""
    from quantflow.telemetry import setup_logging

    setup_logging("cli", level=os.environ.get("QUANTFLOW_LOG_LEVEL", "warning").lower())


@cache
def console() -> Console:
    """Return the console for what was asked for (standard output)."""
    from rich.console import Console

    return Console()


@cache
def error_console() -> Console:
    """Return the console for errors (standard error)."""
    from rich.console import Console

    return Console(stderr=True)


def _single(name: str, function: Callable[..., Any]) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command(name)(function)
    return app


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
