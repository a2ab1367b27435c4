"""From a task to its items: which file, folder or Hub id, which rows, each question once."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from curate.errors import InputError, UsageError
from curate.examples import Refused, stable_hash
from curate.examples.files import format_of

# The one place that tells files, folders and Hub ids apart; `load_examples` would also ask for a completion.
from curate.examples.load import _find as find_source
from curate.examples.record import MAX_ROW_BYTES, excerpt
from curate.examples.sources import EVERY_COLUMN
from curate.trials.tasks.base import Item, Task
from curate.trials.tasks.columns import Row

_SCHEME = "hf://datasets/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Items(Sequence[Item]):
    """The items of a task, in the order of the data."""

    items: tuple[Item, ...]
    duplicates: int
    """Rows left out because an earlier one asks the same and accepts the same."""
    notices: tuple[str, ...]
    """What a reader of the result should know."""

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        return self.items[place]

    @property
    def identity(self) -> str:
        """A hash of the questions and their gold, whatever the task is called and however the rows are ordered."""
        return identity_of(self.items)


def identity_of(items: Sequence[Item]) -> str:
    """A hash of the items' keys: equal sets of questions are one test set."""
    return stable_hash(sorted(item.key for item in items))


def load_items(task: Task) -> Items:
    """The items of a task, streamed from its data. Repeated questions are counted and left out.

    Raises InputError for a row that cannot be read or lacks something: a test set is repaired, not cut.
    """
    name = Path(task.data).name or task.data
    try:
        source = find_source(task.data, revision=task.revision, split=_split(task), max_row_bytes=MAX_ROW_BYTES)
    except (InputError, UsageError) as error:
        raise type(error)(f"task {task.name}: {error}") from error
    kept: dict[str, Item] = {}
    rows = 0
    for record in source.records(notes=Counter(), parsed=EVERY_COLUMN):
        rows += 1
        if isinstance(record, Refused):
            raise InputError(f"task {task.name}: {record.place}: the row cannot be read ({record.reason}): {record.detail}")
        item = task.item(Row(record.value, record.place, task.name), len(kept))
        kept.setdefault(item.key, item)
    if not rows:
        raise InputError(f"task {task.name}: {excerpt(name)}: 0 rows")
    duplicates = rows - len(kept)
    notices = [*source.notices]
    if duplicates:
        verb = "repeats a question and its gold, and is" if duplicates == 1 else "repeat a question and its gold, and are"
        notices.append(f"task {task.name}: {duplicates} of {rows} rows {verb} left out")
    chosen = _chosen(list(kept.values()), task)
    if task.limit is not None and len(chosen) < task.limit:
        notices.append(f"task {task.name}: limit is {task.limit}, but there are only {len(chosen)} items")
    return Items(tuple(chosen), duplicates, tuple(notices))


def _chosen(items: list[Item], task: Task) -> list[Item]:
    """The items that the limit leaves, numbered anew."""
    if task.limit is None or task.limit >= len(items):
        return items
    places = list(range(task.limit))
    if task.shuffle_seed is not None:
        places = sorted(random.Random(task.shuffle_seed).sample(range(len(items)), task.limit))
    return [replace(items[place], index=index) for index, place in enumerate(places)]


def _split(task: Task) -> str | None:
    """The split to read: a task is held out, so `test` and not `train` where there are several."""
    path = Path(task.data)
    is_single = not path.is_dir() or ((path / "state.json").is_file() and not (path / "dataset_dict.json").is_file())
    return task.split or (None if is_single and not task.data.startswith(_SCHEME) else "test")


def resolved(data: str, folder: Path | None) -> str:
    """Where the rows are: a path as seen from `folder`, or a Hub id with its scheme."""
    path = (folder or Path()) / Path(data).expanduser()
    is_id = _HUB_ID.fullmatch(data) and not format_of(data)
    if data.startswith(_SCHEME):
        return data
    if is_id and not path.exists() and not path.parent.exists():
        return _SCHEME + data
    return str(path.absolute())
