"""What two selections differ in: rows by their text, the steps that decided, recipes, scores."""

import json
import shutil
from pathlib import Path

import pytest
from small_publications import small_bundle, small_run
from workshop import recipe_file, some_rows

from curate import _fs
from curate.errors import UsageError
from curate.pipeline import select_again
from curate.publication import difference, recut
from curate.publication.opened import FACTS

LOWEST = ["drop: {field: errors.fatal, is: true}", "keep: {field: given.value, lowest: 50%, within: [prompt, dataset]}"]
HIGHEST = ["keep: {field: given.value, highest: 25%, within: [prompt, dataset]}"]
FILTERS = "{given: {}, errors: {}, length: {}}"


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its publication in `bundle` beside it."""
    folder = tmp_path_factory.mktemp("a")
    small_bundle(folder, steps=LOWEST, bundle={"with_rejected": True})
    return folder


@pytest.fixture
def other(a: Path, tmp_path: Path) -> Path:
    """The same rows and scores, selected otherwise."""
    out = Path(shutil.copytree(a / "out", tmp_path / "other"))
    select_again(out, recipe_file(tmp_path / "highest.yaml", HIGHEST, filters=FILTERS))
    return out


def test_a_selection_does_not_differ_from_itself_nor_from_its_publication(a: Path) -> None:
    for b in (a / "out", a / "bundle"):
        found = difference(a / "out", b)
        assert found.is_same
        assert (found.both.rows, found.only_a.rows, found.only_b.rows, found.input_only, found.moved) == (20, 0, 0, (0, 0), 0)
        assert (found.recipe, found.scores) == ([], [])
    # Text outputs are not published: they are on one side.
    assert difference(a / "out", a / "bundle").scores_only == (["errors.answer"], [])


def test_rows_are_counted_by_where_they_are_and_why(a: Path, other: Path) -> None:
    found = difference(a / "out", other)
    assert found.kept == (20, 10)
    assert found.both.rows + found.only_a.rows == 20
    assert found.both.rows + found.only_b.rows == 10
    assert found.only_a.why == {"keep given.value highest 25% within prompt, dataset": found.only_a.rows}
    assert found.only_b.why == {"keep given.value lowest 50% within prompt, dataset": found.only_b.rows}
    assert sum(found.only_a.sources.values()) == found.only_a.rows
    assert set(found.only_a.sources) == {"gpt", "human"}
    assert (found.only_a.absent, found.input_only) == (0, (0, 0))


def test_it_is_the_same_from_the_other_side(a: Path, other: Path) -> None:
    one, two = difference(a / "out", other), difference(other, a / "out")
    assert (one.only_a, one.only_b, one.both.rows) == (two.only_b, two.only_a, two.both.rows)
    assert sorted(line[2:] for line in one.recipe) == sorted(line[2:] for line in two.recipe)


def test_recipes_differ_by_step_and_setting(a: Path, other: Path) -> None:
    assert difference(a / "out", other).recipe == [
        "- step: drop errors.fatal is true",
        "- step: keep given.value lowest 50% within prompt, dataset",
        "+ step: keep given.value highest 25% within prompt, dataset",
        '- name: "small"',
        '+ name: "highest"',
    ]


def test_what_decides_about_no_row_is_one_line(a: Path, other: Path) -> None:
    path = other / "selection" / "selection.json"
    decision = json.loads(path.read_text())
    decision["recipe"] |= {"summary": "new", "evidence": "none", "trial": {**decision["recipe"]["trial"], "seeds": 9}}
    path.write_text(json.dumps(decision))
    lines = difference(a / "out", other).lines()
    assert "  also: evidence, summary, trial settings differ" in lines
    assert not any("seeds" in line for line in lines)


def test_scores_left_out_of_a_publication_are_no_other_scores(a: Path, tmp_path: Path) -> None:
    cut = recut(a / "bundle", recipe_file(tmp_path / "small.yaml", LOWEST, filters=FILTERS), tmp_path / "recut").out
    found = difference(a / "out", cut)
    assert [score.field for score in found.scores] == []
    assert found.scores_only == (["errors.answer"], [])


def test_rows_that_the_other_was_never_given_are_a_class_of_their_own(a: Path, tmp_path: Path) -> None:
    rows = [*some_rows(36), *({**row, "prompt": "new"} for row in some_rows(4))]
    out = small_run(tmp_path / "b", rows=rows, steps=LOWEST)
    found = difference(a / "out", out)
    assert found.input_only == (4, 4)
    assert found.only_a.absent == found.only_a.rows == 2
    assert any(line == "the inputs differ: 4 rows only in a, 4 only in b" for line in found.lines())
    assert any(line == "  2 that b was never given" for line in found.lines())


def test_equal_rows_are_counted_as_often_as_they_are_there(tmp_path: Path) -> None:
    rows = some_rows(8)
    twice = small_run(tmp_path / "twice", rows=[*rows, rows[0], rows[0]], steps=["drop: {field: given.value, above: 1000}"])
    once = small_run(tmp_path / "once", rows=[*rows, rows[0], rows[0]], steps=["deduplicate: exact"])
    found = difference(twice, once)
    assert (found.both.rows, found.only_a.rows, found.only_b.rows) == (8, 2, 0)
    assert found.only_a.why == {"deduplicate exact": 2}


def test_other_scores_and_where_they_come_from(a: Path, tmp_path: Path) -> None:
    rows = [{**row, "value": row["value"] + (0.5 if place == 3 else 0.0)} for place, row in enumerate(some_rows(40))]
    out = small_run(tmp_path / "b", rows=rows, steps=LOWEST, filters="{given: {}, errors: {copies: 4}, compression: {}}")
    found = difference(a / "out", out)
    (value,) = [score for score in found.scores if score.field == "given.value"]
    assert (value.same_origin, value.compared, value.differing, value.largest) == (True, 40, 1, 0.5)
    assert {score.field: score.same_origin for score in found.scores}["errors.fatal"] is False
    assert "length.words" in found.scores_only[0]
    assert "compression.ratio" in found.scores_only[1]


def test_an_order_is_a_difference(a: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(a / "out", tmp_path / "ordered"))
    select_again(out, recipe_file(tmp_path / "ordered.yaml", [*LOWEST, "order: {field: given.value}"], filters=FILTERS))
    found = difference(a / "out", out)
    assert (found.only_a.rows, found.only_b.rows, found.is_same) == (0, 0, False)
    assert 0 < found.moved <= 20
    assert any("stand elsewhere in the order" in line for line in found.lines())


def test_a_cut_of_a_publication_without_all_rows_can_be_compared(tmp_path: Path) -> None:
    made = small_bundle(tmp_path / "made", steps=LOWEST)
    tighter = [LOWEST[0], LOWEST[1].replace("50%", "25%")]
    found = recut(made.folder, recipe_file(tmp_path / "tight.yaml", tighter, filters=FILTERS), tmp_path / "recut")
    compared = difference(found.out, made.folder)
    assert (compared.only_a.rows, compared.only_b.rows, compared.both.rows) == (0, 10, 10)
    assert compared.only_b.why == {"keep given.value lowest 25% within prompt, dataset": 10}


def test_the_result_is_plain_data_and_lines(a: Path, other: Path) -> None:
    found = difference(a / "bundle", other)
    data = json.loads(json.dumps(found.to_dict()))
    assert (data["both"]["rows"], data["is_same"]) == (found.both.rows, False)
    lines = found.lines()
    assert lines[0] == f"a: {a / 'bundle'}: 20 of 40 rows kept"
    assert all("\n" not in line for line in lines)
    assert any(line.startswith("only in a: ") for line in lines)
    assert difference(a / "out", a / "out").lines()[2] == "both keep the same rows in the same order"


def test_what_is_neither_run_nor_publication_is_refused(a: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds neither a selection nor a publication"):
        difference(a / "out", tmp_path)


def test_a_publication_that_contradicts_itself_ends_in_no_traceback(a: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(a / "bundle", tmp_path / "bundle"))
    facts = json.loads((bundle / FACTS).read_text())
    facts["recipe"] = {
        "name": 3,
        "filters": {"given": [1, {"x": None}]},
        "steps": [3, {"keep": 1}, {"a": 1, "b": 2}, {"drop": {}}],
    }
    _fs.commit_json(bundle / "curate" / "lock.json", {"annotations": ["given"]})
    entry = {"bytes": (bundle / "curate/lock.json").stat().st_size, "sha256": _fs.sha256(bundle / "curate/lock.json")}
    facts["files"]["curate/lock.json"] = entry
    _fs.commit_json(bundle / FACTS, facts)
    found = difference(bundle, a / "out")
    assert found.is_same
    assert '- step: {"keep": 1}' in found.recipe
