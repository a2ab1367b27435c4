"""Whose the rows are and who may pass them on: licence, visibility and revision of the source, and what forbids publishing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate.errors import InputError, UsageError, near_miss
from curate.hub_cards.header import LICENSES

SAYS_NOTHING = frozenset({"unknown", "other", "cc"})
"""They name no terms: what may be done with the rows stands elsewhere, and is for a person to read."""
_NO_DERIVATIVES = re.compile(r"\bnd\b|no-?derivatives|proprietary|all-rights-reserved")


def known_license(license: str) -> str:
    """A licence as the Hub writes it. Raises UsageError for what is no identifier of the Hub's."""
    plain = license.strip().lower()
    if plain not in LICENSES:
        hint = near_miss(plain, LICENSES, listing="known") if len(plain) > 2 else "such as mit or cc-by-4.0"
        raise UsageError(f"--license {license!r}: no licence identifier of the Hub; {_short(hint)}; for any other, pass other")
    return plain


def _short(hint: str) -> str:
    return hint if len(hint) < 80 else "see huggingface.co/docs/hub/repositories-licenses"


def source_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Where the rows of a run come from, as it was when they were read; None stands for what is not known."""
    given = manifest["input"]
    found: dict[str, Any] = {"kind": given.get("kind", "anonymous"), "name": _name(given), "revision": given.get("revision")}
    found |= {"license": None, "is_private": None, "is_gated": None}
    if given.get("config") not in (None, "default"):
        found["config"] = given["config"]
    told: Mapping[str, Any] = manifest.get("origin") or {}
    return found | {name: told[name] for name in ("license", "is_private", "is_gated") if told.get(name) is not None}


def _name(given: Mapping[str, Any]) -> str | None:
    """The Hub's id, or the names of files, without the folder that they lie in."""
    if given.get("kind") == "hub":
        return str(given["id"])
    names = [Path(file["name"]).name for file in given.get("files", ())]
    if not names:
        return None
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def forbids(license: str) -> bool:
    """Whether a licence forbids to pass on a part of the rows, or an arrangement of them."""
    return bool(_NO_DERIVATIVES.search(license.lower()))


def obstacles(facts: Mapping[str, Any]) -> list[str]:
    """What stands against showing a publication to everybody, each with the way on; `facts` is `curate/publication.json`."""
    source, stated = facts["source"], facts["stated"]
    name = source["name"] or "the source"
    found = [_license_obstacle(facts["license"], name, source["license"], stated["license"])]
    if stated["private_source"] is None:
        reasons = [word for word in ("private", "gated") if source[f"is_{word}"]]
        on = "pass --public-source if its owner allows it"
        if reasons:
            found.append(f"{name} is {' and '.join(reasons)}; {on}")
        elif source["kind"] == "hub" and (source["is_private"] is None or source["is_gated"] is None):
            found.append(f"whether {name} is private or gated is not known; {on}")
    elif stated["private_source"]:
        found.append("the source is private, as --private-source says; leave it out if that is not so")
    return [one for one in found if one]


def _license_obstacle(license: str | None, name: str, of_source: Any, stated: str | None) -> str | None:
    """The first thing that is wrong with the licence."""
    on = "pass --license with the licence that its owner gives you"
    if license is None and isinstance(of_source, list):
        return f"{name} has several licences ({', '.join(of_source)}); pass --license with the one that holds for these rows"
    if license is None:
        return f"the licence of {name} is unknown; find it out and pass it: --license mit"
    where = "given with --license" if stated is not None else f"of {name}, from its card"
    if forbids(license):
        return f"the licence {license} ({where}) forbids to publish a part or a rearrangement of the rows; {on}"
    if license == "unknown" or (license in SAYS_NOTHING and stated is None):
        return f"the licence {license} ({where}) does not say what may be done with the rows; read its terms and {on}"
    return None


def require_publishable(facts: Mapping[str, Any]) -> None:
    """Raise InputError where something stands against showing the rows to everybody; a private repository needs none of it."""
    if found := obstacles(facts):
        raise InputError(f"cannot be published: {'; also: '.join(found)}; or push it to a private repository")
