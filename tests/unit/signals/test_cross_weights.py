"""From scores to weights: budgets are kept, better scores never weigh less, held symbols stay."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.signals import _ranks, cross_sectional, param
from quantflow.signals import weights as weights_module
from quantflow.signals.weights import (
    best_weights,
    long_short,
    pair_weights,
    proportional_weights,
    rank_weights,
    standardise,
)

NAN = math.nan
ALL = np.ones(5, dtype=bool)


@st.composite
def scored(draw, helds=st.floats(-0.2, 0.2)):
    """Scores of present symbols, some NaN and some equal; held weights of absent ones."""
    score = st.one_of(st.floats(-100.0, 100.0), st.sampled_from([0.0, 1.0, -1.0]), st.just(NAN))
    present = draw(st.lists(st.booleans(), min_size=1, max_size=12))
    return np.array([draw(score if here else helds) for here in present]), np.array(present)


def in_place(helper, scores, present, *options):
    weights = np.array(scores, dtype=np.float64)
    helper(weights, np.array(present, dtype=bool), *options)
    return weights


def test_deciles_by_hand():
    scores = [3.0, 1.0, 5.0, 2.0, 4.0]
    assert in_place(long_short, scores, ALL, 0.4, 1.0).tolist() == [0.0, -0.25, 0.25, -0.25, 0.25]
    assert in_place(long_short, scores, ALL, 0.1, 2.0).tolist() == [0.0, -1.0, 1.0, 0.0, 0.0]
    assert in_place(best_weights, scores, ALL, 0.4, 1.0).tolist() == [0.0, 0.0, 0.5, 0.0, 0.5]
    assert in_place(best_weights, scores, ALL, 1.0, 1.0).tolist() == [0.2] * 5


def test_ranks_by_hand():
    assert in_place(rank_weights, [30.0, 10.0, 20.0], ALL[:3], 1.0).tolist() == [0.5, -0.5, 0.0]
    # Ranks 0, 1.5, 1.5, 3 are -1.5, 0, 0, 1.5 about their mean.
    assert in_place(rank_weights, [1.0, 2.0, 2.0, 9.0], ALL[:4], 2.0).tolist() == [-1.0, 0.0, 0.0, 1.0]


def test_proportions_and_z_scores_by_hand():
    assert in_place(proportional_weights, [1.0, -3.0, NAN], ALL[:3], 1.0).tolist() == [0.25, -0.75, 0.0]
    z = in_place(standardise, [1.0, 3.0, NAN], ALL[:3], 3.0)
    assert z[:2].tolist() == [-1.0, 1.0]
    assert math.isnan(z[2])
    assert in_place(standardise, [0.0] * 99 + [1.0], np.ones(100), 3.0)[99] == 3.0
    assert in_place(standardise, [NAN, NAN], ALL[:2], 3.0).tobytes() == np.array([NAN, NAN]).tobytes()


def test_equal_scores_are_told_apart_by_the_order_of_the_universe():
    assert in_place(long_short, [1.0] * 5, ALL, 0.2, 1.0).tolist() == [0.5, 0.0, 0.0, 0.0, -0.5]
    assert in_place(rank_weights, [1.0] * 5, ALL, 1.0).tolist() == [0.0] * 5


@pytest.mark.parametrize("helper", [long_short, rank_weights, proportional_weights])
def test_what_is_held_of_absent_symbols_uses_up_its_part_of_the_budget(helper):
    weights = in_place(
        helper, [2.0, 0.3, -1.0, -0.1], [True, False, True, False], *([0.5] if helper is long_short else []), 1.0
    )
    assert weights[1] == 0.3
    assert weights[3] == -0.1
    assert np.abs(weights).sum() == pytest.approx(1.0)
    if helper is not proportional_weights:
        assert weights[0] == pytest.approx(0.2)
        assert weights[2] == pytest.approx(-0.4)


@given(scored(), st.floats(0.01, 0.5), st.floats(0.5, 3.0))
def test_long_short_picks_the_ends_of_a_full_sort(given_, fraction, gross):
    scores, present = given_
    weights = in_place(long_short, scores, present, fraction, gross)
    named = [index for index in range(len(scores)) if present[index] and not math.isnan(scores[index])]
    ordered = sorted(named, key=lambda index: (-scores[index], index))
    count = min(len(named) // 2, max(1, int(fraction * len(named) + 1e-9)))
    chosen = set(ordered[:count]) | set(ordered[len(named) - count :])
    held = np.where(present, 0.0, scores)
    long, short = held[held > 0].sum(), -held[held < 0].sum()
    for index in range(len(scores)):
        if not present[index]:
            assert weights[index] == scores[index]
        elif index not in chosen:
            assert weights[index] == 0.0
        elif index in ordered[:count]:
            assert weights[index] == pytest.approx(max(0.0, gross / 2 - long) / count)
        else:
            assert weights[index] == pytest.approx(-max(0.0, gross / 2 - short) / count)


@given(scored(helds=st.just(0.0)), st.floats(0.5, 3.0))
def test_ranked_weights_are_neutral_ordered_and_of_the_gross_asked_for(given_, gross):
    scores, present = given_
    weights = in_place(rank_weights, scores, present, gross)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(0.0, abs=1e-9)
    named = np.flatnonzero(present & ~np.isnan(scores))
    different = len(set(scores[named].tolist())) > 1
    assert np.abs(weights).sum() == pytest.approx(gross if different else 0.0)
    for left in named:
        for right in named:
            if scores[left] < scores[right]:
                assert weights[left] < weights[right]
            elif scores[left] == scores[right]:
                assert weights[left] == weights[right]


@given(scored(), st.floats(0.5, 3.0))
def test_proportional_weights_never_exceed_the_gross_asked_for(given_, gross):
    scores, present = given_
    weights = in_place(proportional_weights, scores, present, gross)
    held = np.abs(scores[~present]).sum()
    assert np.abs(weights).sum() <= max(gross, held) * (1.0 + 1e-9)
    assert (np.sign(weights[present]) * np.sign(np.nan_to_num(scores[present])) >= 0.0).all()


@given(scored(), st.floats(0.01, 1.0))
def test_best_weights_are_long_only_apart_from_what_is_held(given_, fraction):
    scores, present = given_
    weights = in_place(best_weights, scores, present, fraction, 1.0)
    assert (weights[present] >= 0.0).all()
    assert weights[present].sum() <= 1.0 + 1e-9
    assert weights[~present].tolist() == scores[~present].tolist()


@pytest.mark.parametrize("spread", [1.0, 1e300, math.inf])
@pytest.mark.parametrize("symbols", [1, 2, 7, 50, 200])
def test_a_cut_between_scores_picks_the_same_as_their_places(symbols, spread, monkeypatch):
    generator = np.random.default_rng(symbols)
    for _ in range(20):
        scores = generator.standard_t(2, symbols)
        scores[generator.random(symbols) < 0.1] *= spread
        scores[generator.random(symbols) < 0.1] = generator.choice([NAN, 0.5, -0.5])
        present = generator.random(symbols) < generator.choice([0.8, 1.0])
        fraction = generator.uniform(0.01, 0.5)
        for helper in (long_short, best_weights):
            with np.errstate(over="ignore", invalid="ignore"):
                cut = in_place(helper, np.where(present, scores, 0.01), present, fraction)
            with monkeypatch.context() as patched:
                patched.setattr(weights_module, "_MOST_CUTS", 0)
                ranked = in_place(helper, np.where(present, scores, 0.01), present, fraction)
            assert cut.tobytes() == ranked.tobytes()


@pytest.mark.parametrize("helper", [long_short, rank_weights, best_weights])
def test_large_universes_are_sorted_to_the_same_weights(helper, monkeypatch):
    scores = np.random.default_rng(5).integers(-9, 9, 60).astype(np.float64)
    scores[::7] = NAN
    present = np.arange(60) % 11 != 3
    compared = in_place(helper, scores, present)
    monkeypatch.setattr(_ranks, "_SORTED_ABOVE", 10)
    assert in_place(helper, scores, present).tobytes() == compared.tobytes()


def paired(z_scores, **options):
    weights, path = np.zeros(2), []
    for z in z_scores:
        pair_weights(weights, 0, 1, z, **options)
        path.append(weights.tolist())
    return path


def test_a_pair_is_entered_held_left_and_turned():
    bought, sold, flat = [0.5, -0.5], [-0.5, 0.5], [0.0, 0.0]
    path = paired([0.0, -1.9, -2.1, -1.0, NAN, -0.6, -0.4, 2.5, 0.6, -3.0, 0.0])
    assert path == [flat, flat, bought, bought, bought, bought, flat, sold, sold, bought, flat]


def test_a_pairs_hedge_is_that_of_its_entry():
    weights = np.zeros(2)
    pair_weights(weights, 0, 1, -2.0, 2.0, 0.5, 3.0, 1.0)
    assert weights.tolist() == [0.25, -0.75]
    pair_weights(weights, 0, 1, -2.5, 2.0, 0.5, 1.0, 1.0)
    assert weights.tolist() == [0.25, -0.75]
    pair_weights(weights, 0, 1, 2.0, 2.0, 0.5, -1.0, 1.0)
    assert weights.tolist() == [-0.5, -0.5]


@cross_sectional(columns=("close",))
def any_helper(bars, weights, which=param(0, low=0, high=4)):
    first, second = weights[0], weights[1]
    for symbol in range(len(weights)):
        weights[symbol] = bars.close[symbol] - 2.0
    if which == 0:
        long_short(weights, bars.present)
    elif which == 1:
        best_weights(weights, bars.present, 0.3)
    elif which == 2:
        rank_weights(weights, bars.present)
    elif which == 3:
        standardise(weights, bars.present)
        proportional_weights(weights, bars.present, 1.5)
    else:
        z = weights[0]
        weights[:] = 0.0
        weights[0], weights[1] = first, second
        pair_weights(weights, 0, 1, z, 1.0)


@pytest.mark.parametrize("symbols", [9, 600])
def test_helpers_compiled_equal_helpers_in_plain_python(symbols):
    random = np.random.default_rng(symbols)
    columns = random.integers(0, 5, (1, 4, symbols)).astype(np.float64)
    present = random.random((4, symbols)) < 0.8
    present[:, :2] = True
    columns[0, :, 0] = [0.0, 2.0, 4.0, 0.0]
    columns[:, ~present] = NAN
    names = [f"S{index}" for index in range(symbols)]
    for which in range(5):
        compiled, plain = (any_helper.bind(which=which, symbols=names, uncompiled=each) for each in (False, True))
        weights = compiled.weigh(compiled.start(), columns, present)
        assert np.abs(weights).sum() > 0.0
        np.testing.assert_allclose(weights, plain.weigh(plain.start(), columns, present), rtol=1e-9, atol=1e-12)
