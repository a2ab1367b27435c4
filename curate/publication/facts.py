"""What is published beside the rows: recipe, lock and trial without a path of this machine; whether the rows are synthetic."""

import io
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from curate.recipes.schema import STEPS
from curate.recipes.trial import TrialSettings
from curate.rows import RowStore
from curate.trials import TrialReport, finished_trials

_WHOLE = re.compile(r"(?:file://)?~?(?:/[^/\n]+){2,}/?|~/[^/\n]+/?|[A-Za-z]:[\\/][^\n]*")
_WITHIN = re.compile(r"(?<![\w.:/~-])~?(?:/[^\s/:,;'\"`()\[\]{}<>|]+){2,}/?")
_GENERATORS = re.compile(
    r"(?<![a-z])(?:gpt|chatgpt|claude|llama|vicuna|alpaca|mistral|mixtral|qwen|qwq|gemini|gemma|palm|bard|deepseek|phi|falcon|"
    r"command-r|grok|kimi|glm|nemotron|olmo|smollm|text-davinci|davinci|synthetic|self-instruct|llm)(?![a-z])",
    re.IGNORECASE,
)
"""Names by which rows say that a model wrote them."""


def cleaned(value: Any, *, where: str = "", found: list[str] | None = None) -> Any:
    """JSON data with the last part of every absolute path in the path's place; `found` takes the places that were changed."""
    if isinstance(value, str):
        plain = _without_paths(value)
        if plain != value and found is not None:
            found.append(where)
        return plain
    if isinstance(value, Mapping):
        return {
            cleaned(key, where=where, found=found): cleaned(one, where=f"{where}.{key}" if where else str(key), found=found)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [cleaned(one, where=f"{where}.{index}", found=found) for index, one in enumerate(value)]
    return value


def _without_paths(text: str) -> str:
    if _WHOLE.fullmatch(text):
        return _last(text)
    for folder in {str(Path.home()), str(Path.cwd())} - {"/"}:
        text = text.replace(f"{folder}/", "/./")  # also where a folder's name has blanks
    return _WITHIN.sub(lambda match: _last(match[0]), text)


def _last(path: str) -> str:
    kind = PureWindowsPath if "\\" in path or path[1:2] == ":" else PurePosixPath
    return kind(path).name


def step_names(recipe: Mapping[str, Any], public: Mapping[str, Any]) -> dict[str, str]:
    """How the steps that name a path are called in what is published; `public` is the recipe without paths."""
    pairs = zip(_steps(recipe), _steps(public), strict=True)
    return {before: after for before, after in pairs if before != after}


def _steps(recipe: Mapping[str, Any]) -> list[str]:
    return [str(STEPS[word](**settings)) for step in recipe["steps"] for word, settings in step.items()]


def recipe_yaml(recipe: Mapping[str, Any]) -> bytes:
    """The recipe as a file that `load_recipe` reads, without what it leaves open."""
    from ruamel.yaml import YAML

    data = {name: value for name, value in recipe.items() if value not in ("", None)}
    if data.get("trial") == TrialSettings().model_dump(mode="json"):
        del data["trial"]
    order = ("name", "summary", "source", "evidence", "avoid", "filters", "steps", "unscored", "trial")
    yaml = YAML()
    yaml.width = 120
    yaml.representer.ignore_aliases = lambda _: True  # a recipe may hold no aliases
    sink = io.BytesIO()
    yaml.dump({name: data[name] for name in order if name in data}, sink)
    return sink.getvalue()


def trial_of(out: Path, recipe: Mapping[str, Any], lock: Mapping[str, Any], rows: RowStore) -> tuple[str, TrialReport] | None:
    """The finished trial of these very steps on these rows and scores, and the name of its folder.

    Of several, the one with the most seeds, then the last by name: neither the verdict nor the clock may choose.
    """
    stores = {name: entry["folder"] for name, entry in lock["annotations"].items()}
    found = []
    for folder in finished_trials(out):
        report = TrialReport.load(folder)
        plan = report.data.get("plan")
        if isinstance(plan, Mapping) and _is_of(plan, recipe, stores, rows.identity):
            found.append((len(plan["seeds"]), folder.name, report))
    return max(found, key=lambda one: one[:2])[1:] if found else None


def _is_of(plan: Mapping[str, Any], recipe: Mapping[str, Any], stores: Mapping[str, str], identity: str) -> bool:
    same_steps = all(plan["recipe"].get(name) == recipe[name] for name in ("steps", "unscored"))
    annotations: Mapping[str, str] = plan["annotations"]
    same_scores = all(annotations.get(name, folder) == folder for name, folder in stores.items())
    return bool(same_steps and same_scores and plan["rows"] == identity)


def is_synthetic(sources: Mapping[str | None, int], recipe: Mapping[str, Any]) -> bool | None:
    """Whether some of the published rows were written by a model: as their sources say; None where they do not say.

    A source of a model's name says so. Where the recipe tells which sources are people (`trial: human`, `protocol: mix`), the
    others are not.
    """
    names = [name for name in sources if name]
    settings = TrialSettings()
    said = {"human": settings.human, "protocol": settings.protocol, **recipe.get("trial", {})}
    human = set(said["human"])
    if not names:
        return None
    if any(_GENERATORS.search(name) for name in names if name not in human):
        return True
    if all(name in human for name in names) and len(names) == len(sources):
        return False
    is_told = human != set(settings.human) or said["protocol"] == "mix"
    return True if is_told and any(name not in human for name in names) else None
