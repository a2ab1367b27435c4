"""The YAML header of a card: only fields that the Hub knows, only values that it knows, nothing guessed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from curate.errors import UsageError
from curate.hub_cards.inert import NAME, SIZES, shown

FIELDS = frozenset(
    (
        "annotations_creators", "configs", "dataset_info", "language", "language_creators", "license", "license_link",
        "license_name", "pretty_name", "size_categories", "source_datasets", "tags", "task_categories", "task_ids",
    )
)  # fmt: skip
"""What a data set card may say; DatasetCardData takes anything without a word (huggingface_hub 2.4)."""
LICENSES = frozenset(
    (
        "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
        "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
        "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
        "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0",
        "etalab-2.0", "eupl-1.1", "eupl-1.2", "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0",
        "gpl-3.0", "grok2-community", "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr",
        "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa",
        "odbl", "odc-by", "ofl-1.1", "openmdw-1.0", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql",
        "unknown", "unlicense", "wtfpl", "zlib",
    )
)  # fmt: skip
"""The identifiers that the Hub takes; any other licence is `other`, with its name beside it."""
TAGS = ("curate", "sft", "data-filtering")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SPLIT = re.compile(r"\w{1,100}(?:\.\w{1,100})*", re.ASCII)
_FOLDERS = {"default": "data", "scores": "scores", "rejected": "rejected"}


def is_repo(name: object) -> bool:
    """Whether a name can be a repository's, `USER/NAME`: then it is also safe in an address and in a shell."""
    return isinstance(name, str) and _REPO.fullmatch(name) is not None and "--" not in name and ".." not in name


def split_of(facts: Mapping[str, Any]) -> str:
    """The split's name. Raises UsageError for one that the Hub would not take."""
    split = facts.get("split", "train")
    if not isinstance(split, str) or not _SPLIT.fullmatch(split):
        raise UsageError(f"split {str(split)[:100]!r}: the Hub takes letters, digits, underscores and dots in a split's name")
    return split


def licenses_of(facts: Mapping[str, Any], license: str | None) -> list[str]:
    """The licence that the publisher gave, else those that the source states."""
    stated = license or facts.get("license") or (facts.get("source") or {}).get("license") or []
    found = [stated] if isinstance(stated, str) else stated
    return [text for text in found if isinstance(text, str) and text.strip()] if isinstance(found, Sequence) else []


def configs_of(facts: Mapping[str, Any]) -> list[str]:
    """The configs that have files, `default` first."""
    listed = facts.get("files") or {}
    named = facts.get("configs") or ()
    return [
        name
        for name, folder in _FOLDERS.items()
        if (any(path.startswith(f"{folder}/") for path in listed) if listed else name in named)
    ]


def header_fields(facts: Mapping[str, Any], *, title: str, license: str | None, kept: int) -> dict[str, Any]:
    """The header as plain data."""
    split = split_of(facts)
    source = facts.get("source") or {}
    fields: dict[str, Any] = {"pretty_name": shown(title, most=NAME)} | _license_fields(licenses_of(facts, license))
    if languages := _languages(source.get("language")):
        fields["language"] = languages
    fields["task_categories"] = ["text-generation"]
    fields["size_categories"] = [_size(kept)]
    if source.get("kind") == "hub" and is_repo(source.get("name")):
        fields["source_datasets"] = [source["name"]]
    fields["tags"] = [*TAGS, *(["synthetic"] if facts.get("synthetic") is True else [])]
    fields["configs"] = [
        {
            "config_name": name,
            **({"default": True} if name == "default" else {}),
            "data_files": [{"split": split, "path": f"{_FOLDERS[name]}/{split}-*.parquet"}],
        }
        for name in configs_of(facts)
    ]
    assert FIELDS.issuperset(fields)
    return fields


def _license_fields(found: Sequence[str]) -> dict[str, Any]:
    known = [text.strip().lower() for text in found if text.strip().lower() in LICENSES]
    if found and len(known) == len(found):
        return {"license": known[0] if len(known) == 1 else known}
    if not found:
        return {}
    name = re.sub(r"[^a-z0-9.]+", "-", " ".join(found).lower()[:60]).strip("-.")
    return {"license": "other", "license_name": name or "see-below"}


def _languages(stated: object) -> list[str]:
    found = [stated] if isinstance(stated, str) else stated if isinstance(stated, Sequence) else []
    return [text for text in found if isinstance(text, str) and re.fullmatch(r"[a-z]{2,3}", text, re.ASCII)]


def _size(rows: int) -> str:
    return SIZES[min(max(0, len(str(rows)) - 3), len(SIZES) - 1)]
