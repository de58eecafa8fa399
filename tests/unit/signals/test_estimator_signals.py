"""Estimator signals: refitted walk-forward on what was known by then, predicting bar by bar."""

import textwrap
import types
from typing import ClassVar

import cloudpickle
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import quantflow.signals._estimator as documented
from quantflow.errors import InvalidBarsError, MissingColumnError, ParameterError, SignalError
from quantflow.live import parity
from quantflow.signals import (
    Decider,
    check_causality,
    column_signal,
    cross_sectional,
    estimator_signal,
    is_definition,
    memory,
    momentum,
    param,
    signal,
)
from quantflow.signals._walk import Fits, Schedule
from quantflow.testing.signals import bars_of, random_walk

pytestmark = pytest.mark.slow  # as a module


@signal(columns=("close",))
def moved(bar, change=momentum.over("lookback"), lookback=param(4, low=1, high=100, doc="bars")):
    return momentum(change, bar.close)


@signal(columns=("close",))
def counted(bar, seen=memory()):
    seen[0] += 1.0
    return seen[0] - 1.0


@column_signal(window=6)
def stretched():
    return pl.col("close") / pl.col("close").mean() - 1.0


def ridge(penalty=param(0.5, low=0.0, high=1e6)):
    return make_pipeline(StandardScaler(), Ridge(alpha=penalty, random_state=0))


@estimator_signal(estimator=ridge, features=(moved, stretched), horizon="horizon", train=30, refit_every="refit_every")
def learned(prediction, horizon=param(3, low=1, high=50), refit_every=param(7, low=1), scale=param(20.0)):
    """Long what is expected to rise."""
    return max(-1.0, min(1.0, prediction * scale))


def chances():
    return LogisticRegression(random_state=0)


@estimator_signal(estimator=chances, features=(moved.bind(lookback=2),), target="direction", train=40, min_train=10)
def leaning(prediction):
    return 2.0 * prediction - 1.0


class Recorder:
    """Remembers what it learned from; predicts how many bars that was."""

    fits: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []

    def fit(self, features, outcomes):
        type(self).fits.append((features.copy(), outcomes.copy()))
        self._bars = len(features)
        return self

    def predict(self, features):
        return np.full(len(features), float(self._bars))


def recorded(**options):
    """A signal whose feature is the bar's number, and the fits that it makes."""

    class Own(Recorder):
        fits: ClassVar[list] = []

    decorate = estimator_signal(estimator=lambda: Own(), features=(counted,), **options)
    return decorate(lambda prediction: prediction).bind(), Own.fits


def reference(closes, *, horizon, train, refit_every, penalty=0.5, scale=20.0, lookback=4):
    """The same strategy as plain arrays, every bar's fit made anew."""
    change = np.array([np.nan] * lookback + list(closes[lookback:] / closes[:-lookback] - 1.0))
    mean = np.array([np.nan] * 5 + [closes[end - 5 : end + 1].mean() for end in range(5, len(closes))])
    features = np.column_stack([change, closes / mean - 1.0])
    first = 5 + horizon + train - 1
    exposures = np.zeros(len(closes))
    for bar in range(first, len(closes)):
        fit = first + (bar - first) // refit_every * refit_every
        rows = np.arange(fit - horizon - train + 1, fit - horizon + 1)
        estimator = ridge(penalty).fit(features[rows], closes[rows + horizon] / closes[rows] - 1.0)
        exposures[bar] = np.clip(estimator.predict(features[[bar]])[0] * scale, -1.0, 1.0)
    return exposures


@settings(max_examples=6)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 12))
def test_it_equals_a_walk_forward_written_by_hand(seed, horizon, refit_every):
    closes = random_walk(80, seed=seed)
    bound = learned.bind(horizon=horizon, refit_every=refit_every)
    expected = reference(closes, horizon=horizon, train=30, refit_every=refit_every)
    assert bound.warm_up == 5 + horizon + 29
    np.testing.assert_allclose(bound.exposures({"close": closes}), expected, rtol=1e-9, atol=1e-9)


def stepped(bound, closes, state):
    return [bound.step(state, {"close": close}) for close in closes]


@settings(max_examples=6)
@given(st.integers(0, 70), st.integers(1, 9))
def test_stopped_anywhere_and_refitted_it_goes_on_as_if_never_stopped(stop, refit_every):
    closes = random_walk(70, seed=5)
    bound, other = learned.bind(refit_every=refit_every), learned.bind(refit_every=refit_every)
    state = bound.start()
    before = stepped(bound, closes[:stop], state)
    # Another object has none of the fits: it makes them again from the numbers that were saved.
    after = stepped(other, closes[stop:], other.restore(bound.snapshot(state)))
    np.testing.assert_allclose(before + after, bound.exposures({"close": closes}), rtol=1e-9, atol=1e-9)


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 19), st.integers(1, 15), st.integers(0, 1000), st.data())
def test_a_fit_learns_only_from_labels_that_are_known_by_then(horizon, train, less, refit_every, seed, data):
    min_train = max(1, train - less)
    bound, fits = recorded(horizon=horizon, train=train, min_train=min_train, refit_every=refit_every)
    closes = random_walk(60, seed=seed)
    # In pieces, so that fits are also made again after a restart.
    stop = data.draw(st.integers(0, 60))
    state = bound.start()
    pieces = [(0, stop), (stop, 60)]
    predicted = []
    for first, last in pieces:
        row = closes[first:last].reshape(1, -1)
        predicted += list(bound.advance(state.reshape(1, -1), np.array([0, last - first]), np.ascontiguousarray(row)))
        state = bound.restore(bound.snapshot(state))
    first_fit = horizon + min_train - 1
    for bars, outcomes in fits:
        bars = bars[:, 0].astype(int)
        fit = bars[-1] + horizon
        assert (fit - first_fit) % refit_every == 0
        assert (np.diff(bars) == 1).all()
        assert bars[0] == max(0, bars[-1] + 1 - train)
        np.testing.assert_allclose(outcomes, closes[bars + horizon] / closes[bars] - 1.0, rtol=1e-12)
    for bar, learned_from in enumerate(predicted):
        if bar < first_fit:
            assert learned_from == 0.0
        else:
            fit = bar - (bar - first_fit) % refit_every
            assert learned_from == min(train, fit - horizon + 1)


@given(
    st.integers(0, 30), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.integers(1, 40)
)
def test_what_is_kept_reaches_back_to_the_fit_in_use(features_from, horizon, train, refit_every, first, count):
    schedule = Schedule(features_from, horizon, train, max(1, train - 3), refit_every)
    covered = []
    for fit, start, stop in schedule.segments(first, first + count):
        covered += range(start, stop)
        assert fit <= start < stop <= fit + refit_every
        learned_from, until = schedule.training_bars(fit)
        assert features_from <= learned_from < until
        assert until - 1 + horizon <= fit
        assert learned_from >= start - schedule.kept
    assert covered == list(range(max(first, schedule.first_fit), first + count))


def test_an_expanding_window_is_anchored_until_it_is_full_and_then_rolls():
    bound, fits = recorded(horizon=1, train=20, min_train=5, refit_every=5)
    bound.exposures({"close": random_walk(40, seed=1)})
    assert [(int(bars[0, 0]), len(bars)) for bars, _ in fits] == [
        (0, 5), (0, 10), (0, 15), (0, 20), (5, 20), (10, 20), (15, 20)
    ]  # fmt: skip


def test_a_rolling_window_waits_until_it_is_full():
    bound, fits = recorded(horizon=2, train=20, refit_every=10)
    exposures = bound.exposures({"close": random_walk(45, seed=1)})
    assert [(int(bars[0, 0]), len(bars)) for bars, _ in fits] == [(0, 20), (10, 20), (20, 20)]
    assert (exposures[:21] == 0.0).all()
    assert (exposures[21:] == 20.0).all()


def test_changing_the_future_does_not_move_the_past():
    bars = bars_of({"A": random_walk(60, seed=1), "B": random_walk(50, seed=2)})
    for bound in (learned.bind(), leaning.bind()):
        report = check_causality(bound, bars, cuts=2)
        assert report.passed, report


def test_many_symbols_in_one_call_equal_each_on_its_own():
    bound = learned.bind()
    paths = {f"S{index}": random_walk(30 + 15 * index, seed=index) for index in range(4)}
    together = bound.evaluate(bars_of(paths).sample(fraction=1.0, shuffle=True, seed=1))
    for symbol, path in paths.items():
        mine = together.filter(symbol=symbol)["exposure"].to_numpy()
        np.testing.assert_allclose(mine, bound.exposures({"close": path}), rtol=1e-9, atol=1e-9)
    assert bound.evaluate(bars_of({})).height == 0


def test_backtest_and_live_consumer_run_it_unchanged():
    bars = bars_of({"A": random_walk(80, seed=1), "B": [None] * 20 + list(random_walk(60, seed=2))})
    for bound in (learned.bind(), leaning.bind()):
        report = parity(bound, bars, fill="next_close", fee_bps=1.0, restarts=3)
        assert report.agrees, report
        assert (report.restarts, report.compared["exposures"]) == (3, 140)
        assert bound.evaluate(bars)["exposure"].abs().max() > 0.0


def test_a_fit_in_use_is_not_made_again_at_every_bar_and_a_whole_history_keeps_none():
    bound, fits = recorded(horizon=1, train=10, refit_every=8)
    closes = random_walk(43, seed=1)
    bound.exposures({"close": closes})
    assert len(fits) == 5
    bound.exposures({"close": closes})
    assert len(fits) == 10
    stepped(bound, closes, bound.start())
    assert len(fits) == 15
    stepped(bound, closes, bound.start())
    assert len(fits) == 15


def test_fits_of_many_live_symbols_are_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr("quantflow.signals._walk._LARGEST_MEMORY", 2)
    made = []

    class Own(Recorder):
        fits = made

    fits = Fits("test", Own, "return")
    for value in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):
        fits.fit(np.array([[value]]), np.array([0.0]), lambda: "here", keep=True)
    assert [bars[0, 0] for bars, _ in made] == [1.0, 2.0, 3.0, 2.0]


def test_a_direction_is_predicted_as_the_probability_of_a_rise():
    rising = np.exp(np.cumsum(np.tile([0.02, -0.01], 60)))
    exposures = leaning.bind().exposures({"close": rising})
    assert ((exposures > -1.0) & (exposures < 1.0)).all()
    only_up = leaning.bind().exposures({"close": np.arange(1.0, 60.0)})
    assert (only_up[12:] == 1.0).all()
    only_down = leaning.bind().exposures({"close": np.arange(60.0, 1.0, -1.0)})
    assert (only_down[12:] == -1.0).all()


def test_an_estimator_of_direction_without_probabilities_predicts_its_class():
    class Repeating(Recorder):
        fits: ClassVar[list] = []

        def predict(self, features):
            return np.ones(len(features))

    shape = estimator_signal(estimator=lambda: Repeating(), features=(counted,), target="direction", train=10)
    assert (shape(lambda prediction: prediction).bind().exposures({"close": random_walk(30, seed=1)})[11:] == 1.0).all()


def test_parameters_of_function_factory_and_features_are_one_list():
    assert list(learned.parameters) == ["horizon", "refit_every", "scale", "penalty", "lookback"]
    bound = learned.bind(horizon=2, penalty=3.0, lookback=9)
    assert isinstance(bound, Decider)
    assert is_definition(learned)
    assert (bound.kind, bound.columns, bound.warm_up) == ("exposure", ("close",), 9 + 2 + 29)
    assert bound.schedule == Schedule(features_from=9, horizon=2, train=30, min_train=30, refit_every=7)
    assert dict(bound.parameters) == {"horizon": 2, "refit_every": 7, "scale": 20.0, "penalty": 3.0, "lookback": 9}
    assert list(leaning.parameters) == []
    assert learned.__doc__ == "Long what is expected to rise."
    assert "learned(horizon, refit_every, scale, penalty, lookback)" in repr(learned)
    with pytest.raises(ParameterError, match="'lookback' is 0"):
        learned.bind(lookback=0)


def test_the_price_of_labels_is_read_beside_the_features_columns():
    @column_signal(window=1, columns=("volume",))
    def busy():
        return pl.col("volume").log()

    shape = estimator_signal(estimator=ridge, features=(busy,), train=5, price="open")(lambda prediction: prediction)
    assert shape.columns == ("open", "volume")
    with pytest.raises(MissingColumnError, match="'open'"):
        shape.bind().evaluate(bars_of({"A": [1.0, 2.0]}))


def test_a_shared_parameter_must_be_declared_alike():
    @signal()
    def other(bar, lookback=param(9)):
        return 1.0

    with pytest.raises(SignalError, match=r"'lookback' is declared twice, and differently.*bind the feature's"):
        estimator_signal(estimator=ridge, features=(moved, other))(lambda prediction: prediction)
    fixed = estimator_signal(estimator=ridge, features=(moved, other.bind(lookback=3)))(lambda prediction: prediction)
    assert list(fixed.parameters) == ["penalty", "lookback"]


@cross_sectional()
def everything(bars, weights):
    for index in range(len(weights)):
        weights[index] = 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ()}, "it has no features"),
        ({"features": (np.mean,)}, "allowed: signals of one symbol and column signals"),
        ({"features": moved}, None),
        ({"estimator": Ridge()}, "estimator is made of a plain function"),
        ({"estimator": lambda alpha: Ridge(alpha)}, "its estimator's factory takes"),
        ({"target": "price"}, "target is 'price'; allowed: return, direction"),
        ({"horizon": 0}, "horizon is 0; allowed: a whole number, at least 1, or an int parameter's name"),
        ({"train": "span"}, r"train is 'span'; allowed: .* \(lookback\)"),
        ({"train": "penalty"}, "train is 'penalty'"),
        ({"refit_every": True}, "refit_every is True"),
        ({"price": "vwap"}, "allowed: some of open"),
    ],
)
def test_what_is_no_estimator_signal_is_refused_by_part(options, message):
    given = {"estimator": ridge, "features": (moved,)} | options
    if message is None:
        assert estimator_signal(**given)(lambda prediction: prediction).features == (moved,)
        return
    with pytest.raises(SignalError, match=message):
        estimator_signal(**given)(lambda prediction: prediction)


def test_the_function_takes_a_prediction_and_parameters():
    for decide in (lambda: 1.0, lambda prediction, other: 1.0):
        with pytest.raises(SignalError, match="allowed: the prediction, then parameters"):
            estimator_signal(estimator=ridge, features=(moved,))(decide)


@pytest.mark.parametrize("made", [everything, everything.bind()], ids=["definition", "bound"])
def test_weights_of_many_symbols_are_no_feature(made):
    with pytest.raises(SignalError, match="answers weights of many symbols"):
        estimator_signal(estimator=ridge, features=(made,))(lambda prediction: prediction)


def forest(seed=param(1)):
    return make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=5, random_state=seed if seed else None))


def test_an_estimator_that_draws_numbers_needs_a_seed():
    shape = estimator_signal(estimator=forest, features=(moved,), target="direction", train=20)(lambda p: p)
    with pytest.raises(SignalError, match="randomforestclassifier__random_state=None; allowed: an integer"):
        shape.bind(seed=0)
    closes = {"close": random_walk(60, seed=1)}
    assert (shape.bind().exposures(closes) == shape.bind().exposures(closes)).all()


def test_what_the_factory_answers_is_checked_when_bound():
    def broken():
        raise RuntimeError("no licence")

    for factory, message in [
        (lambda: 3.0, "answered a float; allowed: an object with fit and predict"),
        (broken, "factory raised RuntimeError"),
    ]:
        with pytest.raises(SignalError, match=message):
            estimator_signal(estimator=factory, features=(moved,))(lambda p: p).bind()


def test_a_window_smaller_than_the_smallest_is_refused():
    @estimator_signal(estimator=ridge, features=(moved,), train="most", min_train="least")
    def shape(prediction, most=param(10), least=param(5)):
        return 0.0

    with pytest.raises(SignalError, match=r"train=4, min_train=5.*min_train at most train"):
        shape.bind(most=4)
    with pytest.raises(SignalError, match="each at least 1"):
        shape.bind(least=0)


class Failing(Recorder):
    fits: ClassVar[list] = []

    def fit(self, features, outcomes):
        if len(outcomes) and features[-1, 0] >= 20:
            raise ValueError("singular")
        return super().fit(features, outcomes)


class Odd(Recorder):
    fits: ClassVar[list] = []
    answer = np.array([np.nan])

    def predict(self, features):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def odd(answer):
    return type("Odd", (Odd,), {"answer": answer})


@pytest.mark.parametrize(
    ("estimator", "decide", "message"),
    [
        (Failing, lambda p: p, r"fit on 10 bars raised ValueError at A at 2020-01-22: singular"),
        (odd(np.array([np.nan])), lambda p: p, "for 1 bars from A at 2020-01-11 on; allowed: one finite number a bar"),
        (odd(np.zeros((1, 2))), lambda p: p, "allowed: one finite number a bar"),
        (odd(RuntimeError("lost")), lambda p: p, "predict raised RuntimeError at A at 2020-01-11: lost"),
        (Recorder, lambda p: 1.0 / (p - 10.0), "raised ZeroDivisionError at A at 2020-01-11"),
        (Recorder, lambda p: float("nan"), r"answered nan at A at 2020-01-11 for the prediction 10\.0"),
    ],
)
def test_what_goes_wrong_is_named_with_its_bar(estimator, decide, message):
    estimator = type("Own", (estimator,), {"fits": []})
    shape = estimator_signal(estimator=lambda: estimator(), features=(counted,), train=10, refit_every=1)(decide)
    with pytest.raises(SignalError, match=message):
        shape.bind().evaluate(bars_of({"A": random_walk(30, seed=1)}))


def test_prices_that_have_no_return_are_refused_and_nothing_changes():
    bound = learned.bind()
    with pytest.raises(InvalidBarsError, match=r"close is 0\.0 at A at 2020-01-02"):
        bound.evaluate(bars_of({"A": [1.0, 0.0]}))
    state = bound.start()
    with pytest.raises(InvalidBarsError, match=r"close is -1\.0 at the bar"):
        bound.step(state, {"close": -1.0})
    assert (state == bound.start()).all()


def test_a_state_is_numbers_only_and_belongs_to_its_code():
    bound = learned.bind()
    state = bound.start()
    stepped(bound, random_walk(50, seed=1), state)
    saved = bound.snapshot(state)
    assert len(saved) == 40 + 8 * len(state)
    assert (bound.restore(saved) == state).all()
    for other in (learned.bind(scale=1.0), leaning.bind()):
        with pytest.raises(SignalError, match="does not belong"):
            other.restore(saved)


def test_the_fingerprint_follows_factory_features_and_counts():
    def shape(**options):
        return estimator_signal(**({"estimator": ridge, "features": (moved,), "name": "same"} | options))(
            leaning.definition
        )

    def stronger(penalty=param(0.5, low=0.0, high=1e6)):
        return make_pipeline(StandardScaler(), Ridge(alpha=2.0 * penalty, random_state=0))

    same = shape().fingerprint
    assert shape().fingerprint == same
    changed = [
        shape(estimator=stronger),
        shape(features=(stretched,)),
        shape(features=(moved.bind(lookback=2),)),
        shape(horizon=2),
        shape(target="direction"),
        shape(price="open"),
    ]
    assert len({same, *(each.fingerprint for each in changed)}) == 7


def test_a_definition_travels_to_another_process():
    shape = estimator_signal(estimator=ridge, features=(stretched,), train=20)(leaning.definition)
    arrived = cloudpickle.loads(cloudpickle.dumps(shape))
    assert arrived.fingerprint == shape.fingerprint
    closes = {"close": random_walk(60, seed=1)}
    assert (arrived.bind().exposures(closes) == shape.bind().exposures(closes)).all()


def test_the_documented_example_is_a_working_module():
    text = documented.__doc__.split("into a target exposure::")[1].split("Rules:")[0]
    module = types.ModuleType("documented_estimator")
    bars = bars_of({"A": random_walk(700, seed=1)})
    names = {"trend": moved, "calm": stretched, "bars": bars, "param": param, "estimator_signal": estimator_signal}
    module.__dict__.update(names)
    exec(textwrap.dedent(text), module.__dict__)
    exposures = module.learned.bind(penalty=10.0).evaluate(bars)["exposure"]
    assert set(exposures.unique()) <= {0.0, 1.0}
