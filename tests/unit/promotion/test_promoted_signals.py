"""Signals of every shape are promoted; one that looks ahead is not."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import polars as pl
import pytest

from quantflow.errors import ContractError
from quantflow.promotion import bind_signal, load_contract
from quantflow.promotion.bundle import read_bundle
from quantflow.promotion.versions import write_version
from quantflow.signals import Decider
from quantflow.testing.pipelines import write_pipeline
from quantflow.testing.signals import bars_of, random_walk

COLUMNS = """
    import polars as pl
    from quantflow.signals import column_signal, param

    @column_signal(window="window", columns=("close", "volume"))
    def crossing(window=param(5, low=2, high=50)):
        close, volume = pl.col("close"), pl.col("volume")
        return ((close > close.rolling_mean(window)) & (volume > 0.0)).cast(pl.Float64)
"""
ESTIMATOR = """
    import polars as pl
    from sklearn.linear_model import Ridge
    from quantflow.signals import column_signal, estimator_signal, param

    @column_signal(window="window")
    def distance(window=param(5, low=2, high=50)):
        return pl.col("close") / pl.col("close").rolling_mean(window) - 1.0

    def ridge():
        return Ridge(random_state=0)

    @estimator_signal(estimator=ridge, features=(distance,), train=40, refit_every=5)
    def crossing(prediction):
        return 1.0 if prediction > 0.0 else 0.0
"""
CROSS_SECTION = """
    from quantflow.signals import cross_sectional, param

    @cross_sectional(symbols=("AAPL", "MSFT"))
    def crossing(bars, weights, window=param(5, low=2, high=50)):
        for index in range(len(weights)):
            weights[index] = 1.0 / len(weights)
"""
SHAPES = {"columns": COLUMNS, "estimator": ESTIMATOR, "cross-section": CROSS_SECTION}


def pipeline(tmp_path: Path, signal: str, *changes: tuple[str, str]) -> Path:
    signal = textwrap.dedent(signal)
    for old, new in changes:
        assert old in signal
        signal = signal.replace(old, new)
    return write_pipeline(tmp_path, signal=signal)


def problems(path: Path) -> list[str]:
    with pytest.raises(ContractError) as caught:
        load_contract(path)
    return list(caught.value.problems)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_accepted(tmp_path, shape):
    assert load_contract(pipeline(tmp_path, SHAPES[shape])).pipeline == "tiny"


@pytest.mark.parametrize("shape", ["columns", "estimator"])
def test_a_promoted_signal_decides_from_its_stored_bytes(tmp_path, shape):
    bundle = read_bundle(pipeline(tmp_path / "project", SHAPES[shape]))
    contents = {bundle.hashes[path]: content for path, content in bundle.files.items()}
    version = write_version(tmp_path / "versions", bundle.manifest, contents.__getitem__)
    shutil.rmtree(tmp_path / "project")
    bound = bind_signal(version, bundle.contract, {"window": 9})
    assert isinstance(bound, Decider)
    assert dict(bound.parameters)["window"] == 9
    path = random_walk(80, seed=1)
    exposures = bound.evaluate(bars_of({"A": path}, volume={"A": path}))["exposure"]
    assert set(exposures.unique()) <= {0.0, 1.0}


def test_a_column_signal_that_looks_ahead_is_refused_with_its_first_bar(tmp_path):
    found = problems(pipeline(tmp_path, COLUMNS, ("close.rolling_mean(window)", "close.mean()")))
    assert [problem.partition(" answers")[0] for problem in found] == [
        "signal: 'tiny_signal:crossing' is not causal: truncated: NASDAQ at 2017-12-18",
        "signal: 'tiny_signal:crossing' is not causal: perturbed: SP500 at 2018-01-05",
        "signal: 'tiny_signal:crossing' is not causal: defined: NASDAQ at 2017-12-18",
    ]
    assert "it looks ahead: the answer changes when later bars are taken away" in found[0]
    assert "answers 0.0 over the whole frame, 1.0" in found[0]


def test_a_window_that_is_too_short_is_refused(tmp_path):
    (found,) = problems(pipeline(tmp_path, COLUMNS, ("rolling_mean(window)", "ewm_mean(span=window)")))
    assert "not causal: defined" in found


def test_a_cross_section_needs_its_universe(tmp_path):
    everything = pipeline(tmp_path, CROSS_SECTION, ('symbols=("AAPL", "MSFT")', ""))
    assert "has no universe" in problems(everything)[0]


def test_the_check_runs_with_the_contracts_defaults(tmp_path):
    lagged = ("close.rolling_mean(window)", "close.shift(window - 5 - 1)")
    assert "not causal" in problems(pipeline(tmp_path, COLUMNS, lagged))[0]
    later = pipeline(tmp_path, COLUMNS, ("close.rolling_mean(window)", "close.shift(window - 4)"))
    assert load_contract(later).parameters["window"].default == 5


def test_an_estimator_that_is_not_repeatable_is_refused(tmp_path):
    unseeded = pipeline(tmp_path, ESTIMATOR, ("random_state=0", "random_state=None"))
    assert "Ridge has random_state=None; allowed: an integer" in problems(unseeded)[0]
    drawing = """
        import numpy as np
        class Drawing:
            def fit(self, features, outcomes): return self
            def predict(self, features): return np.random.normal(size=len(features))
    """
    path = pipeline(
        tmp_path,
        textwrap.dedent(drawing) + textwrap.dedent(ESTIMATOR),
        ("return Ridge(random_state=0)", "return Drawing()"),
    )
    assert "not causal: repeated: SP500" in problems(path)[0]


def test_a_signal_that_cannot_run_is_refused_with_the_reason(tmp_path):
    raising = pipeline(tmp_path, COLUMNS, ("return (", "raise RuntimeError('not yet')\n    return ("))
    assert "cannot be checked for causality: column signal 'crossing' raised RuntimeError" in problems(raising)[0]
    unknown = pipeline(tmp_path, ESTIMATOR, ("return Ridge(random_state=0)", "return Ridge(penalty=3)"))
    assert "estimator signal 'crossing': its estimator's factory raised TypeError" in problems(unknown)[0]
    longer = pipeline(tmp_path, COLUMNS, ('window="window"', "window=6000"))
    assert "its warm-up is 5,999 bars, and promotion has 5,031 real bars" in problems(longer)[0]


def test_parameters_are_compared_before_anything_runs(tmp_path):
    narrow = pipeline(tmp_path, COLUMNS, ("low=2, high=50", "low=3, high=50"))
    assert problems(narrow) == ["parameters.window.low: received 2.0; the signal allows a whole number from 3 to 50"]


def test_the_check_uses_real_bars_of_an_installed_package():
    from quantflow.promotion.signals import _real_bars

    bars = _real_bars(10, 5)
    assert bars.group_by("symbol").len().sort("symbol").rows() == [("NASDAQ", 15), ("SP500", 15)]
    assert bars.select(pl.col("open", "high", "low", "close", "volume").null_count()).row(0) == (0, 0, 0, 0, 0)
