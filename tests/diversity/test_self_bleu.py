"""Self-BLEU: NLTK's value, whatever the way it is counted."""

import gzip
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.diversity import self_bleu
from curate.diversity.self_bleu import Corpus, closest_other_length, set_self_bleu

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "regurgitative" / "translation" / "wmt23.jsonl.gz"


def ours(texts: list[str], *, groups: list[int] | None = None, n: int = 4, in_memory_tokens: int = 10**6) -> list[float]:
    corpus = Corpus(n=n, in_memory_tokens=in_memory_tokens)
    for place, text in enumerate(texts):
        corpus.add(text, 0 if groups is None else groups[place])
    return [float(value) for value in corpus.self_bleu()]


def nltks(texts: list[str], n: int = 4) -> list[float]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    tokens = [text.split() for text in texts]
    smoothing = SmoothingFunction().method1
    weights = (1 / n,) * n
    return [
        float(sentence_bleu(tokens[:i] + tokens[i + 1 :], tokens[i], weights=weights, smoothing_function=smoothing))
        for i in range(len(tokens))
    ]


def test_copies_score_one_and_strangers_zero() -> None:
    assert ours(["a b c d e", "a b c d e", "v w x y z"]) == pytest.approx([1, 1, 0])


def test_the_clip_is_the_largest_count_of_the_others() -> None:
    # `a` 3 times against 2: one of its three unigrams is lost
    value = ours(["a a a", "a a"], n=1)
    assert value == pytest.approx([2 / 3, math.exp(1 - 3 / 2)])


@pytest.mark.parametrize("n", [1, 2, 4, 5])
@given(texts=st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=12))
@settings(deadline=None, max_examples=60)
def test_it_is_nltks_on_any_texts(n: int, texts: list[str]) -> None:
    assert ours(texts, n=n) == pytest.approx(nltks(texts, n), abs=1e-12)


def test_it_is_nltks_on_real_responses() -> None:
    if not SHARED.is_file():
        pytest.skip("the WMT23 responses of ../shared are not here")
    with gzip.open(SHARED, "rt", encoding="utf-8") as file:
        texts = [text for line in file if (text := json.loads(line)["response"]).strip()]
    sample = random.Random(0).sample(texts, 300)
    assert ours(sample) == pytest.approx(nltks(sample), abs=1e-9)


def some_texts(count: int = 300) -> list[str]:
    draw = random.Random(1)
    return [" ".join(f"w{int(draw.expovariate(0.1))}" for _ in range(draw.randrange(0, 40))) for _ in range(count)]


def test_on_disk_is_what_it_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_bleu, "_CHUNK_TOKENS", 500)  # some ten parts
    texts, groups = some_texts(), [place % 3 for place in range(300)]
    on_disk = ours(texts, groups=groups, in_memory_tokens=1200)
    assert on_disk == pytest.approx(ours(texts, groups=groups), abs=1e-12, nan_ok=True)


def test_groups_are_counted_apart() -> None:
    texts = some_texts(90)
    groups = [place % 4 for place in range(90)]
    together = ours(texts, groups=groups)
    for group in range(4):
        members = [place for place in range(90) if groups[place] == group]
        alone = ours([texts[place] for place in members])
        assert [together[place] for place in members] == pytest.approx(alone, abs=1e-12, nan_ok=True)


def test_order_does_not_matter() -> None:
    texts = some_texts(80)
    assert ours(texts[::-1])[::-1] == pytest.approx(ours(texts), nan_ok=True)


def test_a_text_alone_or_empty_has_no_value() -> None:
    assert np.isnan(ours(["a b"])).all()
    assert np.isnan(ours(["a b", "a b", "c"], groups=[0, 0, 1])).tolist() == [False, False, True]
    assert np.isnan(ours(["", "a", "a"])).tolist() == [True, False, False]
    assert np.isnan(ours(["", ""])).all()


@pytest.mark.parametrize(
    ("lengths", "closest"), [([3, 3, 9], [3, 3, 3]), ([4, 6, 8], [6, 4, 6]), ([5], [-1]), ([1, 10, 12], [10, 12, 10])]
)
def test_the_closest_other_length_is_nltks(lengths: list[int], closest: list[int]) -> None:
    found = closest_other_length(np.array(lengths), np.zeros(len(lengths), dtype=np.int64))
    assert found.tolist() == closest


@pytest.mark.parametrize(
    ("name", "tokens"), [("whitespace", ["a,b", "c"]), ("13a", ["a", ",", "b", "c"]), ("characters", list("a,bc"))]
)
def test_tokenizers(name: self_bleu.Tokenizer, tokens: list[str]) -> None:
    assert self_bleu.tokenizer(name)("a,b  c") == tokens


def test_the_set_value_is_the_mean() -> None:
    assert set_self_bleu(["a b c d", "a b c d", "x y"]) == pytest.approx(2 / 3)
    assert set_self_bleu(["a"]) is None
    assert set_self_bleu([]) is None
