"""Which rows every arm trains on. All arms but `full` and those of a poor source hold as many rows as the curated one."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate.annotations import Annotations
from curate.errors import RecipeError, near_miss
from curate.recipes import Recipe, load_recipe
from curate.recipes.schema import Order, Ranking
from curate.recipes.trial import ARMS, known_arms
from curate.selection import Selection, select
from curate.selection.frame import Floats, Frame, Ints
from curate.selection.steps import random_keys
from curate.trials.pool import Pool

CURATED, BASE = "curated", "base"
ORDERED, SHUFFLED, SYNTHETIC = "ordered", "shuffled", "synthetic"
"""Arms of the other protocols, with their share: `ordered@0.1`."""
UNORDERED = f"{SHUFFLED}@1"
"""All curated rows in random order: what `curated` is without the recipe's order."""
LARGE_GROUP = 20
"""A group of at least this many rows is also split by length, into tenths."""
CLOSE = 0.002
"""Swaps stop when a draw's completion tokens agree with the curated rows' to this share; the contract is 1 %."""
SWEEPS = 20
SALT = 0x7121A1


def share_of(arm: str) -> tuple[str, float] | None:
    """Kind and share of an arm such as `ordered@0.1`; None for others (`source:me@home` is one)."""
    kind, _, share = arm.partition("@")
    return (kind, float(share)) if kind in (ORDERED, SHUFFLED, SYNTHETIC) and share else None


def _keys(rows: Ints, seed: int) -> npt.NDArray[np.uint64]:
    """Random keys of a trial's draws. Not those of a recipe's `sample` and `mix`, whose seed 0 would draw the very same rows."""
    return random_keys(rows, seed + SALT)


@dataclass(frozen=True)
class Draw:
    """The rows of one arm under one seed."""

    arm: str
    seed: int
    rows: Ints
    """In the order of training where `is_ordered`, else ascending."""
    is_ordered: bool = False


@dataclass
class Arms:
    """Draws the rows of any arm. Controls are drawn anew for every seed: one random subset is no estimate of random choice."""

    annotations: Annotations
    recipe: Recipe
    pool: Pool
    model: str | None = None
    human: Sequence[str] = ("human",)
    """Sources written by people."""
    _other: dict[str, Ints] = field(default_factory=dict)

    @cached_property
    def selection(self) -> Selection:
        """The recipe applied to the training rows alone; what is held out takes no part in any ranking."""
        return select(self.annotations, self.recipe, model=self.model, among=lambda _: self.pool.trainable)

    @property
    def frame(self) -> Frame:
        """What the steps saw."""
        return self.selection.frame

    @cached_property
    def curated(self) -> Ints:
        """The kept training rows, ascending."""
        return np.flatnonzero(self.selection.kept)

    @cached_property
    def choosing(self) -> int:
        """Index of the last step that rejected training rows: what `random-clean` replaces by chance."""
        steps = self.selection.steps
        # An `order` rejects too, where unscored rows are dropped, but it chooses nothing.
        return max((at for at, result in enumerate(steps) if result.rejected and not isinstance(result.step, Order)), default=0)

    @property
    def idle_steps(self) -> list[str]:
        """Steps behind `choosing` that could have chosen and rejected nothing."""
        return [str(result.step) for result in self.selection.steps[self.choosing + 1 :] if not isinstance(result.step, Order)]

    def canonical(self, arm: str) -> str:
        """One name per set of rows: `random` is `after:0`; `random-clean` is what stands before the last step that chooses.

        A step that rejected no training row makes no arm of its own.
        """
        match = re.fullmatch(r"after:([0-9]+)", arm)
        at = {"random": 0, "random-clean": self.choosing}.get(arm, int(match[1]) if match else None)
        if at is None:
            return arm
        if at > self.choosing:
            raise RecipeError(
                f"{self.recipe.name}: arm {arm!r}, but the last step that chooses rows is number {self.choosing + 1}"
            )
        while at > 0 and not self.selection.steps[at - 1].rejected:
            at -= 1
        return "random" if at == 0 else "random-clean" if at == self.clean_at else f"after:{at}"

    @cached_property
    def clean_at(self) -> int:
        """Steps after which `random-clean` draws, counting back over those that rejected nothing."""
        at = self.choosing
        while at > 0 and not self.selection.steps[at - 1].rejected:
            at -= 1
        return at

    @cached_property
    def orders(self) -> list[str]:
        """The steps by which curated rows are trained in the order of a field, in words."""
        return [str(step) for step in self.recipe.steps if isinstance(step, Order) and step.field is not None]

    def chain(self) -> list[str]:
        """Arms between which the steps stand: random, after each step that rejected rows, then those rows ordered: curated."""
        names = [self.canonical(f"after:{at}") for at in range(self.choosing + 1)]
        return [*dict.fromkeys(names), *([UNORDERED] if self.orders else []), CURATED]

    def steps_between(self, earlier: str, later: str) -> list[str]:
        """The steps that two neighbours of the chain differ by, in words."""
        places = {self.canonical(f"after:{at}"): at for at in range(self.choosing, -1, -1)}
        places |= {UNORDERED: self.choosing + 1, CURATED: self.choosing + 1}
        results = self.selection.steps[places[earlier] : places[later]]
        chosen = [str(result.step) for result in results if result.rejected and not isinstance(result.step, Order)]
        return chosen + (self.orders if later == CURATED else [])

    def draw(self, arm: str, seed: int) -> Draw:
        """The rows of an arm. Raises RecipeError for an arm that these rows cannot have."""
        if arm == CURATED:
            ordered = any(isinstance(step, Order) for step in self.recipe.steps)
            return Draw(arm, seed, self.selection.order if ordered else self.curated, ordered)
        if share_of(arm) is not None:
            return Draw(arm, seed, np.sort(self._shared(arm, seed)))
        return Draw(arm, seed, np.sort(self._rows(self.canonical(arm), seed)))

    def _shared(self, arm: str, seed: int) -> Ints:
        """Rows of the arms of a protocol with shares."""
        kind, share = share_of(arm) or (arm, 1.0)
        if kind == SYNTHETIC:
            return self._mixture(share, seed)
        rows = self.ordered if kind == ORDERED else self.curated[np.argsort(_keys(self.curated, seed), kind="stable")]
        return rows[: max(1, round(share * len(rows)))]

    @cached_property
    def ordered(self) -> Ints:
        """The kept training rows in the recipe's order, else best first by its ranking."""
        if any(isinstance(step, Order) for step in self.recipe.steps):
            return self.selection.order
        if self.selection.ranking is None:
            raise RecipeError(
                f"{self.recipe.name}: `protocol: progressive` needs an order; add an `order` step, or one that ranks"
            )
        worst_first = self._reversed_keys()[self.curated]
        best_first = np.where(np.isinf(worst_first), np.inf, -worst_first)  # rows without a score come last here too
        return self.curated[np.lexsort((self.curated, best_first))]

    def _mixture(self, share: float, seed: int) -> Ints:
        """Kept rows of which this share is synthetic: as many in all, whatever the share, as the smaller kind has."""
        names = self.frame.names("source")
        by_people = [code for code, name in enumerate(names) if name in self.human]
        is_human = np.isin(self.frame.codes("source")[self.curated], by_people)
        human, synthetic = self.curated[is_human], self.curated[~is_human]
        if not len(human) or not len(synthetic):
            there = ", ".join(str(name) for name in names if name is not None) or "none named"
            raise RecipeError(
                f"`protocol: mix` needs kept rows by people ({', '.join(self.human)}) and others; there are sources {there}; "
                "say which are human with `trial: human:`"
            )
        total = min(len(human), len(synthetic))
        counts = (total - round(share * total), round(share * total))
        parts = zip((human, synthetic), counts, strict=True)
        return np.concatenate([rows[np.argsort(_keys(rows, seed), kind="stable")[:count]] for rows, count in parts])

    def _rows(self, arm: str, seed: int) -> Ints:
        if arm in ("random", "random-clean") or arm.startswith("after:"):
            at = {"random": 0, "random-clean": self.clean_at}.get(arm)
            return self._matched(int(arm.partition(":")[2]) if at is None else at, seed)
        if arm in ("full", "full-epochs"):
            return np.flatnonzero(self.pool.trainable)
        if arm == "longest":
            return self._best(-self.pool.tokens.astype(np.float64))
        if arm == "reverse":
            return self._best(self._reversed_keys())
        if arm.startswith("source:"):
            return self._of_source(arm.partition(":")[2], seed)
        return self._of_recipe(arm, seed)

    def pool_after(self, steps: int) -> Ints:
        """Training rows that the first `steps` steps left."""
        return np.flatnonzero(self.selection.after(steps) & self.pool.trainable)

    def _groups(self, rows: Ints) -> Ints:
        """The group of each row of a pool: as the recipe's last ranking groups them, else all in one."""
        at = self.selection.ranking
        step = self.recipe.steps[at] if at is not None else None
        within = step.within if isinstance(step, Ranking) else ("dataset",)
        codes = np.zeros(len(rows), dtype=np.int64)
        left = np.arange(len(rows))
        begin = 0
        for level, name in enumerate(within):
            found, inverse, sizes = np.unique(self.frame.group(name)[rows[left]], return_inverse=True, return_counts=True)
            here = sizes[inverse] >= 2
            if level == len(within) - 1:
                here[:] = True
            codes[left[here]] = begin + inverse[here]
            begin += len(found)
            left = left[~here]
        return codes

    def _matched(self, steps: int, seed: int) -> Ints:
        """A random draw from the rows that the first steps left: as many per group and length as the curated rows."""
        rows = self.pool_after(steps)
        return matched_draw(rows, np.isin(rows, self.curated), self._groups(rows), self.pool.tokens[rows], seed)

    def _best(self, keys: Floats) -> Ints:
        """The rows with the lowest keys, as many per group as the curated rows, of what stands before the choosing step."""
        rows = self.pool_after(self.choosing)
        groups = self._groups(rows)
        return rows[_first_of(groups, keys[rows], rows, counts_of(groups, np.isin(rows, self.curated)))]

    def _reversed_keys(self) -> Floats:
        at = self.selection.ranking
        step = self.recipe.steps[at] if at is not None else None
        if not isinstance(step, Ranking):
            raise RecipeError(f"{self.recipe.name}: arm 'reverse' needs a step that ranks (keep, best_of); the recipe has none")
        column = self.frame.column(step.field)
        # Unscored rows come last: they are the worst by no measure.
        return np.where(column.valid, column.values * (-1.0 if step.lowest else 1.0), np.inf)

    def _of_source(self, source: str, seed: int) -> Ints:
        names = self.frame.names("source")
        if source not in names:
            there = [str(name) for name in names if name is not None]
            raise RecipeError(f"arm 'source:{source}': no row is from it; {near_miss(source, there, listing='there are')}")
        rows = self.pool_after(self.choosing)
        rows = rows[self.frame.codes("source")[rows] == names.index(source)]
        if not len(rows):
            raise RecipeError(f"arm 'source:{source}': the earlier steps left none of its rows")
        return self._at_most(rows, seed)

    def _of_recipe(self, name: str, seed: int) -> Ints:
        if name not in self._other:
            is_file = "/" in name or name.endswith((".yaml", ".yml")) or Path(name).is_file()
            if not is_file and name not in known_arms():
                near = difflib.get_close_matches(name, known_arms(), n=1)
                raise RecipeError(
                    f"trial: {name!r} is no arm and no recipe; {f'did you mean {near[0]!r}? ' if near else ''}arms are "
                    f"{', '.join(ARMS)}, after:N, source:NAME, and any recipe"
                )
            other = select(self.annotations, load_recipe(name), model=self.model, among=lambda _: self.pool.trainable)
            self._other[name] = np.flatnonzero(other.kept)
        return self._at_most(self._other[name], seed)

    def _at_most(self, rows: Ints, seed: int) -> Ints:
        """As many as the curated rows, by chance."""
        return rows[np.argsort(_keys(rows, seed), kind="stable")[: len(self.curated)]]


def counts_of(groups: Ints, chosen: npt.NDArray[np.bool_]) -> Ints:
    """How many chosen rows every group has."""
    return np.bincount(groups, weights=chosen, minlength=int(groups.max(initial=-1)) + 1).astype(np.int64)


def _first_of(groups: Ints, keys: npt.NDArray[np.generic], rows: Ints, counts: Ints) -> Ints:
    """Indices of the first `counts[g]` rows of each group g, by key, then row."""
    order = np.lexsort((rows, keys, groups))
    sorted_groups = groups[order]
    starts = np.searchsorted(sorted_groups, sorted_groups, side="left")
    return order[np.arange(len(order)) - starts < counts[sorted_groups]]


def matched_draw(rows: Ints, chosen: npt.NDArray[np.bool_], groups: Ints, tokens: Ints, seed: int) -> Ints:
    """A random draw from `rows` with as many of each group as `chosen` marks, and about as many tokens in all.

    Large groups are also split by tenths of length. Then random pairs inside a group are swapped as long as that brings the
    sum of tokens nearer to the chosen rows' and it is off by more than `CLOSE`; where the groups do not allow it, it stays off.
    """
    cells = _by_length(groups, tokens)
    drawn = np.zeros(len(rows), dtype=bool)
    drawn[_first_of(cells, _keys(rows, seed), rows, counts_of(cells, chosen))] = True
    goal = int(tokens[chosen].sum())
    off = int(tokens[drawn].sum()) - goal
    generator = np.random.default_rng([seed, 0x5A])
    members = _members(cells)
    for _ in range(SWEEPS):
        if abs(off) <= CLOSE * goal:
            break
        for inside in generator.permutation(np.flatnonzero(drawn)):
            mine = members[cells[inside]]
            outside = int(mine[generator.integers(len(mine))])
            change = int(tokens[outside] - tokens[inside])
            if not drawn[outside] and abs(off + change) < abs(off):
                drawn[inside], drawn[outside] = False, True
                off += change
                if abs(off) <= CLOSE * goal:
                    break
    return rows[drawn]


def _by_length(groups: Ints, tokens: Ints) -> Ints:
    """Groups, the large ones split into tenths of their rows by tokens."""
    sizes = np.bincount(groups)
    order = np.lexsort((tokens, groups))
    starts = np.searchsorted(groups[order], groups[order], side="left")
    is_longer = np.r_[True, (np.diff(tokens[order]) > 0) | (np.diff(groups[order]) > 0)][: len(order)]
    shorter = np.flatnonzero(is_longer)[np.cumsum(is_longer) - 1]  # where rows of this length begin: equal ones share a tenth
    place = np.empty(len(groups), dtype=np.int64)
    place[order] = shorter - starts
    tenth = np.where(sizes[groups] >= LARGE_GROUP, place * 10 // sizes[groups], 0)
    _, cells = np.unique(groups * 10 + tenth, return_inverse=True)
    return cells


def _members(cells: Ints) -> Sequence[Ints]:
    order = np.argsort(cells, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(cells[order])) + 1)


def training_sequence(draw: Draw, count: int, seed: int) -> Ints:
    """Rows as the trainer sees them, `count` in all: one permutation after the other, or the given order again and again."""
    generator = np.random.default_rng([seed, 0x7E])
    found = np.empty(count, dtype=draw.rows.dtype)
    for at in range(0, count, len(draw.rows)):
        found[at : at + len(draw.rows)] = (draw.rows if draw.is_ordered else generator.permutation(draw.rows))[: count - at]
    return found
