"""Where annotations lie: one folder per filter and fingerprint, beside the rows they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.errors import CurateError, RecipeError
from curate.examples import Example, stable_hash
from curate.filters import Filter, Scores, Unscored
from curate.filters.base import LIST, REASON, OutputType, source_facts, validate_scores
from curate.likelihood import model_identity
from curate.recipes.schema import TARGET
from curate.rows import RowStore, Shard

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "MANIFEST.json"
PLAN = "plan.json"

Struct = dict[str, Any]
"""One annotation as stored: the declared outputs and the reason."""


def folder_name(filter_: Filter) -> str:
    """`perplexity-3f2a90b1c4d5`: the filter and the head of its fingerprint's hash."""
    return folder_of(filter_.fingerprint())


def folder_of(fingerprint: Mapping[str, Any]) -> str:
    """The same from the fingerprint, as a plan holds it."""
    return f"{fingerprint['filter']}-{stable_hash(fingerprint)[:12]}"


def to_struct(filter_: Filter, example: Example, result: Scores | Unscored) -> Struct:
    """A filter's result as it is stored; raises UsageError when it is not what the filter declares."""
    validate_scores(filter_, example, result)
    if isinstance(result, Unscored):
        return {**dict.fromkeys(filter_.outputs), REASON: result.reason}
    return {**result, REASON: None}


def from_struct(struct: Struct) -> Scores | Unscored:
    """A stored annotation as the filter gave it."""
    if struct[REASON] is not None:
        return Unscored(struct[REASON])
    return {name: value for name, value in struct.items() if name != REASON}


def struct_type(filter_: Filter) -> "pa.StructType":
    """Arrow type of a filter's annotations."""
    import pyarrow as pa

    return pa.struct([(name, arrow_type(kind)) for name, kind in filter_.outputs.items()] + [(REASON, pa.string())])


def arrow_type(kind: OutputType) -> "pa.DataType":
    """Arrow type of an output."""
    import pyarrow as pa

    types = {
        "float64": pa.float64(),
        "int64": pa.int64(),
        "float16": pa.float16(),
        "bool": pa.bool_(),
        "string": pa.string(),
    }
    one = types[kind.removesuffix(LIST)]
    return pa.list_(one) if kind.endswith(LIST) else one


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

    @property
    def findings(self) -> dict[str, Any]:
        """What the filter found out on the way; empty before the folder is complete, and for most filters."""
        found = _fs.read_json(self.folder / MANIFEST).get("findings", {}) if self.is_complete else {}
        return dict(found)

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Write the manifest, which makes the folder complete."""
        markers = [_fs.read_marker(self.folder, shard.index) for shard in self.shards]
        assert all(markers), "finish() before every shard was committed"
        rows = sum(marker["rows"] for marker in markers if marker)
        assert rows == self.plan["rows"]["count"], "rows annotated and rows committed differ"
        _fs.commit_json(
            self.folder / MANIFEST, {"format": _fs.FORMAT, "rows": rows, "parts": markers, "findings": dict(findings)}
        )

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
        named = getattr(filter_, "model", TARGET)
        wanted_model = model if named == TARGET else named
        fitting = [store for store in self.stores if store.filter_name == filter_.name and _fits(store, filter_)]
        found = [store for store in fitting if wanted_model is None or _is_of_model(store, wanted_model, filter_)]
        if len(found) == 1:
            return found[0]
        where = self.rows.folder.parent
        if not found:
            there = sorted({str(store.plan["parameters"].get("model", store.folder.name)) for store in fitting})
            raise RecipeError(
                f"{where}: no scores of {filter_.name} with these parameters"
                + (f" of {wanted_model} (there are some of {', '.join(there)})" if there and wanted_model else "")
                + "; run `curate annotate` with this recipe first"
            )
        differing = {
            key: [store.plan["parameters"].get(key) for store in found]
            for key in found[0].plan["parameters"]
            if len({str(store.plan["parameters"].get(key)) for store in found}) > 1
        }
        if set(differing) == {"model"}:
            raise RecipeError(
                f"{where}: {filter_.name} has scores of several models ({_listed(differing['model'])}); pass --model"
            )
        if differing:
            key = next(key for key in differing if key != "model")
            raise RecipeError(
                f"{where}: {filter_.name} has scores with several values of {key} ({_listed(differing[key])}); "
                f"say which in the recipe, such as `{filter_.name}: {{{key}: {differing[key][0]}}}`"
            )
        names = ", ".join(store.folder.name for store in found)
        raise RecipeError(f"{where}: {names} differ only in what was loaded (weights or code changed); remove the one not meant")


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _fits(store: AnnotationStore, filter_: Filter) -> bool:
    """Whether the scores are of this filter as the recipe asks for it; what it leaves open may be anything."""
    fingerprint, parameters = store.plan["fingerprint"], store.plan["parameters"]
    open_keys = set(filter_.described_by_identity) - (filter_.model_fields_set - {"model"}) | {"model"}
    return (
        fingerprint["version"] == filter_.version
        and all(fingerprint.get(key) == value for key, value in source_facts(type(filter_)).items())
        and all(parameters.get(key) == value for key, value in filter_.model_dump(mode="json").items() if key not in open_keys)
    )


def _is_of_model(store: AnnotationStore, model: str, filter_: Filter) -> bool:
    """Whether the scores are of the model at this place, as it is there now; where it is gone, of that name."""
    scored = _model_facts(store.plan["fingerprint"])
    if scored is None:
        return True  # the filter asks no model
    try:
        return bool(model_identity(model, getattr(filter_, "revision", None)) == scored)
    except CurateError:
        return bool(store.plan["parameters"].get("model") == model)


def _model_facts(fingerprint: Mapping[str, Any]) -> Any:
    """What the fingerprint of a filter, or of the filters it derives from, says of the model."""
    if "model" in fingerprint:
        return fingerprint["model"]
    return next((facts for needed in fingerprint.get("depends", {}).values() if (facts := _model_facts(needed))), None)


def load_annotations(out: str | Path) -> Annotations:
    """The rows and all finished annotations of a run's folder. Raises UsageError when it is none."""
    out = Path(out)
    rows = RowStore(out / "rows")
    folders = sorted(path.parent for path in (out / "annotations").glob(f"*/{MANIFEST}"))
    return Annotations(rows, [AnnotationStore(folder) for folder in folders])
