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
    """Each alone: R squared less what as many groups of pure chance would explain; together: adjusted R squared.

    Uncorrected, prompts of two rows each "explain" half of noise. For source and length the correction is omega squared; for
    prompts, which are many and small, it also knows how sources are spread over them (`prompt_share`). Length is 20 groups of
    equal size, so that a bend counts; without it (for length itself), the other two.
    """
    bins = None if length is None else length_bins(length)
    alone = {
        "source": omega_squared(values, source),
        "prompt": prompt_share(values, source, prompt),
        "length": None if bins is None else omega_squared(values, bins),
    }
    groups = {"source": source, "prompt": prompt, "length": bins}
    informative = [codes for name, codes in groups.items() if codes is not None and alone[name] is not None]
    fit = additive(values, informative) if informative else None
    return Shares(len(values), **alone, together=None if fit is None else fit.adjusted_r_squared)


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


def prompt_share(values: Floats, source: Ints, prompt: Ints) -> float | None:
    """Share of variance between prompts, at least 0, less what chance puts there; None where `omega_squared` is.

    Chance puts noise there, by the residual of the model of source and prompt, and the effect of sources as far as prompts happen
    to have other sources: nothing where every source answers every prompt, and there omega squared would take off too much. What
    sources explain between prompts beyond a random spread, such as where each has prompts of its own, is no chance and stays.
    """
    alone = omega_squared(values, prompt)
    fit = additive(values, [source, prompt]) if alone is not None else None
    if alone is None or fit is None:
        return alone
    _, codes, sizes = np.unique(prompt, return_inverse=True, return_counts=True)
    n, k = len(values), len(sizes)
    of_source = fit.effects[0] - fit.effects[0].mean()
    whole = float(of_source @ of_source)
    spread = float((np.bincount(codes, of_source) ** 2 / sizes).sum())
    random = (k - 1) / (n - 1)  # share of the sources' effect that would lie between prompts of random sources
    by_chance = spread if spread <= random * whole else random * (whole - spread) / (1 - random)
    centred = values - values.mean()
    between = float((np.bincount(codes, centred) ** 2 / sizes).sum())
    noise = fit.rest / fit.freedom
    return max(0.0, (between - (k - 1) * noise - by_chance) / (float(centred @ centred) + noise))


@dataclass(frozen=True)
class Fit:
    """A sum of one effect per group, fitted by least squares."""

    effects: list[Floats]
    """Per group, the effect of each row."""
    rest: float
    """Sum of squares that is left."""
    freedom: int
    taken: int
    """Parameters, less the mean."""
    total: float

    @property
    def adjusted_r_squared(self) -> float:
        """At least 0."""
        return max(0.0, 1 - (self.rest / self.freedom) / (self.total / (self.freedom + self.taken)))


def additive(values: Floats, groups: list[Ints]) -> Fit | None:
    """Least squares by taking group means off in turn until nothing moves; None where no row is left to judge it by.

    That needs no matrix, so that it works for 100,000 rows of as many prompts.
    """
    coded = [np.unique(codes, return_inverse=True)[1] for codes in groups]
    sizes = [np.bincount(codes) for codes in coded]
    taken = sum(len(size) - 1 for size in sizes)
    rest = values - values.mean() if len(values) else values
    total = float(rest @ rest)
    if len(values) - 1 - taken < 1 or total <= _rounding(values):
        return None
    effects = [np.zeros(len(size)) for size in sizes]
    before = total
    for _ in range(_MOST_ROUNDS):
        for effect, codes, size in zip(effects, coded, sizes, strict=True):
            means = np.bincount(codes, rest) / size
            effect += means
            rest = rest - means[codes]
        now = float(rest @ rest)
        if before - now <= _STOP * total:
            break
        before = now
    rows = [effect[codes] for effect, codes in zip(effects, coded, strict=True)]
    return Fit(rows, now, len(values) - 1 - taken, taken, total)


def _rounding(values: Floats) -> float:
    """Sum of squares that rounding alone makes of equal values."""
    return len(values) * (1e-12 * max(1.0, float(np.abs(values).max()))) ** 2
