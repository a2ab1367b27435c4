"""A publication as the run that it was made from: `rows/` and `annotations/` in a folder, for every later stage to read."""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import _fs
from curate.annotations import Annotations, AnnotationStore
from curate.annotations.planning import KEY
from curate.annotations.store import PLAN, arrow_type, folder_of
from curate.errors import CurateError, IntegrityError
from curate.examples import stable_hash
from curate.filters import known_filters
from curate.filters.base import REASON
from curate.publication.opened import LEDGER, Publication
from curate.recipes import Recipe
from curate.recipes.hub import HubCommit
from curate.rows import FACTS, MANIFEST, SHARD_ROWS, RowStore, rows_schema
from curate.selection.frame import Bools, Ints

if TYPE_CHECKING:
    import pyarrow as pa

NOT_PUBLISHED = "(not published)"
"""Stands for the text of a row that was not published, where a report shows it. Such a row is never kept."""
_ABSENT = [{"role": "user", "content": NOT_PUBLISHED}, {"role": "assistant", "content": NOT_PUBLISHED}]
_OURS = ("prompt", "completion", "row", "id", "source", "gold", "tests", "group")
_WORD = re.compile(r"\w{1,100}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True)
class Restored:
    """A publication as the run that it was made from."""

    annotations: Annotations
    published: Bools
    """Which rows' text is there."""
    changed: Ints
    """Published rows whose text is not what their `row_hash` says."""


def restore(publication: Publication, folder: Path) -> Restored:
    """Write `rows/` and `annotations/` of a run that has these scores, and of the text what was published.

    Where the ledger was published as it was, the shards are the same too, and so are the bytes of what is kept.
    """
    scores = _checked_scores(publication)
    borders = _borders(publication, scores.num_rows)
    published = np.zeros(scores.num_rows, dtype=bool)
    with _fitting(publication.name):
        rows = _RowsWriter(publication, scores, folder / "rows", published)
        store = rows.run(borders)
        stores = [
            _write_store(publication, name, outputs, scores, store, folder / "annotations")
            for name, outputs in sorted(publication.filters().items())
        ]
    return Restored(Annotations(store, stores), published, np.unique(np.array(rows.changed, dtype=np.int64)))


@contextlib.contextmanager
def _fitting(name: str) -> Iterator[None]:
    """Arrow's complaints about files of others are no bugs of ours."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, KeyError) as error:
        raise IntegrityError(f"{name}: its files do not fit together ({error}); ask its owner for a new push") from error


def _checked_scores(publication: Publication) -> "pa.Table":
    """The scores, one line per row, in the order of the rows."""
    table = publication.scores().combine_chunks()
    row = table["row"].to_numpy()
    if not np.array_equal(row, np.arange(len(row))):
        raise IntegrityError(f"{publication.name}: scores/ does not hold the rows 0 to {len(row) - 1} in order")
    for name in ("prompt_key", "row_hash", "characters", "kept"):
        if table[name].null_count:
            raise IntegrityError(f"{publication.name}: scores/ has rows without {name}")
    if not all(_HASH.fullmatch(value) for value in table["row_hash"].to_pylist()):
        raise IntegrityError(f"{publication.name}: scores/ has a row_hash that is no hash")
    return table


def _borders(publication: Publication, rows: int) -> list[int]:
    """Where the shards of the run began and ended: as `publication.json` says, else as the ledger was written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stops = publication.checked.shards
    if stops and stops[-1] == rows:
        return [0, *stops]
    try:
        with pq.ParquetFile(publication.path(LEDGER)) as file:
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    except (CurateError, OSError, pa.ArrowException):  # not needed for the decisions: `reproduce` says what is wrong with it
        sizes = []
    if sum(sizes) != rows or 0 in sizes:
        return [*range(0, rows, SHARD_ROWS), rows]
    return [0, *np.cumsum(sizes).tolist()]


class _Cursor:
    """The published rows of one config in the order of their numbers, a shard at a time."""

    def __init__(self, publication: Publication, config: str) -> None:
        self._tables = self._ascending(publication, config)
        self._held: pa.Table | None = None

    def _ascending(self, publication: Publication, config: str) -> "Iterator[pa.Table]":
        if self._is_ascending(publication, config):
            yield from publication.batches(config)
            return
        import pyarrow as pa  # an ordered selection: its rows have to be put back first

        yield pa.concat_tables(list(publication.batches(config))).sort_by("row")

    @staticmethod
    def _is_ascending(publication: Publication, config: str) -> bool:
        last = -1
        for table in publication.batches(config, ["row"]):
            if table["row"].null_count:
                raise IntegrityError(f"{publication.name}: {config} has rows without a number")
            rows = table["row"].to_numpy()
            if len(rows) and (rows[0] <= last or (np.diff(rows) <= 0).any()):
                return False
            last = int(rows[-1]) if len(rows) else last
        return True

    @property
    def has_more(self) -> bool:
        """Whether rows are left that no shard asked for."""
        return self._held is not None or next(self._tables, None) is not None

    def take(self, stop: int) -> "pa.Table | None":
        """All rows below `stop` that were not taken before; None where there are none."""
        import pyarrow as pa

        found = []
        while True:
            if self._held is None:
                self._held = next(self._tables, None)
            if self._held is None:
                break
            count = int(np.searchsorted(self._held["row"].to_numpy(), stop))
            found.append(self._held.slice(0, count))
            if count < self._held.num_rows:
                self._held = self._held.slice(count)
                break
            self._held = None
        tables = [table for table in found if table.num_rows]
        return pa.concat_tables(tables).combine_chunks() if tables else None


def _is_trl_ready(schema: "pa.Schema") -> bool:
    """Whether these are the columns of published rows: strings or lists of messages."""
    import pyarrow as pa

    kinds = {field.name: field.type for field in schema}
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    texts = [kinds.get("prompt"), kinds.get("completion")]
    return kinds.get("row") == pa.int64() and len(kinds) == len(schema) and texts in ([pa.string()] * 2, [turns] * 2)


class _RowsWriter:
    """`rows/` of a run that was published."""

    def __init__(self, publication: Publication, scores: "pa.Table", folder: Path, published: Bools) -> None:
        self.publication, self.scores, self.folder, self.published = publication, scores, folder, published
        self.changed: list[int] = []
        self.configs = ["default", *(["rejected"] if publication.has_rejected else [])]
        self.schema: pa.Schema | None = None
        self.plain: dict[str, dict[str, str]] = {"id": {}, "source": self._hashed_sources()}

    def _hashed_sources(self) -> dict[str, str]:
        """The names of the sources of which scores hold the hash, as far as published rows tell."""
        there = set(self.scores["source"].to_pylist())
        if not any(value is not None and _HASH.fullmatch(value) for value in there):
            return {}
        names: set[str | None] = set()
        for config in self.configs:
            if "source" in self._columns().names:
                names.update(*(table["source"].to_pylist() for table in self.publication.batches(config, ["source"])))
        return {digest: name for name in names if name is not None and (digest := stable_hash(name)) in there}

    def run(self, borders: list[int]) -> RowStore:
        """Write all shards and the manifest."""
        import pyarrow as pa

        _fs.make_folder(self.folder)
        self._columns()  # raises, before anything is made of them
        cursors = [_Cursor(self.publication, config) for config in self.configs]
        parts = []
        for index, (start, stop) in enumerate(itertools.pairwise(borders)):
            texts = [table for cursor in cursors if (table := cursor.take(stop)) is not None]
            text = pa.concat_tables(texts) if texts else None
            table = self._table(start, stop, text)
            entry = _fs.commit_table(_fs.part_path(self.folder, index), table)
            marker = {**entry, "start": start, "stop": stop, "content": stable_hash(entry["sha256"])}
            _fs.commit_json(_fs.marker_path(self.folder, index), marker)
            parts.append(marker)
        if any(cursor.has_more for cursor in cursors):
            raise IntegrityError(f"{self.publication.name}: holds rows that its scores do not know")
        self._finish(parts)
        return RowStore(self.folder)

    def _finish(self, parts: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        refused = pa.table({name: pa.array([], pa.string()) for name in ("place", "reason", "detail")})
        refusals = self.publication.facts.get("refused")
        first = self._columns()
        _fs.commit_json(
            self.folder / MANIFEST,
            {
                "format": _fs.FORMAT,
                "input": _input(self.publication),
                "origin": _origin(self.publication),
                "shard_rows": SHARD_ROWS,
                "parts": parts,
                "rows": self.scores.num_rows,
                "read": self.scores.num_rows,
                "most_messages": 0,
                "refused": _fs.commit_table(self.folder / "refused.parquet", refused),
                "refused_reasons": {"not told": refusals} if isinstance(refusals, int) and refusals > 0 else {},
                "sources": {},
                "columns": {},
                "facts": sorted(set(FACTS) & set(first.names)),
                "typed": bool(self._extra(first)),
                "layout": "prompt/completion",
                "conversational": not pa.types.is_string(first.field("prompt").type),
            },
        )

    def _columns(self) -> "pa.Schema":
        """The columns of the published rows."""
        if self.schema is None:
            table = next(self.publication.batches("default"), None)
            if table is None or not _is_trl_ready(table.schema):
                raise IntegrityError(
                    f"{self.publication.name}: data/ lacks prompt, completion or row, or has them of another type"
                )
            self.schema = table.schema
        return self.schema

    @staticmethod
    def _extra(schema: "pa.Schema") -> "list[pa.Field]":
        """The user's own columns."""
        return [field for field in schema if field.name not in _OURS]

    def _table(self, start: int, stop: int, text: "pa.Table | None") -> "pa.Table":
        """One shard of `rows/`."""
        import pyarrow as pa

        scores = self.scores.slice(start, stop - start)
        columns = self._columns()
        extra = self._extra(columns)
        schema = rows_schema(pa.schema(extra) if extra else None)
        if text is None:
            text = columns.empty_table()
        at = text["row"].to_numpy() - start
        if len(at) and (at.min() < 0 or at.max() >= stop - start or len(np.unique(at)) < len(at)):
            raise IntegrityError(f"{self.publication.name}: holds a row twice, or rows that its scores do not know")
        self.published[start + at] = True
        place = np.full(stop - start, -1, dtype=np.int64)
        place[at] = np.arange(len(at))
        indices = pa.array(place, mask=place < 0)
        hashes = [bytes.fromhex(value) for value in scores["row_hash"].to_pylist()]
        taken = {
            name: text[name].combine_chunks().take(indices) for name in columns.names if name not in ("prompt", "completion")
        }
        values: dict[str, Any] = {
            "row": scores["row"],
            "id": self._label("id", scores, text, place, start),
            "prompt_key": scores["prompt_key"],
            "content_key": pa.array(hashes, pa.binary(16)),
            "characters": scores["characters"],
            "messages": self._messages(text, place, hashes, start),
            "source": self._label("source", scores, text, place, start),
        }
        for name in ("gold", "tests", "group"):
            values[name] = taken.get(name, pa.nulls(stop - start, schema.field(name).type))
        if extra:
            values["extra"] = pa.StructArray.from_arrays([taken[field.name] for field in extra], fields=list(extra))
        else:
            values["extra"] = pa.nulls(stop - start, pa.string())
        return pa.table([_chunk(values[name]).cast(schema.field(name).type) for name in schema.names], schema=schema)

    def _label(self, name: str, scores: "pa.Table", text: "pa.Table", place: Ints, start: int) -> "pa.Array":
        """Id or source: as the published rows have it. Scores hold a hash where it is text of the row."""
        import pyarrow as pa

        said = scores[name].to_pylist()
        if name not in text.column_names:
            return pa.array(said, pa.string())
        plain = text[name].to_pylist()
        for offset, index in enumerate(place.tolist()):
            if index < 0 or plain[index] == said[offset]:
                continue
            if plain[index] is None or stable_hash(plain[index]) != said[offset]:
                self.changed.append(start + offset)
            else:
                self.plain[name][said[offset]] = plain[index]
            said[offset] = plain[index]
        # One name per source, also where a rejected row has it as a hash only.
        return pa.array([self.plain[name].get(value, value) for value in said], pa.string())

    def _messages(self, text: "pa.Table", place: Ints, hashes: list[bytes], start: int) -> list[list[dict[str, str]]]:
        """Conversations, compared with their hashes; a placeholder where the text was not published."""
        prompts, completions = text["prompt"].to_pylist(), text["completion"].to_pylist()
        characters = self.scores["characters"].slice(start, len(place)).to_pylist()
        found = []
        for offset, index in enumerate(place.tolist()):
            if index < 0:
                found.append(_ABSENT)
                continue
            key = hashes[offset].hex()
            candidates = conversations(prompts[index], completions[index])
            true = next((messages for messages in candidates if _is_text(messages) and stable_hash(messages) == key), None)
            if true is None or len(true[-1]["content"]) != characters[offset]:
                self.changed.append(start + offset)
            found.append(true or _ABSENT)
        return found


def conversations(prompt: Any, completion: Any) -> Iterator[list[dict[str, str]]]:
    """The messages that a published row can have been: strings do not say whether the prompt was the user's or the system's."""
    if isinstance(prompt, list) and isinstance(completion, list):
        yield [{"role": message["role"], "content": message["content"]} for message in prompt + completion]
        return
    answer = {"role": "assistant", "content": completion}
    yield [{"role": "user", "content": prompt}, answer]
    yield [{"role": "system", "content": prompt}, answer]


def _is_text(messages: list[dict[str, Any]]) -> bool:
    return bool(messages) and all(isinstance(value, str) for message in messages for value in message.values())


def _chunk(column: Any) -> Any:
    import pyarrow as pa

    if isinstance(column, list):
        message = pa.struct([("role", pa.string()), ("content", pa.string())])
        return pa.array(column, pa.list_(message))
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _write_store(
    publication: Publication, name: str, outputs: Mapping[str, str], scores: "pa.Table", rows: RowStore, annotations: Path
) -> AnnotationStore:
    """The annotations of one filter, as a run holds them."""
    import pyarrow as pa

    fingerprint = _fingerprint(publication, name)
    folder = annotations / folder_of(fingerprint)
    _fs.make_folder(folder)
    _fs.commit_json(
        folder / PLAN,
        {
            "format": _fs.FORMAT,
            "fingerprint": fingerprint,
            "parameters": _parameters(publication, name, fingerprint),
            "rows": {"identity": rows.identity, "count": rows.count},
            "shards": [[shard.start, shard.stop] for shard in rows.shards],
            "settings": {},
            "reused": None,
        },
    )
    store = AnnotationStore(folder)
    for shard in rows.shards:
        here = scores.slice(shard.start, shard.stop - shard.start)
        struct = _struct(publication, name, outputs, here)
        keys = rows.read(shard, ["content_key"])["content_key"]
        store.commit(shard, pa.table({"row": here["row"], "id": here["id"], KEY: keys, name: struct}))
    store.finish({})
    return store


def _struct(publication: Publication, name: str, outputs: Mapping[str, str], scores: "pa.Table") -> "pa.StructArray":
    """A filter's outputs in the order in which it declares them, and why rows are unscored."""
    import pyarrow as pa

    filter_ = known_filters().get(name)
    # What was left out is absent, not null: a recipe that reads it must not pass for one that found nothing.
    names = dict.fromkeys([*(filter_.outputs if filter_ else ()), *outputs])
    columns = {output: _chunk(scores[outputs[output]]) for output in names if output in outputs and output != REASON}
    for output, array in columns.items():
        if filter_ and output in filter_.outputs and array.type != arrow_type(filter_.outputs[output]):
            raise IntegrityError(f"{publication.name}: {name}.{output} is {array.type} in scores/; ask its owner for a new push")
    columns[REASON] = _chunk(scores[outputs[REASON]]) if REASON in outputs else pa.nulls(scores.num_rows, pa.string())
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))


def _fingerprint(publication: Publication, name: str) -> dict[str, Any]:
    """What the lock says that the scores of a filter depend on."""
    try:
        found = publication.lock["annotations"][name]["fingerprint"]
        usable = isinstance(found, dict) and found["filter"] == name and isinstance(found["version"], int)
    except (KeyError, TypeError):
        usable = False
    if not usable or not _WORD.fullmatch(name):
        raise IntegrityError(f"{publication.name}: lock.json does not say what the scores of {name} are; ask for a new push")
    return dict(found)


def _parameters(publication: Publication, name: str, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The filter's parameters: as fingerprinted, and those that only locate something as the recipe gives them."""
    try:
        given = Recipe(**json.loads(json.dumps(publication.facts["recipe"]))).all_filters.get(name, {})
    except (ValueError, TypeError):  # of filters that are not installed here
        given = publication.facts["recipe"].get("filters", {}).get(name, {})
    parameters = fingerprint.get("parameters", {})
    return {**(given if isinstance(given, dict) else {}), **(parameters if isinstance(parameters, dict) else {})}


def _input(publication: Publication) -> dict[str, Any]:
    """Where the rows come from, in the words of `rows/`: no path of this machine."""
    place, lock = publication.place, publication.lock
    if isinstance(place, HubCommit):
        source: dict[str, Any] = {"kind": "hub", "id": place.repo, "revision": place.commit, "config": "default"}
    else:
        source = {"kind": "publication", "files": [{"name": Path(publication.name).resolve().name}]}
    of = {name: lock.get(name) for name in ("input", "rows", "recipe_hash")}
    return {**source, "split": publication.split, "publication": {"sha256": _fs.sha256(publication.facts_file), "of": of}}


def _origin(publication: Publication) -> dict[str, Any]:
    """Licence and visibility, for whoever publishes the cut: a private set, or one of a private source, stays private."""
    facts, place = publication.facts, publication.place
    source = facts.get("source")
    found: dict[str, Any] = {"license": facts.get("license")}
    for name in ("is_private", "is_gated"):
        told = source.get(name) if isinstance(source, dict) else None
        found[name] = True if getattr(place, name, None) or told else getattr(place, name, told)
    return found
