"""What a trial is going to do, frozen: its name changes with what the outcome depends on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trial_folders import answer_task, plan_of

from curate import _fs
from curate.errors import IntegrityError
from curate.recipes.trial import Training
from curate.trials.plan import DONE, Plan, Run, Trial


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_of([answer_task(tmp_path_factory.mktemp("task"))], ["curated", "random", "base"], [0, 1])


RUN = Run("curated", 0, 8, 800, 0, 4, 1e-3, "s")
CHANGES: Mapping[str, Any] = {
    "recipe": {"name": "y"},
    "model": {"model": "n"},
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
}


def test_every_part_of_a_plan_is_changed_below() -> None:
    assert CHANGES.keys() == Plan.__dataclass_fields__.keys()


@pytest.mark.parametrize("part", CHANGES)
def test_another_plan_is_another_trial(plan: Plan, part: str) -> None:
    assert replace(plan, **{part: CHANGES[part]}).hash != plan.hash


def test_equal_plans_are_one_trial(plan: Plan) -> None:
    assert replace(plan).hash == plan.hash
    assert len(plan.hash) == 8


def test_a_plan_is_read_as_it_was_committed(plan: Plan, tmp_path: Path) -> None:
    trial = Trial(tmp_path / "out" / "trial" / "x-1", plan, [RUN], keep_adapters=True)
    trial.save()
    found = Trial.open(trial.folder)
    assert found.plan.hash == plan.hash
    assert found.plan.how == plan.how
    assert (found.runs, found.keep_adapters, found.out) == ([RUN], True, tmp_path / "out")


def test_a_folder_without_a_plan_is_no_trial(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"plan\.json"):
        Trial.open(tmp_path)


@pytest.mark.parametrize("changed", [{"sequence": "t"}, {"steps": 5}, {"learning_rate": 2e-3}, {"seed": 1}, {"is_pilot": True}])
def test_a_run_that_can_come_out_otherwise_has_another_key(changed: dict[str, Any]) -> None:
    assert replace(RUN, **changed).key != RUN.key


def test_arms_with_the_same_rows_share_a_run() -> None:
    assert replace(RUN, arm="longest", tokens=1).key == RUN.key


def test_the_untrained_model_is_one_run() -> None:
    assert {replace(RUN, arm="base", steps=0, seed=seed, sequence=str(seed)).folder for seed in range(3)} == {"base"}


@pytest.mark.parametrize("arm", ["source:a/../b c", "source:" + "x" * 300, "rate:0.0002", "ordered@0.1", "source:é\n"])
def test_a_runs_folder_is_a_plain_name(arm: str) -> None:
    name = replace(RUN, arm=arm).folder
    assert "/" not in name
    assert name.isascii()
    assert name.isprintable()
    assert len(name) < 64


def test_what_is_done_is_not_made_again_and_one_key_is_made_once(plan: Plan, tmp_path: Path) -> None:
    twin, other = replace(RUN, arm="longest"), replace(RUN, seed=1)
    trial = Trial(tmp_path / "x", plan, [other, RUN, twin])
    assert {run.key for run in trial.unfinished()} == {RUN.key, other.key}
    assert len(trial.unfinished()) == 2
    trial.path(other).mkdir(parents=True)
    _fs.commit_json(trial.path(other) / DONE, {"key": other.key})
    assert [run.key for run in trial.unfinished()] == [RUN.key]


def test_runs_are_made_in_the_order_given(plan: Plan, tmp_path: Path) -> None:
    runs = [replace(RUN, seed=seed) for seed in (3, 1, 2)]
    assert Trial(tmp_path / "x", plan, runs).unfinished() == runs
