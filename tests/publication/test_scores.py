"""The published scores: flat columns of every row, and nothing that a row's author wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_publications import ERRORS, KEEP, small_bundle, small_run, stand_in_for_the_card
from workshop import record, some_rows

import curate
from curate.errors import IntegrityError
from curate.examples import Example, stable_hash
from curate.filters import Filter, Scores, Unscored, register
from curate.publication import Bundle, build
from curate.publication.scores import Ledger, is_text, quotes
from curate.reference import sample_path
from curate.rows import RowStore

SECRET = "a phrase that only this one row has"


@register("talking")
class Talking(Filter):
    """Says what it read, in every place where a filter can."""

    version: ClassVar[int] = 1
    reads: ClassVar = ("messages",)
    outputs: ClassVar = {"words": "int64", "said": "string", "reason": "float64"}

    def score(self, example: Example) -> Scores | Unscored:
        if len(example.completion) % 3 == 0:
            return Unscored(f"cannot read {example.completion[:40]}")
        return {"words": len(example.completion), "said": example.completion, "reason": 0.5}


def read(bundle: Bundle, config: str = "scores") -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((bundle.folder / config).iterdir()))


def ledger(bundle: Bundle) -> pa.Table:
    return pq.read_table(bundle.folder / "curate" / "ledger.parquet")


def strings(table: pa.Table) -> set[str]:
    """Every string of a table, however deep."""

    def inside(value: Any) -> set[str]:
        if isinstance(value, str):
            return {value}
        held = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        return {text for one in held for text in inside(one)}

    return inside(table.to_pylist())


def test_columns_come_in_the_promised_order_and_types(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path, filters="{given: {}, length: {}}", steps=[KEEP])
    own = "row:int64 id:string source:string prompt_key:string row_hash:string characters:int64 kept:bool rejected_by:string margin:double"
    given = "given_value:double given_flag:bool given_reason:string"
    length = "length_characters:int64 length_words:int64 length_prompt_characters:int64 length_reason:string"
    found = [f"{field.name}:{field.type}" for field in read(bundle).schema]
    assert sorted(found) == sorted(f"{own} {given} {length}".split())
    assert found[:9] == own.split()
    assert bundle.facts["columns"] == {
        "given_value": "given.value",
        "given_flag": "given.flag",
        "given_reason": "given.unscored",
        **{f"length_{name}": f"length.{name}" for name in ("characters", "words", "prompt_characters")},
        "length_reason": "length.unscored",
    }


def test_every_row_stands_in_the_scores_once_as_decided(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path)
    store, scores = RowStore(tmp_path / "out" / "rows"), read(bundle).to_pylist()
    decided = pq.read_table(tmp_path / "out" / "selection" / "ledger.parquet").to_pylist()
    assert [row["row"] for row in scores] == list(range(40))
    for row, entry, example in zip(scores, decided, store, strict=True):
        assert row["kept"] == (entry["decision"] == "kept")
        for name in ("id", "source", "prompt_key", "rejected_by", "margin"):
            assert row[name] == entry[name]
        assert (row["given_value"], row["errors_fatal"]) == (entry["given"]["value"], entry["errors"]["fatal"])
        assert row["row_hash"] == stable_hash(list(example.messages))
        assert row["characters"] == len(example.completion)


def test_nulls_stay_null_beside_their_reason(tmp_path: Path) -> None:
    rows = [record("p", f"r{value}", value=value) for value in (1.0, 3.0, None)]
    scores = read(small_bundle(tmp_path, rows=rows, steps=[KEEP])).to_pylist()
    assert [row["given_value"] for row in scores] == [1.0, 3.0, None]
    assert [row["given_reason"] for row in scores] == [None, None, "absent"]
    assert [row["margin"] for row in scores] == [2.0, -2.0, None]


def test_no_text_of_a_row_stands_in_scores_or_ledger(tmp_path: Path) -> None:
    rows = [
        record(
            f"Tell me of number {n}, please.",
            f"{SECRET} {n}. The answer is {n} hundred{'!' * (n % 3)}",
            gold=f"{n} of them",
            value=n,
        )
        for n in range(40)
    ]
    bundle = small_bundle(tmp_path, rows=rows, filters="{given: {}, errors: {}, tells: {}, talking: {}, length: {}}")
    texts = [text for row in rows for text in (row["prompt"], row["response"], row["gold"])]
    windows = {text[at : at + 12] for text in texts for at in range(len(text) - 11)}
    found = {value for table in (read(bundle), ledger(bundle)) for value in strings(table)}
    assert [value for value in found for at in range(len(value) - 11) if value[at : at + 12] in windows] == []
    assert {"errors.answer", "talking.said", "talking.unscored"} <= set(bundle.facts["left_out"])


def test_withheld_reasons_still_say_that_there_was_one(tmp_path: Path) -> None:
    rows = [record("p", "x" * 12), record("p", "y" * 14), record("p", "z" * 16)]
    bundle = small_bundle(tmp_path, rows=rows, filters="{talking: {}}", steps=["sample: {keep: 100%}"])
    reason = next(name for name, field in bundle.facts["columns"].items() if field == "talking.unscored")
    assert read(bundle)[reason].to_pylist() == ["withheld", None, None]
    assert [row["talking"]["unscored"] for row in ledger(bundle).to_pylist()] == ["withheld", None, None]


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path, filters="{talking: {}}", steps=["sample: {keep: 100%}"])
    assert bundle.facts["columns"] == {
        "talking_words": "talking.words",
        "talking_reason": "talking.reason",
        "talking_reason_": "talking.unscored",
    }


def test_words_of_a_documented_list_are_published(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "What is 3 + 1?"}) + "\n")
    step = f"decontaminate: {{against: [{questions}], n: 4}}"
    bundle = small_bundle(tmp_path, filters="{}", steps=[step])
    assert set(read(bundle)["contamination_item"].to_pylist()) == {None, "questions.jsonl:1"}


def test_a_users_own_names_of_prompts_are_hashed(tmp_path: Path) -> None:
    rows = [{**row, "family": f"The {n % 3} secret family"} for n, row in enumerate(some_rows(24))]
    bundle = small_bundle(tmp_path, rows=rows, steps=[KEEP], columns={"group": "family"})
    assert read(bundle)["prompt_key"].to_pylist() == [stable_hash(row["family"]) for row in rows]
    assert ledger(bundle)["prompt_key"] == read(bundle)["prompt_key"]
    assert bundle.facts["hashed"] == ["prompt_key"]


def test_ids_and_sources_that_are_text_are_hashed(tmp_path: Path) -> None:
    rows = [{**row, "id": row["prompt"], "source": f"the text of row {n} " * 9} for n, row in enumerate(some_rows(24))]
    bundle = small_bundle(tmp_path, rows=rows, steps=[KEEP])
    for table in (read(bundle), ledger(bundle)):
        assert table["id"].to_pylist() == [stable_hash(row["id"]) for row in rows]
        assert table["source"].to_pylist() == [stable_hash(row["source"]) for row in rows]
    assert bundle.facts["hashed"] == ["id", "source"]


def test_a_source_that_some_rows_speak_of_keeps_its_name(tmp_path: Path) -> None:
    rows = [record(f"p{n}", "I am step-by-step-gpt" if n == 3 else f"r{n}", source="step-by-step-gpt", value=n) for n in range(8)]
    bundle = small_bundle(tmp_path, rows=rows, steps=[KEEP])
    assert set(read(bundle)["source"].to_pylist()) == {"step-by-step-gpt"}


@pytest.mark.parametrize(
    ("label", "text", "expected"),
    [("gpt-4", "gpt-4 says", False), ("what is this?", "what is this? It is", True), ("x" * 101, "", True), (None, "", False)],
)
def test_a_label_is_text_when_it_is_long_or_said(label: str | None, text: str, expected: bool) -> None:
    assert is_text(label, text) is expected


def test_a_dozen_characters_in_a_row_are_a_quotation() -> None:
    assert quotes("cannot read 'the secret word'", "it is the secret word, hush")
    assert not quotes("fewer than 12 words", "fewer words than that")
    assert not quotes("short", "short")


def test_the_packaged_sample_keeps_its_text_to_itself(tmp_path: Path) -> None:
    stand_in_for_the_card()
    out = curate.run("clean", sample_path(), out=tmp_path / "out").out
    bundle = build(out, tmp_path / "bundle")
    texts = {message["content"] for example in RowStore(out / "rows") for message in example.messages}
    windows = {text[at : at + 12] for text in texts for at in range(len(text) - 11)}
    found = strings(read(bundle).drop_columns(["id", "source", "rejected_by"]))
    assert [value for value in found for at in range(len(value) - 11) if value[at : at + 12] in windows] == []


def test_a_run_whose_ledger_is_of_other_rows_is_refused(tmp_path: Path) -> None:
    out, other = small_run(tmp_path / "a", rows=40), small_run(tmp_path / "b", rows=24)
    with pytest.raises(IntegrityError, match="parts for"):
        list(Ledger(other / "selection" / "ledger.parquet", RowStore(out / "rows")))


def test_errors_are_left_out_only_where_they_are_text(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path, steps=[ERRORS], filters="{errors: {}}")
    assert bundle.facts["left_out"] == ["errors.answer"]
    assert [field.name for field in ledger(bundle).schema.field("errors").type][-2:] == ["mojibake", "unscored"]
