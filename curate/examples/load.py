"""From a source to a stream of Examples."""

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from curate.errors import InputError, UsageError
from curate.examples.detection import check_targets, detect
from curate.examples.example import Example
from curate.examples.files import (
    chosen_split,
    folder_files,
    format_of,
    glob_files,
    has_card_configs,
    missing,
    one_file,
    saved_to_disk,
)
from curate.examples.layouts import Layout
from curate.examples.record import MAX_ROW_BYTES, Record, Refused, excerpt
from curate.examples.sources import EVERY_COLUMN, DatasetsObject, Files, Rows, Source


class Examples:
    """Examples that can be read any number of times, each time streamed from their source.

    Made by `load_examples`. Rows are numbered 0, 1, 2 ... in reading order; refused rows have no number, they have a place.
    """

    def __init__(self, source: Source, layout: Layout, choice: Mapping[str, Any]) -> None:
        self._source = source
        self._choice = dict(choice)
        self._notes: Counter[str] = Counter()
        self.layout = layout

    @property
    def name(self) -> str:
        """The source, as short as people would call it."""
        return self._source.name

    @property
    def origin(self) -> Mapping[str, Any]:
        """What is known of whose the rows are: `license`, `is_private`, `is_gated`."""
        return self._source.origin

    @property
    def notices(self) -> list[str]:
        """What a reader of the run should know: files left out, and values changed in the last complete pass."""
        changed = [f"{note} in {count} rows" for note, count in self._notes.items() if count]
        return [*self._source.notices, *self.layout.notices, *changed]

    def __iter__(self) -> Iterator[Example]:
        return (item for item in self.records() if isinstance(item, Example))

    def records(self) -> Iterator[Example | Refused]:
        """Examples and refused rows in reading order."""
        limit = self._choice["limit"]
        notes: Counter[str] = Counter()
        row = 0
        for item in islice(self._source.records(notes=notes, parsed=self.layout.text_columns), limit):
            result = item if isinstance(item, Refused) else self.layout.example(item.value, row, item.place)
            row += isinstance(result, Example)
            yield result
        self._notes = notes

    def extra_schema(self) -> Any:
        """Arrow schema of the columns in `Example.extra`, in types that Parquet can hold; None for JSON and CSV."""
        return self._extra_schema

    @cached_property
    def _extra_schema(self) -> Any:
        schema = self._source.schema()
        if schema is None:
            return None
        import pyarrow as pa

        from curate.examples.arrow_rows import is_fact

        taken = {*self.layout.text_columns, self.layout.group}
        for target, names in self.layout.metadata.items():
            name = next((name for name in names if name in schema.names), None)
            if name is not None and is_fact(schema.field(name).type, target):
                taken.add(name)
        return pa.schema([column for column in schema if column.name not in taken])

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides which rows come out, as JSON."""
        # The split is in the source's part: its files, its hash, or its name beside the commit.
        return {**self._source.fingerprint(), "layout": self.layout.identity(), **self._choice}

    def describe(self) -> str:
        """Source and layout, for people."""
        return "\n".join([f"{self.name}: {self.layout.name}", *(f"  {line}" for line in self.layout.describe().splitlines())])


def load_examples(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    revision: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    max_row_bytes: int = MAX_ROW_BYTES,
) -> Examples:
    """The examples of a file, folder, glob, `datasets` object, list of rows or Hub id.

    Always streams. A row that cannot be read is refused with its reason and place; it never ends the run.

    Args:
        source: a path or glob (JSON lines, JSON arrays, CSV, Parquet, Arrow, plain or compressed), a folder of such files or
            of `save_to_disk`, a Hub id `org/name` or `org/name:config`, a `datasets` object, or a list of mappings.
        columns: target to column, such as `{"prompt": "instruction", "completion": "output"}`; wins over detection.
        revision: commit, branch or tag of a Hub id.
        split: for folders, dictionaries of data sets and Hub ids; `train` unless said otherwise.
        limit: rows to read, refused ones included.
        max_row_bytes: a larger row is refused without being held.

    Raises:
        InputError: the source is missing, damaged, or holds no row that can be read.
        LayoutError: the columns do not say what is prompt and what is completion.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1")
    check_targets(columns or {})
    found = _find(source, revision=revision, split=split, max_row_bytes=max_row_bytes)
    layout = detect(_readable(found), columns, where=found.name)
    choice = {"columns": dict(columns or {}), "limit": limit, "max_row_bytes": max_row_bytes}
    return Examples(found, layout, choice)


def _readable(source: Source) -> Iterator[Mapping[str, Any]]:
    """The rows that can be read; raises an InputError where there is none in the whole source."""
    found = False
    refused: Counter[str] = Counter()
    earliest: Refused | None = None
    for item in source.records(notes=Counter(), parsed=EVERY_COLUMN):
        if isinstance(item, Record):
            found = True
            yield item.value
        else:
            earliest = earliest or item
            refused[item.reason] += 1
    if earliest is not None and not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
        first = f"{earliest.place}: {earliest.reason}: {earliest.detail}"
        raise InputError(f"{source.name}: none of {refused.total()} rows can be read ({reasons}); the first: {first}")
    if not found:
        raise InputError(f"{source.name}: 0 rows")


def _find(source: Any, *, revision: str | None, split: str | None, max_row_bytes: int) -> Source:
    """What to read, without having read a row."""
    if isinstance(source, str | os.PathLike):
        return _find_path(os.fspath(source), revision=revision, split=split, max_row_bytes=max_row_bytes)
    if revision is not None:
        raise UsageError("revision is for Hub ids; this source is a Python object")
    datasets = sys.modules.get("datasets")  # whoever holds one of its objects has imported it
    if datasets is not None and isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        source = source[chosen_split(source, split, "this dictionary of data sets")]
    elif split is not None:
        raise UsageError(f"split is {split!r}, but a {type(source).__name__} has no splits")
    if datasets is not None and isinstance(source, datasets.Dataset | datasets.IterableDataset):
        return DatasetsObject(source, max_row_bytes)
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        if source and isinstance(source[0], str | os.PathLike):
            raise UsageError("a list is taken for rows; for several files pass a folder or a glob")
        return Rows(source)
    hint = "pass a list, or datasets.Dataset.from_pandas, .from_generator or .from_list"
    raise UsageError(f"a {type(source).__name__} is no source of examples that can be read more than once; {hint}")


_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<config>[\w.-]+))?", re.ASCII)
_HUB_SCHEME = "hf://datasets/"


def _find_path(text: str, *, revision: str | None, split: str | None, max_row_bytes: int) -> Source:
    if text in ("", "-"):
        raise InputError(f"{text!r} is no file; rows are read more than once, so write standard input to a file first")
    path = Path(text).expanduser()
    hub = _HUB_ID.fullmatch(text.removeprefix(_HUB_SCHEME))
    is_there = os.path.lexists(path)
    if text.startswith(_HUB_SCHEME) or (hub and not is_there and not path.parent.exists() and not format_of(path.name)):
        if hub is None:
            raise UsageError(f"{excerpt(text)}: a Hub id is org/name or org/name:config")
        from curate.examples.hub_source import from_hub

        return from_hub(hub["id"], hub["config"], revision=revision, split=split, max_row_bytes=max_row_bytes)
    if revision is not None:
        raise UsageError(f"revision is for Hub ids; {excerpt(text)} is a local path")
    name = excerpt(text, length=500)
    if path.is_dir():
        return _folder(name, path, split, max_row_bytes)
    if split is not None:
        raise UsageError(f"split is {split!r}, but only folders, dictionaries of data sets and Hub ids have splits")
    if not is_there and glob.has_magic(text):
        return Files(name, glob_files(str(path)), max_row_bytes)
    if not is_there:
        raise missing(path, hub_id=text if hub else None)
    return Files(name, one_file(path), max_row_bytes)


def _folder(name: str, path: Path, split: str | None, max_row_bytes: int) -> Source:
    if saved := saved_to_disk(path, split):
        return Files(name, saved, max_row_bytes)
    if has_card_configs(path):
        from curate.examples.hub_source import from_card

        return from_card(path, split=split, max_row_bytes=max_row_bytes)
    return Files(name, folder_files(path, split), max_row_bytes)
