"""From a YAML file, or a mapping inside a recipe, to a Task."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from curate.errors import RecipeError, near_miss
from curate.filters.base import first_complaint
from curate.recipes.loading import read_yaml
from curate.reference import sample_path
from curate.trials.tasks.answer import AnswerTask
from curate.trials.tasks.base import Task
from curate.trials.tasks.choice import ChoiceTask
from curate.trials.tasks.items import resolved
from curate.trials.tasks.programs import CodeTask
from curate.trials.tasks.squad import SquadTask
from curate.trials.tasks.translation import TranslationTask

KINDS: Final[Mapping[str, type[Task]]] = MappingProxyType(
    {"answer": AnswerTask, "choice": ChoiceTask, "code": CodeTask, "translation": TranslationTask, "squad": SquadTask}
)


def load_task(source: str | Path | Mapping[str, Any], *, where: str = "", folder: Path | None = None) -> Task:
    """A task from a YAML file, or from a mapping that `where` names. Reads no rows.

    Args:
        source: a file, as seen from `folder`, or what such a file would hold.
        where: the file and key that hold a mapping, for messages; a task file is named by its path.
        folder: what relative paths of a mapping are relative to; those of a file are relative to the file.

    Raises:
        RecipeError: naming file, key and the nearest valid word.
    """
    if isinstance(source, Mapping):
        return _built(source, where or "task", folder)
    path = (folder or Path()) / Path(source).expanduser()
    if not path.is_file():
        at = f"{where}: " if where else ""
        raise RecipeError(f"{at}{path}: no such task file; a task is a YAML file, or a mapping with name, kind and data")
    data = read_yaml(path, str(path))
    if not isinstance(data, Mapping):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise RecipeError(f"{path}: a task is a mapping with `name`, `kind` and `data`, found {found}")
    return _built(data, str(path), path.parent)


def sample_task() -> Task:
    """The test questions of the packaged sample, for the packaged model."""
    data = str(sample_path("test"))
    return AnswerTask(name="sample-test", data=data, mark="Answer:", max_new_tokens=72)


def _built(data: Mapping[str, Any], where: str, folder: Path | None) -> Task:
    kind = data.get("kind")
    if kind is None:
        raise RecipeError(f"{where}: kind is missing; one of {', '.join(KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise RecipeError(f"{where}: unknown kind {kind!r}; {near_miss(str(kind), KINDS, listing='one of')}")
    chosen = KINDS[kind]
    for key in data:
        others = [name for name, other in KINDS.items() if key in other.model_fields]
        if key not in chosen.model_fields and others:
            raise RecipeError(f"{where}: {key} is a key of kind {' and '.join(others)}; this task is of kind {kind}")
    try:
        task = chosen(**data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {first_complaint(error, chosen.model_fields)}") from error
    except TypeError as error:  # a key that is no string
        raise RecipeError(f"{where}: keys must be words ({error})") from error
    return task.model_copy(update={"data": resolved(task.data, folder)})
