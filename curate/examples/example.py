"""One SFT row, normalised: what every filter sees."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Never, TypedDict

import xxhash

from curate.errors import UsageError

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


def stable_hash(value: Any) -> str:
    """128-bit hash of a JSON value, as 32 hex digits; equal values give equal digits on every machine."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    # surrogatepass: the hash must be defined for every str, also for one that no file can hold.
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


class Undeclared(Mapping[str, Any]):
    """In the place of `Example.extra` for filters that do not declare it: looking into it raises a UsageError.

    An empty mapping would give every row the value of an absent column, and nobody would notice.
    """

    def _refuse(self, *_: object) -> Never:
        raise UsageError("a filter looks into `extra` and does not declare it: say reads = ('messages', 'extra') in its class")

    def __getitem__(self, key: str) -> Any:
        self._refuse()

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __repr__(self) -> str:
        return "UNDECLARED"

    def __reduce__(self) -> str:
        return "UNDECLARED"  # one object: examples compare equal by it, also after pickling


UNDECLARED = Undeclared()


@dataclass(frozen=True)
class Example:
    """A row: `messages`, of which the last assistant message is the completion and what stands before it the prompt.

    `row` is its place in the data set and its identity; `id` is carried for people and need not be unique. `extra` holds
    the user's other columns as they came.
    """

    messages: Sequence[Message]
    row: int = 0
    id: str | None = None
    group: str | None = None
    """The user's own name of the prompt, where a `group` column was mapped."""
    source: str | None = None
    """Who wrote the completion: human, gpt-4 ..."""
    gold: str | None = None
    """The reference answer, as text."""
    tests: Sequence[str] | None = None
    """Python statements that a completion of code has to pass."""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def prompt(self) -> list[Message]:
        """All messages before the completion."""
        return list(self.messages[:-1])

    @cached_property
    def prompt_text(self) -> str:
        """The contents of the prompt's messages, joined by newlines; exactly the prompt where it is one message."""
        return "\n".join(message["content"] for message in self.messages[:-1])

    @cached_property
    def completion(self) -> str:
        """Content of the last message, which is the assistant's."""
        return self.messages[-1]["content"]

    @cached_property
    def prompt_key(self) -> str:
        """Rows with one key answer the same prompt: the mapped `group`, else a hash of the messages before the completion."""
        return self.group if self.group is not None else stable_hash(self.prompt)
