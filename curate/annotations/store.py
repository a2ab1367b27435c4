"""Where annotations lie: one folder per filter and fingerprint, beside the rows they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.errors import RecipeError
from curate.examples import stable_hash
from curate.filters import Filter, Scores, Unscored
from curate.filters.base import REASON
from curate.rows import RowStore, Shard

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "MANIFEST.json"
PLAN = "plan.json"

Struct = dict[str, Any]
"""One annotation as stored: the declared outputs and the reason."""


def folder_name(filter_: Filter) -> str:
    """`perplexity-3f2a90b1c4d5`: the filter and the head of its fingerprint's hash."""
    return f"{filter_.name}-{stable_hash(filter_.fingerprint())[:12]}"


def to_struct(filter_: Filter, result: Scores | Unscored) -> Struct:
    """A filter's result as it is stored; asserts that the filter keeps to its declaration."""
    if isinstance(result, Unscored):
        return {**dict.fromkeys(filter_.outputs), REASON: result.reason}
    assert result.keys() == filter_.outputs.keys(), f"{filter_.name} declares {set(filter_.outputs)}, gave {set(result)}"
    return {**result, REASON: None}


def from_struct(struct: Struct) -> Scores | Unscored:
    """A stored annotation as the filter gave it."""
    if struct[REASON] is not None:
        return Unscored(struct[REASON])
    return {name: value for name, value in struct.items() if name != REASON}


def struct_type(filter_: Filter) -> "pa.StructType":
    """Arrow type of a filter's annotations."""
    import pyarrow as pa

    types = {"float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
    return pa.struct([(name, types[kind]) for name, kind in filter_.outputs.items()] + [(REASON, pa.string())])


def struct_type_of(store: "AnnotationStore") -> "pa.StructType":
    """Arrow type of a store's annotations, from its first shard."""
    return store.read(0, [store.filter_name]).schema.field(store.filter_name).type


class AnnotationStore:
    """The annotations of one filter under one fingerprint, beside the rows they belong to."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `prepare` has planned."""
        self.folder = folder
        self.plan = _fs.read_json(folder / PLAN, "format", "fingerprint", "parameters", "rows", "shards", "settings", "reused")

    @property
    def filter_name(self) -> str:
        """The filter's name, which is also the name of the struct column."""
        return str(self.plan["fingerprint"]["filter"])

    @property
    def is_complete(self) -> bool:
        """Whether every shard is committed."""
        return (self.folder / MANIFEST).is_file()

    @property
    def shards(self) -> list[Shard]:
        """All shards of the plan."""
        return [Shard(index, start, stop) for index, (start, stop) in enumerate(self.plan["shards"])]

    def read(self, index: int, columns: Sequence[str] | None = None) -> "pa.Table":
        """One shard; columns may name single outputs, such as `perplexity.nll`."""
        return _fs.read_table(_fs.part_path(self.folder, index), None if columns is None else list(columns))

    def structs(self, index: int) -> list[Struct]:
        """One shard's annotations."""
        return list(self.read(index, [self.filter_name])[self.filter_name].to_pylist())

    def is_committed(self, index: int) -> bool:
        """Whether a shard is there and true to its marker."""
        return _fs.read_marker(self.folder, index) is not None

    def reopen_damaged(self) -> None:
        """Take back that the folder is complete when a shard is no longer what was committed; it is then scored again."""
        lost = [shard.index for shard in self.shards if not self.is_committed(shard.index)] if self.is_complete else []
        if lost:
            progress.note(f"{self.folder}: damaged or missing, scored again: shards {', '.join(map(str, lost))}")
            (self.folder / MANIFEST).unlink()

    def commit(self, shard: Shard, table: "pa.Table") -> None:
        """Commit one shard: part, then marker."""
        entry = _fs.commit_table(_fs.part_path(self.folder, shard.index), table)
        _fs.commit_json(_fs.marker_path(self.folder, shard.index), {**entry, "start": shard.start, "stop": shard.stop})

    def backoff(self, index: int) -> int:
        """How often this shard's batches were halved."""
        path = self._backoff_path(index)
        return int(_fs.read_json(path)["halvings"]) if path.is_file() else 0

    def record_backoff(self, index: int, halvings: int) -> None:
        """Record a halving before it is tried, so that a resumed run makes the same batches."""
        _fs.commit_json(self._backoff_path(index), {"halvings": halvings})

    def _backoff_path(self, index: int) -> Path:
        return self.folder / f"backoff-{index:05d}.json"

    def finish(self) -> None:
        """Write the manifest, which makes the folder complete."""
        markers = [_fs.read_marker(self.folder, shard.index) for shard in self.shards]
        assert all(markers), "finish() before every shard was committed"
        rows = sum(marker["rows"] for marker in markers if marker)
        assert rows == self.plan["rows"]["count"], "rows annotated and rows committed differ"
        _fs.commit_json(self.folder / MANIFEST, {"format": _fs.FORMAT, "rows": rows, "parts": markers})

    def reasons(self) -> dict[str, int]:
        """Unscored rows by reason."""
        import pyarrow.compute as pc

        counts: dict[str, int] = {}
        for shard in self.shards:
            column = pc.struct_field(self.read(shard.index, [f"{self.filter_name}.{REASON}"])[self.filter_name], [0])
            for entry in pc.value_counts(column.drop_null()).to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        return dict(sorted(counts.items()))


@dataclass(frozen=True)
class Annotations:
    """The committed rows of a run, and the annotations that are there for them."""

    rows: RowStore
    stores: Sequence[AnnotationStore]

    def choose(self, filters: Mapping[str, Filter], *, model: str | None = None) -> dict[str, AnnotationStore]:
        """For every filter the store that holds its scores; needs no model, since it compares what the plans recorded.

        `model` tells apart annotations of several models. Raises RecipeError where there is none or more than one.
        """
        return {name: self._choose(filter_, model) for name, filter_ in filters.items()}

    def _choose(self, filter_: Filter, model: str | None) -> AnnotationStore:
        same_filter = [store for store in self.stores if store.filter_name == filter_.name]
        wanted = filter_.model_dump(mode="json")
        # What a recipe leaves open (the model, and how the run looked at it) may be anything; what it says must agree.
        said = filter_.model_fields_set - {"model"}
        open_keys = set(filter_.described_by_identity) - said
        found = [
            store
            for store in same_filter
            if store.plan["fingerprint"]["version"] == filter_.version
            and all(store.plan["parameters"].get(key) == value for key, value in wanted.items() if key not in open_keys)
            and (model is None or store.plan["parameters"].get("model") in (None, model))
        ]
        if len(found) == 1:
            return found[0]
        there = ", ".join(sorted({str(store.plan["parameters"].get("model", store.folder.name)) for store in same_filter}))
        if not found:
            raise RecipeError(
                f"{self.rows.folder.parent}: no scores of {filter_.name} with these parameters"
                + (f" (there are some of {there})" if there else "")
                + "; run `curate annotate` with this recipe first"
            )
        raise RecipeError(f"{self.rows.folder.parent}: {filter_.name} has scores of several models ({there}); pass --model")


def load_annotations(out: str | Path) -> Annotations:
    """The rows and all finished annotations of a run's folder. Raises UsageError when it is none."""
    out = Path(out)
    rows = RowStore(out / "rows")
    folders = sorted(path.parent for path in (out / "annotations").glob(f"*/{MANIFEST}"))
    return Annotations(rows, [AnnotationStore(folder) for folder in folders])
