"""Which files a path, a folder or a glob names, in which order, and what is left out."""

import glob
import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from curate.errors import InputError, UsageError, near_miss
from curate.examples.record import excerpt
from curate.examples.streams import DataFile, require_regular

_FORMATS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
}
_COMPRESSIONS: Final = (".gz", ".zst", ".bz2", ".xz")
_FAMILIES: Final = {"json": "jsonl", "tsv": "csv"}
_NO_DATA: Final = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
_SPLITS: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORDS = re.compile(r"[^A-Za-z]+")


@dataclass(frozen=True)
class FileSet:
    """The files of one source, all of one format, in reading order."""

    files: tuple[DataFile, ...]
    notices: tuple[str, ...] = ()
    """What was left out or read once instead of twice."""


def format_of(name: str) -> str | None:
    """The format that a file name promises, None if it promises none that we read."""
    stem = name.lower()
    for suffix in _COMPRESSIONS:
        stem = stem.removesuffix(suffix)
    found = _FORMATS.get(PurePosixPath(stem).suffix)
    return None if found in ("parquet", "arrow") and stem != name.lower() else found


def split_of(name: str) -> str | None:
    """The split that a relative path names in one of its words, by the Hub's rules: `data/train-00000-of-2.parquet`."""
    words = {word.lower() for word in _WORDS.split(name)}
    return next((split for split, names in _SPLITS.items() if words.intersection(names)), None)


def one_file(path: Path) -> FileSet:
    """A single file; its format may also be told from its first bytes."""
    require_regular(path)
    file = DataFile(path.name, str(path), format_of(path.name) or _sniffed(path))
    return FileSet((file,))


def _sniffed(path: Path) -> str:
    head = DataFile(path.name, str(path)).head(64)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return "json"
    known = ", ".join(_FORMATS)
    raise InputError(
        f"{excerpt(str(path))}: is in no known format; readable are {known}, each also with {', '.join(_COMPRESSIONS)}"
    )


def glob_files(pattern: str) -> FileSet:
    """All data files that match; those that are no data are left out."""
    base = Path(pattern)
    while glob.has_magic(str(base)):
        base = base.parent
    # Path.glob takes no absolute pattern.
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    found = [Path(match) for match in matches if not Path(match).is_dir()]
    if not found:
        raise InputError(f"{excerpt(pattern)}: no file matches; {in_folder(base)}")
    return _file_set(base, found, pattern, None)


def folder_files(folder: Path, split: str | None) -> FileSet:
    """The data files below a folder: of the split asked for, of `train` if the names tell splits, else all."""
    found: list[Path] = []
    scripts: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        paths = [Path(parent, name) for name in sorted(names) if not name.startswith((".", "_")) and name not in _NO_DATA]
        found += [path for path in paths if format_of(path.name)]
        scripts += [path.name for path in paths if path.suffix == ".py"]
    if not found:
        script = f"; {scripts[0]} is code, which is never run" if scripts else ""
        raise InputError(f"{excerpt(str(folder))}: holds no data file ({', '.join(_FORMATS)}){script}")
    return _file_set(folder, sorted(found, key=lambda path: path.relative_to(folder).as_posix()), str(folder), split or "")


def _file_set(base: Path, paths: list[Path], where: str, split: str | None) -> FileSet:
    """Chooses the split (None: all files), drops second names of one file, and insists on one format."""
    where = excerpt(where)
    names = {path: path.relative_to(base).as_posix() for path in paths}
    unknown = [names[path] for path in paths if not format_of(path.name)]
    paths = [path for path in paths if format_of(path.name)]
    if not paths:
        raise InputError(f"{where}: no data file ({', '.join(_FORMATS)}) matches, only {excerpt(', '.join(unknown))}")
    notices = [f"{where}: no data, left out: {_listed(unknown)}"] if unknown else []
    if split is not None:
        paths, left_out = choose_split({path: split_of(names[path]) for path in paths}, split or None, where)
        if left_out:
            notices.append(f"{where}: left out: {_listed(names[path] for path in left_out)}")
    unique: dict[tuple[int, int], Path] = {}
    twice: list[str] = []
    for path in paths:
        require_regular(path)
        key = (path.stat().st_dev, path.stat().st_ino)
        if unique.setdefault(key, path) is not path:
            twice.append(names[path])
    if twice:
        notices.append(f"{where}: read once though named twice: {_listed(twice)}")
    files = tuple(DataFile(names[path], str(path), format_of(path.name) or "") for path in unique.values())
    require_one_format(files, where)
    return FileSet(files, tuple(notices))


def choose_split(splits: dict[Path, str | None], wanted: str | None, where: str) -> tuple[list[Path], list[Path]]:
    """The files of a split and those left out. Without any split in the names, all files are the split `train`."""
    known = {split for split in splits.values() if split}
    if not known and wanted in (None, "train"):
        return list(splits), []
    name = chosen_split(known, wanted, where)
    chosen = [path for path, split in splits.items() if split == name]
    return chosen, [path for path, split in splits.items() if split != name]


def chosen_split(known: Collection[Any], wanted: str | None, where: str) -> str:
    """The split asked for, or `train`; an InputError lists the splits if there is no such one."""
    if (wanted or "train") in known:
        return wanted or "train"
    found = ", ".join(sorted(map(str, known))) or "none"
    raise InputError(f"{where}: has no split {wanted or 'train'!r}; splits found: {found}; say which with split")


def saved_to_disk(folder: Path, split: str | None) -> FileSet | None:
    """The Arrow files of a folder that `save_to_disk` wrote, None for any other folder."""
    if (folder / "dataset_dict.json").is_file():
        names = _json_object(folder / "dataset_dict.json").get("splits", [])
        return saved_to_disk(folder / _plain_name(chosen_split(names, split, excerpt(str(folder))), folder), None)
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return None
    if split is not None:
        raise UsageError(f"split is {split!r}, but {excerpt(str(folder))} holds one saved data set without splits")
    listed = _json_object(folder / "state.json").get("_data_files", [])
    names = [_plain_name(entry.get("filename"), folder) for entry in listed if isinstance(entry, dict)]
    if not names:
        raise InputError(f"{excerpt(str(folder))}: 0 rows: its state.json lists no data files")
    return FileSet(tuple(DataFile(name, str(folder / name), "arrow") for name in names))


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{excerpt(str(path))}: is no JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def _plain_name(name: Any, folder: Path) -> str:
    """A name that stays inside the folder: the file that lists it may come from anyone."""
    if isinstance(name, str) and name == PurePosixPath(name).name and name not in ("", "..", "."):
        return name
    raise InputError(f"{excerpt(str(folder))}: lists a file outside of the folder: {excerpt(repr(name))}")


def has_card_configs(folder: Path) -> bool:
    """Whether the folder's README.md says itself which files make which split."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    with card.open("rb") as stream:
        head = stream.read(1 << 16).decode("utf-8", "replace")
    parts = re.split(r"^---\s*$", head, maxsplit=2, flags=re.MULTILINE)
    return len(parts) == 3 and not parts[0].strip() and bool(re.search(r"^configs:", parts[1], re.MULTILINE))


def require_one_format(files: Iterable[DataFile], where: str) -> None:
    """Raise an InputError if the files are of several formats: their columns would not have the same types."""
    formats: dict[str, str] = {}
    for file in files:
        formats.setdefault(_FAMILIES.get(file.format, file.format), file.name)
    if len(formats) > 1:
        found = ", ".join(f"{kind} ({excerpt(name)})" for kind, name in formats.items())
        raise InputError(f"{where}: mixes formats: {found}; choose one with a glob such as '{where}/*.{next(iter(formats))}*'")


def missing(path: Path, *, hub_id: str | None) -> InputError:
    """The error for a path that does not exist, with the nearest name beside it."""
    shown = excerpt(str(path), length=500)
    hub = f" (on the Hub? hf://datasets/{hub_id})" if hub_id and not format_of(path.name) else ""
    try:
        return InputError(f"{shown}: no such file or folder; {in_folder(path.parent, path.name)}{hub}")
    except OSError as error:
        return InputError(f"{shown}: cannot be read: {error.strerror}")


def in_folder(folder: Path, name: str = "") -> str:
    """What a folder has to offer instead of a name that it has not."""
    if not folder.is_dir():
        return f"there is no folder {excerpt(str(folder))} either"
    names = [excerpt(path.name, length=60) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    hint = near_miss(name, names[:500], listing="") if name else ""
    if hint.startswith("did you mean"):
        return hint
    return f"{excerpt(str(folder))} holds: {_listed(names)}"


def _listed(names: Iterable[str]) -> str:
    listed = [excerpt(name, length=60) for name in names]
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "") if listed else "nothing"
