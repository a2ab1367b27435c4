"""Tables keep their numbers and their first column however narrow the terminal; what cannot be scored is not marked as scored."""

from pathlib import Path
from typing import Any

import pytest
from workshop import curate as command
from workshop import recipe_file, record, some_rows, write_rows

import curate
from curate import inspection
from curate.console import closing_lines
from curate.errors import InputError
from curate.filters import Likelihood

STEPS = [
    "drop: {field: given.value, above: 80}",
    "drop: {field: given.value, below: 12}",
    "keep: {field: given.value, lowest: 50%}",
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    rows = [{**row, "source": "a-source-with-a-name"} for row in some_rows(40)]
    recipe = recipe_file(tmp_path / "r.yaml", STEPS)
    return curate.run(recipe, rows, out=tmp_path / "out").out


@pytest.mark.parametrize("columns", [20, 60, 80, 100, 140])
def test_no_column_vanishes(out: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = command("select", out, "--recipe", out.parent / "r.yaml")
    lines = done.out.splitlines()
    assert any("drop given" in line and "40" in line for line in lines)
    assert any(line.lstrip().startswith("a-source-wi") and "40" in line for line in lines)
    assert all(len(line) <= max(60, columns) for line in lines)
    for word in ("rejected", "left", "kept", "margin", "decision", "completi"):
        assert word in done.out


def test_rows_of_each_loud_step_stand_under_its_name(out: Path) -> None:
    said = " ".join(command("select", out, "--recipe", out.parent / "r.yaml").out.split())
    assert "examples of what was rejected by `drop given.value above 80`" in said
    assert "examples of what was rejected by `drop given.value below 12`" in said


def test_truncated_rows_are_told(tmp_path: Path, tiny_model_dir: Path) -> None:
    rows = [record("p", f"{place} word " * (40 if place < 2 else 1)) for place in range(8)]
    model = {"model": str(tiny_model_dir), "max_length": 64}
    report = curate.run("familiarity-top50", rows, model=model, out=tmp_path / "out").report
    assert report.truncated == 2
    assert any(line.startswith("truncated: 2 rows") for line in closing_lines(report))
    assert any("raise --max-length" in warning for warning in report.warnings)


# Rows that a model cannot score: a conversation of several turns, without a template


def turns(count: int, place: int) -> Any:
    return {"messages": [{"role": ("user", "assistant")[turn % 2], "content": f"{place} [x] {turn}"} for turn in range(count)]}


def likelihood(model: Path) -> Likelihood:
    return Likelihood(model=str(model))


def test_a_row_that_cannot_be_scored_says_why_and_bears_no_marks(tmp_path: Path, plain_model_dir: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [turns(4, 0), turns(4, 1)])
    done = command("preview", data, "--model", plain_model_dir)
    assert done.code == 0
    assert "row 0, source -, not scored: conversation_without_chat_template" in done.out
    assert "bear loss" not in done.out
    assert not set("⟦⟧⟨⟩") & set(done.out)


def test_a_preview_of_refused_rows_is_an_input_error(tmp_path: Path) -> None:
    done = command("preview", write_rows(tmp_path / "d.jsonl", [record("", "x")] * 3))
    assert (done.code, done.out) == (3, "")
    assert "the first 3 are all refused: d.jsonl:1: empty_prompt" in done.err


def test_a_quote_counts_only_what_can_be_scored(plain_model_dir: Path) -> None:
    rows = [turns(2, place) for place in range(4)]
    whole = inspection.quote(curate.load_examples(rows), likelihood(plain_model_dir))
    mixed = inspection.quote(
        curate.load_examples([*rows, *(turns(4, place) for place in range(12))]), likelihood(plain_model_dir)
    )
    assert (whole.scorable_rows, whole.unscored) == (4, {})
    assert (mixed.rows, mixed.scorable_rows) == (16, 4)
    assert mixed.unscored == {"conversation_without_chat_template": 12}
    assert mixed.tokens == whole.tokens


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([turns(4, 0)], r"can score none of 1 sampled rows \(1 conversation_without"),
        ([record("", "x")], "no row to score; 1 are"),
    ],
)
def test_a_quote_for_nothing_is_an_input_error(plain_model_dir: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        inspection.quote(curate.load_examples(rows), likelihood(plain_model_dir))
