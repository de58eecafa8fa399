"""The ``quantflow`` command.

``quantflow --help`` answers at once, because no command's module is imported for it: the
table :data:`COMMANDS` has everything that the overview shows. To add a command, write a
function with Typer's annotations in a module of this package and add one line::

    "promote": Command("quantflow.cli.pipelines", "promote", "Register a version of a pipeline.", "Pipelines"),

The attribute is a function, or a ``typer.Typer`` for a group of subcommands. The module is
imported when its command is called (or its own ``--help``). A
:class:`~quantflow.errors.QuantflowError` that a command raises is printed as its message,
exit status 1; wrong usage is exit status 2; the traceback is shown where
``QUANTFLOW_LOG_LEVEL=debug``.
"""

from __future__ import annotations

from typing import Annotated

import typer

from quantflow.cli._commands import Command, QuantflowGroup, console, error_console

__all__ = ["COMMANDS", "Command", "app", "console", "error_console", "main"]

STACK = "The stack"
WORK = "From notebook to decision"

#: Every command, in the order of the overview.
COMMANDS: dict[str, Command] = {
    "doctor": Command("quantflow.cli.stack", "doctor", "Say what is missing here, and how to get it.", STACK),
    "up": Command("quantflow.cli.stack", "up", "Start broker, database, Airflow, API and workers.", STACK),
    "down": Command("quantflow.cli.stack", "down", "Stop everything; data stay.", STACK),
    "status": Command("quantflow.cli.stack", "status", "Show what runs, and how well.", STACK),
    "logs": Command("quantflow.cli.stack", "logs", "Show a service's log.", STACK),
    "reset": Command("quantflow.cli.stack", "reset", "Stop everything and delete all its data.", STACK),
    "demo": Command("quantflow.cli.demo", "demo", "Run the main job end to end on real parts.", WORK),
    "lab": Command("quantflow.cli.lab", "lab", "Open JupyterLab on the notebooks.", WORK),
    "replay": Command("quantflow.cli.data", "replay", "Replay price history into a market topic.", WORK),
    "parity": Command("quantflow.cli.parity", "parity", "Compare the live path with the backtest, bar by bar.", WORK),
    "promote": Command("quantflow.cli.pipelines", "promote", "Register a version of a pipeline.", WORK),
    "versions": Command("quantflow.cli.pipelines", "versions", "List the promoted versions.", WORK),
    "trigger": Command("quantflow.cli.runs", "trigger", "Ask for a run of a promoted pipeline.", WORK),
    "runs": Command("quantflow.cli.runs", "runs_app", "List runs, show one.", WORK),
    "approve": Command("quantflow.cli.pipelines", "approve", "Answer a run that waits for approval.", WORK),
    "events": Command("quantflow.cli.runs", "events_app", "Read and check the event log.", WORK),
}

app = typer.Typer(
    cls=QuantflowGroup,
    name="quantflow",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console().print(f"quantflow {version('quantflow-workbench')}", highlight=False)
        raise typer.Exit


@app.callback()
def quantflow(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Prototype signals in Jupyter, promote them with one command, run them on Kafka.

    `quantflow doctor` says what this machine lacks, `quantflow up` starts everything.
    """


def main() -> None:
    """Run the command line; the ``quantflow`` program."""
    app(prog_name="quantflow")
