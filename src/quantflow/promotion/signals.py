"""What a contract's signal must be: of a known shape, within the contract's bounds, causal.

A signal of the incremental shapes sees one bar or timestamp at a time and cannot look ahead. A
column signal can; an estimator may draw other numbers each time. So these two are run on real
bars before a version of them is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from quantflow.errors import ParameterError, SignalError
from quantflow.promotion.contract import Contract

if TYPE_CHECKING:
    import polars as pl

    from quantflow.signals import Definition, Parameter

__all__ = ["signal_problems"]

#: Real bars with every column, inside an installed package: no network.
_SOURCE = "index"
_CHECKED_BARS = 260
_COLUMN_CUTS = 8
# Each cut of an estimator repeats all its fits.
_ESTIMATOR_CUTS = 2
_ESTIMATOR_REFITS = 2


def signal_problems(contract: Contract, signal: object) -> Iterator[str]:
    """Yield what is wrong with the object that a contract names as its signal.

    A column signal or estimator is checked for causality with the contract's default
    parameters, on real bars of two indexes.
    """
    from quantflow.signals import is_definition

    if not is_definition(signal):
        yield (
            f"signal: {contract.signal!r} is a {type(signal).__name__}; allowed: a function decorated with @signal, "
            "@cross_sectional, @column_signal or @estimator_signal"
        )
        return
    problems = list(_parameter_problems(contract, signal))
    yield from problems
    if not problems:
        values = {name: contract.parameters[name].default for name in signal.parameters}
        yield from _run_problems(contract, signal, values)


def _parameter_problems(contract: Contract, signal: Definition) -> Iterator[str]:
    for name, declared in signal.parameters.items():
        spec = contract.parameters.get(name)
        if spec is None:
            yield f"parameters.{name}: missing; the signal {signal.name!r} has it: {declared.allowed}"
        elif spec.type != declared.kind:
            yield f"parameters.{name}.type: received {spec.type!r}; the signal declares {declared.kind!r}"
        else:
            yield from _bound_problems(name, spec.low, spec.high, declared)
            yield from _value_problems(name, spec.default, declared)


def _bound_problems(name: str, low: float | None, high: float | None, declared: Parameter) -> Iterator[str]:
    if declared.low is not None and (low is None or low < declared.low):
        yield f"parameters.{name}.low: received {low}; the signal allows {declared.allowed}"
    if declared.high is not None and (high is None or high > declared.high):
        yield f"parameters.{name}.high: received {high}; the signal allows {declared.allowed}"


def _value_problems(name: str, value: object, declared: Parameter) -> Iterator[str]:
    try:
        declared.check(value)
    except ParameterError as exc:
        yield f"parameters.{name}.default: {exc}"


def _run_problems(contract: Contract, signal: Definition, values: Mapping[str, Any]) -> Iterator[str]:
    """Bind the signal as the contract's defaults say, and try it where its shape allows doubt."""
    from quantflow.signals import BoundColumnSignal, BoundEstimatorSignal, check_causality

    try:
        bound = signal.bind(**values)
        if isinstance(bound, BoundColumnSignal):
            bars, cuts = _real_bars(bound.warm_up, _CHECKED_BARS), _COLUMN_CUTS
        elif isinstance(bound, BoundEstimatorSignal):
            bars = _real_bars(bound.warm_up, _ESTIMATOR_REFITS * bound.schedule.refit_every + 1, symbols=("SP500",))
            cuts = _ESTIMATOR_CUTS
        else:
            yield from _universe_problems(contract, bound)
            return
        report = check_causality(bound, bars, cuts=cuts)
    except SignalError as exc:
        yield f"signal: {contract.signal!r} cannot be checked for causality: {exc}"
        return
    for divergence in report.divergences:
        yield f"signal: {contract.signal!r} is not causal: {divergence}"


def _universe_problems(contract: Contract, bound: Any) -> Iterator[str]:
    if bound.kind == "weights" and bound.symbols is None:
        yield (
            f"signal: {contract.signal!r} has no universe, so live it would not know for whom to wait; name it in the "
            "definition: @cross_sectional(symbols=[...])"
        )


def _real_bars(warm_up: int, checked: int, *, symbols: tuple[str, ...] | None = None) -> pl.DataFrame:
    from quantflow.data import get_source

    bars = get_source(_SOURCE).read(symbols, as_of=datetime(2100, 1, 1, tzinfo=UTC))
    taken = bars.group_by("symbol", maintain_order=True).tail(warm_up + checked)
    present = bars["timestamp"].n_unique()
    if warm_up + 1 >= present:
        raise SignalError(
            f"its warm-up is {warm_up:,} bars, and promotion has {present:,} real bars to check it on; lower the "
            "contract's defaults"
        )
    return taken
