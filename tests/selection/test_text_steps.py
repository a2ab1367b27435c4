"""Steps that need a filter which the recipe does not list: near-duplicates and evaluation items."""

import json
from pathlib import Path

import pytest
from workshop import curate as command
from workshop import record, write_rows

import curate
from curate.errors import RecipeError

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
ITEM = "Janet has sixteen ducks and sells nine eggs for two dollars each every day of the week"


def rows(tmp_path: Path) -> Path:
    near = [
        record("q", LONG),
        record("q", LONG.replace("one", "a").upper()),
        record("q", "quite another answer"),
        record("p", LONG),
    ]
    return write_rows(tmp_path / "d.jsonl", [*near, record(ITEM + "!", "x"), record("What else is there?", "y")])


def recipe(tmp_path: Path, *steps: str, filters: str = "{}") -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\nfilters: {filters}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    return path


def kept(tmp_path: Path, *steps: str, filters: str = "{}") -> list[int]:
    selection = curate.run(recipe(tmp_path, *steps, filters=filters), rows(tmp_path), out=tmp_path / "out").selection
    return [int(row) for row in selection.order]


def test_the_first_of_near_duplicates_stays(tmp_path: Path) -> None:
    assert kept(tmp_path, "deduplicate: near") == [0, 2, 3, 4, 5]


def test_near_means_what_the_recipe_says(tmp_path: Path) -> None:
    assert kept(tmp_path, "deduplicate: near", filters="{near_duplicate: {of: completion}}") == [0, 2, 4, 5]


def test_the_first_that_is_left_stays(tmp_path: Path) -> None:
    # the first row of the group is gone already, and its near-duplicate is kept in its place
    steps = ("drop: {field: length.words, above: 16}", "deduplicate: near")
    data = write_rows(tmp_path / "e.jsonl", [record("q", LONG + " and"), record("q", LONG), record("q", LONG + " .")])
    done = curate.run(recipe(tmp_path, *steps, filters="{length: {}}"), data, out=tmp_path / "e")
    assert [int(row) for row in done.selection.order] == [1]


def test_rows_that_hold_an_evaluation_item_go(tmp_path: Path) -> None:
    items = write_rows(tmp_path / "test.jsonl", [{"question": ITEM}])
    assert kept(tmp_path, f"decontaminate: {{against: {items}}}") == [0, 1, 2, 3, 5]


def test_the_bound_is_the_share_of_the_item(tmp_path: Path) -> None:
    items = write_rows(tmp_path / "test.jsonl", [{"question": f"{ITEM} and what does she make of all of that money in a year"}])
    assert kept(tmp_path, f"decontaminate: {{against: {items}, above: 0.9}}") == [0, 1, 2, 3, 4, 5]


def test_an_implied_filter_is_scored_and_locked(tmp_path: Path) -> None:
    kept(tmp_path, "deduplicate: near")
    lock = json.loads((tmp_path / "out" / "lock.json").read_text())
    assert lock["annotations"].keys() == {"near_duplicate"}
    assert any(name.startswith("annotations/near_duplicate-") for name in lock["files"])
    assert command("verify", tmp_path / "out").code == 0


def test_what_scores_are_derived_from_is_locked_too(tmp_path: Path, tiny_model_dir: Path) -> None:
    curate.run("familiarity-top50", rows(tmp_path), model=str(tiny_model_dir), out=tmp_path / "out")
    lock = json.loads((tmp_path / "out" / "lock.json").read_text())
    assert {name.split("/")[1].split("-")[0] for name in lock["files"] if "/" in name} >= {"errors", "perplexity", "likelihood"}


@pytest.mark.parametrize(
    ("steps", "filters", "said"),
    [
        (("decontaminate: {against: []}",), "{}", "must name at least one evaluation file"),
        (("decontaminate: {against: a.jsonl, above: 1.5}",), "{}", "above"),
        (("decontaminate: {against: a.jsonl}",), "{contamination: {against: b.jsonl}}", "list no filter of that name"),
        (("decontaminate: {against: a.jsonl}", "decontaminate: {against: b.jsonl}"), "{}", "name all files in one"),
        (("deduplicate: nearly",), "{}", "method"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, steps: tuple[str, ...], filters: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        curate.load_recipe(recipe(tmp_path, *steps, filters=filters))


def test_a_missing_evaluation_file_is_said_before_any_row_is_read(tmp_path: Path) -> None:
    path = recipe(tmp_path, "decontaminate: {against: nowhere.jsonl}")
    done = command("--recipe", path, rows(tmp_path), "--out", tmp_path / "out")
    assert done.code != 0
    assert "nowhere.jsonl: no such evaluation file" in done.err
    assert not (tmp_path / "out").exists()
