"""The first stage of every run: the rows themselves, committed in shards; every later stage reads only these."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from curate import _fs, progress
from curate.errors import InputError, IntegrityError, UsageError
from curate.examples import Example, Examples, Refused, stable_hash
from curate.examples.example import UNDECLARED

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_ROWS = 512
"""Rows per shard: the unit of work, of commit and of resume. About two minutes of scoring on two CPU cores at worst."""
SHARD_BYTES = 64 << 20
"""A shard of long rows is cut here, so that memory is bounded by bytes, not by rows."""
MANIFEST = "MANIFEST.json"
FACTS = ("id", "source", "gold", "tests", "group")
"""Example fields that a data set may or may not have."""
_FACTS = ("format", "input", "parts", "rows", "read", "refused", "refused_reasons", "columns", "typed", "conversational")
_BEGUN = "begun.json"
_REFUSED = "refused.parquet"
_MOST_COLUMNS = 256
# A `long` is an integer that float64 cannot hold exactly: beside fractions it stays JSON.
_WIDER = {frozenset(("int", "float")): "float", frozenset(("int", "long")): "long"}


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` (exclusive), committed as one part."""

    index: int
    start: int
    stop: int


class RowStore:
    """The committed rows of a run. Read-only; `commit_rows` makes it."""

    def __init__(self, folder: Path) -> None:
        """Open a finished `rows/` folder; raises UsageError where there is none."""
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            if (folder.parent / "curate" / "publication.json").is_file():
                raise UsageError(f"{folder.parent}: is a publication, not a run's folder: use select, reproduce, diff or export")
            raise UsageError(f"{folder}: holds no finished rows; run `curate annotate DATA --out {folder.parent}` first")
        self.manifest = _fs.read_json(folder / MANIFEST, *_FACTS)

    @property
    def count(self) -> int:
        """Committed rows."""
        return int(self.manifest["rows"])

    @property
    def refused(self) -> Mapping[str, int]:
        """Refused rows by reason."""
        return dict(self.manifest["refused_reasons"])

    @property
    def conversational(self) -> bool:
        """Whether the source held conversations, rather than strings."""
        return bool(self.manifest["conversational"])

    @property
    def facts(self) -> list[str]:
        """Which of the optional Example fields at least one row has."""
        return [name for name in FACTS if name in self.manifest["facts"]]

    @property
    def shards(self) -> list[Shard]:
        """All shards, in row order."""
        return [Shard(index, part["start"], part["stop"]) for index, part in enumerate(self.manifest["parts"])]

    @property
    def identity(self) -> str:
        """A hash of all committed rows."""
        return stable_hash([part["sha256"] for part in self.manifest["parts"]])

    def read(self, shard: Shard, columns: Sequence[str] | None = None) -> "pa.Table":
        """One shard as an Arrow table."""
        return _fs.read_table(_fs.part_path(self.folder, shard.index), None if columns is None else list(columns))

    def examples(self, shard: Shard, *, extra: bool = False) -> list[Example]:
        """One shard as examples; the user's other columns only if asked for."""
        columns = ["row", "id", "group", "source", "gold", "tests", "messages"] + (["extra"] if extra else [])
        return [self._example(record) for record in self.read(shard, columns).to_pylist()]

    def _example(self, record: dict[str, Any]) -> Example:
        if "extra" not in record:
            return Example(**record, extra=UNDECLARED)
        extra = record.pop("extra") or {}
        return Example(**record, extra=json.loads(extra) if isinstance(extra, str) else extra)

    def __iter__(self) -> Iterator[Example]:
        """All examples, one shard in memory at a time."""
        for shard in self.shards:
            yield from self.examples(shard, extra=True)

    def extra_types(self) -> dict[str, "pa.DataType"]:
        """The user's columns and their Arrow types. For JSON input, those whose every value had one simple type."""
        import pyarrow as pa

        if self.manifest["typed"]:
            part = self.read(self.shards[0], ["extra"])
            return {field.name: field.type for field in part.schema.field("extra").type}
        simple = {
            "null": pa.string(),
            "bool": pa.bool_(),
            "int": pa.int64(),
            "long": pa.int64(),
            "float": pa.float64(),
            "string": pa.string(),
            "strings": pa.list_(pa.string()),
        }
        return {name: simple[kind] for name, kind in self.manifest["columns"].items() if kind in simple}

    def rest_column(self) -> str | None:
        """Name for the JSON text of the columns that `extra_types` leaves out; None where it leaves out none.

        Asked of the whole run, not of a shard: every file of the kept rows has the same columns.
        """
        columns, types = self.manifest["columns"], self.extra_types()
        if self.manifest["typed"] or (len(types) == len(columns) < _MOST_COLUMNS):
            return None
        name = "extra"
        while name in columns:
            name = f"source_{name}"
        return name


def commit_rows(examples: Examples, folder: Path, *, shard_rows: int = SHARD_ROWS) -> RowStore:
    """Read the whole source once and commit its rows; what is there already is compared, not trusted.

    Raises InputError when nothing can be read or when the source is not the one that the folder was begun with.
    """
    _fs.make_folder(folder)
    identity: dict[str, Any] = {"format": _fs.FORMAT, "input": examples.fingerprint(), "shard_rows": shard_rows}
    _same_input(folder, identity)
    is_anonymous = identity["input"].get("kind") == "anonymous"
    if (folder / MANIFEST).is_file() and not is_anonymous:
        store = RowStore(folder)
        if all(_fs.entry_holds(folder, entry) for entry in (*store.manifest["parts"], store.manifest["refused"])):
            return store
        progress.note(f"{folder}: damaged or missing parts are read again")
    _fs.commit_json(folder / _BEGUN, identity)
    return _Writer(examples, folder, identity, shard_rows).run()


def _same_input(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that was begun with other data; nothing of it is touched."""
    if not (folder / _BEGUN).is_file():
        return
    before = _fs.read_json(folder / _BEGUN)
    if before == identity:
        return
    was, now = ({**facts, **facts.get("input", {})} for facts in (before, identity))
    differing = next(key for key in (*was, *now) if key != "input" and was.get(key) != now.get(key))
    other = "data" if differing in ("kind", "files", "repository", "revision", "fingerprint") else "settings"
    raise InputError(
        f"{folder.parent}: was begun with other {other} ({differing}: {_brief(was.get(differing))}, "
        f"now {_brief(now.get(differing))}); choose another folder with --out"
    )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


class _Writer:
    """One pass over the source."""

    def __init__(self, examples: Examples, folder: Path, identity: Mapping[str, Any], shard_rows: int) -> None:
        self.examples, self.folder, self.identity, self.shard_rows = examples, folder, identity, shard_rows
        self.reasons: Counter[str] = Counter()
        self.sources: Counter[str | None] = Counter()
        self.kinds: dict[str, str] = {}
        self.facts: set[str] = set()
        self.read = 0
        self.most_messages = 0
        self.parts: list[dict[str, Any]] = []
        # An empty struct cannot be written to Parquet: a typed source without further columns is like an untyped one.
        self.extra_schema = examples.extra_schema() or None
        self.schema = rows_schema(self.extra_schema)

    def run(self) -> RowStore:
        with progress.measuring("reading rows"):
            refused = _fs.TableWriter(self.folder / _REFUSED, _refused_schema())
            for shard in self._shards(refused):
                self._commit(shard)
            refused_entry = refused.commit()
        count = sum(part["rows"] for part in self.parts)
        if not count:
            self._nothing(refused_entry["rows"])
        if self.read != count + refused_entry["rows"] or self.parts[-1]["stop"] != count:
            raise IntegrityError(
                f"{self.examples.name}: {self.read} rows read, {count} committed and {refused_entry['rows']} refused; "
                "rows were lost, and nothing was finished"
            )
        for stale in self.folder.glob("part-*"):
            if int(stale.stem.removeprefix("part-")) >= len(self.parts):
                raise InputError(f"{self.folder.parent}: was begun with a longer source; choose another folder with --out")
        _fs.commit_json(
            self.folder / MANIFEST,
            {
                **self.identity,
                "parts": self.parts,
                "rows": count,
                "read": self.read,
                "most_messages": self.most_messages,
                "refused": refused_entry,
                "refused_reasons": dict(sorted(self.reasons.items())),
                "sources": {str(source): number for source, number in sorted(self.sources.items(), key=str)},
                "columns": self.kinds,
                "facts": sorted(self.facts),
                "typed": self.extra_schema is not None,
                "layout": self.examples.layout.describe(),
                "conversational": self.examples.layout.is_conversational,
                "origin": dict(self.examples.origin),
            },
        )
        return RowStore(self.folder)

    def _nothing(self, refused: int) -> None:
        # Nothing was committed, so the mended data may come to the same folder.
        (self.folder / _BEGUN).unlink()
        reasons = ", ".join(f"{number} {reason}" for reason, number in self.reasons.most_common(3))
        raise InputError(
            f"{self.examples.name}: not one row could be used"
            + (f"; {refused} refused ({reasons}), see {self.folder / _REFUSED}" if refused else "; it holds 0 rows")
        )

    def _shards(self, refused: _fs.TableWriter) -> Iterator[list[Example]]:
        """Runs of examples, cut at a prompt's border where one comes within a quarter of a shard."""
        import pyarrow as pa

        held: list[Example] = []
        size = 0
        rejects: list[Refused] = []
        for record in self.examples.records():
            self.read += 1
            if isinstance(record, Refused):
                self.reasons[record.reason] += 1
                rejects.append(record)
                if len(rejects) >= SHARD_ROWS:
                    refused.write(pa.Table.from_pylist([vars(reject) for reject in rejects], schema=_refused_schema()))
                    rejects = []
                continue
            at_border = held and record.prompt_key != held[-1].prompt_key
            full = len(held) >= self.shard_rows and (at_border or len(held) >= self.shard_rows * 5 // 4)
            if full or size >= SHARD_BYTES:
                yield held
                held, size = [], 0
            held.append(record)
            size += _weight(record.messages) + _weight(record.extra)
            progress.tick(rows=1)
        if held:
            yield held
        if rejects:
            refused.write(pa.Table.from_pylist([vars(reject) for reject in rejects], schema=_refused_schema()))

    def _commit(self, shard: list[Example]) -> None:
        import pyarrow as pa

        for example in shard:
            self.sources[example.source] += 1
            self.most_messages = max(self.most_messages, len(example.messages))
            self.facts |= {name for name in FACTS if getattr(example, name) is not None}
        table = pa.Table.from_pylist([self._record(example) for example in shard], schema=self.schema)
        index = len(self.parts)
        content = _table_hash(table)
        marker = _fs.read_marker(self.folder, index)
        if marker is None:
            entry = _fs.commit_table(_fs.part_path(self.folder, index), table)
            marker = {**entry, "start": shard[0].row, "stop": shard[-1].row + 1, "content": content}
            _fs.commit_json(_fs.marker_path(self.folder, index), marker)
        elif marker["content"] != content or marker["rows"] != len(shard):
            raise InputError(
                f"{self.folder.parent}: rows {marker['start']} to {marker['stop']} of {self.examples.name} "
                "are not what they were when this folder was begun; choose another folder with --out"
            )
        self.parts.append(marker)

    def _record(self, example: Example) -> dict[str, Any]:
        extra: Any = dict(example.extra)
        if self.extra_schema is None:
            for key, value in extra.items():
                self._tally(key, value)
            extra = json.dumps(extra, ensure_ascii=False) if extra else None
        return {
            "row": example.row,
            "id": example.id,
            "prompt_key": example.prompt_key,
            "content_key": _content_key(example),
            "characters": len(example.completion),
            "messages": list(example.messages),
            "source": example.source,
            "gold": example.gold,
            "tests": None if example.tests is None else list(example.tests),
            "group": example.group,
            "extra": extra or None,
        }

    def _tally(self, key: str, value: Any) -> None:
        """Widen what is known of a column's type by one value."""
        kind = _kind(value)
        known = self.kinds.get(key)
        if known is None and len(self.kinds) >= _MOST_COLUMNS:
            return
        if known is None or known == "null":
            self.kinds[key] = kind
        elif kind not in ("null", known):
            self.kinds[key] = _WIDER.get(frozenset((kind, known)), "mixed")


def _weight(value: Any) -> int:
    """About how many bytes a value holds; what counts is that a long one counts."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_weight, value.values()))
    return sum(map(_weight, value)) if isinstance(value, (list, tuple)) else 8


def _table_hash(table: "pa.Table") -> str:
    """Hash of a table's values, whatever bytes Parquet makes of them."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return xxhash.xxh3_128_hexdigest(sink.getvalue())


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= 2**53 else "long" if -(2**63) <= value < 2**63 else "mixed"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "string"
    return "strings" if isinstance(value, list) and all(isinstance(item, str) for item in value) else "mixed"


def _content_key(example: Example) -> bytes:
    """16 bytes that are equal for equal messages."""
    return bytes.fromhex(stable_hash(list(example.messages)))


def rows_schema(extra: "pa.Schema | None") -> "pa.Schema":
    """Columns of `rows/`. The user's columns stand in `extra`: a struct of their Arrow types, or JSON text."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("prompt_key", pa.string()),
            ("content_key", pa.binary(16)),
            ("characters", pa.int64()),
            ("messages", pa.list_(message)),
            ("source", pa.string()),
            ("gold", pa.string()),
            ("tests", pa.list_(pa.string())),
            ("group", pa.string()),
            ("extra", pa.string() if extra is None else pa.struct(list(extra))),
        ]
    )


def _refused_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("place", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
