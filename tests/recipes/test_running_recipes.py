"""Every shipped recipe runs on the packaged sample, or refuses with the reason that its page states."""

from pathlib import Path

import pytest

from curate.errors import CurateError
from curate.pipeline import run
from curate.recipes import load_recipe, shipped_recipes

REFUSALS = {
    "self-aligned-top50": "needs correct answers of the target model's own",
    "predicted-bleu-top50": "too_few_references",
    "humanlike-top50": "too_short",
}


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_runs_on_the_sample_or_says_why_not(name: str, tmp_path: Path) -> None:
    if name in REFUSALS:
        with pytest.raises(CurateError, match=REFUSALS[name]):
            run(name, out=tmp_path / "run", limit=60)
        return
    report = run(name, out=tmp_path / "run", limit=60).report
    assert 0 < report.kept < report.rows == 60
    assert list((tmp_path / "run" / "selection" / "kept").glob("*.parquet"))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_says_what_speaks_for_it_and_when_not_to_use_it(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.evidence
    assert recipe.avoid
