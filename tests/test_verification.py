"""`verify` finds whatever is not what was committed, and names it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workshop import curate as command
from workshop import recipe_file, some_rows, write_rows

import curate
from curate import _fs
from curate.errors import IntegrityError, UsageError
from curate.verification import Unfinished, require_sound


@pytest.fixture
def out(tmp_path: Path) -> Path:
    recipe = recipe_file(tmp_path / "r.yaml", ["keep: {field: given.value, lowest: 50%}"])
    return curate.run(recipe, write_rows(tmp_path / "d.jsonl", some_rows(20)), out=tmp_path / "out", shard_rows=8).out


def problems(out: Path) -> list[str]:
    return curate.verify(out).problems


def test_an_undisturbed_run_is_sound(out: Path) -> None:
    found = curate.verify(out)
    assert (found.rows, found.refused, found.kept, found.problems) == (20, 0, 10, [])
    assert len(found.annotations) == 1
    require_sound(found)


def test_every_committed_table_is_looked_at(out: Path) -> None:
    tables = list(out.rglob("*.parquet"))
    assert curate.verify(out).files == len(tables)
    for path in tables:
        whole = path.read_bytes()
        path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
        assert any(path.name in problem for problem in problems(out)), path
        path.write_bytes(whole)


def test_a_missing_file_is_a_problem(out: Path) -> None:
    (out / "selection" / "kept" / "part-00000.parquet").unlink()
    assert len(problems(out)) == 1


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    value = _fs.read_json(path)
    change(value)
    path.write_text(json.dumps(value))


def test_a_lost_row_is_a_problem(out: Path) -> None:
    edit(out / "rows" / "MANIFEST.json", lambda manifest: manifest.update(read=21))
    assert any("21 rows read, 20 committed" in problem for problem in problems(out))


def test_rows_that_repeat_are_a_problem(out: Path) -> None:
    edit(out / "rows" / "MANIFEST.json", lambda manifest: manifest["parts"][1].update(start=7))  # type: ignore[index]
    assert any("gaps or repeats" in problem for problem in problems(out))


def test_annotations_of_other_rows_are_a_problem(out: Path) -> None:
    plan = next((out / "annotations").glob("*/plan.json"))
    edit(plan, lambda value: value["rows"].update(identity="x"))  # type: ignore[attr-defined]
    assert any("belongs to other rows" in problem for problem in problems(out))


def test_a_lock_of_another_selection_is_a_problem(out: Path) -> None:
    edit(out / "lock.json", lambda lock: lock["kept"].update(hash="x"))  # type: ignore[attr-defined]
    assert any("speaks of another selection" in problem for problem in problems(out))


@pytest.mark.parametrize("name", ["rows/MANIFEST.json", "annotations/*/plan.json", "annotations/*/MANIFEST.json"])
def test_a_record_that_was_rewritten_is_a_problem(out: Path, name: str) -> None:
    path = next(out.glob(name))
    path.write_bytes(path.read_bytes() + b"\n")
    assert any(f"{path}: not what lock.json lists" in problem for problem in problems(out))


def test_a_report_that_was_rewritten_is_a_problem(out: Path) -> None:
    edit(out / "selection" / "selection.json", lambda decision: decision["report"].update(kept=11))  # type: ignore[attr-defined]
    assert any("selection.json: not what lock.json lists" in problem for problem in problems(out))


def test_a_lock_that_pins_no_files_is_a_problem(out: Path) -> None:
    edit(out / "lock.json", lambda lock: lock.pop("files"))
    assert any("lists no files; run `curate select` again" in problem for problem in problems(out))


def test_annotations_that_are_gone_are_a_problem(out: Path) -> None:
    folder = next((out / "annotations").iterdir())
    (folder / "plan.json").unlink()
    assert any(str(folder) in problem for problem in problems(out))
    shutil.rmtree(folder)
    assert any(f"{folder.name}/plan.json: missing" in problem for problem in problems(out))


def test_a_selection_that_is_gone_is_a_problem(out: Path) -> None:
    shutil.rmtree(out / "selection")
    assert problems(out)


def test_scores_taken_over_are_looked_at(out: Path, tmp_path: Path) -> None:
    again = curate.run(tmp_path / "r.yaml", tmp_path / "d.jsonl", out=tmp_path / "again", shard_rows=8, reuse=[out]).out
    assert not problems(again)
    path = next(again.rglob("reused.parquet"))
    path.write_bytes(b"x" * path.stat().st_size)
    assert any("reused.parquet" in problem for problem in problems(again))


def test_shards_of_an_unfinished_store_are_looked_at(out: Path) -> None:
    shutil.rmtree(out / "selection")
    (out / "lock.json").unlink()
    folder = next((out / "annotations").iterdir())
    for name in ("MANIFEST.json", "part-00002.json"):
        (folder / name).unlink()
    found = curate.verify(out)
    assert (found.problems, found.unfinished) == ([], [Unfinished(folder.name, 2, 3)])
    assert f"{folder.name}: unfinished: 2 of 3 shards" in command("verify", out).out
    assert command("verify", out, "--json").json["unfinished"] == [{"annotations": folder.name, "committed": 2, "shards": 3}]
    (folder / "part-00000.parquet").write_bytes(b"")
    assert any("part-00000.parquet" in problem for problem in problems(out))


def test_a_kept_file_that_nobody_listed_is_a_problem(out: Path) -> None:
    (out / "selection" / "kept" / "part-00009.parquet").write_bytes(b"")
    assert any("not listed" in problem for problem in problems(out))


@pytest.mark.parametrize(
    "name", ["annotations/*/plan.json", "annotations/*/MANIFEST.json", "selection/selection.json", "lock.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": 1}', b'{"format": 99}', b"\xff"])
def test_a_damaged_record_is_a_problem(out: Path, name: str, content: bytes) -> None:
    next(out.glob(name)).write_bytes(content)
    assert problems(out)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1}'])
def test_damaged_rows_are_an_integrity_error(out: Path, content: bytes) -> None:
    (out / "rows" / "MANIFEST.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        curate.verify(out)


def test_a_folder_that_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        curate.verify(tmp_path)


def test_the_command_says_sound_or_ends_with_seven(out: Path) -> None:
    assert command("verify", out).out.rstrip().endswith("sound")
    (out / "rows" / "part-00000.parquet").write_bytes(b"")
    done = command("verify", out)
    assert done.code == 7
    assert "NOT sound" in done.out
    assert "part-00000.parquet" in done.err
    assert command("verify", out, "--json").json["problems"]
