"""Data sets of the Hugging Face Hub, and folders whose card lists their files.

`datasets` only resolves which files make up a split. They are read by our own readers where we have one for the format: the
stock JSON reader (datasets 5.2) loses the whole file over one bad line and rewrites text that looks like a date.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.examples.files import FileSet, chosen_split, format_of, require_one_format
from curate.examples.record import excerpt
from curate.examples.sources import DatasetsObject, Files, Source
from curate.examples.streams import DataFile


def from_hub(repo_id: str, config: str | None, *, revision: str | None, split: str | None, max_row_bytes: int) -> Source:
    """One split of a data set on the Hub, pinned to the commit that the revision names now."""
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    name = f"{repo_id}:{config}" if config else repo_id
    with _explained(name, revision, hint=f"say which as {repo_id}:CONFIG"):
        found = HfApi().dataset_info(repo_id, revision=revision)
        card: Any = found.card_data or {}
        _refuse_foreign_files(name, card.get("configs"))
        builder = load_dataset_builder(found.id, config, revision=found.sha)
    chosen = _split(builder, split, name)
    identity = {"kind": "hub", "id": found.id, "revision": found.sha, "config": builder.config.name, "split": chosen}
    origin = {"license": plain_license(card.get("license")), "is_private": bool(found.private), "is_gated": bool(found.gated)}
    return _source(builder, chosen, name, f"hf://datasets/{found.id}@{found.sha}/", identity, max_row_bytes, origin)


def from_card(folder: Path, *, split: str | None, max_row_bytes: int) -> Source:
    """One split of a local folder, as the `configs` of its README.md say."""
    from datasets import load_dataset_builder
    from huggingface_hub import metadata_load

    name = excerpt(str(folder))
    with _explained(name, None, hint="pass a glob of the files of one of them"):
        card: Any = metadata_load(folder / "README.md") or {}
        _refuse_foreign_files(name, card.get("configs"))
        builder = load_dataset_builder(str(folder))
    return _source(
        builder,
        _split(builder, split, name),
        name,
        f"{folder.resolve()}/",
        {},
        max_row_bytes,
        {"license": plain_license(card.get("license"))},
    )


def plain_license(value: Any) -> str | list[str] | None:
    """What a card's `license` says, in lower case: one, several, or none."""
    values = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []
    names = [name.strip().lower() for name in values if isinstance(name, str) and name.strip()]
    return names[0] if len(names) == 1 else names or None


def _refuse_foreign_files(name: str, configs: Any) -> None:
    """Raise an InputError if a card names files elsewhere: `datasets` would fetch any address, and read any local path."""
    values = [configs]
    while values:
        value = values.pop()
        if isinstance(value, Mapping | list):
            values += value.values() if isinstance(value, Mapping) else value
        elif isinstance(value, str) and ("://" in value or value.startswith(("/", "~")) or ".." in value.split("/")):
            raise InputError(f"{name}: its README.md names files outside of it: {excerpt(repr(value))}")


def _split(builder: Any, split: str | None, name: str) -> str:
    files = builder.config.data_files or {}
    known = {str(key) for key in files} or {str(key) for key in builder.info.splits or {}}
    return chosen_split(known, split, name)


def _source(
    builder: Any,
    split: str,
    name: str,
    prefix: str,
    identity: dict[str, Any],
    max_row_bytes: int,
    origin: Mapping[str, Any],
) -> Source:
    listed: Any = next((urls for key, urls in (builder.config.data_files or {}).items() if str(key) == split), [])
    urls = [str(url) for url in listed]
    foreign = next((url for url in urls if not url.startswith(prefix)), None)
    if foreign is not None:
        raise InputError(f"{name}: names files outside of it: {excerpt(repr(foreign))}")
    is_plain = not getattr(builder.config, "field", None) and getattr(builder.config, "sep", ",") in (",", None)
    if urls and is_plain and all(format_of(url) for url in urls):
        files = tuple(DataFile(url.removeprefix(prefix), url, format_of(url) or "") for url in urls)
        require_one_format(files, name)
        return Files(name, FileSet(files), max_row_bytes, identity, origin)
    with _explained(name, None):
        dataset = builder.as_streaming_dataset(split=split)
    return DatasetsObject(dataset, max_row_bytes, name, identity=identity, origin=origin)


@contextmanager
def _explained(name: str, revision: str | None, *, hint: str = "") -> Iterator[None]:
    """Turns what the Hub's clients raise into one InputError that says what to do; `hint` is for several configurations."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(f"{name}: is gated; accept its terms on the Hub and log in: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name}: has no revision {revision!r}; give a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        advice = "check the spelling, or log in if it is private: hf auth login"
        raise InputError(f"{name}: no such data set on the Hub, nor a local path of this name; {advice}") from error
    except errors.HfHubHTTPError as error:
        raise InputError(f"{name}: the Hub answered: {excerpt(str(error))}") from error
    # No data files, no such configuration, a loading script (which `datasets` 5 never runs).
    except (DatasetsError, FileNotFoundError, ValueError, RuntimeError) as error:
        ask = f"; {hint}" if hint and "config" in str(error).lower() else ""
        raise InputError(f"{name}: cannot be resolved: {excerpt(str(error), length=600)}{ask}") from error
    except OSError as error:  # offline mode and every broken connection
        advice = "no local path has this name, and the Hub cannot be reached; go online, or pass a local file or folder"
        raise InputError(f"{name}: {advice} ({type(error).__name__}: {excerpt(str(error))})") from error
