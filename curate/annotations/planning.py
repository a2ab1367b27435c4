"""What is frozen before the first score: shards, settings, and the rows that earlier runs already scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.annotations.store import MANIFEST, PLAN, AnnotationStore, folder_name
from curate.errors import IntegrityError
from curate.examples import Example, stable_hash
from curate.filters import Filter
from curate.rows import RowStore, Shard

if TYPE_CHECKING:
    import pyarrow as pa

REUSED = "reused.parquet"
KEY = "key"


def prepare(
    filter_: Filter, rows: RowStore, annotations: Path, reuse: Sequence[Path] = (), *, asked: Mapping[str, Any] | None = None
) -> AnnotationStore:
    """Open the folder of this filter's fingerprint, or plan it: what is frozen here decides every later byte.

    `asked` holds the parameters that the filter was asked for with, where `fit` has since added to them.
    """
    folder = annotations / folder_name(filter_)
    mine = {"identity": rows.identity, "count": rows.count}
    if (folder / PLAN).is_file():
        store = AnnotationStore(folder)
        if store.plan["rows"] != mine:
            raise IntegrityError(f"{folder}: belongs to other rows than {rows.folder}; choose another folder with --out")
        _tell_of_new_versions(filter_, store)
        return store
    settings = filter_.freeze()  # first: it raises for a device that is not there, and then nothing may be planned
    _fs.make_folder(folder)
    fingerprint = filter_.fingerprint()
    plan = {
        "format": _fs.FORMAT,
        "fingerprint": fingerprint,
        # For people, and for `select`, which has to recognise the filter without loading a model.
        "parameters": asked or filter_.model_dump(mode="json"),
        "rows": mine,
        "shards": [[shard.start, shard.stop] for shard in rows.shards],
        "settings": settings,
        "reused": _take_over(filter_, rows, folder, reuse),
    }
    _fs.commit_json(folder / PLAN, plan)
    return AnnotationStore(folder)


def _tell_of_new_versions(filter_: Filter, store: AnnotationStore) -> None:
    """Say it when a resumed run cannot promise the same bytes."""
    before = store.plan["settings"]
    if store.is_complete or not before:
        return
    now = filter_.freeze()
    for what in ("torch", "transformers", "bitsandbytes", "device_name", "device_map"):
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
    ours = pa.concat_tables(reuse_keys(filter_, rows, shard) for shard in rows.shards)
    theirs = []
    for path in found:
        store = AnnotationStore(path)
        theirs += [store.read(shard.index, [KEY, filter_.name]) for shard in store.shards]
    pool = pa.concat_tables(theirs)
    keys = pool[KEY].combine_chunks()
    # One annotation per key, the first: equal rows have equal scores up to the last digits of their batches.
    place = pa.table({KEY: keys, "place": pa.array(range(len(keys)))}).group_by(KEY, use_threads=False)
    first = place.aggregate([("place", "min")])
    joined = ours.join(first, keys=KEY, join_type="inner", use_threads=False).sort_by("row")
    table = pa.table({"row": joined["row"], filter_.name: pool[filter_.name].take(joined["place_min"])})
    return _fs.commit_table(folder / REUSED, table) if table.num_rows else None


def reuse_keys(filter_: Filter, rows: RowStore, shard: Shard) -> "pa.Table":
    """Row and reuse key of one shard: a hash of just the fields that the filter reads."""
    import pyarrow as pa

    if filter_.reads == ("messages",):
        return rows.read(shard, ["row", "content_key"]).rename_columns(["row", KEY])
    examples = rows.examples(shard, extra="extra" in filter_.reads)
    keys = [bytes.fromhex(_reuse_key(filter_, example)) for example in examples]
    return pa.table({"row": pa.array([e.row for e in examples], pa.int64()), KEY: pa.array(keys, pa.binary(16))})


def _reuse_key(filter_: Filter, example: Example) -> str:
    return stable_hash([_plain(getattr(example, field)) for field in filter_.reads])


def _plain(value: Any) -> Any:
    """A field as JSON can say it; dates and decimals of typed columns by their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
