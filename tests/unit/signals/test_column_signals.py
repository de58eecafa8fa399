"""Column signals: an expression or function of a frame, defined as its newest answer over a window."""

import textwrap
import types
from datetime import date

import cloudpickle
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantflow.signals._columns as documented
from quantflow.errors import InvalidBarsError, MissingColumnError, ParameterError, SignalError
from quantflow.live import parity
from quantflow.signals import Decider, check_causality, column_signal, is_definition, param, signal
from quantflow.testing.signals import bars_of, price_paths, random_walk

CLOSE, VOLUME = pl.col("close"), pl.col("volume")


@column_signal(window="lookback")
def reversal(lookback=param(5, low=2, high=100, doc="bars")):
    """Against the deviation from the mean."""
    return (1.0 - CLOSE / CLOSE.rolling_mean(lookback)).clip(-1.0, 1.0)


@column_signal(window=lambda lookback: lookback + 1, columns=("close", "volume"))
def confirmed(frame, lookback=param(3, low=1, high=100), weight=param(0.5), inverted=param(False)):
    change = frame["close"].pct_change(lookback)
    answer = weight * change.sign() * (frame["volume"] > 1.0)
    return -answer if inverted else answer


@column_signal(window=3)
def expressed(frame):
    return pl.col("close") / frame["close"].mean() - 1.0


EXPRESSIONS = {
    "rolling": (CLOSE - CLOSE.rolling_mean(4)) / CLOSE,
    "exponential": CLOSE.ewm_mean(span=3) / CLOSE,
    "aggregate": CLOSE / CLOSE.mean(),
    "deviation": CLOSE.std() / CLOSE,
    "rank": CLOSE.rank() / pl.len(),
    "cumulative": CLOSE / CLOSE.cum_max(),
    "branches": pl.when(CLOSE.shift(2) < CLOSE).then(1.0).otherwise(-0.5),
    "constant": pl.lit(0.25),
    "boolean": CLOSE.shift(1) < CLOSE,
    "ordered": CLOSE.sort().shift(1) / CLOSE,
    "two columns": (CLOSE.diff() * VOLUME.diff()).sum().sign(),
    "integer": pl.int_range(pl.len()),
    "python": CLOSE.map_batches(lambda values: values / values.max(), return_dtype=pl.Float64),
    "nested window": CLOSE.max().over(VOLUME > 0.0) / CLOSE,
}


def signal_of(expression, *, window=5, columns=("close", "volume")):
    return column_signal(window=window, columns=columns, name="tried")(lambda: expression)


def columns_of(closes):
    closes = np.asarray(closes, dtype=np.float64)
    return {"close": closes, "volume": 1.0 + np.arange(len(closes)) % 3}


def defined(expression, columns, window=5):
    """The definition, word for word: the newest answer over the last bars, at each bar."""
    frame = pl.DataFrame(columns)
    answers = [0.0] * min(window - 1, frame.height)
    for end in range(window, frame.height + 1):
        answers.append(float(frame.head(end).tail(window).select(expression.alias("answer"))["answer"][-1]))
    return np.array(answers)


def stepped(bound, columns, state):
    rows = len(columns["close"])
    return [bound.step(state, {name: values[row] for name, values in columns.items()}) for row in range(rows)]


@pytest.mark.parametrize("name", EXPRESSIONS)
@given(closes=price_paths(max_size=30))
def test_an_answer_is_that_of_the_window_alone(name, closes):
    columns = columns_of(closes)
    exposures = signal_of(EXPRESSIONS[name]).bind().exposures(columns)
    np.testing.assert_allclose(exposures, defined(EXPRESSIONS[name], columns), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bound", [reversal.bind(), confirmed.bind(), expressed.bind()], ids=repr)
@given(closes=price_paths(max_size=25), data=st.data())
def test_bar_by_bar_and_resumed_anywhere_it_answers_the_same(bound, closes, data):
    columns = columns_of(closes)
    stop = data.draw(st.integers(0, len(closes)))
    state = bound.start()
    before = stepped(bound, {name: values[:stop] for name, values in columns.items()}, state)
    after = stepped(
        bound, {name: values[stop:] for name, values in columns.items()}, bound.restore(bound.snapshot(state))
    )
    np.testing.assert_allclose(before + after, bound.exposures(columns), rtol=1e-9, atol=1e-9)


@given(closes=price_paths(min_size=2, max_size=40), data=st.data())
def test_truncating_or_changing_the_future_does_not_move_the_past_even_of_a_signal_that_peeks(closes, data):
    cut = data.draw(st.integers(1, len(closes)))
    peeking = signal_of(CLOSE / CLOSE.max(), window=2).bind()
    changed = columns_of(np.append(closes[:cut], closes[cut:][::-1] * 3.0))
    past = peeking.exposures(columns_of(closes))[:cut]
    assert (peeking.exposures(columns_of(closes[:cut])) == past).all()
    assert (peeking.exposures(changed)[:cut] == past).all()


def test_many_symbols_in_one_call_equal_each_on_its_own():
    bound = reversal.bind(lookback=7)
    paths = {f"S{index}": random_walk(3 + 9 * index, seed=index) for index in range(5)}
    together = bound.evaluate(bars_of(paths).sample(fraction=1.0, shuffle=True, seed=1))
    assert together.columns == ["symbol", "session", "timestamp", "exposure"]
    for symbol, path in paths.items():
        mine = together.filter(symbol=symbol)
        assert mine["timestamp"].is_sorted()
        np.testing.assert_allclose(mine["exposure"].to_numpy(), bound.exposures({"close": path}), rtol=1e-12)


def test_more_windows_than_fit_in_memory_at_once_are_taken_in_parts(monkeypatch):
    columns = {"close": random_walk(200, seed=1)}
    whole = reversal.bind().exposures(columns)
    monkeypatch.setattr("quantflow.signals._windows._CHUNK_ROWS", 35)
    assert (reversal.bind().exposures(columns) == whole).all()


def test_seen_whole_it_answers_what_it_is_defined_to():
    bars = bars_of({"A": random_walk(300, seed=1), "B": random_walk(40, seed=2), "C": random_walk(3, seed=3)})
    for shape in (reversal, expressed_whole):
        at_once = shape.bind(whole_frame=True).evaluate(bars)
        by_definition = shape.bind().evaluate(bars)
        np.testing.assert_allclose(at_once["exposure"], by_definition["exposure"], rtol=1e-9, atol=1e-9)


@column_signal(window=6)
def expressed_whole(frame):
    return frame["close"].rolling_max(6) / frame["close"] - 1.0


def test_a_constant_and_an_aggregate_seen_whole_hold_at_every_bar():
    constant = signal_of(pl.lit(0.5), window=1).bind(whole_frame=True)
    assert constant.exposures(columns_of([1.0, 2.0, 3.0])).tolist() == [0.5, 0.5, 0.5]


def test_seen_whole_a_look_ahead_is_caught_by_the_sampled_bars():
    bars = bars_of({"A": random_walk(100, seed=1)})
    scaled = signal_of(CLOSE / CLOSE.max(), columns=("close",)).bind(whole_frame=True)
    with pytest.raises(SignalError, match=r"whole frame, answers .* at A at 2020-01-05; over the 5 bars known then"):
        scaled.evaluate(bars)
    with pytest.raises(SignalError, match=r"answered nan at row 99 .*looks ahead"):
        signal_of(CLOSE.shift(-1) / CLOSE, columns=("close",)).bind(whole_frame=True).exposures(
            {"close": random_walk(100, seed=1)}
        )


def test_the_exposure_is_zero_until_the_window_is_full():
    bound = reversal.bind(lookback=10)
    exposures = bound.exposures({"close": random_walk(30, seed=1)})
    assert bound.warm_up == 9
    assert (exposures[:9] == 0.0).all()
    assert (exposures[9:] != 0.0).all()
    assert len(bound.exposures({"close": random_walk(4, seed=1)})) == 4
    assert len(bound.exposures({"close": []})) == 0
    assert bound.evaluate(bars_of({})).height == 0


def test_it_is_a_decider_and_its_definition_lists_what_can_be_varied():
    bound = confirmed.bind(lookback=4, inverted=True)
    assert isinstance(bound, Decider)
    assert is_definition(confirmed)
    assert (bound.kind, confirmed.kind, bound.columns) == ("exposure", "exposure", ("close", "volume"))
    assert dict(bound.parameters) == {"lookback": 4, "weight": 0.5, "inverted": True}
    assert bound.window == 5
    assert [each.kind for each in confirmed.parameters.values()] == ["int", "float", "bool"]
    assert reversal.__doc__ == "Against the deviation from the mean."
    assert "reversal(lookback)" in repr(reversal)
    with pytest.raises(ParameterError, match="'lookback' is 1"):
        reversal.bind(lookback=1)


def test_backtest_and_live_consumer_run_it_unchanged():
    bars = bars_of({"A": random_walk(40, seed=1), "B": [None] * 20 + list(random_walk(20, seed=2))})
    for bound in (reversal.bind(), expressed.bind()):
        report = parity(bound, bars, fill="next_close", fee_bps=1.0, restarts=3)
        assert report.agrees, report
        assert (report.restarts, report.compared["exposures"]) == (3, 60)


def test_the_documented_example_is_a_working_module():
    text = documented.__doc__.split("whole history at once::")[1].split("What it *means*")[0]
    module = types.ModuleType("documented_columns")
    module.__dict__.update(column_signal=column_signal, param=param, pl=pl)
    exec(textwrap.dedent(text), module.__dict__)
    assert check_causality(module.reversal, bars_of({"A": random_walk(200, seed=1)})).passed


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (pl.col("high") + CLOSE, r"reads 'high'; declared: close, volume"),
        (pl.col("close", "volume"), "allowed: one column of numbers"),
        (CLOSE.cast(pl.String), "gives .*String"),
        (pl.struct("close"), "allowed: one column of numbers"),
        (CLOSE.list.len(), "Polars refuses its expression"),
        (3.0, "answered a float; allowed: a Polars expression"),
    ],
)
def test_expressions_that_cannot_be_used_are_refused_when_bound(expression, message):
    with pytest.raises(SignalError, match=message):
        signal_of(expression).bind()


def test_a_definition_that_raises_is_refused_with_its_values():
    @column_signal(window=3)
    def broken(lookback=param(3)):
        return CLOSE / (1 / (lookback - 3))

    with pytest.raises(SignalError, match=r"'broken' raised ZeroDivisionError for \{'lookback': 3\}"):
        broken.bind()


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("span", "its window names span; its parameters are: lookback"),
        (lambda span: span, "its window names span"),
    ],
)
def test_a_window_of_unknown_parameters_is_refused(window, message):
    with pytest.raises(SignalError, match=message):
        column_signal(window=window)(reversal.definition)


@pytest.mark.parametrize("window", [0, 2.5, True, lambda lookback: lookback - 5])
def test_a_window_is_a_whole_number_of_bars(window):
    with pytest.raises(SignalError, match=r"its window is .*; allowed: a whole number of bars"):
        column_signal(window=window)(reversal.definition).bind()


def test_signatures_that_declare_nothing_are_refused():
    with pytest.raises(SignalError, match="at most one before the parameters"):
        column_signal(window=1)(lambda frame, other: frame)
    with pytest.raises(SignalError, match="'span' must be a parameter"):
        column_signal(window=1)(lambda span=3: CLOSE)
    with pytest.raises(SignalError, match="parameters come last"):
        column_signal(window=1)(lambda span=param(3), frame=None: CLOSE)
    with pytest.raises(SignalError, match="none named whole_frame"):
        column_signal(window=1)(lambda whole_frame=param(True): CLOSE)
    with pytest.raises(SignalError, match="made of a plain function"):
        column_signal(window=1)(3.0)
    with pytest.raises(SignalError, match="allowed: some of open"):
        column_signal(window=1, columns=("price",))(lambda: CLOSE)


def test_an_answer_that_is_no_number_is_an_error_that_names_the_bar():
    bars = bars_of({"A": random_walk(20, seed=1)})
    with pytest.raises(SignalError, match=r"answered nan at A at 2020-01-05 \(16 such bars\), after its warm-up of 4"):
        signal_of(CLOSE.pct_change(5), columns=("close",)).bind().evaluate(bars)
    with pytest.raises(SignalError, match="answered inf at A at 2020-01-01"):
        signal_of(CLOSE / 0.0, window=1, columns=("close",)).bind().evaluate(bars)


@column_signal(window=2)
def raises_above(frame, level=param(104.0)):
    if frame["close"][-1] > level:
        raise RuntimeError("too high")
    return frame["close"] * 0.0


def test_a_function_that_raises_names_the_bar_and_changes_no_state():
    bound = raises_above.bind()
    with pytest.raises(SignalError, match="'raises_above' raised RuntimeError at A at 2020-01-06: too high"):
        bound.evaluate(bars_of({"A": np.arange(100.0, 110.0)}))
    state = bound.start()
    stepped(bound, {"close": [100.0, 101.0]}, state)
    before = state.copy()
    with pytest.raises(SignalError, match=r"too high"):
        bound.step(state, {"close": 105.0})
    assert (state == before).all()
    assert bound.step(state, {"close": 102.0}) == 0.0


def test_a_python_function_inside_an_expression_that_raises_names_the_bar():
    def refuse(values):
        if values[-1] > 104.0:
            raise RuntimeError("too high")
        return values

    bound = signal_of(CLOSE.map_batches(refuse, return_dtype=pl.Float64), window=2, columns=("close",)).bind()
    with pytest.raises(SignalError, match=r"at A at 2020-01-06: .*too high"):
        bound.evaluate(bars_of({"A": np.arange(100.0, 110.0)}))
    with pytest.raises(SignalError, match="'tried': the expression raised"):
        column_signal(window=2, name="tried")(lambda: CLOSE.map_batches(refuse, return_dtype=pl.Float64)).bind(
            whole_frame=True
        ).evaluate(bars_of({"A": np.arange(100.0, 110.0)}))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda frame: frame["close"].head(1), "answered 1 values for 2 bars, the newest A at 2020-01-02"),
        (lambda frame: frame["close"].cast(pl.String), "answered String; allowed: numbers"),
        (lambda frame: 1.0, "answered a float at A at 2020-01-02"),
    ],
)
def test_functions_answer_a_number_for_each_bar(answer, message):
    with pytest.raises(SignalError, match=message):
        column_signal(window=2, name="tried")(answer).bind().evaluate(bars_of({"A": [1.0, 2.0, 3.0]}))


def test_bad_bars_are_refused_by_name():
    bars = bars_of({"A": [1.0, 2.0]})
    with pytest.raises(MissingColumnError, match="'volume'"):
        confirmed.bind().evaluate(bars)
    with pytest.raises(MissingColumnError, match="'timestamp'"):
        reversal.bind().evaluate(bars.drop("timestamp"))
    with pytest.raises(InvalidBarsError, match="close is nan at row 1"):
        reversal.bind().exposures({"close": [1.0, np.nan]})
    with pytest.raises(InvalidBarsError, match="first A at 2020-01-01"):
        reversal.bind().evaluate(pl.concat([bars, bars.head(1)]))
    with pytest.raises(MissingColumnError, match="'close'"):
        reversal.bind().step(reversal.bind().start(), {"close": None})
    with pytest.raises(SignalError, match="close is inf"):
        reversal.bind().step(reversal.bind().start(), {"close": np.inf})


def test_a_state_belongs_to_its_code_and_parameters():
    bound = reversal.bind()
    saved = bound.snapshot(bound.start())
    assert (bound.restore(saved) == bound.start()).all()
    for other in (reversal.bind(lookback=6), expressed.bind()):
        with pytest.raises(SignalError, match="does not belong"):
            other.restore(saved)
    with pytest.raises(SignalError, match="does not belong"):
        bound.restore(saved[:-8])
    with pytest.raises(SignalError, match="not a state"):
        bound.step(np.zeros(3), {"close": 1.0})


def test_a_definition_travels_to_another_process():
    for shape in (reversal, confirmed, column_signal(window=lambda: 4, name="made")(lambda: CLOSE / CLOSE.mean())):
        arrived = cloudpickle.loads(cloudpickle.dumps(shape))
        assert (arrived.name, arrived.columns, arrived.fingerprint) == (shape.name, shape.columns, shape.fingerprint)
        columns = columns_of(random_walk(30, seed=1))
        assert (arrived.bind().exposures(columns) == shape.bind().exposures(columns)).all()


def test_a_bare_expression_with_a_name_is_a_signal():
    expression = 1.0 - CLOSE / CLOSE.mean()
    fade = column_signal(window=5, name="fade")(expression)
    columns = {"close": random_walk(30, seed=1)}
    assert (fade.name, dict(fade.parameters)) == ("fade", {})
    assert (fade.bind().exposures(columns) == signal_of(expression, columns=("close",)).bind().exposures(columns)).all()
    assert fade.fingerprint != column_signal(window=5, name="fade")(-expression).fingerprint
    with pytest.raises(SignalError, match="has no name; give it"):
        column_signal(window=5)(expression)


def test_whole_sessions_are_labelled_in_errors():
    bars = bars_of({"A": [100.0] * 3, "B": [100.0] * 2 + [103.0]}, first=date(2024, 5, 1))
    flat = column_signal(window=2)(lambda: CLOSE.diff() / (CLOSE - 103.0))
    with pytest.raises(SignalError, match="answered inf at B at 2024-05-03"):
        flat.bind().evaluate(bars)


@signal()
def rising(bar):
    return 1.0


def test_a_bar_by_bar_signal_is_a_definition_as_well():
    assert is_definition(rising)
