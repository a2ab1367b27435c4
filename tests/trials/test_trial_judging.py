"""From answers written by hand to means, contrasts and the verdict."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from trial_folders import (
    LENIENT,
    NONE,
    STRICT,
    WRONG,
    answer_task,
    answered_trial,
    facts_of,
    plan_of,
    runs_of,
    save_answers,
)

from curate.errors import CurateError, IntegrityError, UsageError
from curate.trials import TrialResult, judge_again
from curate.trials.history import history_path, judged_before, remember
from curate.trials.judging import TrialReport, judge_trial
from curate.trials.plan import RESULT, Trial
from curate.trials.power import power_before, power_facts, power_sentence
from curate.trials.statistics import Components


@pytest.fixture(autouse=True)
def _own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # many small files, and no power is lost here


HELPED = {"curated": [15, 16, 15], "random": [5, 6, 5], "base": [0]}


def judged(
    folder: Path, right: Mapping[str, list[int]] = HELPED, *, items: int = 20, more: Mapping[str, Any] | None = None, **facts: Any
) -> Mapping[str, Any]:
    """The report on a trial where each seed of an arm answers that many of the items."""
    tasks = [answer_task(folder, items)]
    return judge_trial(answered_trial(folder / "out", tasks, right, **(more or {})), tasks, facts_of(**facts)).data


def entry(report: Mapping[str, Any], kind: str, treated: str | None = None, **wanted: Any) -> Mapping[str, Any]:
    """The one contrast of this kind."""
    wanted |= {"kind": kind} | ({"treated": treated} if treated else {})
    (found,) = (one for one in report["contrasts"] if all(one[name] == value for name, value in wanted.items()))
    return dict(found)


def test_scores_are_the_shares_of_right_answers_by_seed(tmp_path: Path) -> None:
    report = judged(tmp_path)
    found = {score["arm"]: score["strict"] for score in report["scores"]}
    assert found == {arm: pytest.approx([few / 20 for few in seeds]) for arm, seeds in HELPED.items()}
    assert [score["lenient"] for score in report["scores"]] == [score["strict"] for score in report["scores"]]


def test_an_arm_that_answers_much_more_helped(tmp_path: Path) -> None:
    report = TrialReport(judged(tmp_path))
    assert report.word == "helped"
    assert report.sentence.startswith("`curated` scored 50.0 points higher than `random` on sums")
    assert report.data["primary"] == {"treated": "curated", "control": "random", "task": "sums"}


@pytest.mark.parametrize(
    ("curated", "random", "base", "word"),
    [
        ([5, 6, 5], [15, 16, 15], 0, "hurt"),
        ([14, 13, 15], [15, 13, 14], 0, "cannot tell"),
        ([10, 10, 10], [10, 10, 10], 0, "no worse"),
        ([10, 10, 10], [10, 10, 10], 10, "not trained enough to judge"),
    ],
)
def test_the_word_follows_from_the_answers(tmp_path: Path, curated: list[int], random: list[int], base: int, word: str) -> None:
    assert judged(tmp_path, {"curated": curated, "random": random, "base": [base]})["verdict"]["word"] == word


def test_answers_that_only_a_person_would_read_count_leniently_alone(tmp_path: Path) -> None:
    report = judged(tmp_path, more={"wording": LENIENT})
    curated = report["scores"][0]
    assert curated["strict"] == [0] * 3
    assert curated["lenient"] == pytest.approx([few / 20 for few in HELPED["curated"]])
    assert report["verdict"]["word"] == "cannot tell"
    assert any(reason.startswith("format effect") for reason in report["verdict"]["reasons"])


def test_answers_that_cannot_be_read_and_were_cut_off_are_counted(tmp_path: Path) -> None:
    from curate.trials.evaluation import save_generations
    from curate.trials.tasks import Generation

    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, HELPED)
    task, items = tasks[0]
    written = {item.index: Generation(NONE if item.index < 10 else WRONG, 5, item.index < 4) for item in items}
    save_generations(trial.path(trial.runs[0]) / f"task-{task.name}.parquet", items, written)
    score = judge_trial(trial, tasks, facts_of()).data["scores"][0]
    assert score["unread"] == pytest.approx([0.5, 0, 0])
    assert score["cut_off"] == pytest.approx([0.2, 0, 0])


STEPS = [
    {"treated": "random-clean", "control": "random", "steps": ["drop a"]},
    {"treated": "curated", "control": "random-clean", "steps": ["keep b"]},
]
CREDITED = {**HELPED, "random-clean": [15, 15, 16]}


def test_every_step_is_credited_with_the_difference_that_it_makes(tmp_path: Path) -> None:
    report = judged(tmp_path, CREDITED, primary=("curated", "random-clean"), steps_between=STEPS)
    cleaning, choosing = report["steps"]
    assert (cleaning["steps"], cleaning["word"]) == (["drop a"], "helped")
    assert cleaning["difference"] == pytest.approx(0.5)
    assert choosing["word"] in ("no worse", "cannot tell")
    assert choosing["difference"] == pytest.approx(0)
    assert choosing["low"] < 0 < choosing["high"]


def test_a_contrast_stands_in_the_report_once(tmp_path: Path) -> None:
    report = judged(tmp_path, CREDITED, primary=("curated", "random-clean"), steps_between=STEPS)
    names = [(one["treated"], one["control"], one["task"]) for one in report["contrasts"]]
    assert len(set(names)) == len(names)
    assert report["contrasts"][0]["kind"] == "primary"
    assert set(names) == {
        ("curated", "random-clean", "sums"),
        ("random-clean", "random", "sums"),
        ("curated", "random", "sums"),
        ("random-clean", "base", "sums"),
        ("curated", "base", "sums"),
    }


def test_words_of_other_contrasts_are_adjusted_for_their_number(tmp_path: Path) -> None:
    report = judged(tmp_path, CREDITED, primary=("curated", "random-clean"), steps_between=STEPS)
    assert report["contrasts"][0]["adjusted_p_value"] == report["contrasts"][0]["p_value"]
    others = report["contrasts"][1:]
    assert all(one["adjusted_p_value"] >= one["p_value"] for one in others)
    assert any(one["adjusted_p_value"] > one["p_value"] for one in others if one["p_value"] > 0)


def test_other_tasks_are_judged_and_forgetting_is_told(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20), answer_task(tmp_path, 20, "other")]
    trial = answered_trial(tmp_path / "out", tasks, HELPED)
    task, items = tasks[1]
    for run in trial.runs:  # the untrained model knows what the trained ones have forgotten
        few = {"base": 19, "random": 10, "curated": 4}[run.arm] + run.seed % 2
        save_answers(trial, run, task, items, lambda item, few=few: STRICT if item < few else WRONG)  # type: ignore[misc]
    report = judge_trial(trial, tasks, facts_of()).data
    assert report["verdict"]["word"] == "helped"
    assert entry(report, "task", task="other")["word"] == "hurt"
    assert entry(report, "guard", task="other")["word"] == "hurt"
    assert any(
        reason.startswith("forgetting: `curated` is 73.3 points below the untrained model on other")
        for reason in report["verdict"]["reasons"]
    )


def test_overlaps_and_limits_are_passed_on(tmp_path: Path) -> None:
    overlaps = [{"task": "sums", "items": 40, "found": 1, "share": 0.025, "examples": []}]
    report = judged(tmp_path, overlaps=overlaps, limits=["a limit"], notices=["a notice"])
    assert (report["overlaps"], report["limits"], report["notices"]) == (overlaps, ["a limit"], ["a notice"])


def test_an_arms_diagnostics_are_told(tmp_path: Path) -> None:
    curated, _, base = judged(tmp_path)["arms"]
    assert (curated["arm"], curated["seeds"], curated["rows"], curated["steps"]) == ("curated", [0, 1, 2], 8, 4)
    assert curated["tokens"] == [800] * 3
    assert curated["held_out_nll"] == {"validation": [2.0] * 3}
    assert base["seeds"] == [0]


def test_scores_of_the_users_own_command_are_another_task(tmp_path: Path) -> None:
    command = {"curated": {"a": 1.0, "b": 0.5}, "random": {"b": 0.25, "a": 0.75}, "base": {"a": 0.0, "b": 0.0}}
    report = judged(tmp_path, more={"command": command})
    means = {score["arm"]: score["strict"][0] for score in report["scores"] if score["task"] == "eval-command"}
    assert means == {"curated": 0.75, "random": 0.5, "base": 0.0}
    assert entry(report, "task", task="eval-command")["difference"] == pytest.approx(0.25)


def test_a_command_that_asked_other_items_is_an_error_that_names_one(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, HELPED, command={arm: {"a": 1.0, "b": 0.0} for arm in HELPED})
    path = trial.path(trial.runs[1]) / RESULT
    path.write_text(path.read_text().replace('"b"', '"c"'))
    with pytest.raises(IntegrityError, match="item 'b' is not in the results of every run"):
        judge_trial(trial, tasks, facts_of())


def test_a_command_that_asked_other_items_of_another_arm_is_an_error(tmp_path: Path) -> None:
    command = {"curated": {"a": 1.0, "b": 1.0}, "random": {"a": 0.0, "c": 0.0}, "base": {"a": 0.0, "b": 0.0}}
    with pytest.raises(IntegrityError, match="is not in the results of every run"):
        judged(tmp_path, more={"command": command})


def test_answers_that_are_missing_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, HELPED)
    path = trial.path(trial.runs[3]) / "task-sums.parquet"
    path.unlink()
    with pytest.raises(IntegrityError, match=str(path)):
        judge_trial(trial, tasks, facts_of())


def test_a_task_that_has_other_items_now_is_an_error(tmp_path: Path) -> None:
    trial = answered_trial(tmp_path / "out", [answer_task(tmp_path, 20)], HELPED)
    with pytest.raises(UsageError, match="answers other items than the task has now; run the trial again"):
        judge_trial(trial, [answer_task(tmp_path, 21)], facts_of())


def test_runs_that_chose_the_rate_are_not_judged(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, HELPED)
    pilot = replace(trial.runs[0], arm="curated", seed=9, key="pilot", is_pilot=True)
    report = judge_trial(replace(trial, runs=[*trial.runs, pilot]), tasks, facts_of()).data
    assert report["arms"][0]["seeds"] == [0, 1, 2]


CURVE = {
    "ordered@0.5": [10, 11, 10],
    "shuffled@0.5": [2, 3, 2],
    "ordered@1": [15, 16, 15],
    "shuffled@1": [15, 15, 16],
    "base": [0],
}


def test_of_a_progressive_trial_the_mean_over_shares_is_judged(tmp_path: Path) -> None:
    report = judged(tmp_path, CURVE, protocol="progressive", primary=("ordered", "shuffled"))
    assert report["contrasts"][0]["difference"] == pytest.approx((10 + 11 + 10 - 2 - 3 - 2) / 20 / 3 / 2)
    assert report["verdict"]["word"] == "helped"
    assert {one["kind"] for one in report["contrasts"]} == {"primary", "trained"}


def test_a_progressive_trial_has_a_curve_per_order(tmp_path: Path) -> None:
    report = judged(tmp_path, CURVE, protocol="progressive", primary=("ordered", "shuffled"))
    found = {(point["curve"], point["share"]): point["by_seed"] for point in report["curves"]}
    assert found == {
        (arm.partition("@")[0], float(arm.partition("@")[2])): pytest.approx([few / 20 for few in seeds])
        for arm, seeds in CURVE.items()
        if arm != "base"
    }


def test_a_mix_is_judged_by_its_ends_and_every_share_stands_beside(tmp_path: Path) -> None:
    right = {"synthetic@0": [15, 16, 15], "synthetic@0.5": [10, 11, 10], "synthetic@1": [5, 6, 5], "base": [0]}
    report = judged(tmp_path, right, protocol="mix", primary=("synthetic@1", "synthetic@0"))
    assert report["verdict"]["word"] == "hurt"
    assert entry(report, "arm")["treated"] == "synthetic@0.5"
    assert [point["share"] for point in report["curves"]] == [0.0, 0.5, 1.0]


def test_without_base_training_cannot_be_vouched_for(tmp_path: Path) -> None:
    report = judged(tmp_path, {"curated": [10, 10, 10], "random": [10, 10, 10]})
    assert report["verdict"]["word"] == "no worse"
    assert any("untrained model was not run" in reason for reason in report["verdict"]["reasons"])


def test_a_trial_that_is_judged_twice_is_one_trial_in_the_history(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, HELPED)
    first, second = (judge_trial(trial, tasks, facts_of()).data for _ in range(2))
    assert first == second
    assert first["judged_before"] == 0
    assert len(history_path().read_text().splitlines()) == 1
    assert judged_before(tasks[0][1].identity, "another") == 1


def test_a_test_set_that_judged_before_is_told(tmp_path: Path) -> None:
    judged(tmp_path)
    report = judged(tmp_path, more={"rows": "others"})
    assert report["judged_before"] == 1
    assert any("has judged 1 other trial here" in reason for reason in report["verdict"]["reasons"])


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = TrialReport(judged(tmp_path))
    report.save(tmp_path)
    assert TrialReport.load(tmp_path).word == "helped"
    assert TrialReport.load(tmp_path).data["scores"] == report.data["scores"]
    with pytest.raises(IntegrityError):
        TrialReport.load(tmp_path / "nowhere")


def test_stored_answers_are_judged_again_by_the_same_facts(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, HELPED)
    first = judge_trial(trial, tasks, facts_of(limits=["a limit"]))
    first.save(trial.folder)
    again = judge_again(tmp_path / "out")
    assert again.folder == trial.folder
    assert again.report.data["verdict"] == {**first.data["verdict"]}
    assert again.report.data["limits"] == ["a limit"]
    assert again.report.data["contrasts"] == first.data["contrasts"]


def test_a_folder_without_a_finished_trial_cannot_be_judged_again(tmp_path: Path) -> None:
    answered_trial(tmp_path / "out", [answer_task(tmp_path, 4)], {"curated": [1, 1], "random": [1, 1]})
    with pytest.raises(UsageError, match="holds no finished trial; run `curate trial"):
        judge_again(tmp_path / "out")
    with pytest.raises(UsageError, match="holds no finished trial of y"):
        judge_again(tmp_path / "out", "y")


def test_the_file_of_a_recipe_names_its_trial(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, HELPED)
    judge_trial(trial, tasks, facts_of()).save(trial.folder)
    (tmp_path / "mine.yaml").write_text("name: x\nfilters: {length: {}}\nsteps: [{drop: {field: length.characters, above: 9}}]\n")
    assert judge_again(tmp_path / "out", str(tmp_path / "mine.yaml")).folder == trial.folder
    (tmp_path / "other.yaml").write_text((tmp_path / "mine.yaml").read_text().replace("name: x", "name: y"))
    with pytest.raises(UsageError, match="holds no finished trial of y"):
        judge_again(tmp_path / "out", str(tmp_path / "other.yaml"))


def test_without_a_protocol_of_shares_there_is_no_curve(tmp_path: Path) -> None:
    arms = {**HELPED, "shuffled@1": [5, 6, 5]}
    assert judged(tmp_path, arms)["curves"] == []
    assert len(judged(tmp_path, arms, protocol="progressive")["curves"]) == 1


@pytest.mark.parametrize(("protocol", "tried"), [("single", "the filter"), ("mix", "the larger share of synthetic rows")])
def test_what_helped_is_what_the_protocol_varies(tmp_path: Path, protocol: str, tried: str) -> None:
    sentence = judged(tmp_path, protocol=protocol)["verdict"]["sentence"]
    assert sentence.endswith(f"{tried} helped.")


@pytest.mark.parametrize(
    ("word", "wanted", "passes"),
    [
        ("helped", "helped", True),
        ("helped", "no-worse", True),
        ("no worse", "no-worse", True),
        ("no worse", "helped", False),
        ("hurt", "no-worse", False),
        ("cannot tell", "no-worse", False),
        ("hurt", None, True),
    ],
)
def test_a_gate_passes_what_is_as_good_as_required(word: str, wanted: str | None, passes: bool) -> None:
    result = TrialResult(Path("t"), TrialReport({"verdict": {"word": word}}))
    if passes:
        result.pass_gate(wanted)
    else:
        with pytest.raises(CurateError, match=f"the verdict is `{word}`, required was {wanted}"):
            result.pass_gate(wanted)


def test_power_falls_with_what_is_to_be_found_and_rises_with_seeds() -> None:
    components = Components(seed_treated=1e-4, seed_control=1e-4, item=0.01, noise=0.1)
    few, many = (power_facts(components, seeds=seeds, items=1000, source="s") for seeds in (3, 10))
    assert 0 < many["detectable"] < few["detectable"]
    needed = few["seeds_needed"]
    assert list(needed) == ["0.02", "0.03", "0.05"]
    assert needed["0.02"] >= needed["0.03"] >= needed["0.05"] >= 2
    assert few["components"]["item"] == 0.01


def test_power_that_no_seeds_can_buy_is_said_as_none() -> None:
    components = Components(seed_treated=1.0, seed_control=1.0, item=1.0, noise=1.0)
    assert power_facts(components, seeds=2, items=3, source="s")["seeds_needed"]["0.02"] is None


SCATTER = Components(seed_treated=1e-4, seed_control=2e-4, item=0.01, noise=0.1)


def test_power_is_stated_by_the_variances_of_an_earlier_trial_of_this_model_and_training(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    trial = answered_trial(tmp_path / "out", tasks, {"curated": [14, 17, 11], "random": [5, 9, 4], "base": [0]})
    identity, conditions = tasks[0][1].identity, trial.plan.conditions
    assert "assumed variances" in power_before(identity, conditions, seeds=3, items=20)["source"]
    judge_trial(trial, tasks, facts_of())
    (line,) = history_path().read_text().splitlines()
    assert json.loads(line)["conditions"] == conditions
    remember(identity, "b", {"components": asdict(SCATTER), "conditions": conditions})
    stated = power_before(identity, conditions, seeds=3, items=20)
    assert stated["source"] == "the variances of trial b on this test set"
    assert stated["components"] == asdict(SCATTER)
    assert "assumed variances" in power_before(identity, "others", seeds=3, items=20)["source"]


@pytest.mark.parametrize("part", ["seed_treated", "seed_control", "item", "noise"])
def test_a_variance_that_was_estimated_at_zero_promises_nothing(part: str) -> None:
    remember("set", "a", {"components": {**asdict(SCATTER), part: 0.0}, "conditions": "c"})
    assert "assumed variances" in power_before("set", "c", seeds=3, items=20)["source"]


def test_model_and_training_settings_are_the_conditions_of_a_trial(tmp_path: Path) -> None:
    plan = plan_of([answer_task(tmp_path, 4)], ["curated"], [0, 1])
    assert replace(plan, arms=("random",), seeds=(3,), threads=7).conditions == plan.conditions
    others = ({"model_identity": {"weights": "v"}}, {"training": {**plan.training, "rank": 2}})
    assert plan.conditions not in {replace(plan, **other).conditions for other in others}


def test_variances_of_another_version_are_left_alone(tmp_path: Path) -> None:
    remember("set", "a", {"components": {"seed": 1.0}, "conditions": "c"})
    assert "assumed variances" in power_before("set", "c", seeds=3, items=20)["source"]


def test_what_can_be_found_is_a_sentence() -> None:
    components = Components(seed_treated=1e-4, seed_control=1e-4, item=0.01, noise=0.1)
    told = power_sentence(power_facts(components, seeds=5, items=1000, source="a guess"))
    assert told.startswith("by a guess, 5 seeds and 1,000 items find a difference of ")
    assert "points in 80 % of trials, smaller ones less often; seeds needed for 2 points: " in told
    assert "; for 5 points: " in told
    hopeless = power_facts(Components(1.0, 1.0, 1.0, 1.0), seeds=2, items=3, source="s")
    told = power_sentence(hopeless)
    assert "find no difference in 80 % of trials; seeds needed for 2 points: more than 100; for 3 points: more than 100" in told


def test_a_run_without_a_result_is_an_error(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 4)]
    plan = plan_of(tasks, ["curated", "random"], [0, 1])
    trial = Trial(tmp_path / "out" / "trial" / "x-1", plan, runs_of(["curated", "random"], [0, 1]))
    with pytest.raises(IntegrityError):
        judge_trial(trial, tasks, facts_of())


def test_one_item_of_the_users_command_is_too_few(tmp_path: Path) -> None:
    command = {arm: {"all": 0.5} for arm in HELPED}
    with pytest.raises(UsageError, match="--eval-command: wrote 1 item"):
        judged(tmp_path, more={"command": command})
