"""From rows to items: prompts, gold, options, and what is said about rows that lack something."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from workshop import write_rows

from curate.errors import InputError
from curate.trials.tasks import Items, load_items, load_task

SQUAD = {"context": "C.", "question": "Q?", "gold": {"text": ["a", "b", "a"], "answer_start": [1, 2, 1]}}


def items(folder: Path, rows: Sequence[Mapping[str, Any]], kind: str = "answer", **settings: Any) -> Items:
    write_rows(folder / "rows.jsonl", rows)
    return load_items(load_task({"name": "x", "kind": kind, "data": "rows.jsonl", **settings}, folder=folder))


def row(prompt: Any = "1 + 1?", gold: Any = "2", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "gold": gold, **more}


def test_a_column_becomes_the_users_turn_after_the_system_message(tmp_path: Path) -> None:
    (item,) = items(tmp_path, [row()], system="Be brief.")
    assert item.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"})


def test_a_template_is_filled_with_columns_and_keeps_doubled_braces(tmp_path: Path) -> None:
    (item,) = items(tmp_path, [row(n=3, none="")], prompt="{prompt} {{n}} {n}{none}")
    assert item.question == "1 + 1? {n} 3"


def test_braces_in_a_column_are_not_a_template(tmp_path: Path) -> None:
    (item,) = items(tmp_path, [row("f = {gold}")], prompt="Q: {prompt}")
    assert item.question == "Q: f = {gold}"


def test_a_column_of_messages_is_taken_as_it_is(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    (item,) = items(tmp_path, [row(turns)])
    assert list(item.messages) == turns


@pytest.mark.parametrize(
    ("gold", "answers"), [(2, ("2",)), (2.5, ("2.5",)), (["2", "two", "2"], ("2", "two")), (SQUAD["gold"], ("a", "b"))]
)
def test_gold_is_a_text_a_number_or_accepted_answers(tmp_path: Path, gold: Any, answers: tuple[str, ...]) -> None:
    assert items(tmp_path, [row(gold=gold)])[0].gold == answers


@pytest.mark.parametrize(
    ("rows", "settings", "complaint"),
    [
        ([row(), row(gold=None)], {}, "task x: rows.jsonl:2: no gold: column 'gold' holds null"),
        ([row(gold=[])], {}, r"rows.jsonl:1: no gold: column 'gold' holds \[\]"),
        ([row(gold=["a", None])], {}, "rows.jsonl:1: no gold"),
        ([row()], {"gold": "golf"}, r"rows.jsonl:1: no column 'golf'; did you mean 'gold'\? Columns: prompt, gold."),
        ([row()], {"prompt": "zzz"}, "rows.jsonl:1: no column 'zzz'; columns: gold, prompt"),
        ([row()], {"prompt": "{promt}?"}, r"no column 'promt'; did you mean 'prompt'\?"),
        ([row()], {"reference": "solution"}, "no column 'solution'"),
        ([row(), {"prompt": "p"}], {}, "rows.jsonl:2: no column 'gold'"),
        ([row(prompt=" ")], {}, "column 'prompt' holds ' ' where a text or a number is needed"),
        ([row(prompt=[{"role": "assistant", "content": "a"}])], {}, "must end with a question of the user"),
        ([row(prompt=[{"role": "tool", "content": "a"}])], {}, "the prompt cannot be read"),
        ([], {}, "task x: rows.jsonl: 0 rows"),
    ],
)
def test_a_row_that_is_no_item_is_named(tmp_path: Path, rows: list[Any], settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        items(tmp_path, rows, **settings)


def test_a_second_system_message_is_refused(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(InputError, match="has a system message of its own"):
        items(tmp_path, [row(turns)], system="s")


def test_an_unreadable_row_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "gold": "1"}\n{"prompt"\n')
    with pytest.raises(InputError, match=r"task x: bad.jsonl:2: the row cannot be read"):
        load_items(load_task({"name": "x", "kind": "answer", "data": "bad.jsonl"}, folder=tmp_path))


def test_compressed_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps(row()).encode()))
    assert len(load_items(load_task({"name": "x", "kind": "answer", "data": "rows.jsonl.gz"}, folder=tmp_path))) == 1


def test_repeated_questions_count_once_and_are_reported(tmp_path: Path) -> None:
    found = items(tmp_path, [row(id=1), row("2 + 2?", "4"), row(id=2), row(gold="3")])
    assert [item.index for item in found] == [0, 1, 2]
    assert found.duplicates == 1
    assert found.notices == ("task x: 1 of 4 rows repeats a question and its gold, and is left out",)


def test_the_limit_takes_the_first_or_a_seeded_draw(tmp_path: Path) -> None:
    rows = [row(f"{n} + 0?", n) for n in range(50)]
    assert [item.gold[0] for item in items(tmp_path, rows, limit=3)] == ["0", "1", "2"]
    drawn, again = (items(tmp_path, rows, limit=3, shuffle_seed=1) for _ in range(2))
    assert drawn == again
    assert [item.index for item in drawn] == [0, 1, 2]
    assert [item.gold[0] for item in drawn] != ["0", "1", "2"]


def test_identity_knows_the_questions_and_not_their_order_or_dress(tmp_path: Path) -> None:
    one, other = row(), row("2 + 2?", "4")
    first = items(tmp_path, [one, other]).identity
    assert items(tmp_path, [other, {**one, "id": 7}], system="Be brief.", mark="Answer:").identity == first
    assert items(tmp_path, [one]).identity != first
    assert items(tmp_path, [one, row("2 + 2?", "5")]).identity != first


def test_a_reference_is_read_where_the_rows_have_one(tmp_path: Path) -> None:
    assert [item.reference for item in items(tmp_path, [row(reference="So 2."), row("b?")])] == ["So 2.", None]
    assert items(tmp_path, [row(solution="So 2.")], reference="solution")[0].reference == "So 2."


def choice(gold: Any, options: Any = ("cat", "dog", "3"), **more: Any) -> dict[str, Any]:
    return {"prompt": "p", "gold": gold, "choices": options, **more}


@pytest.mark.parametrize(
    ("gold", "settings", "right"),
    [
        (0, {}, 0),
        (2, {}, 2),
        (1, {"counted_from": 1}, 0),
        ("1", {}, 1),
        ("1", {"counted_from": 1}, 0),
        ("3", {}, 2),  # the text of the third option
        ("3", {"counted_from": 1}, 2),
        ("B", {}, 1),
        ("(b)", {}, 1),
        (" Dog ", {}, 1),
    ],
)
def test_gold_names_an_option_by_number_label_or_text(tmp_path: Path, gold: Any, settings: dict[str, Any], right: int) -> None:
    (item,) = items(tmp_path, [choice(gold)], "choice", **settings)
    assert (item.right, item.options, item.gold) == (right, ("cat", "dog", "3"), (("cat", "dog", "3")[right],))


def test_options_may_carry_labels_or_stand_in_columns(tmp_path: Path) -> None:
    labelled = {"text": ["cat", "dog"], "label": ["2", "1"]}
    assert items(tmp_path, [choice("1", labelled)], "choice")[0].right == 1
    spread = {"prompt": "p", "gold": "sol2", "one": "sol1", "two": "sol2"}
    assert items(tmp_path, [spread], "choice", choices=["one", "two"])[0].options == ("sol1", "sol2")
    assert items(tmp_path, [choice(True, [True, False])], "choice")[0].gold == ("true",)


@pytest.mark.parametrize(
    ("gold", "options", "complaint"),
    [
        (3, ["a", "b", "c"], "gold 3 is out of range: there are 3 options, counted from 0; .*say `counted_from: 1`"),
        (-1, ["a", "b"], "gold -1 is out of range"),
        ("E", ["x", "y"], "gold 'E' is out of range"),
        ("fish", ["cat", "dog"], r"gold 'fish' is none of the options \['cat', 'dog'\]"),
        (None, ["cat", "dog"], "rows.jsonl:1: no gold: column 'gold' holds null"),
        (0, ["cat"], "at least two texts"),
        (0, ["cat", None], "at least two texts"),
        (0, "cat, dog", "at least two texts"),
    ],
)
def test_an_option_that_is_not_there_is_named(tmp_path: Path, gold: Any, options: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        items(tmp_path, [choice(gold, options)], "choice")


@pytest.mark.parametrize(
    ("row", "settings", "complaint"),
    [
        ({"prompt": "p", "tests": None}, {}, "no tests: column 'tests'"),
        ({"prompt": "p", "tests": ["assert f( == 1"]}, {}, "the tests in column 'tests' do not compile"),
        ({"prompt": "p", "tests": "assert f() == '\\d'"}, {"entry_point": "name"}, "no column 'name'"),
    ],
)
def test_tests_that_cannot_run_are_found_before_anything_starts(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        items(tmp_path, [row], "code", **settings)
