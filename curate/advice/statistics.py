"""Figures of one source with their intervals: prompts are drawn again, the same ones for every source."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval over the prompts that might have been drawn; what other data would give it cannot know."""

    value: float
    low: float
    high: float


class Redrawn:
    """How often each prompt is drawn in each of many resamples; shared by all sources, so that differences are paired."""

    def __init__(self, prompts: int, *, seed: int = 0, draws: int = DRAWS) -> None:
        generator = np.random.default_rng(seed)
        self.counts = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws).astype(np.float64)  # (D, P)

    def ratio(self, prompt: Ints, above: Floats, below: Floats) -> tuple[float, Floats]:
        """sum(above) / sum(below) of some rows, and the same in each resample; rows are drawn with their prompt."""
        prompts = self.counts.shape[1]
        top = np.bincount(prompt, above, prompts)
        bottom = np.bincount(prompt, below, prompts)
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold none of the rows; the interval leaves it out
            drawn = (self.counts @ top) / (self.counts @ bottom)
        return float(top.sum() / bottom.sum()), drawn

    def mean(self, prompt: Ints, values: Floats) -> Estimate:
        """Mean over rows."""
        return estimate(*self.ratio(prompt, values, np.ones_like(values)))

    def median(self, prompt: Ints, values: Floats) -> Estimate:
        """Median over rows."""
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        weights = np.cumsum(self.counts[:, prompt[order]], axis=1)  # (D, rows)
        totals = weights[:, -1]
        there = totals > 0
        weights, totals = weights[there], totals[there]
        low = ranked[(weights >= totals[:, None] / 2).argmax(axis=1)]
        high = ranked[(weights > totals[:, None] / 2).argmax(axis=1)]
        return estimate(float(np.median(values)), (low + high) / 2)


def estimate(value: float, drawn: Floats) -> Estimate:
    """A value and the middle 95 % of its resamples."""
    low, high = interval(drawn)
    return Estimate(value, low, high)


def interval(drawn: Floats) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
    return float(low), float(high)


def is_far_above(own: Estimate, others: Sequence[Estimate]) -> bool:
    """Whether an error rate is out of line: even its lower end is over twice the median of the others and 5 points above it."""
    middle = float(np.median([other.value for other in others]))
    return own.low > max(2 * middle, middle + 0.05)
