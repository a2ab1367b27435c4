"""How much of a score's variance is source, prompt and length."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LENGTH_BINS = 20
_MOST_ROUNDS, _STOP = 1000, 1e-9


@dataclass(frozen=True)
class Shares:
    """Shares of one score's variance, in [0, 1]; None where the rows cannot say, such as one row per prompt."""

    n: int
    source: float | None
    prompt: float | None
    length: float | None
    together: float | None
    """Source, prompt and length in one additive model. They overlap, so that it may be less than their sum."""

    def in_order(self) -> tuple[float | None, ...]:
        """Source, prompt, length, together."""
        return self.source, self.prompt, self.length, self.together


def shares(values: Floats, source: Ints, prompt: Ints, length: Floats | None) -> Shares:
    """Omega squared of each alone, and adjusted R squared of all three together.

    Omega squared is R squared less what as many groups of pure chance would explain: with two rows per prompt, prompt alone
    would "explain" half of noise. Length is 20 groups of equal size, so that a bend counts; without it (for length itself),
    the other two.
    """
    groups = [source, prompt] if length is None else [source, prompt, length_bins(length)]
    alone = [omega_squared(values, codes) for codes in groups]
    informative = [codes for codes, share in zip(groups, alone, strict=True) if share is not None]
    of_source, of_prompt, of_length = [*alone, None][:3]
    return Shares(len(values), of_source, of_prompt, of_length, additive(values, informative) if informative else None)


def length_bins(length: Floats) -> Ints:
    """Up to 20 groups of about equal size; equal lengths stay together."""
    edges = np.unique(np.quantile(length, np.arange(1, LENGTH_BINS) / LENGTH_BINS)) if len(length) else length
    return np.searchsorted(edges, length, side="right").astype(np.int64)


def omega_squared(values: Floats, codes: Ints) -> float | None:
    """Share of variance between groups, corrected for their number, at least 0.

    `(SSB - (k - 1) MSW) / (SST + MSW)` with `MSW = SSW / (n - k)` (Hays 1963). None for one group, for groups of one row each,
    and for constant values.
    """
    _, codes, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    n, k = len(values), len(sizes)
    total = float(((values - values.mean()) ** 2).sum()) if n else 0.0
    if k < 2 or n <= k or total <= _rounding(values):
        return None
    means = np.bincount(codes, values) / sizes
    within = float(((values - means[codes]) ** 2).sum())
    noise = within / (n - k)
    return max(0.0, (total - within - (k - 1) * noise) / (total + noise))


def additive(values: Floats, groups: list[Ints]) -> float | None:
    """Adjusted R squared of the sum of one effect per group, at least 0; None where no row is left to judge it by.

    Fitted by taking group means off in turn until nothing moves, which needs no matrix and so works for 100,000 rows.
    """
    coded = [np.unique(codes, return_inverse=True)[1] for codes in groups]
    sizes = [np.bincount(codes) for codes in coded]
    n = len(values)
    freedom = n - 1 - sum(len(size) - 1 for size in sizes)
    total = float(((values - values.mean()) ** 2).sum())
    if freedom < 1 or total <= _rounding(values):
        return None
    rest = values - values.mean()
    before = total
    for _ in range(_MOST_ROUNDS):
        for codes, size in zip(coded, sizes, strict=True):
            rest = rest - (np.bincount(codes, rest) / size)[codes]
        now = float(rest @ rest)
        if before - now <= _STOP * total:
            break
        before = now
    return max(0.0, 1 - (now / freedom) / (total / (n - 1)))


def _rounding(values: Floats) -> float:
    """Sum of squares that rounding alone makes of equal values."""
    return len(values) * (1e-12 * max(1.0, float(np.abs(values).max()))) ** 2
