"""How well a score tells two classes apart: AUROC, and what is found at a given rate of false alarms, with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Interval = tuple[float, float]
RESAMPLES = 1000


def auroc(scores: Floats, positive: Bools) -> float:
    """Probability that a positive row scores above a negative one, ties counted half; in [0, 1], 0.5 is chance."""
    _, inverse, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(sizes) - (sizes - 1) / 2  # mean rank of each value, from 1
    first = int(positive.sum())
    second = len(scores) - first
    assert first
    assert second
    return float((middle[inverse][positive].sum() - first * (first + 1) / 2) / (first * second))


def threshold_at(scores: Floats, positive: Bools, rate: float) -> float:
    """The lowest threshold that at most a share `rate` of the negative rows lies above; a row above it is called positive."""
    negative = np.sort(scores[~positive])[::-1]
    allowed = int(rate * len(negative) + 1e-9)
    return float(negative[min(allowed, len(negative) - 1)])


def found_at(scores: Floats, positive: Bools, rate: float) -> float:
    """Share of the positive rows above `threshold_at`: true positives at that rate of false positives."""
    return float((scores[positive] > threshold_at(scores, positive, rate)).mean())


def curve(scores: Floats, positive: Bools) -> tuple[Floats, Floats]:
    """False-positive and true-positive rates at every threshold, both rising from 0 to 1."""
    order = np.argsort(-scores, kind="stable")
    is_last = np.r_[scores[order][1:] != scores[order][:-1], True]  # of its ties
    hits, misses = np.cumsum(positive[order])[is_last], np.cumsum(~positive[order])[is_last]
    return np.r_[0.0, misses / misses[-1]], np.r_[0.0, hits / hits[-1]]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap(
    measure: Callable[[Floats, Bools], float], scores: Floats, positive: Bools, groups: Sequence[str], *, seed: int = 0
) -> Estimate:
    """A measure with the interval from drawing whole groups again: rows of one prompt are not independent."""
    _, codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, codes[order][1:] != codes[order][:-1]])
    members = np.split(order, starts[1:])
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[at] for at in generator.integers(0, len(members), len(members))])
        if 0 < positive[rows].sum() < len(rows):
            values.append(measure(scores[rows], positive[rows]))
    low, high = np.quantile(values, [0.025, 0.975]) if values else (float("nan"), float("nan"))
    return Estimate(measure(scores, positive), float(low), float(high))


def wilson(hits: int, rows: int) -> Interval:
    """95 % interval of a share, after Wilson 1927; rows are taken as independent."""
    if not rows:
        return (0.0, 1.0)
    z = 1.959964
    share = hits / rows
    middle = share + z * z / (2 * rows)
    width = z * float(np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)))
    return max(0.0, (middle - width) / (1 + z * z / rows)), min(1.0, (middle + width) / (1 + z * z / rows))
