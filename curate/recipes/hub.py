"""Files of a data set on the Hub, pinned to one commit; and recipes read from there. Data only: nothing fetched is ever run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from curate import progress
from curate.errors import CurateError, InputError, IntegrityError, NetworkError, RecipeError, UsageError
from curate.recipes.loading import MOST_BYTES, load_recipe
from curate.recipes.schema import Recipe

PREFIX = "hf://"
RECIPE = "curate/recipe.yaml"
"""Where a publication keeps its recipe."""
_NAME = re.compile(r"hf://datasets/([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,200}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True)
class HubCommit:
    """A data set on the Hub at one commit: what is read from it later is of the same state, whatever is pushed meanwhile."""

    repo: str
    commit: str
    is_private: bool | None = None
    """As the Hub says; None where it was not asked."""
    is_gated: bool | None = None

    def __str__(self) -> str:
        return f"{PREFIX}datasets/{self.repo}@{self.commit[:12]}"

    def fetch(self, path: str, *, most_bytes: int, size: int | None = None, again: bool = False) -> Path:
        """The file in the Hub's own cache, downloaded if need be; `again` does not trust the copy that is there.

        Raises InputError where there is none or it is too large, IntegrityError where it has not the `size` announced.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

        where = f"{self}: {path}"
        with explained(where):
            if not constants.HF_HUB_OFFLINE:  # offline, what lies in the cache is read: its size is known to the reader
                found = get_hf_file_metadata(hf_hub_url(self.repo, path, repo_type="dataset", revision=self.commit)).size
                if size is not None and found is not None and found != size:
                    raise IntegrityError(f"{where}: {found:,} bytes where {size:,} are announced; ask its owner to push it again")
                if found is not None and found > most_bytes:
                    raise InputError(f"{where}: {found:,} bytes; at most {most_bytes:,} are read")
            return Path(hf_hub_download(self.repo, path, repo_type="dataset", revision=self.commit, force_download=again))


def is_on_hub(source: str | Path) -> bool:
    """Whether a source names something on the Hub rather than a path."""
    return str(source).startswith(PREFIX)


def resolve(source: str, *, revision: str | None = None) -> HubCommit:
    """The commit that `hf://datasets/USER/NAME[@REVISION]` names now. Raises UsageError for a name that cannot be one."""
    named_by = _NAME.fullmatch(source)
    if named_by is None or ".." in source:
        raise UsageError(f"{source[:200]!r}: not a data set on the Hub; write hf://datasets/USER/NAME or .../NAME@REVISION")
    repo, named = f"{named_by[1]}/{named_by[2]}", named_by[3]
    if named and revision and named != revision:
        raise UsageError(f"{source}: names the revision {named!r}, and --revision {revision!r}; give one of them")
    revision = named or revision
    if revision and _COMMIT.fullmatch(revision):
        return HubCommit(repo, revision)
    with explained(source):
        from huggingface_hub import HfApi

        found = HfApi().dataset_info(repo, revision=revision)
    if found.sha is None or not _COMMIT.fullmatch(found.sha):
        raise InputError(f"{source}: the Hub names no commit for it ({found.sha!r}); try again later")
    gated = getattr(found, "gated", None)
    return HubCommit(repo, found.sha, found.private, None if gated is None else bool(gated))


def recipe_from_hub(source: str) -> Recipe:
    """The recipe of a publication, by the loader that reads every recipe. Says which commit it is of.

    Raises RecipeError for a file that is no recipe, InputError where there is none, NetworkError where the Hub cannot be reached.
    """
    place = resolve(source)
    path = place.fetch(RECIPE, most_bytes=MOST_BYTES)
    try:
        recipe = load_recipe(path)
    except RecipeError as error:  # names the file in the cache, which says nothing to a person
        raise RecipeError(str(error).replace(str(path), f"{place}: {RECIPE}")) from error
    progress.note(f"recipe {recipe.name!r} of {place.repo} at commit {place.commit}")
    return recipe


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns what the Hub's client raises into one error that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except CurateError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(f"{where}: is gated; accept its terms on the Hub and log in: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{where}: no such revision; give a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        advice = "check the spelling, or log in if it is private: hf auth login"
        raise InputError(f"{where}: no such data set on the Hub; {advice}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(f"{where}: no such file there; is it a publication of curate?") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{where}: not a name that the Hub can have") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            refused = "the token is not accepted, or may not read this; the data set may be private or gated"
            raise NetworkError(
                f"{where}: the Hub answered {status}: {refused}; log in: hf auth login (or set HF_TOKEN)"
            ) from error
        raise NetworkError(f"{where}: the Hub answered {status or 'with an error'}; try again later") from error
    except (OSError, errors.LocalEntryNotFoundError) as error:  # offline mode and every broken connection
        reason = type(error).__name__
        raise NetworkError(f"{where}: the Hub cannot be reached ({reason}); go online and run the same command again") from error
