"""How far two scorings agree: ranks, and what is kept; both with intervals over prompts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from curate.learning.judging import Estimate
from curate.selection.frame import Bools, Floats, Ints
from curate.selection.steps import tied_ranks

DRAWS = 1000


@dataclass(frozen=True)
class RankAgreement:
    """How far two models rank alike at one step; Spearman's correlation, in [-1, 1]. None where one of them ties all rows."""

    step: str
    field: str
    rows: int
    """Rows that reach the step under the target's scores and that both models score."""
    overall: Estimate | None
    """Over all these rows together."""
    within: Estimate | None
    """Inside the groups that the step ranks in: the mean of their correlations, weighted by rows - 1."""
    groups: dict[str, int]
    """Rows by the group that they are ranked in."""


def within_groups(left: Floats, right: Floats, groups: Ints) -> float | None:
    """Mean of the groups' Spearman correlations, weighted by rows - 1; None where no group has two values on both sides.

    The variance of Spearman's correlation is 1 / (rows - 1) where there is no association.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    middle = (sizes[inverse] + 1) / 2
    a, b = (_ranks(values, inverse) - middle for values in (left, right))
    products, squares_a, squares_b = (np.bincount(inverse, values) for values in (a * b, a * a, b * b))
    scale = np.sqrt(squares_a * squares_b)
    told = scale > 0
    if not told.any():
        return None
    return float(np.average(np.clip(products[told] / scale[told], -1, 1), weights=sizes[told] - 1))


def _ranks(values: Floats, groups: Ints) -> Floats:
    """Ranks from 1 inside each group; what the recipe's steps take for tied shares the mean of its ranks."""
    ties = tied_ranks(values, groups)
    order = np.lexsort((ties, groups))
    tie, group = ties[order], groups[order]
    is_first = np.r_[True, group[1:] != group[:-1]][: len(group)]
    starts = np.flatnonzero(np.r_[True, tie[1:] != tie[:-1]] | is_first)
    ends = np.r_[starts[1:], len(values)]
    begin = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
    found = np.empty(len(values))
    found[order] = np.repeat((starts + ends + 1) / 2, ends - starts) - begin
    return found


def agreement(left: Floats, right: Floats, groups: Ints, prompt: Ints, *, seed: int = 0) -> Estimate | None:
    """`within_groups` with the interval of drawing prompts again; of a prompt drawn twice, each copy keeps its own groups.

    Groups of several prompts take up all copies.
    """
    value = within_groups(left, right, groups)
    if value is None:
        return None
    _, members = np.unique(groups, return_inverse=True)
    prompts_of = np.bincount(np.unique(np.c_[members, prompt], axis=0)[:, 0])
    is_apart = prompts_of[members] == 1
    drawn = []
    for rows, copy in redrawn(prompt, seed=seed):
        codes = members[rows] * (int(copy.max()) + 1) + np.where(is_apart[rows], copy, 0)
        if (again := within_groups(left[rows], right[rows], codes)) is not None:
            drawn.append(again)
    return middle_of(value, np.array(drawn))


def redrawn(prompt: Ints, *, seed: int = 0) -> Iterator[tuple[Ints, Ints]]:
    """Rows of as many prompts as there are, drawn with repetition, and a number per row that tells the draws apart."""
    _, codes, sizes = np.unique(prompt, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    generator = np.random.default_rng(seed)
    for _ in range(DRAWS):
        drawn = generator.integers(0, len(members), len(members))
        yield np.concatenate([members[at] for at in drawn]), np.repeat(np.arange(len(drawn)), sizes[drawn])


def shared_share(kept: Bools, also: Bools) -> float:
    """Share of the kept rows that the other keeps too."""
    return float(also[kept].mean())


def overlap(kept: Bools, also: Bools, prompt: Ints, *, seed: int = 0) -> Estimate:
    """`shared_share` with the interval of drawing prompts again."""
    drawn = [shared_share(kept[rows], also[rows]) for rows, _ in redrawn(prompt, seed=seed) if kept[rows].any()]
    return middle_of(shared_share(kept, also), np.array(drawn))


def middle_of(value: float, drawn: Floats) -> Estimate:
    """A value and the middle 95 % of what was drawn."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
