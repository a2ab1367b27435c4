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
class Verification:
    """What was checked, and what is wrong."""

    files: int
    bytes: int
    rows: int
    refused: int
    annotations: list[str]
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
    names = []
    for plan in sorted((out / "annotations").glob("*/plan.json")):
        names.append(plan.parent.name)
        checker.annotations(plan.parent, rows)
    kept = checker.selection(out, rows) if (out / "selection").is_dir() else None
    return Verification(
        checker.files, checker.bytes, rows.count, int(rows.manifest["refused"]["rows"]), names, kept, checker.problems
    )


def text(found: Verification) -> str:
    """The result in words."""
    head = f"{found.files} files, {found.bytes / 1e6:,.1f} MB: {found.rows:,} rows, {found.refused:,} refused, "
    head += f"{len(found.annotations)} annotations" + ("" if found.kept is None else f", {found.kept:,} kept")
    return "\n".join([head, *(f"  {problem}" for problem in found.problems), "sound" if not found.problems else "NOT sound"])


def require_sound(found: Verification) -> None:
    """Raise IntegrityError when there is a problem."""
    if found.problems:
        raise IntegrityError(f"{len(found.problems)} problems; the first: {found.problems[0]}")


class _Checker:
    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.problems: list[str] = []

    def entry(self, folder: Path, entry: dict[str, Any]) -> None:
        """One committed file."""
        self.files += 1
        self.bytes += entry["bytes"]
        if not _fs.entry_holds(folder, entry):
            self.problems.append(f"{folder / entry['file']}: missing or not what was committed")

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
        if manifest is None:
            return  # unfinished, which is no damage
        for part in manifest["parts"]:
            self.entry(folder, part)
        if manifest["rows"] != rows.count:
            self.problems.append(f"{folder}: {manifest['rows']} annotations for {rows.count} rows")

    def selection(self, out: Path, rows: RowStore) -> int:
        """Kept rows and ledger hold, and the lock speaks of them."""
        try:
            decision = _fs.read_json(out / "selection" / "selection.json", "kept", "kept_rows", "kept_hash", "ledger")
            lock = _fs.read_json(out / "lock.json", "kept")
        except IntegrityError as error:
            self.problems.append(str(error))
            return 0
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
