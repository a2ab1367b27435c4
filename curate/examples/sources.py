"""Where rows come from: files, a `datasets` object, a list. Each can be read again from the start."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import xxhash

from curate.errors import InputError
from curate.examples.csv_rows import read_csv
from curate.examples.example import stable_hash
from curate.examples.files import FileSet
from curate.examples.json_rows import MAX_DEPTH, NONFINITE, depth, finite, half_pair, read_json
from curate.examples.record import Record, Refused, excerpt
from curate.examples.streams import DataFile

_FULL_HASH_BYTES = 256_000_000
_SAMPLE_BYTES = 1_000_000


class _Everything(Collection[str]):
    """Contains every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


EVERY_COLUMN = _Everything()
"""For `parsed`: all columns whose JSON type becomes Python values."""


class Source(Protocol):
    """Raw rows that can be read again from the start."""

    @property
    def name(self) -> str:
        """The source, as short as people would call it."""

    @property
    def notices(self) -> Sequence[str]:
        """What was left out."""

    @property
    def origin(self) -> Mapping[str, Any]:
        """What is known of whose the rows are: `license`, `is_private`, `is_gated`; no part of the fingerprint."""

    def records(self, *, notes: Counter[str], parsed: Collection[str]) -> Iterator[Record | Refused]:
        """All rows. `notes` counts what was changed; `parsed` names the columns whose JSON type becomes Python values."""

    def schema(self) -> Any:
        """The Arrow schema in plain types, None where rows have no types."""

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from other data, as JSON."""


@dataclass(frozen=True)
class Files:
    """Data files of one format."""

    name: str
    file_set: FileSet
    max_row_bytes: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What already names the content for good, such as a commit on the Hub; without it the bytes are hashed."""
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notices(self) -> Sequence[str]:
        """What was left out."""
        return self.file_set.notices

    def records(self, *, notes: Counter[str], parsed: Collection[str]) -> Iterator[Record | Refused]:
        """All rows of all files, one file after another."""
        for file in self.file_set.files:
            yield from self._file_records(file, notes, parsed)

    def _file_records(self, file: DataFile, notes: Counter[str], parsed: Collection[str]) -> Iterator[Record | Refused]:
        if file.format in ("jsonl", "json"):
            return read_json(file, max_row_bytes=self.max_row_bytes, notes=notes)
        if file.format in ("csv", "tsv"):
            return read_csv(file, max_row_bytes=self.max_row_bytes)
        from curate.examples.arrow_rows import read_arrow, read_parquet

        read = read_parquet if file.format == "parquet" else read_arrow
        return read(file, max_row_bytes=self.max_row_bytes, parsed=parsed)

    def schema(self) -> Any:
        """The columns of all files together, None for JSON and CSV."""
        return self._schema

    @cached_property
    def _schema(self) -> Any:
        if self.file_set.files[0].format not in ("parquet", "arrow"):
            return None
        from curate.examples.arrow_rows import schema_of, union_schema

        return union_schema((str(file), schema_of(file)) for file in self.file_set.files)

    def fingerprint(self) -> dict[str, Any]:
        """Names, sizes and hashes of the files."""
        if self.identity:
            return dict(self.identity)
        return {"kind": "files", "files": [_file_fingerprint(file) for file in self.file_set.files]}


def _file_fingerprint(file: DataFile) -> dict[str, Any]:
    size = Path(file.location).stat().st_size
    digest = xxhash.xxh3_128()
    with file.open_raw() as raw:
        if size <= _FULL_HASH_BYTES:
            while block := raw.read(1 << 20):
                digest.update(block)
            return {"name": file.name, "bytes": size, "xxh3_128": digest.hexdigest()}
        for start in (0, size // 2, size - _SAMPLE_BYTES):
            raw.seek(start)
            digest.update(raw.read(_SAMPLE_BYTES))
    return {
        "name": file.name,
        "bytes": size,
        "xxh3_128_of_samples": digest.hexdigest(),
        "samples": "1 MB each: head, middle, tail",
    }


@dataclass(frozen=True)
class Rows:
    """Rows that the caller holds: a list of mappings."""

    rows: Sequence[Any]
    name: str = "rows"
    notices: Sequence[str] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def records(self, *, notes: Counter[str], parsed: Collection[str]) -> Iterator[Record | Refused]:
        """Each mapping with text keys; anything else is refused."""
        for index, value in enumerate(self.rows):
            yield _checked(value, f"{self.name}[{index}]", notes)

    def schema(self) -> Any:
        """None: Python values may be of any type."""
        return

    def fingerprint(self) -> dict[str, Any]:
        """A hash of the rows if JSON can hold them; else nothing can be said."""
        digest = xxhash.xxh3_128()
        try:
            for row in self.rows:
                digest.update(stable_hash(row).encode())
        except (TypeError, ValueError, RecursionError):
            return {"kind": "anonymous"}
        return {"kind": "rows", "rows": len(self.rows), "xxh3_128": digest.hexdigest()}


def _checked(value: Any, place: str, notes: Counter[str]) -> Record | Refused:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return Refused(place, "not_object", f"{type(value).__name__}: {excerpt(repr(value), length=100)}")
    if depth(value) > MAX_DEPTH:
        return Refused(place, "too_deep", f"nested deeper than {MAX_DEPTH} levels")
    if half := half_pair(value):
        return Refused(place, "surrogate", half)
    try:
        json.dumps(value, allow_nan=False)
    except TypeError as error:
        return Refused(place, "value", f"{error}; datasets.Dataset.from_list(rows) gives such values a type")
    except ValueError:
        notes[NONFINITE] += 1
        value = finite(value)
    return Record(place, value)


@dataclass(frozen=True)
class DatasetsObject:
    """A `datasets.Dataset` or `IterableDataset`."""

    dataset: Any
    max_row_bytes: int
    name: str = "dataset"
    notices: Sequence[str] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def records(self, *, notes: Counter[str], parsed: Collection[str]) -> Iterator[Record | Refused]:
        """All rows: as Arrow where the types are known, so that images stay bytes and no value is decoded."""
        from datasets.exceptions import DatasetsError
        from datasets.table import CastError

        try:
            if self.dataset.features is None:
                for index, value in enumerate(self.dataset):
                    yield _checked(value, f"{self.name}:row {index}", notes)
                return
            from curate.examples.arrow_rows import rows_of

            batches = self.dataset.with_format("arrow").iter(batch_size=64)
            yield from rows_of(batches, self.name, max_row_bytes=self.max_row_bytes, parsed=parsed)
        except (DatasetsError, CastError) as error:
            raise InputError(f"{self.name}: datasets cannot read on: {excerpt(str(error), length=400)}") from error

    def schema(self) -> Any:
        """The data set's types; None for a stream that has not said them."""
        if self.dataset.features is None:
            return None
        from curate.examples.arrow_rows import plain_schema

        return plain_schema(self.dataset.features.arrow_schema, self.name)

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint that `datasets` keeps; streams have none."""
        fingerprint = getattr(self.dataset, "_fingerprint", None)
        if self.identity:
            return dict(self.identity)
        return {"kind": "dataset", "fingerprint": fingerprint} if fingerprint else {"kind": "anonymous"}
