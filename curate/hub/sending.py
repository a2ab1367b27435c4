"""Sends the bytes of files in portions, so that progress can be told and an interruption loses little."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from curate import progress
from curate.errors import UsageError
from curate.hub.content import Piece
from curate.hub.remote import Remote

PORTION_FILES = 20
PORTION_BYTES = 256 << 20


def additions(pieces: Iterable[Piece]) -> list[Any]:
    """Operations of the client that add the pieces; it would hash them again."""
    from huggingface_hub import CommitOperationAdd

    operations = []
    for piece in pieces:
        operation = CommitOperationAdd(path_in_repo=piece.path, path_or_fileobj=str(piece.local))
        operation.upload_info.sha256 = bytes.fromhex(piece.sha256)
        operations.append(operation)
    return operations


def send(remote: Remote, operations: Sequence[Any], revision: str) -> None:
    """Upload what is large and not on the Hub yet; small files travel with the commit.

    Raises a UsageError if the repository's .gitignore names one of the files: the client would leave it out without a word.
    """
    added = [operation for operation in operations if hasattr(operation, "upload_info")]
    total = sum(operation.upload_info.size for operation in added)
    done = 0
    ticker = progress.Ticker()
    for portion in _portions(added):
        remote.upload(portion, revision)
        done += sum(operation.upload_info.size for operation in portion)
        words = f"{remote.repo}: {_size(done)} of {_size(total)} are on the Hub"
        ticker.show(words, is_last=done == total)
    if ignored := [operation.path_in_repo for operation in added if getattr(operation, "_should_ignore", False)]:
        raise UsageError(f"{remote.repo}: its .gitignore leaves out {', '.join(ignored)}; take that out of .gitignore on the Hub")


def _portions(operations: Sequence[Any]) -> Iterator[list[Any]]:
    portion: list[Any] = []
    size = 0
    for operation in operations:
        if portion and (len(portion) >= PORTION_FILES or size + operation.upload_info.size > PORTION_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(operation)
        size += operation.upload_info.size
    if portion:
        yield portion


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
