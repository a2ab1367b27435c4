"""Consensus: sacrebleu's chrF, the mean over the other sources of a prompt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF

from curate.diversity.chrf import SIGNATURE, all_pairs_chrf
from curate.examples import Example
from curate.filters import Consensus, Unscored


@given(texts=st.lists(st.text(alphabet="ab c\u00e9日", max_size=14), min_size=1, max_size=6))
@settings(deadline=None, max_examples=150)
def test_every_pair_is_sacrebleus_chrf(texts: list[str]) -> None:
    metric = CHRF()
    found = all_pairs_chrf(texts)
    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            assert found[i, j] == pytest.approx(metric.sentence_score(one, [other]).score, abs=1e-9)


def test_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat sat on the mat", "the cat sat", "a dog ran on the mat", "", "aaaa aaaa"]
    whole = all_pairs_chrf(texts)
    monkeypatch.setattr("curate.diversity.chrf._MOST_CELLS", 1)
    assert (all_pairs_chrf(texts) == whole).all()


def test_it_is_the_default_chrf() -> None:
    metric = CHRF()
    metric.sentence_score("a", ["b"])
    ours, theirs = (dict(part.split(":") for part in text.split("|")) for text in (SIGNATURE, str(metric.get_signature())))
    assert ours.pop("version") == ".".join(theirs.pop("version").split(".")[:2])
    theirs["nrefs"] = "1"
    assert ours == theirs


def row(place: int, text: str, source: str | None, prompt: str = "q") -> Example:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return Example(messages=turns, row=place, source=source)  # type: ignore[arg-type]


def test_only_other_sources_of_the_prompt_count() -> None:
    rows = [
        row(0, "the cat", "a"),
        row(1, "the cat", "a"),
        row(2, "the cat", "b"),
        row(3, "a dog ran", "c"),
        row(4, "the cat", "b", "p"),
    ]
    found = Consensus().fit(rows).score_batch(rows)
    chrf = CHRF().sentence_score("the cat", ["a dog ran"]).score
    assert found[0] == found[1] == {"chrf": pytest.approx((100 + chrf) / 2), "others": 2}
    assert found[2] == {"chrf": pytest.approx((200 + chrf) / 3), "others": 3}
    assert found[4] == Unscored("no other source")


def test_rows_without_a_source_are_compared_with_all_others() -> None:
    rows = [row(0, "same", None), row(1, "same", None), row(2, " ", None)]
    assert Consensus().fit(rows).score_batch(rows) == [
        {"chrf": pytest.approx(100), "others": 1},
        {"chrf": pytest.approx(100), "others": 1},
        Unscored("empty completion"),
    ]


def test_a_prompt_of_very_many_rows_is_bounded() -> None:
    rows = [row(place, "same", None) for place in range(5)]
    found = Consensus(most_rows=3).fit(rows).score_batch(rows)
    assert [isinstance(result, Unscored) for result in found] == [False, False, False, True, True]
