"""curate: finds the fine-tuning rows that your model learns best from, and proves it.

load_examples -> annotate -> select          one direction, never back; `run` does all of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from curate.annotations import Annotations, annotate, load_annotations
    from curate.errors import CurateError
    from curate.examples import Example, Examples, load_examples
    from curate.filters import Filter, Scores, Unscored, known_filters, register
    from curate.pipeline import run
    from curate.recipes import Recipe, load_recipe, shipped_recipes
    from curate.selection import Selection, select
    from curate.verification import verify

# Looked up when first used: `import curate` costs nothing, and `curate --help` answers at once.
_HOMES = {
    "Annotations": "annotations",
    "annotate": "annotations",
    "load_annotations": "annotations",
    "CurateError": "errors",
    "Example": "examples",
    "Examples": "examples",
    "load_examples": "examples",
    "Filter": "filters",
    "Scores": "filters",
    "Unscored": "filters",
    "known_filters": "filters",
    "register": "filters",
    "run": "pipeline",
    "Recipe": "recipes",
    "load_recipe": "recipes",
    "shipped_recipes": "recipes",
    "Selection": "selection",
    "select": "selection",
    "verify": "verification",
}

__all__ = [
    "Annotations",
    "CurateError",
    "Example",
    "Examples",
    "Filter",
    "Recipe",
    "Scores",
    "Selection",
    "Unscored",
    "annotate",
    "known_filters",
    "load_annotations",
    "load_examples",
    "load_recipe",
    "register",
    "run",
    "select",
    "shipped_recipes",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    return getattr(import_module(f"curate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
