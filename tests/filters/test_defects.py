import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.filters.copying import shares_run
from curate.filters.encoding import is_mojibake
from curate.filters.language import is_other_language, language_of
from curate.filters.markup import is_unbalanced

ENGLISH = "The weather was fine this morning, and so the children went down to the river to look for small fish."
GERMAN = "Das Wetter war heute Morgen schön, und so gingen die Kinder zum Fluss hinunter, um nach kleinen Fischen zu suchen."
JAPANESE = "今朝は天気がよかったので、子どもたちは小さな魚を探しに川へ行きました。そして夕方まで遊びました。"


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 1",
        r"so \(x = 1",
        r"\[ x + 1",
        r"x = 1 \)",
        r"\begin{align} x",
        r"\begin{align} x \end{equation}",
        r"\left( x )",
        r"it is \boxed{5",
        r"\frac{1}{2",
    ],
)
def test_what_stays_open_is_unbalanced(text: str) -> None:
    assert is_unbalanced(text)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5.",
        r"\(x\) and \[y\] and $z$",
        r"\begin{align} x \\ y \end{align}",
        r"\boxed{\frac{1}{2}}",
        "```\n\\(\n```",
        r"write `\(` to open",
        r"re.match('\(a', x)",
        "a ( b",
        "",
    ],
)
def test_what_is_closed_or_no_latex_is_balanced(text: str) -> None:
    assert not is_unbalanced(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [("donâ€™t", True), ("schÃ¶n", True), ("lost \ufffd bytes", True), ("don’t schön 日本", False), ("plain", False)],
)
def test_mojibake(text: str, found: bool) -> None:
    assert is_mojibake(text) is found


@pytest.mark.parametrize(
    ("prompt", "completion", "differs"),
    [
        (ENGLISH, GERMAN, True),
        (ENGLISH, JAPANESE, True),
        (GERMAN, GERMAN, False),
        (ENGLISH, ENGLISH[::-1].title()[:20], None),
        (ENGLISH, "Paris", None),
        (ENGLISH, "def f(x):\n    return x\n\nimport os\nfrom sys import path\nreturn f\nclass A:\n    import b", None),
    ],
)
def test_language_of_prompt_and_completion(prompt: str, completion: str, differs: bool | None) -> None:
    assert is_other_language(prompt, completion, confidence=0.8) is differs


def test_a_text_of_no_words_has_no_language() -> None:
    assert language_of("12 + 34 = 46 " * 50) is None


def test_a_run_in_both_texts_is_found_whole() -> None:
    assert shares_run(["x", "a", "b", "c", "d", "y"], ["p", "q", "a", "b", "c", "d"], 4)
    assert not shares_run(["x", "a", "b", "c", "d", "y"], ["p", "q", "a", "b", "c", "d"], 5)
    assert not shares_run([], [], 1)


@given(st.lists(st.sampled_from("abc"), max_size=20), st.lists(st.sampled_from("abc"), max_size=20), st.integers(1, 6))
def test_shared_runs_agree_with_the_definition(one: list[str], other: list[str], length: int) -> None:
    runs = {tuple(one[at : at + length]) for at in range(len(one) - length + 1)}
    expected = any(tuple(other[at : at + length]) in runs for at in range(len(other) - length + 1))
    assert shares_run(one, other, length) == expected
