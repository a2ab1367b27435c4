"""Readability: known values of the formulas, and null where they would be nonsense."""

import pytest

from curate.examples import Example
from curate.filters import Readability, Scores, Unscored
from curate.filters.readability import as_sentences, without_code

EASY = "The cat sat on the mat. The dog ran to the cat. " * 4
HARD = (
    "Notwithstanding considerable methodological heterogeneity, contemporary epidemiological investigations "
    "consistently demonstrate statistically significant associations between environmental determinants and "
    "cardiovascular pathophysiology, particularly among socioeconomically disadvantaged populations whose "
    "accumulated vulnerabilities exacerbate preexisting physiological dysregulation."
)


def readability(completion: str, *, fewest_words: int = 30) -> Scores | Unscored:
    rows = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": completion}]
    return Readability(fewest_words=fewest_words).score(Example(messages=rows))  # type: ignore[arg-type]


def scores(completion: str) -> Scores:
    found = readability(completion)
    assert not isinstance(found, Unscored), found
    return found


def test_the_formulas_are_those_published() -> None:
    # Sentences of 6 words of one syllable; 36 characters, full stops included, to two of them.
    found = scores(EASY)
    assert found["words"] == 48
    assert found["flesch_reading_ease"] == pytest.approx(206.835 - 1.015 * 6 - 84.6, abs=0.01)
    assert found["flesch_kincaid_grade"] == pytest.approx(0.39 * 6 + 11.8 - 15.59, abs=0.01)
    assert found["automated_readability_index"] == pytest.approx(4.71 * 36 / 12 + 0.5 * 6 - 21.43, abs=0.01)


def test_hard_prose_is_harder() -> None:
    easy, hard = scores(EASY), scores(HARD)
    for output, sign in (("flesch_reading_ease", -1), ("flesch_kincaid_grade", 1), ("automated_readability_index", 1)):
        one, other = easy[output], hard[output]
        assert isinstance(one, float)
        assert isinstance(other, float)
        assert sign * (other - one) > 10


def test_a_list_is_one_sentence_an_item() -> None:
    items = "\n".join(f"- {sentence}" for sentence in ["the cat sat on the mat"] * 8)
    assert scores(items)["flesch_reading_ease"] == pytest.approx(scores(EASY)["flesch_reading_ease"], abs=1)


def test_code_and_formulas_do_not_count() -> None:
    code = "\n```python\nfor internationalization in multidimensional_representations: pass\n```\n"
    assert scores(EASY + "It ran. " * 5 + code)["words"] == 58
    assert without_code("a `b` $x^2$ c <<1+1=2>> https://example.org/d e").split() == ["a", "c", "e"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "fewer than 30 words"),
        ("42", "mostly code, math or symbols"),
        ("A short answer.", "fewer than 30 words"),
        ("x = 1 + 2 ; y = 3 * 4 ; " * 30, "mostly code, math or symbols"),
        ("```\nfor a in b:\n    print(a)\n```", "mostly code, math or symbols"),
        (
            "    total = 0\n    for value in values:\n        total = total + value\n    return total\n" * 8,
            "mostly code, math or symbols",
        ),
        ("Die Katze sitzt auf der Matte und der Hund läuft durch den Garten zu ihr hin. " * 4, "not English"),
        ("日本語の文章はここでは読みやすさの式で測れません。" * 5, "fewer than 30 words"),
        ("a" * 1_000_000, "mostly code, math or symbols"),
    ],
)
def test_where_the_formulas_are_nonsense_there_is_no_score(text: str, reason: str) -> None:
    assert readability(text) == Unscored(reason)


def test_a_run_of_letters_is_no_word() -> None:
    assert as_sentences("one " + "x" * 500 + " two") == "one two."
