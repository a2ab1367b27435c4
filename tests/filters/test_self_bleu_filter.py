"""The `self_bleu` filter: groups, reasons, and what it tells of the whole set."""

import pytest

from curate.examples import Example
from curate.filters import SelfBleu, Unscored

TEXTS = ["the cat sat on the mat", "the cat sat on the mat", "", "quite another thing altogether"]


def row(place: int, text: str, *, prompt: str = "q", source: str | None = None) -> Example:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return Example(messages=turns, row=place, source=source)  # type: ignore[arg-type]


def test_values_and_reasons() -> None:
    rows = [row(place, text) for place, text in enumerate(TEXTS)]
    copy, other, empty, stranger = SelfBleu().fit(rows).score_batch(rows)
    assert copy == other == {"self_bleu": pytest.approx(1), "tokens": 6}
    assert empty == Unscored("no tokens")
    assert stranger == {"self_bleu": 0, "tokens": 4}


@pytest.mark.parametrize("within", ["source", "prompt"])
def test_within_a_group_only_its_rows_are_references(within: str) -> None:
    rows = [row(place, TEXTS[0], prompt=f"q{place // 2}", source=f"s{place // 2}") for place in range(3)]
    found = SelfBleu.model_validate({"within": within}).fit(rows).score_batch(rows)
    assert found[:2] == [{"self_bleu": pytest.approx(1), "tokens": 6}] * 2
    assert found[2] == Unscored("alone")


def test_findings_hold_what_the_value_depends_on() -> None:
    rows = [row(place, text) for place, text in enumerate(TEXTS)]
    found = SelfBleu(n=2, tokenizer="13a").fit(rows).findings()
    assert found == {
        "self_bleu": pytest.approx(2 / 3),
        "rows": 3,
        "n": 2,
        "smoothing": "NLTK method 1",
        "tokenizer": "13a",
        "within": "dataset",
    }
    assert SelfBleu().fit(rows[:1]).findings() == {}


def test_where_it_is_counted_changes_no_fingerprint() -> None:
    rows = [row(place, text) for place, text in enumerate(TEXTS)]
    on_disk = SelfBleu(in_memory_tokens=0).fit(rows)
    assert on_disk.fingerprint() == SelfBleu().fit(rows).fingerprint()
    assert on_disk.score_batch(rows) == SelfBleu().fit(rows).score_batch(rows)
