"""Rows without padding, and what rows begin with alike only once.

A pack is one long sequence. Each of its segments is what a row has of its own, and also sees what stands before that in the row:
beginnings of other segments. Rows are laid out in the order of their tokens, so that the row before is the one most alike.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from curate.likelihood.rendering import Rendered

LEAST_SHARED = 8
"""Tokens from which a common beginning is read once: the keys behind it are copied together for every row that shares it."""

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Segment:
    """Tokens `start` to `stop` of a pack, which also see those of `context` (outermost first)."""

    start: int
    stop: int
    context: Spans = ()

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

    Rows that begin with each other's prompt stay together, as far as the budget lets them. A function of rows and budget alone;
    each index stands in exactly one pack. Largest first: what does not fit fails early, and threads end together.
    """
    read = [_read(row) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: (read[index], index))
    if not order:
        return []
    parts = [(len(read[order[0]]), [order[0]])]
    for before, index in itertools.pairwise(order):
        shared, (size, members) = _shared(read[before], read[index]), parts[-1]
        own = len(read[index]) - shared
        if shared >= min(rows[before].start, rows[index].start) and size + own <= budget:
            parts[-1] = size + own, members
            members.append(index)
        else:
            parts.append((len(read[index]), [index]))
    common = _shared(read[order[0]], read[order[-1]])  # what the first and the last share, all in between share
    packs: list[tuple[int, list[int]]] = []
    for size, part in sorted(parts, key=lambda found: (-found[0], found[1][0])):
        if packs and packs[-1][0] + size - common <= budget:
            packs[-1] = packs[-1][0] + size - common, packs[-1][1] + part
        else:
            packs.append((size, part))
    return [part for _, part in sorted(packs, key=lambda found: -found[0])]


def pack(rows: Sequence[Rendered], chosen: Sequence[int]) -> Pack:
    """Lay the chosen rows out, each behind what it shares with the one before."""
    read = {index: _read(rows[index]) for index in chosen}
    order = sorted(chosen, key=lambda index: (read[index], index))
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    predictors: list[int] = []
    targets: list[int] = []
    before: Sequence[int] = ()
    spans: Spans = ()  # where the tokens of the row before stand
    for index in order:
        row, tokens = rows[index], read[index]
        shared = _shared(before, tokens)
        context = _first(spans, shared)
        start = len(ids)
        ids += tokens[shared:]
        positions += range(shared, len(tokens))
        before, spans = tokens, context
        if shared < len(tokens):
            segments.append(Segment(start, len(ids), context))
            touching = bool(context) and context[-1][1] == start  # then the two are one
            spans = (*context[:-1], (context[-1][0], len(ids))) if touching else (*context, (start, len(ids)))
        places = [place for first, last in spans for place in range(first, last)]
        for turn in row.turns:
            predictors += places[turn.start - 1 : turn.stop - 1]
            targets += row.input_ids[turn.start : turn.stop]
    return Pack(order, ids, positions, segments, predictors, targets)


def _read(row: Rendered) -> list[int]:
    """The tokens of a row that the model reads: the last one predicts nothing."""
    return list(row.input_ids[:-1])


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with, 0 where too few to be worth it."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # compared in halves, because slices are compared in C
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low if low >= LEAST_SHARED else 0


def _first(spans: Spans, count: int) -> Spans:
    """The first tokens of spans."""
    found = []
    for start, stop in spans:
        if count <= 0:
            break
        found.append((start, min(stop, start + count)))
        count -= stop - start
    return tuple(found)
