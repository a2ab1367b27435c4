"""`distinct` and `compression`: known answers."""

import random

import pytest

from curate.examples import Example
from curate.filters import Compression, Distinct, Scores, Unscored


def row(completion: str) -> Example:
    return Example(messages=[{"role": "assistant", "content": completion}])


@pytest.mark.parametrize(
    ("text", "shares"),
    [("a b c d", (1, 1, 1)), ("a b a b a b", (2 / 6, 2 / 5, 2 / 4)), ("a", (1, None, None)), ("a a a", (1 / 3, 1 / 2, 1))],
)
def test_distinct_is_types_over_tokens(text: str, shares: tuple[float | None, ...]) -> None:
    found = Distinct().score(row(text))
    assert found == {**{f"distinct_{n}": share for n, share in enumerate(shares, 1)}, "words": len(text.split())}


def test_distinct_over_the_first_words_does_not_depend_on_what_follows() -> None:
    few = Distinct(first_words=4)
    assert few.score(row("a b c d")) == few.score(row("a b c d a b c d"))
    assert few.score(row("a b c")) == Unscored("fewer than 4 words")


def ratio(found: Scores | Unscored) -> float:
    assert not isinstance(found, Unscored)
    assert isinstance(found["ratio"], float)
    return found["ratio"]


def test_what_repeats_itself_compresses() -> None:
    draw = random.Random(0)
    noise = "".join(draw.choice("0123456789abcdef") for _ in range(4000))
    assert ratio(Compression().score(row(noise))) == pytest.approx(2, rel=0.15)  # 4 bits of entropy in 8
    assert ratio(Compression().score(row(noise[:100] * 40))) > 15


def test_a_short_text_has_no_ratio() -> None:
    assert Compression().score(row("x" * 199)) == Unscored("shorter than 200 bytes")
    assert ratio(Compression().score(row("x" * 200))) > 10
