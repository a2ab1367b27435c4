"""One publication into one repository: old or new, never a mix, and at most one new commit per push.

A push looks at the branch, works out what differs from its own files, sends the large files, and then makes one commit on top
of the very commit that it looked at. When the answer is lost it looks again: its bytes at the head, or a commit that carries its
identity, mean that the commit was made. Nothing is remembered on this machine, so a push that was killed is simply run again.

Two pushes at once: the Hub takes the first and turns the second away, because the branch has moved. The second looks again. The
same bytes: done. Only files that are no publication's were changed: it commits on top of them. Anything else: it ends and says
who changed what; the same command, run again, replaces it.

Files of this publication replace files of the same name, also where somebody changed them by hand (git keeps those). Files of an
earlier publication that this one does not have are deleted. All others stay as they are.
"""

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from curate import progress
from curate.errors import InputError, IntegrityError, NetworkError, UsageError
from curate.examples.record import excerpt
from curate.hub import staging
from curate.hub.changing import MARK, Change, Comparison, holds, listed
from curate.hub.content import FACTS, Content, content_of
from curate.hub.remote import Head, Refs, Remote
from curate.hub.retrying import Patience, Trouble, Waiting, redacted
from curate.hub.sending import additions, send

if TYPE_CHECKING:
    from curate.publication import Bundle

MOST_FILES = 25_000
"""Large files in one commit: the Hub's own limit (documentation of `create_commit`)."""
_TAG = re.compile(r"(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


@dataclass(frozen=True)
class Limits:
    """How much goes into one commit, and how long a push waits."""

    files_per_commit: int = 250
    """Above it the rows are first committed to a staging branch in portions; `upload_folder` begins to split here too."""
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Pushed:
    """Where a publication now is. `commit` is None after a dry run."""

    repo: str
    url: str
    commit: str | None
    is_new: bool
    """False where the repository already held these very bytes, and no commit was made."""
    files: dict[str, int]
    """Every file of the publication with its bytes."""
    deleted: list[str]
    """Files of an earlier publication that the commit removed."""
    bytes_sent: int
    """Size of the files that the commit added or changed."""
    tag: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def push(
    bundle: "Bundle",
    repo: str,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    dry_run: bool = False,
    limits: Limits | None = None,
) -> Pushed:
    """Publish a bundle on the Hub, verified by reading it back; nothing but the files that it lists is sent.

    A repository that is not there is created, private unless `private=False`; the visibility of one that is there is never
    changed. Rows come into a public one only where nothing stands against it (`curate.publication.obstacles`). `tag` names the
    commit. A dry run hashes and checks the files, and sends nothing.

    Raises:
        UsageError: for a name, tag or visibility that cannot be meant; nothing was published.
        InputError: the repository is or would be public, and the rows may not be.
        IntegrityError: a file is not what was built, or the Hub shows other bytes than were sent.
        NetworkError: the Hub could not be reached, refused, or somebody else published at the same time.
    """
    from curate.publication import obstacles

    limits = limits or Limits()
    repo = checked_repo(repo)
    require_tag(tag)
    content = content_of(bundle)
    if len(content.pieces) > MOST_FILES:
        raise UsageError(
            f"{content.folder}: {len(content.pieces):,} files, and one commit holds {MOST_FILES:,}; write larger files"
        )
    visibility = _Visibility(repo, private, obstacles(content.facts))
    if private is False:
        visibility.require_may_be_public("would be public")
    remote = Remote(repo, Waiting(limits.patience, repo))
    if dry_run:
        return Pushed(repo, remote.url, None, False, content.sizes, [], 0, tag)
    return _Push(content, remote, Comparison(content, remote), limits, visibility, revision, tag).run()


def require_access(repo: str) -> str:
    """The repository's name, after the Hub has answered about it: what hours of work must not end at is found out first.

    Raises UsageError for what is no name, NetworkError where nobody is logged in or the Hub cannot be reached.
    """
    repo = checked_repo(repo)
    Remote(repo, Waiting(Patience(), repo)).is_private()
    return repo


def require_tag(tag: str | None) -> None:
    """Raise UsageError for what is no name of a tag."""
    if tag is not None and not _TAG.fullmatch(tag):
        raise UsageError(f"{excerpt(repr(tag))}: no name for a tag; use letters, digits, dots and dashes, such as v1.0")


def checked_repo(repo: str) -> str:
    """USER/NAME, without a prefix. Raises UsageError for what is no name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    name = repo.removeprefix("hf://").removeprefix("datasets/")
    if name.count("/") != 1:
        raise UsageError(f"{excerpt(repr(repo))}: no name of a repository; say USER/NAME")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"{excerpt(repr(repo))}: no name of a repository; say USER/NAME ({excerpt(str(error))})") from error
    return name


@dataclass
class _Visibility:
    """Who may see the repository: what was asked for, and what the rows allow."""

    repo: str
    private: bool | None
    obstacles: list[str]
    """What stands against showing the rows to everybody."""

    def require(self, is_private: bool, url: str) -> None:
        """Raise a UsageError if the repository is not as visible as was asked for, or too visible for the rows."""
        if self.private is not None and is_private != self.private:
            asked, found = ("private", "public") if self.private else ("public", "private")
            raise UsageError(
                f"{self.repo}: is {found}, and {asked} was asked for; a push never changes visibility: "
                f"change it at {url}/settings, choose another name, or leave out --{asked}"
            )
        if not is_private:
            self.require_may_be_public("is public")

    def require_may_be_public(self, words: str) -> None:
        """Raise an InputError if something stands against showing the rows to everybody."""
        if self.obstacles:
            raise InputError(f"{self.repo}: {words}, and {'; also: '.join(self.obstacles)}; or push to a private repository")


@dataclass
class _Push:
    content: Content
    remote: Remote
    comparison: Comparison
    limits: Limits
    visibility: _Visibility
    revision: str
    tag: str | None

    def run(self) -> Pushed:
        if self.remote.api.endpoint != "https://huggingface.co":
            # The token goes there, too.
            progress.note(f"{self.remote.repo}: pushing to {redacted(self.remote.api.endpoint)}, as HF_ENDPOINT says")
        head = self.opened()
        refs = self.remote.refs()
        self.require_free_tag(head, refs)
        sha, is_new, change = self.publish(head)
        self.read_back(sha, change)
        if self.tag is not None:
            self.set_tag(sha)
        own = [staging.branch_of(self.content.identity)] if self.is_large(change) else []
        staging.drop(self.remote, {*refs.branches, *own})
        sent, deleted = (change.bytes, change.deleted) if is_new else (0, [])
        return Pushed(self.remote.repo, self.remote.url, sha, is_new, self.content.sizes, deleted, sent, self.tag)

    def opened(self) -> Head:
        """The branch as it is, after the repository and it were made where they were not there."""
        repo, branch = self.remote.repo, excerpt(self.revision)
        is_private = self.remote.is_private()
        if is_private is None:
            wanted = self.visibility.private is not False
            progress.note(f"{repo}: creating a {'private' if wanted else 'public'} repository")
            self.remote.create(private=wanted)
            # From here on it must be as it was asked for, also where the default asked.
            self.visibility.private = wanted
            is_private = self.remote.is_private()
        if is_private is None:
            raise NetworkError(f"{repo}: the name is taken by a repository that the token may not see; choose another name")
        self.visibility.require(is_private, self.remote.url)
        head = self.remote.head(self.revision)
        if head is None and (main := self.remote.head("main")):
            progress.note(f"{repo}: creating branch {branch}")
            self.remote.create_branch(self.revision, main.sha)
            head = self.remote.head(self.revision)
        if head is None:
            raise NetworkError(f"{repo}: there is no branch {branch}, and none to begin it from; create it on the Hub")
        return head

    def require_free_tag(self, head: Head, refs: Refs) -> None:
        """Raise a UsageError if the tag names another commit than the one that this push will end with."""
        tagged = refs.tags.get(self.tag or "")
        if tagged is not None and (tagged != head.sha or self.comparison.change(head)):
            advice = "choose another tag, or delete that one on the Hub"
            raise UsageError(f"{self.remote.repo}: tag {self.tag} is already on commit {tagged[:12]}; {advice}")

    def publish(self, first: Head) -> tuple[str, bool, Change]:
        """The commit that holds the publication, whether this push made it, and what it changed."""
        head, may_have_landed, attempt = first, False, 0
        while True:
            self.visibility.require(head.is_private, self.remote.url)
            change = self.comparison.change(head)
            if not change:
                return head.sha, may_have_landed, self.comparison.change(first)
            if head.sha != first.sha:
                since = self.remote.commits_since(first.sha, self.revision)
                if may_have_landed and (landed := self.comparison.landed(since)):
                    return landed, True, self.comparison.change(first)
                self.comparison.require_not_published(first, head, since)
            outcome = self.commit(head, change)
            if not isinstance(outcome, Trouble):
                return outcome, True, change
            attempt += 1
            may_have_landed = may_have_landed or outcome.is_passing
            self.remote.waiting.pause("committing", outcome.if_moved(), attempt)
            found = self.remote.head(self.revision)
            if found is None:
                raise NetworkError(f"{self.remote.repo}: branch {excerpt(self.revision)} was deleted while this push ran")
            head = found

    def is_large(self, change: Change) -> bool:
        """Whether one commit would not hold it."""
        return len(change.added) > self.limits.files_per_commit

    def commit(self, head: Head, change: Change) -> str | Trouble:
        """Send the files and try once to commit them."""
        from huggingface_hub import CommitOperationDelete

        self.comparison.note_edits(head, change, self.revision)
        operations: list[Any] = []
        added = change.added
        if self.is_large(change):
            branch, portion = staging.branch_of(self.content.identity), self.limits.files_per_commit
            staged = staging.staged(self.remote, branch, head, added, portion=portion, title=self.title())
            operations, added = staging.taken_over(staged, added)
        operations += additions(added)
        send(self.remote, operations, self.revision)
        self.content.require_unchanged()
        operations += [CommitOperationDelete(path, is_folder=False) for path in change.deleted]
        return self.remote.commit(operations, revision=self.revision, parent=head.sha, title=self.title(), message=self.message())

    def title(self) -> str:
        facts = self.content.facts
        version = excerpt(str(facts.get("curate", "")))
        return f"Publish {facts.get('kept', 0):,} of {facts.get('rows', 0):,} rows with curate {version}"

    def message(self) -> str:
        recipe = self.content.facts.get("recipe")
        name = excerpt(str(recipe.get("name", ""))) if isinstance(recipe, dict) else ""
        return f"Recipe: {name}\n\n{MARK}{self.content.identity}"

    def read_back(self, sha: str, change: Change) -> None:
        """Raise an IntegrityError unless the commit shows exactly what was sent."""
        files = self.remote.files(sha)
        wrong = [path for path, piece in self.content.pieces.items() if not holds(files.get(path), piece)]
        wrong += [path for path in change.deleted if path in files]
        if not wrong and self.remote.content(FACTS, sha) != self.content.facts_bytes:
            wrong = [FACTS]
        if wrong:
            history = f"{self.remote.url}/commits/{excerpt(self.revision)}"
            raise IntegrityError(
                f"{self.remote.repo}: commit {sha[:12]} shows other bytes than were sent in {listed(wrong)}; "
                f"run the command again, and if that does not mend it, revert the commit: {history}"
            )

    def set_tag(self, sha: str) -> None:
        """Tag the commit; raises a UsageError if somebody has put the tag elsewhere meanwhile."""
        assert self.tag is not None
        self.remote.create_tag(self.tag, sha)
        tagged = self.remote.refs().tags.get(self.tag)
        if tagged != sha:
            elsewhere = f"tag {self.tag} is on {str(tagged)[:12]}; choose another tag"
            raise UsageError(f"{self.remote.repo}: published as commit {sha[:12]}, but {elsewhere}")
