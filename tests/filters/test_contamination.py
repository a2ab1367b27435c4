"""Contamination: how much of an evaluation item stands in a row."""

import gzip
import json
from pathlib import Path

import pytest

from curate.errors import InputError
from curate.examples import Example
from curate.filters import Contamination

QUESTION = "Janet has sixteen ducks and sells nine eggs for two dollars each every day of the week at the market"
FAMILIARITY = Path(__file__).parents[2].parent / "shared" / "data" / "familiarity"


def row(prompt: str, completion: str = "It is four.") -> Example:
    return Example(messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}])


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "test.jsonl"
    path.write_text(
        "".join(json.dumps({"question": text}) + "\n" for text in (QUESTION, "What is 2 + 2?", "Name the capital of France"))
    )
    return path


def overlap(items: Path, example: Example, **more: object) -> object:
    return Contamination.model_validate({"against": items, **more}).score(example)


def test_a_copy_is_found_whatever_its_punctuation(items: Path) -> None:
    found = overlap(items, row("Q: " + QUESTION.upper().replace(" ", ", ") + "?"))
    assert found == {"overlap": 1.0, "item": "test.jsonl:1"}


def test_a_copy_in_the_completion_counts(items: Path) -> None:
    assert overlap(items, row("Write a problem", QUESTION)) == {"overlap": 1.0, "item": "test.jsonl:1"}


def test_the_share_is_that_of_the_items_n_grams(items: Path) -> None:
    words = QUESTION.split()
    half = " ".join(words[: len(words) // 2 + 3])
    shared, all_of_it = len(words) // 2 + 3 - 7, len(words) - 7
    assert overlap(items, row(half)) == {"overlap": pytest.approx(shared / all_of_it), "item": "test.jsonl:1"}


def test_a_short_item_is_one_n_gram(items: Path) -> None:
    assert overlap(items, row("Tell me: what is 2 + 2?")) == {"overlap": 1.0, "item": "test.jsonl:2"}
    assert overlap(items, row("What is 2 + 3?")) == {"overlap": 0.0, "item": None}


def test_the_template_around_the_items_does_not_count(tmp_path: Path) -> None:
    template = " Please give the final answer as a number at the very end of your text"
    items = tmp_path / "test.jsonl"
    texts = [f"item{number} " * 12 + template for number in range(40)]
    items.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    assert overlap(items, row("Something else entirely." + template)) == {"overlap": 0.0, "item": None}
    found = overlap(items, row(texts[7]))
    assert isinstance(found, dict)
    assert (found["overlap"], found["item"]) == (1.0, "test.jsonl:8")


def test_chats_and_columns(tmp_path: Path) -> None:
    chats = tmp_path / "chat.json"
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "a b c d e f g h i j k l"}]
    chats.write_text(json.dumps([{"messages": turns}]))
    assert overlap(chats, row(QUESTION))["overlap"] == 1.0  # type: ignore[index]
    assert overlap(chats, row("x", turns[1]["content"]))["overlap"] == 0.0  # type: ignore[index]
    other = tmp_path / "other.csv"
    other.write_text(f"frage,id\n{QUESTION},1\n")
    assert overlap(other, row(QUESTION), column="frage")["overlap"] == 1.0  # type: ignore[index]
    with pytest.raises(InputError, match=r"no question; say which with `column`; it has frage, id"):
        overlap(other, row(QUESTION))
    with pytest.raises(InputError, match=r"has no frag; did you mean 'frage'"):
        overlap(other, row(QUESTION), column="frag")


def test_missing_or_empty_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such evaluation file"):
        Contamination(against=(tmp_path / "none.jsonl",)).fingerprint()
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no evaluation items"):
        Contamination(against=(tmp_path / "empty.jsonl",)).score(row("x"))


def test_the_fingerprint_is_what_the_files_hold(items: Path, tmp_path: Path) -> None:
    one = Contamination(against=(items,)).fingerprint()
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(items.read_bytes())
    assert Contamination(against=(moved,)).fingerprint() == one
    moved.write_text(json.dumps({"question": "another"}) + "\n")
    assert Contamination(against=(moved,)).fingerprint() != one


def test_gsm8ks_training_rows_hold_hardly_any_test_question() -> None:
    if not FAMILIARITY.is_dir():
        pytest.skip("the GSM8K rows of ../shared are not here")
    one = Contamination(against=(FAMILIARITY / "gsm8k" / "test.jsonl.gz",))
    with gzip.open(FAMILIARITY / "gsm8k" / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    overlaps = [one.score(row(prompt))["overlap"] for prompt in prompts]
    assert len(prompts) == 1000
    assert sum(float(share) > 0.5 for share in overlaps) <= 2  # type: ignore[arg-type]
    with gzip.open(FAMILIARITY / "gsm8k" / "test.jsonl.gz", "rt") as file:
        planted = [json.loads(line)["prompt"] for line in file][:50]
    assert all(one.score(row(prompt))["overlap"] == 1.0 for prompt in planted)
