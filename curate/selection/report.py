"""What a selection amounts to, in numbers and in words."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.filters import known_filters
from curate.recipes.schema import Decontaminate, Deduplicate, Drop, Mix, Ranking, Sample
from curate.selection.evidence import Calibrated, Diversity, calibrated, diversity, uncalibrated
from curate.selection.frame import Bools, Floats, Frame, Ints
from curate.selection.mixing import SourceShare
from curate.selection.steps import Selection

MOSTLY = 0.5
"""Above this share of explained variance the report calls a selection a length/source filter."""
LOUD_SHARE = 0.1
LOUD_SOURCE = 0.5
FEW_ALTERNATIVES = 0.2
MANY_TRUNCATED = 0.05
SHOWN = 5


@dataclass(frozen=True)
class SourceCount:
    """One source's rows."""

    source: str | None
    rows: int
    kept: int
    mean_length_kept: float | None
    mean_length_rejected: float | None


@dataclass(frozen=True)
class StepCount:
    """One step's effect."""

    step: str
    rows: int
    rejected: int
    unscored: int
    groups: dict[str, int]
    portions: list[SourceShare]
    """What each source gave, where the step mixes."""


@dataclass(frozen=True)
class BorderRow:
    """A row near the cut, or one that stands as an example."""

    row: int
    id: str | None
    source: str | None
    decision: str
    value: float | None
    margin: float | None
    completion: str


@dataclass(frozen=True)
class SelectionReport:
    """Everything that a run says at its end; `to_json` gives the same to a program."""

    recipe: str
    rows: int
    kept: int
    rejected: int
    refused: dict[str, int]
    unscored: dict[str, dict[str, int]]
    truncated: int
    """Rows longer than `--max-length`, scored in part."""
    sources: list[SourceCount]
    steps: list[StepCount]
    length_unit: str
    mean_length_kept: float | None
    mean_length_rejected: float | None
    explained_by_length: float | None
    explained_by_source: float | None
    explained_by_both: float | None
    """R squared of the decision on deciles of characters, on source, and on both; None when all rows got one decision."""
    share_with_alternatives: float | None
    """Of the last step that ranks: share of its rows whose prompt had another ranked response; None when none ranks."""
    ranked_by: str | None
    """Field of the last step that ranks."""
    borderline: list[BorderRow]
    """The rows nearest to the cut of that step, of those that it rejected and those that were kept."""
    dropped_examples: list[BorderRow]
    """Up to five rows of every step that rejects loudly."""
    warnings: list[str]
    findings: dict[str, dict[str, Any]]
    """What filters found out on the way, such as the rank correlation of a predictor."""
    diversity: Diversity | None
    """Self-BLEU before and after, where the recipe has `self_bleu`."""
    calibration: dict[str, Calibrated]
    """Figures of the detectors that the recipe acts on, from `curate calibrate`."""
    trial: str = "untested: no trial has been run, so nothing is known yet of what this selection does to training"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), indent=1)


def make_report(selection: Selection) -> SelectionReport:
    """Count, compare and explain a selection."""
    frame, kept = selection.frame, selection.kept
    length, decile, source = frame.length, frame.decile, frame.codes("source")
    step = None if selection.ranking is None else selection.recipe.steps[selection.ranking]
    alternatives, truncated = _alternatives(selection), _truncated(frame)
    dropped, warnings = _loud_drops(selection)
    for done in selection.steps:
        if isinstance(done.step, (Ranking, Sample)) and not done.rejected:
            warnings.append(f"`{done.step}` rejects nothing: every group holds no more rows than it keeps")
    if truncated > MANY_TRUNCATED * frame.count:
        warnings.append(
            f"{truncated / frame.count:.0%} of all rows are longer than the model was given and scored on their beginning only; "
            "raise --max-length, and train with the same"
        )
    for done in (done for done in selection.steps if isinstance(done.step, Mix)):
        assert isinstance(done.step, Mix)
        warnings += [
            f"`mix`: {portion.source} runs short, {portion.available:,} rows for {portion.wanted:,}; "
            + ("the others fill up" if done.step.short == "refill" else "the whole mixture is cut down to keep the shares")
            for portion in done.portions
            if portion.available < portion.wanted
        ]
    warnings += uncalibrated(selection)
    both = explained(kept, decile, source)
    if both is not None and both > MOSTLY:
        warnings.append(f"length and source alone explain {both:.0%} of this selection: this is mostly a length/source filter")
    if alternatives is not None and alternatives < FEW_ALTERNATIVES:
        warnings.append(
            f"only {alternatives:.0%} of the ranked rows had another response to the same prompt; the papers' evidence is for "
            "choosing between responses or sources. Consider the recipe `clean`, and let a trial decide"
        )
    return SelectionReport(
        recipe=selection.recipe.name,
        rows=frame.count,
        kept=int(kept.sum()),
        rejected=int((~kept).sum()),
        refused=dict(frame.rows.refused),
        unscored={name: reasons for name, store in frame.stores.items() if (reasons := store.reasons())},
        truncated=truncated,
        sources=_sources(frame, kept),
        steps=[StepCount(str(r.step), r.before, r.rejected, r.unscored, r.groups, r.portions) for r in selection.steps],
        length_unit=frame.length_field,
        mean_length_kept=_mean(length.values, kept & length.valid),
        mean_length_rejected=_mean(length.values, ~kept & length.valid),
        explained_by_length=explained(kept, decile),
        explained_by_source=explained(kept, source),
        explained_by_both=both,
        share_with_alternatives=alternatives,
        ranked_by=step.field if isinstance(step, Ranking) else None,
        borderline=_borderline(selection, selection.ranking, step.field) if isinstance(step, Ranking) else [],
        dropped_examples=dropped,
        warnings=warnings,
        findings={name: found for name, store in frame.stores.items() if (found := store.findings)},
        diversity=diversity(selection),
        calibration=calibrated(selection),
    )


def _alternatives(selection: Selection) -> float | None:
    """Of the last step that ranks: share of its rows whose prompt has another of them."""
    counts = [(r.alternatives, sum(r.groups.values())) for r in selection.steps if r.alternatives is not None]
    alternatives, ranked = counts[-1] if counts else (0, 0)
    return alternatives / ranked if ranked else None


def _truncated(frame: Frame) -> int:
    """Rows that a filter of the recipe calls truncated."""
    known = known_filters()
    flags = [frame.column(f"{name}.truncated") for name in frame.stores if "truncated" in known[name].outputs]
    return int(np.any([flag.valid & flag.values for flag in flags], axis=0).sum()) if flags else 0


def explained(kept: Bools, *codes: Ints) -> float | None:
    """R squared of an additive model of the 0/1 decision on one or two categories; None when the decision is constant."""
    decision = kept.astype(np.float64) - kept.mean()
    total = float(decision @ decision)
    if total == 0.0:
        return None
    compact = [np.unique(code, return_inverse=True)[1] for code in codes]
    sizes = [int(code.max()) + 1 for code in compact]
    offsets = np.cumsum([0, *sizes])
    # Normal equations from counts: no design matrix of rows x categories.
    gram = np.zeros((offsets[-1], offsets[-1]))
    moment = np.zeros(offsets[-1])
    for i, a in enumerate(compact):
        moment[offsets[i] : offsets[i + 1]] = np.bincount(a, weights=decision, minlength=sizes[i])
        for j, b in enumerate(compact):
            block = np.bincount(a * sizes[j] + b, minlength=sizes[i] * sizes[j]).reshape(sizes[i], sizes[j])
            gram[offsets[i] : offsets[i + 1], offsets[j] : offsets[j + 1]] = block
    weights = np.linalg.lstsq(gram, moment, rcond=None)[0]
    return min(1.0, max(0.0, float(weights @ moment) / total))


def _mean(values: npt.NDArray[Any], chosen: Bools) -> float | None:
    return float(values[chosen].mean()) if chosen.any() else None


def _sources(frame: Frame, kept: Bools) -> list[SourceCount]:
    codes = frame.codes("source")
    names = frame.names("source")
    length = frame.length
    counts = []
    for code, name in enumerate(names):
        mine = codes == code
        known = mine & length.valid
        counts.append(
            SourceCount(
                name,
                int(mine.sum()),
                int((mine & kept).sum()),
                _mean(length.values, known & kept),
                _mean(length.values, known & ~kept),
            )
        )
    return sorted(counts, key=lambda count: (-count.kept / max(count.rows, 1), str(count.source)))


def _loud_drops(selection: Selection) -> tuple[list[BorderRow], list[str]]:
    """A drop that rejects more than a tenth of all rows, or half of a source, says so and shows five of them."""
    frame = selection.frame
    codes, names = frame.codes("source"), frame.names("source")
    sizes = np.bincount(codes, minlength=len(names))
    examples: list[BorderRow] = []
    warnings: list[str] = []
    for index, step in enumerate(selection.recipe.steps):
        if not isinstance(step, (Drop, Deduplicate, Decontaminate)):
            continue
        gone = selection.rejected_by == index
        lost = np.bincount(codes[gone], minlength=len(names))
        halved = [str(names[code]) for code in np.flatnonzero(lost > LOUD_SOURCE * sizes)] if len(names) > 1 else []
        if gone.sum() <= LOUD_SHARE * frame.count and not halved:
            continue
        sources = f", and more than half of {', '.join(halved[:SHOWN])}" if halved else ""
        warnings.append(f"`{step}` rejects {gone.sum() / frame.count:.1%} of all rows{sources}: read the examples of them")
        rows = np.flatnonzero(gone)
        examples += _rows(selection, rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)], None)
    return examples, warnings


def _borderline(selection: Selection, ranking: int | None, field: str) -> list[BorderRow]:
    # Rows that a later step rejected are on neither side of this cut.
    mine = selection.kept | (selection.rejected_by == ranking)
    margin: Floats = np.where(mine, np.abs(selection.margin), np.nan)
    near: Ints = np.lexsort((np.arange(len(margin)), margin))
    return _rows(selection, near[: min(SHOWN, int(np.isfinite(margin).sum()))], field)


def _rows(selection: Selection, rows: Ints, field: str | None) -> list[BorderRow]:
    frame = selection.frame
    shown = []
    for row in rows.tolist():
        example = frame.example(row)
        value = frame.column(field) if field else None
        margin = selection.margin[row].item()
        step = int(selection.rejected_by[row])
        shown.append(
            BorderRow(
                row=row,
                id=example.id,
                source=example.source,
                decision="kept" if step < 0 else f"rejected by `{selection.recipe.steps[step]}`",
                value=float(value.values[row]) if value is not None and value.valid[row] else None,
                margin=margin if np.isfinite(margin) else None,
                completion=example.completion[:120],
            )
        )
    return shown
