"""verify(): every committed file is what was committed, and no row is lost."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curate import _fs
from curate.annotations import MANIFEST, AnnotationStore
from curate.errors import IntegrityError
from curate.examples import stable_hash
from curate.rows import RowStore


@dataclass(frozen=True)
class Unfinished:
    """Annotations that a run has begun and not finished, which is no damage."""

    annotations: str
    committed: int
    shards: int


@dataclass(frozen=True)
class Verification:
    """What was checked, and what is wrong."""

    files: int
    bytes: int
    rows: int
    refused: int
    annotations: list[str]
    """Finished and unfinished."""
    unfinished: list[Unfinished]
    kept: int | None
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def verify(out: Path) -> Verification:
    """Re-hash all files of a run and re-check that rows read = rows committed + rows refused.

    Returns problems instead of raising on the first, so that all are seen; raises UsageError when the folder is no run's.
    """
    checker = _Checker()
    rows = RowStore(out / "rows")
    checker.rows(rows)
    # What has no plan yet holds no shard; shards without a plan have lost it.
    folders = sorted({path.parent for name in ("plan.json", "part-*") for path in (out / "annotations").glob(f"*/{name}")})
    for folder in folders:
        checker.annotations(folder, rows)
    kept = checker.selection(out, rows) if (out / "selection").is_dir() or (out / "lock.json").exists() else None
    return Verification(
        checker.files,
        checker.bytes,
        rows.count,
        int(rows.manifest["refused"]["rows"]),
        [folder.name for folder in folders],
        checker.unfinished,
        kept,
        checker.problems,
    )


def text(found: Verification) -> str:
    """The result in words."""
    head = f"{found.files} files, {found.bytes / 1e6:,.1f} MB: {found.rows:,} rows, {found.refused:,} refused, "
    head += f"{len(found.annotations)} annotations" + ("" if found.kept is None else f", {found.kept:,} kept")
    unfinished = [f"  {one.annotations}: unfinished: {one.committed} of {one.shards} shards" for one in found.unfinished]
    problems = [f"  {problem}" for problem in found.problems]
    return "\n".join([head, *unfinished, *problems, "NOT sound" if problems else "sound"])


def require_sound(found: Verification) -> None:
    """Raise IntegrityError when there is a problem."""
    if found.problems:
        raise IntegrityError(f"{len(found.problems)} problems; the first: {found.problems[0]}")


class _Checker:
    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.problems: list[str] = []
        self.unfinished: list[Unfinished] = []

    def entry(self, folder: Path, entry: dict[str, Any]) -> bool:
        """One committed file."""
        self.files += 1
        self.bytes += entry["bytes"]
        holds = _fs.entry_holds(folder, entry)
        if not holds:
            self.problems.append(f"{folder / entry['file']}: missing or not what was committed")
        return holds

    def rows(self, rows: RowStore) -> None:
        """All parts hold, rows are numbered without gap, and none is lost."""
        manifest = rows.manifest
        for part in manifest["parts"]:
            self.entry(rows.folder, part)
        self.entry(rows.folder, manifest["refused"])
        borders = [0, *(part["stop"] for part in manifest["parts"])]
        starts = [part["start"] for part in manifest["parts"]]
        if starts != borders[:-1] or borders[-1] != rows.count:
            self.problems.append(f"{rows.folder}: row numbers have gaps or repeats")
        if manifest["read"] != rows.count + manifest["refused"]["rows"]:
            self.problems.append(f"{rows.folder}: {manifest['read']} rows read, {rows.count} committed, the rest not refused")

    def annotations(self, folder: Path, rows: RowStore) -> None:
        """All shards hold and belong to these rows."""
        try:
            store = AnnotationStore(folder)
            manifest = _fs.read_json(folder / MANIFEST, "rows", "parts") if store.is_complete else None
        except IntegrityError as error:
            self.problems.append(str(error))
            return
        if store.plan["rows"]["identity"] != rows.identity:
            self.problems.append(f"{folder}: belongs to other rows")
        if store.plan["reused"] is not None:
            self.entry(folder, store.plan["reused"])
        if manifest is None:
            self.unfinished.append(Unfinished(folder.name, self._committed(store), len(store.shards)))
            return
        for part in manifest["parts"]:
            self.entry(folder, part)
        if manifest["rows"] != rows.count:
            self.problems.append(f"{folder}: {manifest['rows']} annotations for {rows.count} rows")

    def _committed(self, store: AnnotationStore) -> int:
        """Shards of an unfinished store that hold what their markers say."""
        committed = 0
        for shard in store.shards:
            path = _fs.marker_path(store.folder, shard.index)
            if path.exists():
                try:
                    committed += self.entry(store.folder, _fs.read_json(path, "file", "bytes", "sha256"))
                except IntegrityError as error:
                    self.problems.append(str(error))
        return committed

    def pinned(self, out: Path, lock: dict[str, Any]) -> None:
        """The small files that say what the large ones must be are those that the lock has seen."""
        if not isinstance(lock.get("files"), dict):
            self.problems.append(f"{out / 'lock.json'}: lists no files; run `curate select` again")
            return
        for name, digest in lock["files"].items():
            path = out / name
            if not path.is_file():
                self.problems.append(f"{path}: missing; lock.json lists it")
            elif _fs.sha256(path) != digest:
                self.problems.append(f"{path}: not what lock.json lists; run `curate select` again if you changed it")

    def selection(self, out: Path, rows: RowStore) -> int:
        """Kept rows and ledger hold, and the lock speaks of them."""
        try:
            decision = _fs.read_json(out / "selection" / "selection.json", "kept", "kept_rows", "kept_hash", "ledger")
            lock = _fs.read_json(out / "lock.json", "kept")
        except IntegrityError as error:
            self.problems.append(str(error))
            return 0
        self.pinned(out, lock)
        for part in decision["kept"]:
            self.entry(out / "selection" / "kept", part)
        self.entry(out / "selection", decision["ledger"])
        if decision["ledger"]["rows"] != rows.count:
            self.problems.append(f"{out / 'selection'}: the ledger holds {decision['ledger']['rows']} of {rows.count} rows")
        if decision["kept_hash"] != stable_hash([part["sha256"] for part in decision["kept"]]):
            self.problems.append(f"{out / 'selection' / 'selection.json'}: its hash is not that of the kept rows")
        if lock["kept"]["hash"] != decision["kept_hash"]:
            self.problems.append(f"{out / 'lock.json'}: speaks of another selection; run `curate select` again")
        for name in _foreign(out / "selection" / "kept", {part["file"] for part in decision["kept"]}):
            self.problems.append(f"{name}: not listed in selection.json")
        return int(decision["kept_rows"])


def _foreign(folder: Path, listed: set[str]) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*.parquet")) if path.name not in listed)
