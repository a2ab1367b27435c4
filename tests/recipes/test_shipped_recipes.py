"""The recipes that ship: each loads, is called like its file, and says where it comes from."""

from pathlib import Path

import pytest

from curate.recipes import Recipe, load_recipe, shipped_recipes


@pytest.fixture(params=sorted(shipped_recipes()))
def shipped(request: pytest.FixtureRequest) -> Recipe:
    return load_recipe(request.param)


def test_some_recipes_ship() -> None:
    assert {"clean", "familiarity-top50", "random50"} <= shipped_recipes().keys()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_is_called_like_its_file(name: str) -> None:
    assert load_recipe(name).name == name


def test_a_recipe_says_what_it_does_and_why(shipped: Recipe) -> None:
    assert shipped.summary.endswith(".")
    assert shipped.source
    assert "arXiv:" in shipped.source


def test_controls_draw_in_the_groups_of_what_they_control() -> None:
    within = {name: load_recipe(name).steps[-1].within for name in ("random50", "longest50", "unfamiliar-top50")}  # type: ignore[attr-defined]
    assert set(within.values()) == {load_recipe("familiarity-top50").steps[-1].within}  # type: ignore[attr-defined]


def test_a_random_half_needs_no_scores() -> None:
    assert not load_recipe("random50").filters


def test_a_recipe_builds_its_filters(shipped: Recipe, tiny_model_dir: Path) -> None:
    built = shipped.build_filters({"model": str(tiny_model_dir)})
    assert built.keys() == shipped.filters.keys()


def test_a_recipe_states_what_becomes_of_unscored_rows(shipped: Recipe) -> None:
    assert "unscored" in shipped.model_fields_set


def test_errors_are_dropped_only_where_they_are_fatal(shipped: Recipe) -> None:
    read = {field for step in shipped.steps for field in step.fields() if field.startswith(("errors.", "tells."))}
    assert read <= {"errors.fatal"}


def test_a_trial_compares_with_known_arms(shipped: Recipe) -> None:
    known = {"random-clean", "random", "full", "base", "longest", "reverse"}
    assert {shipped.trial.primary, *shipped.trial.against} <= known
