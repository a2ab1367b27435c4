"""The `contamination` filter: how much of an evaluation item stands in a row."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from curate import _fs, progress
from curate.errors import InputError, near_miss
from curate.examples import Example
from curate.examples.files import one_file
from curate.examples.record import MAX_ROW_BYTES, Record
from curate.examples.sources import EVERY_COLUMN, Files
from curate.filters.base import Filter, OutputType, Scores, register
from curate.filters.limits import head

if TYPE_CHECKING:
    from curate.diversity.overlap import ItemIndex

Stamp = tuple[Path, int, int]
"""Path, size and time of change: a file that is written anew is read anew."""

QUESTIONS = ("question", "prompt", "problem", "instruction", "query", "input", "text")
"""Columns that hold the question, in this order, where none is named."""
CHATS = ("messages", "conversations", "prompt")


@register("contamination")
class Contamination(Filter):
    """How much of an evaluation item stands in the row: such a row may teach the test. Higher is worse.

    Outputs:
        overlap: largest share of one item's distinct word n-grams that stand in the row's prompt or completion, in [0, 1].
        item: the item with that overlap, as `FILE:LINE`; the first of equals. Null where the overlap is 0.

    Items are the questions of the files `against`: the column `column`, else the first of question, prompt, problem, instruction,
    query, input and text, else the turns of a chat before its answer. Words are compared in lower case and without punctuation;
    characters in scripts without spaces. An item of fewer than `n` words is one n-gram; of fewer than four, it has to be the
    whole prompt. n-grams of more than 10 items are the frame around them and do not count. Of each text the first 100,000
    characters are looked at. Never null: an empty row overlaps with nothing.
    Answers are not compared: `It is 42.` stands in many rows that saw no test. Translations and paraphrases are not found.
    Paths are relative to the current directory. The scores depend on what the files hold, not on where they lie.
    Cost: one pass over the evaluation files, then linear in the row's length; no model.
    Source: the share of an item that stands in a row, cut at a half, after Tulu 3 (arXiv:2411.15124; 8-grams). GPT-3
    (arXiv:2005.14165, appendix C) called any 13-gram in common a leak, which also takes common phrases. Differences: distinct
    n-grams are counted, not covered tokens; frames do not count; the completion is searched too.
    """

    version: ClassVar[int] = 1
    described_by_identity: ClassVar = ("against",)
    outputs: ClassVar[dict[str, OutputType]] = {"overlap": "float64", "item": "string"}

    against: Annotated[tuple[Path, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str | Path) else value)] = (
        Field(min_length=1, description="Evaluation files: JSON lines or arrays, CSV, Parquet or Arrow.")
    )
    column: str | None = Field(default=None, description="Column of the files that holds the questions; default: by its name.")
    n: int = Field(default=8, ge=1, le=50, description="Words per n-gram.")

    def identity(self) -> dict[str, Any]:
        """What the evaluation files hold. Raises InputError for a file that is not there."""
        return {"against": [_hash(stamp) for stamp in self._stamps()]}

    def check_machine(self) -> list[str]:
        """Raise for files that are not there or hold no items, before the first row is read."""
        self._items()
        return []

    def score(self, example: Example) -> Scores:
        """The item that stands in the row to the largest part."""
        items = self._items()
        prompt, completion = head(example.prompt_text), head(example.completion)
        hits, shares = items.overlaps(prompt, [prompt, completion])
        if not len(hits):
            return {"overlap": 0.0, "item": None}
        best = int(shares.argmax())
        return {"overlap": float(shares[best]), "item": items.names[int(hits[best])]}

    def _items(self) -> "ItemIndex":
        return _read_items(self._stamps(), self.column, self.n)

    def _stamps(self) -> tuple[Stamp, ...]:
        for path in self.against:
            if not path.is_file():
                raise InputError(f"{path}: no such evaluation file; paths are relative to the current directory, {Path.cwd()}")
        facts = [(path, path.stat()) for path in self.against]
        return tuple((path, fact.st_size, fact.st_mtime_ns) for path, fact in facts)


@lru_cache(maxsize=64)
def _hash(stamp: Stamp) -> str:
    return _fs.sha256(stamp[0])


@lru_cache(maxsize=4)
def _read_items(stamps: tuple[Stamp, ...], column: str | None, n: int) -> "ItemIndex":
    from curate.diversity.overlap import ItemIndex

    items: list[tuple[str, str]] = []
    for path, _, _ in stamps:
        before = len(items)
        items += [(place.encode(errors="replace").decode(), text) for place, text in _questions(path, column)]
        if len(items) == before:
            raise InputError(f"{path}: holds no evaluation items; every question in it is empty or cannot be read")
    return ItemIndex.build(items, n)


def _questions(path: Path, column: str | None) -> Iterator[tuple[str, str]]:
    """Place and question of every item that has one; those that cannot be read are told, not passed over in silence."""
    refused: Counter[str] = Counter()
    for record in Files(path.name, one_file(path), MAX_ROW_BYTES).records(notes=Counter(), parsed=EVERY_COLUMN):
        if not isinstance(record, Record):
            refused[record.reason] += 1
        elif (text := head(_question(record.value, column, path))).strip():
            yield record.place, text
    if refused:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused.most_common(3))
        progress.note(f"{path}: {refused.total():,} evaluation items cannot be read ({reasons}); rows are not compared with them")


def _question(value: Mapping[str, Any], column: str | None, path: Path) -> str:
    if column is not None:
        if column not in value:
            raise InputError(f"{path}: has no {column}; {near_miss(column, list(value), listing='it has')}")
        return str(value[column] or "")
    for name in QUESTIONS:
        if isinstance(value.get(name), str):
            return str(value[name])
    for name in CHATS:
        if isinstance(turns := value.get(name), list):
            return _asked([turn for turn in turns if isinstance(turn, Mapping)])
    raise InputError(f"{path}: no question; say which with `column`; it has {', '.join(map(str, value))}")


def _asked(turns: Sequence[Mapping[str, Any]]) -> str:
    """What a chat says before its last answer."""
    is_answered = bool(turns) and turns[-1].get("role", turns[-1].get("from")) in ("assistant", "gpt", "model")
    return "\n".join(str(turn.get("content") or turn.get("value") or "") for turn in (turns[:-1] if is_answered else turns))
