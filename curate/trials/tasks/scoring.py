"""From what a model wrote, or how likely it finds each option, to verdicts and measures."""

from collections.abc import Sequence
from dataclasses import replace

from curate.errors import UsageError
from curate.trials.tasks.base import Generation, Item, Outcome, Task
from curate.trials.tasks.choice import ChoiceTask
from curate.trials.tasks.readings import cut_at


def score(task: Task, items: Sequence[Item], generations: Sequence[Generation]) -> list[Outcome]:
    """One verdict per item, in order; each text counts up to the task's first stop."""
    if isinstance(task, ChoiceTask):
        raise UsageError(f"task {task.name}: of kind choice; nothing is generated for it: score its options")
    outcomes = task.score(items, _texts(task, generations))
    return [
        replace(outcome, detail="; ".join(filter(None, (outcome.detail, f"cut off after {generation.tokens} tokens"))))
        if generation.is_cut_off
        else outcome
        for outcome, generation in zip(outcomes, generations, strict=True)
    ]


def score_choices(task: Task, items: Sequence[Item], likelihoods: Sequence[Sequence[tuple[float, int]]]) -> list[Outcome]:
    """One verdict per item of a choice task.

    Args:
        likelihoods: for every option of each item, in order, the sum of its log-likelihoods in nats and its characters.
    """
    if not isinstance(task, ChoiceTask):
        raise UsageError(f"task {task.name}: of kind {task.kind}; only a choice task has options")
    return task.score_choices(items, likelihoods)


def aggregate(task: Task, items: Sequence[Item], generations: Sequence[Generation]) -> dict[str, float]:
    """Measures over all items that are no mean of their scores: corpus BLEU and chrF (0 to 100), SQuAD's EM and F1 (0 to 1)."""
    return task.aggregate(items, _texts(task, generations))


def check_machine(task: Task) -> None:
    """Raise, before anything starts, where this machine cannot score the task: SandboxError for code without a sandbox."""
    task.check_machine()


def _texts(task: Task, generations: Sequence[Generation]) -> list[str]:
    return [cut_at(generation.text, task.stop) for generation in generations]
