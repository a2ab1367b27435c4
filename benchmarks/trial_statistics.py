"""How often a trial's verdict is false, and what it finds, with seeds that scatter as recorded ones did.

    python benchmarks/trial_statistics.py --data ../shared/data/familiarity [--json]

`recorded_outcomes.jsonl.gz` holds the accuracy after LoRA with 3 seeds, for 2 targets x 17 tasks x response sources. Deviations
of seeds are what is left after each source's mean, scaled for the degree of freedom that this took. The number of test items is
the least common denominator of the recorded fractions: gsm8k and ecqa come out at 1,000, not at the 1,319 and 2,194 of their
full sets.

A trial draws one target and task, a deviation for each run from that pair's own, and right or wrong answers to as many items.
Recorded deviations hold the noise of their items already, and here it comes on top: figures are cautious. How many answers flip
between runs and what differs between arms is not recorded: `stated_components` says what is assumed. Else trials are drawn from
the model that `contrast` assumes, so that only the shape of the deviations and of the answers puts it to the test.
"""

import argparse
import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.trials.statistics import Components, contrast, detectable, simulate, stated_components

Floats = npt.NDArray[np.float64]
Bounds = tuple[Floats, Floats]
"""Low and high of each trial's interval."""

SEEDS = (3, 5, 10)
EFFECTS = (0.02, 0.03, 0.05)
SHARED = 0.5
"""Share of a control run's variance that its drawn rows have, where one draw serves all seeds: assumed."""
HARD = ((0.0, 0.0), (3.0, 1.0), (10.0, 4.0), (50.0, 1.0))
"""Variance of seeds, mean of both arms and in units of noise / items, and that of interaction in units of noise / seeds."""
WEIGHTS = {"equal": (1.0, 1.0), "three to one": (1.5, 0.5), "one arm has all": (2.0, 0.0), "fixed control": (2.0, 0.0)}
"""How the variance of seeds is shared by treated and control."""
LARGEST = 3000
"""Items of the largest test set looked for among denominators."""


@dataclass(frozen=True)
class Pair:
    """A target and task as recorded."""

    target: str
    task: str
    accuracy: float
    items: int
    deviations: Floats

    @property
    def seed_sd(self) -> float:
        """Standard deviation over seeds, pooled over sources."""
        return float(np.sqrt((self.deviations**2).mean()))

    def components(self, *, interacts: bool) -> Components:
        """What a trial on it is drawn from: arms that differ in single items as assumed, or in none."""
        stated = stated_components(self.accuracy, self.seed_sd)
        return stated if interacts else replace(stated, item=0.0)


def read(path: Path) -> list[Pair]:
    """The recorded targets and tasks."""
    grouped: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if len(record["accuracy_by_seed"]) > 1:
                grouped[record["target"], record["task"]].append(record["accuracy_by_seed"])
    return [_pair(*key, [np.array(runs) for runs in sources]) for key, sources in grouped.items()]


def _pair(target: str, task: str, sources: Sequence[Floats]) -> Pair:
    deviations = [(runs - runs.mean()) * np.sqrt(len(runs) / (len(runs) - 1)) for runs in sources]
    every = np.concatenate(sources)
    return Pair(target, task, float(every.mean()), denominator(every), np.concatenate(deviations))


def denominator(fractions: Floats) -> int:
    """The least number of items that all fractions can be shares of."""
    counts = np.arange(1, LARGEST + 1)
    products = counts[:, None] * fractions
    fits = (np.abs(products - np.round(products)) < 1e-6).all(axis=1)
    assert fits.any(), "no common denominator"
    return int(counts[fits][0])


@dataclass(frozen=True)
class Trials:
    """Scores of many trials, each arm (S, I) per trial, as I differs; and the smallest effect that was promised for each."""

    treated: list[Floats]
    control: list[Floats]
    promised: Floats


def draw(
    pairs: Sequence[Pair],
    trials: int,
    *,
    seeds: int,
    effect: float | None,
    interacts: bool = True,
    items: int | None = None,
    shared: float = 0.0,
) -> Trials:
    """Trials on pairs drawn at random; without an effect given, it is what each design promises to detect.

    `shared` is the share of the control's variance that all its runs have in common.
    """
    generator = np.random.default_rng(seeds)
    limit = cache(lambda at, count: detectable(pairs[at].components(interacts=interacts), seeds=seeds, items=count))
    arms: tuple[list[Floats], list[Floats]] = ([], [])
    promised = []
    for at in generator.integers(len(pairs), size=trials):
        pair = pairs[at]
        count = items or pair.items
        promised.append(limit(at, count) if effect is None else effect)
        effects = generator.choice(pair.deviations, (2, seeds))
        effects[1] = np.sqrt(1 - shared) * effects[1] + np.sqrt(shared) * generator.choice(pair.deviations)
        scores = simulate(
            pair.components(interacts=interacts),
            seeds=seeds,
            items=count,
            effect=promised[-1],
            generator=generator,
            accuracy=pair.accuracy,
            seed_effects=(effects[0], effects[1]),
        )
        for arm, drawn in zip(arms, scores, strict=True):
            arm.append(drawn)
    return Trials(*arms, np.array(promised))


def ours(trials: Trials) -> Bounds:
    """What the tool says."""
    found = [contrast(*arms) for arms in zip(trials.treated, trials.control, strict=True)]
    return np.array([one.low for one in found]), np.array([one.high for one in found])


def bootstrap_over_seeds(trials: Trials, *, resamples: int = 1000) -> Bounds:
    """Percentiles of the difference when runs are drawn again with replacement and items are not."""
    generator = np.random.default_rng(0)
    means = []
    for arm in (trials.treated, trials.control):
        runs = np.array([scores.mean(axis=1) for scores in arm])  # (trials, S)
        seeds = runs.shape[1]
        means.append(runs @ generator.multinomial(seeds, [1 / seeds] * seeds, resamples).T / seeds)  # (trials, resamples)
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975], axis=1)
    return low, high


def t_over_items(trials: Trials) -> Bounds:
    """Paired t interval over items, of scores averaged over seeds."""
    from scipy.special import stdtrit

    difference = [one.mean(axis=0) - other.mean(axis=0) for one, other in zip(trials.treated, trials.control, strict=True)]
    middle = np.array([values.mean() for values in difference])
    half = np.array([stdtrit(len(v) - 1, 0.975) * np.sqrt(v.var(ddof=1) / len(v)) for v in difference])
    return middle - half, middle + half


def t_over_seeds(trials: Trials) -> Bounds:
    """Student's t interval over the runs' means, items left out."""
    from scipy.special import stdtrit

    runs = [np.array([scores.mean(axis=1) for scores in arm]) for arm in (trials.treated, trials.control)]
    seeds = runs[0].shape[1]
    middle = runs[0].mean(axis=1) - runs[1].mean(axis=1)
    half = stdtrit(2 * (seeds - 1), 0.975) * np.sqrt((runs[0].var(axis=1, ddof=1) + runs[1].var(axis=1, ddof=1)) / seeds)
    return middle - half, middle + half


METHODS: dict[str, Callable[[Trials], Bounds]] = {
    "curate": ours,
    "bootstrap over seeds": bootstrap_over_seeds,
    "t test over seeds": t_over_seeds,
    "t test over items": t_over_items,
}


def verdicts(bounds: Bounds) -> dict[str, float]:
    """Shares of trials with an interval above and below zero."""
    low, high = bounds
    return {"helped": float((low > 0).mean()), "hurt": float((high < 0).mean())}


def measure(pairs: Sequence[Pair], trials: int) -> dict[str, Any]:
    """All figures."""
    return {
        "trials": trials,
        "pairs": [
            {"target": p.target, "task": p.task, "accuracy": p.accuracy, "items": p.items, "seed_sd": p.seed_sd} for p in pairs
        ],
        "false": {seeds: false_verdicts(pairs, trials, seeds) for seeds in SEEDS},
        "found": {seeds: found_effects(pairs, trials, seeds) for seeds in SEEDS},
        "hard_cases": hard_cases(trials // 2),
    }


def false_verdicts(pairs: Sequence[Pair], trials: int, seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Shares of false verdicts, by what is drawn and by method."""
    settings: dict[str, dict[str, Any]] = {
        "recorded items": {"interacts": False},
        "recorded items, arms differ item by item": {},
        "224 items": {"interacts": False, "items": 224},
        "one random subset for all seeds": {"interacts": False, "shared": SHARED},
    }
    found = {}
    for name, options in settings.items():
        drawn = draw(pairs, trials, seeds=seeds, effect=0.0, **options)
        found[name] = {method: verdicts(interval(drawn)) for method, interval in METHODS.items()}
    return found


def found_effects(pairs: Sequence[Pair], trials: int, seeds: int) -> dict[str, Any]:
    """Shares of trials that find an effect: of given sizes, and of the size that was promised to be found in 80 %."""
    by_size = {}
    for effect in EFFECTS:
        drawn = draw(pairs, trials, seeds=seeds, effect=effect)
        by_size[f"{100 * effect:g} points"] = {
            method: verdicts(interval(drawn))["helped"] for method, interval in METHODS.items()
        }
    promised = draw(pairs, trials, seeds=seeds, effect=None)
    low, high = np.quantile(promised.promised, [0.1, 0.9])
    return {
        "by_size": by_size,
        "promised": {"median": float(np.median(promised.promised)), "tenth": float(low), "ninetieth": float(high)},
        "found_of_promised": verdicts(ours(promised))["helped"],
    }


def hard_cases(trials: int, *, items: int = 100, noise: float = 0.1) -> dict[str, dict[int, dict[str, float]]]:
    """The lowest and the highest share of false verdicts over `HARD`, scores normal: what `contrast` says of its own level."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, weights in WEIGHTS.items():
        found[name] = {}
        for seeds in (2, 3, 5):
            shares = []
            for spread, interaction in HARD:
                seed = spread * noise / items
                of = Components(weights[0] * seed, weights[1] * seed, interaction * noise / seeds, noise)
                shares.append(false_share(of, trials, seeds=seeds, items=items, control_is_fixed=name == "fixed control"))
            found[name][seeds] = {"lowest": min(shares), "highest": max(shares)}
    return found


def false_share(of: Components, trials: int, *, seeds: int, items: int, control_is_fixed: bool) -> float:
    """Share of false verdicts on normal scores; of a fixed control the first run is kept, whose noise is then interaction."""
    generator = np.random.default_rng(seeds)
    wrong = 0
    for _ in range(trials):
        treated, control = simulate(of, seeds=seeds, items=items, effect=0.0, generator=generator)
        kept = control[:1] if control_is_fixed else control
        wrong += contrast(treated, kept, control_is_fixed=control_is_fixed).excludes_zero
    return wrong / trials


def markdown(found: Mapping[str, Any]) -> str:
    """The tables."""
    spread = np.array([pair["seed_sd"] for pair in found["pairs"]])
    lines = [
        f"{len(spread)} targets and tasks; standard deviation over seeds, points: root mean square "
        f"{100 * np.sqrt((spread**2).mean()):.2f}, median {100 * np.median(spread):.2f}. {found['trials']:,} trials per cell.",
        "",
        "| target | task | accuracy | items | SD over seeds, points |",
        "|---|---|---|---|---|",
        *(
            f"| {pair['target']} | {pair['task']} | {pair['accuracy']:.3f} | {pair['items']:,} | {100 * pair['seed_sd']:.2f} |"
            for pair in found["pairs"]
        ),
        "",
        "Share of trials without an effect that say helped + hurt:",
        "",
        f"| seeds | drawn | {' | '.join(METHODS)} |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    for seeds, settings in found["false"].items():
        for name, methods in settings.items():
            shares = " | ".join(f"{one['helped']:.1%} + {one['hurt']:.1%}" for one in methods.values())
            lines.append(f"| {seeds} | {name} | {shares} |")
    lines += [
        "",
        "Share of trials that find an effect, arms differing item by item (only a method that keeps its level has power):",
        "",
        f"| seeds | effect | {' | '.join(METHODS)} |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    for seeds, entry in found["found"].items():
        for size, methods in entry["by_size"].items():
            lines.append(f"| {seeds} | {size} | {' | '.join(f'{share:.0%}' for share in methods.values())} |")
    lines += [
        "",
        "| seeds | smallest effect promised at 80 %, points: median (10 % to 90 % of trials) | found at exactly that |",
        "|---|---|---|",
    ]
    for seeds, entry in found["found"].items():
        median, low, high = (100 * entry["promised"][name] for name in ("median", "tenth", "ninetieth"))
        lines.append(f"| {seeds} | {median:.1f} ({low:.1f} to {high:.1f}) | {entry['found_of_promised']:.0%} |")
    lines += [
        "",
        "Lowest and highest share of false verdicts, by how the arms share the variance of seeds, normal scores:",
        "",
        "| variance of seeds | 2 seeds | 3 seeds | 5 seeds |",
        "|---|---|---|---|",
        *(
            f"| {name} | " + " | ".join(f"{one['lowest']:.1%} to {one['highest']:.1%}" for one in by_seeds.values()) + " |"
            for name, by_seeds in found["hard_cases"].items()
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the tables, as Markdown or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with recorded_outcomes.jsonl.gz.")
    parser.add_argument("--trials", type=int, default=2000, help="Simulated trials per cell.")
    parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON instead of Markdown.")
    arguments = parser.parse_args()
    if not (arguments.data / "recorded_outcomes.jsonl.gz").exists():
        sys.exit(f"{arguments.data}: skipped, no recorded_outcomes.jsonl.gz here")
    found = measure(read(arguments.data / "recorded_outcomes.jsonl.gz"), arguments.trials)
    print(json.dumps(found, indent=1) if arguments.as_json else markdown(found))


if __name__ == "__main__":
    main()
