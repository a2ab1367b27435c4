"""Which rows both models score: whole prompts, drawn from all of the data in one pass."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate import progress
from curate.errors import InputError
from curate.examples import Example, Examples, Refused, stable_hash

MOST_PER_PROMPT = 64
"""Responses of one prompt that are taken: where all rows share a prompt, the sample has to end somewhere."""


@dataclass(frozen=True)
class Sample:
    """Some prompts of a data set, each with its responses, in the order of the data."""

    examples: Examples
    sampled: int
    prompts: int
    cut_prompts: int
    """Prompts of which not all responses were taken."""
    rows: int
    """Rows of the data."""
    refused: int


def sample(examples: Examples, rows: int, *, seed: int = 0) -> Sample:
    """At least `rows` rows where there are as many: prompts in the order of their hashes, the last one to its end.

    The order of the data and its other prompts change nothing. Raises InputError when no row can be read.
    """
    draw = _Draw(rows, seed)
    refused = 0
    with progress.measuring("counting rows"):
        for record in examples.records():
            if isinstance(record, Refused):
                refused += 1
            else:
                draw.offer(record)
                progress.tick(rows=1)
    if not draw.seen:
        raise InputError(f"{examples.name}: no row to score" + (f"; {refused:,} are refused" if refused else ""))
    chosen = draw.chosen()
    prompts = draw.held.values()
    return Sample(
        examples=_Some(examples, chosen),
        sampled=len(chosen),
        prompts=len(prompts),
        cut_prompts=sum(prompt.rows > len(prompt.taken) for prompt in prompts),
        rows=draw.seen,
        refused=refused,
    )


@dataclass
class _Prompt:
    taken: list[tuple[str, Example]]
    """Responses with their hashes."""
    rows: int = 0


class _Draw:
    """Holds the prompts with the lowest hashes, no more than it takes to have enough rows."""

    def __init__(self, wanted: int, seed: int) -> None:
        self.wanted, self.seed = wanted, seed
        self.seen = self.size = 0
        self.held: dict[int, _Prompt] = {}
        self.falling: list[int] = []
        """The hashes, negated: the highest comes first."""
        self.limit: int | None = None
        """The lowest hash that was given up; rows of its prompt and of higher ones may come again and are no use."""

    def offer(self, example: Example) -> None:
        self.seen += 1
        key = self._hash(example.prompt_key)
        if self.limit is not None and key >= self.limit:
            return
        if key not in self.held:
            self.held[key] = _Prompt([])
            heapq.heappush(self.falling, -key)
        prompt = self.held[key]
        before = len(prompt.taken)
        prompt.rows += 1
        prompt.taken.append((stable_hash([self.seed, example.row]), example))
        if len(prompt.taken) > MOST_PER_PROMPT:
            prompt.taken.remove(max(prompt.taken, key=lambda entry: entry[0]))
        self.size += len(prompt.taken) - before
        while self.size - len(self.held[-self.falling[0]].taken) >= self.wanted:
            self.limit = -heapq.heappop(self.falling)
            self.size -= len(self.held.pop(self.limit).taken)

    def _hash(self, prompt_key: str) -> int:
        return int(stable_hash([self.seed, prompt_key]), 16)

    def chosen(self) -> list[Example]:
        rows = [example for prompt in self.held.values() for _, example in prompt.taken]
        return sorted(rows, key=lambda example: example.row)


class _Some(Examples):
    """Some rows of a data set, read already; numbered anew, else as they were."""

    def __init__(self, whole: Examples, rows: Sequence[Example]) -> None:
        super().__init__(whole._source, whole.layout, whole._choice)
        self._rows = rows

    def records(self) -> Iterator[Example | Refused]:
        """The rows."""
        return (replace(example, row=place) for place, example in enumerate(self._rows))

    def fingerprint(self) -> dict[str, Any]:
        """Nothing that a later run could go by."""
        return {"kind": "anonymous"}
