"""``quantflow parity``: does the live path repeat the backtest?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quantflow.cli._common import console, parse_parameters, print_json, say

if TYPE_CHECKING:
    import polars as pl

    from quantflow.live import ParityReport

__all__ = ["DIVERGED", "parity"]

#: Exit status of a run that found a divergence; 1 is an error, 2 wrong usage.
DIVERGED = 3

# Spelled out, because importing the backtest's would load numpy for `--help`.
Fill = Literal["next_open", "next_close", "same_close"]


def parity(
    signal: Annotated[str, typer.Argument(help="A contract, pipelines/x.toml, or a signal, path/to/module.py:name.")],
    start: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First session.")],
    end: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last session.")],
    source: Annotated[str, typer.Option(help="Market data source, such as sp500 or index.")] = "sp500",
    symbols: Annotated[
        list[str] | None, typer.Option(help="Only these symbols, separated by commas; may be repeated.")
    ] = None,
    fill: Annotated[
        Fill | None, typer.Option(help="Price of a fill; next_open where the source has opens, else next_close.")
    ] = None,
    fee_bps: Annotated[float | None, typer.Option(help="Fee in basis points; the contract's, otherwise 0.")] = None,
    slippage_bps: Annotated[
        float | None, typer.Option(help="Slippage in basis points; the contract's, otherwise 0.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value of a parameter; may be repeated.")
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Parquet of the bars that a live side saw, in the order of their arrival.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Replay history bar by bar through the live path and compare it with the backtest.

    Exit status 0: no divergence. 3: there is one, and the first is shown: bar, field and cause.
    """
    from quantflow.data import get_source
    from quantflow.live import parity as compare
    from quantflow.live import records_of

    decider, given = _bound(signal, parse_parameters(parameter or []))
    wanted = [name for each in symbols or [] for name in each.split(",") if name] or None
    bars = get_source(source).read(wanted, start=start.date(), end=end.date(), as_of=datetime.now(UTC))
    report = compare(
        decider,
        bars,
        records=None if recorded is None else records_of(_recorded(recorded)),
        fill=fill or ("next_open" if bars["open"].is_not_null().all() else "next_close"),
        fee_bps=given.get("fee_bps", 0.0) if fee_bps is None else fee_bps,
        slippage_bps=given.get("slippage_bps", 0.0) if slippage_bps is None else slippage_bps,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    if not report.agrees:
        raise typer.Exit(DIVERGED)


def _bound(reference: str, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the signal bound to its parameters, and all parameters of its contract."""
    from quantflow.errors import ContractError
    from quantflow.notebooks.code import Code, load_reference
    from quantflow.promotion.contract import parse_contract

    path_text, _, name = reference.rpartition(":")
    if reference.endswith(".toml"):
        path = Path(reference)
        contract = parse_contract(_read(path), path=reference)
        values = contract.resolve_parameters(given)
        code = Code.from_directory(path.parent, notebook=_read(path.parent / contract.notebook))
        definition = code.load(contract.signal)
        return definition.bind(**{each: values[each] for each in definition.parameters if each in values}), values
    path = Path(path_text)
    if path.suffix != ".py" or not name.isidentifier():
        raise ContractError(
            reference, ["is neither a contract, pipelines/x.toml, nor a signal, path/to/module.py:name"]
        )
    _read(path)
    definition = load_reference(path.parent, f"{path.stem}:{name}")
    if not hasattr(definition, "bind"):
        raise ContractError(
            reference, [f"names a {type(definition).__name__}; allowed: a signal, such as a function under @signal"]
        )
    return definition.bind(**given), {}


def _read(path: Path) -> bytes:
    from quantflow.errors import ContractError

    try:
        return path.read_bytes()
    except OSError as exc:
        raise ContractError(str(path), [f"cannot be read: {exc.strerror}"]) from exc


def _recorded(path: Path) -> pl.DataFrame:
    import polars as pl

    from quantflow.errors import DataError

    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as exc:
        raise DataError(f"{path} is no Parquet file of bars: {exc}") from exc


def _show(report: ParityReport) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False)
    how = "bit for bit" if report.tolerance == 0.0 else f"to {report.tolerance:g}"
    parameters = ", ".join(f"{name}={value}" for name, value in report.parameters.items())
    symbols = ", ".join(report.symbols[:8]) + (
        f" and {len(report.symbols) - 8} more" if len(report.symbols) > 8 else ""
    )
    table.add_row("signal", f"{report.signal}({parameters})")
    table.add_row("bars", f"{report.bars:,} of {symbols}, {report.first_session} to {report.last_session}")
    costs = f"fee {report.options['fee_bps']:g} bps, slippage {report.options['slippage_bps']:g} bps"
    table.add_row("execution", f"{report.options['fill']}, {costs}")
    equal = ", ".join(f"{count:,} {kind}" for kind, count in report.compared.items())
    table.add_row("equal", f"{equal}, {how}; {_times(report.restarts)} restarted from its saved state")
    for label, count in (("refused", len(report.refused)), ("passed by", report.skipped)):
        if count:
            table.add_row(label, f"{count:,} records")
    console().print(table, highlight=False)
    first = report.divergence
    if first is None:
        say("[bold green]no divergence[/]: the live path repeats the backtest")
        return
    say(
        f"[bold red]first divergence[/]: {first.symbol or 'account'}, {first.timestamp:%Y-%m-%d %H:%M}Z, "
        f"[bold]{first.field}[/]: backtest {first.backtest}, live {first.live}"
    )
    console().print(f"cause: {first.cause}", highlight=False, soft_wrap=True, markup=False)


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")
