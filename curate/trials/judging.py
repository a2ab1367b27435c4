"""From stored answers to scores, contrasts and the verdict. Needs no model: a finished trial can be judged again in seconds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from curate import _fs, progress
from curate.errors import IntegrityError, UsageError
from curate.selection.frame import Floats
from curate.trials.arms import BASE, CURATED, share_of
from curate.trials.evaluation import COMMAND_TASK, load_choices, load_generations
from curate.trials.history import judged_before, remember
from curate.trials.plan import RESULT, Run, Trial
from curate.trials.power import power_facts
from curate.trials.statistics import Contrast, contrast
from curate.trials.tasks import Items, Outcome, Task, aggregate, score, score_choices
from curate.trials.verdict import TRIED, Verdict, combine, judge, judge_others

REPORT = "trial.json"
TOLD = ("recipe", "model", "protocol", "learning_rate", "power_stated", "overlaps", "limits", "notices")
"""Facts that stand in the report under their own names."""


@dataclass(frozen=True)
class Scores:
    """One arm's scores on one task: (S, I) each, and what went wrong in reading."""

    strict: Floats
    lenient: Floats
    unread: Sequence[float]
    """Share of items without a readable answer, by seed."""
    cut_off: Sequence[float]
    aggregates: Sequence[Mapping[str, float]]
    items: Sequence[str] = ()
    """Names of the items, where a command of the user's named them."""


@dataclass(frozen=True)
class TrialReport:
    """What a trial found, as plain data: what `trial.json` holds, and what tables, pictures and cards are made of."""

    data: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "TrialReport":
        """The report of a finished trial. Raises IntegrityError where there is none."""
        return cls(_fs.read_json(folder / REPORT, "verdict", "contrasts", "scores"))

    def save(self, folder: Path) -> None:
        """Write `trial.json`."""
        _fs.commit_json(folder / REPORT, dict(self.data))

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return str(self.data["verdict"]["word"])

    @property
    def sentence(self) -> str:
        """The verdict for a data card."""
        return str(self.data["verdict"]["sentence"])


class Judging:
    """The scores of all arms on all tasks, each computed once."""

    def __init__(self, trial: Trial, tasks: Sequence[tuple[Task, Items]]) -> None:
        self.trial, self.tasks = trial, tasks
        self._scores: dict[tuple[str, str], Scores] = {}

    def runs(self, arm: str) -> list[Run]:
        """The runs of an arm, by seed."""
        return sorted((run for run in self.trial.runs if run.arm == arm and not run.is_pilot), key=lambda run: run.seed)

    @cached_property
    def arms(self) -> list[str]:
        """Arms with runs, in the plan's order."""
        return [arm for arm in self.trial.plan.arms if self.runs(arm)]

    @cached_property
    def task_names(self) -> list[str]:
        """Tasks, the primary one first."""
        return [task.name for task, _ in self.tasks] + ([COMMAND_TASK] if self.trial.plan.eval_command else [])

    def scores(self, arm: str, task: str) -> Scores:
        """Scores of an arm, or of a group of arms (`ordered`): then the mean over its shares."""
        if (arm, task) not in self._scores:
            members = [name for name in self.arms if (share_of(name) or ("",))[0] == arm]
            is_group = arm not in self.arms
            self._scores[arm, task] = (
                _mean_of([self.scores(name, task) for name in members]) if is_group else self._of_arm(arm, task)
            )
        return self._scores[arm, task]

    def _of_arm(self, arm: str, task: str) -> Scores:
        if task == COMMAND_TASK:
            return _of_command([_fs.read_json(self.trial.path(run) / RESULT)["eval_command"] for run in self.runs(arm)])
        definition, items = next(pair for pair in self.tasks if pair[0].name == task)
        found = [self._outcomes(run, definition, items) for run in self.runs(arm)]
        return Scores(
            strict=np.array([[one.strict for one in outcomes] for outcomes, _, _ in found]),
            lenient=np.array([[one.lenient for one in outcomes] for outcomes, _, _ in found]),
            unread=[1 - sum(one.is_read for one in outcomes) / len(outcomes) for outcomes, _, _ in found],
            cut_off=[cut for _, cut, _ in found],
            aggregates=[whole for _, _, whole in found],
        )

    def _outcomes(self, run: Run, task: Task, items: Items) -> tuple[list[Outcome], float, Mapping[str, float]]:
        path = self.trial.path(run) / f"task-{task.name}.parquet"
        progress.tick(rows=len(items))
        if task.kind == "choice":
            return score_choices(task, items, load_choices(path, items)), 0.0, {}
        answers = load_generations(path, items)
        cut = sum(answer.is_cut_off for answer in answers) / len(answers)
        return score(task, items, answers), cut, aggregate(task, items, answers)

    def contrast(self, treated: str, control: str, task: str, *, reading: str = "strict") -> Contrast:
        """Treated less control."""
        one, other = self.scores(treated, task), self.scores(control, task)
        if one.items != other.items:
            raise _other_items(one.items, other.items)
        first, second = (getattr(scores, reading) for scores in (one, other))
        return contrast(first, second, control_is_fixed=control == BASE)


def _mean_of(found: Sequence[Scores]) -> Scores:
    """The mean over the shares of a learning curve, item by item."""
    return Scores(
        strict=np.mean([one.strict for one in found], axis=0),
        lenient=np.mean([one.lenient for one in found], axis=0),
        unread=np.mean([one.unread for one in found], axis=0).tolist(),
        cut_off=np.mean([one.cut_off for one in found], axis=0).tolist(),
        aggregates=[],
        items=found[0].items,
    )


def _of_command(found: Sequence[Mapping[str, float]]) -> Scores:
    names = sorted(found[0])
    if len(names) < 2:
        raise UsageError(f"--eval-command: wrote {len(names)} item; an interval over items needs at least 2")
    for other in found[1:]:
        if sorted(other) != names:
            raise _other_items(names, sorted(other))
    values = np.array([[results[name] for name in names] for results in found])
    return Scores(values, values, [0.0] * len(found), [0.0] * len(found), [], names)


def _other_items(names: Sequence[str], others: Sequence[str]) -> IntegrityError:
    missing = sorted(set(names) ^ set(others))[0]
    return IntegrityError(f"--eval-command: item {missing!r} is not in the results of every run; all must ask the same")


def judge_trial(trial: Trial, tasks: Sequence[tuple[Task, Items]], facts: Mapping[str, Any]) -> TrialReport:
    """Score every stored answer and state the verdict. `facts` are what the trial knows beside the answers.

    The test set's history is asked before and told after, so a trial does not count itself.
    """
    judging = Judging(trial, tasks)
    items = sum(len(items) for _, items in tasks)
    with progress.measuring("judging answers", items * sum(len(judging.runs(arm)) for arm in judging.arms)):
        return _report(judging, facts)


def _report(judging: Judging, facts: Mapping[str, Any]) -> TrialReport:
    trial, task = judging.trial, judging.task_names[0]
    treated, control = facts["primary"]
    has_base = BASE in judging.arms
    verdicts: dict[str, Verdict] = {}
    for reading in ("strict", "lenient"):
        verdicts[reading] = judge(
            judging.contrast(treated, control, task, reading=reading),
            treated=treated,
            control=control,
            task=task,
            margin=facts["margin"],
            trained=judging.contrast(control, BASE, task, reading=reading) if has_base else None,
            treated_trained=judging.contrast(treated, BASE, task, reading=reading) if has_base else None,
            tried=TRIED[facts["protocol"]],
        )
    verdict = combine(verdicts["strict"], verdicts["lenient"])
    primary = judging.contrast(treated, control, task)
    others = _others(judging, facts, task)
    adjusted = judge_others({name: found for name, (_, found) in others.items()})
    contrasts = [_entry("primary", treated, control, task, primary, verdict.word, primary.p_value)]
    contrasts += [
        _entry(kind, *_names(name), found, adjusted[name].word, adjusted[name].p_value) for name, (kind, found) in others.items()
    ]
    forgot = [
        f"forgetting: `{treated}` is {-100 * entry['difference']:.1f} points below the untrained model on {entry['task']}"
        for entry in contrasts
        if entry["kind"] == "guard" and entry["word"] == "hurt"
    ]
    test_set = trial.plan.tasks[0]["identity"]
    before = judged_before(test_set, trial.plan.hash)
    remember(
        test_set,
        trial.plan.hash,
        {
            "recipe": facts["recipe"],
            "word": verdict.word,
            "conditions": trial.plan.conditions,
            "components": asdict(primary.components),
            "accuracy": float(judging.scores(control, task).strict.mean()),
        },
    )
    return TrialReport(
        {
            "format": _fs.FORMAT,
            "trial": trial.plan.hash,
            "facts": dict(facts),
            **{name: facts[name] for name in TOLD},
            "verdict": {
                "word": verdict.word,
                "sentence": verdict.sentence,
                "reasons": [*verdict.reasons, *forgot, *_many(before)],
                "strict": asdict(verdicts["strict"]),
                "lenient": asdict(verdicts["lenient"]),
            },
            "primary": {"treated": treated, "control": control, "task": task},
            "contrasts": contrasts,
            "steps": _credits(judging, facts, contrasts),
            "arms": [_arm(judging, arm) for arm in judging.arms],
            "scores": [_scores(judging, arm, name) for arm in judging.arms for name in judging.task_names],
            "curves": [] if facts["protocol"] == "single" else _curves(judging, task),
            "power": power_facts(
                primary.components, seeds=len(trial.plan.seeds), items=primary.items, source="the variances of this trial"
            ),
            "judged_before": before,
            "plan": asdict(trial.plan),
        }
    )


def _many(before: int) -> Iterator[str]:
    if before:
        plural = "s" if before > 1 else ""
        yield f"this test set has judged {before} other trial{plural} here: the more it judges, the less it proves"


def _others(judging: Judging, facts: Mapping[str, Any], task: str) -> dict[str, tuple[str, Contrast]]:
    """All contrasts but the primary one, by treated, control and task: one family for the adjustment."""
    treated, control = facts["primary"]
    found: dict[str, tuple[str, Contrast]] = {}

    def add(kind: str, one: str, other: str, name: str) -> None:
        key = "\0".join((one, other, name))
        if one != other and key not in found and (one, other, name) != (treated, control, task):
            found[key] = (kind, judging.contrast(one, other, name))

    for step in facts["steps_between"]:
        add("step", step["treated"], step["control"], task)
    for arm in judging.arms:
        if arm == BASE or facts["protocol"] == "progressive":
            continue
        if facts["protocol"] == "mix":
            add("arm", arm, control, task)
        else:
            add("arm", CURATED, arm, task)
    for name in judging.task_names[1:]:
        add("task", treated, control, name)
    if BASE in judging.arms:
        add("trained", control, BASE, task)
        add("trained", treated, BASE, task)
        for name in judging.task_names[1:]:
            add("guard", treated, BASE, name)
    return found


def _names(key: str) -> tuple[str, str, str]:
    one, other, task = key.split("\0")
    return one, other, task


def _entry(kind: str, treated: str, control: str, task: str, found: Contrast, word: str, adjusted: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "treated": treated,
        "control": control,
        "task": task,
        "word": word,
        "adjusted_p_value": adjusted,
        **found.as_data(),
    }


def _credits(judging: Judging, facts: Mapping[str, Any], contrasts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each step of the recipe is credited with; the last one's contrast is the primary one where its control is."""
    found = []
    for step in facts["steps_between"]:
        same = [c for c in contrasts if (c["treated"], c["control"]) == (step["treated"], step["control"])]
        entry = next(c for c in same if c["task"] == judging.task_names[0])
        found.append(
            {**step, "word": entry["word"], "difference": entry["difference"], "low": entry["low"], "high": entry["high"]}
        )
    return found


def _arm(judging: Judging, arm: str) -> dict[str, Any]:
    """What an arm was trained on, and its diagnostics."""
    runs = judging.runs(arm)
    results = [_fs.read_json(judging.trial.path(run) / RESULT) for run in runs]
    first = runs[0]
    return {
        "arm": arm,
        "seeds": [run.seed for run in runs],
        "rows": first.rows,
        "steps": first.steps,
        "tokens": [run.tokens for run in runs],
        "truncated": [run.truncated for run in runs],
        "train_seconds": [result["train_seconds"] for result in results],
        "held_out_nll": {
            name: [_mean_nll(result["held_out"].get(name)) for result in results] for name in sorted(results[0]["held_out"])
        },
        "loss": [result["loss"] for result in results],
    }


def _mean_nll(found: Mapping[str, Any] | None) -> float | None:
    return found["nll_sum"] / found["tokens"] if found and found["tokens"] else None


def _scores(judging: Judging, arm: str, task: str) -> dict[str, Any]:
    """An arm's scores on a task, by seed."""
    found = judging.scores(arm, task)
    names = sorted({name for whole in found.aggregates for name in whole})
    return {
        "arm": arm,
        "task": task,
        "strict": found.strict.mean(axis=1).tolist(),
        "lenient": found.lenient.mean(axis=1).tolist(),
        "unread": list(found.unread),
        "cut_off": list(found.cut_off),
        "aggregates": {name: [whole.get(name) for whole in found.aggregates] for name in names},
    }


def _curves(judging: Judging, task: str) -> list[dict[str, Any]]:
    """Score by share, for the protocols that have shares."""
    found = []
    for arm in judging.arms:
        point = share_of(arm)
        if point is not None:
            by_seed = judging.scores(arm, task).strict.mean(axis=1).tolist()
            found.append({"curve": point[0], "share": point[1], "by_seed": by_seed})
    return found
