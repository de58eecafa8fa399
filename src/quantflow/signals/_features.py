"""The parts of an estimator signal, checked: features, parameters, counts of bars, the estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from quantflow.errors import SignalError
from quantflow.signals._decider import Decider
from quantflow.signals._definition import is_definition
from quantflow.signals._parameters import Parameter, Value

__all__ = [
    "Count",
    "bound_feature",
    "check_estimator",
    "checked_features",
    "feature_identity",
    "merged_parameters",
    "refuse_bad_counts",
]

#: A number of bars, or the name of an int parameter.
Count = int | str

_ALLOWED = "signals of one symbol and column signals, bound or not"


def checked_features(owner: str, features: Sequence[Any]) -> tuple[Any, ...]:
    """Return the features as a tuple, each a definition or a bound signal."""
    given = tuple(features) if isinstance(features, Sequence) else (features,)
    for feature in given:
        if getattr(feature, "kind", "exposure") != "exposure":
            raise SignalError(
                f"{owner}: feature {feature!r} answers {feature.kind} of many symbols; allowed: {_ALLOWED}"
            )
        if not (isinstance(feature, Decider) or is_definition(feature)):
            raise SignalError(f"{owner}: feature {feature!r} is a {type(feature).__name__}; allowed: {_ALLOWED}")
    if not given:
        raise SignalError(f"{owner}: it has no features; give at least one, features=(trend,)")
    return given


def merged_parameters(owner: str, groups: Sequence[Mapping[str, Parameter]]) -> Mapping[str, Parameter]:
    """Return all declared parameters by name; one name declared twice must be declared alike."""
    merged: dict[str, Parameter] = {}
    for group in groups:
        for name, declared in group.items():
            known = merged.setdefault(name, declared)
            if replace(known, doc="") != replace(declared, doc=""):
                raise SignalError(
                    f"{owner}: parameter {name!r} is declared twice, and differently: {known} and {declared}; "
                    "rename one, or bind the feature's with .bind(...)"
                )
    return merged


def refuse_bad_counts(owner: str, counts: Mapping[str, Count], parameters: Mapping[str, Parameter]) -> None:
    """Refuse a count that is neither a whole number nor the name of an int parameter."""
    for key, given in counts.items():
        if isinstance(given, str):
            known = given in parameters and parameters[given].kind == "int"
        else:
            known = isinstance(given, int) and not isinstance(given, bool) and given >= 1
        if not known:
            names = [name for name, declared in parameters.items() if declared.kind == "int"]
            raise SignalError(
                f"{owner}: {key} is {given!r}; allowed: a whole number, at least 1, or an int parameter's name "
                f"({', '.join(names) or 'there are none'})"
            )


def bound_feature(feature: Any, values: Mapping[str, Value]) -> Decider:
    """Return a feature with its parameter values."""
    if isinstance(feature, Decider):
        return feature
    return cast(Decider, feature.bind(**{name: values[name] for name in feature.parameters}))


def feature_identity(feature: Any) -> Any:
    """Return what tells a feature from another: its name, its code, its fixed parameters."""
    if isinstance(feature, Decider):
        code: Any = getattr(feature, "signal", feature)
        return feature.name, code.fingerprint, dict(feature.parameters)
    return feature.name, feature.fingerprint


def check_estimator(owner: str, estimator: Any) -> None:
    """Refuse what cannot fit and predict, and what would not do so twice alike."""
    if not (callable(getattr(estimator, "fit", None)) and callable(getattr(estimator, "predict", None))):
        raise SignalError(
            f"{owner}: its factory answered a {type(estimator).__name__}; allowed: an object with fit and predict"
        )
    options = estimator.get_params(deep=True) if callable(getattr(estimator, "get_params", None)) else {}
    unseeded = [
        key
        for key, value in options.items()
        if key.rpartition("__")[2] == "random_state"
        and (isinstance(value, bool) or not isinstance(value, int | np.integer))
    ]
    if unseeded:
        raise SignalError(
            f"{owner}: {type(estimator).__name__} has {', '.join(f'{key}={options[key]}' for key in unseeded)}; "
            "allowed: an integer, so that a refit gives the same estimator again"
        )
