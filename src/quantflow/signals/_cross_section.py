"""Cross-sectional signals: all symbols of one timestamp in, target weights out."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from quantflow.errors import SignalError
from quantflow.signals import _cross_compile
from quantflow.signals._cross_bound import BoundCrossSection
from quantflow.signals._cross_run import Shared, is_each
from quantflow.signals._identity import definition_identity
from quantflow.signals._indicator import SlotSpec
from quantflow.signals._panel import checked_symbols
from quantflow.signals._parameters import Parameter, Value, check_values, named
from quantflow.signals._reach import fingerprint
from quantflow.signals._signal import BAR_COLUMNS

if TYPE_CHECKING:
    from quantflow.signals._cross_batch import CrossSectionBatch

__all__ = ["BoundCrossSection", "CrossSection", "Missing", "cross_sectional", "shared"]

#: What becomes of the target weight of a symbol that has no bar at a timestamp.
Missing = Literal["hold", "flat", "refuse"]

_FOR_EVER = 2**62
_RESERVED = ("uncompiled", "symbols")


def shared(slot: Any) -> Any:
    """Declare one slot for the whole cross-section instead of one a symbol: ``clock=shared(memory())``.

    Inside the signal it is the slot itself, not indexed by symbol: ``clock[0] += 1.0``. Its
    warm-up counts timestamps.
    """
    if not isinstance(slot, SlotSpec):
        raise SignalError(f"shared is given {slot!r}; allowed: a slot, shared(sma.over(20)) or shared(memory())")
    return Shared(slot.label, slot.starter, slot.warm_up, slot.arguments)


def cross_sectional(
    *,
    columns: Sequence[str] = ("close",),
    symbols: Sequence[str] | None = None,
    missing: Missing = "hold",
    hold_bars: int | None = None,
    grace_s: float | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., None]], CrossSection]:
    """Make a cross-sectional signal of a plain function that writes target weights.

    The function's first argument is the timestamp's bars: ``bars.close[i]`` for each of
    ``columns``, NaN where symbol ``i`` has no bar, and ``bars.present[i]``. Its second is
    ``weights``, float64[N], fractions of equity: it arrives holding the targets of the timestamp
    before (0.0 at first) and leaves holding the new ones; what is not written stays. The
    others are parameters, and slots indexed by symbol::

        @cross_sectional(columns=("close",))
        def strongest(
            bars,
            weights,
            trend=momentum.over("lookback"),
            lookback=param(126, low=2, high=2520, doc="bars"),
            fraction=param(0.1, low=0.01, high=0.5, doc="of the universe, on each side"),
        ):
            for i in range(len(weights)):
                weights[i] = momentum(trend[i], bars.close[i])  # NaN: no bar, or not warm yet
            long_short(weights, bars.present, fraction, 1.0)

    Indicators answer NaN to NaN and keep their slot as it is, and the helpers of
    :mod:`quantflow.signals.weights` leave out what is NaN, so absent symbols need no ``if``.

    *Missing symbols.* Whatever the function writes for a symbol without a bar is replaced:
    ``"hold"`` keeps the symbol's last target (for at most ``hold_bars`` timestamps in a row,
    if given, then 0.0), ``"flat"`` makes it 0.0 at once, ``"refuse"`` is an error that names
    the symbol. Before a symbol's first bar its target is 0.0.

    *Late symbols.* A live cross-section is decided once, when every symbol has its bar or
    cannot have it any more (see :class:`quantflow.live.LiveCrossSection`). A bar that comes
    afterwards is recorded as late; it changes no decision and no indicator.

    *Warm-up.* A symbol's target is 0.0 during its first ``warm_up`` bars.

    Parameters
    ----------
    columns
        The bar columns that it reads.
    symbols
        The universe, if it belongs to the definition (pairs, live signals). Otherwise it is
        bound later, or taken from the bars that are evaluated.
    missing, hold_bars
        The policy for symbols without a bar.
    grace_s
        Live: seconds to wait for the rest of a timestamp once everything published was read.
        ``None``: as long as it takes.
    name
        Its name; the function's by default.

    Raises
    ------
    SignalError
        An option or the function's signature is not as above.
    """

    def decorate(definition: Callable[..., None]) -> CrossSection:
        return CrossSection(
            definition,
            columns=columns,
            symbols=symbols,
            missing=missing,
            hold_bars=hold_bars,
            grace_s=grace_s,
            name=name,
        )

    return decorate


class CrossSection:
    """A cross-sectional signal's definition: bind parameter values to use it.

    Attributes
    ----------
    kind
        ``"weights"``: it answers fractions of the portfolio's equity, not of a symbol's slot.
    name, definition, columns, parameters
        As of :class:`~quantflow.signals.Signal`.
    symbols, missing, hold_bars, grace_s
        As of :func:`cross_sectional`.
    """

    kind: Literal["weights"] = "weights"

    def __init__(
        self,
        definition: Callable[..., None],
        *,
        columns: Sequence[str] = ("close",),
        symbols: Sequence[str] | None = None,
        missing: Missing = "hold",
        hold_bars: int | None = None,
        grace_s: float | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(definition, types.FunctionType):
            raise SignalError(f"a cross-sectional signal is made of a plain function, not of {definition!r}")
        self.definition = definition
        self.name = name or definition.__name__
        self.__name__ = self.name
        self.__doc__ = definition.__doc__
        self.__module__ = definition.__module__
        self.columns = _checked_columns(self.name, columns)
        self.symbols = None if symbols is None else checked_symbols(f"signal {self.name!r}", symbols)
        _check_policy(self.name, missing, hold_bars, grace_s)
        self.missing = missing
        self.hold_bars = hold_bars
        self.grace_s = grace_s
        self.parameters, self._slots, self._arguments = _read_signature(self.name, definition)
        self._loops: dict[bool, Callable[..., int]] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<cross-sectional signal {self.name}({', '.join(self.parameters)}) on {', '.join(self.columns)}>"

    def bind(
        self, *, uncompiled: bool = False, symbols: Sequence[str] | None = None, **values: Value
    ) -> BoundCrossSection:
        """Return the signal with these parameter values, defaults for the others.

        Parameters
        ----------
        uncompiled
            Run as plain Python, slowly, so that a debugger can step through it. Results
            agree with compiled ones to 1e-9.
        symbols
            The universe; the definition's, if it has one, by default.

        Raises
        ------
        ParameterError
            Names every parameter that is unknown, mistyped or out of range.
        SignalError
            The universe is empty or names a symbol twice.
        """
        checked = check_values(f"signal {self.name!r}", self.parameters, values)
        universe = self.symbols if symbols is None else checked_symbols(f"signal {self.name!r}", symbols)
        return BoundCrossSection(self, checked, symbols=universe, uncompiled=uncompiled)

    def batch(self, values: Mapping[str, npt.ArrayLike]) -> CrossSectionBatch:
        """Return the signal with many combinations of parameter values, for sweeps.

        Parameters
        ----------
        values
            By parameter, a 1-D array with a value for each combination, or one value for all;
            defaults for parameters left out. Everything is checked here, at once.

        Raises
        ------
        ParameterError
            Names the parameter, its value and the combination.
        """
        from quantflow.signals._cross_batch import CrossSectionBatch

        return CrossSectionBatch(self, values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides: the function, all that it reaches, and its signature's slots and defaults."""
        return definition_identity(fingerprint(self.definition), self.columns, self._slots, self.parameters)

    @property
    def hold(self) -> int:
        """Timestamps in a row for which a symbol without a bar keeps its target."""
        if self.missing == "hold":
            return _FOR_EVER if self.hold_bars is None else self.hold_bars
        return 0

    def _loop(self, *, compiled: bool) -> Callable[..., int]:
        with self._lock:
            if compiled not in self._loops:
                self._loops[compiled] = _cross_compile.build_loop(
                    self.name, self.definition, self._arguments, self.columns, compiled=compiled
                )
            return self._loops[compiled]


def _checked_columns(name: str, columns: Sequence[str]) -> tuple[str, ...]:
    given = (columns,) if isinstance(columns, str) else tuple(columns)
    unknown = [column for column in given if column not in BAR_COLUMNS]
    if unknown or not given or len(set(given)) != len(given):
        raise SignalError(f"signal {name!r}: columns are {given}; allowed: some of {', '.join(BAR_COLUMNS)}, each once")
    return given


def _check_policy(name: str, missing: str, hold_bars: int | None, grace_s: float | None) -> None:
    if missing not in ("hold", "flat", "refuse"):
        raise SignalError(f"signal {name!r}: missing is {missing!r}; allowed: 'hold', 'flat' or 'refuse'")
    whole = isinstance(hold_bars, int) and not isinstance(hold_bars, bool) and hold_bars >= 0
    if hold_bars is not None and (missing != "hold" or not whole):
        raise SignalError(
            f"signal {name!r}: hold_bars is {hold_bars!r} with missing={missing!r}; allowed: a whole number of "
            "timestamps, at least 0, with missing='hold'"
        )
    if grace_s is not None and not (math.isfinite(grace_s) and grace_s >= 0.0):
        raise SignalError(f"signal {name!r}: grace_s is {grace_s!r}; allowed: seconds, at least 0, or None")


def _read_signature(
    name: str, definition: types.FunctionType
) -> tuple[Mapping[str, Parameter], Mapping[str, SlotSpec], tuple[_cross_compile.Argument, ...]]:
    """Return parameters, slots and the kinds of all arguments after ``bars, weights``, in call order."""
    arguments = list(inspect.signature(definition).parameters.values())
    first, rest = arguments[:2], arguments[2:]
    if len(first) < 2 or any(each.default is not inspect.Parameter.empty for each in first):
        raise SignalError(f"signal {name!r}: its first arguments must be bars and weights, without defaults")
    parameters: dict[str, Parameter] = {}
    slots: dict[str, SlotSpec] = {}
    kinds: list[_cross_compile.Argument] = []
    for argument in rest:
        declared = argument.default
        if argument.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD or argument.name in _RESERVED:
            raise SignalError(
                f"signal {name!r}: {argument} is not allowed; use plain arguments, none named {' or '.join(_RESERVED)}"
            )
        if isinstance(declared, Parameter):
            parameters[argument.name] = named(declared, argument.name)
            kinds.append(declared.kind)
        elif isinstance(declared, SlotSpec):
            slots[argument.name] = declared
            kinds.append("each" if is_each(declared) else "shared")
        else:
            raise SignalError(
                f"signal {name!r}: argument {argument.name!r} must be a parameter, {argument.name}=param(20), "
                f"or a slot, {argument.name}=sma.over(20), memory() or shared(memory())"
            )
    unknown = {used for spec in slots.values() for used in spec.parameter_names()} - set(parameters)
    if unknown:
        raise SignalError(
            f"signal {name!r}: a slot names {', '.join(sorted(unknown))}; its parameters are: "
            f"{', '.join(parameters) or 'none'}"
        )
    return types.MappingProxyType(parameters), types.MappingProxyType(slots), tuple(kinds)
