"""What there is: filters with their data sheets, shipped recipes."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from curate.errors import RecipeError, UsageError, near_miss
from curate.filters import known_filters
from curate.recipes import load_recipe, shipped_recipes

Sheet = Mapping[str, Any]


def filter_sheets(name: str | None = None) -> list[Sheet]:
    """Data sheets of all filters, or of one; raises UsageError for an unknown name."""
    known = known_filters()
    if name is not None and name not in known:
        raise UsageError(f"unknown filter {name!r}; {near_miss(name, known, listing='installed')}")
    return [
        {
            "name": key,
            "summary": (inspect.getdoc(cls) or "").split("\n", 1)[0],
            "version": cls.version,
            "reads": list(cls.reads),
            "outputs": dict(cls.outputs),
            "parameters": {
                field: {
                    "default": None if info.is_required() else str(info.default),
                    "required": info.is_required(),
                    "what": info.description,
                }
                for field, info in cls.model_fields.items()
            },
            "sheet": inspect.getdoc(cls) or "",
        }
        for key, cls in known.items()
        if name in (None, key)
    ]


def filters_text(sheets: Sequence[Sheet], *, whole: bool) -> str:
    """A line per filter, or the whole sheet."""
    if not whole:
        width = max(len(sheet["name"]) for sheet in sheets)
        return "\n".join(f"{sheet['name']:<{width}}  {sheet['summary']}" for sheet in sheets)
    lines = []
    for sheet in sheets:
        lines += [
            f"{sheet['name']} (version {sheet['version']}, reads {', '.join(sheet['reads'])})",
            "",
            sheet["sheet"].rstrip(),
            "",
        ]
        if sheet["parameters"]:
            lines.append("Parameters:")
        for field, info in sheet["parameters"].items():
            default = "required" if info["required"] else f"default {info['default']}"
            lines.append(f"    {field}: {info['what'] or ''} ({default})")
    return "\n".join(lines)


def recipe_list() -> list[Sheet]:
    """The shipped recipes."""
    found = [load_recipe(name) for name in shipped_recipes()]
    return [
        {"name": recipe.name, "summary": recipe.summary, "source": recipe.source, "needs_model": recipe.needs_model}
        for recipe in found
    ]


def recipes_text(recipes: Sequence[Sheet]) -> str:
    """A line per recipe."""
    width = max(len(recipe["name"]) for recipe in recipes)
    return "\n".join(f"{recipe['name']:<{width}}  {recipe['summary']}" for recipe in recipes)


def recipe_text(name: str) -> tuple[str, Mapping[str, Any]]:
    """A shipped recipe's file, and its data."""
    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(f"unknown recipe {name!r}; {near_miss(name, shipped, listing='shipped')}")
    return shipped[name].read_text(encoding="utf-8"), load_recipe(name).as_data()
