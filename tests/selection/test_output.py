"""selection/: the kept rows, the ledger, the report and the lock, from whole runs on small data."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workshop import recipe_file, record, some_rows, tree, write_rows

import curate
from curate import _fs
from curate.errors import IntegrityError
from curate.pipeline import RunResult, select_again
from curate.selection import SelectionReport, explain

KEEP = "keep: {field: given.value, lowest: 50%, within: [prompt, dataset]}"


def run(tmp_path: Path, rows: Any, *steps: str, unscored: str = "keep", **options: Any) -> RunResult:
    recipe = recipe_file(tmp_path / "r.yaml", steps or [KEEP], unscored=unscored)
    return curate.run(recipe, write_rows(tmp_path / "d.jsonl", rows), out=tmp_path / "out", **{"shard_rows": 8, **options})


def kept(result: RunResult) -> list[dict[str, Any]]:
    paths = sorted((result.out / "selection" / "kept").iterdir())
    return list(pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist())


def ledger(result: RunResult) -> list[dict[str, Any]]:
    return list(pq.read_table(result.out / "selection" / "ledger.parquet").to_pylist())


def test_every_row_stands_in_the_ledger_once(tmp_path: Path) -> None:
    entries = ledger(run(tmp_path, some_rows(40)))
    assert [entry["row"] for entry in entries] == list(range(40))
    assert {entry["decision"] for entry in entries} == {"kept", "rejected"}


def test_kept_rows_are_those_of_the_ledger_in_input_order(tmp_path: Path) -> None:
    result = run(tmp_path, some_rows(40))
    assert [row["row"] for row in kept(result)] == [entry["row"] for entry in ledger(result) if entry["decision"] == "kept"]
    assert result.report.kept + result.report.rejected == result.report.rows == 40


def test_the_ledger_names_the_first_rejecting_step_and_all_bounds_that_fail(tmp_path: Path) -> None:
    rows = [record(f"p{value}", "r", value=value) for value in (1.0, 5.0, 9.0)]
    entries = ledger(run(tmp_path, rows, "drop: {field: given.value, above: 8}", "drop: {field: given.value, above: 4}"))
    assert [entry["rejected_by"] for entry in entries] == [None, "drop given.value above 4", "drop given.value above 8"]
    assert entries[2]["fails"] == ["drop given.value above 8", "drop given.value above 4"]


def test_the_ledger_holds_scores_and_margins(tmp_path: Path) -> None:
    entries = ledger(run(tmp_path, [record("p", f"r{value}", value=value) for value in (1.0, 3.0, None)]))
    assert [entry["margin"] for entry in entries] == [2.0, -2.0, None]
    assert [entry["given"]["value"] for entry in entries] == [1.0, 3.0, None]
    assert [entry["given"]["unscored"] for entry in entries] == [None, None, "absent"]


def test_rows_rejected_for_being_unscored_are_marked(tmp_path: Path) -> None:
    rows = [record("p", f"r{value}", value=value) for value in (1.0, 3.0, None)]
    assert [entry["is_unscored"] for entry in ledger(run(tmp_path, rows, unscored="drop"))] == [False, False, True]


def test_ordered_rows_are_written_in_their_order_across_shards(tmp_path: Path) -> None:
    result = run(tmp_path, some_rows(40), "order: {field: given.value, first: highest}")
    values = [row["value"] for row in kept(result)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 40


def test_kept_rows_are_split_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.selection.output.PART_ROWS", 10)
    for steps in (["sample: {keep: 100%}"], ["order: {random: 3}"]):
        result = run(tmp_path, some_rows(45), *steps)
        files = sorted((result.out / "selection" / "kept").iterdir())
        assert len(files) > 2
        assert sorted(row["row"] for row in kept(result)) == list(range(45))


def test_the_size_of_shards_changes_no_kept_row(tmp_path: Path) -> None:
    found = []
    for size in (3, 8, 100):
        folder = tmp_path / str(size)
        folder.mkdir()
        found.append(kept(run(folder, some_rows(50), shard_rows=size)))
    assert found[0] == found[1] == found[2]


def test_the_same_selection_is_the_same_bytes(tmp_path: Path) -> None:
    result = run(tmp_path, some_rows(40))
    before = tree(result.out)
    select_again(result.out, tmp_path / "r.yaml")
    assert tree(result.out) == before


def test_another_recipe_replaces_the_selection_and_scores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(tmp_path, some_rows(40))
    annotations = tree(result.out / "annotations")
    monkeypatch.setattr("workshop.Given.score", None)
    again = select_again(result.out, recipe_file(tmp_path / "s.yaml", ["keep: {field: given.value, lowest: 7}"]))
    assert len(kept(again)) == 7
    assert tree(result.out / "annotations") == annotations


def test_a_failing_selection_leaves_the_former_one(tmp_path: Path) -> None:
    result = run(tmp_path, some_rows(40))
    before = tree(result.out)
    with pytest.raises(curate.CurateError):
        select_again(result.out, recipe_file(tmp_path / "s.yaml", ["drop: {field: given.value, below: 1e9}"]))
    assert tree(result.out) == before


def test_a_recipe_without_annotations_says_what_to_run(tmp_path: Path) -> None:
    result = run(tmp_path, some_rows(8))
    with pytest.raises(curate.CurateError, match=r"no scores of length with these parameters; run `curate annotate`"):
        select_again(result.out, "longest50")


def test_the_lock_pins_input_recipe_scores_and_kept_rows(tmp_path: Path) -> None:
    result = run(tmp_path, some_rows(40), "sample: {keep: 50%, seed: 3}")
    lock = json.loads((result.out / "lock.json").read_text())
    decision = json.loads((result.out / "selection" / "selection.json").read_text())
    assert lock["kept"] == {"rows": 20, "hash": decision["kept_hash"]}
    assert lock["seeds"] == {"sample 50% within dataset (seed 3)": 3}
    assert lock["input"]["files"]
    assert lock["annotations"]["given"]["fingerprint"]["filter"] == "given"
    assert curate.Recipe(**lock["recipe"]) == result.selection.recipe


def test_the_hash_of_the_kept_rows_is_theirs(tmp_path: Path) -> None:
    hashes = []
    for name, share in (("a", "50%"), ("b", "50%"), ("c", "40%")):
        (tmp_path / name).mkdir()
        result = run(tmp_path / name, some_rows(40), f"keep: {{field: given.value, lowest: {share}}}")
        hashes.append(_fs.read_json(result.out / "lock.json")["kept"]["hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_row_is_explained_by_its_ledger_entry_and_text(tmp_path: Path) -> None:
    result = run(tmp_path, some_rows(40))
    for entry in (ledger(result)[0], ledger(result)[17], ledger(result)[39]):
        told = explain(result.out, entry["row"])
        assert {**told, **entry} == told
        assert told["completion"] == some_rows(40)[entry["row"]]["response"]


@pytest.mark.parametrize("row", [-1, 40])
def test_a_row_that_is_not_there_is_not_explained(tmp_path: Path, row: int) -> None:
    result = run(tmp_path, some_rows(40))
    with pytest.raises(curate.CurateError, match="rows 0 to 39"):
        explain(result.out, row)


@pytest.mark.parametrize("name", ["ledger.parquet", "selection.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"PAR1" * 100])
def test_a_damaged_selection_explains_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    result = run(tmp_path, some_rows(8))
    (result.out / "selection" / name).write_bytes(content)
    with pytest.raises(IntegrityError):
        explain(result.out, 0)


# Trainable


@pytest.mark.parametrize("shape", ["chat", "plain"])
def test_kept_rows_load_as_prompt_and_completion(tmp_path: Path, shape: str) -> None:
    import datasets

    rows: list[Any] = some_rows(12)
    if shape == "chat":
        rows = [
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["response"]},
                ],
                "value": row["value"],
            }
            for row in rows
        ]
    result = run(tmp_path, rows, "order: {random: 1}")
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(result.out / "selection" / "kept" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert loaded.column_names[:2] == ["prompt", "completion"]
    assert "messages" not in loaded.column_names
    first = loaded[0]
    source = some_rows(12)[first["row"]]
    if shape == "plain":
        assert (first["prompt"], first["completion"]) == (source["prompt"], source["response"])
    else:
        assert [turn["role"] for turn in first["prompt"]] == ["system", "user"]
        assert first["completion"] == [{"role": "assistant", "content": source["response"]}]


@pytest.mark.parametrize("template", ["tiny_model_dir", "plain_model_dir"])
def test_rows_are_written_in_the_layout_in_which_they_were_scored(
    tmp_path: Path, request: pytest.FixtureRequest, template: str
) -> None:
    recipe = recipe_file(
        tmp_path / "r.yaml", ["keep: {field: perplexity.nll, lowest: 50%}"], filters="{perplexity: {model: target}}"
    )
    data = write_rows(tmp_path / "d.jsonl", some_rows(12))
    result = curate.run(recipe, data, model=str(request.getfixturevalue(template)), out=tmp_path / "out")
    kind = list if template == "tiny_model_dir" else str
    assert all(isinstance(row["prompt"], kind) and isinstance(row["completion"], kind) for row in kept(result))


# The report


def sourced(count: int, value: Any) -> list[Any]:
    return [record(f"p{i // 2}", f"response {i}", source="ab"[i % 2], value=value(i)) for i in range(count)]


def report(tmp_path: Path, rows: Any, *steps: str) -> SelectionReport:
    return run(tmp_path, rows, *steps, shard_rows=64).report


def test_a_selection_by_source_is_explained_by_source(tmp_path: Path) -> None:
    found = report(tmp_path, sourced(60, lambda i: i % 2))
    assert found.explained_by_source == pytest.approx(1.0)
    assert any("this is mostly a length/source filter" in warning for warning in found.warnings)


def test_a_selection_by_length_is_explained_by_length(tmp_path: Path) -> None:
    rows = [record(f"p{i}", "x" * (i + 1), source="ab"[i % 2], value=float(i)) for i in range(100)]
    found = report(tmp_path, rows, "keep: {field: given.value, lowest: 50%}")
    assert found.explained_by_length == pytest.approx(1.0)
    assert found.explained_by_source == pytest.approx(0.0, abs=0.01)


def test_a_random_selection_is_explained_by_nothing(tmp_path: Path) -> None:
    found = report(tmp_path, sourced(600, float), "sample: {keep: 50%, seed: 1}")
    assert found.explained_by_both is not None
    assert found.explained_by_both < 0.05
    assert not found.warnings


def test_keeping_everything_has_nothing_to_explain(tmp_path: Path) -> None:
    found = report(tmp_path, some_rows(20), "sample: {keep: 100%}")
    assert (found.kept, found.rejected, found.explained_by_both) == (20, 0, None)


def test_a_drop_of_more_than_a_tenth_is_loud_and_shows_rows(tmp_path: Path) -> None:
    found = report(tmp_path, some_rows(40), "drop: {field: given.value, above: 60}")
    assert any("rejects" in warning and "of all rows" in warning for warning in found.warnings)
    assert len(found.dropped_examples) == 5


def test_a_drop_of_half_a_source_is_loud(tmp_path: Path) -> None:
    rows = [record(f"p{i}", f"r{i}", source="small" if i < 4 else "large", value=float(i)) for i in range(100)]
    found = report(tmp_path, rows, "drop: {field: given.value, below: 3}")
    assert any("more than half of small" in warning for warning in found.warnings)


def test_a_small_drop_is_quiet(tmp_path: Path) -> None:
    found = report(tmp_path, some_rows(100), "drop: {field: given.value, above: 95}")
    assert found.rejected > 0
    assert not found.warnings
    assert not found.dropped_examples


def test_few_alternatives_are_told(tmp_path: Path) -> None:
    rows = [record(f"p{i}", f"r{i}", value=float(i * 7 % 50)) for i in range(50)]
    found = report(tmp_path, rows)
    assert found.share_with_alternatives == 0
    assert any("only 0% of the ranked rows had another response" in warning for warning in found.warnings)


def test_alternatives_are_counted(tmp_path: Path) -> None:
    assert report(tmp_path, some_rows(40)).share_with_alternatives == 1


def test_sources_lengths_refusals_and_unscored_rows_are_counted(tmp_path: Path) -> None:
    rows = [
        record("p", "x" * length, source=source, value=value)
        for length, source, value in [(2, "a", 1), (4, "b", None), (8, "a", 2)]
    ]
    found = report(tmp_path, [*rows, {"prompt": "", "response": "x"}])
    assert {(count.source, count.rows, count.kept) for count in found.sources} == {("a", 2, 1), ("b", 1, 1)}
    assert (found.mean_length_kept, found.mean_length_rejected) == (3, 8)
    assert found.refused == {"empty_prompt": 1}
    assert found.unscored == {"given": {"absent": 1}}


def test_controls_and_recipes_with_a_model_share_their_strata(tmp_path: Path, tiny_model_dir: Path) -> None:
    rows = [record(f"p{i}", "é" * (i % 23) + "word " * (i % 11 + 1)) for i in range(60)]
    strata = []
    for recipe in ("familiarity-top50", "random50", "longest50"):
        result = curate.run(recipe, rows, model=str(tiny_model_dir), out=tmp_path / recipe)
        strata.append(result.selection.frame.group("stratum").tolist())
    assert strata[0] == strata[1] == strata[2]


def test_an_explanation_says_what_its_margin_is_in(tmp_path: Path) -> None:
    rows = [record("p", f"r{value}" * value, value=float(value)) for value in range(1, 7)]
    steps = ["drop: {field: length.characters, above: 11}", KEEP]
    recipe = recipe_file(tmp_path / "r.yaml", steps, filters="{given: {}, length: {}}")
    out = curate.run(recipe, rows, out=tmp_path / "out").out
    assert [explain(out, row)["margin_of"] for row in (0, 4, 5)] == ["given.value", "given.value", "length.characters"]
    assert [rival["row"] for rival in explain(out, 0)["same_prompt"]] == [0, 1, 2, 3, 4, 5]


def test_the_rows_nearest_to_the_cut_are_shown(tmp_path: Path) -> None:
    rows = [record("p", f"r{i}", value=float(i)) for i in range(20)]
    assert {row.row for row in report(tmp_path, rows).borderline} >= {8, 9, 10, 11}


def test_a_run_says_that_it_is_untested(tmp_path: Path) -> None:
    assert report(tmp_path, some_rows(8)).trial.startswith("untested")


def test_the_report_is_json(tmp_path: Path) -> None:
    found = report(tmp_path, some_rows(20))
    assert json.loads(found.to_json()) == json.loads(json.dumps(found.to_dict()))
