"""Branches that hold the rows of a large publication until one commit can show all of them.

One commit with thousands of new files can take longer than the Hub lets a request take. So the rows are first committed to a
branch of their own, in portions; then one commit on the real branch takes them over from there (the server copies, nothing is
sent again), together with card and records. Readers see the old or the new state. The name of the branch is the publication's
identity: a push that was killed goes on with what is there.
"""

from collections.abc import Collection
from typing import Any

from curate import progress
from curate.errors import NetworkError
from curate.hub.changing import holds
from curate.hub.content import ROWS, Piece
from curate.hub.remote import Head, Remote
from curate.hub.retrying import Trouble
from curate.hub.sending import additions, send

PREFIX = "curate-staging-"


def branch_of(identity: str) -> str:
    """The staging branch of a publication."""
    return f"{PREFIX}{identity[:16]}"


def staged(remote: Remote, branch: str, base: Head, added: Collection[Piece], *, portion: int, title: str) -> Head:
    """The branch with all rows on it."""
    remote.create_branch(branch, base.sha)
    attempt = 0
    while True:
        head = remote.head(branch)
        if head is None:
            raise NetworkError(f"{remote.repo}: branch {branch} was deleted while this push ran; run the command again")
        missing = [piece for piece in added if ROWS.fullmatch(piece.path) and not holds(head.files.get(piece.path), piece)]
        if not missing:
            return head
        progress.note(f"{remote.repo}: {len(added) - len(missing):,} of {len(added):,} files are on branch {branch}")
        operations = additions(missing[:portion])
        send(remote, operations, branch)
        outcome = remote.commit(operations, revision=branch, parent=head.sha, title=f"{title} (staging)", message="")
        if isinstance(outcome, Trouble):
            attempt += 1
            # Another push of the same bytes may work on the same branch; both go on from what is there.
            remote.waiting.pause("committing to the staging branch", outcome.if_moved(), attempt)
        else:
            attempt = 0


def taken_over(head: Head, added: Collection[Piece]) -> tuple[list[Any], list[Piece]]:
    """Operations that copy what is on the staging branch, and the pieces that are not."""
    from huggingface_hub import CommitOperationCopy

    there = {piece.path for piece in added if holds(head.files.get(piece.path), piece)}
    return (
        [CommitOperationCopy(path, path, src_revision=head.sha) for path in sorted(there)],
        [piece for piece in added if piece.path not in there],
    )


def drop(remote: Remote, branches: Collection[str]) -> None:
    """Delete staging branches, also those of pushes that never ended: what they were based on is no longer the head."""
    for branch in sorted(name for name in branches if name.startswith(PREFIX)):
        try:
            remote.delete_branch(branch)
        except NetworkError as error:
            # The publication is there and whole; the next push tries again.
            progress.note(str(error))
