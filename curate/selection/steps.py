"""A recipe's steps applied to annotations: which rows are kept, which rejected, by which step, by what margin."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.annotations import Annotations
from curate.errors import InputError, RecipeError
from curate.recipes.schema import (
    TARGET,
    BestOf,
    Decontaminate,
    Deduplicate,
    Drop,
    Keep,
    Mix,
    Order,
    Ranking,
    Recipe,
    Sample,
    Step,
)
from curate.selection.frame import Bools, Floats, Frame, Ints
from curate.selection.mixing import SourceShare, mixture

if TYPE_CHECKING:
    from curate.selection.report import SelectionReport

KEPT, ASIDE = -1, -2
TIE = 1e-6
"""Relative difference below which two values of a field are tied: what float32 scoring leaves to chance."""


@dataclass
class StepResult:
    """What one step did."""

    step: Step
    before: int
    rejected: int = 0
    unscored: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    """Rows by the group that they were ranked in."""
    margin: Floats | None = None
    """Signed distance of every row to the step's cut, in the unit of its field: never negative where the row passed, never
    positive where it did not; nan for rows that were not measured, and in groups that lost no row. None: it measures nothing."""
    alternatives: int | None = None
    """Ranked rows whose prompt has another ranked row; None where the step does not rank."""
    portions: list[SourceShare] = field(default_factory=list)
    """What each source gave to a mixture."""


@dataclass
class Selection:
    """The decision about every row.

    Margins are kept per step, since each has its own unit; `margin` picks for every row the one that tells of its decision.
    """

    recipe: Recipe
    frame: Frame
    rejected_by: npt.NDArray[np.int16]
    """-1: kept; -2: set aside before the first step; else the index of the step that rejected the row."""
    for_being_unscored: Bools
    """Rejected because the step's field is null and the recipe says `unscored: drop`."""
    steps: list[StepResult]
    order: Ints
    """Kept rows in the order in which they are written."""

    @property
    def kept(self) -> Bools:
        """Which rows are kept."""
        return np.equal(self.rejected_by, KEPT)

    def after(self, steps: int) -> Bools:
        """Which rows the first `steps` steps left."""
        return self.kept | (self.rejected_by >= steps)

    @property
    def ranking(self) -> int | None:
        """Index of the last step that ranks: its field and margins say what stands near the cut. None where none ranks."""
        return max((at for at, step in enumerate(self.recipe.steps) if isinstance(step, Ranking)), default=None)

    @cached_property
    def margin(self) -> Floats:
        """One margin per row: of the step that rejected it; for kept rows of the last ranking, else of the last bounds.

        nan where that step did not measure the row, as when it drew at random or found no value.
        """
        measured = {at: result.margin for at, result in enumerate(self.steps) if result.margin is not None}
        last = max(measured, default=None) if self.ranking is None else self.ranking
        margin = np.full(self.frame.count, np.nan)
        for at, of_step in measured.items():
            mine = (self.rejected_by == at) | (self.kept & (at == last))
            margin[mine] = of_step[mine]
        return margin

    @cached_property
    def report(self) -> "SelectionReport":
        """What the selection amounts to."""
        from curate.selection.report import make_report

        return make_report(self)

    def save(self, out: str | Path) -> dict[str, Any]:
        """Write `selection/` and `lock.json` into the run's folder, and return the lock."""
        from curate.selection.output import save_selection

        return save_selection(self, self.report, Path(out))

    def failing(self) -> dict[str, Bools]:
        """For every `drop` step, which rows it rules out, whether or not an earlier step took them."""
        return {str(step): dropped(self.frame, step)[0] for step in self.recipe.steps if isinstance(step, (Drop, Decontaminate))}


def select(
    annotations: Annotations, recipe: Recipe, *, model: str | None = None, among: Callable[[Frame], Bools] | None = None
) -> Selection:
    """Apply a recipe's steps; needs no model and no network, and equal inputs give equal decisions.

    `model` says whose scores are meant where a folder holds those of several. `among` names the rows that take part; the
    others are set aside as if they were not there.

    Raises RecipeError when the recipe says `unscored: error` and a step's field is null for a row that reaches it,
    InputError when nothing is left.
    """
    stores = annotations.choose(recipe.build_filters({"model": TARGET}), model=model)
    frame = Frame(annotations.rows, stores)
    if among is not None:
        frame.among = among(frame)
    state = _State(frame, recipe, np.ones(frame.count, dtype=bool) if frame.among is None else frame.among.copy())
    for index, step in enumerate(recipe.steps):
        state.apply(index, step)
    if not state.alive.any():
        raise InputError(f"{recipe.name}: nothing is left after `{recipe.steps[-1]}`; {_waterfall(state.results)}")
    return Selection(recipe, state.frame, state.rejected_by, state.for_being_unscored, state.results, state.order())


def _waterfall(results: Sequence[StepResult]) -> str:
    return "; ".join(f"{result.step}: {result.before:,} -> {result.before - result.rejected:,}" for result in results)


class _State:
    """The rows still alive, while steps run."""

    def __init__(self, frame: Frame, recipe: Recipe, alive: Bools) -> None:
        self.frame, self.recipe = frame, recipe
        self.alive = alive.copy()
        self.rejected_by = np.where(alive, KEPT, ASIDE).astype(np.int16)
        self.for_being_unscored = np.zeros(frame.count, dtype=bool)
        self.results: list[StepResult] = []
        self._order: Ints | None = None

    def apply(self, index: int, step: Step) -> None:
        """Run one step."""
        result = StepResult(step, before=int(self.alive.sum()))
        self.results.append(result)
        before = self.alive.copy()
        actions: dict[type[Step], Callable[[Any, StepResult], None]] = {
            Deduplicate: self._deduplicate,
            Drop: self._drop,
            Decontaminate: self._drop,
            Keep: self._rank,
            BestOf: self._rank,
            Sample: self._sample,
            Mix: self._mix,
            Order: self._arrange,
        }
        actions[type(step)](step, result)
        gone = before & ~self.alive
        self.rejected_by[gone] = index
        result.rejected = int(gone.sum())

    def _unscored(self, name: str, valid: Bools, result: StepResult) -> None:
        """Treat the rows that have no value as the recipe says."""
        without = self.alive & ~valid
        result.unscored = int(without.sum())
        if not result.unscored or self.recipe.unscored == "keep":
            return
        if self.recipe.unscored == "drop":
            self.alive &= ~without
            self.for_being_unscored |= without
            return
        raise RecipeError(
            f"{self.recipe.name}: {result.unscored:,} of {result.before:,} rows have no {name} ({self._why(name, without)}); "
            "set `unscored: drop` or `keep`"
        )

    def _why(self, name: str, rows: Bools) -> str:
        """Reasons of unscored rows, counted."""
        reasons = self.frame.reasons(name.partition(".")[0])
        found = reasons.values[rows & reasons.valid]
        names, counts = np.unique(found.astype(str), return_counts=True) if len(found) else (np.array([]), np.array([]))
        return ", ".join(f"{count:,} {reason}" for reason, count in zip(names, counts, strict=True)) or "null for these rows"

    def _deduplicate(self, step: Deduplicate, result: StepResult) -> None:
        if step.method == "near":
            column = self.frame.column(step.fields()[0])
            self._unscored(step.fields()[0], column.valid, result)
            # A row without a group is like no other.
            codes = np.where(column.valid, column.values, -1.0 - np.arange(self.frame.count)).astype(np.int64)
        else:
            codes = self.frame.codes("content_key")
        rows = np.flatnonzero(self.alive)
        _, first = np.unique(codes[rows], return_index=True)
        keep = np.zeros_like(self.alive)
        keep[rows[first]] = True
        self.alive &= keep

    def _drop(self, step: Drop | Decontaminate, result: StepResult) -> None:
        out, margin, valid = dropped(self.frame, step)
        self._unscored(step.fields()[0], valid, result)
        if step.measures:
            result.margin = np.where(self.alive, margin, np.nan)
        self.alive &= ~out

    def _rank(self, step: Keep | BestOf, result: StepResult) -> None:
        column = self.frame.column(step.field)
        if self.alive.any() and not (self.alive & column.valid).any():
            # Whatever `unscored` says: a ranking that ranks nothing would pass for a selection.
            raise RecipeError(
                f"{self.recipe.name}: not one of {result.before:,} rows has {step.field} ({self._why(step.field, self.alive)}), "
                f"so `{step.word}` cannot rank"
            )
        self._unscored(step.field, column.valid, result)
        # Ascending keys are better, whichever end is asked for; the sort is stable, so ties go to the earlier row.
        sign = 1.0 if step.lowest else -1.0
        ranked = np.flatnonzero(self.alive & column.valid)
        result.margin = np.full(self.frame.count, np.nan)
        _, prompt, sizes = np.unique(self.frame.group("prompt")[ranked], return_inverse=True, return_counts=True)
        result.alternatives = int((sizes[prompt] >= 2).sum())
        self._keep_best(ranked, sign * column.values[ranked], step.within, step.amount.of, result)

    def _sample(self, step: Sample, result: StepResult) -> None:
        rows = np.flatnonzero(self.alive)
        keys = random_keys(rows, step.seed)
        self._keep_best(rows, keys, step.within, step.keep.of, result)

    def _mix(self, step: Mix, result: StepResult) -> None:
        """Keep of every source as many rows as its share asks for, the best or a random draw of them."""
        column = None if step.field is None else self.frame.column(step.field)
        if column is not None and step.field is not None:
            self._unscored(step.field, column.valid, result)
        rows = np.flatnonzero(self.alive)
        codes = self.frame.codes("source")[rows]
        parts, result.portions = mixture(step, codes, self.frame.names("source"), where=self.recipe.name)
        if column is None:
            keys: npt.NDArray[Any] = random_keys(rows, step.seed)
        else:
            # Rows without a value stand behind all that have one.
            valid = column.valid[rows]
            values = np.where(valid, column.values[rows] * (1.0 if step.first == "lowest" else -1.0), 0.0)
            keys = np.where(valid, tied_ranks(values, np.zeros_like(rows)), np.iinfo(np.int64).max)
        order = np.lexsort((rows, keys))
        for part, portion in enumerate(result.portions):
            self.alive[rows[order][parts[order] == part][portion.got :]] = False
        self.alive[rows[parts < 0]] = False

    def _keep_best(
        self,
        rows: Ints,
        keys: npt.NDArray[Any],
        within: Sequence[str],
        amount: Callable[[int], int],
        result: StepResult,
    ) -> None:
        """Reject all but the first `amount` of each group."""
        for name, places, groups in ranked_groups(self.frame, rows, within):
            result.groups[name] = len(places)
            self._cut(rows[places], keys[places], groups, amount, result.margin)

    def _cut(
        self, rows: Ints, keys: npt.NDArray[Any], groups: Ints, amount: Callable[[int], int], margins: Floats | None
    ) -> None:
        """Reject all but the first of each group; `margins` is None where keys are no measurement, else it is filled."""
        ranks = keys if margins is None else tied_ranks(keys, groups)
        order = np.lexsort((rows, ranks, groups))  # by group, then key, then row
        rows, keys, groups = rows[order], keys[order], groups[order]
        starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
        sizes = np.diff(np.r_[starts, len(rows)])
        kept = np.array([amount(int(size)) for size in sizes])
        place = np.arange(len(rows)) - np.repeat(starts, sizes)
        is_kept = place < np.repeat(kept, sizes)
        self.alive[rows[~is_kept]] = False
        if margins is not None:
            cut = sizes > kept  # groups from which a row is rejected: the others have no cut to be near to
            last = keys[np.minimum(starts + kept - 1, len(rows) - 1)]
            first_out = keys[np.minimum(starts + kept, len(rows) - 1)]
            # Among tied keys the row number decides, so a kept key may be the worse one by a rounding: its margin is 0.
            room = np.maximum(np.repeat(first_out, sizes) - keys, 0.0)
            margin = np.where(is_kept, room, np.minimum(np.repeat(last, sizes) - keys, 0.0))
            margins[rows] = np.where(np.repeat(cut, sizes), margin, np.nan)

    def _arrange(self, step: Order, result: StepResult) -> None:
        if step.field is None:
            rows = np.flatnonzero(self.alive)
            self._order = rows[np.lexsort((rows, random_keys(rows, step.random or 0)))]
            return
        column = self.frame.column(step.field)
        self._unscored(step.field, column.valid, result)
        rows = np.flatnonzero(self.alive & column.valid)
        sign = 1.0 if step.first == "lowest" else -1.0
        ranks = tied_ranks(sign * column.values[rows], np.zeros_like(rows))
        # Rows without a value stand at the end, whichever end comes first.
        self._order = np.r_[rows[np.lexsort((rows, ranks))], np.flatnonzero(self.alive & ~column.valid)]

    def order(self) -> Ints:
        """Kept rows, as they are written."""
        return np.flatnonzero(self.alive) if self._order is None else self._order


def ranked_groups(frame: Frame, rows: Ints, within: Sequence[str]) -> Iterator[tuple[str, Ints, Ints]]:
    """For each kind of group the places in `rows` that are ranked in it, and an integer per place, equal inside a group.

    A row alone in its group is regrouped by the next kind in the list.
    """
    left = np.arange(len(rows))
    for level, name in enumerate(within):
        if not len(left):
            break
        codes = frame.group(name)[rows[left]]
        _, inverse, sizes = np.unique(codes, return_inverse=True, return_counts=True)
        here = sizes[inverse] >= 2
        if level == len(within) - 1:
            here = np.ones_like(here)
        if here.any():
            yield name, left[here], inverse[here]
        left = left[~here]


def tied_ranks(keys: Floats, groups: Ints) -> Ints:
    """Ranks of keys inside groups, equal where keys agree to one part in a million.

    Two responses of one wording get scores that differ only in the rounding of their batches; the row number has to decide
    between them, not the rounding.
    """
    order = np.lexsort((keys, groups))
    keys, groups = keys[order], groups[order]
    tolerance = TIE * np.abs(keys)
    is_new = np.r_[True, (np.diff(keys) > tolerance[1:]) | (groups[1:] != groups[:-1])][: len(keys)]
    # In a large group neighbours are so close that one tie would chain to the next: a tie ends where it grows too wide.
    first = np.flatnonzero(is_new)[np.cumsum(is_new) - 1]
    width = np.divide(keys - keys[first], tolerance[first], out=np.zeros_like(keys), where=tolerance[first] > 0)
    is_new[1:] |= np.floor(width[1:]) > np.floor(width[:-1])
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.cumsum(is_new)
    return ranks


def dropped(frame: Frame, step: Drop | Decontaminate) -> tuple[Bools, Floats, Bools]:
    """Which rows a drop rules out, the margin to its nearer bound, and which rows have a value."""
    column = frame.column(step.fields()[0])
    margin = np.full(frame.count, np.nan)
    if isinstance(step, Decontaminate):
        step = Drop(field=step.fields()[0], above=step.above)
    if step.is_ is not None:
        return column.valid & (column.values == step.is_), margin, column.valid
    room = np.full(frame.count, np.inf)
    if step.above is not None:
        room = np.minimum(room, step.above - column.values)
    if step.below is not None:
        room = np.minimum(room, column.values - step.below)
    return column.valid & (room < 0), np.where(column.valid, room, np.nan), column.valid


def random_keys(rows: Ints, seed: int) -> npt.NDArray[np.uint64]:
    """A pseudo-random 64-bit key per row, from seed and row number alone (SplitMix64), on every machine the same."""
    with np.errstate(over="ignore"):
        z = _mix(np.array([seed], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return _mix(rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + z)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
