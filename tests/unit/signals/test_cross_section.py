"""Cross-sectional signals: one definition over whole panels, step by step, in batches, resumed, uncompiled."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.errors import InvalidBarsError, MissingColumnError, ParameterError, SignalError
from quantflow.signals import Panel, cross_sectional, memory, param, shared, sma
from quantflow.signals.weights import rank_weights
from quantflow.testing.signals import bars_of, random_walk, strongest, trend, with_gaps

SYMBOLS = tuple("ABCDEF")
BARS = bars_of({symbol: random_walk(60, seed=seed) for seed, symbol in enumerate(SYMBOLS)})
GAPPY = with_gaps(BARS, 0.2, seed=5)
BOUND = strongest.bind(symbols=SYMBOLS)


def panel_of(bars=GAPPY, symbols=SYMBOLS):
    return Panel.of(bars, ["close"], symbols=symbols)


def bit_for_bit(left, right):
    return np.asarray(left).tobytes() == np.asarray(right).tobytes()


def plain(function, **options):
    """Return a cross-sectional signal that is run as plain Python."""
    return cross_sectional(**options)(function).bind(uncompiled=True)


def test_weights_sum_to_nothing_and_gross_to_one_once_warm():
    weights = BOUND.weights(panel_of(BARS))
    assert weights.shape == (60, 6)
    assert (weights[:3] == 0.0).all()
    settled = weights[4:]
    np.testing.assert_allclose(settled.sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.abs(settled).sum(axis=1), 1.0)


def test_weights_are_what_a_plain_computation_says():
    panel = panel_of(BARS)
    close = panel.columns[0]
    weights = strongest.bind(symbols=SYMBOLS, every=1, lookback=5).weights(panel)
    for row in range(5, 60):
        order = np.argsort(-(close[row] / close[row - 5]))
        expected = np.zeros(6)
        expected[order[:2]], expected[order[-2:]] = 0.25, -0.25
        np.testing.assert_allclose(weights[row], expected)


def test_the_panel_is_the_frame_in_the_order_of_the_universe():
    panel = panel_of(GAPPY.sample(fraction=1.0, shuffle=True, seed=1), ("F", "A"))
    assert panel.symbols == ("F", "A")
    assert panel.timestamps.is_sorted()
    for index, symbol in enumerate(panel.symbols):
        mine = GAPPY.filter(symbol=symbol).sort("timestamp")
        here = panel.present[:, index]
        assert panel.columns[0, here, index].tolist() == mine["close"].to_list()
        assert np.isnan(panel.columns[0, ~here, index]).all()
        assert panel.timestamps.filter(pl.Series(here)).to_list() == mine["timestamp"].to_list()


def test_the_frame_has_a_row_for_every_timestamp_since_a_symbols_first_bar():
    late = GAPPY.filter((pl.col("symbol") != "C") | (pl.col("session") >= pl.date(2020, 1, 20)))
    said = BOUND.evaluate(late)
    assert said.columns == ["symbol", "session", "timestamp", "exposure"]
    assert said.equals(said.sort("symbol", "timestamp"))
    timestamps = late["timestamp"].unique().sort()
    first = late.filter(symbol="C")["timestamp"].min()
    assert said.filter(symbol="C")["timestamp"].to_list() == [each for each in timestamps if each >= first]
    matched = said.join(late, on=["symbol", "timestamp"])
    assert (matched["session"] == matched["session_right"]).all()


def test_the_order_of_the_universe_matters_only_for_its_columns():
    turned = strongest.bind(symbols=SYMBOLS[::-1]).evaluate(GAPPY)
    assert turned.equals(BOUND.evaluate(GAPPY))


@given(seed=st.integers(0, 1000), cut=st.integers(0, 60), share=st.floats(0.0, 0.6))
def test_a_signal_stopped_anywhere_and_resumed_equals_one_never_stopped(seed, cut, share):
    panel = panel_of(with_gaps(BARS, share, seed=seed))
    cut = min(cut, len(panel))
    state = BOUND.start()
    before = BOUND.weigh(state, np.ascontiguousarray(panel.columns[:, :cut]), panel.present[:cut])
    state = BOUND.restore(BOUND.snapshot(state))
    after = BOUND.weigh(state, np.ascontiguousarray(panel.columns[:, cut:]), panel.present[cut:])
    assert bit_for_bit(np.vstack([before, after]), BOUND.weights(panel))
    assert BOUND.timestamps_seen(state) == len(panel)
    assert BOUND.bars_seen(state).tolist() == panel.present.sum(axis=0).tolist()


def test_timestamp_by_timestamp_equals_the_whole_panel_bit_for_bit():
    panel = panel_of()
    state, stepped = BOUND.start(), []
    for row in range(len(panel)):
        bars = {s: {"close": panel.columns[0, row, i]} for i, s in enumerate(SYMBOLS) if panel.present[row, i]}
        stepped.append(list(BOUND.step(state, bars | {"ELSE": {"close": 1.0}}).values()))
    assert bit_for_bit(np.array(stepped), BOUND.weights(panel))


@given(cut=st.integers(1, 60))
def test_truncating_the_future_does_not_change_the_past(cut):
    past = GAPPY.filter(pl.col("timestamp") <= GAPPY["timestamp"].unique().sort()[cut - 1])
    whole, part = BOUND.weights(panel_of()), BOUND.weights(panel_of(past))
    assert bit_for_bit(part, whole[: len(part)])


def test_uncompiled_agrees_to_a_billionth():
    uncompiled = strongest.bind(symbols=SYMBOLS, uncompiled=True)
    np.testing.assert_allclose(uncompiled.weights(panel_of()), BOUND.weights(panel_of()), rtol=1e-9, atol=1e-12)


def test_a_batch_of_combinations_equals_each_of_them_bit_for_bit():
    lookbacks, fractions = np.array([1, 3, 9, 3]), np.array([0.1, 0.34, 0.5, 0.2])
    batch = strongest.batch({"lookback": lookbacks, "fraction": fractions, "every": 3})
    assert (batch.count, batch.warm_up.tolist()) == (4, lookbacks.tolist())
    prepared = batch.prepare(panel_of(), 1)
    out = np.empty((3, *panel_of().present.shape))
    prepared.fill(1, 4, out)
    for number in range(1, 4):
        assert batch.parameters(number) == {"lookback": lookbacks[number], "fraction": fractions[number], "every": 3}
        alone = strongest.bind(symbols=SYMBOLS, **batch.parameters(number))
        assert bit_for_bit(out[number - 1], alone.weights(panel_of()))


def test_a_panel_with_more_columns_gives_the_signal_its_own():
    columns = {name: {s: random_walk(60, seed=9) for s in SYMBOLS} for name in ("open", "volume")}
    bars = bars_of({s: random_walk(60, seed=i) for i, s in enumerate(SYMBOLS)}, **columns)
    wide = Panel.of(bars, ["open", "close", "volume"])
    assert bit_for_bit(BOUND.weights(wide), BOUND.weights(panel_of(BARS)))
    with pytest.raises(MissingColumnError, match="'close'"):
        BOUND.weights(Panel.of(bars, ["open"]))


def put_ones(bars, weights):
    for symbol in range(len(weights)):
        weights[symbol] = 1.0 + symbol


CLOSES = {"A": [1.0, None, None, None, 1.0], "B": [None, 1.0, 1.0, 1.0, 1.0]}


@pytest.mark.parametrize(
    ("options", "of_a"),
    [
        ({"missing": "hold"}, [1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"missing": "hold", "hold_bars": 2}, [1.0, 1.0, 1.0, 0.0, 1.0]),
        ({"missing": "flat"}, [1.0, 0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_the_target_of_a_symbol_without_a_bar_follows_the_policy(options, of_a):
    weights = plain(put_ones, **options).weights(Panel.of(bars_of(CLOSES), ["close"]))
    assert weights[:, 0].tolist() == of_a
    assert weights[:, 1].tolist() == [0.0, 2.0, 2.0, 2.0, 2.0]


def test_refusing_missing_symbols_names_the_first_before_anything_runs():
    refusing = plain(put_ones, missing="refuse")
    with pytest.raises(SignalError, match=r"no bar for B at 2020-01-01 \(4 such gaps\)"):
        refusing.evaluate(bars_of(CLOSES))
    with pytest.raises(SignalError, match="no bar for B"):
        refusing.over(["A", "B"]).step(refusing.start(["A", "B"]), {"A": {"close": 1.0}})
    assert refusing.evaluate(bars_of({"A": [1.0, 2.0], "B": [1.0, 2.0]}))["exposure"].to_list() == [1.0, 1.0, 2.0, 2.0]


def test_what_is_not_written_stays_as_it_was():
    def once(bars, weights, clock=shared(memory())):
        if clock[0] == 0.0:
            weights[0] = 0.7
        clock[0] += 1.0

    weights = plain(once).weights(Panel.of(bars_of({"A": [1.0] * 4}), ["close"]))
    assert weights[:, 0].tolist() == [0.7] * 4


def test_warm_ups_of_symbols_count_their_bars_and_shared_ones_timestamps():
    def averaged(bars, weights, own=sma.over(2), all_=shared(sma.over("window")), window=param(3, low=1)):
        total = 0.0
        for symbol in range(len(weights)):
            sma(own[symbol], bars.close[symbol])
            total += bars.close[symbol] if bars.present[symbol] else 0.0
            weights[symbol] = 1.0
        sma(all_, total)

    closes = {"A": [1.0] * 6, "B": [None, None, None, 1.0, 1.0, 1.0]}
    bound = plain(averaged)
    assert bound.warm_up == 2
    weights = bound.weights(Panel.of(bars_of(closes), ["close"]))
    assert weights[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert weights[:, 1].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]


def test_a_weight_that_is_not_finite_is_named_by_symbol_and_session():
    def divides(bars, weights):
        weights[1] = math.inf

    with pytest.raises(SignalError, match="divides wrote the weight inf for B at 2020-01-02"):
        plain(divides).evaluate(bars_of(CLOSES))


def test_a_signal_that_raises_names_the_timestamp():
    def fails(bars, weights):
        if bars.present[1]:
            raise ValueError("no such thing")

    with pytest.raises(SignalError, match="fails raised ValueError at the timestamp of B at 2020-01-02: no such thing"):
        plain(fails).evaluate(bars_of(CLOSES))


def test_a_batch_names_the_combination_that_failed():
    @cross_sectional(missing="flat")
    def ratio(bars, weights, by=param(1.0), own=memory()):
        for symbol in range(len(weights)):
            if bars.present[symbol]:
                weights[symbol] = own[symbol][0] / by

    prepared = ratio.batch({"by": [1.0, 0.0]}).prepare(panel_of())
    out = np.empty((2, *panel_of().present.shape))
    with pytest.raises(SignalError, match=r"ratio raised ZeroDivisionError .*\(combination 1: by=0.0\)"):
        prepared.fill(0, 2, out)
    with pytest.raises(SignalError, match="combinations 0 to 3 were asked for, prepared: 0 to 2"):
        prepared.fill(0, 3, out)
    with pytest.raises(SignalError, match="give C-contiguous float64 of shape"):
        prepared.fill(0, 1, out)
    with pytest.raises(ParameterError, match="'by' is inf in combination 1"):
        ratio.batch({"by": [1.0, math.inf]})


def test_a_function_that_returns_weights_is_told_to_write_them():
    def returns(bars, weights):
        return weights

    with pytest.raises(SignalError, match="must write its target weights into weights"):
        plain(returns).evaluate(BARS)


def test_a_state_goes_on_only_with_its_own_signal_and_universe():
    saved = BOUND.snapshot(BOUND.start())
    for other in (strongest.bind(symbols=SYMBOLS[:5]), strongest.bind(symbols=SYMBOLS, lookback=4), trend.bind()):
        with pytest.raises(SignalError, match="does not belong to"):
            other.restore(saved)
    with pytest.raises(SignalError, match="does not belong to"):
        BOUND.restore(saved[:-8])
    panel = panel_of()
    with pytest.raises(SignalError, match=r"not a state of .* for 6 symbols"):
        BOUND.weigh(BOUND.start()[:-1], panel.columns, panel.present)


def test_a_universe_may_come_from_the_definition_the_binding_or_the_bars():
    def nothing(bars, weights):
        pass

    declared = cross_sectional(symbols=["KO", "PEP"])(nothing)
    assert declared.bind().symbols == ("KO", "PEP")
    assert declared.bind(symbols=["PEP"]).symbols == ("PEP",)
    free = cross_sectional()(nothing).bind(uncompiled=True)
    assert free.symbols is None
    assert free.over(["B"]).evaluate(BARS)["symbol"].unique().to_list() == ["B"]
    assert free.evaluate(BARS)["symbol"].unique().sort().to_list() == list(SYMBOLS)
    assert len(free.start(["A", "B"])) == 7
    with pytest.raises(SignalError, match="has no universe yet"):
        free.start()
    with pytest.raises(SignalError, match="the panel has the symbols A, B"):
        declared.batch({}).prepare(Panel.of(BARS, ["close"], symbols=["A", "B"]))


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        (BARS.clear(), "no bars"),
        (BARS.filter(symbol="A").with_columns(symbol=pl.lit("Z")), "no bars of A, B, C, D, E and 1 others"),
        (pl.concat([BARS, BARS.head(1)]), "2 rows share a symbol and timestamp, first A at 2020-01-01"),
        (
            BARS.with_columns(close=pl.when(pl.col("symbol") == "B").then(math.inf).otherwise("close")),
            "close is inf at B",
        ),
        (BARS.with_columns(session=pl.when(pl.col("symbol") != "B").then("session")), "session is null in a bar of B"),
    ],
)
def test_bars_that_cannot_be_used_are_named(bars, message):
    with pytest.raises(InvalidBarsError, match=message):
        BOUND.evaluate(bars)


def test_missing_columns_are_named():
    wants_high = cross_sectional(columns=("high",))(put_ones).bind(symbols=SYMBOLS, uncompiled=True)
    for bars in (BARS, BARS.drop("high")):
        with pytest.raises(MissingColumnError, match="reads the column 'high'"):
            wants_high.evaluate(bars)
    with pytest.raises(MissingColumnError, match="the bar of A does not have"):
        BOUND.step(BOUND.start(), {"A": {"open": 1.0}})
    with pytest.raises(SignalError, match="close is nan in the bar of A; nothing was changed"):
        BOUND.step(BOUND.start(), {"A": {"close": math.nan}})


def one(bars, weights, lookback=param(3)):
    pass


def no_weights(bars):
    pass


def plain_default(bars, weights, lookback=3):
    pass


def reserved(bars, weights, symbols=param(3)):
    pass


def unknown_parameter(bars, weights, own=sma.over("window")):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cross_sectional()(3), "made of a plain function, not of 3"),
        (lambda: cross_sectional()(no_weights), "first arguments must be bars and weights"),
        (lambda: cross_sectional()(plain_default), "'lookback' must be a parameter"),
        (lambda: cross_sectional()(reserved), "none named uncompiled or symbols"),
        (lambda: cross_sectional()(unknown_parameter), "a slot names window; its parameters are: none"),
        (lambda: cross_sectional(columns=("price",))(one), "columns are"),
        (lambda: cross_sectional(missing="drop")(one), "missing is 'drop'; allowed"),
        (lambda: cross_sectional(missing="flat", hold_bars=2)(one), "hold_bars is 2 with missing='flat'"),
        (lambda: cross_sectional(hold_bars=-1)(one), "hold_bars is -1"),
        (lambda: cross_sectional(grace_s=-1.0)(one), "grace_s is -1.0"),
        (lambda: cross_sectional(symbols=[])(one), "allowed: at least one"),
        (lambda: cross_sectional(symbols=["A", "B", "A"])(one), "names A more than once"),
        (lambda: cross_sectional(symbols="SPY")(one), r"such as \['SPY'\]"),
        (lambda: shared(3), "shared is given 3"),
        (lambda: cross_sectional()(one).bind(window=3), "unknown parameter 'window'"),
    ],
)
def test_what_cannot_be_a_cross_sectional_signal_is_refused_with_what_is_allowed(make, message):
    with pytest.raises(SignalError, match=message):
        make()


def test_definitions_say_what_they_are():
    assert (strongest.kind, BOUND.kind, trend.bind().kind) == ("weights", "weights", "exposure")
    assert list(strongest.parameters) == ["lookback", "fraction", "every"]
    assert BOUND.parameters == {"lookback": 3, "fraction": 0.34, "every": 2}
    assert (BOUND.name, BOUND.columns, BOUND.warm_up) == ("strongest", ("close",), 3)
    assert repr(BOUND) == "<strongest(lookback=3, fraction=0.34, every=2)>"
    assert repr(strongest) == "<cross-sectional signal strongest(lookback, fraction, every) on close>"


def test_the_fingerprint_covers_the_helpers_that_a_signal_calls():
    def ranked(bars, weights):
        rank_weights(weights, bars.present, 1.0)

    def ranked_double(bars, weights):
        rank_weights(weights, bars.present, 2.0)

    first, second = cross_sectional(name="x")(ranked), cross_sectional(name="x")(ranked_double)
    assert first.fingerprint == cross_sectional(name="x")(ranked).fingerprint != second.fingerprint
