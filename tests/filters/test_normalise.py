"""`normalise` strips named markup before a model scores a row; what is kept and trained is the row as it was read."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from workshop import curate, recipe_file, write_rows

from curate.cli import cli
from curate.errors import RecipeError
from curate.examples import Example
from curate.filters import (
    Detectors,
    Entropy,
    Filter,
    InstructionFollowingDifficulty,
    Likelihood,
    Perplexity,
    Unscored,
    build_filter,
)
from curate.filters.normalisation import NORMALISERS, normalised, strip_markup
from curate.inspection import preview
from curate.pipeline import load_data

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "familiarity" / "gsm8k" / "train.jsonl.gz"
MARKED = "He pays 48/2 = $<<48/2=24>>24 and 3 more: <<+24+3=27>>27.\nFinal Answer: 27"
UNMARKED = "He pays 48/2 = $24 and 3 more: 27.\nFinal Answer: 27"


def example(completion: str, prompt: str = "How much?") -> Example:
    return Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}])


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("calculator_marks", MARKED, UNMARKED),
        ("calculator_marks", "cout << 48 << endl; 1 << 2 >> 1", "cout << 48 << endl; 1 << 2 >> 1"),
        ("calculator_marks", "a <<b>> c", "a <<b>> c"),
        ("answer_line", MARKED, "He pays 48/2 = $<<48/2=24>>24 and 3 more: <<+24+3=27>>27.\n"),
        ("answer_line", "So 4.\n**Final Answer:** 4\nBye.", "So 4.\nBye."),
        ("answer_line", "So 4.\nFinal Answer:\n4", "So 4.\n"),
        ("answer_line", "So 4.\n#### 1,080", "So 4.\n"),
        ("answer_line", "#### Step 1\nThe final answer: it depends", "#### Step 1\nThe final answer: it depends"),
        ("markdown", "# Title\n- one\n* **two** and `three`\n```python\nx = 1\n```\n", "Title\none\ntwo and three\nx = 1\n"),
        ("markdown", "2 ** 3 ** 4, f(*a, **b), 5 - 3, #tag", "2 ** 3 ** 4, f(*a, **b), 5 - 3, #tag"),
        ("whitespace", " one\n\n\ttwo  three\u00a0four ", "one two three four"),
    ],
)
def test_a_normaliser_strips_its_markup_and_no_other(name: str, text: str, left: str) -> None:
    assert strip_markup(text, [name]).text == left


def test_what_was_stripped_is_told() -> None:
    found = strip_markup(MARKED, ["whitespace", "calculator_marks", "markdown"])
    assert found.stripped == {"calculator_marks": ["<<48/2=24>>", "<<+24+3=27>>"], "whitespace": ["\n"]}


def test_white_space_is_collapsed_last_whatever_the_order_of_the_names() -> None:
    assert strip_markup("One.\nFinal Answer: 1", ["whitespace", "answer_line"]).text == "One."


def test_earlier_turns_and_rows_without_markup_stay() -> None:
    turns: list[Any] = [{"role": "user", "content": "<<1=1>>"}, {"role": "assistant", "content": "a <<1=1>>b"}]
    done = normalised(Example(turns, row=7, source="s"), ["calculator_marks"])
    assert done == Example([turns[0], {"role": "assistant", "content": "a b"}], row=7, source="s")
    plain = example("nothing here")
    assert normalised(plain, list(NORMALISERS)) is plain


@pytest.mark.parametrize(
    "unit", ["a", " ", "\n", "<", "<<1", "<<1=", "*", "**a", "`", "`a", "#", "#### 1 ", "Final Answer:\n", "- "]
)
def test_a_million_characters_take_no_longer_than_they_should(unit: str) -> None:
    begin = time.process_time()
    strip_markup(unit * (1_000_000 // len(unit)), list(NORMALISERS))
    assert time.process_time() - begin < 10


def test_a_normalised_row_scores_as_the_row_without_the_markup(tiny_model_dir: Path) -> None:
    stripped = Likelihood(model=str(tiny_model_dir), normalise=("calculator_marks",))
    plain = Likelihood(model=str(tiny_model_dir))
    assert stripped.score(example(MARKED)) == plain.score(example(UNMARKED))
    assert plain.score(example(MARKED)) != plain.score(example(UNMARKED))


def test_a_row_of_nothing_but_markup_says_so(tiny_model_dir: Path) -> None:
    one = Likelihood(model=str(tiny_model_dir), normalise=("answer_line",))
    assert one.score(example("Final Answer: 4")) == Unscored("empty_after_normalising")
    assert one.score(example(" \n")) == Unscored("empty_completion")


def test_without_normalisers_fingerprints_are_what_they_were(tiny_model_dir: Path) -> None:
    facts = Likelihood(model=str(tiny_model_dir)).fingerprint()
    assert facts["parameters"] == {"view": "conditional"}
    assert facts.keys() == {"filter", "version", "parameters", "model", "dtype", "max_length", "chat_template"}


@pytest.mark.parametrize("kind", [Likelihood, Perplexity, Entropy, InstructionFollowingDifficulty, Detectors])
def test_the_fingerprint_knows_which_but_not_in_which_order(kind: type[Filter], tiny_model_dir: Path) -> None:
    names = [[], ["markdown", "calculator_marks"], ["calculator_marks", "markdown", "markdown"], "markdown"]
    none, one, same, other = (kind.model_validate({"model": str(tiny_model_dir), "normalise": n}).fingerprint() for n in names)
    assert one == same
    assert len({str(facts) for facts in (none, one, other)}) == 3


def test_an_unknown_normaliser_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown normaliser 'calculator'; did you mean 'calculator_marks'"):
        build_filter("perplexity", {"model": "m", "normalise": ["calculator"]}, where="recipe")


def test_the_option_offers_what_there_is() -> None:
    for name in ("preview", "run", "quote", "annotate", "advise"):
        (option,) = (one for one in cli.commands[name].params if one.name == "normalise")
        assert list(option.type.choices) == list(NORMALISERS)  # type: ignore[attr-defined]


def test_kept_rows_stay_as_they_were_read(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [{"prompt": "How much?", "response": text} for text in (MARKED, "It is 3.")])
    recipe = recipe_file(
        tmp_path / "r.yaml", ["keep: {field: perplexity.content_nll, lowest: 100%}"], filters="{perplexity: {model: target}}"
    )
    out = tmp_path / "out"
    options = ("--model", tiny_model_dir, "--out", out, "--normalise", "calculator_marks")
    assert curate("--recipe", recipe, data, *options).code == 0
    kept = pq.read_table(out / "selection" / "kept")["completion"].to_pylist()
    assert kept[0][0]["content"] == MARKED
    # The recipe leaves open what the run's options decided, as with --max-length.
    assert curate("select", out, "--recipe", recipe).code == 0
    (plan,) = (json.loads(path.read_text()) for path in out.glob("annotations/perplexity-*/plan.json"))
    assert plan["parameters"]["normalise"] == ["calculator_marks"]


def test_preview_shows_what_is_stripped_and_what_is_trained(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [{"prompt": "How much?", "response": text} for text in (MARKED, "It is 3.")])
    names = ("calculator_marks",)
    shown = preview(load_data(data), Likelihood(model=str(tiny_model_dir), normalise=names)).rows
    assert shown[0].stripped == {"calculator_marks": ["<<48/2=24>>", "<<+24+3=27>>"]}
    assert shown[0].as_read == MARKED
    assert shown[0].tokens is not None
    assert shown[0].tokens_as_read is not None
    assert shown[0].tokens < shown[0].tokens_as_read
    assert [part.text for part in shown[0].segments if part.kind == "content"] == [UNMARKED]
    assert (shown[1].as_read, shown[1].stripped, shown[1].tokens_as_read) == (None, {}, None)
    without = preview(load_data(data), None, normalise=names).rows
    assert (without[0].as_read, without[0].stripped) == (MARKED, shown[0].stripped)
    done = curate("preview", data, "--model", tiny_model_dir, "--normalise", "calculator_marks")
    assert "calculator_marks strips 2: <<48/2=24>>  <<+24+3=27>>" in done.out
    assert "kept rows hold the completion as it was read" in done.out


@pytest.mark.skipif(not GSM8K.is_file(), reason="needs ../shared/data/familiarity")
def test_gsm8k_without_its_marks_is_the_published_text_without_them() -> None:
    with gzip.open(GSM8K, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with_marks, without = ({r["id"]: r["response"] for r in rows if r["source"] == name} for name in ("human", "human-nocalc"))
    assert len(with_marks) == 1000
    assert {key: strip_markup(text, ["calculator_marks"]).text for key, text in with_marks.items()} == without
