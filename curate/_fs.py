"""The only place that creates, renames and syncs stored files: a file under its final name is complete.

Protocol of a commit: write `.tmp.*` beside the target, fsync, rename, fsync the folder. A *part* (one shard) is followed by a
marker with its sha256; the manifest of a folder comes last. Whatever is not listed by a marker or manifest does not exist.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import IntegrityError, ResourceError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

TEMPORARY = ".tmp."
FORMAT = 1
"""Version of the folder layout; raised when an older `curate` could misread what a newer one wrote."""


# ENOENT: a file system that takes no new folders, such as /proc.
_NOT_WRITABLE = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.EINVAL,
    errno.ELOOP,
)


@contextlib.contextmanager
def _naming_the_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
            raise ResourceError(
                f"{path}: the disk is full ({free / 1e6:.0f} MB free); make room and run the same command again"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise UsageError(f"{path}: not writable ({os.strerror(error.errno)}); choose another folder with --out") from error
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably enough that a committed file in it survives a power loss."""
    with _naming_the_disk(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file; choose another folder with --out")
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def commit_bytes(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`, whole or not at all."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with _naming_the_disk(path):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)


def commit_json(path: Path, value: Mapping[str, Any]) -> None:
    """Commit a JSON file; equal values give equal bytes."""
    commit_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode())


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object that `commit_json` wrote; raises IntegrityError when it is anything else or lacks one of `keys`."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: not readable as JSON ({error}); restore it or start in another folder") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: holds {type(value).__name__} where an object was committed")
    if value.get("format", FORMAT) != FORMAT:
        raise IntegrityError(f"{path}: written in layout {value['format']}, this curate reads {FORMAT}")
    if missing := [key for key in keys if key not in value]:
        raise IntegrityError(f"{path}: lacks {', '.join(missing)}; restore it or start in another folder")
    return value


def sha256(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TableWriter:
    """A Parquet file that appears under its name when `commit` is called, and not before."""

    def __init__(self, path: Path, schema: "pa.Schema") -> None:
        import pyarrow.parquet as pq

        self.path = path
        self.rows = 0
        self._temporary = path.with_name(f"{TEMPORARY}{path.name}")
        with _naming_the_disk(path):
            # Page checksums: without them most flipped bits in a page are read back as wrong data (pyarrow 26).
            self._writer = pq.ParquetWriter(
                self._temporary, schema, compression="zstd", write_page_index=True, write_page_checksum=True
            )

    def write(self, table: "pa.Table") -> None:
        """Append rows, as one row group: readers find a shard's rows again by its number."""
        with _naming_the_disk(self.path):
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def commit(self) -> dict[str, Any]:
        """Close, sync and rename; returns the part's entry for a marker or manifest."""
        with _naming_the_disk(self.path):
            self._writer.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            digest, size = sha256(self._temporary), self._temporary.stat().st_size
            self._temporary.replace(self.path)
            _sync_folder(self.path.parent)
        return {"file": self.path.name, "rows": self.rows, "bytes": size, "sha256": digest}


def commit_table(path: Path, table: "pa.Table") -> dict[str, Any]:
    """Commit one Parquet file; returns its entry."""
    writer = TableWriter(path, table.schema)
    writer.write(table)
    return writer.commit()


def read_table(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """Read a committed Parquet file, with its page checksums verified."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # One file, opened as such: the dataset reader would start threads and guess partitions from the path.
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=False) as file:
            return file.read(columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{path}: damaged or missing ({error}); run `curate verify` on the folder") from error


def entry_holds(folder: Path, entry: Mapping[str, Any], *, deep: bool = True) -> bool:
    """Whether the file of an entry is the one that was committed; `deep` re-hashes it, else only its size is compared."""
    path = folder / entry["file"]
    try:
        size = path.stat().st_size
    except OSError:
        return False
    return size == entry["bytes"] and (not deep or sha256(path) == entry["sha256"])


def marker_path(folder: Path, index: int) -> Path:
    """Where the marker of part `index` lies."""
    return folder / f"part-{index:05d}.json"


def part_path(folder: Path, index: int) -> Path:
    """Where part `index` lies."""
    return folder / f"part-{index:05d}.parquet"


def read_marker(folder: Path, index: int) -> dict[str, Any] | None:
    """The marker of a part that is there, readable and true to its part; else None, and the part is made anew."""
    try:
        marker = read_json(marker_path(folder, index))
        return marker if entry_holds(folder, marker) else None
    except (IntegrityError, KeyError):
        return None


def clean(folder: Path) -> None:
    """Remove what interrupted commits left; nothing else."""
    for leftover in folder.glob(f"**/{TEMPORARY}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def replace_folder(new: Path, old: Path) -> None:
    """Put the complete folder `new` in the place of `old`. A kill in between is finished by `finish_replacement`."""
    aside = old.with_name(f"{TEMPORARY}old.{old.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    _sync_folder(old.parent)
    shutil.rmtree(aside, ignore_errors=True)


def finish_replacement(old: Path) -> None:
    """Bring back the former folder when a kill came between the two renames of `replace_folder`."""
    aside = old.with_name(f"{TEMPORARY}old.{old.name}")
    if aside.exists() and not old.exists():
        aside.rename(old)
        _sync_folder(old.parent)


@contextlib.contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder of ours, with what an interrupted run left half done finished or removed.

    A new or empty folder is taken; one that holds anything else is refused and nothing of it is touched. Inside one process a
    stage may enter the folder that its caller holds.
    """
    key = folder.resolve()
    if key in _HELD:
        yield
        return
    _take(folder)
    with only_writer(folder):
        _HELD.add(key)
        try:
            finish_replacement(folder / "selection")
            clean(folder)
            yield
        finally:
            _HELD.discard(key)


_HELD: set[Path] = set()
_OWNER = "curate.json"


def _take(folder: Path) -> None:
    if (folder / _OWNER).is_file():
        return
    # A kill may have come before the first commit; anything else is somebody's.
    if folder.is_dir() and any(path.name not in (".lock", f"{TEMPORARY}{_OWNER}") for path in folder.iterdir()):
        raise UsageError(f"{folder}: holds files that are not a run's of curate; choose an empty or new folder with --out")
    make_folder(folder)
    commit_json(folder / _OWNER, {"format": FORMAT, "what": "a run of curate: rows, annotations, selection"})


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a second process is refused at once and changes nothing."""
    with _naming_the_disk(folder):
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise UsageError(f"{folder}: in use by {owner}; wait for it or choose another folder with --out") from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)  # closing releases the lock; the file stays, so that nobody locks a deleted one
