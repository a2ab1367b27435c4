"""The committed rows: none lost, typed as they came, never mixed with those of another source."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workshop import python, recipe_file, record, some_rows, tree, write_rows

import curate
from curate import _fs
from curate.errors import InputError, IntegrityError, UsageError
from curate.examples import load_examples
from curate.rows import MANIFEST, RowStore, commit_rows

STEPS = ["drop: {field: length.characters, above: 1e9}"]


def committed(tmp_path: Path, rows: Any, **options: Any) -> RowStore:
    return commit_rows(load_examples(write_rows(tmp_path / "d.jsonl", rows)), tmp_path / "out" / "rows", **options)


def kept(tmp_path: Path, source: Path) -> pa.Table:
    """All rows of a source as a run without rejections writes them."""
    recipe = recipe_file(tmp_path / "all.yaml", STEPS, filters="{length: {}}")
    out = curate.run(recipe, source, out=tmp_path / "out", shard_rows=4).out
    return pa.concat_tables([pq.read_table(path) for path in sorted((out / "selection" / "kept").iterdir())])


def test_rows_read_are_rows_committed_and_rows_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", some_rows(30))
    path.write_bytes(path.read_bytes() + b'{"prompt": "p"}\nnot json\n{"prompt": "p", "response": 3}\n')
    store = commit_rows(load_examples(path), tmp_path / "rows", shard_rows=8)
    refused = pq.read_table(store.folder / "refused.parquet").to_pylist()
    assert (store.count, len(refused), store.manifest["read"]) == (30, 3, 33)
    assert sum(store.refused.values()) == 3
    assert [row["place"] for row in refused] == ["d.jsonl:31", "d.jsonl:32", "d.jsonl:33"]


def test_rows_come_back_as_they_were_read(tmp_path: Path) -> None:
    rows = some_rows(25)
    examples = list(committed(tmp_path, rows, shard_rows=7))
    assert [example.completion for example in examples] == [row["response"] for row in rows]
    assert [example.row for example in examples] == list(range(25))
    assert examples == list(load_examples(tmp_path / "d.jsonl"))


@pytest.mark.parametrize("text", ["\x00", "\u2028", "🦊" * 3, "é", "e\u0301", " \n\t ", '"\\"', "<|im_end|>", "\x1b[31m"])
def test_text_is_never_changed(tmp_path: Path, text: str) -> None:
    (example,) = committed(tmp_path, [record("a" + text, text + "b", own=text)])
    assert (example.prompt_text, example.completion, example.extra["own"]) == ("a" + text, text + "b", text)


def test_shards_are_cut_where_the_prompt_changes(tmp_path: Path) -> None:
    store = committed(tmp_path, some_rows(40, per_prompt=3), shard_rows=8)
    assert [(shard.start, shard.stop) for shard in store.shards] == [(0, 9), (9, 18), (18, 27), (27, 36), (36, 40)]


def test_a_prompt_longer_than_a_shard_is_cut_all_the_same(tmp_path: Path) -> None:
    store = committed(tmp_path, some_rows(30, per_prompt=30), shard_rows=8)
    assert [shard.stop - shard.start for shard in store.shards] == [10, 10, 10]


def test_a_shard_of_long_rows_is_cut_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.rows.SHARD_BYTES", 3000)
    store = committed(tmp_path, [record(f"p{i}", "x" * 1000) for i in range(10)])
    assert max(shard.stop - shard.start for shard in store.shards) == 3


def test_a_second_reading_changes_no_byte(tmp_path: Path) -> None:
    rows = some_rows(20)
    committed(tmp_path, rows, shard_rows=4)
    before = tree(tmp_path / "out")
    committed(tmp_path, rows, shard_rows=4)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("lost", ["MANIFEST.json", "part-00001.parquet", "part-00001.json", "refused.parquet", "begun.json"])
def test_what_an_interruption_left_out_is_made_the_same(tmp_path: Path, lost: str) -> None:
    store = committed(tmp_path, some_rows(20), shard_rows=4)
    before = tree(tmp_path / "out")
    (store.folder / MANIFEST).unlink()
    (store.folder / lost).unlink(missing_ok=True)
    committed(tmp_path, some_rows(20), shard_rows=4)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("finished", [True, False])
def test_changed_input_is_refused_and_nothing_is_touched(tmp_path: Path, finished: bool) -> None:
    rows = some_rows(20)
    store = committed(tmp_path, rows, shard_rows=4)
    if not finished:
        (store.folder / MANIFEST).unlink()
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match=r"was begun with other data \(files: .*choose another folder"):
        committed(tmp_path, [*rows[:-1], record("p", "changed")], shard_rows=4)
    assert tree(tmp_path / "out") == before


def test_another_limit_is_named_as_what_changed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", some_rows(20))
    commit_rows(load_examples(path), tmp_path / "rows")
    with pytest.raises(InputError, match=r"limit: null, now 7"):
        commit_rows(load_examples(path, limit=7), tmp_path / "rows")


def test_another_shard_size_is_named_as_what_changed(tmp_path: Path) -> None:
    committed(tmp_path, some_rows(20), shard_rows=4)
    with pytest.raises(InputError, match=r"shard_rows: 4, now 5"):
        committed(tmp_path, some_rows(20), shard_rows=5)


def test_rows_of_a_changed_iterable_are_refused(tmp_path: Path) -> None:
    from datasets import IterableDataset

    def stream(last: str) -> Any:
        rows = [*some_rows(9), record("p", last)]
        return IterableDataset.from_generator(lambda: iter([{"prompt": r["prompt"], "response": r["response"]} for r in rows]))

    commit_rows(load_examples(stream("a")), tmp_path / "rows", shard_rows=4)
    commit_rows(load_examples(stream("a")), tmp_path / "rows", shard_rows=4)
    with pytest.raises(InputError, match=r"other data|not what they were"):
        commit_rows(load_examples(stream("b")), tmp_path / "rows", shard_rows=4)


def test_a_source_without_a_usable_row_is_an_input_error_that_says_why(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", [record("", "x")] * 3)
    with pytest.raises(InputError, match=r"not one row could be used; 3 refused \(3 empty_prompt\), see .*refused.parquet"):
        commit_rows(load_examples(path), tmp_path / "rows")


def test_an_unfinished_folder_is_no_row_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="curate annotate"):
        RowStore(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"format": 99}'])
def test_a_damaged_manifest_is_an_integrity_error(tmp_path: Path, content: bytes) -> None:
    store = committed(tmp_path, some_rows(8))
    (store.folder / MANIFEST).write_bytes(content)
    with pytest.raises(IntegrityError):
        RowStore(store.folder)


def test_a_damaged_part_is_never_read(tmp_path: Path) -> None:
    store = committed(tmp_path, some_rows(8))
    path = _fs.part_path(store.folder, 0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="damaged or missing"):
        list(store)


def test_equal_rows_are_one_identity_and_other_rows_another(tmp_path: Path) -> None:
    for name, count in (("a", 8), ("b", 8), ("c", 9)):
        (tmp_path / name).mkdir()
        committed(tmp_path / name, some_rows(count))
    a, b, c = (RowStore(tmp_path / name / "out" / "rows").identity for name in "abc")
    assert a == b != c


# The user's own columns

TYPED = pa.table(
    {
        "prompt": ["p1", "p2", "p3"],
        "completion": ["a", "b", "c"],
        "when": pa.array([1, None, 3], pa.timestamp("us", tz="UTC")),
        "day": pa.array([datetime.date(2020, 1, 2), None, datetime.date(1900, 1, 1)]),
        "price": pa.array([decimal.Decimal("1.10"), decimal.Decimal("-2.00"), None], pa.decimal128(10, 2)),
        "small": pa.array([1, 2, None], pa.int8()),
        "single": pa.array([0.1, None, 0.3], pa.float32()),
        "nested": pa.array([[[1, 2], []], None, [[3]]], pa.list_(pa.list_(pa.int32()))),
        "record": pa.array([{"x": 1, "y": ["a"]}, None, {"x": None, "y": []}]),
        "bytes": pa.array([b"\x00\xff", None, b""]),
        "none": pa.array([None, None, None], pa.string()),
    }
)


def test_typed_columns_survive_with_their_types(tmp_path: Path) -> None:
    pq.write_table(TYPED, tmp_path / "d.parquet")
    table = kept(tmp_path, tmp_path / "d.parquet")
    for name in TYPED.column_names[2:]:
        assert table[name].type == TYPED[name].type, name
        assert table[name].to_pylist() == TYPED[name].to_pylist(), name


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_time_stamps_of_every_unit_survive(tmp_path: Path, unit: str) -> None:
    stamps = pa.array([1_600_000_000, 1_600_000_001], pa.int64()).cast(pa.timestamp(unit))
    pq.write_table(pa.table({"prompt": ["a", "b"], "completion": ["c", "d"], "when": stamps}), tmp_path / "d.parquet")
    table = kept(tmp_path, tmp_path / "d.parquet")
    assert table["when"].cast(pa.timestamp("ns")).to_pylist() == stamps.cast(pa.timestamp("ns")).to_pylist()


def test_typed_data_without_further_columns_is_written(tmp_path: Path) -> None:
    pq.write_table(TYPED.select(["prompt", "completion"]), tmp_path / "d.parquet")
    assert kept(tmp_path, tmp_path / "d.parquet").num_rows == 3


def own(tmp_path: Path, values: list[Any], name: str = "own") -> pa.ChunkedArray:
    rows = [record(f"p{i}", "r", **({} if value is ... else {name: value})) for i, value in enumerate(values)]
    return kept(tmp_path, write_rows(tmp_path / "d.jsonl", rows))[name]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, 3], pa.int64()),
        ([1, 2.5, None], pa.float64()),
        ([True, False, None], pa.bool_()),
        (["x", None, ""], pa.string()),
        ([["x"], [], None], pa.list_(pa.string())),
        ([None, None, 1], pa.int64()),
    ],
)
def test_consistent_json_columns_come_back_typed(tmp_path: Path, values: list[Any], kind: pa.DataType) -> None:
    column = own(tmp_path, values)
    assert column.type == kind
    assert column.to_pylist() == values


def extras(tmp_path: Path, rows: list[Any]) -> list[Any]:
    table = kept(tmp_path, write_rows(tmp_path / "d.jsonl", rows))
    return [None if text is None else json.loads(text) for text in table["extra"].to_pylist()]


@pytest.mark.parametrize("value", [{"a": 1}, [1, "x"], 2**70, [[1]]])
def test_json_values_of_other_kinds_stay_json(tmp_path: Path, value: Any) -> None:
    assert extras(tmp_path, [record("p", "r", own=value)]) == [{"own": value}]


def test_a_column_of_mixed_kinds_may_begin_in_a_later_shard(tmp_path: Path) -> None:
    rows = [record(f"p{i}", "r", **({"own": [1, "x"][i % 2]} if i > 12 else {})) for i in range(16)]
    assert extras(tmp_path, rows) == [None] * 13 + [{"own": "x"}, {"own": 1}, {"own": "x"}]


def test_integers_too_large_for_a_float_column_are_kept_exactly(tmp_path: Path) -> None:
    rows = [record("p", "r", own=2**60 + 1), record("q", "r", own=0.5)]
    table = kept(tmp_path, write_rows(tmp_path / "d.jsonl", rows))
    values = [json.loads(text)["own"] for text in table["extra"].to_pylist()]
    assert values == [2**60 + 1, 0.5]


def test_a_column_called_extra_is_not_overwritten(tmp_path: Path) -> None:
    table = kept(tmp_path, write_rows(tmp_path / "d.jsonl", [record("p", "r", extra="mine", odd={"x": 1})]))
    assert table["extra"].to_pylist() == ["mine"]
    assert "odd" in json.dumps(table.to_pylist())


def test_clashing_columns_become_source_columns(tmp_path: Path) -> None:
    rows = [record("p", "r", row=7, completion_="x", source_row="theirs")]
    table = kept(tmp_path, write_rows(tmp_path / "d.jsonl", rows))
    found = table.to_pylist()[0]
    assert (found["row"], found["completion_"]) == (0, "x")
    assert sorted([found["source_row"], found["source_source_row"]], key=str) == [7, "theirs"]


def test_more_columns_than_are_typed_are_not_lost(tmp_path: Path) -> None:
    many = {f"c{i}": i for i in range(300)}
    found = kept(tmp_path, write_rows(tmp_path / "d.jsonl", [record("p", "r", **many)])).to_pylist()[0]
    assert {**found, **json.loads(found["extra"])}.items() >= many.items()


PEAK = """
import sys
from pathlib import Path
from curate.examples import load_examples
from curate.rows import commit_rows
commit_rows(load_examples(sys.argv[1]), Path(sys.argv[2]), shard_rows=64)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (200, 3000):  # 4 MB and 60 MB
        path = write_rows(tmp_path / "d.jsonl", (record(f"p{i}", "x" * 20_000) for i in range(count)))
        peaks.append(int(python(PEAK, str(path), str(tmp_path / f"rows{count}")).out) / 1e3)
    assert peaks[1] - peaks[0] < 30
