"""annotate(): filters score rows shard by shard; the store keeps one folder per filter and fingerprint."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.errors import IntegrityError, RecipeError, UsageError
from curate.examples import Example, Examples, Refused, stable_hash
from curate.filters import Filter, Scores, Unscored
from curate.filters.base import REASON, BackOff
from curate.rows import SHARD_ROWS, RowStore, Shard, commit_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import IterableDataset

MANIFEST = "MANIFEST.json"
_PLAN = "plan.json"
_REUSED = "reused.parquet"
_KEY = "key"
_MOST_BACKOFFS = 24

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
        self.plan = _fs.read_json(folder / _PLAN, "format", "fingerprint", "parameters", "rows", "shards", "settings", "reused")

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


def prepare(filter_: Filter, rows: RowStore, annotations: Path, reuse: Sequence[Path] = ()) -> AnnotationStore:
    """Open the folder of this filter's fingerprint, or plan it: what is frozen here decides every later byte."""
    folder = annotations / folder_name(filter_)
    mine = {"identity": rows.identity, "count": rows.count}
    if (folder / _PLAN).is_file():
        store = AnnotationStore(folder)
        if store.plan["rows"] != mine:
            raise IntegrityError(f"{folder}: belongs to other rows than {rows.folder}; choose another folder with --out")
        _tell_of_new_versions(filter_, store)
        return store
    _fs.make_folder(folder)
    fingerprint = filter_.fingerprint()
    plan = {
        "format": _fs.FORMAT,
        "fingerprint": fingerprint,
        # For people, and for `select`, which has to recognise the filter without loading a model.
        "parameters": filter_.model_dump(mode="json"),
        "rows": mine,
        "shards": [[shard.start, shard.stop] for shard in rows.shards],
        "settings": filter_.freeze(),
        "reused": _take_over(filter_, rows, folder, reuse),
    }
    _fs.commit_json(folder / _PLAN, plan)
    return AnnotationStore(folder)


def _tell_of_new_versions(filter_: Filter, store: AnnotationStore) -> None:
    """Say it when a resumed run cannot promise the same bytes."""
    before = store.plan["settings"]
    if store.is_complete or not before:
        return
    now = filter_.freeze()
    for what in ("torch", "transformers", "device_name"):
        if what in before and before[what] != now.get(what):
            progress.note(
                f"{filter_.name}: begun with {what} {before[what]}, now {now.get(what)}; "
                "the last digits of the remaining rows may differ"
            )


def _take_over(filter_: Filter, rows: RowStore, folder: Path, reuse: Sequence[Path]) -> dict[str, Any] | None:
    """Copy annotations that other runs hold for rows that read the same; part of the plan, so a resume finds the same."""
    import pyarrow as pa

    name = folder_name(filter_)
    found = [path for run in reuse for path in [run / "annotations" / name] if (path / MANIFEST).is_file()]
    if not found:
        return None
    ours = pa.concat_tables(_keys(filter_, rows, shard) for shard in rows.shards)
    theirs = []
    for path in found:
        store = AnnotationStore(path)
        theirs += [store.read(shard.index, [_KEY, filter_.name]) for shard in store.shards]
    pool = pa.concat_tables(theirs)
    keys = pool[_KEY].combine_chunks()
    # One annotation per key, the first: equal rows have equal scores up to the last digits of their batches.
    place = pa.table({_KEY: keys, "place": pa.array(range(len(keys)))}).group_by(_KEY, use_threads=False)
    first = place.aggregate([("place", "min")])
    joined = ours.join(first, keys=_KEY, join_type="inner", use_threads=False).sort_by("row")
    table = pa.table({"row": joined["row"], filter_.name: pool[filter_.name].take(joined["place_min"])})
    return _fs.commit_table(folder / _REUSED, table) if table.num_rows else None


def _keys(filter_: Filter, rows: RowStore, shard: Shard) -> "pa.Table":
    """Row and reuse key of one shard: a hash of just the fields that the filter reads."""
    import pyarrow as pa

    if filter_.reads == ("messages",):
        return rows.read(shard, ["row", "content_key"]).rename_columns(["row", _KEY])
    examples = rows.examples(shard, extra="extra" in filter_.reads)
    keys = [bytes.fromhex(_reuse_key(filter_, example)) for example in examples]
    return pa.table({"row": pa.array([e.row for e in examples], pa.int64()), _KEY: pa.array(keys, pa.binary(16))})


def _reuse_key(filter_: Filter, example: Example) -> str:
    return stable_hash([_plain(getattr(example, field)) for field in filter_.reads])


def _plain(value: Any) -> Any:
    """A field as JSON can say it; dates and decimals of typed columns by their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def in_order(filters: Iterable[Filter]) -> list[Filter]:
    """The filters and all that they depend on, each once, dependencies first."""
    ordered: dict[str, Filter] = {}

    def add(filter_: Filter) -> None:
        for needed in filter_.depends().values():
            add(needed)
        ordered.setdefault(folder_name(filter_), filter_)

    for filter_ in filters:
        add(filter_)
    return list(ordered.values())


class _Job:
    """What has to be scored in one run over the rows."""

    def __init__(self, rows: RowStore, filters: Sequence[Filter], annotations: Path, reuse: Sequence[Path]) -> None:
        self.rows = rows
        self.filters = {folder_name(filter_): filter_ for filter_ in filters}
        self.stores = {name: prepare(filter_, rows, annotations, reuse) for name, filter_ in self.filters.items()}
        self.missing = {
            name: {shard.index for shard in rows.shards if not store.is_committed(shard.index)}
            for name, store in self.stores.items()
            if not store.is_complete
        }
        self.reused = {name: self._reused(name) for name in self.missing}

    def _reused(self, name: str) -> dict[int, Struct]:
        store = self.stores[name]
        entry = store.plan["reused"]
        if entry is None:
            return {}
        if not _fs.entry_holds(store.folder, entry):
            raise IntegrityError(f"{store.folder / _REUSED}: not what was committed; remove {store.folder} and run again")
        table = _fs.read_table(store.folder / _REUSED)
        return dict(zip(table["row"].to_pylist(), table[store.filter_name].to_pylist(), strict=True))

    def pending(self) -> list[Shard]:
        """Shards that at least one filter still has to score."""
        indices = set().union(*self.missing.values()) if self.missing else set()
        return [shard for shard in self.rows.shards if shard.index in indices]

    def score(self, shard: Shard) -> dict[str, list[Struct]]:
        """All filters' annotations of one shard: read where committed, else scored."""
        reads_extra = any("extra" in self.filters[name].reads for name in self.missing)
        examples = self.rows.examples(shard, extra=reads_extra)
        results: dict[str, list[Struct]] = {}
        for name, filter_ in self.filters.items():
            if shard.index not in self.missing.get(name, ()):
                if self._is_needed(name, shard):
                    results[name] = self.stores[name].structs(shard.index)
                continue
            served = self.reused[name]
            todo = [example for example in examples if example.row not in served]
            given = {
                alias: dict(zip((e.row for e in examples), results[folder_name(needed)], strict=True))
                for alias, needed in filter_.depends().items()
            }
            if given:
                scored: Iterable[Scores | Unscored] = (
                    filter_.derive(example, {alias: from_struct(given[alias][example.row]) for alias in given})
                    for example in todo
                )
            else:
                scored = self._score_batch(name, filter_, todo, shard.index)
            fresh = {e.row: to_struct(filter_, result) for e, result in zip(todo, scored, strict=True)}
            results[name] = [fresh[e.row] if e.row in fresh else served[e.row] for e in examples]
        return {name: structs for name, structs in results.items() if shard.index in self.missing.get(name, ())}

    def _is_needed(self, name: str, shard: Shard) -> bool:
        """Whether a filter that is still to score this shard derives from this one."""
        return any(
            name in {folder_name(needed) for needed in self.filters[other].depends().values()}
            for other in self.missing
            if shard.index in self.missing[other]
        )

    def _score_batch(self, name: str, filter_: Filter, examples: list[Example], index: int) -> list[Scores | Unscored]:
        if not examples:
            return []
        store = self.stores[name]
        halvings = store.backoff(index)
        while halvings <= _MOST_BACKOFFS:
            try:
                return filter_.frozen(store.plan["settings"], backoff=halvings).score_batch(examples)
            except BackOff:
                halvings += 1
                store.record_backoff(index, halvings)
                progress.note(f"{filter_.name}: out of memory in shard {index}; trying batches of half the size")
        raise AssertionError(f"{filter_.name} asked for smaller batches {halvings} times")

    def tables(self, shard: Shard, results: Mapping[str, list[Struct]]) -> "dict[str, pa.Table]":
        """Annotations as they are stored: row, id, reuse key, struct."""
        import pyarrow as pa

        ids = self.rows.read(shard, ["row", "id"])
        return {
            name: pa.table(
                {
                    "row": ids["row"],
                    "id": ids["id"],
                    _KEY: _keys(self.filters[name], self.rows, shard)[_KEY],
                    self.filters[name].name: pa.array(structs, struct_type(self.filters[name])),
                }
            )
            for name, structs in results.items()
        }


def annotate(
    examples: Examples | RowStore,
    filters: Sequence[Filter],
    out: str | Path | None = None,
    *,
    reuse: Sequence[Path] = (),
    shard_rows: int = SHARD_ROWS,
) -> "Annotations | IterableDataset":
    """Score every example with every filter.

    With `out`, rows and annotations are committed there shard by shard and returned when all are there;
    run again after any interruption and only what is missing is done. Without `out` the result is a lazy `datasets` object
    that scores while it is iterated; filters that must see the corpus first are then refused with a UsageError.
    """
    if out is None:
        assert isinstance(examples, Examples), "a RowStore has its folder; pass it as out"
        return _lazily(examples, filters)
    out = Path(out)
    rows = examples if isinstance(examples, RowStore) else commit_rows(examples, out / "rows", shard_rows=shard_rows)
    filters = [filter_.fit(rows) if filter_.needs_corpus() else filter_ for filter_ in filters]
    job = _Job(rows, in_order(filters), out / "annotations", reuse)
    pending = job.pending()
    if pending:
        _run(job, pending)
    for store in job.stores.values():
        if not store.is_complete:
            store.finish()
    return Annotations(rows, [job.stores[folder_name(filter_)] for filter_ in filters])


def _run(job: _Job, pending: list[Shard]) -> None:
    """Stream the plan's shards through `datasets.map`, each expanded to its rows, and commit each as it ends."""
    from datasets import Features, IterableDataset, Value

    columns = {name: _feature(job.filters[name]) for name in job.missing}
    features = Features({"shard": Value("int64"), **columns})
    by_index = {shard.index: shard for shard in pending}
    stream = IterableDataset.from_generator(
        lambda: ({"shard": index} for index in by_index), features=Features({"shard": Value("int64")})
    )

    def expand(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        (index,) = batch["shard"]
        results = job.score(by_index[index])
        size = by_index[index].stop - by_index[index].start
        return {"shard": [index] * size} | {name: results.get(name, [None] * size) for name in job.missing}

    what = "scoring " + ", ".join(sorted({job.filters[name].name for name in job.missing}))
    with progress.measuring(what, job.rows.count) as meter:
        meter.skip(job.rows.count - sum(shard.stop - shard.start for shard in pending))
        held: list[dict[str, Any]] = []
        for record in stream.map(expand, batched=True, batch_size=1, features=features):
            held.append(record)
            shard = by_index[record["shard"]]
            if len(held) < shard.stop - shard.start:
                continue
            results = {name: [row[name] for row in held] for name, missing in job.missing.items() if shard.index in missing}
            for name, table in job.tables(shard, results).items():
                job.stores[name].commit(shard, table)
            meter.advance(rows=len(held))
            held = []
    assert not held, "the stream ended inside a shard"


def _feature(filter_: Filter) -> dict[str, Any]:
    from datasets import Value

    return {name: Value(kind) for name, kind in filter_.outputs.items()} | {REASON: Value("string")}


def _lazily(examples: Examples, filters: Sequence[Filter]) -> "IterableDataset":
    from datasets import Features, IterableDataset, List, Value

    for filter_ in filters:
        if filter_.needs_corpus() or "extra" in filter_.reads:
            what = "all rows before it scores the first" if filter_.needs_corpus() else "columns that a lazy pass does not carry"
            raise UsageError(f"{filter_.name} has to see {what}; give an output folder")
    message = {"role": Value("string"), "content": Value("string")}
    given: Features = Features(
        {
            "row": Value("int64"),
            **{name: Value("string") for name in ("id", "group", "source", "gold")},
            "tests": List(Value("string")),
            "messages": List(message),
        }
    )
    ordered = {folder_name(filter_): filter_ for filter_ in in_order(filters)}

    def generate() -> Iterator[dict[str, Any]]:
        # Not the module: `datasets` hashes what a generator refers to, and dill then pickles a module that is not installed.
        from curate.progress import note

        for record in examples.records():
            if isinstance(record, Refused):
                note(f"{record.place}: refused, {record.reason}: {record.detail}")
                continue
            yield {**{name: getattr(record, name) for name in given}, "messages": list(record.messages)}

    def score(batch: dict[str, list[Any]]) -> dict[str, list[Struct]]:
        rows = [Example(**dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        results: dict[str, list[Scores | Unscored]] = {}
        for name, filter_ in ordered.items():
            given = {alias: results[folder_name(needed)] for alias, needed in filter_.depends().items()}
            results[name] = (
                [filter_.derive(row, {alias: given[alias][at] for alias in given}) for at, row in enumerate(rows)]
                if given
                else filter_.score_batch(rows)
            )
        return {f.name: [to_struct(f, result) for result in results[folder_name(f)]] for f in filters}

    features = Features({**given, **{filter_.name: _feature(filter_) for filter_ in filters}})
    stream = IterableDataset.from_generator(generate, features=given)
    return stream.map(score, batched=True, batch_size=SHARD_ROWS, features=features)
