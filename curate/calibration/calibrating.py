"""calibrate(): score rows of known origin, and measure what a threshold on each detector would do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curate import _fs
from curate.annotations import Annotations, annotate
from curate.calibration.picture import draw
from curate.errors import InputError, UsageError
from curate.examples import Examples
from curate.filters import Filter, LearnedDetector
from curate.learning.judging import Bools, Estimate, Floats, auroc, bootstrap, curve, found_at, threshold_at, wilson
from curate.rows import RowStore
from curate.selection.evidence import CALIBRATION
from curate.selection.frame import Frame

OUTPUTS: Mapping[str, Sequence[str]] = {
    "detectors": ("log_likelihood", "log_rank", "lrr", "fast_detect"),
    "binoculars": ("score",),
    "learned_detector": ("log_odds",),
    "detector_model": ("log_odds",),
}
"""The outputs of each detector filter that a recipe may cut on; higher is more machine-like, but for those of `LOW`."""
LOW = {"binoculars.score"}
"""Outputs that are lower for machines: they are judged by their negative, and their thresholds told as they are."""
FEWEST = 20
"""Rows of either class below which nothing is measured."""
CURVE_POINTS = 200
PICTURE = "calibration.svg"


@dataclass(frozen=True)
class GroupRate:
    """False positives among the human rows of one group, at the threshold of all human rows."""

    group: str
    human_rows: int
    rate_at_1: float
    interval_at_1: tuple[float, float]
    rate_at_5: float
    interval_at_5: tuple[float, float]


@dataclass(frozen=True)
class Figures:
    """What one output does on the labelled rows."""

    human_rows: int
    machine_rows: int
    unscored: dict[str, int]
    """Labelled rows without a value, by reason."""
    auroc: float
    """Probability that a machine row scores as more machine-like than a human one; 0.5 is chance."""
    auroc_interval: tuple[float, float]
    """95 %, from drawing prompts again."""
    found_at_1: float
    """Share of the machine rows beyond the threshold that 1 % of the human rows lie beyond."""
    found_at_1_interval: tuple[float, float]
    found_at_5: float
    found_at_5_interval: tuple[float, float]
    threshold_at_1: float
    threshold_at_5: float
    groups: list[GroupRate]
    curve: list[tuple[float, float]] = field(repr=False)
    """(false positives, true positives) at falling thresholds."""


@dataclass(frozen=True)
class Calibration:
    """Figures of all detectors, and on what they were measured."""

    data: str
    out: str
    human: list[str]
    machine: list[str]
    group: str | None
    rows: int
    unlabelled: int
    detectors: dict[str, Figures]
    saved: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"format": _fs.FORMAT, **asdict(self)}


def calibrate(
    examples: Examples,
    filters: Sequence[Filter],
    out: Path,
    *,
    human: Sequence[str],
    group: str | None = None,
    into: Path | None = None,
    save: Path | None = None,
    seed: int = 0,
) -> Calibration:
    """Score the rows into `out`, which resumes; write `calibration.json` and its picture there, or into `into`, a run's folder.

    Labels are the rows' sources: those of `human` against all others. `group` is a column by which false positives are told
    apart. `save` is where the learned detector is written for other data.

    Raises InputError where fewer than 20 rows of either class have a score of some detector.
    """
    if into is not None and not (into / "rows").is_dir():
        raise UsageError(f"--into {into}: is no folder of a run; give the folder that a recipe was run into")
    with _fs.run_folder(out):
        annotations = annotate(examples, filters, out)
        assert isinstance(annotations, Annotations)
        labels = _Labels(annotations.rows, human, group)
        frame = Frame(annotations.rows, {store.filter_name: store for store in annotations.stores})
        found = {
            f"{store.filter_name}.{output}": _figures(frame, f"{store.filter_name}.{output}", labels, seed)
            for store in annotations.stores
            for output in OUTPUTS[store.filter_name]
        }
        saved = None if save is None else _save(filters, annotations.rows, save)
        calibration = Calibration(
            data=examples.name,
            out=str(out),
            human=sorted(set(human)),
            machine=sorted(labels.machines),
            group=group,
            rows=annotations.rows.count,
            unlabelled=int((~labels.known).sum()),
            detectors=found,
            saved=saved,
        )
        if into is None:
            _write(calibration, out)
    if into is not None:
        with _fs.run_folder(into):
            _write(calibration, into)
    return calibration


def _write(calibration: Calibration, folder: Path) -> None:
    """Figures and picture, where a report and a card look for them."""
    new = folder / f"{_fs.TEMPORARY}{PICTURE}"
    draw(calibration, new)
    new.replace(folder / PICTURE)
    _fs.commit_json(folder / CALIBRATION, calibration.to_dict())


class _Labels:
    """Of every row whether it is known who wrote it, whether that was a machine, its prompt and its group."""

    def __init__(self, rows: RowStore, human: Sequence[str], group: str | None) -> None:
        sources: list[str | None] = []
        self.prompts: list[str] = []
        self.groups: list[str] = []
        for shard in rows.shards:
            for example in rows.examples(shard, extra=group is not None):
                sources.append(example.source)
                self.prompts.append(example.prompt_key)
                self.groups.append(str(example.source if group is None else example.extra.get(group)))
        present = Counter(source for source in sources if source is not None)
        for name in human:
            if name not in present:
                listed = ", ".join(sorted(present)) or "none; map a column with --columns source=COLUMN"
                raise UsageError(f"--human {name}: no row has that source; the sources are {listed}")
        if group is not None and set(self.groups) == {"None"}:
            raise UsageError(f"--group {group}: no row has a value in that column")
        self.machines = set(present) - set(human)
        self.known = np.array([source is not None for source in sources])
        self.is_machine = np.array([source in self.machines for source in sources])


def _figures(frame: Frame, name: str, labels: _Labels, seed: int) -> Figures:
    column = frame.column(name)
    scored = column.valid & labels.known
    sign = -1.0 if name in LOW else 1.0
    scores: Floats = sign * column.values[scored]
    positive: Bools = labels.is_machine[scored]
    machine, people = int(positive.sum()), int((~positive).sum())
    missing = labels.known & ~column.valid
    reasons = frame.reasons(name.partition(".")[0])
    unscored = Counter(str(reasons.values[row]) if reasons.valid[row] else "null" for row in np.flatnonzero(missing))
    if min(machine, people) < FEWEST:
        raise InputError(
            f"{name}: {people} human and {machine} machine rows have a score, {FEWEST} of each are needed"
            + (f" (unscored: {', '.join(f'{count} {reason}' for reason, count in unscored.most_common(3))})" if unscored else "")
        )
    prompts = [labels.prompts[row] for row in np.flatnonzero(scored)]
    area = bootstrap(auroc, scores, positive, prompts, seed=seed)
    at_1, at_5 = (bootstrap(_finder(rate), scores, positive, prompts, seed=seed) for rate in (0.01, 0.05))
    limits = (threshold_at(scores, positive, 0.01), threshold_at(scores, positive, 0.05))
    groups = np.array(labels.groups, dtype=object)[scored]
    return Figures(
        human_rows=people,
        machine_rows=machine,
        unscored=dict(unscored),
        auroc=area.value,
        auroc_interval=_interval(area),
        found_at_1=at_1.value,
        found_at_1_interval=_interval(at_1),
        found_at_5=at_5.value,
        found_at_5_interval=_interval(at_5),
        threshold_at_1=sign * limits[0],
        threshold_at_5=sign * limits[1],
        groups=[_rate(name, scores[(groups == name) & ~positive], limits) for name in sorted(set(groups[~positive]))],
        curve=_thinned(scores, positive),
    )


def _finder(rate: float) -> Any:
    return lambda scores, positive: found_at(scores, positive, rate)


def _interval(estimate: Estimate) -> tuple[float, float]:
    return (estimate.low, estimate.high)


def _rate(group: str, scores: Floats, limits: tuple[float, float]) -> GroupRate:
    hits = [int((scores > limit).sum()) for limit in limits]
    rates = [hit / len(scores) for hit in hits]
    intervals = [wilson(hit, len(scores)) for hit in hits]
    return GroupRate(group, len(scores), rates[0], intervals[0], rates[1], intervals[1])


def _thinned(scores: Floats, positive: Bools) -> list[tuple[float, float]]:
    """The curve at no more points than a picture shows."""
    misses, hits = curve(scores, positive)
    places = np.unique(np.linspace(0, len(misses) - 1, CURVE_POINTS).astype(int))
    return [(float(misses[at]), float(hits[at])) for at in places]


def _save(filters: Sequence[Filter], rows: RowStore, folder: Path) -> str:
    """Write the learned detector."""
    learned = next((filter_ for filter_ in filters if isinstance(filter_, LearnedDetector)), None)
    model = None if learned is None else learned.fit(rows).model()
    if model is None:
        raise UsageError(
            f"--save {folder}: no detector was learnt; give labelled rows of humans and machines, and learned_detector"
        )
    model.save(folder)
    return str(folder)
