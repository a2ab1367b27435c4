"""The publication's folder: which files are in it, the same bytes each time, nothing of this machine, and what is not built."""

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_publications import ERRORS, KEEP, small_bundle, small_run, stand_in_for_the_card
from workshop import some_rows, tree

from curate import _fs
from curate.errors import CurateError, InputError, IntegrityError, UsageError
from curate.examples.hub_source import plain_license
from curate.publication import Bundle, build, load_bundle, obstacles
from curate.publication.bundle import _Rejected, _Run
from curate.publication.facts import cleaned, is_synthetic, recipe_yaml, step_names
from curate.publication.license import forbids, known_license, source_of
from curate.publication.parts import GROUP_ROWS, PartWriter, batches
from curate.recipes import load_recipe
from curate.recipes.schema import shipped_recipes
from curate.rows import RowStore

CORE = ["README.md", "curate/ledger.parquet", "curate/lock.json", "curate/publication.json", "curate/recipe.yaml"]
DATA, SCORES, REJECTED = (f"{folder}/train-00000-of-00001.parquet" for folder in ("data", "scores", "rejected"))


def table(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.iterdir()))


def there(folder: Path) -> list[str]:
    return sorted(tree(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody changes."""
    stand_in_for_the_card()
    return small_run(tmp_path_factory.mktemp("run"))


# What is in it


def test_a_publication_is_a_list_of_files_and_nothing_else(run: Path, tmp_path: Path) -> None:
    bundle = build(run, tmp_path / "b")
    assert there(bundle.folder) == bundle.files == sorted([*CORE, DATA, SCORES])
    assert sorted(bundle.facts["files"]) == sorted({*bundle.files} - {"README.md", "curate/publication.json"})
    for name, entry in bundle.facts["files"].items():
        path = bundle.folder / name
        assert (path.stat().st_size, _fs.sha256(path)) == (entry["bytes"], entry["sha256"])


def test_facts_say_what_was_read_kept_and_refused(run: Path, tmp_path: Path) -> None:
    bundle = build(run, tmp_path / "b")
    lock = json.loads((run / "lock.json").read_bytes())
    facts = json.loads((bundle.folder / "curate" / "publication.json").read_bytes())
    assert facts == bundle.facts
    assert (facts["rows"], facts["refused"], facts["split"], facts["configs"]) == (40, 0, "train", ["default", "scores"])
    assert facts["kept"] == facts["files"][DATA]["rows"] == lock["kept"]["rows"]
    assert (facts["kept_hash"], facts["recipe_hash"], facts["recipe"]) == (
        lock["kept"]["hash"],
        lock["recipe_hash"],
        lock["recipe"],
    )
    assert facts["source"]["name"] == "rows.jsonl"


@pytest.mark.parametrize("steps", [(ERRORS, KEEP), (KEEP, "order: {random: 3}")], ids=["input order", "ordered"])
def test_kept_rows_are_published_as_they_were_selected(tmp_path: Path, steps: tuple[str, ...]) -> None:
    bundle = small_bundle(tmp_path, steps=steps)
    assert table(bundle.folder / "data").equals(table(tmp_path / "out" / "selection" / "kept"))


def test_rejected_rows_are_published_on_request_in_the_same_layout(run: Path, tmp_path: Path) -> None:
    bundle = build(run, tmp_path / "b", with_rejected=True)
    kept, rejected = table(bundle.folder / "data"), table(bundle.folder / "rejected")
    assert rejected.schema == kept.schema
    assert sorted(kept["row"].to_pylist() + rejected["row"].to_pylist()) == list(range(40))
    assert (bundle.facts["configs"], bundle.facts["rejected"]) == (["default", "scores", "rejected"], rejected.num_rows)
    originals = {example.row: example for example in RowStore(run / "rows")}
    assert all(row["completion"] == originals[row["row"]].completion for row in rejected.to_pylist())


def test_there_are_no_files_of_rejected_rows_where_none_is_rejected(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path, steps=["sample: {keep: 100%}"], bundle={"with_rejected": True})
    assert (bundle.facts["configs"], bundle.facts["rejected"]) == (["default", "scores"], None)
    assert there(bundle.folder) == bundle.files


def test_rejected_rows_that_two_strings_cannot_hold_are_counted(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path, bundle={"with_rejected": True})
    parts = tmp_path / "out" / "rows"
    rejected = _Rejected(_Run.open(tmp_path / "out"))
    shard = RowStore(parts).shards[0]
    several = RowStore(parts).read(shard)
    turns = [{"role": role, "content": "t"} for role in ("user", "assistant", "user", "assistant")]
    messages = [turns, *several["messages"].to_pylist()[1:]]
    changed = several.set_column(
        several.schema.get_field_index("messages"), "messages", pa.array(messages, several.schema.field("messages").type)
    )
    with mock.patch.object(RowStore, "read", return_value=changed):
        made = rejected.table(shard, pa.array([True] * len(messages)))
    assert (made.num_rows, rejected.left_out, bundle.facts["rejected_left_out"]) == (len(messages) - 1, 1, 0)


def test_the_published_recipe_is_the_one_that_selected(run: Path, tmp_path: Path) -> None:
    bundle = build(run, tmp_path / "b")
    assert load_recipe(bundle.folder / "curate" / "recipe.yaml").as_data() == bundle.facts["recipe"]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_recipe_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "r.yaml"
    path.write_bytes(recipe_yaml(recipe.as_data()))
    assert load_recipe(path) == recipe


# The same bytes, and nothing of this machine


def test_two_builds_are_equal_byte_for_byte_wherever_the_run_lies(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "elsewhere" / "copied", copy_function=shutil.copyfile)
    found = [tree(build(out, tmp_path / name, with_rejected=True).folder) for out, name in ((run, "a"), (run, "b"), (copy, "c"))]
    assert found[0] == found[1] == found[2]


def test_a_build_over_its_own_publication_replaces_it(run: Path, tmp_path: Path) -> None:
    first = tree(build(run, tmp_path / "b", with_rejected=True).folder)
    assert sorted(tree(build(run, tmp_path / "b").folder)) == sorted(set(first) - {REJECTED})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_no_byte_tells_of_this_machine(tmp_path: Path) -> None:
    stand_in_for_the_card()
    place = tmp_path / "my-own-place" / "someone"
    place.mkdir(parents=True)
    (place / "questions.jsonl").write_text(json.dumps({"question": "Who asked for this?"}) + "\n")
    steps = [f"decontaminate: {{against: ['{place / 'questions.jsonl'}']}}", KEEP]
    out = small_run(place, steps=steps, filters="{given: {}}")
    bundle = build(out, tmp_path / "b", with_rejected=True)
    traces = [str(tmp_path), "my-own-place", str(Path.home()) + "/", os.uname().nodename]
    traces += [getpass.getuser()] if getpass.getuser() != "root" else []
    for name in bundle.files:
        path = bundle.folder / name
        texts = [path.read_bytes().decode("utf-8", "replace")]
        if path.suffix == ".parquet":
            found = pq.read_table(path)
            texts += [str(found.to_pylist()), str(found.schema), str(pq.read_metadata(path).metadata)]
        assert [(name, trace) for trace in traces for text in texts if trace in text] == []
    assert any(place.startswith("recipe.steps.0") for place in bundle.facts["cleaned"])
    step = "decontaminate against questions.jsonl above 0.5 (n 8)"
    assert str(load_recipe(bundle.folder / "curate" / "recipe.yaml").steps[0]) == step


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/me/models/big", "big"),
        ("~/data/x.jsonl", "x.jsonl"),
        ("C:\\Users\\me\\x.jsonl", "x.jsonl"),
        ("/srv/my data/x.jsonl", "x.jsonl"),
        ("python /home/me/eval.py --out '/tmp/o/p'", "python eval.py --out 'p'"),
        ("hf://datasets/me/name and https://example.org/a/b", "hf://datasets/me/name and https://example.org/a/b"),
        ("me/name, 1/2 and true/false, or /think", "me/name, 1/2 and true/false, or /think"),
        ("keep perplexity.nll lowest 50% within prompt, source", "keep perplexity.nll lowest 50% within prompt, source"),
        ({"a": ["/a/b/c", 3, None, True]}, {"a": ["c", 3, None, True]}),
    ],
)
def test_of_a_path_only_its_last_name_is_published(value: Any, expected: Any) -> None:
    assert cleaned(value) == expected


def test_a_step_is_called_as_the_published_recipe_calls_it() -> None:
    recipe = {"steps": [{"decontaminate": {"against": ["/srv/my data/x.jsonl"]}}, {"sample": {"keep": "50%"}}]}
    assert step_names(recipe, cleaned(recipe)) == {
        "decontaminate against /srv/my data/x.jsonl above 0.5 (n 8)": "decontaminate against x.jsonl above 0.5 (n 8)"
    }


def test_what_was_cleaned_is_listed_by_place() -> None:
    places: list[str] = []
    cleaned({"trial": {"tasks": ["sample", {"data": "/a/b/c.jsonl"}]}}, where="recipe", found=places)
    assert places == ["recipe.trial.tasks.1.data"]


# Files that readers of the Hub can use


def test_long_splits_are_cut_into_numbered_files_and_row_groups(tmp_path: Path) -> None:
    schema = pa.schema([("row", pa.int64()), ("text", pa.string())])
    writer = PartWriter(tmp_path, schema, most_bytes=60_000)
    for start in range(0, 17_000, 700):
        rows = range(start, min(start + 700, 17_000))
        writer.write(pa.table({"row": rows, "text": [f"{row * 7919 % 10007}" for row in rows]}, schema=schema))
    found = writer.finish("train-{i:05d}-of-{n:05d}.parquet")
    assert list(found) == [f"train-{i:05d}-of-{len(found):05d}.parquet" for i in range(len(found))] == there(tmp_path)
    assert len(found) > 1
    assert all(entry["bytes"] <= 120_000 for entry in found.values())
    assert table(tmp_path)["row"].to_pylist() == list(range(17_000))
    for name in found:
        with pq.ParquetFile(tmp_path / name) as file:
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            assert all(group.num_rows <= GROUP_ROWS for group in groups)
            assert all(group.column(0).has_offset_index and group.column(0).has_column_index for group in groups)


def test_a_table_longer_than_a_group_is_cut(tmp_path: Path) -> None:
    whole = pa.table({"row": range(12_000)})
    writer = PartWriter(tmp_path, whole.schema)
    writer.write(whole)
    (name,) = writer.finish("{i}-of-{n}")
    assert pq.read_table(tmp_path / name) == whole
    assert [pq.ParquetFile(tmp_path / name).metadata.row_group(index).num_rows for index in range(3)] == [5000, 5000, 2000]


def test_long_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = _fs.commit_table(tmp_path / "x.parquet", pa.table({"text": [f"{n}" * 100_000 for n in range(10, 50)]}))
    monkeypatch.setattr("curate.publication.parts.GROUP_BYTES", 2_000_000)
    sizes = [batch.num_rows for batch in batches(tmp_path / entry["file"])]
    assert (sum(sizes), max(sizes) <= 10) == (40, True)


def test_several_files_of_kept_rows_hold_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.publication.parts.GROUP_ROWS", 8)
    bundle = small_bundle(tmp_path, rows=200, bundle={"most_bytes": 5_000})
    names = [name for name in bundle.files if name.startswith("data/")]
    assert len(names) > 1
    assert names[-1] == f"data/train-{len(names) - 1:05d}-of-{len(names):05d}.parquet"
    assert table(bundle.folder / "data") == table(tmp_path / "out" / "selection" / "kept")


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_finds_configurations_and_splits(run: Path, tmp_path: Path, streaming: bool) -> None:
    from datasets import load_dataset

    bundle = build(run, tmp_path / "b", with_rejected=True)
    found = {}
    for config in (None, "scores", "rejected"):
        loaded = load_dataset(str(bundle.folder), config, streaming=streaming, cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == ["train"]
        found[config] = list(loaded["train"])
    assert [len(rows) for rows in found.values()] == [bundle.facts["kept"], 40, bundle.facts["rejected"]]
    assert {"prompt", "completion"} <= found[None][0].keys()
    assert found["scores"] == table(bundle.folder / "scores").to_pylist()


def test_the_split_that_was_read_names_the_files(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    with mock.patch.object(_Run, "split", "test.v2"):
        bundle = build(run, tmp_path / "b")
    assert "data/test.v2-00000-of-00001.parquet" in bundle.files
    assert list(load_dataset(str(bundle.folder), streaming=True)) == ["test.v2"]


# What is not built


def refused(error: type[CurateError], words: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(error) as caught:
        build(*arguments, **options)
    assert words in str(caught.value)


def test_a_folder_without_a_selection_is_no_publication(run: Path, tmp_path: Path) -> None:
    refused(UsageError, "holds no finished rows", tmp_path / "none", tmp_path / "b")
    bare = shutil.copytree(run, tmp_path / "bare")
    shutil.rmtree(bare / "selection")
    refused(UsageError, "curate select", bare, tmp_path / "b")
    assert there(tmp_path) == there(tmp_path / "bare") or not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "name",
    ["selection/kept/part-00000.parquet", "selection/selection.json", "selection/ledger.parquet", "rows/part-00002.parquet",
     "rows/MANIFEST.json", "lock.json"],
)  # fmt: skip
def test_a_run_that_is_not_what_was_committed_is_not_published(run: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data = data.replace(b'"rows": 40', b'"rows": 41') if name.endswith("MANIFEST.json") else data
    data = data.replace(b'"kept_rows"', b'"kept_rows" ') if name.endswith("selection.json") else data
    data = data.replace(b'"hash": "', b'"hash": "0') if name == "lock.json" else data
    if name.endswith(".parquet"):
        data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    refused(IntegrityError, "curate verify", copy, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_folder_of_somebody_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    refused(UsageError, "no publication's", run, mine)
    assert there(mine) == ["notes.txt"]
    (tmp_path / "file").write_text("")
    refused(UsageError, "is no folder", run, tmp_path / "file")
    (tmp_path / "link").symlink_to(mine)
    refused(UsageError, "is no folder", run, tmp_path / "link")


def test_a_publication_with_a_file_of_somebody_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    bundle = build(run, tmp_path / "b")
    (bundle.folder / "data" / ".env").write_text("HF_TOKEN=mine")
    refused(UsageError, "data/.env", run, bundle.folder)
    assert "data/.env" in there(bundle.folder)


def test_a_publication_in_the_run_itself_is_no_part_of_it(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    first = build(copy, copy / "publication")
    assert build(copy, copy / "publication") == first
    refused(UsageError, "no publication's", copy, copy / "rows")
    refused(UsageError, "no publication's", copy, copy)


def test_a_run_in_use_is_not_published(run: Path, tmp_path: Path) -> None:
    code = "import sys, time\nfrom pathlib import Path\nfrom curate import _fs\nwith _fs.run_folder(Path(sys.argv[1])):\n print(1, flush=True)\n time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused(UsageError, "in use", run, tmp_path / "b")
    finally:
        holder.kill()
        holder.communicate()


def test_a_build_that_fails_leaves_the_former_publication(run: Path, tmp_path: Path) -> None:
    bundle = build(run, tmp_path / "b")
    before = tree(bundle.folder)
    with mock.patch("curate.hub_cards.render_card", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        build(run, bundle.folder, with_rejected=True)
    assert tree(bundle.folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_killed_build_leaves_a_whole_publication_or_none(tmp_path: Path) -> None:
    out, into = small_run(tmp_path / "r"), tmp_path / "b"
    tests = Path(__file__).parents[1]
    code = (
        "import sys\nfrom pathlib import Path\nimport small_publications\nsmall_publications.stand_in_for_the_card()\n"
        "from curate.publication import build\nprint(1, flush=True)\n"
        "while True: build(Path(sys.argv[1]), Path(sys.argv[2]), with_rejected=True)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests, tests / "publication", tests.parent)))}
    for number in range(5):
        builder = subprocess.Popen([sys.executable, "-c", code, out, into], stdout=subprocess.PIPE, env=environment)
        assert builder.stdout is not None
        builder.stdout.readline()
        time.sleep(0.05 + 0.13 * number)
        os.kill(builder.pid, signal.SIGKILL)
        builder.communicate()
        if into.exists():
            assert there(into) == load_bundle(into).files
    whole = build(out, into, with_rejected=True)
    assert there(into) == whole.files
    assert {path.name for path in tmp_path.iterdir()} == {"b", "r"}


def test_a_selection_of_nothing_is_not_published(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    decision = json.loads((copy / "selection" / "selection.json").read_bytes()) | {"kept_rows": 0, "kept": []}
    _fs.commit_json(copy / "selection" / "selection.json", decision)
    refused(UsageError, "keeps no row", copy, tmp_path / "b")


def test_a_publication_is_read_back_and_a_damaged_one_refused(run: Path, tmp_path: Path) -> None:
    bundle = build(run, tmp_path / "b")
    assert load_bundle(bundle.folder) == bundle
    (bundle.folder / DATA).write_bytes(b"other")
    with pytest.raises(IntegrityError, match="not what was published"):
        load_bundle(bundle.folder)
    with pytest.raises(UsageError, match="is no publication"):
        load_bundle(run)


# Who may see it


def of_hub(run: Path, folder: Path, **origin: Any) -> Path:
    """The run as if its rows came from the Hub, with what reading them found out."""
    copy = shutil.copytree(run, folder)
    path = copy / "rows" / "MANIFEST.json"
    manifest = json.loads(path.read_bytes())
    manifest["input"] |= {"kind": "hub", "id": "who/what", "revision": "c" * 40, "config": "default", "split": "train"}
    _fs.commit_json(path, {**manifest, "origin": origin} if origin else manifest)
    lock = json.loads((copy / "lock.json").read_bytes())
    lock["files"]["rows/MANIFEST.json"] = _fs.sha256(path)
    _fs.commit_json(copy / "lock.json", lock)
    return copy


OPEN = {"license": "mit", "is_private": False, "is_gated": False}


def test_local_rows_need_a_licence_only_in_public(run: Path, tmp_path: Path) -> None:
    assert build(run, tmp_path / "private").facts["license"] is None
    refused(InputError, "the licence of rows.jsonl is unknown", run, tmp_path / "b", public=True)
    given = build(run, tmp_path / "b", public=True, license="CC-BY-4.0")
    assert (given.facts["license"], given.facts["stated"]["license"]) == ("cc-by-4.0", "cc-by-4.0")


def test_whether_it_is_public_changes_no_byte(run: Path, tmp_path: Path) -> None:
    made = [build(run, tmp_path / name, license="mit", public=public).folder for name, public in (("a", True), ("b", False))]
    assert tree(made[0]) == tree(made[1])


def test_the_licence_of_the_source_is_carried_over(run: Path, tmp_path: Path) -> None:
    facts = build(of_hub(run, tmp_path / "r", **OPEN), tmp_path / "b", public=True).facts
    assert facts["license"] == "mit"
    assert facts["source"] == {"kind": "hub", "name": "who/what", "revision": "c" * 40, **OPEN}
    assert obstacles(facts) == []


@pytest.mark.parametrize(
    ("origin", "options", "words"),
    [
        ({"license": "cc-by-nc-nd-4.0"}, {}, "cc-by-nc-nd-4.0 (of who/what, from its card) forbids"),
        ({"license": "mit"}, {"license": "cc-by-nd-4.0"}, "cc-by-nd-4.0 (given with --license) forbids"),
        ({"license": "other"}, {}, "other (of who/what, from its card) does not say"),
        ({"license": "unknown"}, {}, "does not say"),
        ({"license": ["mit", "cc-by-4.0"]}, {}, "several licences (mit, cc-by-4.0)"),
        ({"is_private": True}, {}, "who/what is private; pass --public-source"),
        ({"is_gated": True, "is_private": True}, {}, "who/what is private and gated"),
        ({}, {"private_source": True}, "--private-source"),
        ({"license": None, "is_gated": True}, {}, "unknown; find it out and pass it: --license mit; also: who/what is gated"),
    ],
)
def test_what_forbids_publishing_is_named(
    run: Path, tmp_path: Path, origin: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    out = of_hub(run, tmp_path / "r", **(OPEN | origin))
    refused(InputError, words, out, tmp_path / "b", public=True, **options)
    assert not (tmp_path / "b").exists()
    assert build(out, tmp_path / "b", **options).files, "a private repository needs none of it"


def test_a_publisher_who_was_told_may_go_on(run: Path, tmp_path: Path) -> None:
    out = of_hub(run, tmp_path / "r", license="cc-by-nd-4.0", is_private=True, is_gated=True)
    facts = build(out, tmp_path / "b", public=True, license="mit", private_source=False).facts
    assert facts["stated"] == {"license": "mit", "private_source": False}
    assert (facts["source"]["license"], facts["source"]["is_gated"]) == ("cc-by-nd-4.0", True)


def test_what_the_run_does_not_tell_is_unknown(run: Path, tmp_path: Path) -> None:
    out = of_hub(run, tmp_path / "r")
    assert source_of(RowStore(out / "rows").manifest)["is_private"] is None
    refused(InputError, "is private or gated is not known", out, tmp_path / "c", public=True)


def test_a_misspelt_licence_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'apache-2\.0'"):
        known_license("apache-2")
    assert known_license(" MIT ") == "mit"


@pytest.mark.parametrize(
    ("license", "expected"),
    [("cc-by-nd-4.0", True), ("cc-by-nc-nd-3.0", True), ("proprietary", True), ("cc-by-nc-4.0", False), ("openrail", False)],
)
def test_licences_without_derivatives_forbid_publishing(license: str, expected: bool) -> None:
    assert forbids(license) is expected


@pytest.mark.parametrize(
    ("value", "expected"), [("MIT", "mit"), (["mit"], "mit"), (["a", "b"], ["a", "b"]), (None, None), ([], None), (3, None)]
)
def test_cards_give_one_licence_or_several(value: Any, expected: Any) -> None:
    assert plain_license(value) == expected


@pytest.mark.parametrize(
    ("sources", "trial", "expected"),
    [
        ({"human": 3}, {}, False),
        ({"human": 3, "gpt-4o": 1}, {}, True),
        ({"claude-3": 1}, {}, True),
        ({"stackexchange": 3}, {}, None),
        ({"human": 3, "stackexchange": 1}, {}, None),
        ({"human": 3, None: 1}, {}, None),
        ({None: 3}, {}, None),
        ({"anna": 3, "ours": 1}, {"human": ["anna"]}, True),
        ({"anna": 3}, {"human": ["anna"]}, False),
        ({"human": 3, "ours": 1}, {"protocol": "mix"}, True),
        ({"delphi": 1, "graphite": 1}, {}, None),
    ],
)
def test_rows_are_synthetic_only_where_their_sources_say_so(
    sources: dict[str | None, int], trial: dict[str, Any], expected: bool | None
) -> None:
    assert is_synthetic(sources, {"trial": {"human": ["human"], "protocol": "single", **trial}}) is expected


# The trial


def with_trial(out: Path, name: str, **changed: Any) -> None:
    """A finished trial of this run, as far as a publication looks at it."""
    lock = json.loads((out / "lock.json").read_bytes())
    plan = {
        "recipe": lock["recipe"],
        "rows": lock["rows"]["identity"],
        "annotations": {key: entry["folder"] for key, entry in lock["annotations"].items()},
        "seeds": [0, 1],
        "tasks": [{"task": {"data": "/home/somebody/questions.jsonl"}}],
        **changed,
    }
    data = {"format": 1, "verdict": {"word": "helped", "sentence": "It helped."}, "contrasts": [], "scores": [], "plan": plan}
    (out / "trial" / name).mkdir(parents=True)
    _fs.commit_json(out / "trial" / name / "trial.json", data)


def test_a_finished_trial_of_these_steps_is_published(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    with_trial(copy, "small-aaaa")
    with_trial(copy, "small-bbbb", seeds=[0, 1, 2])
    with mock.patch("curate.hub_cards.render_card", return_value="# no card of half a trial"):
        bundle = build(copy, tmp_path / "b")
    published = (bundle.folder / "curate" / "trial.json").read_text()
    assert "questions.jsonl" in published
    assert "somebody" not in published
    assert (bundle.facts["trial"], json.loads(published)["plan"]["seeds"]) == ("small-bbbb", [0, 1, 2])


@pytest.mark.parametrize(
    "changed", [{"rows": "other"}, {"annotations": {"given": "given-other"}}, {"recipe": {"steps": [], "unscored": "keep"}}]
)
def test_a_trial_of_something_else_is_not(run: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    with_trial(copy, "small-aaaa", **changed)
    with mock.patch("curate.hub_cards.render_card", return_value="# no card of half a trial"):
        bundle = build(copy, tmp_path / "b")
    assert (bundle.facts["trial"], "curate/trial.json" in bundle.files) == (None, False)


def test_a_conversation_stays_one(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}], "value": n}
        for n, row in enumerate(some_rows(24))
    ]
    bundle: Bundle = small_bundle(tmp_path, rows=rows, steps=[KEEP], bundle={"with_rejected": True})
    assert table(bundle.folder / "rejected")["prompt"].to_pylist()[0][0]["role"] == "user"
    assert table(bundle.folder / "rejected").schema == table(bundle.folder / "data").schema
