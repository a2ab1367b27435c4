"""A data set repository on the Hub, as a push sees it: what it shows at a commit, and the few ways to change it."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate import __version__, progress
from curate.errors import NetworkError
from curate.examples.record import excerpt
from curate.hub.content import Piece
from curate.hub.retrying import Trouble, Waiting

MOST_FACTS_BYTES = 16 << 20
"""A `publication.json` that is larger is none of ours."""


@dataclass(frozen=True)
class Entry:
    """A file of a commit, by the tree listing: large files with the sha256 of their bytes, small ones with git's id."""

    bytes: int
    git_oid: str
    sha256: str | None

    def holds(self, piece: Piece) -> bool:
        """Whether these are the piece's bytes."""
        same = self.sha256 == piece.sha256 if self.sha256 is not None else self.git_oid == piece.git_oid
        return self.bytes == piece.bytes and same


@dataclass(frozen=True)
class Head:
    """A branch at one moment."""

    sha: str
    is_private: bool
    files: Mapping[str, Entry]


@dataclass(frozen=True)
class Refs:
    """Branches and tags with their commits."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Made:
    """A commit as the history lists it."""

    sha: str
    title: str
    message: str
    authors: Sequence[str]


class Remote:
    """Requests about one repository; those that only read are repeated until they succeed or patience ends."""

    def __init__(self, repo: str, waiting: Waiting) -> None:
        from huggingface_hub import HfApi

        self.repo, self.waiting = repo, waiting
        # token=True: a push always says who it is, also where HF_HUB_DISABLE_IMPLICIT_TOKEN is set.
        self.api = HfApi(token=True, library_name="curate", library_version=__version__)
        self._about: dict[str, Any] = {"repo_id": repo, "repo_type": "dataset"}

    @property
    def url(self) -> str:
        """Where people look at it."""
        return f"{self.api.endpoint}/datasets/{self.repo}"

    def is_private(self) -> bool | None:
        """Its visibility; None when there is no such repository, or none that the token may see."""
        info = self.waiting.find("reading the repository", lambda: self.api.dataset_info(self.repo), unless="RepoNotFound")
        if info is None:
            return None
        if info.id and info.id != self.repo:
            # A renamed repository answers under its new name; requests that write are not redirected.
            raise NetworkError(f"{self.repo}: is now called {info.id}; push to that name")
        return bool(info.private)

    def create(self, *, private: bool) -> None:
        """Create it; nothing happens where it exists."""
        self.waiting.call("creating the repository", lambda: self.api.create_repo(private=private, exist_ok=True, **self._about))

    def head(self, revision: str) -> Head | None:
        """What a branch shows now; None when there is no such branch."""
        what = f"reading {revision}"
        info = self.waiting.find(what, lambda: self.api.dataset_info(self.repo, revision=revision), unless="RevisionNotFound")
        if info is None:
            return None
        assert info.sha is not None
        return Head(info.sha, bool(info.private), self.files(info.sha))

    def files(self, sha: str) -> dict[str, Entry]:
        """Every file of a commit."""
        from huggingface_hub.hf_api import RepoFile

        def listed() -> dict[str, Entry]:
            tree = self.api.list_repo_tree(recursive=True, revision=sha, **self._about)
            files = [entry for entry in tree if isinstance(entry, RepoFile)]
            return {f.path: Entry(f.size, f.blob_id, f.lfs.sha256 if f.lfs else None) for f in files}

        return self.waiting.call("listing the files", listed, client_retries=True)

    def content(self, path: str, sha: str) -> bytes:
        """A small file at a commit, from the server: the client's cache on this machine would prove nothing."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers
        from huggingface_hub.utils._http import hf_raise_for_status

        address = hf_hub_url(self.repo, path, repo_type="dataset", revision=sha, endpoint=self.api.endpoint)

        def fetched() -> bytes:
            answer = get_session().get(address, headers=build_hf_headers(token=True))
            hf_raise_for_status(answer)
            return bytes(answer.content)

        return self.waiting.call(f"reading {path}", fetched)

    def refs(self) -> Refs:
        """Branches and tags."""
        found = self.waiting.call("listing the branches", lambda: self.api.list_repo_refs(**self._about))
        return Refs({b.name: b.target_commit for b in found.branches}, {t.name: t.target_commit for t in found.tags})

    def commits_since(self, sha: str | None, revision: str) -> list[Made]:
        """The commits of a branch after one of them, last first; all of them where it is not an ancestor."""
        found = self.waiting.call(
            "reading the history",
            lambda: self.api.list_repo_commits(revision=revision, **self._about),
            client_retries=True,
        )
        made = [Made(c.commit_id, c.title, c.message, c.authors) for c in found]
        stop = next((place for place, one in enumerate(made) if one.sha == sha), len(made))
        return made[:stop]

    def create_branch(self, branch: str, sha: str) -> None:
        """Begin a branch at a commit; nothing happens where it exists."""
        what = f"creating branch {branch}"
        self.waiting.call(what, lambda: self.api.create_branch(branch=branch, revision=sha, exist_ok=True, **self._about))

    def delete_branch(self, branch: str) -> None:
        """Delete a branch; nothing happens where it is gone."""
        what = f"deleting branch {branch}"
        self.waiting.find(what, lambda: self.api.delete_branch(branch=branch, **self._about) or True, unless="RevisionNotFound")

    def create_tag(self, tag: str, sha: str) -> None:
        """Tag a commit; nothing happens where the tag exists."""
        what = f"creating tag {tag}"
        self.waiting.call(what, lambda: self.api.create_tag(tag=tag, revision=sha, exist_ok=True, **self._about))

    def upload(self, operations: Collection[Any], revision: str) -> None:
        """Send the bytes of large files, without a commit. What the Hub has is not sent again."""
        self.waiting.call(
            "sending files",
            lambda: self.api.preupload_lfs_files(additions=operations, revision=revision, free_memory=False, **self._about),
            client_retries=True,
        )

    def commit(self, operations: Collection[Any], *, revision: str, parent: str, title: str, message: str) -> str | Trouble:
        """One attempt to commit, all or nothing, if the branch is still at `parent`. Returns the commit, or the trouble:
        after which only a look at the branch can tell whether it was made."""
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            outcome = self.waiting.once(
                lambda: self.api.create_commit(
                    operations=operations,
                    revision=revision,
                    parent_commit=parent,
                    commit_message=title,
                    commit_description=message,
                    **self._about,
                )
            )
        for one in found:  # what the Hub thinks of the card
            progress.note(f"{self.repo}: {excerpt(' '.join(str(one.message).split()), length=600)}")
        return outcome if isinstance(outcome, Trouble) else str(outcome.oid)
