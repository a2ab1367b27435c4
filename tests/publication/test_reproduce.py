"""A publication is reproduced, and whatever was changed in it is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_publications import small_bundle
from workshop import some_rows

from curate import _fs
from curate.annotations import load_annotations
from curate.errors import CurateError, IntegrityError
from curate.examples import stable_hash
from curate.publication import open_publication, reproduce
from curate.publication.opened import FACTS
from curate.publication.reproducing import Reproduction, require_reproduced

DATA, SCORES, LEDGER = "data/train-00000-of-00001.parquet", "scores/train-00000-of-00001.parquet", "curate/ledger.parquet"
REJECTED, RECIPE, LOCK = "rejected/train-00000-of-00001.parquet", "curate/recipe.yaml", "curate/lock.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return sealed(small_bundle(folder, bundle={"with_rejected": True}).folder, folder / "out")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "publication"))


def sealed(bundle: Path, out: Path) -> Path:
    """With what says how the run was divided, and a seal over the facts themselves."""
    facts = read(bundle / FACTS)
    facts.pop("seal", None)
    facts["shards"] = [shard.stop for shard in load_annotations(out).rows.shards]
    _fs.commit_json(bundle / FACTS, {**facts, "seal": stable_hash(facts)})
    return bundle


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def failed(found: Reproduction) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def rewrite(folder: Path, path: str, table: pa.Table) -> None:
    """Another table under the same name, and a publication.json that vouches for it: a liar, not an accident."""
    pq.write_table(table, folder / path)
    vouch(folder, path)


def vouch(folder: Path, *paths: str, **changes: Any) -> None:
    facts = read(folder / FACTS) | changes
    facts.pop("seal", None)
    for path in paths:
        facts["files"][path] |= {"bytes": (folder / path).stat().st_size, "sha256": _fs.sha256(folder / path)}
    _fs.commit_json(folder / FACTS, {**facts, "seal": stable_hash(facts)})


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_what_was_published_is_reproduced_to_the_byte(made: Path) -> None:
    found = reproduce(made)
    assert failed(found) == []
    assert (found.passed, found.rows, found.kept) == (True, 40, 20)
    kept_hash = read(made / FACTS)["kept_hash"]
    assert next(check.detail for check in found.checks if check.name == "kept hash").endswith(kept_hash)


@pytest.mark.parametrize("rejected", [False, True])
@pytest.mark.parametrize(
    "steps",
    [
        [
            "deduplicate: exact",
            "drop: {field: given.flag, is: true}",
            "keep: {field: given.value, lowest: 40%, within: [source]}",
        ],
        ["mix: {shares: {human: 60%, gpt: 40%}, field: given.value}"],
        ["drop: {field: length.words, above: 9, below: 3}", "order: {field: given.value}"],
        ["best_of: {field: given.value, lowest: 1}", "order: {random: 5}"],
        ["sample: {keep: 50%, seed: 3}"],
    ],
)
def test_every_kind_of_recipe_is_reproduced(tmp_path: Path, steps: list[str], rejected: bool) -> None:
    rows = [{**row, "value": None if place % 9 == 4 else row["value"]} for place, row in enumerate(some_rows(60))]
    made = small_bundle(tmp_path, rows=[*rows, rows[2]], steps=steps, bundle={"with_rejected": rejected})
    assert failed(reproduce(sealed(made.folder, tmp_path / "out"))) == []
    assert failed(reproduce(made.folder)) == []


def test_where_the_division_is_not_told_it_says_so(tmp_path: Path) -> None:
    made = small_bundle(tmp_path).folder
    facts = read(made / FACTS)
    facts.pop("shards", None)
    facts.pop("seal", None)
    _fs.commit_json(made / FACTS, facts)
    found = reproduce(made)
    assert found.passed
    assert "does not say how the run's files were divided" in found.checks[-1].detail


@pytest.mark.parametrize("path", [DATA, SCORES, REJECTED, LEDGER, LOCK, RECIPE, FACTS])
def test_a_single_flipped_bit_is_found(folder: Path, path: str) -> None:
    clean = (folder / path).read_bytes()
    for place in range(0, len(clean), max(1, len(clean) // 24)):
        raw = bytearray(clean)
        raw[place] ^= 1 << (place % 8)
        (folder / path).write_bytes(raw)
        try:
            assert failed(reproduce(folder)), f"byte {place} of {path}"
        except CurateError as error:
            assert path == FACTS, error  # noqa: PT017  (publication.json itself may be past reading)
    (folder / path).write_bytes(clean)
    assert failed(reproduce(folder)) == []


@pytest.mark.parametrize("path", [DATA, SCORES, REJECTED, LEDGER, LOCK, RECIPE])
def test_a_missing_file_fails_and_does_not_end_the_checks(folder: Path, path: str) -> None:
    (folder / path).unlink()
    found = reproduce(folder)
    assert "files" in failed(found)
    assert len(found.checks) == len(reproduce(folder).checks) == 9


def test_an_edited_threshold_is_found_even_where_every_hash_was_made_to_fit(folder: Path) -> None:
    text = (folder / RECIPE).read_text().replace("50%", "75%")
    (folder / RECIPE).write_text(text)
    assert {"files", "recipe"} <= set(failed(reproduce(folder)))
    vouch(folder, RECIPE)
    assert failed(reproduce(folder)) == ["recipe"]
    recipe = open_publication(folder).recipe().as_data()
    lock = read(folder / LOCK) | {"recipe": recipe, "recipe_hash": stable_hash(recipe)}
    _fs.commit_json(folder / LOCK, lock)
    vouch(folder, RECIPE, LOCK, recipe=recipe, recipe_hash=stable_hash(recipe))
    assert {"decisions", "kept rows"} <= set(failed(reproduce(folder)))


def test_a_row_that_was_slipped_in_is_found(folder: Path) -> None:
    kept, others = pq.read_table(folder / DATA), pq.read_table(folder / REJECTED)
    rewrite(folder, DATA, pa.concat_tables([kept.slice(1), others.slice(0, 1)]).sort_by("row"))
    assert "kept rows" in failed(reproduce(folder))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda table: table.slice(1), "kept rows"),
        (lambda table: pa.concat_tables([table.slice(1), table.slice(0, 1)]), "kept rows"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "texts"),
        (lambda table: replaced(table, "completion", ["No."] * table.num_rows), "texts"),
        (lambda table: replaced(table, "source", ["human"] * table.num_rows), "texts"),
        (lambda table: replaced(table, "value", [0.0] * table.num_rows), "kept hash"),
        (lambda table: table.drop_columns(["completion"]), "texts"),
        (lambda table: table.set_column(2, "row", pc.add(table["row"], 1000)), "texts"),
    ],
)
def test_other_kept_rows_are_found(folder: Path, change: Callable[[pa.Table], pa.Table], expected: str) -> None:
    rewrite(folder, DATA, change(pq.read_table(folder / DATA)))
    assert expected in failed(reproduce(folder))


@pytest.mark.parametrize(
    "name", ["given_value", "characters", "row_hash", "kept", "rejected_by", "margin", "source", "prompt_key", "id"]
)
def test_other_scores_are_found(folder: Path, name: str) -> None:
    table = pq.read_table(folder / SCORES)
    values = table[name].to_pylist()
    values[0], values[5] = values[5], values[0]
    if values == table[name].to_pylist():
        values[0] = {"kept": not values[0], "rejected_by": "x"}.get(name, values[1])
    rewrite(folder, SCORES, replaced(table, name, values))
    assert failed(reproduce(folder))


def test_another_ledger_is_found(folder: Path) -> None:
    table = pq.read_table(folder / LEDGER)
    for name in ("decision", "fails", "is_unscored", "given"):
        values = table[name].to_pylist()
        values[1] = {"decision": "rejected" if values[1] == "kept" else "kept", "fails": ["x"], "is_unscored": True}.get(
            name, {"value": 77.0, "flag": False, "unscored": None}
        )
        rewrite(folder, LEDGER, replaced(table, name, values))
        assert "ledger" in failed(reproduce(folder))


def test_facts_that_contradict_the_files_are_found(folder: Path) -> None:
    for changes in ({"kept_hash": "0" * 32}, {"kept": 19}, {"recipe_hash": "0" * 32}):
        before = read(folder / FACTS)
        vouch(folder, **changes)
        assert failed(reproduce(folder))
        _fs.commit_json(folder / FACTS, before)


def test_the_result_is_data_words_and_an_error(folder: Path) -> None:
    (folder / RECIPE).write_text((folder / RECIPE).read_text() + "#")
    found = reproduce(folder)
    assert json.loads(json.dumps(found.to_dict()))["passed"] is False
    assert found.lines()[-1] == "NOT reproduced"
    with pytest.raises(IntegrityError, match=r"checks failed; the first: files: missing or changed: curate/recipe.yaml"):
        require_reproduced(found)


def test_hostile_files_end_as_failed_checks(folder: Path) -> None:
    """Whatever others wrote, there is a report and no traceback."""
    lock = read(folder / LOCK)
    hostile: list[Any] = [
        {}, {"annotations": []}, {**lock, "annotations": {"given": None}}, {**lock, "rows": 3}, {**lock, "kept": None},
        {**lock, "annotations": {**lock["annotations"], "given": {"fingerprint": {"filter": "../../x", "version": 1}}}},
        {**lock, "annotations": {**lock["annotations"], "given": {"fingerprint": {"filter": "given", "version": 1, "parameters": 3}}}},
        {**lock, "packages": None},
    ]  # fmt: skip
    for content in hostile:
        _fs.commit_json(folder / LOCK, content)
        vouch(folder, LOCK)
        found = reproduce(folder)
        assert failed(found) or content.get("packages", 0) is None
    recipes: list[Any] = [
        {},
        {"steps": [3]},
        {"filters": {"given": []}},
        {"filters": {"given": 3}, "steps": []},
        {"name": "x", "steps": [{"keep": 1}]},
    ]
    for recipe in recipes:
        vouch(folder, recipe=recipe)
        assert failed(reproduce(folder))
