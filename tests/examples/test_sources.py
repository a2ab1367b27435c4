"""Files, folders, globs, `datasets` objects and lists: which rows come out, with which types and fingerprint."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curate.errors import InputError, UsageError
from curate.examples import Example, Refused, load_examples

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


def rows(*completions: str) -> bytes:
    return b"".join(json.dumps({"prompt": "p", "response": text}).encode() + b"\n" for text in completions)


def completions(source: Any, **options: Any) -> list[str]:
    return [example.completion for example in load_examples(source, **options)]


def refusals(source: Any, **options: Any) -> list[tuple[str, str]]:
    return [(item.reason, item.place) for item in load_examples(source, **options).records() if isinstance(item, Refused)]


# Compression


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    "": bytes,
}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("named", PACKERS)
def test_the_first_bytes_decide_on_the_compression(tmp_path: Path, suffix: str, named: str) -> None:
    path = tmp_path / f"x.jsonl{named}"
    path.write_bytes(PACKERS[suffix](rows("a", "b")))
    assert completions(path) == ["a", "b"]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_members_one_after_another_are_all_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](rows("a")) + PACKERS[suffix](rows("b")))
    assert completions(path) == ["a", "b"]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](rows("a", "b") * 1000)[:-9])
    with pytest.raises(InputError, match=rf"x.jsonl{suffix}: cannot be read on as \w+ data at byte \d+"):
        completions(path)


# JSON arrays and CSV


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.json.gz", "x"])
def test_a_json_array_is_read_by_element(tmp_path: Path, name: str, indent: int | None) -> None:
    path = tmp_path / name
    texts = ['a"]},{[', "\\", 'b\\"', "é"]
    path.write_text(json.dumps([{"prompt": "p", "response": text} for text in texts], indent=indent))
    assert completions(path) == texts


def test_an_array_is_cut_right_wherever_its_blocks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ['é\\"]', "\\\\", "", "[{,"]
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"prompt": "p", "response": text} for text in texts], ensure_ascii=False))
    for size in range(1, 40):
        monkeypatch.setattr("curate.examples.json_arrays._BLOCK", size)
        assert completions(path) == texts


def test_a_bad_element_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    good = '{"prompt": "p", "response": "r"}'
    path.write_text(f'[{good}, {{"prompt": oops}}, 5, , {good}, {{"prompt": "p", "response": "{"x" * 999}"}}, {good}')
    found = [
        ("syntax", "x.json:row 1"),
        ("not_object", "x.json:row 2"),
        ("syntax", "x.json:row 3"),
        ("too_large", "x.json:row 5"),
        ("truncated", "x.json:row 6"),
    ]
    assert refusals(path, max_row_bytes=900) == found
    assert completions(path, max_row_bytes=900) == ["r", "r"]


def test_an_array_longer_than_a_row_may_be_is_still_an_array(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"prompt": "p", "response": "r"}] * 50))
    assert completions(path, max_row_bytes=100) == ["r"] * 50


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_follows_rfc_4180(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "x.csv"
    lines = ["prompt,response,n", '"a ""b"", c","x', 'y",1', "p,r,2", ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", delimiter).encode())
    first, second = load_examples(path)
    assert (first.prompt_text, first.completion) == (f'a "b"{delimiter} c', "x\r\ny")
    assert second.extra == {"n": "2"}


def test_bad_csv_records_are_refused_at_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'prompt,response\np,r,extra\np\n"a"b,r\np,caf\xe9\n\np,"r\nr"\np,"open\np,r\np,last\n')
    found = [("ragged", "x.csv:2"), ("ragged", "x.csv:3"), ("syntax", "x.csv:4"), ("encoding", "x.csv:5"), ("syntax", "x.csv:9")]
    assert refusals(path) == found
    assert completions(path) == ["r\nr", "r", "last"]


def test_a_long_csv_field_is_read_and_a_too_long_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"prompt,response\np,{'x' * 200_000}\np,{'x' * 2_000_000}\np,r\n")
    assert refusals(path, max_row_bytes=1_000_000) == [("too_large", "x.csv:3")]
    assert [len(text) for text in completions(path, max_row_bytes=1_000_000)] == [200_000, 1]


# Parquet and Arrow


def test_arrow_types_of_the_users_columns_are_kept_in_plain_form(tmp_path: Path) -> None:
    columns = {
        "prompt": pa.array(["p", "p"], pa.large_string()),
        "response": pa.array(["r", "s"], pa.string_view()),
        "source": pa.array(["human", "gpt"]).dictionary_encode(),
        "id": pa.array([1, 2], pa.int32()),
        "gold": pa.array([["a"], ["b"]]),
        "level": pa.array([1, None], pa.int8()),
        "tags": pa.array(["x", "y"]).dictionary_encode(),
        "nested": pa.array([[{"a": "x"}], None], pa.large_list(pa.struct([("a", pa.large_string())]))),
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int16())),
        "money": pa.array([None, None], pa.decimal128(9, 2)),
        "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))),
    }
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    examples = load_examples(path)
    expected = {
        "gold": pa.list_(pa.string()),
        "level": pa.int8(),
        "tags": pa.string(),
        "nested": pa.list_(pa.struct([("a", pa.string())])),
        "map": pa.map_(pa.string(), pa.int16()),
        "money": pa.decimal128(9, 2),
        "json": pa.string(),
        "uuid": pa.binary(16),
    }
    schema = examples.extra_schema()
    assert {field.name: str(field.type).replace("element", "item") for field in schema} == {
        k: str(v) for k, v in expected.items()
    }
    first, second = examples
    assert (first.id, second.source) == ("1", "gpt")
    assert first.extra["nested"] == [{"a": "x"}]
    table = pa.Table.from_pylist([dict(first.extra), dict(second.extra)], schema=schema)
    pq.write_table(table, tmp_path / "again.parquet")


def test_json_typed_turns_are_parsed_and_other_json_columns_stay_text(tmp_path: Path) -> None:
    turns = ['{"role": "user", "content": "p"}', '{"role": "assistant", "content": [{"type": "text", "text": "r"}]}']
    messages = pa.array([turns], pa.list_(pa.string())).cast(pa.list_(pa.string()))
    typed = pa.ListArray.from_arrays(messages.offsets, pa.ExtensionArray.from_storage(pa.json_(), messages.values))
    other = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}']))
    with (
        pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, pa.schema([("messages", typed.type), ("x", other.type)])) as writer,
    ):
        writer.write_batch(pa.record_batch([typed, other], names=["messages", "x"]))
    (example,) = load_examples(tmp_path / "x.arrow")
    assert (example.completion, example.extra) == ("r", {"x": '{"a": 1}'})


def test_text_as_bytes_counts_where_it_is_utf_8(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["p", "p"], "response": pa.array([b"caf\xc3\xa9", b"\xff"], pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet")
    assert completions(tmp_path / "x.parquet") == ["café"]
    assert refusals(tmp_path / "x.parquet") == [("encoding", "x.parquet:row 1")]


def test_files_with_differing_columns_have_their_union(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["p"], "response": ["a"], "x": pa.array([1], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(
        pa.table({"response": ["b"], "prompt": ["p"], "x": pa.array([1], pa.int64()), "y": ["z"]}), tmp_path / "2.parquet"
    )
    examples = load_examples(tmp_path)
    assert [example.completion for example in examples] == ["a", "b"]
    assert examples.extra_schema() == pa.schema([("x", pa.int64()), ("y", pa.string())])


def test_types_that_cannot_be_united_name_column_and_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["p"], "response": ["a"], "x": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"prompt": ["p"], "response": ["b"], "x": ["one"]}), tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2.parquet: column 'x' has another type"):
        load_examples(tmp_path).extra_schema()


def test_a_parquet_footer_that_counts_other_rows_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import curate.examples.arrow_rows as arrow_rows

    pq.write_table(pa.table({"prompt": ["p", "p"], "response": ["r", "r"]}), tmp_path / "x.parquet")
    monkeypatch.setattr(arrow_rows, "_sized", lambda parquet: parquet.read().slice(0, 1).to_batches())
    with pytest.raises(InputError, match=r"x.parquet: holds 1 rows where its footer says 2"):
        load_examples(tmp_path / "x.parquet")


def test_parquet_rows_are_placed_through_all_batches(tmp_path: Path) -> None:
    responses = ["r"] * 2000
    table = pa.table({"prompt": ["p"] * 2000, "response": [*responses[:-1], None]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=700)
    assert refusals(tmp_path / "x.parquet") == [("no_completion", "x.parquet:row 1999")]
    assert len(completions(tmp_path / "x.parquet")) == 1999


# Folders and globs


def write(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_a_folder_reads_its_data_files_in_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, b_jsonl=rows("b"), a_jsonl=rows("a"), sub__c_jsonl=rows("c"), notes_txt=b"x", README_md=b"# hi")
    write(tmp_path, script_py=b"raise SystemExit", state_json=b"{}")
    (tmp_path / ".hidden.jsonl").write_bytes(rows("hidden"))
    assert completions(tmp_path) == ["a", "b", "c"]


def test_a_folder_of_splits_reads_train_unless_told_otherwise(tmp_path: Path) -> None:
    write(tmp_path, data__train_jsonl=rows("train"), data__test_jsonl=rows("test"), other_jsonl=rows("other"))
    examples = load_examples(tmp_path)
    assert [example.completion for example in examples] == ["train"]
    assert "left out: data/test.jsonl, other.jsonl" in examples.notices[0]
    assert completions(tmp_path, split="test") == ["test"]
    with pytest.raises(InputError, match="has no split 'validation'; splits found: test, train"):
        load_examples(tmp_path, split="validation")


def test_a_folder_without_train_asks_which_split(tmp_path: Path) -> None:
    write(tmp_path, dev_jsonl=rows("dev"), eval_jsonl=rows("eval"))
    with pytest.raises(InputError, match="has no split 'train'; splits found: test, validation"):
        load_examples(tmp_path)


def test_mixed_formats_are_named_and_a_glob_chooses(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=rows("a"), b_csv=b"prompt,response\np,b\n")
    with pytest.raises(InputError, match=r"mixes formats: jsonl \(a.jsonl\), csv \(b.csv\); choose one with a glob"):
        load_examples(tmp_path)
    assert completions(f"{tmp_path}/*.csv") == ["b"]


def test_a_folder_of_code_alone_runs_nothing(tmp_path: Path) -> None:
    write(tmp_path, dataset_py=b"raise SystemExit('ran')")
    with pytest.raises(InputError, match=r"dataset.py is code, which is never run"):
        load_examples(tmp_path)


def test_a_file_with_two_names_is_read_once_with_a_notice(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=rows("a"))
    os.link(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").symlink_to("a.jsonl")
    examples = load_examples(f"{tmp_path}/*.jsonl")
    assert len(list(examples)) == 1
    assert "read once though named twice: b.jsonl, c.jsonl" in examples.notices[0]


def test_a_loop_of_folders_ends(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=rows("a"))
    (tmp_path / "loop").symlink_to(tmp_path)
    assert completions(tmp_path) == ["a"]


def test_a_glob_without_a_match_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=rows("a"))
    with pytest.raises(InputError, match=r"no file matches; .* holds: a.jsonl"):
        load_examples(f"{tmp_path}/*.csv")


def test_a_missing_file_names_the_nearest_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, train_jsonl=rows("a"))
    monkeypatch.chdir(tmp_path)
    for text in ("trian.jsonl", "./trian.jsonl"):
        with pytest.raises(InputError, match=r"no such file or folder; did you mean 'train.jsonl'"):
            load_examples(text)


def test_the_card_of_a_folder_chooses_its_files(tmp_path: Path) -> None:
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: kept/*.jsonl\n---\n# x\n"
    write(tmp_path, kept__a_jsonl=rows("kept"), dropped__b_jsonl=rows("dropped"), README_md=card.encode())
    examples = load_examples(tmp_path)
    assert [example.completion for example in examples] == ["kept"]
    assert examples.fingerprint()["files"][0]["name"] == "kept/a.jsonl"


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.jsonl", "../secret.jsonl", "/etc/passwd"])
def test_a_card_cannot_name_files_elsewhere(tmp_path: Path, path: str) -> None:
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n"
    write(tmp_path, data__a_jsonl=rows("a"), README_md=card.encode())
    with pytest.raises(InputError, match=r"its README.md names files outside of it"):
        load_examples(tmp_path)


# Python objects


def test_rows_of_a_list_are_examples_or_refused() -> None:
    good = {"prompt": "p", "response": "r"}
    loop: list[Any] = []
    loop.append(loop)
    bad = [5, None, {1: 2}, {**good, "x": "\ud83d"}, {**good, "x": loop}, {**good, "x": object()}]
    reasons = ["not_object", "not_object", "not_object", "surrogate", "too_deep", "value"]
    assert refusals([good, *bad]) == [(reason, f"rows[{i}]") for i, reason in enumerate(reasons, 1)]


def test_datasets_objects_stream_with_their_types(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict, IterableDataset

    table = Dataset.from_dict({"prompt": ["p", "p"], "response": ["a", None], "n": [1, 2]})
    for source in (table, table.to_iterable_dataset(), DatasetDict(train=table, test=table)):
        examples = load_examples(source)
        assert examples.extra_schema() == pa.schema([("n", pa.int64())])
        assert [type(item) for item in examples.records()] == [Example, Refused]
    assert load_examples(table).fingerprint()["fingerprint"] == table._fingerprint
    untyped = IterableDataset.from_generator(
        lambda: iter([{"prompt": "p", "response": "a", "n": 1}, {"prompt": "p", "response": "b", "n": "s"}])
    )
    assert completions(untyped) == ["a", "b"]
    assert load_examples(untyped).extra_schema() is None


def test_a_dictionary_of_data_sets_without_train_lists_its_splits() -> None:
    from datasets import Dataset, DatasetDict

    splits = DatasetDict(kept=Dataset.from_dict({"prompt": ["p"], "response": ["a"]}))
    with pytest.raises(InputError, match="has no split 'train'; splits found: kept"):
        load_examples(splits)
    assert completions(splits, split="kept") == ["a"]


def test_saved_data_sets_are_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    table = Dataset.from_dict({"prompt": ["p"] * 3, "response": ["a", "b", "c"]})
    table.select([2, 0]).save_to_disk(tmp_path / "one")
    DatasetDict(train=table, test=table).save_to_disk(tmp_path / "two")
    assert completions(tmp_path / "one") == ["c", "a"]
    assert completions(tmp_path / "two") == completions(tmp_path / "two", split="test") == ["a", "b", "c"]


def test_a_saved_data_set_cannot_point_outside_of_its_folder(tmp_path: Path) -> None:
    write(tmp_path, state_json=b'{"_data_files": [{"filename": "../secret.arrow"}]}')
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="lists a file outside of the folder"):
        load_examples(tmp_path)


@pytest.mark.parametrize("source", [iter([{}]), {"prompt": "p"}, 5, b"bytes", ["a.jsonl"]])
def test_what_cannot_be_read_twice_or_at_all_is_a_usage_error(source: Any) -> None:
    with pytest.raises(UsageError):
        load_examples(source)


def test_options_that_do_not_fit_the_source_are_usage_errors(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=rows("a"))
    for options in ({"split": "train"}, {"revision": "main"}, {"limit": 0}):
        with pytest.raises(UsageError):
            load_examples(tmp_path / "a.jsonl", **options)


# Reading again, limits, fingerprints


def test_examples_can_be_read_again_and_limit_counts_refused_rows(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=rows("a") + b"7\n" + rows("b", "c"))
    examples = load_examples(tmp_path / "a.jsonl", limit=3)
    assert [type(item) for item in examples.records()] == [Example, Refused, Example]
    assert [example.row for example in examples] == [0, 1]


def test_the_fingerprint_tells_every_choice_and_every_byte(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=rows("a"))
    path = tmp_path / "a.jsonl"
    first = load_examples(path).fingerprint()
    assert first == load_examples(path).fingerprint() == json.loads(json.dumps(first))
    assert str(tmp_path) not in json.dumps(first)
    assert first != load_examples(path, limit=1).fingerprint()
    assert first != load_examples(path, columns={"prompt": "response", "completion": "prompt"}).fingerprint()
    path.write_bytes(rows("b"))
    assert first != load_examples(path).fingerprint()


def test_large_files_are_fingerprinted_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.examples.sources._FULL_HASH_BYTES", 100)
    monkeypatch.setattr("curate.examples.sources._SAMPLE_BYTES", 20)
    write(tmp_path, a_jsonl=rows(*"abcdefgh"))
    (entry,) = load_examples(tmp_path / "a.jsonl").fingerprint()["files"]
    assert entry["samples"]
    assert "xxh3_128" not in entry


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, curate.examples; print({'torch', 'datasets', 'pyarrow', 'huggingface_hub'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


@pytest.mark.skipif(not (SHARED / "familiarity").is_dir(), reason="the real data sets are not beside this checkout")
def test_real_rows_are_streamed_in_little_memory() -> None:
    import tracemalloc

    examples = load_examples(SHARED / "familiarity" / "gsm8k" / "train.jsonl.gz")
    tracemalloc.start()
    count = sum(1 for _ in examples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 17_000
    assert peak < 4_000_000  # bytes; all rows together are 17 MB
