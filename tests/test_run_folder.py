"""A run's folder: nothing foreign is touched, nothing of an aborted run stays, and scores are those that were asked for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow.parquet as pq
import pytest
from pydantic import Field
from workshop import record, some_rows, write_rows

import curate
from curate import _fs
from curate.errors import IntegrityError, RecipeError, UsageError
from curate.examples import Example
from curate.filters import Filter, Perplexity, Scores, register
from curate.reference import model_path
from curate.selection import output


def recipe(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def kept(out: Path) -> Any:
    return pq.read_table(out / "selection" / "kept")


def test_a_folder_that_only_looks_like_a_runs_is_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "project" / "selection" / "thesis.txt"
    for name in ("annotations", "rows", "selection"):
        (tmp_path / "project" / name).mkdir(parents=True)
    thesis.write_text("years of work")
    with pytest.raises(UsageError, match="not a run's of curate"):
        curate.run("clean", write_rows(tmp_path / "d.jsonl", some_rows(8)), out=tmp_path / "project")
    assert thesis.read_text() == "years of work"
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == ["annotations", "rows", "selection"]


def test_rows_of_an_aborted_save_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(40))
    everything = curate.run("clean", data, out=tmp_path / "out").selection
    monkeypatch.setattr(output, "PART_ROWS", 1)
    monkeypatch.setattr(output, "_write_ledger", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        everything.save(tmp_path / "out")
    monkeypatch.undo()
    result = curate.run("random50", data, out=tmp_path / "out")
    assert kept(tmp_path / "out").num_rows == result.report.kept < 40


def test_python_calls_respect_another_writers_lock(tmp_path: Path) -> None:
    import fcntl

    data = write_rows(tmp_path / "d.jsonl", some_rows(8))
    selection = curate.run("clean", data, out=tmp_path / "out").selection
    with (tmp_path / "out" / ".lock").open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="in use"):
            selection.save(tmp_path / "out")
        with pytest.raises(UsageError, match="in use"):
            curate.annotate(curate.load_examples(data), [], tmp_path / "out")


def test_a_recipe_that_names_a_model_is_not_served_anothers_scores(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(8))
    text = "name: named\nfilters:\n  perplexity: {{model: {}}}\nsteps:\n  - keep: {{field: perplexity.nll, lowest: 50%}}\n"
    curate.run(recipe(tmp_path / "a.yaml", text.format(tiny_model_dir)), data, out=tmp_path / "out")
    annotations = curate.load_annotations(tmp_path / "out")
    other = curate.load_recipe(recipe(tmp_path / "b.yaml", text.format(model_path())))
    with pytest.raises(RecipeError, match="no scores of perplexity"):
        curate.select(annotations, other)
    same_place_written_otherwise = curate.load_recipe(recipe(tmp_path / "c.yaml", text.format(f"{tiny_model_dir}/")))
    assert curate.select(annotations, same_place_written_otherwise).kept.sum() == 4


def test_two_lengths_of_one_model_are_told_apart_by_the_recipe(tmp_path: Path, tiny_model_dir: Path) -> None:
    examples = curate.load_examples(write_rows(tmp_path / "d.jsonl", some_rows(8)))
    model = str(tiny_model_dir)
    for length in (100, 200):
        curate.annotate(examples, [Perplexity(model=model, max_length=length)], tmp_path / "out")
    text = "name: r\nfilters:\n  perplexity: {model: target%s}\nsteps:\n  - keep: {field: perplexity.nll, lowest: 50%%}\n"
    annotations = curate.load_annotations(tmp_path / "out")
    with pytest.raises(RecipeError, match="several values of max_length"):
        curate.select(annotations, curate.load_recipe(recipe(tmp_path / "r.yaml", text % "")), model=model)
    said = curate.load_recipe(recipe(tmp_path / "s.yaml", text % ", max_length: 200"))
    assert curate.select(annotations, said, model=model).kept.sum() == 4


@register("above_average")
class AboveAverage(Filter):
    """Completion length over the corpus's mean; above 1 is longer."""

    outputs: ClassVar = {"ratio": "float64"}
    mean: float = Field(default=0.0, description="Learnt by fit.")

    def fit(self, examples: Iterable[Example]) -> Self:
        lengths = [len(example.completion) for example in examples]
        return self.model_copy(update={"mean": sum(lengths) / len(lengths)})

    def score(self, example: Example) -> Scores:
        return {"ratio": len(example.completion) / self.mean}


def test_a_filter_that_learns_from_the_corpus_runs_and_is_found_again(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(40))
    text = "name: r\nfilters: {above_average: {}}\nsteps:\n  - drop: {field: above_average.ratio, above: 1}\n"
    path = recipe(tmp_path / "r.yaml", text)
    first = curate.run(path, data, out=tmp_path / "out").report.kept
    assert 0 < first < 40
    assert curate.run(path, data, out=tmp_path / "out").report.kept == first
    assert curate.select(curate.load_annotations(tmp_path / "out"), curate.load_recipe(path)).kept.sum() == first


def test_ranking_that_could_score_nothing_is_an_error(tmp_path: Path, plain_model_dir: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "q"), ("assistant", "a"))]
    examples = [{"messages": turns} for _ in range(4)]
    with pytest.raises(RecipeError, match=r"not one of . rows has perplexity\.content_nll .*conversation_without_chat_template"):
        curate.run("familiarity-top50", examples, model=str(plain_model_dir), out=tmp_path / "out")


def test_conversations_are_not_flattened_into_strings(tmp_path: Path, plain_model_dir: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "q"), ("assistant", "a"))]
    short = [{"role": r, "content": c} for r, c in (("user", "q2"), ("assistant", "b"))]
    examples = [{"messages": turns}, {"messages": short}]
    with pytest.raises(RecipeError, match="conversations of several turns"):
        curate.run("familiarity-top50", examples, model=str(plain_model_dir), out=tmp_path / "out")


def test_columns_that_the_trainer_acts_on_are_renamed(tmp_path: Path) -> None:
    rows = [record(f"q{i}", "a", text="t", tools="[]", messages=[], row=7, mine=1) for i in range(3)]
    curate.run("clean", rows, out=tmp_path / "out", columns={"prompt": "prompt", "completion": "response"})
    names = kept(tmp_path / "out").column_names
    assert names[:3] == ["prompt", "completion", "row"]
    assert {"source_text", "source_tools", "source_messages", "source_row", "mine"} <= set(names)
    assert not {"text", "tools", "messages"} & set(names)


def test_a_mapped_group_travels_along(tmp_path: Path) -> None:
    columns = {"prompt": "prompt", "completion": "response", "group": "problem"}
    curate.run("clean", [record("q", "a", problem="p1"), record("q", "b", problem="p2")], out=tmp_path / "out", columns=columns)
    assert kept(tmp_path / "out")["group"].to_pylist() == ["p1", "p2"]


def test_a_reader_that_loses_a_row_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.rows import _Writer

    commit = _Writer._commit
    monkeypatch.setattr(_Writer, "_commit", lambda self, shard: commit(self, shard[:-1]))
    with pytest.raises(IntegrityError, match="24 rows read, 23 committed"):
        curate.run("clean", write_rows(tmp_path / "d.jsonl", some_rows(24)), out=tmp_path / "out")
    assert not (tmp_path / "out" / "rows" / "MANIFEST.json").exists()


def test_shards_are_cut_by_the_bytes_of_all_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate import rows

    monkeypatch.setattr(rows, "SHARD_BYTES", 1000)
    data = [record(f"q{i}", "a", note="x" * 400) for i in range(9)]
    curate.run("clean", data, out=tmp_path / "out")
    assert len(_fs.read_json(tmp_path / "out" / "rows" / "MANIFEST.json")["parts"]) == 3


def test_a_model_that_is_not_there_is_told_before_a_row_is_read(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(8))
    with pytest.raises(curate.CurateError, match="no such model folder"):
        curate.run("familiarity-top50", data, model=str(tmp_path / "nope"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
