"""Which rows every arm trains on."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trial_folders import Row, arms_of, recipe_of

from curate.errors import RecipeError
from curate.trials.arms import Arms, Draw, matched_draw, training_sequence

HIGHEST = {"keep": {"field": "given.value", "highest": "50%"}}
FLAGGED = {"drop": {"field": "given.flag", "is": True}}
COPIES = {"deduplicate": "exact"}


def some(count: int, **facts: object) -> list[Row]:
    """Rows 0, 1, ... of values 0, 1, ...; every fourth is flagged, the last copies the first."""
    rows = [Row(float(at), tokens=10 + at % 7, flag=at % 4 == 3, content=f"c{at}") for at in range(count - 1)]
    return [*rows, Row(float(count - 1), tokens=10, content="c0")]


def lot(seed: int, count: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, which are chosen, groups and tokens; the chosen ones are the longer ones of most groups."""
    generator = np.random.default_rng(seed)
    tokens = generator.permutation(count).astype(np.int64) + 20
    chosen = generator.random(count) < 0.3 + 0.4 * (tokens > np.median(tokens))
    chosen[0] = True
    return np.arange(count) * 2, chosen, generator.integers(groups, size=count), tokens


@given(st.integers(0, 999), st.integers(1, 120), st.integers(1, 30), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_draw_has_of_each_group_as_many_rows_as_the_chosen(of: int, count: int, among: int, seed: int) -> None:
    rows, chosen, groups, tokens = lot(of, count, among)
    drawn = matched_draw(rows, chosen, groups, tokens, seed)
    assert len(set(drawn.tolist())) == len(drawn)
    assert np.isin(drawn, rows).all()
    found = np.bincount(groups[np.isin(rows, drawn)], minlength=among)
    assert (found == np.bincount(groups[chosen], minlength=among)).all()


@given(st.integers(0, 999), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_draw_from_a_large_group_has_of_each_tenth_of_length_as_many(of: int, seed: int) -> None:
    rows, chosen, _, tokens = lot(of, 200, 1)
    drawn = np.isin(rows, matched_draw(rows, chosen, np.zeros(200, dtype=np.int64), tokens, seed))
    tenth = (tokens - 20) // 20
    assert (np.bincount(tenth[drawn], minlength=10) == np.bincount(tenth[chosen], minlength=10)).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_draw_has_the_chosen_rows_tokens_within_one_percent(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens = np.exp(generator.normal(4, 1, 400)).astype(np.int64) + 1
    chosen = np.argsort(np.argsort(tokens + generator.normal(0, 60, 400))) >= 200
    drawn = matched_draw(np.arange(400), chosen, generator.integers(3, size=400), tokens, seed)
    assert tokens[drawn].sum() == pytest.approx(tokens[chosen].sum(), rel=0.01)


def test_where_the_longest_row_of_each_pair_is_chosen_tokens_cannot_match_and_the_draw_comes_as_near_as_it_can() -> None:
    groups, tokens = np.repeat(np.arange(20), 2), np.tile([10, 100], 20)
    drawn = matched_draw(np.arange(40), tokens == 100, groups, tokens, 0)
    assert tokens[drawn].sum() == 2000  # nothing is off where every longer row is drawn


def test_one_seed_draws_the_same_and_another_seed_draws_other_rows() -> None:
    rows, chosen, groups, tokens = lot(1, 100, 3)
    first, again, other = (matched_draw(rows, chosen, groups, tokens, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_a_draw_from_the_chosen_rows_alone_is_the_chosen_rows() -> None:
    rows, _, groups, tokens = lot(1, 50, 3)
    assert matched_draw(rows, np.ones(50, dtype=bool), groups, tokens, 7).tolist() == rows.tolist()


def test_a_draw_of_nothing_is_empty() -> None:
    rows, _, groups, tokens = lot(1, 50, 3)
    assert not len(matched_draw(rows, np.zeros(50, dtype=bool), groups, tokens, 7))


@pytest.fixture
def three_steps() -> Arms:
    return arms_of(some(40), COPIES, FLAGGED, HIGHEST)


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        ("random", "random"),
        ("after:1", "after:1"),
        ("after:2", "random-clean"),
        ("random-clean", "random-clean"),
        ("longest", "longest"),
        ("curated", "curated"),
        ("source:s", "source:s"),
    ],
)
def test_an_arm_has_one_name(three_steps: Arms, arm: str, name: str) -> None:
    assert three_steps.canonical(arm) == name


def test_the_chain_leads_from_random_over_every_step_to_curated(three_steps: Arms) -> None:
    assert three_steps.chain() == ["random", "after:1", "random-clean", "curated"]


def test_between_two_neighbours_of_the_chain_stands_the_step_by_which_they_differ(three_steps: Arms) -> None:
    chain = three_steps.chain()
    found = [three_steps.steps_between(*pair) for pair in pairwise(chain)]
    assert found == [["deduplicate exact"], ["drop given.flag is true"], ["keep given.value highest 50% within dataset"]]
    assert three_steps.steps_between("random", "random-clean") == ["deduplicate exact", "drop given.flag is true"]


def test_a_step_that_rejected_nothing_makes_no_arm() -> None:
    rows = [Row(float(at), flag=at == 1) for at in range(10)]
    arms = arms_of(rows, COPIES, FLAGGED, {"drop": {"field": "given.value", "above": 100}}, HIGHEST)
    assert arms.chain() == ["random", "random-clean", "curated"]
    assert (arms.canonical("after:1"), arms.canonical("after:3")) == ("random", "random-clean")
    assert arms.steps_between("random", "random-clean") == ["drop given.flag is true"]


def test_where_cleaning_rejected_nothing_random_clean_is_random() -> None:
    arms = arms_of([Row(float(at)) for at in range(10)], COPIES, FLAGGED, HIGHEST)
    assert arms.canonical("random-clean") == "random"
    assert arms.chain() == ["random", "curated"]


def test_where_the_choosing_step_rejected_nothing_random_clean_stands_before_the_last_that_did() -> None:
    rows = [Row(float(at), prompt=f"p{at}", flag=at < 3) for at in range(10)]
    arms = arms_of(rows, FLAGGED, {"best_of": {"field": "given.value", "highest": 1}})
    assert arms.canonical("random-clean") == "random"
    assert arms.chain() == ["random", "curated"]


def test_of_a_recipe_that_only_cleans_the_last_rule_is_what_is_judged() -> None:
    arms = arms_of(some(40), COPIES, FLAGGED)
    assert arms.chain() == ["random", "random-clean", "curated"]
    assert arms.steps_between("random-clean", "curated") == ["drop given.flag is true"]


def test_an_order_chooses_nothing() -> None:
    arms = arms_of(some(40), FLAGGED, HIGHEST, {"order": {"field": "given.value", "first": "highest"}})
    assert arms.chain() == ["random", "random-clean", "shuffled@1", "curated"]
    drawn = arms.draw("curated", 0)
    assert drawn.is_ordered
    assert drawn.rows.tolist() == sorted(arms.curated.tolist(), reverse=True)
    assert not arms.draw("random-clean", 0).is_ordered


def test_the_same_rows_in_random_order_tell_an_order_from_what_it_orders() -> None:
    arms = arms_of(some(40), FLAGGED, HIGHEST, {"order": {"field": "given.value", "first": "highest"}})
    shuffled = arms.draw("shuffled@1", 0)
    assert (sorted(shuffled.rows.tolist()), shuffled.is_ordered) == (arms.curated.tolist(), False)
    found = [arms.steps_between(*pair) for pair in pairwise(arms.chain())]
    assert found[1:] == [["keep given.value highest 50% within dataset"], ["order by given.value, highest first"]]
    assert arms.steps_between("random-clean", "curated") == found[1] + found[2]


def test_a_random_order_is_no_step_to_be_credited() -> None:
    arms = arms_of(some(40), FLAGGED, HIGHEST, {"order": {"random": 3}})
    assert arms.chain() == ["random", "random-clean", "curated"]


def test_an_order_that_drops_rows_without_a_value_still_chooses_nothing() -> None:
    rows = [Row(float(at) if at % 5 else None) for at in range(40)]
    steps = ({"sample": {"keep": "50%", "seed": 3}}, {"order": {"field": "given.value"}})
    arms = arms_of(rows, recipe=recipe_of(*steps, unscored="drop"))
    assert arms.chain() == ["random", "shuffled@1", "curated"]


@pytest.mark.parametrize("arm", ["after:3", "after:9"])
def test_an_arm_after_more_steps_than_there_are_is_an_error(three_steps: Arms, arm: str) -> None:
    with pytest.raises(RecipeError, match=rf"x: arm '{arm}', but the last step that chooses rows is number 3"):
        three_steps.draw(arm, 0)


def test_curated_rows_are_those_that_the_recipe_keeps(three_steps: Arms) -> None:
    left = [at for at in range(39) if at % 4 != 3]
    assert three_steps.draw("curated", 0).rows.tolist() == left[len(left) // 2 :]


@pytest.mark.parametrize("arm", ["random", "random-clean", "after:1", "longest", "reverse", "random50"])
def test_a_control_has_as_many_rows_as_the_curated_arm(three_steps: Arms, arm: str) -> None:
    drawn = three_steps.draw(arm, 0).rows
    assert len(drawn) == len(three_steps.curated)
    assert drawn.tolist() == sorted(set(drawn.tolist()))


@pytest.mark.parametrize(("arm", "allowed"), [("random", 18), ("after:1", 17), ("random-clean", 13)])
def test_a_control_draws_from_all_that_its_steps_left(arm: str, allowed: int) -> None:
    arms = arms_of(some(18), COPIES, FLAGGED, HIGHEST)
    assert len({row for seed in range(60) for row in arms.draw(arm, seed).rows.tolist()}) == allowed


def test_where_all_rows_are_equally_long_a_control_draws_from_everywhere() -> None:
    arms = arms_of([Row(float(at)) for at in range(100)], HIGHEST)
    first_half = [(arms.draw("random", seed).rows < 50).mean() for seed in range(20)]
    assert np.mean(first_half) == pytest.approx(0.5, abs=0.1)


def test_controls_are_drawn_anew_for_every_seed(three_steps: Arms) -> None:
    draws = {tuple(three_steps.draw("random-clean", seed).rows.tolist()) for seed in range(5)}
    assert len(draws) == 5


def test_controls_draw_in_the_groups_in_which_the_recipe_ranks() -> None:
    rows = [Row(float(at), prompt=f"p{at // 4}") for at in range(40)]
    arms = arms_of(rows, {"best_of": {"field": "given.value", "highest": 1, "within": "prompt"}})
    for arm in ("random", "longest", "reverse"):
        assert (arms.draw(arm, 3).rows // 4).tolist() == list(range(10))


def test_reverse_takes_the_other_end() -> None:
    arms = arms_of([Row(float(at)) for at in range(10)], {"keep": {"field": "given.value", "lowest": 3}})
    assert arms.draw("reverse", 0).rows.tolist() == [7, 8, 9]


def test_reverse_takes_rows_without_a_value_last() -> None:
    arms = arms_of([*(Row(float(at)) for at in range(4)), Row(None), Row(None)], HIGHEST)
    assert arms.curated.tolist() == [2, 3, 4, 5]
    assert arms.draw("reverse", 0).rows.tolist() == [0, 1, 2, 3]


def test_reverse_needs_a_ranking() -> None:
    with pytest.raises(RecipeError, match="'reverse' needs a step that ranks"):
        arms_of(some(20), FLAGGED).draw("reverse", 0)


def test_longest_takes_the_rows_with_most_tokens() -> None:
    arms = arms_of(
        [Row(float(at), tokens=(50 - at) % 17 + 1) for at in range(17)], {"keep": {"field": "given.value", "lowest": 4}}
    )
    assert sorted(arms.pool.tokens[arms.draw("longest", 0).rows].tolist()) == [14, 15, 16, 17]


def test_a_source_gives_its_own_rows_and_no_more_than_it_has() -> None:
    rows = [Row(float(at), source="few" if at < 3 else "many") for at in range(20)]
    arms = arms_of(rows, HIGHEST)
    assert arms.draw("source:few", 0).rows.tolist() == [0, 1, 2]
    many = arms.draw("source:many", 0).rows
    assert len(many) == 10
    assert many.min() >= 3


def test_an_unknown_source_is_told_with_its_near_miss() -> None:
    with pytest.raises(RecipeError, match=r"arm 'source:gtp-4': no row is from it; did you mean 'gpt-4'\?"):
        arms_of([Row(float(at), source="gpt-4") for at in range(6)], HIGHEST).draw("source:gtp-4", 0)


def test_a_source_of_which_cleaning_left_nothing_is_told() -> None:
    rows = [Row(float(at), source="bad" if at < 2 else "good", flag=at < 2) for at in range(10)]
    with pytest.raises(RecipeError, match="arm 'source:bad': the earlier steps left none of its rows"):
        arms_of(rows, FLAGGED, HIGHEST).draw("source:bad", 0)


@pytest.mark.parametrize("source", ["me@home.org", "gpt@4"])
def test_a_source_may_be_called_like_an_address(source: str) -> None:
    rows = [Row(float(at), source=source if at < 5 else "s") for at in range(20)]
    assert arms_of(rows, HIGHEST).draw(f"source:{source}", 0).rows.tolist() == [0, 1, 2, 3, 4]


def test_another_recipe_keeps_its_own_rows_cut_down_to_as_many() -> None:
    arms = arms_of(some(40), COPIES, FLAGGED, HIGHEST)
    assert len(arms.draw("random50", 0).rows) == len(arms.curated) == 15
    assert arms.draw("random50", 0).rows.tolist() != arms.draw("random50", 1).rows.tolist()


def test_an_unknown_recipe_is_told_with_its_near_miss(three_steps: Arms) -> None:
    with pytest.raises(RecipeError, match="did you mean 'longest50'"):
        three_steps.draw("longst50", 0)


@pytest.mark.parametrize("arm", ["full", "full-epochs"])
def test_full_holds_every_row_that_can_be_trained_on(arm: str) -> None:
    rows = [Row(float(at), tokens=at) for at in range(10)]
    assert arms_of(rows, HIGHEST, held_out=[4]).draw(arm, 0).rows.tolist() == [1, 2, 3, 5, 6, 7, 8, 9]


ALL_ARMS = ["curated", "random", "random-clean", "after:1", "full", "longest", "reverse", "source:s", "random50", "shuffled@1"]


@pytest.mark.parametrize("arm", ALL_ARMS)
def test_held_out_rows_are_in_no_arm(arm: str) -> None:
    held_out = [0, 5, 20, 37, 38]
    drawn = arms_of(some(40), COPIES, FLAGGED, HIGHEST, held_out=held_out).draw(arm, 0).rows
    assert not np.isin(drawn, held_out).any()


@pytest.mark.parametrize("arm", ALL_ARMS)
def test_rows_that_the_trainer_would_drop_are_in_no_arm(arm: str) -> None:
    rows = [Row(row.value, tokens=0 if at in (1, 30) else row.tokens, flag=row.flag) for at, row in enumerate(some(40))]
    assert not np.isin(arms_of(rows, COPIES, FLAGGED, HIGHEST).draw(arm, 0).rows, [1, 30]).any()


def test_a_held_out_row_takes_no_part_in_a_quantile() -> None:
    rows = [Row(float(at)) for at in range(20)]
    assert arms_of(rows, HIGHEST, held_out=range(10, 20)).curated.tolist() == [5, 6, 7, 8, 9]


def test_a_held_out_rows_length_changes_no_stratum() -> None:
    ranked = {"keep": {"field": "given.value", "highest": "50%", "within": ["stratum", "dataset"]}}
    rows = [Row(float(at * 7 % 60), tokens=10 + at) for at in range(60)]
    for held_out in (1, 500):
        others = [Row(0.0, tokens=held_out) for _ in range(25)]
        kept = arms_of([*rows, *others], ranked, held_out=range(60, 85)).curated.tolist()
        assert kept == arms_of(rows, ranked).curated.tolist()


@pytest.mark.parametrize(
    "step", [{"sample": {"keep": "50%", "seed": 0}}, {"mix": {"shares": {"a": "50%", "b": "50%"}, "seed": 0}}]
)
def test_what_a_recipe_drew_by_chance_is_no_likelier_in_a_control(step: dict[str, object]) -> None:
    rows = [Row(tokens=10 + at % 97, source="a" if at < 300 else "b") for at in range(900)]
    arms = arms_of(rows, step)
    share = len(arms.curated) / 900
    assert np.isin(arms.draw("random", 0).rows, arms.curated).mean() == pytest.approx(share, abs=0.1)


def test_ordered_shares_are_the_best_rows_and_nested() -> None:
    arms = arms_of([Row(float(at * 7 % 20)) for at in range(20)], {"keep": {"field": "given.value", "lowest": "50%"}})
    draws = [set(arms.draw(f"ordered@{share:g}", 0).rows.tolist()) for share in (0.1, 0.5, 1.0)]
    assert [len(drawn) for drawn in draws] == [1, 5, 10]
    assert draws[0] < draws[1] < draws[2] == set(arms.curated.tolist())
    assert {at * 7 % 20 for at in draws[1]} == {0, 1, 2, 3, 4}


def test_an_order_step_says_what_ordered_shares_begin_with() -> None:
    arms = arms_of([Row(float(at)) for at in range(10)], HIGHEST, {"order": {"field": "given.value", "first": "lowest"}})
    assert arms.draw("ordered@0.4", 0).rows.tolist() == [5, 6]


def test_in_ordered_shares_rows_without_a_value_come_last() -> None:
    rows = [Row(None), *(Row(float(at)) for at in range(1, 9)), Row(None)]
    arms = arms_of(rows, HIGHEST)
    assert arms.ordered.tolist() == [8, 7, 6, 5, 0, 9]


def test_shuffled_shares_are_nested_random_and_redrawn() -> None:
    arms = arms_of([Row(float(at)) for at in range(40)], HIGHEST)
    tenth, half = (set(arms.draw(f"shuffled@{share}", 0).rows.tolist()) for share in ("0.1", "0.5"))
    assert (len(tenth), len(half)) == (2, 10)
    assert tenth < half < set(arms.curated.tolist())
    assert half != set(arms.draw("shuffled@0.5", 1).rows.tolist())


def test_without_an_order_or_ranking_there_are_no_ordered_shares() -> None:
    with pytest.raises(RecipeError, match="`protocol: progressive` needs an order"):
        arms_of(some(20), FLAGGED).draw("ordered@0.5", 0)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_mixture_has_its_share_of_synthetic_rows_and_the_size_of_the_scarcer_kind(share: float) -> None:
    rows = [Row(float(at), source="human" if at % 5 == 0 else f"gpt-{at % 5}") for at in range(100)]
    arms = arms_of(rows, {"keep": {"field": "given.value", "highest": "100%"}})
    drawn = arms.draw(f"synthetic@{share:g}", 0).rows
    assert len(set(drawn.tolist())) == 20
    assert (drawn % 5 != 0).mean() == pytest.approx(share)


@pytest.mark.parametrize(("source", "there"), [("gpt-4", "gpt-4"), (None, "none named")])
def test_a_mixture_without_human_rows_is_an_error_that_names_the_sources(source: str | None, there: str) -> None:
    rows = [Row(float(at), source=source) for at in range(10)]
    with pytest.raises(RecipeError, match=rf"by people \(human\) and others; there are sources {there}; .* `trial: human:`"):
        arms_of(rows, HIGHEST).draw("synthetic@0.5", 0)


def test_who_is_human_can_be_said() -> None:
    rows = [Row(float(at), source=("me", "you", "gpt")[at % 3]) for at in range(30)]
    drawn = arms_of(rows, HIGHEST, human=("me", "you")).draw("synthetic@1", 0).rows
    assert set((drawn % 3).tolist()) == {2}


@given(st.integers(1, 30), st.integers(1, 200), st.integers(0, 9))
def test_in_training_every_permutation_is_complete_before_the_next_begins(rows: int, count: int, seed: int) -> None:
    found = training_sequence(Draw("random", seed, np.arange(rows) * 3), count, seed).tolist()
    assert len(found) == count
    for begin in range(0, count - rows + 1, rows):
        assert sorted(found[begin : begin + rows]) == [3 * at for at in range(rows)]
    assert len(set(found[count - count % rows :])) == count % rows


def test_permutations_differ_between_epochs_and_seeds() -> None:
    draw = Draw("random", 0, np.arange(20))
    found = training_sequence(draw, 40, 0).tolist()
    assert found[:20] != found[20:]
    assert found != training_sequence(draw, 40, 1).tolist()
    assert found == training_sequence(draw, 40, 0).tolist()


def test_an_ordered_arm_repeats_its_order() -> None:
    draw = Draw("curated", 0, np.array([3, 1, 2]), is_ordered=True)
    assert training_sequence(draw, 7, 5).tolist() == [3, 1, 2, 3, 1, 2, 3]


def test_a_recipe_of_only_an_order_keeps_all_rows() -> None:
    arms = arms_of(some(10), recipe=recipe_of({"order": {"random": 1}}))
    assert arms.chain() == ["random", "curated"]
    assert sorted(arms.draw("curated", 0).rows.tolist()) == list(range(10))
