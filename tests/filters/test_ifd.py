"""ifd is the ratio of the perplexities with and without the prompt; loss_ratio that of the losses."""

import json
import math
from pathlib import Path
from statistics import mean

import pytest

from curate.examples import Example
from curate.filters import InstructionFollowingDifficulty, Perplexity, Scores, Unscored
from curate.reference import model_path, sample_path

SUMS: Scores = {"content_tokens": 4, "content_nll": 6.0, "truncated": False}
ALONE: Scores = {"content_tokens": 4, "content_nll": 8.0, "truncated": False}


def example(prompt: str, completion: str) -> Example:
    return Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}])


def derived(sums: Scores | Unscored, alone: Scores | Unscored) -> Scores | Unscored:
    given = {"conditional": sums, "unconditional": alone}
    return InstructionFollowingDifficulty(model="any").derive(example("q", "a"), given)


def test_the_ratios_by_hand() -> None:
    assert derived(SUMS, ALONE) == {
        "ifd": pytest.approx(math.exp(1.5) / math.exp(2.0)),
        "loss_ratio": 0.75,
        "information": 0.5,
        "content_nll": 1.5,
        "unconditional_nll": 2.0,
        "content_tokens": 4,
        "truncated": False,
    }


def test_a_ratio_that_is_not_defined_is_null() -> None:
    certain = derived(SUMS, {**ALONE, "content_nll": 0.0})
    surprising = derived({**SUMS, "content_nll": 4 * 900.0}, ALONE)
    assert isinstance(certain, dict)
    assert isinstance(surprising, dict)
    assert certain["loss_ratio"] is None
    assert certain["ifd"] == pytest.approx(math.exp(1.5))
    assert (surprising["ifd"], surprising["loss_ratio"]) == (None, 450.0)


def test_unscored_where_either_view_is() -> None:
    assert derived(Unscored("too_long"), ALONE) == Unscored("too_long")
    assert derived(SUMS, Unscored("nonfinite")) == Unscored("nonfinite")


def test_it_agrees_with_perplexity_and_shares_its_passes(tiny_model_dir: Path) -> None:
    model = str(tiny_model_dir)
    row = example("What is 2 + 2?", "The answer is four.")
    ours = InstructionFollowingDifficulty(model=model)
    theirs = Perplexity(model=model, unconditional=True)
    assert ours.depends() == theirs.depends()
    mine, other = ours.score(row), theirs.score(row)
    assert isinstance(mine, dict)
    assert isinstance(other, dict)
    assert {name: mine[name] for name in ("ifd", "content_nll", "unconditional_nll")} == {
        name: other[name] for name in ("ifd", "content_nll", "unconditional_nll")
    }


def test_prompts_help_a_trained_model_on_average() -> None:
    with sample_path().open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:60]
    results = InstructionFollowingDifficulty(model=str(model_path())).score_batch(
        [example(row["prompt"], row["response"]) for row in rows]
    )
    assert mean(float(result["information"] or 0) for result in results if isinstance(result, dict)) > 0
