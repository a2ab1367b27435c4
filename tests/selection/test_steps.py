"""The steps against known answers, and against a slow re-implementation of the rule that DESIGN.md gives."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import workshop
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tables import Row, kept, selected, valued

from curate.errors import InputError, RecipeError


def keep(**more: Any) -> dict[str, Any]:
    return {"keep": {"field": "given.value", **more}}


def drop(**more: Any) -> dict[str, Any]:
    return {"drop": {"field": "given.value", **more}}


# Known answers


def test_the_lowest_half_is_kept() -> None:
    assert kept(valued(3.0, 1.0, 4.0, 2.0), keep(lowest="50%")) == [1, 3]


def test_the_highest_half_is_kept() -> None:
    assert kept(valued(3.0, 1.0, 4.0, 2.0), keep(highest="50%")) == [0, 2]


def test_ties_go_to_the_earlier_row_at_either_end() -> None:
    rows = valued(1.0, 1.0, 1.0, 1.0)
    assert kept(rows, keep(lowest=2)) == kept(rows, keep(highest=2)) == [0, 1]


def test_zero_and_minus_zero_tie() -> None:
    assert kept(valued(0.0, -0.0, 0.0), keep(lowest=1)) == [0]


def test_values_that_differ_by_rounding_tie() -> None:
    assert kept(valued(1.0000001, 1.0, 1.0000002, 2.0), keep(lowest=2)) == [0, 1]
    assert kept(valued(1.00001, 1.0, 1.00002, 2.0), keep(lowest=1)) == [1]


def test_ties_do_not_chain_through_a_dense_group() -> None:
    values = np.random.default_rng(0).permutation(np.linspace(1.0, 1.01, 40_000))
    left = values[kept([Row(value=value) for value in values.tolist()], keep(lowest="50%"))]
    assert len(left) == 20_000
    assert left.max() < np.median(values) + 3e-6


def test_a_row_is_ranked_among_the_responses_to_its_prompt() -> None:
    rows = [Row(prompt=prompt, value=value) for prompt, value in [("a", 1.0), ("a", 2.0), ("b", 8.0), ("b", 9.0)]]
    assert kept(rows, keep(lowest="50%", within=["prompt", "dataset"])) == [0, 2]


def test_rows_alone_in_their_group_are_ranked_in_the_next() -> None:
    rows = [Row(prompt=prompt, value=value) for prompt, value in [("a", 1.0), ("a", 2.0), ("b", 8.0), ("c", 9.0)]]
    selection = selected(rows, keep(lowest="50%", within=["prompt", "dataset"]))
    assert np.flatnonzero(selection.kept).tolist() == [0, 2]
    assert selection.steps[0].groups == {"prompt": 2, "dataset": 2}


def test_a_row_alone_in_the_last_group_is_kept() -> None:
    assert kept([Row(prompt="a"), Row(prompt="b")], keep(lowest="10%", within="prompt")) == [0, 1]


def test_unscored_rows_make_no_group() -> None:
    rows = [Row(prompt="a", value=9.0), Row(prompt="a", value=None), Row(prompt="b", value=1.0), Row(prompt="c", value=2.0)]
    selection = selected(rows, keep(lowest="34%", within=["prompt", "dataset"]))
    assert selection.steps[0].groups == {"dataset": 3}
    assert np.flatnonzero(selection.kept).tolist() == [1, 2]


def test_no_source_is_a_source_of_its_own() -> None:
    rows = [Row(source=source, value=value) for source, value in [(None, 5.0), (None, 6.0), ("s", 1.0), ("s", 2.0)]]
    assert kept(rows, keep(lowest="50%", within="source")) == [0, 2]


def test_strata_compare_rows_of_one_source_and_like_length() -> None:
    rows = [Row(characters=1 + place // 2, value=float(place % 2), content=str(place)) for place in range(20)]
    assert kept(rows, keep(lowest="50%", within=["stratum"])) == list(range(0, 20, 2))


def test_equal_lengths_are_never_in_different_strata() -> None:
    rows = [Row(characters=7, value=float(place)) for place in range(30)]
    assert selected(rows, keep(lowest="50%", within=["stratum"])).steps[0].groups == {"stratum": 30}
    assert len(kept(rows, keep(lowest="50%", within=["stratum"]))) == 15


@pytest.mark.parametrize(("unscored", "left"), [("keep", [0, 2]), ("drop", [0])])
def test_unscored_rows_follow_the_policy(unscored: str, left: list[int]) -> None:
    assert kept(valued(1.0, 2.0, None), keep(lowest="50%"), unscored=unscored) == left


def test_unscored_rows_are_an_error_that_counts_them_and_says_why() -> None:
    with pytest.raises(RecipeError, match=r"2 of 3 rows have no given.value \(2 absent\); set `unscored: drop` or `keep`"):
        selected(valued(1.0, None, None), keep(lowest="50%"), unscored="error")


def test_unscored_rows_that_an_earlier_step_took_are_no_error() -> None:
    rows = [Row(value=1.0, content="a"), Row(value=None, content="a")]
    assert kept(rows, {"deduplicate": "exact"}, keep(lowest=1), unscored="error") == [0]


@pytest.mark.parametrize(
    ("bounds", "left"),
    [({"above": 2}, [0, 1]), ({"below": 2}, [1, 2]), ({"above": 2, "below": 1.5}, [1]), ({"above": 1.9999}, [0])],
)
def test_bounds_themselves_are_kept(bounds: Mapping[str, float], left: list[int]) -> None:
    assert kept(valued(1.0, 2.0, 3.0), drop(**bounds)) == left


def test_a_dropped_row_tells_its_distance_to_the_nearer_bound() -> None:
    selection = selected(valued(0.5, 2.0, 3.5, None), drop(above=3, below=1))
    assert selection.margin.tolist()[:3] == [-0.5, 1.0, -0.5]
    assert math.isnan(selection.margin[3])


def test_a_flag_is_dropped_by_its_value() -> None:
    rows = [Row(flag=True), Row(flag=False), Row(flag=True, value=None)]
    assert kept(rows, {"drop": {"field": "given.flag", "is": True}}) == [1, 2]


def test_of_equal_rows_the_first_stays() -> None:
    assert kept([Row(content=content) for content in "abacb"], {"deduplicate": "exact"}) == [0, 1, 3]


def test_deduplication_looks_at_the_rows_that_are_left() -> None:
    rows = [Row(content="a", value=9.0), Row(content="a", value=1.0)]
    assert kept(rows, drop(above=5), {"deduplicate": "exact"}) == [1]


def test_the_best_responses_to_each_prompt_are_kept() -> None:
    rows = [Row(prompt=prompt, value=value) for prompt, value in [("a", 2.0), ("b", 1.0), ("a", 1.0), ("a", 3.0)]]
    assert kept(rows, {"best_of": {"field": "given.value", "lowest": 1}}) == [1, 2]


def test_rows_are_written_in_the_order_asked_for() -> None:
    rows = valued(2.0, None, 1.0, 2.0, 3.0)
    assert kept(rows, {"order": {"field": "given.value"}}) == [2, 0, 3, 4, 1]
    assert kept(rows, {"order": {"field": "given.value", "first": "highest"}}) == [4, 0, 3, 2, 1]


def test_a_random_order_is_a_permutation_that_its_seed_decides() -> None:
    rows = valued(*map(float, range(50)))
    first, again, other = (kept(rows, {"order": {"random": seed}}) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == sorted(other) == list(range(50))
    assert first != sorted(first)


def test_a_random_half_is_half_and_its_seed_decides() -> None:
    rows = valued(*[0.0] * 100)
    first, again, other = (kept(rows, {"sample": {"keep": "50%", "seed": seed}}) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == len(other) == 50


def test_every_row_has_the_same_chance() -> None:
    rows = valued(*[0.0] * 20)
    counts = np.zeros(20)
    for seed in range(600):
        counts[kept(rows, {"sample": {"keep": "50%", "seed": seed}})] += 1
    # Binomial(600, 1/2) has a standard deviation of 12.2.
    assert np.abs(counts - 300).max() < 4.5 * 12.3


def test_draws_of_two_seeds_are_independent() -> None:
    rows = valued(*[0.0] * 2000)
    a, b = (set(kept(rows, {"sample": {"keep": "50%", "seed": seed}})) for seed in (1, 2))
    assert abs(len(a & b) - 500) < 5 * 11.2


def test_nothing_left_is_an_input_error_that_shows_where_the_rows_went() -> None:
    with pytest.raises(InputError, match=r"nothing is left after `drop given.value above 0`; .*2 -> 0"):
        selected(valued(1.0, 2.0), drop(above=0))


def test_the_first_rejecting_step_is_named() -> None:
    selection = selected(valued(1.0, 5.0, 9.0), drop(above=8), drop(above=4))
    assert selection.rejected_by.tolist() == [-1, 1, 0]
    assert selection.failing()["drop given.value above 4"].tolist() == [False, True, True]


def test_margins_are_positive_where_kept_and_negative_where_rejected() -> None:
    assert selected(valued(1.0, 2.0, 4.0, 8.0), keep(lowest="50%")).margin.tolist() == [3.0, 2.0, -2.0, -6.0]
    assert selected(valued(1.0, 2.0, 4.0, 8.0), keep(highest="50%")).margin.tolist() == [-3.0, -2.0, 2.0, 6.0]


def test_a_kept_row_is_on_the_kept_side_even_where_rounding_says_otherwise() -> None:
    selection = selected(valued(3.0000002, 3.0000001, 3.0, 5.0), keep(lowest=2))
    assert np.flatnonzero(selection.kept).tolist() == [0, 1]
    assert selection.margin.tolist() == [0.0, 0.0, 0.0, 3.0000001 - 5.0]


def test_margins_of_several_steps_stay_apart() -> None:
    rows = [Row(value=value, flag=value == 4.0, content=str(value)) for value in (1.0, 2.0, 4.0, 9.0)]
    selection = selected(rows, drop(above=8), keep(lowest=2), {"drop": {"field": "given.flag", "is": True}})
    # Of the ranking where kept or rejected by it, of the bound where rejected by that; `is` has no distance and takes none away.
    assert selection.margin.tolist() == [3.0, 2.0, -2.0, -1.0]
    margins = [step.margin for step in selection.steps]
    assert margins[0] is not None
    assert margins[0].tolist() == [7.0, 6.0, 4.0, -1.0]
    assert margins[2] is None


def test_without_a_ranking_kept_rows_tell_their_distance_to_the_last_bounds() -> None:
    assert selected(valued(1.0, 2.0), drop(above=8), drop(above=4), {"sample": {"keep": 1}}).margin[0] in (3.0, math.nan)


def test_a_row_that_a_draw_rejects_has_no_margin() -> None:
    selection = selected(valued(1.0, 2.0, 3.0), keep(lowest=2), {"sample": {"keep": 1}})
    assert np.isnan(selection.margin).tolist() == (selection.rejected_by == 1).tolist()


@pytest.mark.parametrize(
    ("prompts", "step", "share"),
    [
        ("abcd", {"best_of": {"field": "given.value", "lowest": 1}}, 0.0),
        ("aabc", {"best_of": {"field": "given.value", "lowest": 1}}, 0.5),
        ("aabc", keep(lowest="50%", within=["source", "prompt"]), 0.5),
        ("aabc", keep(lowest="50%", within="dataset"), 0.5),
        ("aabc", {"sample": {"keep": "50%", "within": "prompt"}}, None),
    ],
)
def test_alternatives_are_ranked_rows_that_share_a_prompt(prompts: str, step: Any, share: float | None) -> None:
    assert selected([Row(prompt=prompt) for prompt in prompts], step).report.share_with_alternatives == share


def test_truncated_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop.Given, "outputs", {**workshop.Given.outputs, "truncated": "bool"})
    rows = [Row(value=float(place), truncated=place < 2) for place in range(20)]
    report = selected(rows, keep(lowest="50%")).report
    assert report.truncated == 2
    assert any("--max-length" in warning for warning in report.warnings)
    few = selected([*rows, *valued(*[0.0] * 20)], keep(lowest="50%")).report
    assert (few.truncated, [warning for warning in few.warnings if "--max-length" in warning]) == (2, [])


def test_the_rows_near_the_cut_are_those_of_the_last_ranking() -> None:
    rows = [Row(value=float(place), content=str(place)) for place in range(12)]
    report = selected(rows, drop(above=10.9), keep(lowest="50%"), {"sample": {"keep": 4}}).report
    assert all(row.margin is not None and row.value is not None for row in report.borderline)
    assert not any("above" in row.decision or "sample" in row.decision for row in report.borderline)


def test_every_loud_step_shows_rows_of_its_own() -> None:
    rows = [Row(value=float(place), content=str(place)) for place in range(40)]
    report = selected(rows, drop(above=31), drop(below=8)).report
    assert [row.decision for row in report.dropped_examples] == (
        ["rejected by `drop given.value above 31`"] * 5 + ["rejected by `drop given.value below 8`"] * 5
    )


def test_a_group_that_loses_no_row_has_no_cut() -> None:
    assert np.isnan(selected(valued(1.0, 2.0), keep(lowest="100%")).margin).all()


# Against the rule, written down a second time


def decile_of(rows: Sequence[Row], row: int) -> int:
    """Tenths of all rows that are shorter."""
    shorter = sum(other.characters < rows[row].characters for other in rows)
    return 10 * shorter // len(rows)


def group_of(rows: Sequence[Row], row: int, name: str) -> Any:
    if name == "prompt":
        return rows[row].prompt
    if name == "source":
        return rows[row].source
    return (rows[row].source, decile_of(rows, row)) if name == "stratum" else "all"


def by_the_rule(rows: Sequence[Row], steps: Sequence[Mapping[str, Any]], unscored: str) -> set[int]:
    """The kept rows, row by row, as DESIGN.md says it."""
    alive = list(range(len(rows)))
    for step in steps:
        ((word, said),) = step.items()
        if word == "deduplicate":
            alive = [row for row in alive if not any(rows[other].content == rows[row].content for other in alive if other < row)]
            continue
        scored = [row for row in alive if rows[row].value is not None]
        others = [row for row in alive if rows[row].value is None]
        if word in ("keep", "best_of") and alive and not scored:
            raise RecipeError("nothing to rank")
        chosen = set(scored)
        if word == "drop":
            low, high = said.get("below", -math.inf), said.get("above", math.inf)
            chosen = {row for row in scored if low <= (rows[row].value or 0.0) <= high}
        else:
            end = "lowest" if "lowest" in said else "highest"
            left = scored
            for name in said["within"]:
                is_last = name == said["within"][-1]
                groups: dict[Any, list[int]] = {}
                for row in left:
                    groups.setdefault(group_of(rows, row, name), []).append(row)
                left = []
                for members in groups.values():
                    if len(members) == 1 and not is_last:
                        left += members
                        continue
                    amount = said[end]
                    count = (
                        amount
                        if isinstance(amount, int)
                        else max(1, math.floor(Fraction(amount) * len(members) + Fraction(1, 2)))
                    )
                    sign = 1 if end == "lowest" else -1
                    best = sorted(members, key=lambda row: (sign * (rows[row].value or 0.0), row))
                    chosen -= set(best[count:])
        alive = sorted(chosen | (set(others) if unscored == "keep" else set()))
    return set(alive)


ROWS = st.lists(
    st.builds(
        Row,
        prompt=st.sampled_from("abcde"),
        source=st.sampled_from(["x", "y", None]),
        value=st.sampled_from([None, -1.0, 0.0, 0.5, 1.0, 2.0, 1e30]),
        characters=st.integers(1, 12),
        content=st.sampled_from("pqrstuvw"),
    ),
    min_size=1,
    max_size=24,
)
RANKINGS = st.builds(
    lambda word, end, amount, within: {word: {"field": "given.value", end: amount, "within": within}},
    st.sampled_from(["keep", "best_of"]),
    st.sampled_from(["lowest", "highest"]),
    st.one_of(st.integers(1, 4), st.sampled_from(["0.5", "0.1", "0.25", "0.9", "1/1", "0.3333"])),
    st.lists(st.sampled_from(["prompt", "stratum", "source", "dataset"]), min_size=1, unique=True),
)
STEPS = st.one_of(
    RANKINGS,
    st.just({"deduplicate": "exact"}),
    st.builds(lambda bound: drop(above=bound), st.sampled_from([0.0, 0.5, 1.5])),
    st.builds(lambda bound: drop(below=bound), st.sampled_from([0.0, 0.5])),
)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.lists(STEPS, min_size=1, max_size=3), st.sampled_from(["keep", "drop"]))
def test_the_kept_rows_are_those_of_the_rule(rows: list[Row], steps: list[Any], unscored: str) -> None:
    try:
        expected = by_the_rule(rows, steps, unscored)
    except RecipeError:
        with pytest.raises(RecipeError, match="not one of"):
            selected(rows, *steps, unscored=unscored)
        return
    if not expected:
        with pytest.raises(InputError):
            selected(rows, *steps, unscored=unscored)
        return
    assert set(kept(rows, *steps, unscored=unscored)) == expected


@settings(max_examples=100, deadline=None)
@given(ROWS, st.one_of(STEPS, st.just({"sample": {"keep": "50%", "within": ["prompt", "dataset"]}})), st.data())
def test_the_cut_into_shards_changes_no_decision(rows: list[Row], step: Any, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1)))) if len(rows) > 1 else []
    try:
        whole = selected(rows, step)
    except (InputError, RecipeError):
        return
    parts = selected(rows, step, cuts=cuts)
    assert parts.rejected_by.tolist() == whole.rejected_by.tolist()
    np.testing.assert_array_equal(parts.margin, whole.margin)


@settings(max_examples=100, deadline=None)
@given(ROWS, RANKINGS)
def test_a_margin_has_the_sign_of_its_decision(rows: list[Row], step: Any) -> None:
    assume(any(row.value is not None for row in rows))
    selection = selected(rows, step)
    margin = selection.margin
    assert (margin[selection.kept & ~np.isnan(margin)] >= 0).all()
    assert (margin[~selection.kept] <= 0).all()
