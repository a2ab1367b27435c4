"""What a task, an item of it, an answer to it and the verdict on that answer are. Each kind of task has a file of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from curate.examples import Message, stable_hash
from curate.examples.layouts import as_fact
from curate.examples.record import excerpt
from curate.recipes.schema import Settings
from curate.trials.tasks.columns import Row, is_template, messages_of, template_columns

if TYPE_CHECKING:
    from curate.trials.tasks.items import Items


@dataclass(frozen=True)
class Item:
    """One question of a task, with what its answer is held against."""

    index: int
    """Its place among the loaded items."""
    key: str
    """Hash of prompt (without the system message) and gold; equal in every file that asks the same."""
    place: str
    """File and line of its row, for messages."""
    messages: tuple[Message, ...]
    """The prompt."""
    gold: tuple[str, ...]
    """Accepted answers: texts, references, the right option, or for code the tests."""
    reference: str | None = None
    """A gold solution in full, for held-out loss."""
    options: tuple[str, ...] = ()
    right: int | None = None
    """Place of the right option, from 0."""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole row."""

    @property
    def wanted(self) -> str:
        """The accepted answers, as messages show them."""
        return f"gold {excerpt(' or '.join(self.gold), length=80)!r}"

    @property
    def question(self) -> str:
        """The last message of the prompt."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Generation:
    """What a model wrote for an item."""

    text: str
    tokens: int
    is_cut_off: bool
    """It ended because `max_new_tokens` were written."""


@dataclass(frozen=True)
class Outcome:
    """The verdict on one answer. Scores lie in [0, 1], higher is better."""

    strict: float
    """By the letter of what the task asked for, as evaluation scripts read."""
    lenient: float
    """As a person would read the answer."""
    is_read: bool
    """Whether the lenient reader found an answer at all."""
    answer: str | None
    """What it found."""
    detail: str = ""
    """Why, for people. Made of a model's text: show it escaped."""


def _texts(value: Any) -> Any:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("must be a text that is not empty, or a list of such")
    return texts


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
"""A list of texts, or one."""


class Task(Settings):
    """What every kind of task says: where its rows are, what is asked, how long an answer may be."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)
    kind: str
    data: str = Field(min_length=1)
    """A file, folder or glob; or a Hub id, `org/name` or `org/name:config`."""
    split: str | None = None
    """Of a folder or Hub id; `test` unless said otherwise."""
    revision: str | None = None
    """Of a Hub id: commit, tag or branch."""
    limit: int | None = Field(default=None, ge=1)
    """Items at most: the first, or with `shuffle_seed` a random draw."""
    shuffle_seed: int | None = Field(default=None, ge=0)
    prompt: str = Field(default="prompt", min_length=1)
    """A column (text, or messages), or a template such as `Question: {question}`."""
    system: str | None = None
    """A system message before every prompt."""
    reference: str | None = None
    """Column with a solution in full, for held-out loss; `reference` where the rows have it."""
    max_new_tokens: int = Field(default=512, ge=1)
    stop: Texts = ()
    """Texts that end an answer; they are no part of it."""

    @model_validator(mode="after")
    def _is_meant(self) -> Self:
        if self.shuffle_seed is not None and self.limit is None:
            raise ValueError("shuffle_seed chooses which items a limit leaves; give a limit too, or neither")
        if is_template(self.prompt):
            template_columns(self.prompt)
        return self

    def definition(self) -> dict[str, Any]:
        """The task as JSON, as `load_task` reads it back; the data as an absolute path or a Hub id."""
        return {"kind": self.kind, **self.model_dump(mode="json", exclude_defaults=True)}

    def items(self) -> "Items":
        """The items, read anew from the data."""
        from curate.trials.tasks.items import load_items

        return load_items(self)

    def identity(self) -> str:
        """A hash of the items' questions and gold, whatever the task is called. Reads the data; `Items.identity` does not."""
        return self.items().identity

    def item(self, row: Row, index: int) -> Item:
        """The row as item number `index`. Raises InputError, with its place, for a row that is none."""
        messages = messages_of(row, self.prompt, self.system)
        gold = self.gold_of(row)
        key = stable_hash([[message for message in messages if message["role"] != "system"], sorted(gold)])
        return Item(index, key, row.place, messages, gold, self.reference_of(row, gold), extra=row.value)

    def asked(self, item: Item) -> str:
        """What is the item's own in its question: the columns that a template names, without the words around them."""
        if not is_template(self.prompt):
            return item.question
        texts = (as_fact(item.extra[name]) for name in dict.fromkeys(template_columns(self.prompt)))
        return "\n".join(text for text in texts if text)

    def gold_of(self, row: Row) -> tuple[str, ...]:
        """The accepted answers of a row, or what else decides."""
        raise NotImplementedError

    def reference_of(self, row: Row, gold: tuple[str, ...]) -> str | None:
        """The row's solution in full."""
        if self.reference is None:
            found = row.value.get("reference")
            return found if isinstance(found, str) and found.strip() else None
        return row.text(self.reference)

    def score(self, items: Sequence[Item], texts: Sequence[str]) -> list[Outcome]:
        """One verdict per answer, in order; `texts` end before the first `stop`."""
        raise NotImplementedError

    def aggregate(self, items: Sequence[Item], texts: Sequence[str]) -> dict[str, float]:
        """Measures of all answers together that are no mean of the items' scores."""
        return {}

    def signatures(self, items: Sequence[Item]) -> dict[str, str]:
        """How each aggregate is computed, where its name does not tell."""
        return {}

    def check_machine(self) -> None:
        """Raise where this machine cannot score the task."""
