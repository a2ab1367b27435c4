"""annotate(): filters score rows shard by shard, each committed as it ends."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.annotations.planning import KEY, REUSED, prepare, reuse_keys
from curate.annotations.store import Annotations, Struct, folder_name, from_struct, struct_type, to_struct
from curate.errors import IntegrityError, UsageError
from curate.examples import Example, Examples, Refused
from curate.examples.example import UNDECLARED
from curate.filters import Filter, Scores, Unscored
from curate.filters.base import LIST, REASON, BackOff, validate_batch
from curate.rows import SHARD_ROWS, RowStore, Shard, commit_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import IterableDataset

_MOST_BACKOFFS = 24


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

    def __init__(
        self,
        rows: RowStore,
        filters: Sequence[Filter],
        asked: Mapping[str, dict[str, Any]],
        annotations: Path,
        reuse: Sequence[Path],
    ) -> None:
        self.rows = rows
        self.filters = {folder_name(filter_): filter_ for filter_ in filters}
        self.stores = {
            name: prepare(filter_, rows, annotations, reuse, asked=asked.get(name)) for name, filter_ in self.filters.items()
        }
        for store in self.stores.values():
            store.reopen_damaged()
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
            raise IntegrityError(f"{store.folder / REUSED}: not what was committed; remove {store.folder} and run again")
        table = _fs.read_table(store.folder / REUSED)
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
                is_declared = "extra" in filter_.reads or not reads_extra
                seen = todo if is_declared else [replace(example, extra=UNDECLARED) for example in todo]
                scored = self._score_batch(name, filter_, seen, shard.index)
            fresh = {e.row: to_struct(filter_, e, result) for e, result in zip(todo, scored, strict=True)}
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
                results = filter_.frozen(store.plan["settings"], backoff=halvings).score_batch(examples)
            except BackOff:
                halvings += 1
                store.record_backoff(index, halvings)
                progress.note(f"{filter_.name}: out of memory in shard {index}; trying batches of half the size")
                continue
            validate_batch(filter_, examples, results)
            return results
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
                    KEY: reuse_keys(self.filters[name], self.rows, shard)[KEY],
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
    with _fs.run_folder(Path(out)):
        return _annotate_into(Path(out), examples, filters, reuse, shard_rows)


def _annotate_into(
    out: Path, examples: Examples | RowStore, filters: Sequence[Filter], reuse: Sequence[Path], shard_rows: int
) -> Annotations:
    rows = examples if isinstance(examples, RowStore) else commit_rows(examples, out / "rows", shard_rows=shard_rows)
    fitted = [filter_.fit(rows) if filter_.needs_corpus() else filter_ for filter_ in filters]
    # A fitted filter's parameters hold what it learnt; a recipe knows it by what was asked for.
    asked = {folder_name(done): filter_.model_dump(mode="json") for done, filter_ in zip(fitted, filters, strict=True)}
    job = _Job(rows, in_order(fitted), asked, out / "annotations", reuse)
    pending = job.pending()
    if pending:
        _run(job, pending)
    for name, store in job.stores.items():
        if not store.is_complete:
            store.finish(job.filters[name].findings())
    return Annotations(rows, [job.stores[folder_name(filter_)] for filter_ in fitted])


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
    from datasets import List, Value

    kinds = {name: (Value(kind.removesuffix(LIST)), kind.endswith(LIST)) for name, kind in filter_.outputs.items()}
    return {name: List(one) if is_list else one for name, (one, is_list) in kinds.items()} | {REASON: Value("string")}


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
        columns = zip(*batch.values(), strict=True)
        rows = [Example(**dict(zip(batch, values, strict=True)), extra=UNDECLARED) for values in columns]
        results: dict[str, list[Scores | Unscored]] = {}
        for name, filter_ in ordered.items():
            given = {alias: results[folder_name(needed)] for alias, needed in filter_.depends().items()}
            if given:
                results[name] = [filter_.derive(row, {alias: given[alias][at] for alias in given}) for at, row in enumerate(rows)]
            else:
                results[name] = filter_.score_batch(rows)
                validate_batch(filter_, rows, results[name])
        return {
            f.name: [to_struct(f, row, result) for row, result in zip(rows, results[folder_name(f)], strict=True)]
            for f in filters
        }

    features = Features({**given, **{filter_.name: _feature(filter_) for filter_ in filters}})
    stream = IterableDataset.from_generator(generate, features=given)
    return stream.map(score, batched=True, batch_size=SHARD_ROWS, features=features)
