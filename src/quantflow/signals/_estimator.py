"""Signals that learn: a scikit-learn compatible estimator, refitted walk-forward.

The features are signals: each answers one number a bar. The estimator learns what followed
them, from bars whose outcome is known by then; the decorated function turns its prediction
into a target exposure::

    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def ridge(penalty=param(1.0, low=0.0, high=1e6)):
        return make_pipeline(StandardScaler(), Ridge(alpha=penalty, random_state=0))

    @estimator_signal(
        estimator=ridge, features=(trend, calm), horizon=5, train=500, refit_every=21
    )
    def learned(prediction, threshold=param(0.002, low=0.0, doc="return over 5 bars")):
        return 1.0 if prediction > threshold else 0.0

    learned.bind(penalty=10.0).evaluate(bars)

Rules:

* At the close of bar t the fit in use is that of bar ``t0 + k * refit_every``, the newest not
  after t. It has learned from bars ``s <= fit - horizon`` only: the label of s compares
  ``close[s + horizon]`` with ``close[s]``. So training bars are purged by the horizon, and no
  number after a bar can move its exposure.
* ``t0``, the warm-up, is the features' warm-up plus ``horizon + min_train - 1``.
* A fit learns from the last ``train`` labelled bars: a rolling window. With ``min_train`` below
  ``train`` it starts earlier and expands, anchored at the first bar, until it has ``train``
  bars; then it rolls.
* ``target="return"`` predicts the return over the horizon. ``"direction"`` labels a bar 1 if
  the price rose and 0 otherwise; the prediction is the probability of 1 where the estimator has
  ``predict_proba``, else its ``predict``. A window of one class predicts that class.
* Each fit is a new estimator from the factory, from numbers only: the state is the last bars'
  features and prices as float64, and a signal that is resumed fits again. Nothing is pickled.
* Estimators that draw random numbers need an integer ``random_state``; None is refused.
* Exposures of different lives agree to 1e-9: features bit for bit, predictions to the last
  bits of linear algebra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from quantflow.errors import InvalidBarsError, SignalError
from quantflow.signals._decider import Decider
from quantflow.signals._definition import read_parameters
from quantflow.signals._features import (
    Count,
    bound_feature,
    check_estimator,
    checked_features,
    feature_identity,
    merged_parameters,
    refuse_bad_counts,
)
from quantflow.signals._history import Floats, HistoryDecider, Label, shifted
from quantflow.signals._identity import identity_of
from quantflow.signals._parameters import Value, check_values
from quantflow.signals._signal import BAR_COLUMNS, _checked_columns
from quantflow.signals._walk import Fits, Schedule, Target, labels, window_rows

__all__ = ["BoundEstimatorSignal", "EstimatorSignal", "estimator_signal"]

Bounds = npt.NDArray[np.int64]


def estimator_signal(
    *,
    estimator: Callable[..., Any],
    features: Sequence[Any],
    horizon: Count = 1,
    train: Count = 500,
    min_train: Count | None = None,
    refit_every: Count = 21,
    target: Target = "return",
    price: str = "close",
    name: str | None = None,
) -> Callable[[Callable[..., float]], EstimatorSignal]:
    """Make a signal of a function from prediction to exposure, and an estimator that predicts.

    Its parameters are those of the function, of the estimator's factory and of the features,
    by name; a parameter that several of them declare must be declared alike and is one.

    Parameters
    ----------
    estimator
        Returns a new, unfitted estimator with ``fit`` and ``predict``, from parameters.
    features
        Signals of one symbol or column signals, at least one, as definitions (their parameters become
        this signal's) or bound (their parameters are fixed). A feature's answer counts from
        its warm-up on.
    horizon
        Bars ahead that are predicted; a number, or the name of an int parameter, as the next three.
    train, min_train
        Most and fewest labelled bars of a fit; ``min_train`` is ``train`` by default.
    refit_every
        Bars between fits.
    target
        ``"return"`` or ``"direction"``.
    price
        The bar column whose changes are predicted.
    name
        Its name; the function's by default.

    Raises
    ------
    SignalError
        What was given is no estimator signal; says which part.
    """

    def decorate(decide: Callable[..., float]) -> EstimatorSignal:
        return EstimatorSignal(
            decide,
            estimator=estimator,
            features=features,
            horizon=horizon,
            train=train,
            min_train=min_train,
            refit_every=refit_every,
            target=target,
            price=price,
            name=name,
        )

    return decorate


class EstimatorSignal:
    """An estimator signal's definition: bind parameter values to use it.

    Attributes
    ----------
    name
        Its name.
    definition
        The function from prediction to exposure.
    columns
        The bar columns that its features and its labels read.
    parameters
        Declared parameters by name: of the function, the estimator's factory, the features.
    """

    kind: Literal["exposure"] = "exposure"

    def __init__(
        self,
        decide: Callable[..., float],
        *,
        estimator: Callable[..., Any],
        features: Sequence[Any],
        horizon: Count,
        train: Count,
        min_train: Count | None,
        refit_every: Count,
        target: Target,
        price: str,
        name: str | None = None,
    ) -> None:
        self.name = name or str(getattr(decide, "__name__", decide))
        owner = f"estimator signal {self.name!r}"
        leading, decided = read_parameters(owner, decide)
        if len(leading) != 1:
            raise SignalError(f"{owner}: it takes {leading or 'nothing'}; allowed: the prediction, then parameters")
        unused, built = read_parameters(f"{owner}, estimator", estimator)
        if unused:
            raise SignalError(
                f"{owner}: its estimator's factory takes {unused}; allowed: parameters, as alpha=param(1.0)"
            )
        if target not in get_args(Target):
            raise SignalError(f"{owner}: target is {target!r}; allowed: {', '.join(get_args(Target))}")
        self.features = checked_features(owner, features)
        open_features = [feature for feature in self.features if not isinstance(feature, Decider)]
        self.parameters = merged_parameters(owner, [decided, built, *(feature.parameters for feature in open_features)])
        self.definition = decide
        self.estimator = estimator
        self.target = target
        self.price = price
        read = {price, *(column for feature in self.features for column in feature.columns)}
        self.columns = _checked_columns(
            self.name, [name for name in BAR_COLUMNS if name in read] + sorted(read - {*BAR_COLUMNS})
        )
        self._counts: dict[str, Count] = {
            "horizon": horizon,
            "train": train,
            "min_train": train if min_train is None else min_train,
            "refit_every": refit_every,
        }
        self._decided, self._built = tuple(decided), tuple(built)
        refuse_bad_counts(owner, self._counts, self.parameters)
        self.__name__ = self.name
        self.__doc__ = decide.__doc__
        self.__module__ = decide.__module__

    def __repr__(self) -> str:
        return f"<estimator signal {self.name}({', '.join(self.parameters)}) on {', '.join(self.columns)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again where it arrives: what is derived from the definition does not travel.
        options: dict[str, Any] = {"estimator": self.estimator, "features": self.features, "target": self.target}
        options |= {"price": self.price, "name": self.name, **self._counts}
        return partial(EstimatorSignal, **options), (self.definition,)

    def bind(self, **values: Value) -> BoundEstimatorSignal:
        """Return the signal with these parameter values, defaults for the others.

        Raises
        ------
        ParameterError
            Names every parameter that is unknown, mistyped or out of range.
        SignalError
            ``train`` is below ``min_train``, or the factory answers no estimator, or one that
            draws random numbers without a ``random_state``.
        """
        return BoundEstimatorSignal(self, check_values(f"estimator signal {self.name!r}", self.parameters, values))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the code that decides: function, factory, features, and the packages they use."""
        features = [feature_identity(feature) for feature in self.features]
        return identity_of(
            self.definition,
            self.estimator,
            type(self.bind_estimator({})),
            features,
            self._counts,
            self.target,
            self.price,
        )

    def bind_estimator(self, values: Mapping[str, Value]) -> Any:
        """Return a new, unfitted estimator; defaults for parameters that are not given."""
        owner = f"estimator signal {self.name!r}"
        given = {name: values.get(name, self.parameters[name].default) for name in self._built}
        try:
            return self.estimator(**given)
        except Exception as exc:
            raise SignalError(
                f"{owner}: its estimator's factory raised {type(exc).__name__} for {given}: {exc}"
            ) from exc

    def _schedule(self, values: Mapping[str, Value], features_from: int) -> Schedule:
        counts = {key: int(values[given]) if isinstance(given, str) else given for key, given in self._counts.items()}
        schedule = Schedule(features_from=features_from, **counts)
        if min(counts.values()) < 1 or schedule.min_train > schedule.train:
            raise SignalError(
                f"estimator signal {self.name!r}: {', '.join(f'{key}={count}' for key, count in counts.items())}; "
                "allowed: each at least 1, min_train at most train"
            )
        return schedule


class BoundEstimatorSignal(HistoryDecider):
    """An estimator signal with parameter values; a :class:`Decider`. Made by :meth:`EstimatorSignal.bind`.

    Its state is the number of bars seen, the features' states, and the features and prices of
    the last ``schedule.kept`` bars.
    """

    def __init__(self, signal: EstimatorSignal, values: Mapping[str, Value]) -> None:
        self.signal = signal
        self._features = [bound_feature(feature, values) for feature in signal.features]
        self.schedule = signal._schedule(values, max(feature.warm_up for feature in self._features))
        check_estimator(f"estimator signal {signal.name!r}", signal.bind_estimator(values))
        self._decided = {name: values[name] for name in signal._decided}
        self._inputs = [[signal.columns.index(column) for column in each.columns] for each in self._features]
        self._price = signal.columns.index(signal.price)
        starts = [feature.start() for feature in self._features]
        self._offsets = np.cumsum([1, *(len(start) for start in starts)])
        ring = np.zeros((len(starts) + 1) * self.schedule.kept)
        initial = np.concatenate([np.zeros(1), *starts, ring])
        warm_up = self.schedule.first_fit
        super().__init__(signal.name, signal.columns, values, warm_up=warm_up, initial=initial)
        self._fits = Fits(f"estimator signal {self.name!r}", lambda: signal.bind_estimator(values), signal.target)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the code that decides."""
        return self.signal.fingerprint

    def advance(self, states: Floats, bounds: Bounds, columns: Floats, *, label: Label | None = None) -> Floats:
        return self._advance(states, bounds, columns, label or "row {}".format, keep=True)

    advance.__doc__ = HistoryDecider.advance.__doc__

    def _from_first_bar(self, matrix: Floats, bounds: Bounds, label: Label) -> Floats:
        # A whole history's fits will not be asked for again: keeping them would only cost memory.
        states = np.tile(self._initial, (len(bounds) - 1, 1))
        return self._advance(states, bounds, matrix, label, keep=False)

    def _advance(self, states: Floats, bounds: Bounds, columns: Floats, label: Label, *, keep: bool) -> Floats:
        observed, feature_states = self._observe(states, bounds, columns, label)
        exposures = np.zeros(columns.shape[1])
        rings = []
        for state, first, last in zip(states, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            seen = int(state[0])
            held = min(self.schedule.kept, seen)
            ring = state[self._offsets[-1] :].reshape(len(observed), self.schedule.kept)
            history = np.hstack([ring[:, self.schedule.kept - held :], observed[:, first:last]])
            walked = self._walk(history, seen - held, seen, shifted(label, first - seen), keep)
            exposures[first:last] = walked
            rings.append(history[:, -self.schedule.kept :])
        for index, (state, ring) in enumerate(zip(states, rings, strict=True)):
            state[0] += bounds[index + 1] - bounds[index]
            for each, start, stop in zip(feature_states, self._offsets[:-1], self._offsets[1:], strict=True):
                state[start:stop] = each[index]
            kept = state[self._offsets[-1] :].reshape(len(observed), self.schedule.kept)
            kept[:, self.schedule.kept - ring.shape[1] :] = ring
        return exposures

    def _observe(self, states: Floats, bounds: Bounds, columns: Floats, label: Label) -> tuple[Floats, list[Floats]]:
        """Return every feature's answer at each bar, the price last, and the features' new states."""
        observed = np.empty((len(self._features) + 1, columns.shape[1]))
        advanced = []
        for index, (feature, inputs) in enumerate(zip(self._features, self._inputs, strict=True)):
            own = states[:, self._offsets[index] : self._offsets[index + 1]].copy()
            observed[index] = feature.advance(own, bounds, np.ascontiguousarray(columns[inputs]), label=label)
            advanced.append(own)
        observed[-1] = columns[self._price]
        bad = np.flatnonzero(observed[-1] <= 0.0)
        if len(bad):
            price = f"{self.signal.price} is {observed[-1, bad[0]]} at {label(int(bad[0]))}"
            raise InvalidBarsError([f"{price}; a return needs prices above 0"], source=self.name)
        return observed, advanced

    def _walk(self, history: Floats, origin: int, seen: int, label: Label, keep: bool) -> Floats:
        """Return the exposures of bars from ``seen`` on; ``history`` begins with bar ``origin``."""
        end = origin + history.shape[1]
        exposures = np.zeros(end - seen)
        for fit, first, last in self.schedule.segments(seen, end):
            start, stop = (bar - origin for bar in self.schedule.training_bars(fit))
            outcomes = labels(
                self.signal.target, history[-1, start : stop + self.schedule.horizon], self.schedule.horizon
            )
            predict = self._fits.fit(
                window_rows(history[:-1], start, stop), outcomes, partial(label, first), keep=keep and last == end
            )
            rows = window_rows(history[:-1], first - origin, last - origin)
            exposures[first - seen : last - seen] = self._decide(predict, rows, first, label)
        return exposures

    def _decide(self, predict: Callable[[Floats], Floats], rows: Floats, first: int, label: Label) -> list[float]:
        try:
            predictions = predict(rows)
        except Exception as exc:
            raise SignalError(f"{self.name}: predict raised {type(exc).__name__} at {label(first)}: {exc}") from exc
        if predictions.shape != (len(rows),) or not np.isfinite(predictions).all():
            raise SignalError(
                f"{self.name}: its estimator predicts {predictions!r} for {len(rows)} bars from {label(first)} on; "
                "allowed: one finite number a bar"
            )
        exposures = []
        for bar, prediction in enumerate(predictions.tolist(), first):
            try:
                exposure = float(self.signal.definition(prediction, **self._decided))
            except Exception as exc:
                raise SignalError(f"{self.name} raised {type(exc).__name__} at {label(bar)}: {exc}") from exc
            if not np.isfinite(exposure):
                raise SignalError(f"{self.name} answered {exposure} at {label(bar)} for the prediction {prediction!r}")
            exposures.append(exposure)
        return exposures
