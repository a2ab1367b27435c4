"""What a trial's scores say of two arms: a difference with an interval that accounts for seeds and items, and what can be found.

Model: `score[arm, seed, item] = mean[arm] + run[arm, seed] + easiness[item] + interaction[arm, item] + noise`. Seeds and items
are random samples; runs of the two arms are not paired. `benchmarks/trial_statistics.py` has the evidence.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# S seeds, I items; an arm's scores are (S, I)

RECORDED_SEED_SD = 0.016
"""Root mean square over 34 recorded targets and tasks; their median is 0.011. Sampling of answers on their items is inside."""
RECORDED_FLIPS = 0.4
"""Recorded seed variance over that of independent answers, median of the same: no more than this share of answers is redrawn."""
NOTHING = 1e-24
"""A variance below this is rounding."""


@dataclass(frozen=True)
class Components:
    """Variances behind a contrast of two arms, in score units squared.

    `seed_treated` and `seed_control` are those of an arm's true mean over seeds (0 for a fixed arm), `item` that of the true
    difference over items, `noise` what is left of one answer, averaged over the arms that have seeds.
    """

    seed_treated: float
    seed_control: float
    item: float
    noise: float


@dataclass(frozen=True)
class Contrast:
    """Treated less control, in score units, with its interval.

    `degrees_of_freedom` belongs to the interval's t; `seeds` is those of treated and control, 1 for a fixed control.
    """

    difference: float
    low: float
    high: float
    p_value: float
    standard_error: float
    degrees_of_freedom: float
    seeds: tuple[int, int]
    items: int
    level: float
    components: Components

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def as_data(self) -> dict[str, Any]:
        """Plain numbers, as JSON has them."""
        return {**asdict(self), "seeds": list(self.seeds)}


@dataclass(frozen=True)
class _Arm:
    """Mean squares of an arm with seeds; `between`, the variance of its runs' means, may be an array of possible ones."""

    between: Any
    noise: float
    seeds: int


@dataclass(frozen=True)
class _Squares:
    """Mean squares of both arms, and the one rule by which they become a variance and its degrees of freedom.

    A run's mean scatters by its seed and by noise, an item's mean difference by interaction and by noise: summed, they would
    hold the noise twice, so that it is taken off the item part. Neither part is let fall below what the noise alone explains,
    hence the variance never below that of a test over items or of one over seeds. The degrees of freedom are Satterthwaite's,
    with Welch's term for each arm, as the control's rows are redrawn per seed and the treated arm's are not.
    """

    arms: tuple[_Arm, ...]
    item: float
    items: int

    @property
    def noise_part(self) -> float:
        return sum(arm.noise / arm.seeds for arm in self.arms) / self.items

    @property
    def variance(self) -> Any:
        seed_part = sum(arm.between / arm.seeds for arm in self.arms)
        return np.maximum(seed_part, self.noise_part) + max(self.item / self.items - self.noise_part, 0.0)

    @property
    def degrees_of_freedom(self) -> Any:
        own = [arm.seeds - 1 for arm in self.arms] + [self.items - 1]
        # The noise part's own scatter is left out: it has as many degrees of freedom as answers.
        parts = [arm.between / arm.seeds for arm in self.arms] + [self.item / self.items]
        scatter = sum(part**2 / freedom for part, freedom in zip(parts, own, strict=True))
        # Scatter may be zero where runs agree by chance: their noise is still counted in the variance.
        most = self.variance**2 / sum(own)
        return np.maximum(self.variance**2 / np.maximum(scatter, most), min(own))


def components(treated: Floats, control: Floats, *, control_is_fixed: bool = False) -> Components:
    """Variance components by analysis of variance, negative ones set to zero; arguments as `contrast` has them."""
    return _components(_squares(*_checked(treated, control, control_is_fixed=control_is_fixed)))


def contrast(treated: Floats, control: Floats, *, level: float = 0.95, control_is_fixed: bool = False) -> Contrast:
    """Mean of treated (S1, I) less that of control (S2, I) over the same items, with a t interval over seeds and items.

    `control_is_fixed`: the one row of control is deterministic, as an untrained model's answers; else each arm needs 2 runs.

    At level 0.95, of trials without an effect no more than about 5 % have an interval that excludes zero, from 3 seeds on and
    while neither arm's variance of seeds is over three times the other's. It is fewer where a run's mean hardly moves beyond
    noise and arms do not interact with items (about 1 % with 3 seeds, 2 % with 5), more where one arm has nearly all the variance
    of seeds, as beside a fixed control (up to 8 % with 3 seeds, 14 % with 2). Measured by `benchmarks/trial_statistics.py`.
    Scores that do not vary at all give an interval of no width: p is 1 if the arms agree, else 0.

    Raises:
        ValueError: shapes that do not fit, too few runs or items, a value that is not finite.
    """
    from scipy.special import stdtr, stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it lies between 0 and 1")
    treated, control = _checked(treated, control, control_is_fixed=control_is_fixed)
    squares = _squares(treated, control)
    difference = float(treated.mean() - control.mean())
    variance = float(squares.variance)
    if variance < NOTHING:
        difference = 0.0 if difference**2 < NOTHING else difference
        error, freedom = 0.0, float(sum(arm.seeds - 1 for arm in squares.arms))
        half, p_value = 0.0, 0.0 if difference else 1.0
    else:
        error, freedom = variance**0.5, float(squares.degrees_of_freedom)
        half, p_value = error * float(stdtrit(freedom, (1 + level) / 2)), 2 * float(stdtr(freedom, -abs(difference) / error))
    return Contrast(
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_value=p_value,
        standard_error=error,
        degrees_of_freedom=freedom,
        seeds=(len(treated), len(control)),
        items=treated.shape[1],
        level=level,
        components=_components(squares),
    )


def _checked(treated: Floats, control: Floats, *, control_is_fixed: bool) -> tuple[Floats, Floats]:
    treated, control = np.asarray(treated, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if treated.ndim != 2 or control.ndim != 2 or treated.shape[1] != control.shape[1]:
        raise ValueError(f"scores have shapes {treated.shape} and {control.shape}; each is (seeds, items), over the same items")
    if treated.shape[1] < 2:
        raise ValueError(f"{treated.shape[1]} item: an interval needs at least 2")
    if control_is_fixed and len(control) != 1:
        raise ValueError(f"a fixed control has 1 run, this one has {len(control)}")
    if len(treated) < 2 or (len(control) < 2 and not control_is_fixed):
        raise ValueError(
            f"{len(treated)} and {len(control)} runs: an arm needs at least 2; an untrained control is control_is_fixed"
        )
    if not (np.isfinite(treated).all() and np.isfinite(control).all()):
        raise ValueError("a score is not a finite number")
    return treated, control


def _squares(treated: Floats, control: Floats) -> _Squares:
    arms = tuple(_arm(scores) for scores in (treated, control) if len(scores) > 1)
    item = (treated.mean(axis=0) - control.mean(axis=0)).var(ddof=1)
    return _Squares(arms, float(item), treated.shape[1])


def _arm(scores: Floats) -> _Arm:
    seeds, items = scores.shape
    runs = scores.mean(axis=1)  # (S,)
    residual = scores - runs[:, None] - scores.mean(axis=0) + runs.mean()  # (S, I)
    return _Arm(float(runs.var(ddof=1)), float((residual**2).sum()) / ((seeds - 1) * (items - 1)), seeds)


def _components(squares: _Squares) -> Components:
    seed = [max(arm.between - arm.noise / squares.items, 0.0) for arm in squares.arms]
    return Components(
        seed_treated=seed[0],
        seed_control=seed[1] if len(seed) > 1 else 0.0,
        item=max(squares.item - squares.noise_part * squares.items, 0.0),
        noise=float(np.mean([arm.noise for arm in squares.arms])),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number after Holm 1979, in their order: one below alpha is false in at most a share alpha."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def power_at(effect: float, components: Components, *, seeds: int, items: int, level: float = 0.95) -> float:
    """Probability that `contrast` excludes zero when this is the true difference, each arm having this many seeds.

    Exact for normal scores up to the scatter of item and noise variances: averaged over the values that each arm's variance of
    run means may take, as a noncentral t at the expected degrees of freedom promises too much with 3 seeds.
    """
    true, limit = _limits(components, seeds=seeds, items=items, level=level)
    return _found(effect, true, limit)


def detectable(components: Components, *, seeds: int, items: int, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference, in score units, that `contrast` finds with this power, each arm having this many seeds."""
    from scipy.optimize import brentq

    if not 1 - level < power < 1:
        raise ValueError(f"power is {power}; it lies between {1 - level:.2g}, which no effect at all has, and 1")
    true, limit = _limits(components, seeds=seeds, items=items, level=level)
    if true == 0:
        return 0.0
    far = float(limit.max() + 10 * true)
    return float(brentq(lambda effect: _found(effect, true, limit) - power, 0.0, far, xtol=1e-6 * far))


def seeds_needed(
    components: Components, *, items: int, effect: float, level: float = 0.95, power: float = 0.8, most: int = 100
) -> int | None:
    """The fewest seeds per arm with which this effect is found with this power; None if `most` do not suffice."""

    def suffices(seeds: int) -> bool:
        return power_at(effect, components, seeds=seeds, items=items, level=level) >= power

    if most < 2 or not suffices(most):
        return None
    enough, too_few = most, 1
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if suffices(middle) else (enough, middle)
    return enough


GRID = 48
"""Quantiles of each arm's variance of run means over which power is averaged."""


def _limits(components: Components, *, seeds: int, items: int, level: float) -> tuple[float, Floats]:
    """True standard error, and for each pair of quantiles the difference above which the interval excludes zero."""
    from scipy.special import chdtri, stdtrit

    if seeds < 2 or items < 2:
        raise ValueError(f"{seeds} seeds and {items} items: an interval needs at least 2 of each")
    noise = components.noise
    treated, control = components.seed_treated + noise / items, components.seed_control + noise / items
    item = components.item + 2 * noise / seeds
    true = ((components.seed_treated + components.seed_control + 2 * noise / items) / seeds + components.item / items) ** 0.5
    if true == 0:
        return 0.0, np.zeros(1)
    drawn = chdtri(seeds - 1, (np.arange(GRID) + 0.5) / GRID) / (seeds - 1)
    arms = (_Arm(treated * drawn[:, None], noise, seeds), _Arm(control * drawn, noise, seeds))
    squares = _Squares(arms, item, items)
    limit = stdtrit(squares.degrees_of_freedom, (1 + level) / 2) * np.sqrt(squares.variance)
    return true, np.asarray(limit, dtype=np.float64)


def _found(effect: float, true: float, limit: Floats) -> float:
    from scipy.special import ndtr

    if true == 0:
        return float(effect != 0)
    return float((ndtr((effect - limit) / true) + ndtr((-effect - limit) / true)).mean())


def stated_components(
    accuracy: float,
    seed_sd: float = RECORDED_SEED_SD,
    *,
    flips: float | None = None,
    disagreement: float | None = None,
) -> Components:
    """Components assumed before any run of right-or-wrong answers, from four numbers that can be argued about.

    Args:
        accuracy: Expected share of right answers, the same in both arms.
        seed_sd: Standard deviation of an arm's true accuracy over seeds. The default holds the noise of items too: cautious.
        flips: Share of items that are right in one run and wrong in another of the same arm. Without it, `RECORDED_FLIPS` of
            `2 p (1 - p)`, which independent answers would have.
        disagreement: The same of two runs of different arms; what it has above `flips` is interaction. Without it, half as
            much again as `flips`: an assumption, for which nothing is recorded.

    Raises:
        ValueError: not `0 <= flips <= disagreement <= 2 p (1 - p)`, or an accuracy outside [0, 1].
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy is {accuracy}; it is a share in [0, 1]")
    independent = 2 * accuracy * (1 - accuracy)
    flips = RECORDED_FLIPS * independent if flips is None else flips
    disagreement = min(1.5 * flips, independent) if disagreement is None else disagreement
    if not 0 <= flips <= disagreement <= independent * (1 + 1e-9):
        raise ValueError(
            f"flips {flips:.3g} and disagreement {disagreement:.3g}: at accuracy {accuracy} "
            f"they lie in this order between 0 and {independent:.3g}, which independent answers have"
        )
    return Components(seed_sd**2, seed_sd**2, disagreement - flips, flips / 2)


def simulate(
    components: Components,
    *,
    seeds: int,
    items: int,
    effect: float,
    generator: np.random.Generator,
    accuracy: float | None = None,
    seed_effects: tuple[Floats, Floats] | None = None,
) -> tuple[Floats, Floats]:
    """Scores of a treated and a control arm, each (S, I), drawn with these components and this true difference.

    With an `accuracy`, that of the control, answers are right or wrong: an item's probability is drawn from a beta distribution
    whose spread leaves `noise`, and drawn anew for the treated arm with the probability that gives `item`. Seeds and the effect
    shift the probabilities, undecided items most, so that expected means move by exactly that much.
    Without, scores are normal and not bounded. `seed_effects` replaces the normal draws of runs, one value per seed.

    Raises:
        ValueError: components that answers of this accuracy cannot have.
    """
    if seed_effects is None:
        seed_effects = (
            generator.normal(0, components.seed_treated**0.5, seeds),
            generator.normal(0, components.seed_control**0.5, seeds),
        )
    if accuracy is None:
        base = generator.normal(size=items)
        moved = generator.normal(0, components.item**0.5, items)
        noise = generator.normal(0, components.noise**0.5, (2, seeds, items))
        return base + effect + moved + seed_effects[0][:, None] + noise[0], base + seed_effects[1][:, None] + noise[1]
    treated, control = _probabilities(components, items, accuracy, generator)
    treated = _shifted(treated, accuracy, components.noise, effect + seed_effects[0])
    control = _shifted(control, accuracy, components.noise, seed_effects[1])
    drawn = generator.random((2, seeds, items))
    return (drawn[0] < treated).astype(np.float64), (drawn[1] < control).astype(np.float64)


def _probabilities(components: Components, items: int, accuracy: float, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Each item's probability of a right answer in either arm, before seeds and effect: both (I,)."""
    spread = accuracy * (1 - accuracy) - components.noise  # variance of probabilities over items
    if spread < -1e-12 or components.item > 2 * spread + 1e-12:
        raise ValueError(f"answers right in a share of {accuracy} cannot have {components}")
    if spread <= 1e-12:
        return np.full(items, accuracy), np.full(items, accuracy)
    if components.noise <= 1e-12:
        values = (generator.random((2, items)) < accuracy).astype(np.float64)
    else:
        size = accuracy * (1 - accuracy) / spread - 1
        values = generator.beta(accuracy * size, (1 - accuracy) * size, (2, items))
    is_moved = generator.random(items) < components.item / (2 * spread)
    return np.where(is_moved, values[1], values[0]), values[0]


def _shifted(probabilities: Floats, mean: float, noise: float, by: Floats) -> Floats:
    """Probabilities (I,) with this mean and mean noise, moved by each of the amounts (S,): (S, I).

    Undecided items move first, as on a logit scale, which leaves the noise as it is; then all that have room.
    """
    by = np.clip(by, -mean, 1 - mean)[:, None]
    undecided = np.clip(by, -noise, noise)
    if noise > 0:
        probabilities = probabilities + undecided * probabilities * (1 - probabilities) / noise
    rest, reached = by - undecided, mean + undecided  # (S, 1)
    up = np.maximum(rest, 0) / np.maximum(1 - reached, 1e-12) * (1 - probabilities)
    down = np.minimum(rest, 0) / np.maximum(reached, 1e-12) * probabilities
    moved: Floats = np.clip(probabilities + up + down, 0.0, 1.0)
    return moved
