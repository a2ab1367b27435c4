import re
import time
from pathlib import Path

import pytest

import curate.filters
from curate.examples import Example
from curate.filters import Errors, Length, Scores, Tells


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
    ],
)
def test_each_defect_is_flagged_and_fatal(defect: str, completion: str, gold: str | None) -> None:
    scores = errors(completion, gold=gold)
    assert scores[defect] is True
    assert scores["fatal"] is True


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
    ],
)
def test_hostile_text_is_scored_in_linear_time(piece: str) -> None:
    row = example(piece * (300_000 // len(piece)), gold="5", prompt=piece * (200_000 // len(piece)))
    start = time.perf_counter()
    Errors().score(row)
    Tells().score(row)
    assert time.perf_counter() - start < 10


def test_no_pattern_repeats_a_repetition_without_bound() -> None:
    nested = re.compile(r"\([^()]*[^\\()][*+]\)[*+]")
    # Linear all the same: each repetition of this one opens with a sign that its inside cannot hold.
    harmless = [r"(?:['’-][^\W\d_]+)*"]
    for file in sorted(Path(curate.filters.__file__).parent.glob("*.py")):
        assert [found for found in nested.findall(file.read_text(encoding="utf-8")) if found not in harmless] == [], file.name
