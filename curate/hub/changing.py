"""What lies between the files that a branch shows and a publication: what is added, what goes, and what is nobody's business."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from curate import progress
from curate.errors import NetworkError, UsageError
from curate.examples.record import excerpt
from curate.hub.content import FACTS, ROWS, Content, Piece, is_ours
from curate.hub.remote import MOST_FACTS_BYTES, Entry, Head, Made, Remote

MARK = "curate-publication: "
"""Stands before the identity in the description of a commit."""


@dataclass(frozen=True)
class Change:
    """What a commit has to do."""

    added: list[Piece]
    deleted: list[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted)

    @property
    def bytes(self) -> int:
        """Size of what is added."""
        return sum(piece.bytes for piece in self.added)


class Comparison:
    """Holds heads of a repository against one publication."""

    def __init__(self, content: Content, remote: Remote) -> None:
        self.content, self.remote = content, remote
        self._earlier: dict[str, set[str]] = {}
        self._told = False

    def change(self, head: Head) -> Change:
        """What must be added and deleted. Raises a UsageError if rows lie there that no publication lists."""
        pieces, earlier = self.content.pieces, self._earlier_files(head)
        if foreign := sorted(path for path in head.files if ROWS.fullmatch(path) and path not in earlier):
            raise UsageError(
                f"{self.remote.repo}: holds {listed(foreign)}, which curate did not publish, and neither replaces nor mixes with "
                "its own rows; choose another repository, or delete them there"
            )
        added = [piece for path, piece in pieces.items() if not holds(head.files.get(path), piece)]
        return Change(added, sorted(path for path in head.files if is_ours(path) and path not in pieces))

    def _earlier_files(self, head: Head) -> set[str]:
        """What the publication that the head shows says it consists of; empty where there is none that can be read."""
        entry = head.files.get(FACTS)
        if entry is None or entry.bytes > MOST_FACTS_BYTES:
            return set()
        if entry.holds(self.content.pieces[FACTS]):
            return set(self.content.pieces)
        if head.sha not in self._earlier:
            try:
                self._earlier[head.sha] = set(json.loads(self.remote.content(FACTS, head.sha))["files"])
            except (ValueError, KeyError, TypeError):
                self._earlier[head.sha] = set()
        return self._earlier[head.sha]

    def landed(self, since: Iterable[Made]) -> str | None:
        """The commit of this very publication among others."""
        mark = f"{MARK}{self.content.identity}"
        return next((made.sha for made in since if mark in f"{made.title}\n{made.message}"), None)

    def require_not_published(self, first: Head, now: Head, since: list[Made]) -> None:
        """Raise a NetworkError if files of a publication changed since the push began."""
        if ours := _changed(first.files.keys() | now.files.keys(), first, now):
            made = since[0] if since else Made(now.sha, "", "", ())
            by = f" by {excerpt(', '.join(made.authors))}" if made.authors else ""
            raise NetworkError(
                f"{self.remote.repo}: commit {made.sha[:12]} ({excerpt(made.title, length=80)}){by} changed {listed(ours)} "
                "while this push ran; nothing of it was published: look at that commit, and run the command again to replace it"
            )

    def note_edits(self, head: Head, change: Change, revision: str) -> None:
        """Tell which files were changed by hand since the last publication and are replaced now."""
        if FACTS not in head.files or self._told:
            return
        self._told = True
        history = self.remote.commits_since(None, revision)
        last = next((made for made in history if MARK in made.message), None)
        if last is None or last.sha == head.sha:
            return
        then = Head(last.sha, head.is_private, self.remote.files(last.sha))
        if edited := _changed({piece.path for piece in change.added} & head.files.keys(), then, head):
            kept = f"replaced now, and kept in commit {head.sha[:12]}"
            progress.note(f"{self.remote.repo}: {listed(edited)} changed since the last publication; {kept}")


def holds(entry: Entry | None, piece: Piece) -> bool:
    """Whether a file is there and has the piece's bytes."""
    return entry is not None and entry.holds(piece)


def listed(paths: list[str]) -> str:
    """Paths for a message: the first three, and how many more."""
    shown = ", ".join(excerpt(path, length=80) for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3:,} more"


def _changed(paths: Collection[str], one: Head, other: Head) -> list[str]:
    return sorted(path for path in paths if is_ours(path) and one.files.get(path) != other.files.get(path))
