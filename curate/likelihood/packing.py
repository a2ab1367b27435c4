"""Rows without padding: segments of tokens in a tree, so that what rows share is computed once.

A pack is one long sequence. Its segments are the prefix that all its prompts share (where that pays), the prompts, and the
responses; each attends to itself and to what stands before it in its own row, and to nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.likelihood.rendering import Rendered

LEAST_SHARED = 16
"""Tokens from which a prefix of all prompts becomes a segment of its own: a segment costs some calls per layer."""


@dataclass(frozen=True)
class Segment:
    """Tokens `start` to `stop` of a pack, which also see those of `context` (outermost first)."""

    start: int
    stop: int
    context: tuple[tuple[int, int], ...] = ()

    @property
    def seen(self) -> int:
        """Tokens of the context: the position of the first of its own."""
        return sum(stop - start for start, stop in self.context)


@dataclass(frozen=True)
class Pack:
    """Some rows as one sequence."""

    rows: Sequence[int]
    """Indices of the rows, in the order of their predictions."""
    ids: Sequence[int]
    positions: Sequence[int]
    segments: Sequence[Segment]
    predictors: Sequence[int]
    """For every scored token, row by row, the place whose hidden state predicts it."""
    targets: Sequence[int]


def plan_packs(rows: Sequence[Rendered], budget: int) -> list[list[int]]:
    """Group rows into packs of at most `budget` tokens, shared ones counted once (a longer row makes a pack alone).

    Rows of one prompt stay together, as far as the budget lets them. A function of rows and budget alone; each index stands in
    exactly one pack. Largest first: what does not fit fails early.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row.input_ids[: row.start]), []).append(index)
    parts: list[tuple[int, list[int]]] = []
    for prompt, members in groups.items():
        size, part = len(prompt), list[int]()
        for index in members:
            own = _own(rows[index])
            if part and size + own > budget:
                parts.append((size, part))
                size, part = len(prompt), []
            size += own
            part.append(index)
        parts.append((size, part))
    packs: list[list[int]] = []
    filled = 0
    for size, part in sorted(parts, key=lambda found: (-found[0], found[1][0])):
        if not packs or filled + size > budget:
            packs.append([])
            filled = 0
        packs[-1] += part
        filled += size
    return packs


def _own(row: Rendered) -> int:
    """Tokens of a response that are read: the last one predicts nothing."""
    return len(row.input_ids) - row.start - 1


def pack(rows: Sequence[Rendered], chosen: Sequence[int]) -> Pack:
    """Lay the chosen rows out, responses behind their prompts."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in chosen:
        groups.setdefault(tuple(rows[index].input_ids[: rows[index].start]), []).append(index)
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []

    def add(tokens: Sequence[int], context: tuple[tuple[int, int], ...]) -> tuple[int, int]:
        segment = Segment(len(ids), len(ids) + len(tokens), context)
        ids.extend(tokens)
        positions.extend(range(segment.seen, segment.seen + len(tokens)))
        if tokens:
            segments.append(segment)
        return segment.start, segment.stop

    shared = _shared_prefix(list(groups))
    root = (add(next(iter(groups))[:shared], ()),) if shared else ()
    order: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    for prompt, members in groups.items():
        place = add(prompt[shared:], root)
        for index in members:
            row = rows[index]
            start, stop = add(row.input_ids[row.start : -1], (*root, place))
            order.append(index)
            predicting = [place[1] - 1, *range(start, stop)]
            for turn in row.turns:
                predictors += predicting[turn.start - row.start : turn.stop - row.start]
                targets += row.input_ids[turn.start : turn.stop]
    return Pack(order, ids, positions, segments, predictors, targets)


def _shared_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all prompts begin with, 0 where too few; every prompt keeps one of its own, which predicts its responses."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # what these two share, all in between share
    shortest = min(map(len, prompts)) - 1
    count = next((place for place in range(min(shortest, len(first), len(last))) if first[place] != last[place]), shortest)
    return count if count >= LEAST_SHARED else 0
