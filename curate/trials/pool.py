"""The rows that a trial may train on: what is held out first, what a trainer would drop, how long each row is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate import progress
from curate.errors import InputError
from curate.examples import Example, stable_hash
from curate.filters import Likelihood
from curate.rows import RowStore
from curate.selection.frame import Bools, Ints

if TYPE_CHECKING:
    from curate.diversity.overlap import ItemIndex

TRAIN, VALIDATION, TEST = 0, 1, 2
NEAR = 0.9
"""Jaccard similarity of two prompts' word 3-grams from which they stay on one side. Short prompts that differ in one word are
below it: most templated questions differ in no more."""
N_GRAM = 8
STANDS = 0.5
"""A test item stands in the training rows when more than this share of its 8-grams does, as in the `contamination` filter."""


@dataclass(frozen=True)
class Pool:
    """All rows of a run, as a trial sees them. Row number is array index."""

    rows: RowStore
    part: npt.NDArray[np.int8]
    """TRAIN, VALIDATION or TEST."""
    tokens: Ints
    """Trained tokens of the completion under the target's template, 0 where there are none."""
    truncated: Bools
    """The trainer cuts the row's end off."""
    unusable: dict[str, int]
    """Training rows without a token to train on, by reason; no arm holds them."""

    @property
    def trainable(self) -> Bools:
        """Training rows that the trainer would not drop."""
        return np.asarray((self.part == TRAIN) & (self.tokens > 0))


def make_pool(rows: RowStore, likelihood: Likelihood, *, validation: float, test: float) -> Pool:
    """Hold out prompts, then measure every row as the trainer would see it."""
    part = hold_out(rows, validation=validation, test=test)
    tokens, truncated, unusable = _measure(rows, likelihood, part)
    return Pool(rows, part, tokens, truncated, unusable)


def hold_out(rows: RowStore, *, validation: float, test: float) -> npt.NDArray[np.int8]:
    """Which part every row belongs to. Rows of one prompt, and of prompts that nearly repeat each other, stay together.

    Prompts are dealt out in the order of a hash, so the split depends on the data alone. Raises InputError where a share that
    is not 0 would be empty, or would leave nothing to train on.
    """
    from curate.diversity.near_duplicates import near_duplicates

    number: dict[str, int] = {}
    """Of each different prompt, by hash, in order of appearance."""
    asked = np.zeros(rows.count, dtype=np.int64)  # the row's prompt
    texts: list[tuple[int, tuple[str]]] = []
    together = _Sets()
    of_group: dict[str, int] = {}
    for example in _with_progress(rows):
        key = stable_hash(example.prompt)
        if key not in number:
            number[key] = len(number)
            texts.append((number[key], (example.prompt_text[:100_000],)))
        asked[example.row] = number[key]
        # A mapped group may hold several prompts, and a prompt may stand in several groups.
        together.join(number[key], of_group.setdefault(example.prompt_key, number[key]))
    for prompt, match in near_duplicates(texts, n=3, threshold=NEAR, permutations=128, seed=1):
        together.join(prompt, match.leader)
    part_of = _dealt({together.find(at): [] for at in number.values()}, number, together, validation=validation, test=test)
    return np.array([part_of[together.find(at)] for at in range(len(number))], dtype=np.int8)[asked]


def _dealt(
    members: dict[int, list[str]], number: dict[str, int], together: "_Sets", *, validation: float, test: float
) -> dict[int, int]:
    """The part of every set of prompts, in the order of the least hash in it."""
    for key, at in number.items():
        members[together.find(at)].append(stable_hash(["trial", key]))
    dealt = sorted(members, key=lambda leader: min(members[leader]))
    counts = [round(share * len(dealt)) for share in (test, validation)]
    for name, share, count in zip(("test", "validation"), (test, validation), counts, strict=True):
        if share and not count:
            raise InputError(
                f"trial: {100 * share:.0f} % of {len(dealt)} different prompts is none for {name}; ask for a larger share"
            )
    if sum(counts) >= len(dealt):
        raise InputError(f"trial: of {len(dealt)} different prompts none is left to train on; hold out less")
    parts = [TEST] * counts[0] + [VALIDATION] * counts[1] + [TRAIN] * (len(dealt) - sum(counts))
    return dict(zip(dealt, parts, strict=True))


class _Sets:
    """Disjoint sets of numbers; each set is named after its least member."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def find(self, at: int) -> int:
        """The name of a number's set."""
        while (above := self._parent.get(at, at)) != at:
            self._parent[at] = self._parent.get(above, above)
            at = above
        return at

    def join(self, one: int, other: int) -> None:
        """Make two sets one."""
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first


def _with_progress(rows: RowStore) -> Iterator[Example]:
    with progress.measuring("holding out prompts", rows.count):
        for shard in rows.shards:
            yield from rows.examples(shard)
            progress.tick(rows=shard.stop - shard.start)


def _measure(rows: RowStore, likelihood: Likelihood, part: npt.NDArray[np.int8]) -> tuple[Ints, Bools, dict[str, int]]:
    """Trained tokens per row, which are truncated, and how many training rows have none, by reason."""
    from curate.likelihood import Rendered

    renderer = likelihood.renderer()
    tokens, truncated = np.zeros(rows.count, dtype=np.int64), np.zeros(rows.count, dtype=bool)
    unusable: dict[str, int] = {}
    with progress.measuring("measuring rows", rows.count):
        for shard in rows.shards:
            for place, found in enumerate(renderer.render(rows.examples(shard)), shard.start):
                if isinstance(found, Rendered):
                    tokens[place] = found.trained
                    truncated[place] = found.truncated
                elif part[place] == TRAIN:
                    unusable[found.reason] = unusable.get(found.reason, 0) + 1
            progress.tick(rows=shard.stop - shard.start)
    return tokens, truncated, unusable


@dataclass(frozen=True)
class Overlap:
    """How many test items stand in the training rows."""

    task: str
    items: int
    found: int
    examples: tuple[tuple[str, int, float], ...]
    """Item, training row and share, for the first few."""

    @property
    def share(self) -> float:
        """Of the items, in [0, 1]."""
        return self.found / self.items if self.items else 0.0


def overlap(pool: Pool, task: str, questions: Sequence[str]) -> Overlap:
    """Test items that stand in a training row: more than half of their 8-grams, or all of a shorter one.

    `questions` are without the words of a task's template: they stand around every item and would dilute its share.
    """
    from curate.diversity.overlap import ItemIndex

    index = ItemIndex.build([(str(number), text) for number, text in enumerate(questions)], N_GRAM)
    best: dict[int, tuple[float, int]] = {}
    seen: set[str] = set()
    for shard in pool.rows.shards:
        for example in pool.rows.examples(shard):
            if pool.part[example.row] != TRAIN:
                continue
            # Rows of one prompt share it: it is looked up once, the completions each.
            prompt = example.prompt_text[:100_000]
            _note(best, index, prompt if prompt not in seen else "", example)
            seen.add(prompt)
    found = sorted(best.items())
    shown = tuple((questions[item][:200], row, share) for item, (share, row) in found[:5])
    return Overlap(task, len(questions), len(found), shown)


def _note(best: dict[int, tuple[float, int]], index: "ItemIndex", prompt: str, example: Example) -> None:
    items, shares = index.overlaps(prompt, [prompt, example.completion[:100_000]])
    for item, share in zip(items.tolist(), shares.tolist(), strict=True):
        if share > STANDS and share > best.get(item, (0.0, 0))[0]:
            best[item] = (share, example.row)
