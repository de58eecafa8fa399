"""``quantflow doctor | up | down | status | logs | reset``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from quantflow.cli._commands import console
from quantflow.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from quantflow.stack import ServiceStatus, StackStatus

__all__ = ["doctor", "down", "logs", "reset", "start", "status", "up"]

_STYLES = {
    "healthy": "green",
    "done": "green",
    "starting": "yellow",
    "waiting": "dim",
    "unhealthy": "red",
    "restarting": "red",
    "stopping": "yellow",
    "stopped": "dim",
}


def doctor() -> None:
    """Say what is missing here, and how to get it.

    Exit status 1 if something is missing that the local stack cannot do without.
    """
    from rich.table import Table

    from quantflow.stack.doctor import examine

    findings = examine(Settings.load())
    table = Table(box=None, show_header=False, pad_edge=False)
    signs = {"ok": "[green]ok[/]", "optional": "[yellow]optional[/]", "missing": "[bold red]missing[/]"}
    for finding in findings:
        table.add_row(signs[finding.verdict], finding.subject, finding.found)
        if finding.remedy:
            table.add_row("", "", f"[dim]{finding.remedy}[/]")
    console().print(table)
    missing = [finding.subject for finding in findings if finding.verdict == "missing"]
    if missing:
        console().print(f"\n[bold red]missing:[/] {', '.join(missing)}")
        raise typer.Exit(1)
    console().print("\n[green]everything that `quantflow up` needs is here[/]")


def up(
    only: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Start these services and what they need, nothing else.")
    ] = "",
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Give up waiting after so long.")
    ] = 300.0,
) -> None:
    """Start broker, database, Airflow, API and workers; what runs already is left alone.

    Each service is started when what it needs is healthy. Data are kept in QUANTFLOW_HOME
    (default: .quantflow), passwords are generated there at the first start.
    """
    start(Settings.load(), only=only.split(",") if only else (), timeout_s=timeout_s)


def start(settings: Settings, *, only: Sequence[str] = (), timeout_s: float = 300.0) -> StackStatus:
    """Start the stack (or ``only`` some services), show how it goes, and return what runs."""
    from quantflow import stack

    begun = time.monotonic()
    if console().is_terminal:
        from rich.live import Live

        with Live(console=console(), refresh_per_second=8, transient=True) as live:

            def show(current: StackStatus) -> None:
                live.update(_starting_table(current, time.monotonic() - begun))

            started = stack.up(settings, only, timeout_s=timeout_s, on_progress=show)
    else:
        started = stack.up(settings, only, timeout_s=timeout_s, on_progress=_Lines(begun).show)
    _print_addresses(settings, started, time.monotonic() - begun)
    return started


def down() -> None:
    """Stop everything, dependents first; data stay."""
    from quantflow import stack

    killed = stack.down(Settings.load())
    console().print("stopped" if not killed else f"stopped; {killed} process(es) had to be killed")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Show what runs, and how well. Exit status 3 if something that should run does not."""
    from quantflow import stack

    current = stack.status(Settings.load())
    if as_json:
        services = [asdict(service) | {"ready": service.ready} for service in current.services]
        facts = {"home": str(current.home), "supervisor": current.supervisor, "ready": current.ready}
        # Not through Rich, which would wrap and colour it.
        typer.echo(json.dumps(facts | {"services": services}, indent=2))
    else:
        # Names and addresses are copied by people: never cut, a narrow terminal wraps the line.
        console().print(_status_table(current), width=max(console().width, 100), crop=False)
    if not current.ready:
        raise typer.Exit(3)


def logs(
    service: Annotated[str, typer.Argument(help="A service's name, as `quantflow status` shows it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="So many of the last lines.")] = 50,
) -> None:
    """Show a service's log (also: supervisor)."""
    from quantflow import stack

    settings = Settings.load()
    typer.echo(stack.log_tail(settings, service, lines))
    if follow:
        try:
            for text in stack.follow_log(settings, service):
                typer.echo(text, nl=False)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop everything and delete all its data: topics, event log, versions, runs, passwords."""
    from quantflow import stack

    settings = Settings.load()
    if not yes:
        typer.confirm(f"Delete all data in {settings.home}? There is no way back.", abort=True)
    stack.reset(settings)
    console().print(f"deleted: the data in {settings.home}", highlight=False, soft_wrap=True)


class _Lines:
    """Progress where there is no terminal: one line whenever a service gets on."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self._shown: dict[str, str] = {}

    def show(self, current: StackStatus) -> None:
        for service in current.services:
            if service.phase != self._shown.get(service.name) and service.phase != "waiting":
                self._shown[service.name] = service.phase
                elapsed = time.monotonic() - self._begun
                last = f" ({service.last_exit})" if service.phase == "restarting" else ""
                console().print(f"{elapsed:6.1f} s  {service.name}: {service.phase}{last}", highlight=False)


def _starting_table(current: StackStatus, elapsed_s: float) -> Table:
    from rich.table import Table

    ready = sum(service.ready for service in current.services)
    table = Table(box=None, pad_edge=False, title=f"{ready}/{len(current.services)} ready, {elapsed_s:.0f} s")
    for heading in ("", "service", "state", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for service in current.services:
        seconds = service.took_s if service.took_s is not None else service.uptime_s
        sign = "[green]✓[/]" if service.ready else " "
        table.add_row(sign, service.title, _phase(service), f"{seconds:.1f}" if seconds is not None else "")
    return table


def _status_table(current: StackStatus) -> Table:
    from rich.table import Table

    memory = sum(service.memory_bytes for service in current.services)
    supervisor = f"supervisor {current.supervisor}" if current.supervisor else "not running"
    table = Table(box=None, pad_edge=False, title=f"{supervisor}, {memory / 2**20:.0f} MiB", title_justify="left")
    for heading in ("service", "state", "pid", "uptime", "restarts", "MiB", "address"):
        right = heading in ("pid", "uptime", "restarts", "MiB")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for service in current.services:
        table.add_row(
            service.name,
            _phase(service),
            str(service.pid or ""),
            _duration(service.uptime_s),
            f"{service.restarts} ({service.last_exit})" if service.restarts else "0",
            f"{service.memory_bytes / 2**20:.0f}" if service.memory_bytes else "",
            service.address,
        )
    return table


def _phase(service: ServiceStatus) -> str:
    return f"[{_STYLES.get(service.phase, 'white')}]{service.phase}[/]"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _print_addresses(settings: Settings, current: StackStatus, elapsed_s: float) -> None:
    memory = sum(service.memory_bytes for service in current.services)
    lines = [f"[green]ready[/] after {elapsed_s:.1f} s, {memory / 2**20:.0f} MiB of memory"]
    lines += [f"  {service.title}: {service.address}" for service in current.services if service.address]
    if any(service.name == "api" for service in current.services):
        lines.append(f"  API documentation: {settings.api}/docs")
    lines.append(f"  keys and passwords: {settings.home / 'secrets.env'}")
    console().print("\n".join(lines), highlight=False, soft_wrap=True)
