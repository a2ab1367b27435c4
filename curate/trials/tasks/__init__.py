"""Held-out tasks of a trial: reading task files and their items, and scoring what a model answers. No model is run here."""

from curate.trials.tasks.answer import AnswerTask
from curate.trials.tasks.base import Generation, Item, Outcome, Task
from curate.trials.tasks.choice import ChoiceTask
from curate.trials.tasks.items import Items, identity_of, load_items
from curate.trials.tasks.loading import KINDS, load_task, sample_task
from curate.trials.tasks.programs import CodeTask
from curate.trials.tasks.scoring import aggregate, check_machine, score, score_choices
from curate.trials.tasks.squad import SquadTask
from curate.trials.tasks.translation import TranslationTask

__all__ = [
    "KINDS",
    "AnswerTask",
    "ChoiceTask",
    "CodeTask",
    "Generation",
    "Item",
    "Items",
    "Outcome",
    "SquadTask",
    "Task",
    "TranslationTask",
    "aggregate",
    "check_machine",
    "identity_of",
    "load_items",
    "load_task",
    "sample_task",
    "score",
    "score_choices",
]
