"""A run as others get it: a folder of kept rows, scores and evidence; and what its readers do with one.

build -> (push) -> open_publication -> recut, reproduce, difference, export
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.publication.bundle import Bundle, build, load_bundle
    from curate.publication.differing import Difference, difference
    from curate.publication.exporting import Exported, export
    from curate.publication.license import obstacles, require_publishable
    from curate.publication.opened import Publication, is_publication, open_publication
    from curate.publication.recutting import Recut, recut
    from curate.publication.reproducing import Reproduction, reproduce, require_reproduced

# Looked up when first used. No module has the name of a function: importing `recut.py` would put the module in its place.
_HOMES = {
    "Bundle": "bundle",
    "build": "bundle",
    "load_bundle": "bundle",
    "Difference": "differing",
    "difference": "differing",
    "Exported": "exporting",
    "export": "exporting",
    "obstacles": "license",
    "require_publishable": "license",
    "Publication": "opened",
    "is_publication": "opened",
    "open_publication": "opened",
    "Recut": "recutting",
    "recut": "recutting",
    "Reproduction": "reproducing",
    "reproduce": "reproducing",
    "require_reproduced": "reproducing",
}

__all__ = [
    "Bundle",
    "Difference",
    "Exported",
    "Publication",
    "Recut",
    "Reproduction",
    "build",
    "difference",
    "export",
    "is_publication",
    "load_bundle",
    "obstacles",
    "open_publication",
    "recut",
    "reproduce",
    "require_publishable",
    "require_reproduced",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'curate.publication' has no attribute {name!r}")
    return getattr(import_module(f"curate.publication.{_HOMES[name]}"), name)
