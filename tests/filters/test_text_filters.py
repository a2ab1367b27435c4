import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import curate.filters
from curate.examples import Example
from curate.filters import Errors, Length, Scores, Tells, Unscored


def example(completion: str, *, gold: str | None = None, prompt: str = "What is 14 + 4?") -> Example:
    return Example(messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], gold=gold)


def errors(completion: str, *, gold: str | None = None) -> Scores:
    return Errors().score(example(completion, gold=gold))


def test_a_right_row_has_no_defect() -> None:
    scores = errors("14 + 4 = 18\nFinal Answer: 18", gold="18")
    assert [name for name, value in scores.items() if value is True] == []
    assert scores["answer"] == "18"


@pytest.mark.parametrize(
    ("defect", "completion", "gold"),
    [
        ("wrong", "Final Answer: 17", "18"),
        ("unanswered", "I would rather not say.", "18"),
        ("empty", " \n", None),
        ("cut_off", "We add 14 and", None),
        ("loop", "The sum is 18. " * 4, None),
        ("false_arithmetic", "14 + 4 = 17, so", None),
        ("broken_code", "def f(x)\n    return x", None),
    ],
)
def test_each_defect_is_flagged_and_fatal(defect: str, completion: str, gold: str | None) -> None:
    tests = ["assert f(1) == 1"] if defect == "broken_code" else None
    scores = Errors().score(replace(example(completion, gold=gold), tests=tests))
    assert scores[defect] is True
    assert scores["fatal"] is True


@pytest.mark.parametrize(
    ("defect", "completion"),
    [("broken_code", "See:\n```python\ndef f(x)\n```"), ("unbalanced", r"It is \boxed{18"), ("mojibake", "donâ€™t")],
)
def test_what_is_not_measured_is_flagged_and_not_fatal(defect: str, completion: str) -> None:
    scores = errors(completion)
    assert (scores[defect], scores["fatal"]) == (True, False)


def test_the_strict_reader_blames_the_format_where_the_lenient_one_finds_the_answer() -> None:
    scores = errors("It is 18 (14 and 4).\nAnswer: 18", gold="18")
    assert (scores["wrong"], scores["strict_wrong"], scores["fatal"]) == (False, True, False)
    assert errors("Final Answer: 18", gold="18")["strict_wrong"] is False


@pytest.mark.parametrize(
    ("completion", "gold", "contains", "wrong"),
    [
        ("It was the Denver Broncos who won that game.", "Denver Broncos", True, None),
        ("It was played in The Levi's-Stadium, in May.", "the Levi's Stadium", True, None),
        ("The Denver Broncos.", "Denver Broncos", True, False),
        ("The Carolina Panthers won.", "Denver Broncos", False, None),
        ("Rome", "Paris", False, True),
        ("It is 18.", "18", None, False),
        ("It is 18.", None, None, None),
    ],
)
def test_a_long_answer_may_contain_gold(completion: str, gold: str | None, contains: bool | None, wrong: bool | None) -> None:
    scores = errors(completion, gold=gold)
    assert (scores["contains_gold"], scores["wrong"]) == (contains, wrong)


@pytest.mark.parametrize(
    ("given", "failing"),
    [({}, None), ({"unit_tests": Unscored("refused")}, None), ({"unit_tests": {"passed": None}}, None)]
    + [({"unit_tests": {"passed": passed}}, not passed) for passed in (True, False)],
)
def test_failing_tests_are_fatal_where_they_ran(given: Mapping[str, Scores | Unscored], failing: bool | None) -> None:
    scores = Errors().derive(example("def f(): return 1"), given)
    assert (scores["failing_tests"], scores["fatal"]) == (failing, failing is True)


def test_tests_are_run_only_when_asked_for() -> None:
    assert Errors().depends() == {}


@pytest.mark.parametrize(
    "completion",
    [
        "| a | b |\n| --- | --- |\n" + "| | |\n" * 9,
        "\n".join(f"case '{sign}': result = a {sign} b; break;" for sign in "+-*/"),
    ],
)
def test_tables_and_the_branches_of_a_program_are_no_loop(completion: str) -> None:
    assert errors(completion)["loop"] is False


def test_without_gold_wrong_is_null_and_the_answer_still_shown() -> None:
    scores = errors("Final Answer: 18")
    assert (scores["wrong"], scores["unanswered"], scores["answer"]) == (None, None, "18")


def test_an_empty_completion_is_judged_for_nothing_else() -> None:
    scores = errors("")
    assert (scores["empty"], scores["fatal"]) == (True, True)
    assert (scores["cut_off"], scores["loop"], scores["false_arithmetic"], scores["answer"]) == (None, None, None, None)


@pytest.mark.parametrize(
    ("tell", "completion"),
    [
        ("markup", "48/2 = <<48/2=24>>24"),
        ("markup", "Fine.<|im_end|>"),
        ("markup", "[INST] hello [/INST]"),
        ("markup", "It is 5.</s>"),
        ("markup", "### Response:\nIt is 5."),
        ("refusal", "I'm sorry, but I can't help with that."),
        ("refusal", "I cannot provide an answer to that question."),
        ("preamble", " Sure thing! I'd be happy to help you with that."),
        ("preamble", "Certainly! It is 5."),
        ("preamble", "Of course, I'll explain."),
        ("preamble", "It is 5.\n\nI hope this helps! Let me know if you have any questions."),
        ("meta_talk", "The prediction explains that 5 is right."),
        ("meta_talk", "As an AI language model, I like 5."),
        ("meta_talk", "Based on the ground truth, it is 5."),
        ("meta_talk", "The given answer is 5."),
        ("meta_talk", "Here is the rewritten solution:"),
    ],
)
def test_each_tell_is_found(tell: str, completion: str) -> None:
    scores = Tells().score(example(completion))
    assert scores[tell] is True
    assert scores["any"] is True


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "a << 2 shifts; cout << x << endl; if (a<b && c>d)",
        "The weather prediction for tomorrow was wrong.",
        "Sure enough, he came. Of course he did.",
        "I cannot help but smile.",
        "Use <s>old</s> new in HTML.",
        "# Response times\nThe server answers in 5 ms.",
        "An AI wrote this? No, as an air traffic controller I did.",
    ],
)
def test_ordinary_text_has_no_tell(completion: str) -> None:
    assert Tells().score(example(completion))["any"] is False


WEATHER = "The weather was fine this morning, and so the children went down to the river to look for small fish."
WETTER = "Das Wetter war heute Morgen schön, und so gingen die Kinder zum Fluss, um nach kleinen Fischen zu suchen."


def test_another_language_and_a_copied_prompt_are_told_apart_from_traces() -> None:
    scores = Tells().score(example(WETTER, prompt=WEATHER))
    assert (scores["language"], scores["copied_prompt"], scores["any"]) == (True, False, False)
    scores = Tells().score(example(f"You asked: {WEATHER} Fine.", prompt=f"Go on: {WEATHER}"))
    assert (scores["language"], scores["copied_prompt"], scores["any"]) == (False, True, False)


def test_the_language_of_a_short_text_is_not_judged() -> None:
    assert Tells().score(example("18"))["language"] is None


def test_length_counts_characters_words_and_prompt() -> None:
    scores = Length().score(example("two wörds", prompt="abc"))
    assert scores == {"characters": 9, "words": 2, "prompt_characters": 3}


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "(",
        "=",
        "1",
        "1,",
        "1+",
        "<<1",
        "{",
        "\\boxed{",
        " ",
        "\n",
        "answer is ",
        "the prediction ",
        "```\n",
        "1 = ",
        "-",
        "x ",
        "\\frac{",
        "\\(",
        "\\begin{a}",
        "```python\n(",
        "â€™ ",
        "\ud800",
        "Final Answer: ",
        "$x^",
        "日本",
        "`",
    ],
)
def test_hostile_text_is_scored_in_linear_time(piece: str) -> None:
    row = example(piece * (300_000 // len(piece)), gold="5", prompt=piece * (200_000 // len(piece)))
    start = time.perf_counter()
    Errors().score(row)
    Errors().score(replace(row, gold=r"3\sqrt{2}", tests=["assert True"]))
    Errors().score(replace(row, gold=piece * 1_000))
    Tells().score(row)
    assert time.perf_counter() - start < 20


def test_no_pattern_repeats_a_repetition_without_bound() -> None:
    nested = re.compile(r"\([^()]*[^\\()][*+]\)[*+]")
    # Linear all the same: each repetition of this one opens with a sign that its inside cannot hold.
    harmless = [r"(?:['’-][^\W\d_]+)*"]
    for file in sorted(Path(curate.filters.__file__).parent.glob("*.py")):
        assert [found for found in nested.findall(file.read_text(encoding="utf-8")) if found not in harmless] == [], file.name
