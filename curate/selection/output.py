"""selection/: kept rows ready for TRL, a ledger of every decision, the report, and the lock that pins it all."""

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import _fs
from curate.annotations import MANIFEST, struct_type_of
from curate.annotations.store import PLAN, folder_of
from curate.errors import RecipeError
from curate.examples import stable_hash
from curate.recipes.schema import Order, Recipe, Sample
from curate.rows import FACTS, RowStore, Shard
from curate.selection.frame import Bools, Ints
from curate.selection.report import SelectionReport
from curate.selection.steps import Selection

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 50_000
"""Kept rows per file."""
_OURS = ("prompt", "completion", "row", "id", "source", "gold", "tests", "group")
_TRL = (
    "text", "messages", "conversations", "chosen", "rejected", "tools", "chat_template_kwargs", "image", "images", "input_ids",
    "labels", "completion_mask", "assistant_masks", "seq_lengths", "position_ids", "attention_mask",
)  # fmt: skip
"""Columns that SFTTrainer (trl 1.16) acts on: a user's `text` would get the EOS that belongs to the completion."""
_PACKAGES = ("curate-sft", "torch", "transformers", "datasets", "trl", "peft", "accelerate", "tokenizers", "pyarrow", "numpy")


def save_selection(selection: Selection, report: SelectionReport, out: Path) -> dict[str, Any]:
    """Write `selection/` beside the rows, replacing an earlier one only when the new is complete; returns the lock."""
    with _fs.run_folder(out):
        return _save(selection, report, out)


def _save(selection: Selection, report: SelectionReport, out: Path) -> dict[str, Any]:
    target = out / "selection"
    new = out / f"{_fs.TEMPORARY}selection"
    shutil.rmtree(new, ignore_errors=True)  # of a save that an exception ended in this process
    _fs.make_folder(new / "kept")
    parts = _write_kept(selection, new / "kept")
    ledger = _write_ledger(selection, new / "ledger.parquet")
    decision = {
        "format": _fs.FORMAT,
        "recipe": selection.recipe.as_data(),
        "rows": selection.frame.count,
        "kept": parts,
        "kept_rows": sum(part["rows"] for part in parts),
        "kept_hash": stable_hash([part["sha256"] for part in parts]),
        "ledger": ledger,
        "report": report.to_dict(),
    }
    assert decision["kept_rows"] == report.kept, "rows decided to be kept and rows written differ"
    _fs.commit_json(new / "selection.json", decision)
    _fs.replace_folder(new, target)
    lock = _lock(selection, decision, out)
    _fs.commit_json(out / "lock.json", lock)
    return lock


def _lock(selection: Selection, decision: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Everything that has to be equal for the same rows to be kept again."""
    frame, recipe = selection.frame, selection.recipe
    return {
        "format": _fs.FORMAT,
        "input": frame.rows.manifest["input"],
        "rows": {"count": frame.count, "identity": frame.rows.identity},
        "recipe": recipe.as_data(),
        "recipe_hash": stable_hash(recipe.as_data()),
        "annotations": {
            name: {"folder": store.folder.name, "fingerprint": store.plan["fingerprint"]}
            for name, store in sorted(frame.stores.items())
        },
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "seeds": _seeds(recipe),
        "kept": {"rows": decision["kept_rows"], "hash": decision["kept_hash"]},
        "files": {path.relative_to(out).as_posix(): _fs.sha256(path) for path in _pinned(selection, out)},
    }


def _pinned(selection: Selection, out: Path) -> Iterator[Path]:
    """The small files that say what the large ones must be."""
    yield selection.frame.rows.folder / MANIFEST
    for store in selection.frame.stores.values():
        folders = {store.folder, *(store.folder.parent / name for name in _derived_from(store.plan["fingerprint"]))}
        # A folder that another run holds (`--reuse`) is not ours to pin.
        yield from (folder / name for folder in sorted(folders) if folder.is_dir() for name in (PLAN, MANIFEST))
    yield out / "selection" / "selection.json"


def _derived_from(fingerprint: Mapping[str, Any]) -> Iterator[str]:
    """Names of the folders of the filters that a filter's scores were derived from."""
    for needed in fingerprint.get("depends", {}).values():
        yield folder_of(needed)
        yield from _derived_from(needed)


def _seeds(recipe: Recipe) -> dict[str, int]:
    found = {str(step): step.seed for step in recipe.steps if isinstance(step, Sample)}
    return found | {str(step): step.random for step in recipe.steps if isinstance(step, Order) and step.random is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_kept(selection: Selection, folder: Path) -> list[dict[str, Any]]:
    rows = selection.frame.rows
    conversational = _is_conversational(selection)
    tables = _gather(rows, selection.order) if _is_ordered(selection) else _in_input_order(rows, selection.kept)
    extra, rest = rows.extra_types(), rows.rest_column()
    absent = [name for name in FACTS if name not in rows.facts]  # a column of nulls would only puzzle
    writer: _fs.TableWriter | None = None
    parts: list[dict[str, Any]] = []
    for table in tables:
        ready = trl_ready(table.drop_columns(absent), extra, rest, conversational=conversational)
        if writer is None:
            writer = _fs.TableWriter(_fs.part_path(folder, len(parts)), ready.schema)
        writer.write(ready)
        if writer.rows >= PART_ROWS:
            parts.append(writer.commit())
            writer = None
    if writer is not None:
        parts.append(writer.commit())
    return parts


def _is_ordered(selection: Selection) -> bool:
    return any(isinstance(step, Order) for step in selection.recipe.steps)


def _is_conversational(selection: Selection) -> bool:
    """Kept rows are written in the layout in which they were scored; unscored recipes keep the source's own."""
    for store in selection.frame.stores.values():
        if "conversational" in store.plan["settings"]:
            return bool(store.plan["settings"]["conversational"])
    # Strings hold one turn each: a system message, or an earlier turn, asks for message lists.
    return selection.frame.rows.conversational or selection.frame.rows.manifest["most_messages"] > 2


def _in_input_order(rows: RowStore, kept: Bools) -> "Iterator[pa.Table]":
    import pyarrow as pa

    for shard in rows.shards:
        mask = kept[shard.start : shard.stop]
        if mask.any():
            yield rows.read(shard).filter(pa.array(mask))


def _gather(rows: RowStore, order: Ints) -> "Iterator[pa.Table]":
    """Rows in any order, one output file's worth in memory at a time."""
    import pyarrow as pa

    starts = np.array([shard.start for shard in rows.shards])
    for at in range(0, len(order), PART_ROWS):
        wanted = order[at : at + PART_ROWS]
        belongs = np.searchsorted(starts, wanted, side="right") - 1
        tables, places = [], []
        for index in np.unique(belongs):
            shard = rows.shards[index]
            here = np.flatnonzero(belongs == index)
            tables.append(rows.read(shard).take(pa.array(wanted[here] - shard.start)))
            places.append(here)
        yield pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(places))))


def trl_ready(table: "pa.Table", extra: Mapping[str, "pa.DataType"], rest: str | None, *, conversational: bool) -> "pa.Table":
    """Rows as SFTTrainer takes them: prompt and completion, then row, then of id, source, gold and tests what there is, then the
    user's columns.

    A user's column whose name is one of ours, or one that SFTTrainer acts on, becomes `source_NAME`. `rest` names the
    column of what has no one type.
    """
    import pyarrow as pa

    messages = table["messages"].combine_chunks()
    prompt, completion = split_messages(messages, conversational=conversational)
    columns: dict[str, Any] = {"prompt": prompt, "completion": completion}
    columns |= {name: table[name] for name in _OURS[2:] if name in table.column_names}
    for name, values in _extra_columns(table, extra, rest).items():
        free = f"source_{name}" if name in _OURS + _TRL else name
        while free in columns:
            free = f"source_{free}"
        columns[free] = values
    return pa.table(columns)


def split_messages(messages: "pa.ListArray", *, conversational: bool) -> "tuple[pa.Array, pa.Array]":
    """Prompt and completion of conversations: lists of messages, or the contents of two-message rows as strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets = messages.offsets.to_numpy()
    flat = messages.flatten()
    offsets = offsets - offsets[0]
    last = offsets[1:] - 1
    if conversational:
        is_prompt = np.ones(len(flat), dtype=bool)
        is_prompt[last] = False
        prompt = pa.ListArray.from_arrays(
            pa.array(offsets - np.arange(len(offsets)), pa.int32()), flat.filter(pa.array(is_prompt))
        )
        completion = pa.ListArray.from_arrays(pa.array(np.arange(len(last) + 1), pa.int32()), flat.take(pa.array(last)))
        return prompt, completion
    several = int((last - offsets[:-1] > 1).sum())
    if several:
        raise RecipeError(
            f"{several:,} kept rows are conversations of several turns, and the model has no chat template to train them with; "
            "pass --chat-template, or set `unscored: drop`"
        )
    content = flat.field("content")
    has_prompt = last > offsets[:-1]
    prompts = content.take(pa.array(np.where(has_prompt, offsets[:-1], 0)))
    return pc.if_else(pa.array(has_prompt), prompts, ""), content.take(pa.array(last))


def _extra_columns(table: "pa.Table", types: Mapping[str, "pa.DataType"], rest: str | None) -> "dict[str, pa.Array]":
    """The user's columns: from a struct as they are; from JSON text those of one type, and what is left as `rest`."""
    import pyarrow as pa

    column = table["extra"].combine_chunks()
    if pa.types.is_struct(column.type):
        return {field.name: column.field(index) for index, field in enumerate(column.type)}
    records = [json.loads(text) if text is not None else {} for text in column.to_pylist()]
    found = {name: pa.array([record.pop(name, None) for record in records], kind) for name, kind in types.items()}
    if rest is not None:
        found[rest] = pa.array([json.dumps(record, ensure_ascii=False) if record else None for record in records], pa.string())
    assert rest is not None or not any(records), "columns are left over that the rows' manifest does not tell of"
    return found


def _write_ledger(selection: Selection, path: Path) -> dict[str, Any]:
    """Every row's decision, the first step that rejected it, all drops that also fail, every score, its margin."""
    import pyarrow as pa

    frame = selection.frame
    failing = selection.failing()
    steps = [str(step) for step in selection.recipe.steps]
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("source", pa.string()),
            ("prompt_key", pa.string()),
            ("decision", pa.string()),
            ("rejected_by", pa.string()),
            ("is_unscored", pa.bool_()),
            ("fails", pa.list_(pa.string())),
            ("margin", pa.float64()),
            *((name, single_valued(struct_type_of(store))) for name, store in frame.stores.items()),
        ]
    )
    writer = _fs.TableWriter(path, schema)
    for shard in frame.rows.shards:
        writer.write(_ledger_part(selection, shard, steps, failing, schema))
    return writer.commit()


def _ledger_part(
    selection: Selection, shard: Shard, steps: list[str], failing: Mapping[str, Bools], schema: "pa.Schema"
) -> "pa.Table":
    import pyarrow as pa

    frame = selection.frame
    here = slice(shard.start, shard.stop)
    rejected_by = selection.rejected_by[here].tolist()
    margin = selection.margin[here]
    names = frame.rows.read(shard, ["row", "id", "source", "prompt_key"])
    fails = [[name for name, rows in failing.items() if rows[row]] for row in range(shard.start, shard.stop)]
    columns: dict[str, Any] = {name: names[name] for name in names.column_names}
    columns |= {
        "decision": ["kept" if step < 0 else "rejected" for step in rejected_by],
        "rejected_by": [None if step < 0 else steps[step] for step in rejected_by],
        "is_unscored": selection.for_being_unscored[here],
        "fails": fails,
        "margin": pa.array(margin, mask=~np.isfinite(margin)),
    }
    for name, store in frame.stores.items():
        columns[name] = store.read(shard.index, [f"{name}.{output.name}" for output in schema.field(name).type])[name]
    return pa.table(columns, schema=schema)


def single_valued(kind: "pa.StructType") -> "pa.StructType":
    """A filter's outputs without those that are lists: no step decides by them, and they would be most of the ledger."""
    import pyarrow as pa

    return pa.struct([output for output in kind if not pa.types.is_list(output.type)])
