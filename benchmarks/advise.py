"""Validates the rule of `curate advise` on recorded outcomes of fine-tuning: what docs/advise.md prints.

    python benchmarks/advise.py --data ../shared/data/familiarity [--json]

`recorded_outcomes.jsonl.gz` holds, for 2 target models x 17 tasks x response sources, what was measured on 300 responses before
training and the accuracy after LoRA on 1,000 of them, for 3 seeds. Regret of a choice = mean accuracy over seeds of the best
source less that of the chosen one, in points. A source without a recorded accuracy cannot be judged and is left out.

Rules with anything to choose are cross-validated: a task is held out with both its targets, the choice is made on the other 16.
Intervals: 95 %, by resampling tasks with both their targets: they say how the figure moves with the tasks, not with seeds.
"""

import argparse
import gzip
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.advice.rule import Evidence, Regret, ranking

Floats = npt.NDArray[np.float64]
DRAWS, SEED = 10_000, 0
SPREAD = 2.0
"""Sources differ where the standard deviation of their mean accuracies is above this, in points."""


@dataclass(frozen=True)
class Pair:
    """One target and task: features and accuracies of its sources."""

    target: str
    task: str
    sources: list[str]
    accuracy: Floats  # (sources, seeds), in points
    features: dict[str, Floats]

    @property
    def mean(self) -> Floats:
        """Mean accuracy over seeds."""
        return np.asarray(self.accuracy.mean(axis=1))

    @property
    def differs(self) -> bool:
        """Whether sources differ by more than noise explains."""
        return float(self.mean.std(ddof=1)) > SPREAD

    def regret(self, chosen: int) -> float:
        """Points lost by training on this source."""
        return float(self.mean.max() - self.mean[chosen])


Rule = Callable[[Pair], int]
"""Which source to train on."""


def read(path: Path) -> tuple[list[Pair], int]:
    """The pairs, and how many records have no outcome."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["accuracy_by_seed"]:
            grouped[record["target"], record["task"]].append(record)
    return [_pair(*key, rows) for key, rows in grouped.items()], sum(not record["accuracy_by_seed"] for record in records)


def _pair(target: str, task: str, rows: list[dict[str, Any]]) -> Pair:
    def column(name: str) -> Floats:
        return np.array([row[name] for row in rows], dtype=np.float64)

    perplexity, logprob = np.log(column("perplexity_mean300")), column("seq_logprob_mean300")
    features = {
        "perplexity": perplexity,
        "self-aligned": np.log(column("self_aligned_ppl3_mean300")),
        "ifd": column("ifd_mean300"),
        # Lengths are not recorded: summed over mean log probability comes near where perplexities do not scatter.
        "length": np.log(-logprob / perplexity),
        "reward": -column("skywork_reward_mean300"),
        "car": -column("car_beta3"),
    }
    assert all(np.isfinite(values).all() for values in features.values())
    accuracy = 100 * np.array([row["accuracy_by_seed"] for row in rows])
    return Pair(target, task, [row["strategy"] for row in rows], accuracy, features)


def shipped(pair: Pair) -> int:
    """The rule of the tool itself."""
    aligned = dict(zip(pair.sources, pair.features["self-aligned"].tolist(), strict=True))
    perplexity = dict(zip(pair.sources, pair.features["perplexity"].tolist(), strict=True))
    return pair.sources.index(ranking(aligned, perplexity)[1][0])


def lowest(weights: Mapping[str, float]) -> Rule:
    """Lowest weighted sum of features."""
    return lambda pair: int(np.argmin(np.sum([weight * pair.features[name] for name, weight in weights.items()], axis=0)))


def ranked(values: Floats) -> Floats:
    """Ranks from 0."""
    return np.argsort(np.argsort(values)).astype(np.float64)


def standard(values: Floats) -> Floats:
    """Standard scores."""
    return np.asarray((values - values.mean()) / values.std())


def rank_sum(*names: str) -> Rule:
    """Lowest sum of ranks."""
    return lambda pair: int(np.argmin(np.sum([ranked(pair.features[name]) for name in names], axis=0)))


def z_sum(*names: str) -> Rule:
    """Lowest sum of standard scores."""
    return lambda pair: int(np.argmin(np.sum([standard(pair.features[name]) for name in names], axis=0)))


def among_close(share: float, sign: int) -> Rule:
    """Of the sources whose self-aligned perplexity is within a share of the lowest, the longest (-1) or shortest (+1)."""

    def choose(pair: Pair) -> int:
        aligned = pair.features["self-aligned"]
        close = aligned <= aligned.min() + math.log(1 + share)
        return int(np.argmin(np.where(close, sign * pair.features["length"], np.inf)))

    return choose


# All that was tried, in the order in which it was written down; nothing was left out afterwards.
FIXED: dict[str, Rule] = {
    "lowest self-aligned perplexity (shipped)": shipped,
    "lowest perplexity": lowest({"perplexity": 1}),
    "lowest IFD": lowest({"ifd": 1}),
    "longest": lowest({"length": -1}),
    "shortest": lowest({"length": 1}),
    "highest reward (Skywork)": lowest({"reward": 1}),
    "highest CAR": lowest({"car": 1}),
    "1/4 log perplexity + 3/4 log self-aligned": lowest({"perplexity": 1, "self-aligned": 3}),
    "1/2 log perplexity + 1/2 log self-aligned": lowest({"perplexity": 1, "self-aligned": 1}),
    "3/4 log perplexity + 1/4 log self-aligned": lowest({"perplexity": 3, "self-aligned": 1}),
    "ranks: perplexity, self-aligned": rank_sum("perplexity", "self-aligned"),
    "ranks: perplexity, self-aligned, IFD": rank_sum("perplexity", "self-aligned", "ifd"),
    "ranks: self-aligned, IFD": rank_sum("self-aligned", "ifd"),
    "ranks: self-aligned, reward": rank_sum("self-aligned", "reward"),
    "standard scores: self-aligned, IFD": z_sum("self-aligned", "ifd"),
    "standard scores: perplexity, self-aligned, IFD": z_sum("perplexity", "self-aligned", "ifd"),
    "log self-aligned - 0.1 log length": lowest({"self-aligned": 1, "length": -0.1}),
    "log self-aligned - 0.25 log length": lowest({"self-aligned": 1, "length": -0.25}),
    "log self-aligned + 0.1 log length": lowest({"self-aligned": 1, "length": 0.1}),
    "log self-aligned + 0.25 log length": lowest({"self-aligned": 1, "length": 0.25}),
    "within 5 % of the lowest self-aligned, the longest": among_close(0.05, -1),
    "within 5 % of the lowest self-aligned, the shortest": among_close(0.05, 1),
    "within 10 % of the lowest self-aligned, the longest": among_close(0.10, -1),
    "within 10 % of the lowest self-aligned, the shortest": among_close(0.10, 1),
}
RIDGE = ("perplexity", "self-aligned", "ifd", "length")


def chosen_in_fold(names: Sequence[str]) -> Callable[[list[Pair]], Rule]:
    """Learns which of some fixed rules lost least on the other tasks."""

    def learn(others: list[Pair]) -> Rule:
        losses = {name: np.mean([pair.regret(FIXED[name](pair)) for pair in others]) for name in names}
        return FIXED[min(losses, key=lambda name: losses[name])]

    return learn


def ridge(others: list[Pair]) -> Rule:
    """Learns accuracy within a pair from standardised features, by ridge regression of strength 1 a row."""

    def design(pair: Pair) -> Floats:
        return np.stack([standard(pair.features[name]) for name in RIDGE], axis=1)

    rows = np.concatenate([design(pair) for pair in others])
    gains = np.concatenate([pair.mean - pair.mean.mean() for pair in others])
    weights = np.linalg.solve(rows.T @ rows + len(rows) * np.eye(len(RIDGE)), rows.T @ gains)
    return lambda pair: int(np.argmax(design(pair) @ weights))


def success(others: list[Pair]) -> dict[str, float]:
    """Mean gain of each source's name over the mean of its pair."""
    gains: dict[str, list[float]] = defaultdict(list)
    for pair in others:
        for name, gain in zip(pair.sources, pair.mean - pair.mean.mean(), strict=True):
            gains[name].append(float(gain))
    return {name: float(np.mean(values)) for name, values in gains.items()}


def best_elsewhere(others: list[Pair]) -> Rule:
    """Learns which source's name did best on the other tasks; names of sources do not travel to a user's data."""
    means = success(others)
    return lambda pair: int(np.argmax([means[name] for name in pair.sources]))


def familiar_and_best_elsewhere(others: list[Pair]) -> Rule:
    """Rank sum of self-aligned perplexity and the sources' success on the other tasks: shrinkage towards a prior."""
    means = success(others)

    def choose(pair: Pair) -> int:
        prior = ranked(np.array([-means[name] for name in pair.sources]))
        return int(np.argmin(ranked(pair.features["self-aligned"]) + 1.001 * prior))  # ties go to the prior

    return choose


LEARNT: dict[str, Callable[[list[Pair]], Rule]] = {
    "perplexity or self-aligned, chosen on the other tasks": chosen_in_fold(list(FIXED)[:2]),
    "one of all fixed rules, chosen on the other tasks": chosen_in_fold(list(FIXED)),
    "ridge regression on four features": ridge,
    "the source that did best on the other tasks (no model)": best_elsewhere,
    "ranks: self-aligned, success on the other tasks": familiar_and_best_elsewhere,
}


def losses_of(pairs: list[Pair]) -> dict[str, list[float]]:
    """Every rule's regret on every pair; learnt rules never see the pair's task."""
    found = {name: [pair.regret(rule(pair)) for pair in pairs] for name, rule in FIXED.items()}
    for name, learn in LEARNT.items():
        rules = {task: learn([pair for pair in pairs if pair.task != task]) for task in {pair.task for pair in pairs}}
        found[name] = [pair.regret(rules[pair.task](pair)) for pair in pairs]
    found["random (expected)"] = [float(pair.mean.max() - pair.mean.mean()) for pair in pairs]
    found["one real fine-tuning run, judged on the other seeds"] = [on_other_seeds(pair, None) for pair in pairs]
    return found


def on_other_seeds(pair: Pair, rule: Rule | None) -> float:
    """Regret judged on the seeds but one, over each; without a rule, of the source that did best with the one left out."""
    lost = []
    for seed in range(pair.accuracy.shape[1]):
        others = np.delete(pair.accuracy, seed, axis=1).mean(axis=1)
        chosen = int(np.argmax(pair.accuracy[:, seed])) if rule is None else rule(pair)
        lost.append(others.max() - others[chosen])
    return float(np.mean(lost))


def summary(values: Sequence[float], tasks: Sequence[str]) -> Regret:
    """Mean and the interval of resampled tasks."""
    names = sorted(set(tasks))
    sums = np.array([sum(value for value, task in zip(values, tasks, strict=True) if task == name) for name in names])
    counts = np.array([tasks.count(name) for name in names])
    drawn = np.random.default_rng(SEED).integers(len(names), size=(DRAWS, len(names)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return Regret(float(np.mean(values)), float(low), float(high))


def both(values: Sequence[float], pairs: list[Pair]) -> dict[str, Regret]:
    """Summary over all pairs and over those where sources differ."""
    hard = [(value, pair.task) for value, pair in zip(values, pairs, strict=True) if pair.differs]
    return {
        "all": summary(values, [pair.task for pair in pairs]),
        "differ": summary([value for value, _ in hard], [task for _, task in hard]),
    }


def by_gap(pairs: list[Pair], feature: str) -> list[dict[str, Any]]:
    """Of two sources of a pair, how often the one with the lower value did better, by the size of the gap."""
    edges = (0, 0.05, 0.1, 0.2, 0.4, math.inf)
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for pair in pairs:
        values, means = pair.features[feature], pair.mean
        for a in range(len(values)):
            for b in range(len(values)):
                if values[a] < values[b]:
                    gap = math.exp(values[b] - values[a]) - 1
                    place = next(at for at, edge in enumerate(edges[1:]) if gap < edge)
                    found[place].append((float(np.sign(means[a] - means[b])) / 2 + 0.5, float(means[a] - means[b])))
    return [
        {
            "gap": [edges[place], edges[place + 1] if math.isfinite(edges[place + 1]) else None],
            "comparisons": len(rows),
            "lower_is_better": float(np.mean([row[0] for row in rows])),
            "points_gained": float(np.mean([row[1] for row in rows])),
        }
        for place, rows in sorted(found.items())
    ]


def evidence(pairs: list[Pair], losses: Mapping[str, Sequence[float]], rule: str) -> Evidence:
    """What `curate advise` prints of a rule."""
    own = both(losses[rule], pairs)
    floor = both(losses["one real fine-tuning run, judged on the other seeds"], pairs)
    chance = both(losses["random (expected)"], pairs)
    return Evidence(
        pairs=len(pairs),
        tasks=len({pair.task for pair in pairs}),
        targets=tuple(sorted({pair.target for pair in pairs})),
        all_pairs=own["all"],
        pairs_that_differ=sum(pair.differs for pair in pairs),
        where_sources_differ=own["differ"],
        one_real_run=floor["all"],
        one_real_run_where_sources_differ=floor["differ"],
        random=chance["all"],
        random_where_sources_differ=chance["differ"],
    )


def mean_or_geometric(folder: Path) -> dict[str, Any]:
    """Whether the mean of per-row perplexities, which is what was recorded, orders sources as the tool's geometric mean does."""
    found = {}
    for task in ("gsm8k", "ecqa", "humaneval"):
        path = folder / task / "author_perplexity.jsonl.gz"
        if not path.exists():
            continue
        rows: dict[str, list[float]] = defaultdict(list)
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["mistral_7b_instruct_v02"] is not None and not record["maybe_stale"]:
                    rows[record["source"]].append(record["mistral_7b_instruct_v02"])
        names = sorted(name for name, values in rows.items() if len(values) >= 100)
        mean = np.array([np.mean(rows[name]) for name in names])
        geometric = np.array([np.exp(np.mean(np.log(rows[name]))) for name in names])
        found[task] = {
            "sources": len(names),
            "rank_correlation": float(np.corrcoef(ranked(mean), ranked(geometric))[0, 1]),
            "lowest_by_mean": names[int(mean.argmin())],
            "lowest_by_geometric_mean": names[int(geometric.argmin())],
        }
    return found


def measure(folder: Path) -> dict[str, Any]:
    """All figures."""
    pairs, without = read(folder / "recorded_outcomes.jsonl.gz")
    losses = losses_of(pairs)
    rules = {"self_aligned": "lowest self-aligned perplexity (shipped)", "perplexity": "lowest perplexity"}
    return {
        "pairs": len(pairs),
        "records_without_outcome": without,
        "fixed_rules_tried": len(FIXED),
        "learnt_rules_tried": len(LEARNT),
        "regret": {name: {k: asdict(v) for k, v in both(values, pairs).items()} for name, values in losses.items()},
        "regret_on_two_seeds": {
            "one real run": {
                k: asdict(v) for k, v in both(losses["one real fine-tuning run, judged on the other seeds"], pairs).items()
            },
            **{
                name: {k: asdict(v) for k, v in both([on_other_seeds(pair, FIXED[rule]) for pair in pairs], pairs).items()}
                for name, rule in rules.items()
            },
        },
        "by_target": {
            target: float(
                np.mean([loss for loss, pair in zip(losses[rules["self_aligned"]], pairs, strict=True) if pair.target == target])
            )
            for target in sorted({pair.target for pair in pairs})
        },
        "pairs_that_differ": [
            {
                "target": pair.target,
                "task": pair.task,
                "spread": float(pair.mean.std(ddof=1)),
                "lost": {name: losses[rule][at] for name, rule in rules.items()},
                "best": pair.sources[int(pair.mean.argmax())],
                "chosen": pair.sources[shipped(pair)],
            }
            for at, pair in enumerate(pairs)
            if pair.differs
        ],
        "by_gap": {name: by_gap(pairs, name) for name in ("self-aligned", "perplexity")},
        "evidence": {name: evidence(pairs, losses, rule).to_dict() for name, rule in rules.items()},
        "mean_or_geometric": mean_or_geometric(folder),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of docs/advise.md."""

    def show(entry: Mapping[str, float]) -> str:
        return f"{entry['mean']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"

    lines = [
        f"{found['pairs']} pairs; {found['fixed_rules_tried']} fixed and {found['learnt_rules_tried']} learnt rules were tried; "
        f"{found['records_without_outcome']} records have no outcome.",
        "",
        "| choice | points lost, all pairs | where sources differ |",
        "|---|---|---|",
        *(f"| {name} | {show(entry['all'])} | {show(entry['differ'])} |" for name, entry in found["regret"].items()),
        "",
        "Judged on two seeds, for all alike:",
        "",
        "| choice | all pairs | where sources differ |",
        "|---|---|---|",
        *(f"| {name} | {show(entry['all'])} | {show(entry['differ'])} |" for name, entry in found["regret_on_two_seeds"].items()),
        "",
        "| target, task | spread | best | chosen | lost: self-aligned | perplexity |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['target']}, {row['task']} | {row['spread']:.1f} | {row['best']} | {row['chosen']} | "
            f"{row['lost']['self_aligned']:.2f} | {row['lost']['perplexity']:.2f} |"
            for row in found["pairs_that_differ"]
        ),
    ]
    for name, rows in found["by_gap"].items():
        lines += [
            "",
            f"| {name} is higher by | comparisons | the lower did better | points gained |",
            "|---|---|---|---|",
        ]
        for row in rows:
            low, high = row["gap"]
            span = f"{low:.0%} to {high:.0%}" if high is not None else f"over {low:.0%}"
            lines.append(f"| {span} | {row['comparisons']} | {row['lower_is_better']:.0%} | {row['points_gained']:+.2f} |")
    lines += [
        "",
        f"points lost by target: {found['by_target']}",
        f"mean or geometric mean: {json.dumps(found['mean_or_geometric'])}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the tables, as Markdown or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with recorded_outcomes.jsonl.gz.")
    parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON instead of Markdown.")
    arguments = parser.parse_args()
    if not (arguments.data / "recorded_outcomes.jsonl.gz").exists():
        sys.exit(f"{arguments.data}: skipped, no recorded_outcomes.jsonl.gz here")
    found = measure(arguments.data)
    print(json.dumps(found, indent=1) if arguments.as_json else markdown(found))


if __name__ == "__main__":
    main()
