"""Annotations: exact, resumable, never reused where they do not match."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workshop import Given, Record, record, some_rows, tree, write_rows

import curate
from curate import _fs
from curate.annotations import Annotations, AnnotationStore, annotate, folder_name, load_annotations
from curate.errors import IntegrityError, UsageError
from curate.examples import Example, load_examples
from curate.filters import Filter, Likelihood, Scores, Unscored, build_filter, register
from curate.filters.base import BackOff


def annotated(tmp_path: Path, rows: Sequence[Record], *filters: Filter, **options: Any) -> Annotations:
    path = write_rows(tmp_path / "d.jsonl", rows)
    found = annotate(load_examples(path), filters, tmp_path / options.pop("out", "out"), **{"shard_rows": 8, **options})
    assert isinstance(found, Annotations)
    return found


def lazily(path: Path, *filters: Filter) -> list[Any]:
    """The rows of a pass without an output folder."""
    found: Any = annotate(load_examples(path), filters)
    return list(found)


def structs(store: AnnotationStore) -> list[Any]:
    return [struct for shard in store.shards for struct in store.structs(shard.index)]


def scores_of(found: Annotations, name: str) -> list[Any]:
    (store,) = (store for store in found.stores if store.filter_name == name)
    return structs(store)


@register("constant")
class Constant(Filter):
    """Puts out what its fields say."""

    outputs: ClassVar = {"real": "float64", "whole": "int64", "flag": "bool", "word": "string"}
    real: float | None = None
    whole: int | None = None

    def score(self, example: Example) -> Scores | Unscored:
        return {"real": self.real, "whole": self.whole, "flag": None, "word": None}


@register("undeclared")
class Undeclared(Filter):
    """Breaks its promise."""

    outputs: ClassVar = {"value": "float64"}

    def score(self, example: Example) -> Scores | Unscored:
        return {"valeu": 1.0}


@register("hungry")
class Hungry(Filter):
    """Asks for smaller batches until they were halved twice; what it puts out tells how small they were."""

    outputs: ClassVar = {"halvings": "int64"}
    calls: ClassVar[list[tuple[int, int]]] = []
    backoff: int = 0

    def frozen(self, settings: Any, *, backoff: int = 0) -> "Hungry":
        return self.model_copy(update={"backoff": backoff})

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        self.calls.append((examples[0].row, self.backoff))
        if self.backoff < 2 and examples[0].row >= 8:
            raise BackOff
        return [{"halvings": self.backoff} for _ in examples]


def test_every_row_is_annotated_once_and_in_order(tmp_path: Path) -> None:
    found = annotated(tmp_path, some_rows(30), Given())
    (store,) = found.stores
    tables = [store.read(shard.index) for shard in store.shards]
    table = pa.concat_tables(tables)
    assert table["row"].to_pylist() == list(range(30))
    assert table["id"].to_pylist() == [f"r{row}" for row in range(30)]
    assert [struct["value"] for struct in structs(store)] == [row["value"] for row in some_rows(30)]


def test_a_lazy_pass_scores_the_same(tmp_path: Path) -> None:
    filters = [build_filter(name, {}, where="") for name in ("length", "errors")]
    found = annotated(tmp_path, some_rows(30), *filters)
    lazy = lazily(tmp_path / "d.jsonl", *filters)
    assert [row["row"] for row in lazy] == list(range(30))
    for name in ("length", "errors"):
        assert [row[name] for row in lazy] == scores_of(found, name)


def test_a_lazy_pass_of_a_model_filter_scores_the_same(tmp_path: Path, tiny_model_dir: Path) -> None:
    perplexity = build_filter("perplexity", {"model": str(tiny_model_dir)}, where="")
    found = annotated(tmp_path, some_rows(12), perplexity, shard_rows=512)
    lazy = [row["perplexity"] for row in lazily(tmp_path / "d.jsonl", perplexity)]
    assert lazy == scores_of(found, "perplexity")


def test_a_lazy_pass_refuses_filters_that_need_more_than_the_row(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give an output folder"):
        annotate(load_examples(write_rows(tmp_path / "d.jsonl", some_rows(4))), [Given()])


@pytest.mark.parametrize("real", [0.1 + 0.2, 1e-300, 5e-324, 1.7976931348623157e308, -0.0, None])
def test_numbers_are_kept_exactly(tmp_path: Path, real: float | None) -> None:
    found = scores_of(annotated(tmp_path, some_rows(2), Constant(real=real)), "constant")
    assert repr(found[0]["real"]) == repr(real)


@pytest.mark.parametrize("whole", [2**63 - 1, -(2**63), 2**53 + 1])
def test_integers_are_kept_exactly(tmp_path: Path, whole: int) -> None:
    assert scores_of(annotated(tmp_path, some_rows(2), Constant(whole=whole)), "constant")[1]["whole"] == whole


def test_a_column_of_nulls_keeps_its_type(tmp_path: Path) -> None:
    (store,) = annotated(tmp_path, some_rows(20), Constant()).stores
    for shard in store.shards:
        fields = {field.name: str(field.type) for field in store.read(shard.index).schema.field("constant").type}
        assert fields == {"real": "double", "whole": "int64", "flag": "bool", "word": "string", "unscored": "string"}


def test_the_size_of_shards_changes_no_text_score(tmp_path: Path) -> None:
    length = build_filter("length", {}, where="")
    small, large = (scores_of(annotated(tmp_path, some_rows(30), length, out=str(n), shard_rows=n), "length") for n in (3, 100))
    assert small == large


def test_the_size_of_shards_changes_model_scores_by_rounding_only(tmp_path: Path, tiny_model_dir: Path) -> None:
    perplexity = build_filter("perplexity", {"model": str(tiny_model_dir)}, where="")
    small, large = (
        scores_of(annotated(tmp_path, some_rows(24), perplexity, out=str(n), shard_rows=n), "perplexity") for n in (3, 100)
    )
    assert [row["nll"] for row in small] == pytest.approx([row["nll"] for row in large], rel=1e-5)


def test_undeclared_outputs_fail_loudly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="declares outputs 'value', gave 'valeu'"):
        annotated(tmp_path, some_rows(4), Undeclared())


def test_unscored_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [record(f"p{i}", "r", value=None if i % 3 else 1.0) for i in range(9)]
    (store,) = annotated(tmp_path, rows, Given()).stores
    assert store.reasons() == {"absent": 6}


# Not twice


def test_a_second_filter_leaves_the_first_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = annotated(tmp_path, some_rows(20), Given())
    before = tree(tmp_path / "out" / "annotations")
    monkeypatch.setattr(Given, "score", None)
    annotated(tmp_path, some_rows(20), Given(), Constant())
    after = tree(tmp_path / "out" / "annotations")
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)
    assert len(load_annotations(tmp_path / "out").stores) == len(first.stores) + 1


def test_entropy_after_perplexity_runs_no_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path
) -> None:
    model = {"model": str(tiny_model_dir)}
    annotated(tmp_path, some_rows(20), build_filter("perplexity", model, where=""))
    monkeypatch.setattr(Likelihood, "score_batch", None)
    found = annotated(tmp_path, some_rows(20), build_filter("entropy", model, where=""))
    assert all(0 < row["entropy"] < 7 for row in scores_of(found, "entropy"))


def test_filters_of_one_model_share_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    calls = []
    real = Likelihood.score_batch

    def counted(self: Likelihood, examples: Sequence[Example]) -> list[Scores | Unscored]:
        calls.append(len(examples))
        return real(self, examples)

    monkeypatch.setattr(Likelihood, "score_batch", counted)
    model = {"model": str(tiny_model_dir)}
    annotated(tmp_path, some_rows(20), *(build_filter(name, model, where="") for name in ("perplexity", "entropy")))
    assert sum(calls) == 20


def test_other_parameters_are_another_folder_and_delete_nothing(tmp_path: Path) -> None:
    annotated(tmp_path, some_rows(20), Constant(real=1.0))
    before = tree(tmp_path / "out" / "annotations")
    annotated(tmp_path, some_rows(20), Constant(real=2.0))
    after = tree(tmp_path / "out" / "annotations")
    assert {path: after[path] for path in before} == before
    assert len(list((tmp_path / "out" / "annotations").iterdir())) == 2


def test_another_model_is_another_folder(tmp_path: Path, tiny_model_dir: Path, plain_model_dir: Path) -> None:
    names = {
        folder_name(build_filter("perplexity", {"model": str(model)}, where="")) for model in (tiny_model_dir, plain_model_dir)
    }
    assert len(names) == 2


def test_a_moved_model_is_the_same_model(tmp_path: Path, tiny_model_dir: Path) -> None:
    import shutil

    shutil.copytree(tiny_model_dir, tmp_path / "moved")
    names = {
        folder_name(build_filter("perplexity", {"model": str(model)}, where="")) for model in (tiny_model_dir, tmp_path / "moved")
    }
    assert len(names) == 1


def test_the_source_of_a_user_filter_is_part_of_its_fingerprint() -> None:
    assert "source" in Given().fingerprint()
    assert "source" not in build_filter("length", {}, where="").fingerprint()


def test_scores_of_two_models_have_to_be_told_apart(tmp_path: Path, tiny_model_dir: Path, plain_model_dir: Path) -> None:
    built = [build_filter("perplexity", {"model": str(model)}, where="") for model in (tiny_model_dir, plain_model_dir)]
    annotated(tmp_path, some_rows(8), *built[:1])
    annotated(tmp_path, some_rows(8), *built[1:])
    found = load_annotations(tmp_path / "out")
    target = {"perplexity": build_filter("perplexity", {"model": "target"}, where="")}
    with pytest.raises(curate.CurateError, match=r"scores of several models .*pass --model"):
        found.choose(target)
    chosen = found.choose(target, model=str(plain_model_dir))["perplexity"]
    assert chosen.plan["parameters"]["model"] == str(plain_model_dir)


# Interrupted


@pytest.mark.parametrize("lost", ["part-00001.parquet", "part-00001.json", "part-00000.parquet"])
def test_what_an_interruption_left_out_is_made_the_same(tmp_path: Path, lost: str) -> None:
    (store,) = annotated(tmp_path, some_rows(20), Given()).stores
    before = tree(tmp_path / "out")
    (store.folder / "MANIFEST.json").unlink()
    (store.folder / lost).unlink()
    annotated(tmp_path, some_rows(20), Given())
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["part-00001.parquet", "part-00001.json"])
def test_a_damaged_shard_of_an_unfinished_run_is_made_anew(tmp_path: Path, name: str) -> None:
    (store,) = annotated(tmp_path, some_rows(20), Given()).stores
    before = tree(tmp_path / "out")
    (store.folder / "MANIFEST.json").unlink()
    path = store.folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    annotated(tmp_path, some_rows(20), Given())
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("place", ["annotations/given-*", "rows"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_shard_of_a_finished_run_is_made_anew(tmp_path: Path, place: str, damage: str) -> None:
    annotated(tmp_path, some_rows(20), Given())
    before = tree(tmp_path / "out")
    path = next((tmp_path / "out").glob(f"{place}/part-00001.parquet"))
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:20], "gone": b"", "flipped": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]}[damage])
    if damage == "gone":
        path.unlink()
    annotated(tmp_path, some_rows(20), Given())
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 1}', b'{"format": 99, "rows": {}}'])
def test_a_damaged_plan_is_an_integrity_error(tmp_path: Path, content: bytes) -> None:
    (store,) = annotated(tmp_path, some_rows(20), Given()).stores
    (store.folder / "plan.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        annotated(tmp_path, some_rows(20), Given())


def test_annotations_of_other_rows_are_refused(tmp_path: Path) -> None:
    import shutil

    annotated(tmp_path, some_rows(20), Given(), out="a")
    annotated(tmp_path, some_rows(21), Constant(), out="b")
    shutil.copytree(tmp_path / "a" / "annotations", tmp_path / "b" / "annotations", dirs_exist_ok=True)
    with pytest.raises(IntegrityError, match="belongs to other rows"):
        annotated(tmp_path, some_rows(21), Given(), out="b")


def test_a_back_off_is_recorded_before_the_retry_and_replayed(tmp_path: Path) -> None:
    Hungry.calls.clear()
    (store,) = annotated(tmp_path, some_rows(20), Hungry()).stores
    assert Hungry.calls == [(0, 0), (8, 0), (8, 1), (8, 2), (16, 0), (16, 1), (16, 2)]
    assert [store.backoff(index) for index in range(3)] == [0, 2, 2]
    before = tree(tmp_path / "out")
    (store.folder / "MANIFEST.json").unlink()
    (store.folder / "part-00001.json").unlink()
    Hungry.calls.clear()
    annotated(tmp_path, some_rows(20), Hungry())
    assert Hungry.calls == [(8, 2)]
    assert tree(tmp_path / "out") == before


def test_a_kill_after_a_back_off_resumes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotated(tmp_path, some_rows(20), Hungry(), out="whole")

    def killed(self: Hungry, examples: Sequence[Example]) -> list[Scores | Unscored]:
        if self.backoff == 1:
            raise KeyboardInterrupt
        return real(self, examples)

    real = Hungry.score_batch
    with monkeypatch.context() as patched:
        patched.setattr(Hungry, "score_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            annotated(tmp_path, some_rows(20), Hungry())
    Hungry.calls.clear()
    annotated(tmp_path, some_rows(20), Hungry())
    assert Hungry.calls[0] == (8, 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# Taken over


def reuse(tmp_path: Path, rows: Sequence[Record], monkeypatch: pytest.MonkeyPatch) -> tuple[Annotations, list[int]]:
    """Annotate rows beside an earlier run of 20 rows; also the rows that were scored, not taken over."""
    annotated(tmp_path, some_rows(20), Given(), out="earlier")
    scored = []
    real = Given.score

    def counted(self: Given, example: Example) -> Scores | Unscored:
        scored.append(example.row)
        return real(self, example)

    monkeypatch.setattr(Given, "score", counted)
    return annotated(tmp_path, rows, Given(), reuse=[tmp_path / "earlier"]), scored


def test_equal_rows_are_taken_over_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*reversed(some_rows(20)), record("new", "row", value=7.0)]
    found, scored = reuse(tmp_path, rows, monkeypatch)
    assert scored == [20]
    assert [struct["value"] for struct in scores_of(found, "given")] == [row["value"] for row in rows]


def test_repeated_rows_are_taken_over_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(20) + some_rows(5)
    found, scored = reuse(tmp_path, rows, monkeypatch)
    assert scored == []
    assert [struct["value"] for struct in scores_of(found, "given")] == [row["value"] for row in rows]


def test_rows_that_read_otherwise_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "value": 1000.0} for row in some_rows(20)]
    found, scored = reuse(tmp_path, rows, monkeypatch)
    assert len(scored) == 20
    assert {struct["value"] for struct in scores_of(found, "given")} == {1000.0}


def test_model_scores_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    perplexity = build_filter("perplexity", {"model": str(tiny_model_dir)}, where="")
    before = scores_of(annotated(tmp_path, some_rows(20), perplexity, out="earlier"), "perplexity")
    monkeypatch.setattr(Likelihood, "score_batch", None)
    found = annotated(tmp_path, [*reversed(some_rows(20))], perplexity, reuse=[tmp_path / "earlier"])
    assert scores_of(found, "perplexity") == before[::-1]


def test_what_was_taken_over_is_part_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = reuse(tmp_path, some_rows(24), monkeypatch)
    (store,) = found.stores
    before = tree(tmp_path / "out")
    (store.folder / "MANIFEST.json").unlink()
    (store.folder / "part-00002.json").unlink()
    annotated(tmp_path, some_rows(24), Given())
    assert tree(tmp_path / "out") == before


def test_damaged_reused_scores_are_an_integrity_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = reuse(tmp_path, some_rows(24), monkeypatch)
    (store,) = found.stores
    (store.folder / "MANIFEST.json").unlink()
    path = store.folder / "reused.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="not what was committed"):
        annotated(tmp_path, some_rows(24), Given())


def test_annotations_carry_page_checksums(tmp_path: Path) -> None:
    (store,) = annotated(tmp_path, some_rows(20), Given()).stores
    with pq.ParquetFile(_fs.part_path(store.folder, 0), page_checksum_verification=True) as file:
        assert file.read().num_rows == 8
