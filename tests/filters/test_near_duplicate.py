"""The `near_duplicate` filter on real rows."""

import json
from pathlib import Path

import pytest

from curate.examples import Example
from curate.filters import NearDuplicate, Unscored
from curate.reference import sample_path

PLANTED = "near_copy"


def sample() -> list[Example]:
    rows = [json.loads(line) for line in sample_path().read_text("utf-8").splitlines()]
    return [
        Example(
            messages=[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}],
            row=place,
            extra=row,
        )
        for place, row in enumerate(rows)
    ]


def test_planted_near_copies_are_found() -> None:
    examples = sample()
    results = NearDuplicate().fit(examples).score_batch(examples)
    planted = {example.row for example in examples if example.extra["defect"] == PLANTED}
    found = {row for row, result in enumerate(results) if not isinstance(result, Unscored) and result["is_copy"]}
    assert planted
    assert len(found & planted) >= 0.9 * len(planted)


def test_findings_count_groups() -> None:
    rows = [
        Example(messages=[{"role": "assistant", "content": text}], row=row) for row, text in enumerate(["a b c", "A, b: c!", "d"])
    ]
    assert NearDuplicate().fit(rows).findings() == {"groups": 2, "rows": 3}


@pytest.mark.parametrize("of", ["both", "prompt", "completion"])
def test_which_text_counts(of: str, tmp_path: Path) -> None:
    def row(place: int, prompt: str, completion: str) -> Example:
        return Example(messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], row=place)

    rows = [row(0, "one two three four", "five six seven eight"), row(1, "one two three four", "nine ten eleven twelve")]
    fitted = NearDuplicate.model_validate({"of": of}).fit(rows)
    assert fitted.score(rows[1])["is_copy"] is (of == "prompt")
