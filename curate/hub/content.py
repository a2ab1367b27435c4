"""What is sent: the files that a bundle lists, hashed, and held against what the bundle says of them."""

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs
from curate.errors import IntegrityError, UsageError
from curate.examples.record import excerpt

if TYPE_CHECKING:
    from curate.publication import Bundle

CARD = "README.md"
FACTS = "curate/publication.json"
ROWS = re.compile(r"(?:data|scores|rejected)/[^/]+\.parquet")
RECORDS = re.compile(r"curate/(?:recipe\.yaml|lock\.json|ledger\.parquet|trial\.json|publication\.json)")
BLOCK = 1 << 20


def is_ours(path: str) -> bool:
    """Whether a publication may hold a file of this name. Nothing else is sent, replaced or deleted."""
    return path == CARD or bool(ROWS.fullmatch(path) or RECORDS.fullmatch(path))


@dataclass(frozen=True)
class Piece:
    """One file that is sent."""

    path: str
    local: Path
    bytes: int
    sha256: str
    git_oid: str
    """The id that git gives to these bytes: small files are listed by it."""
    changed_ns: int

    def is_unchanged(self) -> bool:
        """Whether the local file still is the one that was hashed, as far as its size and time tell."""
        try:
            now = self.local.lstat()
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.bytes, self.changed_ns)


@dataclass(frozen=True)
class Content:
    """Everything that a push puts into the repository."""

    folder: Path
    pieces: Mapping[str, Piece]
    facts: Mapping[str, Any]
    facts_bytes: bytes
    identity: str
    """Hash of card and facts, and through the facts of every file: equal exactly for equal publications."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by path."""
        return {path: piece.bytes for path, piece in self.pieces.items()}

    def require_unchanged(self) -> None:
        """Raise an IntegrityError if a file was written to since it was hashed: it would be sent under a wrong hash."""
        if changed := [path for path, piece in self.pieces.items() if not piece.is_unchanged()]:
            raise IntegrityError(f"{self.folder}: {', '.join(changed)} changed while it was being sent; run the command again")


def content_of(bundle: "Bundle") -> Content:
    """Hash the files of a bundle; raises when one is missing, is no file of a publication, or is not what was built."""
    folder = Path(bundle.folder)
    pieces = {path: _piece(folder, path) for path in bundle.files}
    if missing := {CARD, FACTS} - pieces.keys():
        raise IntegrityError(f"{folder}: lacks {', '.join(sorted(missing))}; build the publication again")
    facts_bytes = (folder / FACTS).read_bytes()
    facts = _fs.read_json(folder / FACTS, "files", "source", "stated", "license")
    _compare(folder, pieces, facts["files"])
    if facts != json.loads(json.dumps(bundle.facts)):
        raise IntegrityError(f"{folder}: {FACTS} is not the one that was built; build the publication again")
    identity = hashlib.sha256(pieces[FACTS].sha256.encode() + pieces[CARD].sha256.encode()).hexdigest()
    return Content(folder, pieces, facts, facts_bytes, identity)


def _piece(folder: Path, path: str) -> Piece:
    local = folder / path
    shown = excerpt(repr(path))
    if not is_ours(path):
        raise UsageError(f"{folder}: {shown} is no file of a publication, and is not sent; build the publication again")
    try:
        before = local.lstat()
        # A link could lead to any file of this machine.
        if not stat.S_ISREG(before.st_mode) or not local.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{folder}: {shown} is a link or no file; build the publication again")
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % before.st_size, usedforsecurity=False)
        with local.open("rb") as file:
            while block := file.read(BLOCK):
                sha256.update(block)
                git.update(block)
    except OSError as error:
        raise IntegrityError(f"{folder}: {shown} cannot be read ({error.strerror}); build the publication again") from error
    return Piece(path, local, before.st_size, sha256.hexdigest(), git.hexdigest(), before.st_mtime_ns)


def _compare(folder: Path, pieces: Mapping[str, Piece], listed: Mapping[str, Mapping[str, Any]]) -> None:
    if different := sorted((pieces.keys() - {CARD, FACTS}) ^ listed.keys()):
        raise IntegrityError(
            f"{folder}: {', '.join(different)}: not both there and listed in {FACTS}; build the publication again"
        )
    for path, entry in listed.items():
        if (pieces[path].bytes, pieces[path].sha256) != (entry["bytes"], entry["sha256"]):
            raise IntegrityError(f"{folder}: {path} is not the file that was built; build the publication again")
