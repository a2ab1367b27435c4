"""What a trial is going to do, frozen: its name changes with what the outcome depends on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trial_folders import answer_task, plan_of

from curate import _fs
from curate.errors import IntegrityError
from curate.recipes.trial import Training
from curate.trials.plan import DONE, Plan, Run, Trial


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_of([answer_task(tmp_path_factory.mktemp("task"))], ["curated", "random", "base"], [0, 1])


RUN = Run("curated", 0, rows=8, tokens=800, truncated=0, steps=4, learning_rate=1e-3, key="k")
CHANGES: Mapping[str, Any] = {
    "recipe": {"name": "y", "trial": {}},
    "model": {"model": "m", "max_length": 9},
    "model_identity": {"weights": "v"},
    "rows": "q",
    "annotations": {"given": "given-1"},
    "training": Training(steps=5).model_dump(mode="json"),
    "tasks": [],
    "arms": ("curated", "random"),
    "seeds": (0, 1, 2),
    "threads": 2,
    "processes": 2,
    "eval_command": "run {model}",
    "packages": {"torch": "0"},
    "parts": "o",
}
OF_THE_TRIAL = {"recipe", "annotations", "arms", "seeds"}
"""What says which runs are made, and nothing of how one comes out."""


def test_every_part_of_a_plan_is_changed_below() -> None:
    assert CHANGES.keys() == Plan.__dataclass_fields__.keys()


@pytest.mark.parametrize("part", CHANGES)
def test_another_plan_is_another_trial(plan: Plan, part: str) -> None:
    assert replace(plan, **{part: CHANGES[part]}).hash != plan.hash


MOVED: Mapping[str, Any] = {
    "model": {"model": "elsewhere", "revision": "r"},
    "recipe": {"name": "x", "trial": {"tasks": ["elsewhere.yaml"]}},
}


@pytest.mark.parametrize("part", MOVED)
def test_where_model_and_tasks_lie_does_not_matter(plan: Plan, part: str) -> None:
    moved = replace(plan, **{part: MOVED[part]})
    assert (moved.hash, key(moved)) == (plan.hash, key(plan))


def test_a_task_may_move_but_not_change(plan: Plan) -> None:
    (task,) = plan.tasks
    moved = {**task, "task": {**task["task"], "data": "/elsewhere"}}
    longer = {**task, "task": {**task["task"], "max_new_tokens": 9}}
    assert replace(plan, tasks=[moved]).hash == plan.hash
    assert replace(plan, tasks=[longer]).hash != plan.hash != replace(plan, tasks=[{**task, "identity": "other"}]).hash


def test_equal_plans_are_one_trial(plan: Plan) -> None:
    assert replace(plan).hash == plan.hash
    assert len(plan.hash) == 8


def test_a_plan_is_read_as_it_was_committed(plan: Plan, tmp_path: Path) -> None:
    trial = Trial(tmp_path / "out" / "trial" / "x-1", plan, [RUN], keep_adapters=True, devices=("1",))
    trial.save()
    found = Trial.open(trial.folder)
    assert found.plan.hash == plan.hash
    assert found.plan.how == plan.how
    assert (found.runs, found.keep_adapters, found.devices, found.out) == ([RUN], True, ["1"], tmp_path / "out")


def test_a_folder_without_a_plan_is_no_trial(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"plan\.json"):
        Trial.open(tmp_path)


def key(plan: Plan, **changed: Any) -> str:
    return plan.key_of(**{"sequence": [3, 1, 2], "steps": 4, "rate": 1e-3, "seed": 0, **changed})


@pytest.mark.parametrize(
    "changed", [{"sequence": [1, 2, 3]}, {"steps": 5}, {"rate": 2e-3}, {"seed": 1}, {"is_pilot": True}, {"steps": 0}]
)
def test_a_run_that_can_come_out_otherwise_has_another_key(plan: Plan, changed: dict[str, Any]) -> None:
    assert key(plan, **changed) != key(plan) == key(plan)


@pytest.mark.parametrize("part", sorted(CHANGES.keys() - OF_THE_TRIAL - {"training"}))
@pytest.mark.parametrize("steps", [0, 4])
def test_a_run_under_other_conditions_has_another_key(plan: Plan, part: str, steps: int) -> None:
    assert key(replace(plan, **{part: CHANGES[part]}), steps=steps) != key(plan, steps=steps)


@pytest.mark.parametrize("part", sorted(OF_THE_TRIAL))
def test_a_trial_with_more_seeds_or_arms_has_the_same_runs(plan: Plan, part: str) -> None:
    assert key(replace(plan, **{part: CHANGES[part]})) == key(plan)


@pytest.mark.parametrize(
    "changed", [{"rank": 2}, {"method": "full"}, {"batch": 8}, {"schedule": "linear"}, {"precision": "float32"}]
)
def test_a_run_that_is_trained_otherwise_has_another_key(plan: Plan, changed: dict[str, Any]) -> None:
    assert key(replace(plan, training={**plan.training, **changed})) != key(plan)


@pytest.mark.parametrize("changed", [{"learning_rate": [1e-3, 2e-3]}, {"steps": None, "epochs": 2.0}])
def test_how_steps_and_rate_were_come_by_does_not_matter(plan: Plan, changed: dict[str, Any]) -> None:
    assert key(replace(plan, training={**plan.training, **changed})) == key(plan)


def test_the_untrained_model_is_one_run_but_from_scratch_one_per_seed(plan: Plan) -> None:
    assert len({key(plan, steps=0, seed=seed, rate=rate, sequence=[]) for seed in range(3) for rate in (0.0, 0.1)}) == 1
    from_scratch = replace(plan, training={**plan.training, "method": "from_scratch"})
    assert len({key(from_scratch, steps=0, seed=seed) for seed in range(3)}) == 3


def test_the_untrained_model_is_asked_once_however_others_are_trained(plan: Plan) -> None:
    assert key(replace(plan, training={**plan.training, "rank": 2, "batch": 8}), steps=0) == key(plan, steps=0)


def test_the_untrained_model_in_another_precision_is_another_run(plan: Plan) -> None:
    assert key(replace(plan, training={**plan.training, "precision": "bfloat16"}), steps=0) != key(plan, steps=0)


def test_trials_of_one_run_folder_share_their_runs(plan: Plan, tmp_path: Path) -> None:
    one, other = (Trial(tmp_path / "out" / "trial" / name, plan, [RUN]) for name in ("x-1", "y-2"))
    assert one.path(RUN) == other.path(RUN) == tmp_path / "out" / "trial" / "runs" / "k"


def test_what_is_done_is_not_made_again_and_one_key_is_made_once(plan: Plan, tmp_path: Path) -> None:
    twin, other = replace(RUN, arm="longest"), replace(RUN, seed=1, key="l")
    trial = Trial(tmp_path / "x", plan, [other, RUN, twin])
    assert {run.key for run in trial.unfinished()} == {RUN.key, other.key}
    assert len(trial.unfinished()) == 2
    trial.path(other).mkdir(parents=True)
    _fs.commit_json(trial.path(other) / DONE, {"key": other.key})
    assert [run.key for run in trial.unfinished()] == [RUN.key]


def test_runs_are_made_in_the_order_given(plan: Plan, tmp_path: Path) -> None:
    runs = [replace(RUN, key=key) for key in "cab"]
    assert Trial(tmp_path / "x", plan, runs).unfinished() == runs


def test_a_long_training_is_keyed_by_a_digest_and_a_short_one_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of([answer_task(tmp_path, 4)], ["curated"], [0])

    def key(rows: list[int]) -> str:
        return plan.key_of(rows, steps=4, rate=1e-3, seed=0)

    short = key([1, 2, 3])
    assert short == plan.key_of(np.array([1, 2, 3]), steps=4, rate=1e-3, seed=0)
    monkeypatch.setattr("curate.trials.plan.MOST_LISTED", 2)
    assert len({short, key([1, 2, 3]), key([1, 3, 2])}) == 3
