"""The proof: arms trained the same way on different rows, asked the same questions, and a verdict with its interval.

prepare -> quote_trial (what it costs, what it can see) -> run_trial (resumable) -> TrialResult
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.trials.cost import Cost, parse_duration, quote_trial, within_budget
    from curate.trials.judging import TrialReport
    from curate.trials.picture import check_format, draw
    from curate.trials.preparation import Preparation, Request, prepare
    from curate.trials.trial import TrialResult, finished_trials, judge_again, run_trial

# Looked up when first used: a worker needs no judging, and the command line no arms.
_HOMES = {
    "Cost": "cost",
    "parse_duration": "cost",
    "quote_trial": "cost",
    "within_budget": "cost",
    "TrialReport": "judging",
    "check_format": "picture",
    "draw": "picture",
    "Preparation": "preparation",
    "Request": "preparation",
    "prepare": "preparation",
    "TrialResult": "trial",
    "finished_trials": "trial",
    "judge_again": "trial",
    "run_trial": "trial",
}

__all__ = [
    "Cost",
    "Preparation",
    "Request",
    "TrialReport",
    "TrialResult",
    "check_format",
    "draw",
    "finished_trials",
    "judge_again",
    "parse_duration",
    "prepare",
    "quote_trial",
    "run_trial",
    "within_budget",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'curate.trials' has no attribute {name!r}")
    return getattr(import_module(f"curate.trials.{_HOMES[name]}"), name)
