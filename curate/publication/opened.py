"""A publication opened for reading: in a local folder, or on the Hub at one commit. Every file is checked before it is used."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from curate import _fs
from curate.errors import InputError, IntegrityError, RecipeError, UsageError
from curate.examples.record import excerpt
from curate.recipes import Recipe, load_recipe
from curate.recipes.hub import RECIPE, HubCommit, is_on_hub, resolve
from curate.recipes.loading import MOST_BYTES as MOST_RECIPE_BYTES

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FACTS = "curate/publication.json"
LOCK = "curate/lock.json"
LEDGER = "curate/ledger.parquet"
FOLDERS = {"default": "data", "scores": "scores", "rejected": "rejected"}
"""Where the files of each config lie."""
SCORES = {
    "row": "int64",
    "id": "string",
    "source": "string",
    "prompt_key": "string",
    "row_hash": "string",
    "characters": "int64",
    "kept": "bool",
    "rejected_by": "string",
    "margin": "double",
}
"""The columns of `scores` that stand before those of the filters."""
SCORE_TYPES = ("double", "int64", "bool", "string")
BATCH_ROWS = 1_000
BATCH_BYTES = 32 << 20
MOST_FACTS_BYTES = 16 << 20
MOST_JSON_BYTES = 256 << 20
MOST_BATCH_BYTES = 1 << 30
"""A batch of a thousand rows that is larger than this once decoded is no batch of training rows."""
MOST_ROWS = 1 << 40
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}", re.ASCII)
_SPLIT = re.compile(r"\w+(?:\.\w+)*", re.ASCII)
# One slash or two: as a path `https://` has lost one.
_ADDRESS = re.compile(r"https?:/{1,2}(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)", re.ASCII)
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_COLUMN = re.compile(r"\w{1,200}", re.ASCII)
_FIELD = re.compile(r"\w+\.\w+", re.ASCII)


class Place(Protocol):
    """Where the files of a publication lie."""

    def __str__(self) -> str:
        """For people."""

    def fetch(self, path: str, *, most_bytes: int, size: int | None = None, again: bool = False) -> Path:
        """A local copy of one file."""


@dataclass(frozen=True)
class LocalFolder:
    """A publication on this machine."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def fetch(self, path: str, *, most_bytes: int, size: int | None = None, again: bool = False) -> Path:
        """The file as it lies there; its size is compared."""
        found = self.folder / path
        if not found.is_file():
            raise InputError(f"{found}: missing; the publication lists it: copy the whole folder, or fetch it again")
        actual = found.stat().st_size
        if size is not None and actual != size:
            raise IntegrityError(f"{found}: {actual:,} bytes where {size:,} were published; fetch it again")
        if actual > most_bytes:
            raise InputError(f"{found}: {actual:,} bytes; at most {most_bytes:,} are read")
        return found


@dataclass(frozen=True)
class Facts:
    """What `publication.json` says, checked: it may come from anybody."""

    data: Mapping[str, Any]
    split: str
    rows: int
    kept: int
    files: Mapping[str, Mapping[str, Any]]
    columns: Mapping[str, str]
    """Column of `scores` -> `filter.output`."""
    left_out: tuple[str, ...]
    """Outputs of filters that were not published, as `filter.output`."""
    shards: tuple[int, ...]
    """Where each shard of the run ends; empty where it is not told."""


class Publication:
    """A publication, read-only. A file is fetched when it is first asked for, and used only if its hash is the one published."""

    def __init__(self, place: Place) -> None:
        """Read and check `publication.json`; nothing else is fetched."""
        self.place = place
        self.name = str(place)
        self.facts_file = place.fetch(FACTS, most_bytes=MOST_FACTS_BYTES)
        self.checked = check_facts(_json(self.facts_file, f"{self.name}: {FACTS}"), f"{self.name}: {FACTS}")
        self._verified: dict[str, Path] = {}

    def __repr__(self) -> str:
        return f"Publication({self.name!r})"

    @property
    def facts(self) -> Mapping[str, Any]:
        """The content of `publication.json`."""
        return self.checked.data

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.checked.split

    @property
    def commit(self) -> str | None:
        """The commit on the Hub; None for a folder."""
        return self.place.commit if isinstance(self.place, HubCommit) else None

    @property
    def has_rejected(self) -> bool:
        """Whether the rejected rows were published too."""
        return bool(self.shards("rejected"))

    def shards(self, config: str) -> list[str]:
        """The files of a config, in order. Raises IntegrityError where one of the sequence lacks."""
        pattern = re.compile(rf"{FOLDERS[config]}/{re.escape(self.split)}-(\d{{5}})-of-(\d{{5}})\.parquet", re.ASCII)
        found = sorted((int(match[1]), int(match[2]), path) for path in self.checked.files if (match := pattern.fullmatch(path)))
        if [(index, count) for index, count, _ in found] != [(index, len(found)) for index in range(len(found))]:
            raise IntegrityError(f"{self.name}: the files of {FOLDERS[config]}/ are not a whole sequence; ask for a new push")
        return [path for _, _, path in found]

    def fetch(self, path: str, *, again: bool = False) -> Path:
        """A file that `publication.json` lists, not yet compared with its hash."""
        entry = self.checked.files.get(path)
        if entry is None:
            raise InputError(f"{self.name}: holds no {path}; it lists {', '.join(sorted(self.checked.files)[:8]) or 'nothing'}")
        most = MOST_ROWS if path.endswith(".parquet") else MOST_RECIPE_BYTES if path == RECIPE else MOST_JSON_BYTES
        return self.place.fetch(path, most_bytes=most, size=entry["bytes"], again=again)

    def path(self, path: str) -> Path:
        """A file that `publication.json` lists, with the bytes that were published. Raises IntegrityError for any other."""
        if path not in self._verified:
            found = self.fetch(path)
            if not self.holds(path, found) and self.commit is not None:
                found = self.fetch(path, again=True)  # a damaged copy in the cache is not the owner's doing
            if not self.holds(path, found):
                raise IntegrityError(f"{self.name}: {path}: not the bytes that were published; fetch it again, or ask its owner")
            self._verified[path] = found
        return self._verified[path]

    def holds(self, path: str, found: Path) -> bool:
        """Whether these are the bytes that `publication.json` speaks of."""
        entry = self.checked.files[path]
        return bool(found.stat().st_size == entry["bytes"] and _fs.sha256(found) == entry["sha256"])

    @cached_property
    def lock(self) -> dict[str, Any]:
        """`lock.json`: what the selection was made from."""
        return _json(self.path(LOCK), f"{self.name}: {LOCK}")

    def recipe(self) -> Recipe:
        """The recipe that made the selection."""
        path = self.path(RECIPE)
        try:
            return load_recipe(path)
        except RecipeError as error:
            raise RecipeError(str(error).replace(str(path), f"{self.name}: {RECIPE}")) from error

    def scores(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """One line per row that was read: identity, decision and every published score; no text."""
        import pyarrow as pa

        tables = list(self.batches("scores", columns))
        table = pa.concat_tables(tables) if tables else None
        if table is None or table.num_rows != self.checked.rows:
            found = 0 if table is None else table.num_rows
            raise IntegrityError(f"{self.name}: scores/ holds {found:,} rows where {self.checked.rows:,} are announced")
        return table

    def kept(self) -> "pa.Table":
        """The kept rows, ready for TRL."""
        return self._all("default")

    def rejected(self) -> "pa.Table | None":
        """The rejected rows in the same layout; None where they were not published."""
        return self._all("rejected") if self.has_rejected else None

    def ledger(self) -> "pa.Table":
        """Every row's decision, with all drops that it fails and every score."""
        return _fs.read_table(self.path(LEDGER))

    def _all(self, config: str) -> "pa.Table":
        import pyarrow as pa

        tables = list(self.batches(config))
        if not tables:
            raise IntegrityError(f"{self.name}: lists no files of {FOLDERS[config]}/; ask for a new push")
        return pa.concat_tables(tables)

    def batches(self, config: str, columns: Sequence[str] | None = None) -> "Iterator[pa.Table]":
        """The rows of a config in batches of at most a thousand; what is decoded is bounded, whatever a file claims."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = None
        for shard in self.shards(config):
            where = f"{self.name}: {shard}"
            try:
                with pq.ParquetFile(self.path(shard), page_checksum_verification=True, memory_map=False) as file:
                    if config == "scores":
                        self._check_scores(file.schema_arrow, where)
                    if schema is not None and not file.schema_arrow.equals(schema):
                        raise IntegrityError(f"{where}: has other columns than the first file; ask for a new push")
                    schema = file.schema_arrow
                    wanted = None if columns is None else list(columns)
                    for batch in file.iter_batches(_batch_rows(file), columns=wanted, use_threads=False):
                        if batch.nbytes > MOST_BATCH_BYTES:
                            raise InputError(f"{where}: {batch.num_rows} rows decode to {batch.nbytes / 1e6:,.0f} MB; not read")
                        yield pa.Table.from_batches([batch])
            except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
                raise IntegrityError(f"{where}: not readable as Parquet ({excerpt(str(error))}); ask for a new push") from error

    def _check_scores(self, schema: "pa.Schema", where: str) -> None:
        """Raise IntegrityError where the columns are not those of a publication."""
        types = {field.name: str(field.type) for field in schema}
        lacking = [name for name, kind in SCORES.items() if types.get(name) != kind]
        lacking += [name for name in self.checked.columns if types.get(name) not in SCORE_TYPES]
        if lacking:
            raise IntegrityError(f"{where}: lacks the columns {', '.join(lacking[:8])}, or has them of another type")

    def filters(self) -> dict[str, dict[str, str]]:
        """For every filter whose scores were published: output -> column of `scores`."""
        found: dict[str, dict[str, str]] = {}
        for column, field in self.checked.columns.items():
            name, _, output = field.partition(".")
            found.setdefault(name, {})[output] = column
        return found


def is_publication(source: str | Path) -> bool:
    """Whether this is a publication's folder, or names a data set on the Hub."""
    return is_on_hub(source) or (Path(source) / FACTS).is_file()


def existing_folder(source: str | Path) -> Path:
    """The folder that is meant. Raises UsageError where there is none, with how a data set on the Hub is written."""
    folder, text = Path(source), str(source)
    if found := _ADDRESS.match(text):
        raise UsageError(f"{text[:200]}: an address of a page; write hf://datasets/{found[1]}")
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; name the folder that holds it, or hf://datasets/USER/NAME")
    if not folder.is_dir():
        hint = f" (on the Hub? hf://datasets/{text})" if _REPO.fullmatch(text) else ""
        raise UsageError(f"{folder}: no such folder: it holds neither a selection nor a publication{hint}")
    return folder


def open_publication(source: str | Path, *, revision: str | None = None) -> Publication:
    """A publication in a local folder, or of `hf://datasets/USER/NAME[@REVISION]`, pinned to the commit that this names now.

    Raises UsageError where there is no such folder, InputError where it holds none, IntegrityError where its `publication.json`
    is not what `curate` writes.
    """
    if is_on_hub(source):
        return Publication(resolve(str(source), revision=revision))
    folder = existing_folder(source)
    if revision is not None:
        raise UsageError(f"{folder}: --revision is for the Hub: hf://datasets/USER/NAME")
    if not (folder / FACTS).is_file():
        is_run = (folder / "rows").is_dir() or (folder / "selection").is_dir()
        advice = "it is a run's folder; `curate push` makes a publication of it" if is_run else "it is no publication of curate"
        raise InputError(f"{folder}: holds no {FACTS}: {advice}")
    return Publication(LocalFolder(folder))


def _batch_rows(file: "pq.ParquetFile") -> int:
    """Fewer rows at a time where a file says that they are long."""
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    longest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return int(min(BATCH_ROWS, max(1.0, BATCH_BYTES / max(1.0, longest))))


def _json(path: Path, where: str) -> dict[str, Any]:
    """A JSON object that may come from anybody."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(path.read_bytes(), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{where}: not readable as JSON ({excerpt(str(error))}); fetch it again, or ask its owner"
        ) from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: holds a {type(value).__name__} where an object was published")
    return value


def check_facts(data: Mapping[str, Any], where: str) -> Facts:
    """What `publication.json` says, or IntegrityError: paths that lead elsewhere, wrong types, impossible numbers."""

    def wrong(key: str, what: str) -> IntegrityError:
        return IntegrityError(f"{where}: {key}: {what}; it is damaged, or not written by curate")

    def get(key: str, kind: type) -> Any:
        value = data.get(key)
        if type(value) is not kind:
            raise wrong(key, f"{'missing' if value is None else f'a {type(value).__name__}'} where {kind.__name__} is wanted")
        return value

    if data.get("format") != _fs.FORMAT:
        found = excerpt(repr(data.get("format")))
        raise InputError(f"{where}: written in layout {found}, this curate reads {_fs.FORMAT}; install a newer curate")
    if not _SPLIT.fullmatch(split := get("split", str)):
        raise wrong("split", f"{excerpt(repr(split))} is no name of a split")
    rows, kept = get("rows", int), get("kept", int)
    if not 0 <= kept <= rows <= MOST_ROWS:
        raise wrong("rows", f"{excerpt(str(kept))} kept of {excerpt(str(rows))} rows cannot be")
    files = get("files", dict)
    for path, entry in files.items():
        if not _is_safe(path):
            raise wrong("files", f"{excerpt(repr(path))} is no path inside a publication")
        if not _is_entry(entry):
            raise wrong("files", f"the entry of {path} does not give its bytes and sha256")
    columns = get("columns", dict)
    for column, field in columns.items():
        if not (isinstance(field, str) and _FIELD.fullmatch(field) and _COLUMN.fullmatch(column)) or column in SCORES:
            raise wrong("columns", f"{excerpt(repr(column))} is said to be {excerpt(repr(field))}")
    if len(set(columns.values())) < len(columns):
        raise wrong("columns", "two columns are said to be the same score")
    left_out = data.get("left_out", [])
    if not isinstance(left_out, list | dict) or not all(isinstance(field, str) and _FIELD.fullmatch(field) for field in left_out):
        raise wrong("left_out", "not a list of `filter.output`")
    shards = data.get("shards", [])
    if not isinstance(shards, list) or not all(type(stop) is int for stop in shards):
        raise wrong("shards", "not a list of row numbers")
    if any(stop <= start for start, stop in itertools.pairwise([0, *shards])) or shards[-1:] not in ([], [rows]):
        raise wrong("shards", f"do not divide {rows:,} rows")
    for key, kind in (("recipe", dict), ("recipe_hash", str), ("kept_hash", str), ("configs", list)):
        get(key, kind)
    filters, steps = data["recipe"].get("filters", {}), data["recipe"].get("steps", [])
    if not isinstance(filters, dict) or not isinstance(steps, list):
        raise wrong("recipe", "its filters are no mapping, or its steps no list")
    return Facts(data, split, rows, kept, files, columns, tuple(left_out), tuple(shards))


def _is_safe(path: str) -> bool:
    """Two or three plain names: nothing that leads out of the folder, on any system."""
    parts = path.split("/")
    return 2 <= len(parts) <= 3 and all(_NAME.fullmatch(part) and ".." not in part for part in parts) and path != FACTS


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and 0 <= entry["bytes"] <= MOST_ROWS
        and isinstance(entry.get("sha256"), str)
        and re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) is not None
        and (entry.get("rows") is None or (type(entry["rows"]) is int and 0 <= entry["rows"] <= MOST_ROWS))
    )
