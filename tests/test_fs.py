"""Stored files: whole or absent, listed with their hash, one writer at a time."""

import contextlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from workshop import python, tree

from curate import _fs
from curate.errors import IntegrityError, UsageError

TABLE = pa.table({"row": list(range(1000)), "text": [f"text {i}" * 5 for i in range(1000)]})


def part(folder: Path) -> Path:
    """A committed part with its marker."""
    entry = _fs.commit_table(_fs.part_path(folder, 0), TABLE)
    _fs.commit_json(_fs.marker_path(folder, 0), entry)
    return _fs.part_path(folder, 0)


def test_a_table_appears_under_its_name_only_when_committed(tmp_path: Path) -> None:
    writer = _fs.TableWriter(tmp_path / "x.parquet", TABLE.schema)
    writer.write(TABLE)
    assert not (tmp_path / "x.parquet").exists()
    writer.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_a_commit_that_fails_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    _fs.commit_bytes(path, b"old")

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        _fs.commit_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_an_entry_says_rows_bytes_and_hash(tmp_path: Path) -> None:
    entry = _fs.commit_table(tmp_path / "x.parquet", TABLE)
    assert entry == {
        "file": "x.parquet",
        "rows": 1000,
        "bytes": (tmp_path / "x.parquet").stat().st_size,
        "sha256": _fs.sha256(tmp_path / "x.parquet"),
    }


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    _fs.commit_table(tmp_path / "a", TABLE)
    _fs.commit_table(tmp_path / "b", TABLE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_committed_part_has_a_marker_that_holds(tmp_path: Path) -> None:
    part(tmp_path)
    marker = _fs.read_marker(tmp_path, 0)
    assert marker
    assert marker["rows"] == 1000


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
def test_a_shortened_part_is_no_part(tmp_path: Path, keep: float) -> None:
    path = part(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert _fs.read_marker(tmp_path, 0) is None


def test_no_flipped_bit_is_read_as_other_data(tmp_path: Path) -> None:
    path = part(tmp_path)
    whole = path.read_bytes()
    for place in range(4, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert _fs.read_marker(tmp_path, 0) is None
        with contextlib.suppress(IntegrityError):
            assert _fs.read_table(path).equals(TABLE)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"file": "part-00000.parquet"}', b"\xff"])
def test_a_damaged_marker_is_no_marker(tmp_path: Path, content: bytes) -> None:
    part(tmp_path)
    _fs.marker_path(tmp_path, 0).write_bytes(content)
    assert _fs.read_marker(tmp_path, 0) is None


def test_a_marker_without_its_part_is_no_marker(tmp_path: Path) -> None:
    part(tmp_path).unlink()
    assert _fs.read_marker(tmp_path, 0) is None


def test_a_part_without_its_marker_does_not_exist(tmp_path: Path) -> None:
    part(tmp_path)
    _fs.marker_path(tmp_path, 0).unlink()
    assert _fs.read_marker(tmp_path, 0) is None


def test_the_shallow_check_sees_the_size_only(tmp_path: Path) -> None:
    path = part(tmp_path)
    entry = _fs.read_json(_fs.marker_path(tmp_path, 0))
    path.write_bytes(bytes(entry["bytes"]))
    assert _fs.entry_holds(tmp_path, entry, deep=False)
    assert not _fs.entry_holds(tmp_path, entry)


def test_cleaning_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    part(tmp_path)
    before = tree(tmp_path)
    (tmp_path / f"{_fs.TEMPORARY}x.parquet").write_bytes(b"half")
    (tmp_path / f"{_fs.TEMPORARY}selection" / "kept").mkdir(parents=True)
    (tmp_path / f"{_fs.TEMPORARY}selection" / "kept" / f"{_fs.TEMPORARY}y").write_bytes(b"half")
    _fs.clean(tmp_path)
    assert tree(tmp_path) == before


def folders(out: Path) -> tuple[Path, Path]:
    new, old = out / f"{_fs.TEMPORARY}selection", out / "selection"
    for folder, text in ((new, "new"), (old, "old")):
        folder.mkdir()
        (folder / "x").write_text(text)
    return new, old


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    new, old = folders(tmp_path)
    _fs.replace_folder(new, old)
    assert (old / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["selection"]


@pytest.mark.parametrize(("renames", "survivor"), [(0, "old"), (1, "old"), (2, "new")])
def test_a_kill_during_replacement_leaves_one_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int, survivor: str
) -> None:
    new, old = folders(tmp_path)
    real = Path.rename
    done: list[Path] = []

    def rename(path: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        patched.setattr(_fs, "_sync_folder", lambda _: rename(old, old))
        with pytest.raises(KeyboardInterrupt):
            _fs.replace_folder(new, old)
    _fs.finish_replacement(old)
    _fs.clean(tmp_path)
    assert (old / "x").read_text() == survivor
    assert [path.name for path in tmp_path.iterdir()] == ["selection"]


def test_a_second_process_is_refused_and_told_who_works_there(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from curate import _fs\nwith _fs.only_writer(Path(sys.argv[1])): pass"
    with _fs.only_writer(tmp_path):
        second = python(code, str(tmp_path))
    assert "UsageError" in second.err
    assert f"process {os.getpid()} on " in second.err
    assert python(code, str(tmp_path)).code == 0


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from curate import _fs\n"
        "with _fs.only_writer(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert python(code, str(tmp_path)).code == -9
    with _fs.only_writer(tmp_path):
        pass


@pytest.mark.parametrize("statement", ["_fs.commit_bytes(path, bytes(10**6))", "_fs.commit_table(path, table)"])
def test_a_full_disk_is_a_resource_error_that_names_the_file(tmp_path: Path, statement: str) -> None:
    code = f"""
import resource, signal, sys
from pathlib import Path
import pyarrow as pa
from curate import _fs
from curate.errors import ResourceError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
path, table = Path(sys.argv[1]), pa.table({{"x": [str(i * 2654435761 % 2**32) for i in range(20000)]}})
try:
    {statement}
except ResourceError as error:
    print(error)
"""
    done = python(code, str(tmp_path / "x"))
    assert done.out.startswith(f"{tmp_path / 'x'}: the disk is full"), done.err
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    for folder in (tmp_path / "x", tmp_path / "x" / "below"):
        with pytest.raises(UsageError, match="choose another folder"):
            _fs.make_folder(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_a_usage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="not writable"):
        _fs.make_folder(tmp_path / "x")


@pytest.mark.parametrize("number", [1, 13, 30])
def test_refused_permissions_are_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match="not writable"):
        _fs.commit_bytes(tmp_path / "x", b"")


def test_json_is_the_same_bytes_for_equal_values(tmp_path: Path) -> None:
    _fs.commit_json(tmp_path / "a", {"x": 1, "é": [2]})
    _fs.commit_json(tmp_path / "b", {"é": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text("utf-8")) == {"x": 1, "é": [2]}
