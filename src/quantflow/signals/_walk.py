"""Walking forward: when an estimator is refitted, on which bars, and the fits themselves."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quantflow.errors import SignalError
from quantflow.signals._history import Floats

__all__ = ["Fits", "Schedule", "Target", "labels"]

Target = Literal["return", "direction"]
Predict = Callable[[Floats], Floats]

#: Fits of live symbols that are kept between bars; the oldest is computed again when asked for.
_LARGEST_MEMORY = 1024


@dataclass(frozen=True)
class Schedule:
    """Which bars an estimator learns from; bars are counted from 0, the symbol's first.

    Attributes
    ----------
    features_from
        First bar at which every feature has a value.
    horizon
        Bars from a decision to the price that its label compares with.
    train, min_train
        Most and fewest labelled bars of a fit.
    refit_every
        Bars from one fit to the next.
    """

    features_from: int
    horizon: int
    train: int
    min_train: int
    refit_every: int

    @property
    def first_fit(self) -> int:
        """The first bar at which ``min_train`` labels are known."""
        return self.features_from + self.horizon + self.min_train - 1

    @property
    def kept(self) -> int:
        """Bars to remember, so that the fit in use can be repeated at any bar."""
        return max(1, self.train + self.horizon + self.refit_every - 2)

    def training_bars(self, fit: int) -> tuple[int, int]:
        """Return the first and one past the last bar that a fit at the close of bar ``fit`` learns from.

        The label of bar ``s`` is known from bar ``s + horizon`` on, so the last bar is
        ``fit - horizon``: nothing that a label uses lies after the fit.
        """
        last = fit - self.horizon + 1
        return max(self.features_from, last - self.train), last

    def segments(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield (fit, from, to): bars from ``from`` to before ``to`` are predicted by the fit at bar ``fit``."""
        bar = max(first, self.first_fit)
        while bar < last:
            fit = bar - (bar - self.first_fit) % self.refit_every
            until = min(last, fit + self.refit_every)
            yield fit, bar, until
            bar = until


def labels(target: Target, prices: Floats, horizon: int) -> Floats:
    """Return what followed each price: the return over ``horizon`` bars, or 1.0 where it rose and 0.0 elsewhere.

    ``prices`` has ``horizon`` more entries than the result.
    """
    returns: Floats = prices[horizon:] / prices[: len(prices) - horizon] - 1.0
    return returns if target == "return" else (returns > 0.0).astype(np.float64)


class Fits:
    """Fits by what they learned from: the same bars give the same fit, computed once.

    Nothing is remembered of a symbol, only of training bars, so a signal may be shared and
    resumed anywhere: what is not here is fitted again, with the same result.
    """

    def __init__(self, owner: str, estimator: Callable[[], Any], target: Target) -> None:
        self._owner = owner
        self._estimator = estimator
        self._target = target
        self._known: OrderedDict[bytes, Predict] = OrderedDict()
        self._lock = Lock()

    def fit(self, features: Floats, outcomes: Floats, where: Callable[[], str], *, keep: bool) -> Predict:
        """Return the prediction of an estimator that learned from these bars.

        Parameters
        ----------
        features
            float64[n, F].
        outcomes
            float64[n], labels.
        where
            Names the bar at which it is fitted.
        keep
            Remember it for the next bars.

        Raises
        ------
        SignalError
            The estimator raised.
        """
        key = hashlib.blake2b(features.tobytes() + outcomes.tobytes(), digest_size=16).digest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        predict = self._fitted(features, outcomes, where)
        if keep:
            with self._lock:
                self._known[key] = predict
                if len(self._known) > _LARGEST_MEMORY:
                    self._known.popitem(last=False)
        return predict

    def _fitted(self, features: Floats, outcomes: Floats, where: Callable[[], str]) -> Predict:
        if self._target == "direction" and (outcomes == outcomes[0]).all():
            # No estimator tells two classes apart that it has not seen.
            only = float(outcomes[0])
            return lambda rows: np.full(len(rows), only)
        estimator = self._estimator()
        classes = outcomes.astype(np.int64) if self._target == "direction" else outcomes
        try:
            estimator.fit(features, classes)
        except Exception as exc:
            raise SignalError(
                f"{self._owner}: its estimator's fit on {len(features)} bars raised {type(exc).__name__} at {where()}: "
                f"{exc}"
            ) from exc
        if self._target == "direction" and hasattr(estimator, "predict_proba"):
            rises = list(estimator.classes_).index(1)
            return lambda rows: np.asarray(estimator.predict_proba(rows), dtype=np.float64)[:, rises]
        return lambda rows: np.asarray(estimator.predict(rows), dtype=np.float64)


def window_rows(history: Floats, first: int, last: int) -> npt.NDArray[np.float64]:
    """Return bars ``first`` to before ``last`` of a (feature, bar) history as rows of features."""
    return np.ascontiguousarray(history[:, first:last].T)
