"""Contrasts of two arms: hand-computed variances, tests they must equal, and intervals and powers that hold in simulated trials."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.trials.statistics import (
    Components,
    Contrast,
    Floats,
    components,
    contrast,
    detectable,
    holm,
    power_at,
    seeds_needed,
    simulate,
    stated_components,
)

ITEMS = 224
SHARP = stated_components(0.6, 0.01, flips=0.2, disagreement=0.2)
"""Arms that do not interact with items, runs that move by less than their noise."""
USUAL = stated_components(0.6, 0.016)
UNSTEADY = stated_components(0.45, 0.03, flips=0.25, disagreement=0.35)
NO_NOISE_IN_ITEMS = Components(0.016**2, 0.02**2, 0.0, 1e-6)


def drawn(of: Components, *, seeds: int, effect: float, trials: int, accuracy: float | None) -> list[Contrast]:
    generator = np.random.default_rng(seeds)
    options = {"seeds": seeds, "items": ITEMS, "effect": effect, "accuracy": accuracy}
    return [contrast(*simulate(of, generator=generator, **options)) for _ in range(trials)]  # type: ignore[arg-type]


def share_that_excludes_zero(contrasts: list[Contrast]) -> float:
    return float(np.mean([found.excludes_zero for found in contrasts]))


def test_components_of_a_table_worked_by_hand() -> None:
    treated = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]])  # run means 2 and 4, item means 2, 2, 5, residuals 0, 1, 1
    control = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])  # run means 0 and 1, item means 0, 0, 1.5, residuals .5, .5, 1
    # Treated: runs vary by 2, noise 4 / 2 = 2. Control: by 0.5, noise 3 / 2. Differences by item 2, 2, 3.5: variance 0.75.
    found = components(treated, control)
    assert found.noise == pytest.approx((2 + 1.5) / 2)
    assert found.seed_treated == pytest.approx(2 - 2 / 3)
    assert found.seed_control == pytest.approx(0.5 - 1.5 / 3, abs=1e-12)
    assert found.item == 0  # 0.75 less 2/2 + 1.5/2 is negative
    # Runs explain 2/2 + 0.5/2 = 1.25 of the mean difference's variance, noise (2/2 + 1.5/2) / 3 = 0.583, items nothing more.
    whole = contrast(treated, control)
    assert whole.difference == pytest.approx(2.5)
    assert whole.standard_error**2 == pytest.approx(1.25)
    assert whole.degrees_of_freedom == pytest.approx(1.25**2 / (1 + 0.25**2 + 0.25**2 / 2))


def test_components_are_found_again_in_simulated_scores() -> None:
    true = Components(0.03**2, 0.02**2, 0.05, 0.1)
    generator = np.random.default_rng(0)
    found = [
        components(*simulate(true, seeds=8, items=400, effect=0.1, generator=generator, accuracy=accuracy))
        for accuracy in (None, 0.5)
        for _ in range(150)
    ]
    for name in ("seed_treated", "seed_control", "item", "noise"):
        assert np.mean([getattr(one, name) for one in found]) == pytest.approx(getattr(true, name), rel=0.1), name


def test_without_items_it_is_welchs_test_on_run_means() -> None:
    from scipy.stats import ttest_ind

    means = np.array([0.61, 0.64, 0.60]), np.array([0.58, 0.59, 0.56, 0.60])
    found = contrast(*(np.repeat(runs[:, None], 50, axis=1) for runs in means))
    expected = ttest_ind(*means, equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees_of_freedom == pytest.approx(expected.df)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_without_variance_of_seeds_it_is_the_paired_test_over_items() -> None:
    from scipy.stats import ttest_rel

    generator = np.random.default_rng(0)
    treated, control = generator.random(60), generator.random(60)
    same = contrast(np.tile(treated, (3, 1)), np.tile(control, (3, 1)))
    assert same.p_value == pytest.approx(ttest_rel(treated, control).pvalue)
    # Noise in the answers, but as many runs as it takes to forget it.
    runs = [(rows + generator.normal(0, 0.1, (500, 60))) for rows in (treated, control)]
    many = contrast(runs[0], runs[1])
    assert many.p_value == pytest.approx(ttest_rel(runs[0].mean(axis=0), runs[1].mean(axis=0)).pvalue, rel=0.05)
    assert many.degrees_of_freedom == pytest.approx(59, rel=0.05)


def test_a_fixed_control_has_no_variance_of_seeds() -> None:
    generator = np.random.default_rng(0)
    treated, base = (generator.random((3, 200)) < 0.6).astype(float), (generator.random((1, 200)) < 0.5).astype(float)
    found = contrast(treated, base, control_is_fixed=True)
    assert found.seeds == (3, 1)
    assert found.components.seed_control == 0
    paired = (treated.mean(axis=0) - base[0]).var(ddof=1) / 200
    assert found.standard_error**2 >= paired - 1e-12


@pytest.mark.parametrize(
    ("shapes", "fixed", "message"),
    [
        (((3, 5), (1, 5)), False, "at least 2"),
        (((1, 5), (1, 5)), True, "at least 2"),
        (((3, 5), (2, 5)), True, "fixed control has 1 run"),
        (((3, 5), (3, 4)), False, "over the same items"),
        (((3, 1), (3, 1)), False, "interval needs"),
    ],
)
def test_designs_without_an_interval_are_refused(shapes: tuple[tuple[int, int], ...], fixed: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(np.zeros(shapes[0]), np.zeros(shapes[1]), control_is_fixed=fixed)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        contrast(np.full((2, 3), np.nan), np.zeros((2, 3)))


@pytest.mark.parametrize(("value", "difference", "p_value"), [(0.3, 0.0, 1.0), (1.0, 0.7, 0.0)])
def test_scores_that_never_vary_give_an_interval_of_no_width(value: float, difference: float, p_value: float) -> None:
    found = contrast(np.full((3, 7), value), np.full((3, 7), 0.3))
    assert (found.low, found.difference, found.high) == pytest.approx((difference,) * 3)
    assert found.p_value == p_value


def test_a_contrast_is_plain_json() -> None:
    found = contrast(np.eye(3, 5), np.zeros((2, 5)))
    read = json.loads(json.dumps(found.as_data(), allow_nan=False))
    assert Contrast(**{**read, "seeds": tuple(read["seeds"]), "components": Components(**read["components"])}) == found


tables = st.integers(2, 6).flatmap(
    lambda items: st.tuples(
        *(st.lists(st.lists(st.integers(0, 8), min_size=items, max_size=items), min_size=2, max_size=4) for _ in range(2))
    )
)


@given(tables)
@settings(deadline=None)
def test_swapping_the_arms_turns_the_sign(rows: tuple[list[list[int]], list[list[int]]]) -> None:
    one, other = (np.array(arm) / 8 for arm in rows)
    found, swapped = contrast(one, other), contrast(other, one)
    assert (found.low, found.high) == pytest.approx((-swapped.high, -swapped.low))
    assert found.p_value == pytest.approx(swapped.p_value)


@given(tables, st.integers(-8, 8), st.integers(-8, 8))
@settings(deadline=None)
def test_a_shift_of_an_arm_shifts_the_interval(rows: tuple[list[list[int]], list[list[int]]], up: int, by: int) -> None:
    one, other = (np.array(arm) / 8 for arm in rows)
    found, moved = contrast(one, other), contrast(one + (up + by) / 8, other + up / 8)
    assert (moved.low, moved.high) == pytest.approx((found.low + by / 8, found.high + by / 8))
    assert moved.degrees_of_freedom == pytest.approx(found.degrees_of_freedom)


@given(tables)
@settings(deadline=None)
def test_the_error_is_never_below_that_of_items_or_of_seeds_alone(rows: tuple[list[list[int]], list[list[int]]]) -> None:
    one, other = (np.array(arm) / 8 for arm in rows)
    over_items = (one.mean(axis=0) - other.mean(axis=0)).var(ddof=1) / one.shape[1]
    over_seeds = one.mean(axis=1).var(ddof=1) / len(one) + other.mean(axis=1).var(ddof=1) / len(other)
    found = contrast(one, other)
    assert found.standard_error**2 >= max(over_items, over_seeds) - 1e-12
    assert found.degrees_of_freedom >= 1


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("of", "accuracy"), [(SHARP, 0.6), (USUAL, 0.6), (UNSTEADY, 0.45), (NO_NOISE_IN_ITEMS, None)])
def test_false_verdicts_stay_at_their_level(of: Components, accuracy: float | None, seeds: int) -> None:
    found = drawn(of, seeds=seeds, effect=0.0, trials=2000 if of is USUAL else 800, accuracy=accuracy)
    assert 0.015 <= share_that_excludes_zero(found) <= 0.06


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("of", "accuracy"), [(SHARP, 0.6), (USUAL, 0.6), (UNSTEADY, 0.45)])
def test_the_detectable_effect_is_found_with_its_power(of: Components, accuracy: float | None, seeds: int) -> None:
    effect = detectable(of, seeds=seeds, items=ITEMS)
    found = drawn(of, seeds=seeds, effect=effect, trials=700, accuracy=accuracy)
    assert share_that_excludes_zero(found) == pytest.approx(0.8, abs=0.05)
    assert np.mean([one.difference for one in found]) == pytest.approx(effect, rel=0.05)


def test_more_seeds_and_more_items_detect_less() -> None:
    by_seeds = [detectable(USUAL, seeds=seeds, items=ITEMS) for seeds in (2, 3, 5, 10, 50)]
    by_items = [detectable(USUAL, seeds=5, items=items) for items in (50, 200, 1000, 10_000)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert by_items == sorted(by_items, reverse=True)
    assert detectable(Components(0, 0, 0, 0), seeds=3, items=ITEMS) == 0


def test_power_at_no_effect_is_the_rate_of_false_verdicts() -> None:
    of = NO_NOISE_IN_ITEMS
    assert power_at(0.0, of, seeds=4, items=10_000) == pytest.approx(0.045, abs=0.01)
    assert power_at(1.0, of, seeds=4, items=10_000) == pytest.approx(1)


def test_seeds_needed_is_the_first_number_that_detects_the_effect() -> None:
    seeds = seeds_needed(SHARP, items=ITEMS, effect=0.05)
    assert seeds is not None
    assert detectable(SHARP, seeds=seeds, items=ITEMS) <= 0.05 < detectable(SHARP, seeds=seeds - 1, items=ITEMS)


def test_no_number_of_seeds_makes_up_for_too_few_items() -> None:
    assert seeds_needed(USUAL, items=30, effect=0.03) is None


def test_holm_adjusts_as_published() -> None:
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ordered = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


def test_stated_components_are_the_stated_flips() -> None:
    of = stated_components(0.6, 0.0, flips=0.2, disagreement=0.3)
    treated, control = simulate(of, seeds=2, items=100_000, effect=0.0, generator=np.random.default_rng(0), accuracy=0.6)
    assert (treated[0] != treated[1]).mean() == pytest.approx(0.2, abs=0.01)
    assert (treated[0] != control[0]).mean() == pytest.approx(0.3, abs=0.01)
    assert treated.mean() == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(
    "options", [{"flips": 0.6}, {"flips": 0.2, "disagreement": 0.1}, {"flips": 0.2, "disagreement": 0.6}, {"flips": -0.1}]
)
def test_impossible_flips_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="independent answers"):
        stated_components(0.5, **options)


def test_a_simulated_effect_is_the_stated_one_up_to_the_ceiling() -> None:
    generator = np.random.default_rng(0)

    def gained(effect: float) -> float:
        of = stated_components(0.9, 0.01)
        treated, control = simulate(of, seeds=4, items=50_000, effect=effect, generator=generator, accuracy=0.9)
        assert set(np.unique(treated)) <= {0.0, 1.0}
        return float(treated.mean() - control.mean())

    assert gained(0.05) == pytest.approx(0.05, abs=0.02)
    assert gained(-0.3) == pytest.approx(-0.3, abs=0.02)
    assert gained(0.5) <= 0.13


def test_given_seed_effects_replace_the_drawn_ones() -> None:
    effects: tuple[Floats, Floats] = (np.array([0.2, -0.2]), np.array([0.0, 0.0]))
    of = stated_components(0.5, 0.0)
    treated, control = simulate(
        of, seeds=2, items=50_000, effect=0.0, generator=np.random.default_rng(0), accuracy=0.5, seed_effects=effects
    )
    assert treated.mean(axis=1) == pytest.approx([0.7, 0.3], abs=0.02)
    assert control.mean(axis=1) == pytest.approx([0.5, 0.5], abs=0.02)
    assert math.isclose(contrast(treated, control).components.seed_treated, 0.08, rel_tol=0.2)
