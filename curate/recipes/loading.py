"""From a name or a file to a Recipe. YAML 1.2, no tags, no aliases, bounded in size."""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from curate.errors import RecipeError, near_miss
from curate.filters.base import first_complaint
from curate.recipes.schema import FOLDER, Recipe, shipped_recipes

MOST_BYTES = 1 << 20
MOST_NODES = 10_000
MOST_BRACKETS = 500


def load_recipe(name: str | Path) -> Recipe:
    """A shipped recipe by name, one from a YAML file, or that of a publication (`hf://datasets/USER/NAME`).

    Raises RecipeError naming file, key and nearest valid word; for one on the Hub also what `recipe_from_hub` raises.
    """
    from curate.recipes.hub import is_on_hub, recipe_from_hub

    if is_on_hub(name):
        return recipe_from_hub(str(name))
    path = _find(str(name))
    where = str(name) if path.parent != FOLDER else f"recipe {path.stem}"
    data = read_yaml(path, where)
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise RecipeError(f"{where}: a recipe is a mapping with `name` and `steps`, found {found}")
    try:
        recipe = Recipe(**data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_counted_from_one(first_complaint(error, Recipe.model_fields))}") from error
    except TypeError as error:  # a key that is no string
        raise RecipeError(f"{where}: keys must be words ({error})") from error
    recipe.check_filters(where)
    return recipe


def _counted_from_one(complaint: str) -> str:
    """`steps.0` as people and `curate check` count: step 1."""
    return re.sub(r"^steps\.(\d+)", lambda found: f"step {int(found[1]) + 1}", complaint)


def _find(name: str) -> Path:
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise RecipeError(f"{name}: no such recipe file")
    raise RecipeError(f"unknown recipe {name!r}; {near_miss(name, shipped, listing='shipped')}")


def read_yaml(path: Path, where: str) -> Any:
    """A YAML file as plain data. Raises RecipeError for what a recipe may not hold: aliases, tags, duplicates, bulk."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.tokens import AliasToken, AnchorToken, FlowMappingStartToken, FlowSequenceStartToken, TagToken

    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}: not readable as UTF-8 text ({error})") from error
    if len(raw) > MOST_BYTES:
        raise RecipeError(f"{where}: {len(raw):,} bytes; a recipe has at most {MOST_BYTES:,}")
    opened = 0
    try:
        for count, token in enumerate(YAML(typ="safe", pure=True).scan(text)):
            if isinstance(token, (AliasToken, AnchorToken, TagToken)):
                line = token.start_mark.line + 1
                raise RecipeError(f"{where}: line {line}: anchors, aliases and tags are not allowed in a recipe")
            # Counted, not nested: the scanner's time grows with the square of what is open.
            opened += isinstance(token, (FlowMappingStartToken, FlowSequenceStartToken))
            if count > MOST_NODES or opened > MOST_BRACKETS:
                raise RecipeError(f"{where}: more than {MOST_NODES:,} YAML tokens or {MOST_BRACKETS} brackets; that is no recipe")
        documents = list(YAML(typ="safe", pure=True).load_all(text))
    except (YAMLError, ValueError, TypeError, RecursionError) as error:  # TypeError: a mapping as a mapping's key
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}: "
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise RecipeError(f"{where}: {place}not valid YAML: {' '.join(problem.split())}") from error
    if len(documents) > 1:
        raise RecipeError(f"{where}: holds {len(documents)} documents; a recipe is one")
    return documents[0] if documents else None
