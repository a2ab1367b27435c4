"""Real trials on the packaged sample: is the error step credited every time, and how often is a verdict false without an effect?

    python benchmarks/trial.py --out DIR                # 10 repetitions of 3 seeds, two arms: 60 trainings

One trial with 30 seeds trains the two arms that the error step stands between. Cut into ten threes it gives repetitions of other
seeds; pairs of threes from one arm give A/A comparisons, mixed pairs give power. The comparisons share runs, so they are not
independent: the counts say how the level holds on real runs, the simulation of trial_statistics.py proves it. Interrupted, it
goes on where it stopped.
"""

import argparse
import json
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import progress
from curate.pipeline import run
from curate.recipes import Recipe
from curate.trials import Request, prepare, run_trial
from curate.trials.judging import Judging
from curate.trials.plan import Trial
from curate.trials.statistics import Contrast, contrast

SEEDS_EACH = 3
RECIPE = {
    "name": "error-step",
    "summary": "The error step of `demo`, alone between its two arms.",
    "filters": {"errors": {}},
    "steps": [
        {"mix": {"shares": {"reference-style": "50%", "careless": "50%"}}},
        {"drop": {"field": "errors.fatal", "is": True}},
    ],
    "unscored": "keep",
    "trial": {
        "primary": "random-clean",
        "tasks": ["sample"],
        "training": {"rank": 16, "alpha": 32, "learning_rate": 4e-3, "warm_up": 0.05, "batch": 8, "steps": 240},
    },
}


def word(found: Contrast) -> str:
    """What the interval says, without margin or base."""
    return "cannot tell" if not found.excludes_zero else "helped" if found.low > 0 else "hurt"


def threes(scores: npt.NDArray[np.float64], generator: np.random.Generator, count: int) -> list[npt.NDArray[np.int64]]:
    """Random pairs of disjoint threes of runs."""
    return [generator.permutation(len(scores))[: 2 * SEEDS_EACH] for _ in range(count)]


def main() -> None:
    """Train what is missing, then count words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("curated/benchmark-trial"))
    parser.add_argument("--recipe", type=Path, help="another recipe; its last step is what is repeated")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--comparisons", type=int, default=200, help="A/A comparisons, and as many with the effect")
    parser.add_argument("--training", type=json.loads, default={}, help="training settings, as JSON")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    recipe = Recipe(**RECIPE) if options.recipe is None else options.recipe
    with progress.shown():
        model = {"model": str(_model())}
        run(recipe, None, model=model, out=options.out)
        overrides: dict[str, Any] = {"seeds": SEEDS_EACH * options.repetitions, "training": options.training}
        request = Request(arms=[], overrides=overrides, jobs=options.jobs)
        result = run_trial(prepare(options.out, recipe, model=model, request=request))
    print_found(result.folder, options)


def _model() -> Path:
    from curate.reference import model_path

    return model_path()


def print_found(folder: Path, options: argparse.Namespace) -> None:
    """Repetitions, A/A comparisons and power, from the stored answers."""
    from curate.trials.tasks import load_items, load_task

    trial = Trial.open(folder)
    tasks = [(task, load_items(task)) for task in (load_task(entry["task"]) for entry in trial.plan.tasks)]
    judging = Judging(trial, tasks)
    treated_name, control_name = judging.arms
    treated, control = (judging.scores(arm, tasks[0][0].name).strict for arm in (treated_name, control_name))
    repetitions = [
        contrast(treated[at : at + SEEDS_EACH], control[at : at + SEEDS_EACH])
        for at in range(0, SEEDS_EACH * options.repetitions, SEEDS_EACH)
    ]
    generator = np.random.default_rng(0)
    same = {
        name: [
            contrast(scores[pair[:SEEDS_EACH]], scores[pair[SEEDS_EACH:]])
            for pair in threes(scores, generator, options.comparisons)
        ]
        for name, scores in ((treated_name, treated), (control_name, control))
    }
    mixed = [
        contrast(treated[one[:SEEDS_EACH]], control[other[:SEEDS_EACH]])
        for one, other in zip(
            threes(treated, generator, options.comparisons), threes(control, generator, options.comparisons), strict=True
        )
    ]
    whole = contrast(treated, control)
    found = {
        "trial": folder.name,
        "machine": f"{platform.machine()}, {platform.system()}",
        "means": {treated_name: float(treated.mean()), control_name: float(control.mean())},
        "seed_sd": {treated_name: float(treated.mean(axis=1).std(ddof=1)), control_name: float(control.mean(axis=1).std(ddof=1))},
        "whole": whole.as_data(),
        "repetitions": [one.as_data() | {"word": word(one)} for one in repetitions],
        "same": {name: dict(Counter(word(one) for one in contrasts)) for name, contrasts in same.items()},
        "with_effect": dict(Counter(word(one) for one in mixed)),
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print("| repetition | difference, points | 95 % interval | word |\n|---|---|---|---|")
    for number, one in enumerate(repetitions, 1):
        print(f"| {number} | {100 * one.difference:+.1f} | {100 * one.low:+.1f} to {100 * one.high:+.1f} | {word(one)} |")
    interval = f"{100 * whole.low:+.1f} to {100 * whole.high:+.1f}"
    print(f"| all {len(treated)} seeds | {100 * whole.difference:+.1f} | {interval} | {word(whole)} |")
    print()
    for name, contrasts in same.items():
        counts = Counter(word(one) for one in contrasts)
        print(f"{name} against itself, {len(contrasts)} times: {counts['helped']} helped, {counts['hurt']} hurt")
    counts = Counter(word(one) for one in mixed)
    print(f"{treated_name} against {control_name}, {len(mixed)} times: {counts['helped']} helped, {counts['hurt']} hurt")
    print(f"means {found['means']}, standard deviation over seeds {found['seed_sd']}")


if __name__ == "__main__":
    main()
