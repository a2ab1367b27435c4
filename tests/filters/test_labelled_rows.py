"""The text filters on rows whose correctness is known. The figures of all rows stand in docs/filters.md."""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from curate.examples import Example
from curate.filters import Errors, Tells
from curate.filters.answers import Mode, read_answer
from curate.reference import sample_path

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "familiarity"
SAMPLE = sample_path()
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the labelled rows (../shared/data/familiarity) are not here")


def labelled(name: str, rows: int | None = None) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, islice(lines, rows))


def example(row: dict[str, Any]) -> Example:
    messages: list[Any] = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    return Example(messages=messages, gold=row["gold"], source=row["source"], tests=row.get("tests"))


def agreement(name: str, rows: int | None, mode: Mode = "lenient") -> tuple[float, float]:
    """Share of rows on which the reading equals the label, and share that is read as wrong against it."""
    pairs = [
        (read_answer(row["response"], row["gold"], row["prompt"], mode=mode).is_right, row["correct"])
        for row in labelled(name, rows)
    ]
    return sum(one is other for one, other in pairs) / len(pairs), sum(other and not one for one, other in pairs) / len(pairs)


@needs_data
@pytest.mark.parametrize(("name", "share"), [("gsm8k", 0.994), ("ecqa", 0.995)])
def test_wrong_agrees_with_the_labels(name: str, share: float) -> None:
    agreed, wrongly_accused = agreement(name, 2_000)
    assert agreed >= share
    assert wrongly_accused <= 0.001


@pytest.mark.slow
@needs_data
# On gsm8k 88 of the 100 disagreements are right answers that the labels' own reader missed (docs/filters.md).
@pytest.mark.parametrize(("name", "share"), [("gsm8k", 0.994), ("ecqa", 0.996)])
def test_wrong_agrees_with_all_labels(name: str, share: float) -> None:
    agreed, wrongly_accused = agreement(name, None)
    assert agreed >= share
    assert wrongly_accused <= 0.0005


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "share"), [("gsm8k", 0.997), ("ecqa", 0.998)])
def test_the_strict_reader_agrees_with_the_labels_of_all_rows(name: str, share: float) -> None:
    agreed, wrongly_accused = agreement(name, None, mode="strict")
    assert agreed >= share
    assert wrongly_accused <= 0.001


@needs_data
def test_the_strict_reader_agrees_with_the_labels() -> None:
    for name in ("gsm8k", "ecqa"):
        assert agreement(name, 2_000, mode="strict")[0] >= 0.996


@needs_data
def test_code_that_does_not_parse_is_incorrect() -> None:
    rows = [(Errors().score(example(row)), row) for row in labelled("humaneval")]
    flagged = [row["correct"] for scores, row in rows if scores["broken_code"]]
    assert len(flagged) > 200
    assert sum(flagged) <= 0.01 * len(flagged)
    assert all(bool(scores["fatal"]) >= bool(scores["broken_code"]) for scores, _ in rows)


@needs_data
def test_a_response_in_another_language_is_found_among_the_others() -> None:
    flagged = [
        row for row in labelled("gsm8k") if row["source"].startswith("gpt4-par") and Tells().score(example(row))["language"]
    ]
    assert [row["response"][:14] for row in flagged] == ["Initialmente, "]


@needs_data
def test_correct_human_rows_are_not_accused() -> None:
    rows = [row for name in ("gsm8k", "ecqa") for row in labelled(name, 6_000) if row["source"].startswith("human")]
    assert sum(bool(Errors().score(example(row))["fatal"]) for row in rows) / len(rows) < 0.005


@needs_data
@pytest.mark.parametrize(
    ("name", "source", "tell", "low", "high"),
    [
        ("gsm8k", "human", "markup", 0.95, 1.0),
        ("gsm8k", "human-nocalc", "any", 0.0, 0.01),
        ("gsm8k", "claude-paraphrase-gpt4", "meta_talk", 0.45, 0.65),
        ("ecqa", "claude-paraphrase-gpt4", "meta_talk", 0.6, 0.8),
        ("gsm8k", "llama-minimum-change", "preamble", 0.7, 0.85),
        ("ecqa", "human", "any", 0.0, 0.01),
    ],
)
def test_tells_mark_the_sources_that_are_known_for_them(name: str, source: str, tell: str, low: float, high: float) -> None:
    rows = [row for row in labelled(name, 4_000) if row["source"] == source]
    assert low <= sum(bool(Tells().score(example(row))[tell]) for row in rows) / len(rows) <= high


def test_planted_defects_of_the_packaged_sample_are_found() -> None:
    found: dict[str, list[bool]] = {}
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["defect"] or "none", []).append(bool(Errors().score(example(row))["fatal"]))
    shares = {defect: sum(flags) / len(flags) for defect, flags in found.items()}
    assert shares["none"] == 0
    assert min(shares["wrong_answer"], shares["wrong_arithmetic"], shares["loop"]) == 1
    assert shares["cut_off"] > 0.3  # a text cut after its answer, or inside a word of a terse one, has no mark of it
