"""A publication is read from a folder or from the Hub at one commit, and what is not a sound one is refused in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_publications import small_bundle

from curate import _fs
from curate.errors import CurateError, InputError, IntegrityError, NetworkError, UsageError
from curate.publication import open_publication
from curate.publication.opened import FACTS, check_facts

TESTS = Path(__file__).parents[1]
WITH_REJECTED = {"with_rejected": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small publication with its rejected rows, and the run beside it."""
    return small_bundle(tmp_path_factory.mktemp("made"), bundle=WITH_REJECTED).folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "publication"))


def facts_with(folder: Path, **changes: Any) -> dict[str, Any]:
    facts = json.loads((folder / FACTS).read_text())
    return {**facts, **changes}


def change(folder: Path, **changes: Any) -> None:
    _fs.commit_json(folder / FACTS, facts_with(folder, **changes))


def test_kept_rows_are_those_of_the_selection(made: Path) -> None:
    publication = open_publication(made)
    parts = sorted((made.parent / "out" / "selection" / "kept").glob("*.parquet"))
    assert publication.kept().equals(pa.concat_tables(pq.read_table(part) for part in parts))


def test_scores_and_rejected_rows_cover_every_row(made: Path) -> None:
    publication = open_publication(made)
    rejected = publication.rejected()
    assert rejected is not None
    assert sorted(publication.kept()["row"].to_pylist() + rejected["row"].to_pylist()) == list(range(40))
    assert publication.scores(["row"])["row"].to_pylist() == list(range(40))


def test_facts_lock_recipe_and_ledger_are_read(made: Path) -> None:
    publication = open_publication(made)
    assert publication.recipe().as_data()["steps"] == publication.facts["recipe"]["steps"] == publication.lock["recipe"]["steps"]
    assert publication.ledger().num_rows == 40
    assert (publication.commit, publication.split) == (None, "train")
    assert publication.filters()["given"] == {"value": "given_value", "flag": "given_flag", "unscored": "given_reason"}


def test_without_rejected_rows_there_are_none(tmp_path: Path) -> None:
    publication = open_publication(small_bundle(tmp_path).folder)
    assert not publication.has_rejected
    assert publication.rejected() is None


def test_opening_and_reading_changes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    publication = open_publication(folder)
    publication.kept(), publication.scores(), publication.rejected(), publication.lock
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("name", ["data", "scores", "rejected"])
def test_a_changed_byte_is_found_before_a_row_is_used(folder: Path, name: str) -> None:
    (path,) = (folder / name).iterdir()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    publication = open_publication(folder)
    read: Callable[[], Any] = {"data": publication.kept, "scores": publication.scores, "rejected": publication.rejected}[name]
    with pytest.raises(IntegrityError, match=rf"{name}/train-00000-of-00001.parquet: not the bytes that were published"):
        read()


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "curate" / "lock.json").unlink()
    with pytest.raises(InputError, match=r"lock.json: missing; the publication lists it"):
        _ = open_publication(folder).lock


def test_a_file_of_another_length_is_not_hashed_at_all(folder: Path) -> None:
    with (folder / "curate" / "lock.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(IntegrityError, match=r"lock.json: .* bytes where .* were published"):
        _ = open_publication(folder).lock


def test_what_is_no_publication_is_told_apart(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such folder: it holds neither a selection nor a publication$"):
        open_publication(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"\(on the Hub\? hf://datasets/me/nowhere\)"):
        open_publication("me/nowhere")
    with pytest.raises(InputError, match=r"it is no publication of curate"):
        open_publication(tmp_path)
    with pytest.raises(InputError, match=r"it is a run's folder; `curate push`"):
        open_publication(made.parent / "out")
    with pytest.raises(UsageError, match=r"--revision is for the Hub"):
        open_publication(made, revision="main")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "written in layout 2, this curate reads 1"),
        ({"format": None}, "written in layout None"),
        ({"split": "../train"}, "no name of a split"),
        ({"split": 3}, "split: a int where str is wanted"),
        ({"rows": -1}, "kept of -1 rows cannot be"),
        ({"rows": 10**30}, "rows cannot be"),
        ({"rows": 1.5}, "rows: a float"),
        ({"rows": True}, "rows: a bool"),
        ({"kept": 41}, "41 kept of 40 rows cannot be"),
        ({"files": []}, "files: a list"),
        ({"columns": {"x": "no field"}}, "columns: 'x' is said to be 'no field'"),
        ({"columns": {"x": "a.b", "y": "a.b"}}, "two columns are said to be the same score"),
        ({"columns": {"kept": "a.b"}}, "columns: 'kept'"),
        ({"columns": {"x": ["a.b"]}}, "columns: 'x'"),
        ({"left_out": "errors.answer"}, "left_out"),
        ({"left_out": [3]}, "left_out"),
        ({"recipe": "clean"}, "recipe: a str"),
        ({"recipe": {"filters": []}}, "recipe: its filters are no mapping"),
        ({"recipe": {"steps": 3}}, "or its steps no list"),
        ({"columns": {"\x1b[31m": "a.b"}}, "columns: '\\x1b[31m'"),
        ({"kept_hash": None}, "kept_hash: missing"),
        ({"shards": [40, 8]}, "shards: do not divide 40 rows"),
        ({"shards": [8]}, "shards: do not divide 40 rows"),
        ({"shards": ["8"]}, "shards: not a list of row numbers"),
    ],
)
def test_facts_that_cannot_be_are_refused(made: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CurateError) as caught:
        check_facts(facts_with(made, **changes), "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "../secret", "data/../../secret", "/etc/passwd", "data/..", "C:\\x\\y", "data\\x", "~/x", "data//x", "data/./x", "data/\0x",
        "a/b/c/d", "plain", ".git/config", "data/.hidden", "data/x\n", "curate/publication.json", "data/" + "x" * 300, "", "data/ä",
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_refused(made: Path, path: str) -> None:
    with pytest.raises(IntegrityError, match="is no path inside a publication"):
        check_facts(facts_with(made, files={path: {"bytes": 1, "sha256": "0" * 64}}), "here")


@pytest.mark.parametrize(
    "entry",
    [None, [], {}, {"bytes": 1}, {"bytes": -1, "sha256": "0" * 64}, {"bytes": 10**40, "sha256": "0" * 64},
     {"bytes": 1, "sha256": "x"}, {"bytes": "1", "sha256": "0" * 64}, {"bytes": 1, "sha256": "0" * 64, "rows": -1}],
)  # fmt: skip
def test_an_entry_without_sense_is_refused(made: Path, entry: Any) -> None:
    with pytest.raises(IntegrityError, match="does not give its bytes and sha256"):
        check_facts(facts_with(made, files={"data/x.parquet": entry}), "here")


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"rows": NaN}', b"[" * 100_000, b'{"rows": ' + b"9" * 10_000 + b"}", b"\xff\xfe", b"null"]
)
def test_what_is_no_json_object_is_refused(folder: Path, raw: bytes) -> None:
    (folder / FACTS).write_bytes(raw)
    with pytest.raises(CurateError) as caught:
        open_publication(folder)
    assert "publication.json" in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_facts_of_gigabytes_are_not_read(folder: Path) -> None:
    with (folder / FACTS).open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match="at most 16,777,216 are read"):
        open_publication(folder)


def relist(folder: Path, path: str) -> None:
    """Make publication.json speak of the file as it is now."""
    files = json.loads((folder / FACTS).read_text())["files"]
    files[path] = {**files[path], "bytes": (folder / path).stat().st_size, "sha256": _fs.sha256(folder / path)}
    change(folder, files=files)


def test_a_gap_in_the_files_of_a_config_is_found(folder: Path) -> None:
    files = json.loads((folder / FACTS).read_text())["files"]
    files["data/train-00002-of-00003.parquet"] = files["data/train-00000-of-00001.parquet"]
    change(folder, files=files)
    with pytest.raises(IntegrityError, match="not a whole sequence"):
        open_publication(folder).kept()


def test_scores_with_columns_of_another_type_are_refused(folder: Path) -> None:
    path = "scores/train-00000-of-00001.parquet"
    table = pq.read_table(folder / path)
    pq.write_table(table.set_column(0, "row", table["row"].cast(pa.string())), folder / path)
    relist(folder, path)
    with pytest.raises(IntegrityError, match="lacks the columns row, or has them of another type"):
        open_publication(folder).scores()


def test_fewer_scores_than_announced_are_refused(folder: Path) -> None:
    path = "scores/train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(folder / path).slice(1), folder / path)
    relist(folder, path)
    with pytest.raises(IntegrityError, match="holds 39 rows where 40 are announced"):
        open_publication(folder).scores()


def test_what_is_no_parquet_is_refused(folder: Path) -> None:
    (folder / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1 not really PAR1")
    relist(folder, "data/train-00000-of-00001.parquet")
    with pytest.raises(IntegrityError, match="not readable as Parquet"):
        open_publication(folder).kept()


def test_rows_that_decode_to_gigabytes_are_not_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.publication.opened.MOST_BATCH_BYTES", 1_000_000)
    path = "data/train-00000-of-00001.parquet"
    table = pq.read_table(folder / path)
    bomb = pa.array(["x" * 100_000] * table.num_rows)
    pq.write_table(table.set_column(0, "prompt", bomb), folder / path, compression="zstd")
    relist(folder, path)
    with pytest.raises(InputError, match="rows decode to"):
        open_publication(folder).kept()


PROLOGUE = """
import json, os, sys
from pathlib import Path
from fake_hub import FakeHub
hub = FakeHub()
os.environ["HF_ENDPOINT"] = hub.url
folder = Path(sys.argv[1])
files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
hub.files = {"me/set": files, "me/empty": {"README.md": b"# hi"}}
from curate.errors import CurateError
from curate.publication import open_publication
from curate.recipes.hub import explained
def attempt(source="hf://datasets/me/set", read=lambda found: found.kept().num_rows, **options):
    try:
        return read(open_publication(source, **options))
    except CurateError as error:
        return f"{type(error).__name__}: {error}"
"""


def on_hub(code: str, folder: Path, tmp_path: Path, **environment: str) -> Any:
    """What the code prints as JSON, in a process with a loopback Hub that holds the folder as me/set, and a cache of its own."""
    quiet = {f"HF_HUB_DISABLE_{what}": "1" for what in ("TELEMETRY", "XET", "PROGRESS_BARS")}
    paths = {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code, str(folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **quiet, **paths, "NO_PROXY": "127.0.0.1", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_hub_is_pinned_to_a_commit_and_asked_for_what_is_needed(made: Path, tmp_path: Path) -> None:
    code = """
found = open_publication("hf://datasets/me/set")
rows = found.kept().num_rows
cached = [path.name for path in Path(os.environ["HF_HOME"]).rglob("*.parquet")]
before = hub.commit_of("me/set")
named = attempt("hf://datasets/me/set@" + before), attempt(revision="main")
print(json.dumps([found.commit == before, found.name, rows, cached, named]))
"""
    pinned, name, rows, cached, named = on_hub(code, made, tmp_path)
    assert pinned
    assert name.startswith("hf://datasets/me/set@")
    assert (rows, named) == (20, [20, 20])
    assert cached == ["train-00000-of-00001.parquet"]  # of data/: neither scores nor rejected rows were fetched


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("'hf://datasets/me/nope'", "no such data set on the Hub"),
        ("'hf://datasets/me/set@v9'", "no such revision"),
        ("'hf://datasets/me/empty'", "curate/publication.json: no such file there; is it a publication of curate?"),
        ("'hf://me/set'", "not a data set on the Hub; write hf://datasets/USER/NAME"),
        ("'hf://datasets/me/..'", "not a data set on the Hub"),
        ("'hf://datasets/me/set@main', revision='v1'", "names the revision 'main', and --revision 'v1'"),
    ],
)
def test_what_the_hub_does_not_hold_is_one_line(made: Path, tmp_path: Path, call: str, message: str) -> None:
    said = on_hub(f"print(json.dumps(attempt({call})))", made, tmp_path)
    assert message in said
    assert "\n" not in said


def test_other_bytes_on_the_hub_and_in_the_cache_are_told_apart(made: Path, tmp_path: Path) -> None:
    code = """
first = attempt()
(copy,) = Path(os.environ["HF_HOME"]).rglob("*.parquet")
raw = bytearray(copy.read_bytes()); raw[99] ^= 1; copy.resolve().write_bytes(raw)
mended = attempt()
files = dict(files); files["data/train-00000-of-00001.parquet"] = bytes(raw)
hub.files = {"me/other": files}
print(json.dumps([first, mended, attempt("hf://datasets/me/other")]))
"""
    first, mended, other = on_hub(code, made, tmp_path)
    assert (first, mended) == (20, 20)
    assert other.startswith("IntegrityError: ")
    assert "not the bytes that were published" in other


def test_a_pinned_publication_is_read_offline_once_it_was_fetched(made: Path, tmp_path: Path) -> None:
    commit = on_hub('attempt(); print(json.dumps(open_publication("hf://datasets/me/set").commit))', made, tmp_path)
    code = f'print(json.dumps([attempt("hf://datasets/me/set@{commit}"), attempt()]))'
    pinned, unpinned = on_hub(code, made, tmp_path, HF_HUB_OFFLINE="1")
    assert pinned == 20
    assert unpinned.startswith("NetworkError: hf://datasets/me/set: the Hub cannot be reached")


@pytest.mark.parametrize("address", ["https://huggingface.co/datasets/me/demo", "https://hf.co/datasets/me/demo/tree/main"])
def test_the_address_of_a_page_is_told_how_to_be_written(address: str) -> None:
    with pytest.raises(UsageError, match=r"an address of a page; write hf://datasets/me/demo$"):
        open_publication(address)


def test_a_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(UsageError, match=r"rows.jsonl: is a file; name the folder"):
        open_publication(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("status", "words"), [(401, r"answered 401: .* log in: hf auth login"), (500, "500; try again later")])
def test_a_token_that_the_hub_refuses_is_no_passing_trouble(status: int, words: str) -> None:
    from types import SimpleNamespace

    from huggingface_hub.errors import HfHubHTTPError

    from curate.recipes.hub import explained

    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    with pytest.raises(NetworkError, match=words), explained("hf://datasets/me/demo"):
        raise error
