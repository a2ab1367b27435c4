"""What is found out before the first step: arms, tasks, settings, and what would stop the trial later."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from trial_folders import MODEL, Row, annotations_of, arms_of, pool_of, questions, run_folder
from workshop import record, write_rows

from curate.errors import CurateError, InputError, RecipeError, SandboxError, UsageError
from curate.recipes import Recipe, load_recipe, shipped_recipes
from curate.reference import model_path
from curate.trials import preparation
from curate.trials.pool import TEST
from curate.trials.preparation import Preparation, Request, prepare
from curate.trials.working import environment

KEEP = "keep: {field: given.value, highest: 50%}"


@pytest.fixture(autouse=True)
def _own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # many small files, and no power is lost here


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty rows with gold; a few are flagged, and half are kept."""
    rows = [{**row, "flag": place % 9 == 0} for place, row in enumerate(questions(40))]
    return run_folder(tmp_path_factory.mktemp("run"), rows, "drop: {field: given.flag, is: true}", KEEP)


def prepared(out: Path, *steps: Mapping[str, Any], arms: tuple[str, ...] | None = None, **trial: Any) -> Preparation:
    """The trial of the folder's recipe, or of these steps, with these settings."""
    recipe = Recipe(name="y", filters={"given": {}}, steps=steps, unscored="keep") if steps else None
    return prepare(out, recipe, model=MODEL, request=Request(arms=arms, overrides=trial))


def task_file(folder: Path, name: str = "t", question: str = "How old is the oldest of all the trees in this park?") -> str:
    write_rows(folder / f"{name}.jsonl", [{"prompt": question, "gold": "1"}])
    (folder / f"{name}.yaml").write_text(f"name: {name}\nkind: answer\ndata: {name}.jsonl\n")
    return str(folder / f"{name}.yaml")


SOURCES = ("reference-style", "careless")
"""Of the packaged sample: `demo` names them."""


def shipped(name: str) -> Preparation:
    """A shipped recipe over rows in memory, several to a prompt, some flagged and some equal."""
    rows = [
        Row(float(at * 37 % 101), 10 + at % 7, f"p{at // 4}", SOURCES[at % 2], at % 9 == 4, f"c{at % 110}") for at in range(120)
    ]
    recipe = load_recipe(name)
    nothing = cast(Any, SimpleNamespace())
    arms = arms_of(rows, recipe=recipe)
    return Preparation(Path("o"), recipe, recipe.trial, Request(), annotations_of(rows), nothing, [], pool_of(rows), arms, [])


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_has_the_arms_that_it_names_each_once(name: str) -> None:
    found = shipped(name)
    names = found.names
    assert len(set(names)) == len(names)
    assert names[0] == "curated"
    assert (names[-1] == "base") == ("base" in found.settings.against)
    assert set(found.primary) <= set(names)
    assert {found.arms.canonical(arm) for arm in found.settings.against} <= set(names)
    assert set(found.arms.chain()) <= set(names)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_arm_of_a_shipped_recipe_can_be_drawn_as_large_as_the_curated(name: str) -> None:
    found = shipped(name)
    treated, control = found.primary
    assert treated != control
    for arm in found.names:
        if arm not in ("base", "full", "full-epochs"):
            assert len(found.arms.draw(arm, 0).rows) == len(found.arms.curated) < 120


def test_the_arms_of_familiarity_are_those_of_the_documentation() -> None:
    names = ["curated", "random-clean", "random", "full", "full-epochs", "after:1", "base"]
    assert shipped("familiarity-top50").names == names


def test_full_takes_the_same_steps_and_full_epochs_the_same_epochs(out: Path) -> None:
    found = prepared(out, arms=("full", "full-epochs"), training={"epochs": 2, "batch": 8})
    curated, full = len(found.arms.curated), len(found.arms.draw("full", 0).rows)
    assert found.names == ["curated", "random-clean", "full", "full-epochs"]
    steps = {arm: found.steps_of(found.arms.draw(arm, 0)) for arm in found.names}
    assert steps["curated"] == steps["random-clean"] == steps["full"] == -(-2 * curated // 8)
    assert steps["full-epochs"] == -(-steps["curated"] * full // curated)


def test_arms_of_the_caller_take_the_place_of_the_recipes(out: Path) -> None:
    assert prepared(out, arms=("longest", "base")).names == ["curated", "random-clean", "longest", "base"]
    assert prepared(out, arms=()).names == ["curated", "random-clean"]


@pytest.mark.parametrize(
    ("arm", "complaint"),
    [
        ("longst50", "longest50"),
        ("after:7", "the last step that chooses rows is number 2"),
        ("source:hunam", "did you mean 'human'"),
    ],
)
def test_an_arm_that_these_rows_cannot_have_is_an_error(out: Path, arm: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        prepared(out, arms=(arm,))


def test_a_recipe_that_keeps_everything_has_nothing_to_judge(out: Path) -> None:
    with pytest.raises(RecipeError, match="there is nothing to"):
        prepared(out, {"keep": {"field": "given.value", "highest": "100%"}})


def test_a_last_step_that_keeps_everything_is_not_what_is_judged(out: Path) -> None:
    keep = {"keep": {"field": "given.value", "highest": "100%"}}
    found = prepared(out, {"drop": {"field": "given.value", "above": 90}}, keep, primary="random-clean")
    assert found.primary == ("curated", "random")
    assert found.arms.draw("random", 0).rows.tolist() != found.arms.curated.tolist()


def test_a_recipe_that_keeps_one_row_is_an_error(out: Path) -> None:
    with pytest.raises(InputError, match="the recipe keeps 1 training rows; nothing can be learnt"):
        prepared(out, {"keep": {"field": "given.value", "highest": 1}})


def test_held_out_prompts_with_gold_are_the_task_where_none_is_named(out: Path) -> None:
    found = prepared(out)
    ((task, items),) = found.tasks
    assert (task.kind, len(items), found.overlaps[0].found) == ("answer", 8, 0)
    rows = set(found.arms.draw("full", 0).rows.tolist())
    trained_on = {example.prompt_text for example in found.pool.rows if example.row in rows}
    assert len(trained_on) == 30
    assert not trained_on & {item.question for item in items}


def test_every_held_out_prompt_of_a_group_is_a_question(tmp_path: Path) -> None:
    rows = [{**row, "segment": f"g{place // 6}"} for place, row in enumerate(questions(60))]  # three prompts to a group
    found = prepared(run_folder(tmp_path, rows, KEEP, columns={"group": "segment"}))
    held_out = {example.prompt_text for example in found.pool.rows if found.pool.part[example.row] == TEST}
    assert {item.question for item in found.tasks[0][1]} == held_out
    assert len(held_out) == 12


@pytest.mark.parametrize("column", ["prompt", "gold"])
def test_a_users_column_does_not_change_the_held_out_questions(tmp_path: Path, column: str) -> None:
    from curate.annotations import annotate
    from curate.examples import load_examples
    from curate.filters import build_filter

    rows = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}],
         "answer": row["gold"], "value": row["value"], column: "something else"}
        for row in questions(30)
    ]  # fmt: skip
    examples = load_examples(write_rows(tmp_path / "d.jsonl", rows), columns={"messages": "messages", "gold": "answer"})
    annotate(examples, [build_filter("given", {}, where="test")], tmp_path / "out")
    found = prepared(tmp_path / "out", {"keep": {"field": "given.value", "highest": "50%"}})
    for item in found.tasks[0][1]:
        assert item.question.startswith("Say w")
        assert item.question.split()[1] == f"w{item.gold[0]}"


def test_rows_without_gold_or_tests_need_a_task(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "gold"} for row in questions(20)]
    out = run_folder(tmp_path, rows, KEEP)
    with pytest.raises(UsageError, match=r"neither gold answers nor tests.*name a task with --task FILE"):
        prepared(out)
    assert prepared(out, tasks=(task_file(tmp_path),)).tasks[0][0].name == "t"


def test_where_tasks_are_named_no_prompt_is_held_out_as_test(out: Path, tmp_path: Path) -> None:
    found = prepared(out, tasks=(task_file(tmp_path),))
    assert int((found.pool.part == 2).sum()) == 0
    assert int((found.pool.part == 1).sum()) == 4


def test_a_test_set_that_stands_in_the_training_rows_is_an_error_with_the_figures(out: Path, tmp_path: Path) -> None:
    question = "Say w3 and x3 and y3, then z3."
    tasks = (task_file(tmp_path, question=question),)
    with pytest.raises(
        InputError, match=r"1 of 1 items of t \(100.0 %\) stand in the training rows, allowed are 2.0 %; first: 'Say w3"
    ):
        prepared(out, tasks=tasks, validation=0.0, training={"learning_rate": 1e-3})


def test_overlap_that_is_allowed_is_kept_as_a_figure(out: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Say w3 and x3 and y3, then z3.", "gold": "3"},
        {"prompt": "Is anybody at home there today?", "gold": "no"},
    ]
    task = {"name": "t", "kind": "answer", "data": str(write_rows(tmp_path / "t.jsonl", rows))}
    found = prepared(out, tasks=(task,), overlap=0.5, validation=0.0)
    assert (found.overlaps[0].found, found.overlaps[0].share) == (1, 0.5)


def test_an_unknown_task_file_is_named(out: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere.yaml: no such task file"):
        prepared(out, tasks=("nowhere.yaml",))


def test_the_primary_task_is_the_first_or_the_one_that_is_named(out: Path, tmp_path: Path) -> None:
    tasks = (task_file(tmp_path, "a"), task_file(tmp_path, "b"))
    assert [task.name for task, _ in prepared(out, tasks=tasks).tasks] == ["a", "b"]
    assert [task.name for task, _ in prepared(out, tasks=tasks, primary_task="b").tasks] == ["b", "a"]
    with pytest.raises(RecipeError, match="primary_task 'c' is none of the tasks a, b"):
        prepared(out, tasks=tasks, primary_task="c")


def test_two_tasks_of_one_name_are_an_error(out: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="two tasks are called 't'"):
        prepared(out, tasks=(task_file(tmp_path), task_file(tmp_path)))


def test_the_callers_tasks_take_the_place_of_the_recipes(out: Path, tmp_path: Path) -> None:
    request = Request(tasks=(task_file(tmp_path),), overrides={"tasks": ("nowhere.yaml",)})
    assert [task.name for task, _ in prepare(out, model=MODEL, request=request).tasks] == ["t"]


def test_without_a_model_scored_or_named_none_is_known(out: Path) -> None:
    with pytest.raises(UsageError, match="scores with no model, so none is known: pass --model"):
        prepare(out)


def test_the_model_whose_scores_rank_is_the_one_to_train(tmp_path: Path) -> None:
    import curate

    rows = write_rows(tmp_path / "d.jsonl", questions(12))
    recipe = Recipe(
        name="z",
        filters={"perplexity": {"model": "target"}},
        steps=[{"keep": {"field": "perplexity.nll", "lowest": "50%"}}],
    )
    out = curate.run(recipe, rows, model={**MODEL, "max_length": 200}, out=tmp_path / "out").out
    found = prepare(out, request=Request(overrides={"test": 0.4, "validation": 0.1}))
    assert (found.likelihood.model, found.likelihood.max_length) == (str(model_path()), 200)


def test_settings_of_the_model_alone_leave_the_model_that_was_scored(tmp_path: Path) -> None:
    import curate

    rows = write_rows(tmp_path / "d.jsonl", questions(12))
    recipe = Recipe(
        name="z",
        filters={"perplexity": {"model": "target"}},
        steps=[{"keep": {"field": "perplexity.nll", "lowest": "50%"}}],
    )
    out = curate.run(recipe, rows, model=MODEL, out=tmp_path / "out").out
    found = prepare(out, model={"max_length": 100}, request=Request(overrides={"test": 0.4, "validation": 0.1}))
    assert (found.likelihood.model, found.likelihood.max_length) == (str(model_path()), 100)
    assert len(found.arms.curated)


def test_a_folder_without_a_selection_needs_a_recipe(tmp_path: Path) -> None:
    import shutil

    out = run_folder(tmp_path, questions(10), KEEP)
    shutil.rmtree(out / "selection")
    with pytest.raises(UsageError, match="holds no selection; name the recipe to try with --recipe"):
        prepare(out, model=MODEL)


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CurateError, match="holds no finished rows"):
        prepare(tmp_path, "clean", model=MODEL)


@pytest.mark.parametrize(
    ("said", "steps", "epochs", "rank"),
    [
        ({}, 9, None, 4),
        ({"training": {"epochs": 2}}, None, 2, 4),
        ({"training": {"steps": 5}}, 5, None, 4),
        ({"preset": "paper"}, None, 20, 8),
        ({"preset": "paper", "training": {"steps": 5}}, 5, None, 8),
        ({"preset": "modern", "training": {"rank": 2}}, None, 3, 2),
        ({"preset": "paper", "training": {"epochs": 1, "rank": 2}}, None, 1, 2),
    ],
)
def test_what_the_caller_says_stands_on_top_of_the_recipe(
    out: Path, said: dict[str, Any], steps: int | None, epochs: float | None, rank: int
) -> None:
    recipe = Recipe(
        name="y",
        filters={"given": {}},
        steps=[{"keep": {"field": "given.value", "highest": "50%"}}],
        trial={"training": {"steps": 9, "rank": 4}},
    )
    how = prepare(out, recipe, model=MODEL, request=Request(overrides=said)).settings.training
    assert (how.steps, how.epochs, how.rank) == (steps, epochs, rank)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"seeds": 1}, "trial: seeds"),
        ({"seedss": 3}, "trial: .*did you mean 'seeds'"),
        ({"training": {"steps": 3, "epochs": 2}}, "either `epochs` or `steps`"),
        ({"training": {"rnak": 3}}, "trial: .*rnak"),
        ({"preset": "papr"}, "trial: preset"),
        ({"primary": "base"}, "`primary: base` would compare training with none"),
    ],
)
def test_a_wrong_setting_of_the_caller_is_named(out: Path, said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        prepared(out, **said)


def test_the_progressive_protocol_has_an_arm_per_share_and_order(out: Path) -> None:
    found = prepared(out, protocol="progressive", shares=(0.5, 1.0), training={"steps": 10})
    assert found.names == ["ordered@0.5", "shuffled@0.5", "ordered@1", "shuffled@1", "base"]
    assert found.primary == ("ordered", "shuffled")
    steps = {arm: found.steps_of(found.arms.draw(arm, 0)) for arm in found.names[:-1]}
    assert steps == {"ordered@0.5": 5, "shuffled@0.5": 5, "ordered@1": 10, "shuffled@1": 10}


def test_the_mix_protocol_compares_its_last_share_with_its_first(out: Path) -> None:
    found = prepared(out, protocol="mix")
    assert found.names == [f"synthetic@{share}" for share in ("0", "0.25", "0.5", "0.75", "1")] + ["base"]
    assert found.primary == ("synthetic@1", "synthetic@0")


def test_a_mix_without_rows_by_people_is_an_error(out: Path) -> None:
    with pytest.raises(RecipeError, match="needs kept rows by people"):
        prepared(out, protocol="mix", human=("nobody",))


def test_several_rates_are_tried_on_random_rows_under_a_seed_of_their_own(out: Path) -> None:
    found = prepared(out, training={"learning_rate": [1e-4, 1e-3], "steps": 4})
    pilots = [run for run, _ in found.pilots()]
    assert [(run.arm, run.learning_rate, run.is_pilot) for run in pilots] == [
        ("rate:0.0001", 1e-4, True),
        ("rate:0.001", 1e-3, True),
    ]
    assert len({tuple(sequence.tolist()) for _, sequence in found.pilots()}) == 1
    assert not {run.seed for run in pilots} & set(found.seeds)
    assert not prepared(out, training={"learning_rate": 1e-3}).pilots()


def test_runs_are_ordered_by_seed_so_that_a_stopped_trial_has_whole_seeds(out: Path) -> None:
    found = prepared(out, arms=("random", "base"), seeds=2, first_seed=7, training={"steps": 3, "batch": 4})
    runs = [run for run, _ in found.runs(1e-3)]
    assert [(run.arm, run.seed) for run in runs] == [("base", 7)] + [
        (arm, seed) for seed in (7, 8) for arm in ("curated", "random-clean", "random")
    ]
    for run, sequence in found.runs(1e-3)[1:]:
        assert (len(sequence), run.steps, run.rows) == (12, 3, len(found.arms.curated))
        assert run.tokens == found.pool.tokens[sequence].sum()


PLAN: Mapping[str, dict[str, Any]] = {
    "seeds": {"seeds": 4},
    "first seed": {"first_seed": 1},
    "rank": {"training": {"rank": 2}},
    "rate": {"training": {"learning_rate": 1e-3}},
    "held out": {"test": 0.3},
    "primary": {"primary": "random"},
}


@pytest.mark.parametrize("change", PLAN)
def test_another_setting_is_another_trial(out: Path, change: str) -> None:
    assert prepared(out, **PLAN[change]).plan.hash != prepared(out).plan.hash


def test_what_changes_no_outcome_makes_no_other_trial(out: Path) -> None:
    found = {
        prepare(out, model=MODEL, request=request).plan.hash
        for request in (Request(jobs=2), Request(jobs=3), Request(jobs=2, keep_adapters=True))
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    "request_", [Request(jobs=2, arms=()), Request(jobs=2, eval_command="true"), Request(jobs=2, processes=2)]
)
def test_what_changes_the_outcome_makes_another_trial(out: Path, request_: Request) -> None:
    plans = [prepare(out, model=MODEL, request=request).plan.hash for request in (Request(jobs=2), request_)]
    assert plans[0] != plans[1]


def test_another_model_or_length_is_another_trial(out: Path, tiny_model_dir: Path) -> None:
    models = (MODEL, {**MODEL, "max_length": 100}, {"model": str(tiny_model_dir), "device": "cpu"})
    assert len({prepare(out, model=model).plan.hash for model in models}) == 3


def test_preparing_twice_gives_the_same_plan_and_runs(out: Path) -> None:
    first, second = prepared(out), prepared(out)
    assert first.plan.hash == second.plan.hash
    assert [run for run, _ in first.runs(1e-3)] == [run for run, _ in second.runs(1e-3)]


def test_with_more_seeds_and_arms_only_what_is_new_is_made(out: Path) -> None:
    few, more = (
        {run.key for run, _ in prepared(out, arms=arms, seeds=seeds, training={"steps": 3}).runs(1e-3)}
        for arms, seeds in ((("base",), 2), (("base", "longest"), 3))
    )
    assert few < more
    assert (len(few), len(more)) == (1 + 2 * 2, 1 + 3 * 3)


def test_a_committed_trial_holds_plan_parts_and_sequences(out: Path) -> None:
    import numpy as np

    found = prepared(out, arms=("base",), seeds=2, training={"steps": 2, "batch": 4, "learning_rate": 1e-3})
    trial = found.commit(found.runs(1e-3))
    assert trial.folder.name == f"r-{found.plan.hash}"
    for run, sequence in found.runs(1e-3):
        path = trial.path(run) / "sequence.npy"
        assert path.exists() == (run.arm != "base")
        if path.exists():
            assert np.load(path).tolist() == sequence.tolist()
    assert json.loads((trial.folder / "plan.json").read_text())["plan"]["seeds"] == [0, 1]


def test_rows_without_a_token_to_train_on_limit_what_is_said(tmp_path: Path) -> None:
    rows = [*questions(20), *(record(f"Tell me of k{at} " * 200, "yes", value=200.0, gold="1") for at in range(3))]
    out = run_folder(tmp_path, rows, KEEP)
    found = prepare(out, model={**MODEL, "max_length": 64})
    limits = found.limits([run for run, _ in found.runs(1e-3)])
    lost = sum(found.pool.unusable.values())
    assert any(line.startswith(f"training rows without a token to train on, in no arm: {lost}") for line in limits)


def test_arms_that_the_trainer_cuts_off_unlike_limit_what_is_said(tmp_path: Path) -> None:
    rows = [
        record(f"Say w{at} x{at} y{at} z{at}", "yes " * (200 if at > 20 else 2), gold="1", value=float(at)) for at in range(30)
    ]
    found = prepare(run_folder(tmp_path, rows, KEEP), model={**MODEL, "max_length": 128}, request=Request(arms=("reverse",)))
    runs = [run for run, _ in found.runs(1e-3)]
    assert {run.arm for run in runs if run.truncated} >= {"curated"}
    assert any(
        line.startswith("rows cut off at max_length: ") and "in `curated`, 0.0 % in the least" in line
        for line in found.limits(runs)
    )


def test_arms_of_unlike_tokens_limit_what_is_said(tmp_path: Path) -> None:
    rows = [record(f"Say w{at} x{at} y{at} z{at}", "yes " * (1 + at), gold="1", value=float(at)) for at in range(24)]
    found = prepared(run_folder(tmp_path, rows, KEEP), validation=0.1, primary="reverse")
    limits = found.limits([run for run, _ in found.runs(1e-3)])
    assert any("`curated` trains on" in line and "more completion tokens than `reverse`" in line for line in limits)


def test_a_step_that_rejects_nothing_and_is_not_judged_is_told(out: Path) -> None:
    drop, idle = {"drop": {"field": "given.flag", "is": True}}, {"drop": {"field": "given.value", "above": 1e9}}
    assert prepared(out, drop).notes == []
    (note,) = prepared(out, drop, idle).notes
    assert "given.value" in note
    assert "rejects no training row" in note


def test_tests_of_held_out_rows_need_a_sandbox_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**{k: v for k, v in row.items() if k != "gold"}, "tests": "assert f() == 1"} for row in questions(30)]
    out = run_folder(tmp_path, rows, KEEP)

    def refuse(task: Any) -> None:
        raise SandboxError(f"no sandbox for {task.kind}")

    monkeypatch.setattr(preparation, "check_machine", refuse)
    with pytest.raises(SandboxError, match="no sandbox for code"):
        prepared(out)


def test_a_template_hides_no_copy_of_a_question(out: Path, tmp_path: Path) -> None:
    suffix = "Think step by step, then end with 'Final Answer:' and nothing but a single number on the last line"
    rows = [{"question": "Say w3 and x3 and y3, then z3.", "gold": "3"}]
    data = str(write_rows(tmp_path / "t.jsonl", rows))
    task = {"name": "t", "kind": "answer", "data": data, "prompt": f"{{question}}\n{suffix}"}
    with pytest.raises(InputError, match=r"1 of 1 items of t \(100.0 %\) stand in the training rows"):
        prepared(out, tasks=(task,), validation=0.0, training={"learning_rate": 1e-3})


def test_a_task_of_which_no_prompt_leaves_room_is_refused(out: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    rows = [{"prompt": f"How old is tree number {n} of this park, please?", "gold": "1"} for n in range(3)]
    task = {"name": "t", "kind": "answer", "data": str(write_rows(tmp_path / "t.jsonl", rows)), "max_new_tokens": 510}
    with pytest.raises(InputError, match=r"t: no prompt leaves room .* 512 positions, prompts have .* max_new_tokens is 510"):
        prepare(out, model={"model": str(tiny_model_dir), "device": "cpu"}, request=Request(overrides={"tasks": (task,)}))


@pytest.mark.parametrize(
    ("option", "why"), [("no " * 300, "cut off at max_length"), ("wor" * 4000, "cut off at max_length"), ("  ", "holds")]
)
def test_an_option_that_cannot_be_scored_is_found_before_the_first_step(
    out: Path, tmp_path: Path, tiny_model_dir: Path, option: str, why: str
) -> None:
    rows = [{"prompt": "Is the oldest tree of this park an oak?", "choices": ["yes", option], "gold": 0}]
    task = {"name": "t", "kind": "choice", "data": str(write_rows(tmp_path / "t.jsonl", rows))}
    model = {"model": str(tiny_model_dir), "device": "cpu", "max_length": 128}
    with pytest.raises(InputError, match=why):
        prepare(out, model=model, request=Request(overrides={"tasks": (task,)}))


@pytest.mark.parametrize(
    ("command", "complaint"),
    [("run 'it", "cannot be read"), ("", "is empty"), ("nowhere-to-be-found {model}", "no such program")],
)
def test_a_command_that_cannot_start_is_found_before_the_first_step(out: Path, command: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=f"--eval-command.*{complaint}"):
        prepare(out, model=MODEL, request=Request(eval_command=command))


def test_a_task_may_not_have_the_name_of_the_commands_results(out: Path, tmp_path: Path) -> None:
    tasks = (task_file(tmp_path, "eval-command"),)
    assert prepared(out, tasks=tasks).tasks[0][0].name == "eval-command"
    with pytest.raises(RecipeError, match="name it otherwise"):
        prepare(out, model=MODEL, request=Request(tasks=tasks, eval_command="true"))


ORDER = {"order": {"field": "given.value", "first": "highest"}}
KEPT = {"keep": {"field": "given.value", "highest": "50%"}}


def test_an_order_is_credited_apart_and_told(out: Path) -> None:
    found = prepared(out, KEPT, ORDER)
    assert found.names[:3] == ["curated", "random-clean", "shuffled@1"] or "shuffled@1" in found.names
    assert found.primary == ("curated", "random")
    runs = [run for run, _ in found.runs(1e-3)]
    limits = found.limits(runs)
    assert any("in the recipe's order and `random` in random order" in line and "`shuffled@1`" in line for line in limits)
    assert not any("random order" in line for line in prepared(out, KEPT).limits(runs))
    assert {run.rows for run in runs} == {len(found.arms.curated)}
    assert {run.steps for run in runs} == {found.steps}


# Devices


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of four GPUs, as far as plans go."""
    from curate.filters import likelihood, model_settings

    monkeypatch.setattr("curate.trials.devices._count", lambda: 4)
    for module in (likelihood, model_settings):
        monkeypatch.setattr(module, "check_device", lambda device: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def on(device: str, out: Path, **request: Any) -> Preparation:
    return prepare(out, model={**MODEL, "device": device}, request=Request(**request))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("device", "processes", "jobs", "first", "sixth"),
    [("cuda", 1, 4, "0", "1"), ("cuda:2", 1, 1, "2", "2"), ("cuda", 2, 2, "0,1", "2,3"), ("cuda", 4, 1, "0,1,2,3", "0,1,2,3")],
)
def test_every_worker_sees_gpus_of_its_own(
    device: str, processes: int, jobs: int, first: str, sixth: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = on(device, out, processes=processes)
    assert found.jobs == jobs
    trial = found.trial_of([])
    assert [environment(trial, worker)["CUDA_VISIBLE_DEVICES"] for worker in (0, 5)] == [first, sixth]


@pytest.mark.usefixtures("gpus")
def test_devices_that_are_hidden_already_are_not_used(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7")
    monkeypatch.setattr("curate.trials.devices._count", lambda: 2)
    assert on("cuda", out).devices == ("5", "GPU-7")
    assert on("cuda:1", out).devices == ("GPU-7",)
    with pytest.raises(UsageError, match="--processes 4: --device cuda has 2 GPUs"):
        on("cuda", out, processes=4)


@pytest.mark.usefixtures("gpus")
def test_which_gpu_it_is_makes_no_other_trial_and_cores_neither(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_cores", lambda: 64)
    one, other = on("cuda", out), on("cuda:3", out)
    assert one.plan == other.plan
    assert (one.plan.model["device"], one.plan.threads) == ("cuda", 4)


def test_on_a_cpu_no_gpu_is_dealt(out: Path) -> None:
    found = prepared(out)
    assert found.devices == ()
    assert "CUDA_VISIBLE_DEVICES" not in {name for name in environment(found.trial_of([])) if name not in os.environ}


def test_runs_that_differ_by_threads_alone_are_told(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    copy = Path(shutil.copytree(out, tmp_path / "out"))
    monkeypatch.setattr(preparation, "SMALL_WEIGHTS", 0)
    monkeypatch.setattr(preparation, "_cores", lambda: 8)
    before = prepared(copy)
    assert before.notes == []
    key = before.plan.key_of([], steps=0, rate=0.0, seed=0)
    (copy / "trial" / "runs" / key).mkdir(parents=True)
    (copy / "trial" / "runs" / key / "done.json").write_text("{}")
    assert prepared(copy).notes == []
    monkeypatch.setattr(preparation, "_cores", lambda: 16)
    (note,) = prepared(copy).notes
    assert "made with 8 threads, here it is 16" in note


def test_a_model_that_is_named_is_trained_as_it_was_scored(tmp_path: Path) -> None:
    import curate

    rows = write_rows(tmp_path / "d.jsonl", questions(12))
    recipe = Recipe(
        name="z",
        filters={"perplexity": {"model": "target"}},
        steps=[{"keep": {"field": "perplexity.nll", "lowest": "50%"}}],
    )
    request = Request(overrides={"test": 0.4, "validation": 0.1})
    out = curate.run(recipe, rows, model={**MODEL, "max_length": 200}, out=tmp_path / "out").out
    found = prepare(out, model=MODEL, request=request)
    assert (found.likelihood.max_length, found.notes) == (200, [])
    # By content too: a recipe without a model, and the model under another path.
    (tmp_path / "elsewhere").symlink_to(model_path())
    length = Recipe(name="l", filters={"length": {}}, steps=[{"keep": {"field": "length.characters", "highest": "50%"}}])
    curate.run(length, rows, out=tmp_path / "out")
    found = prepare(out, length, model={"model": str(tmp_path / "elsewhere"), "device": "cpu"}, request=request)
    assert found.likelihood.max_length == 200
    found = prepare(out, recipe, model={**MODEL, "max_length": 100}, request=request)
    assert (found.likelihood.max_length, found.notes) == (100, ["max_length is 100; the rows were scored with 200"])


def test_a_test_set_of_one_item_gives_no_interval(out: Path, tmp_path: Path) -> None:
    found = prepared(out, tasks=(task_file(tmp_path),))
    with pytest.raises(InputError, match="task t: 1 item; an interval over items needs at least 2"):
        _ = found.power


def test_settings_of_the_callers_are_a_limit_and_the_recipes_are_none(out: Path) -> None:
    assert prepared(out).departures == []
    found = prepared(out, seeds=2, training={"steps": 4, "learning_rate": 1e-3})
    told = (
        "not the recipe's own trial: seeds 2 (recipe: 5); training 4 steps (recipe: 3 epochs); "
        "learning_rate 0.001 (recipe: 0.0001, 0.0002, 0.0005)"
    )
    assert found.departures == [told]
    assert told in found.limits([run for run, _ in found.runs(1e-3)])
