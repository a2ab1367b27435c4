"""Task files: what they may say, how a mistake is named, where their data is looked for."""

import re
from pathlib import Path
from typing import Any

import pytest
from workshop import write_rows

from curate.errors import CurateError, InputError, RecipeError
from curate.trials.tasks import KINDS, ChoiceTask, load_items, load_task, sample_task

ROWS = [{"prompt": "1 + 1?", "gold": 2}, {"prompt": "1 + 2?", "gold": 3}]


def task_file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: x\nkind: answer\ndata: a.jsonl\nmarc: x", r"mine.yaml: unknown key 'marc'; did you mean 'mark'\?"),
        ("name: x\nkind: anser\ndata: a.jsonl", r"mine.yaml: unknown kind 'anser'; did you mean 'answer'\?"),
        ("name: x\ndata: a.jsonl", "mine.yaml: kind is missing; one of answer, choice, code, translation, squad"),
        ("name: x\nkind: answer", "mine.yaml: data: Field required"),
        ("name: X y\nkind: answer\ndata: a", "mine.yaml: name: "),
        ("name: x\nkind: answer\ndata: a\nchoices: c", "mine.yaml: choices is a key of kind choice; this task is of kind answer"),
        ("name: x\nkind: choice\ndata: a\nstop: [a]", "stop: for kind choice nothing is generated; leave it out"),
        ("name: x\nkind: answer\ndata: a\nstop: ['']", "stop: must be a text that is not empty, or a list of such"),
        ("name: x\nkind: answer\ndata: a\nprompt: 'Q: {q'", "a single brace"),
        ("name: x\nkind: answer\ndata: a\nprompt: '{{}}'", r"without a \{column\}"),
        ("name: x\nkind: answer\ndata: a\nshuffle_seed: 1", "give a limit too"),
        ("name: x\nkind: answer\ndata: a\nlimit: 0", r"limit: .*greater than or equal to 1 \(given: 0\)"),
        ("name: x\nkind: translation\ndata: a", "target: Field required"),
        ("name: x\nkind: answer\ndata: a\n1: 2", "keys must be words"),
        ("- a", "a task is a mapping with `name`, `kind` and `data`, found a "),
        ("", "found nothing"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_nearest_word(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load_task(task_file(tmp_path, text))


@pytest.mark.repository
def test_the_examples_of_the_page_are_tasks(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "tasks.md"
    examples = [re.sub("^    ", "", part, flags=re.M) for part in re.findall(r"(?:^    .+\n)+", page.read_text("utf-8"), re.M)]
    for example in examples:
        frame = [
            f"{key}: {value}" for key, value in {"name": "x", "kind": "answer", "data": "d"}.items() if f"{key}:" not in example
        ]
        load_task(task_file(tmp_path, example + "\n".join(frame)))
    assert len(examples) == 6


def test_a_mapping_is_named_by_where_it_stands() -> None:
    with pytest.raises(RecipeError, match=r"r.yaml: trial.tasks.0: unknown kind 'x'"):
        load_task({"kind": "x"}, where="r.yaml: trial.tasks.0")


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nope.yaml: no such task file"):
        load_task("nope.yaml", folder=tmp_path)


def test_data_is_relative_to_the_task_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    task = load_task(task_file(tmp_path, "name: x\nkind: answer\ndata: rows.jsonl"))
    assert [item.gold for item in load_items(task)] == [("2",), ("3",)]


@pytest.mark.parametrize("data", ["someone/tests", "someone/tests:main", "hf://datasets/someone/tests"])
def test_a_hub_id_stays_one(tmp_path: Path, data: str) -> None:
    name = data.removeprefix("hf://datasets/")
    assert load_task({"name": "x", "kind": "answer", "data": data}, folder=tmp_path).data == f"hf://datasets/{name}"


def test_a_local_folder_wins_over_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "someone" / "tests").mkdir(parents=True)
    task = load_task({"name": "x", "kind": "answer", "data": "someone/tests"}, folder=tmp_path)
    assert task.data == str(tmp_path / "someone" / "tests")


def test_missing_data_names_the_nearest_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    task = load_task({"name": "x", "kind": "answer", "data": "rosw.jsonl"}, folder=tmp_path)
    with pytest.raises(InputError, match=r"task x: .*rosw.jsonl: no such file or folder; did you mean 'rows.jsonl'\?"):
        load_items(task)


def test_a_folder_is_read_from_its_test_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS)
    write_rows(tmp_path / "test.jsonl", ROWS[:1])
    chosen: dict[str, Any] = {"name": "x", "kind": "answer", "data": str(tmp_path)}
    assert len(load_items(load_task(chosen))) == 1
    assert len(load_items(load_task({**chosen, "split": "train"}))) == 2
    with pytest.raises(CurateError, match=r"task x: .*has no split 'dev'"):
        load_items(load_task({**chosen, "split": "dev"}))


def test_a_single_file_has_no_split(tmp_path: Path) -> None:
    data = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    with pytest.raises(CurateError, match="task x: split is 'test', but only folders"):
        load_items(load_task({"name": "x", "kind": "answer", "data": data, "split": "test"}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_is_read_back_as_the_same_task(kind: str, tmp_path: Path) -> None:
    more = {"target": "en"} if kind == "translation" else {}
    task = load_task({"name": "x", "kind": kind, "data": "a.jsonl", **more}, folder=tmp_path)
    assert load_task(task.definition()) == task
    assert load_task(task.model_dump(mode="json")) == task


def test_the_sample_task_has_the_sample_questions() -> None:
    items = sample_task().items()
    assert len(items) == 224
    assert items.duplicates == 0
    assert items[0].messages == ({"role": "user", "content": "Odd or even: 478?"},)
    assert sample_task().identity() == items.identity


def test_one_choices_column_needs_no_list() -> None:
    task = load_task({"name": "x", "kind": "choice", "data": "a", "choices": "options"})
    assert isinstance(task, ChoiceTask)
    assert task.choices == ("options",)
