"""The rule that ranks sources, and what it reaches on recorded outcomes of fine-tuning."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Measure = Literal["self_aligned", "perplexity"]
"""What sources are ranked by."""


def ranking(self_aligned: Mapping[str, float | None], perplexity: Mapping[str, float | None]) -> tuple[Measure, list[str]]:
    """The measure to rank by, and the sources it orders, best first; sources without a value are left out.

    Lowest self-aligned perplexity; where some source that has a perplexity has none, lowest perplexity for all of them: the two
    are not on one scale. The rule has no weight and nothing was fitted. Names break ties.
    """
    scored = [name for name, value in perplexity.items() if value is not None]
    aligned = {name: self_aligned.get(name) for name in scored}
    is_whole = bool(scored) and None not in aligned.values()
    measure: Measure = "self_aligned" if is_whole else "perplexity"
    values = {name: value for name, value in (aligned if is_whole else perplexity).items() if value is not None}
    return measure, sorted(values, key=lambda name: (values[name], name))


@dataclass(frozen=True)
class Regret:
    """Points of accuracy lost against the best source, on average, with the 95 % interval of resampled tasks."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What choosing by a measure reached on recorded outcomes; `python benchmarks/advise.py` computes every figure anew."""

    pairs: int
    """Target models x tasks."""
    tasks: int
    targets: tuple[str, ...]
    all_pairs: Regret
    pairs_that_differ: int
    """Pairs whose sources' accuracies have a standard deviation above 2 points."""
    where_sources_differ: Regret
    one_real_run: Regret
    """Choosing by the accuracy of one fine-tuning run, judged on the other seeds: the noise floor."""
    one_real_run_where_sources_differ: Regret
    random: Regret
    random_where_sources_differ: Regret

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def sentence(self) -> str:
        """The figures as a person reads them."""
        best, floor, hard = self.all_pairs, self.one_real_run, self.where_sources_differ
        return (
            f"On {self.pairs} recorded pairs of a target and a task ({', '.join(self.targets)}; {self.tasks} tasks) this choice "
            f"lost {best.mean:.2f} points (95 % interval {best.low:.2f} to {best.high:.2f}) against the best source; training "
            f"once on each and taking the best lost {floor.mean:.2f}, a random choice {self.random.mean:.2f}. Where sources "
            f"differ ({self.pairs_that_differ} pairs): {hard.mean:.2f} ({hard.low:.2f} to {hard.high:.2f}), one real run "
            f"{self.one_real_run_where_sources_differ.mean:.2f}, random {self.random_where_sources_differ.mean:.2f}."
        )


_FLOOR = {
    "pairs": 34,
    "tasks": 17,
    "targets": ("Mistral-7B-Instruct-v0.2", "Qwen2.5-7B-Instruct"),
    "pairs_that_differ": 8,
    "one_real_run": Regret(0.984, 0.705, 1.279),
    "one_real_run_where_sources_differ": Regret(0.800, 0.493, 0.998),
    "random": Regret(2.140, 1.540, 2.914),
    "random_where_sources_differ": Regret(4.684, 3.130, 6.238),
}
# `tests/test_advice.py` computes them again wherever the records are.
EVIDENCE: dict[Measure, Evidence] = {
    "self_aligned": Evidence(
        **_FLOOR,  # type: ignore[arg-type]
        all_pairs=Regret(1.024, 0.619, 1.478),
        where_sources_differ=Regret(1.074, 0.150, 2.032),
    ),
    "perplexity": Evidence(
        **_FLOOR,  # type: ignore[arg-type]
        all_pairs=Regret(1.084, 0.685, 1.527),
        where_sources_differ=Regret(1.508, 0.466, 2.575),
    ),
}
CLOSE = 0.10
"""Of two recorded sources whose perplexities differ by less than this share, the lower one did better in 53 to 61 % of the
comparisons, against 73 % above 0.4 (`by_gap` of the same command)."""
LIMITS = (
    "Where the target is already good at the task the source made no difference (Qwen2.5-7B on GSM8K and algebra, about 90 % "
    "right: 0.8 to 1.6 points between the best and the worst source).",
    "The records are LoRA runs of two 7B instruct models on 1,000 rows of English tasks, answered by strong generators or by "
    "people; other sizes, languages and base models are not in them.",
    "The measure was proposed by the authors of these records, so they are no independent test of it.",
)
