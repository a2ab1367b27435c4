"""Whole trials: killed anywhere and begun again they end with the same numbers, and nothing that was finished is done again."""

import json
import os
import shutil
import signal
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_trials import (
    QUIET,
    all_gone,
    answers,
    begin,
    ended,
    in_this_process,
    numbers,
    processes_about,
    recipe,
    results,
    run_paths,
    run_to_try,
    task,
    wait_for,
)
from workshop import write_rows

from curate import errors, progress
from curate.errors import CurateError, InputError, ModelError, UsageError
from curate.trials import Request, TrialResult, prepare, run_trial, trial
from curate.trials.plan import Run, Trial
from curate.trials.working import make_runs

pytestmark = QUIET
LONG = {"steps": 30}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's trials are remembered."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def untried(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A run folder that no trial has touched; tests copy it."""
    return run_to_try(tmp_path_factory.mktemp("untried"), tiny_model_dir)


@pytest.fixture(scope="module")
def whole(untried: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialResult]:
    """An uninterrupted trial, made in this process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setattr(trial, "make_runs", in_this_process)
        out = Path(shutil.copytree(untried, folder / "out"))
        yield run_trial(prepare(out))


@pytest.fixture
def out(untried: Path, tmp_path: Path) -> Path:
    """A copy of the run folder."""
    return Path(shutil.copytree(untried, tmp_path / "out"))


def tried(
    out: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, request: Request | None = None, **changed: Any
) -> TrialResult:
    """A trial of a changed recipe, made in this process."""
    monkeypatch.setattr(trial, "make_runs", in_this_process)
    return run_trial(prepare(out, recipe(folder, **changed), request=request))


def files_of_runs(out: Path) -> set[str]:
    """What lies in the folders of all runs, each name once; answers as `task`."""
    found = {path.name for path in out.glob("trial/runs/*/*")}
    return {"task" if name.startswith("task-") else name for name in found}


def run_bytes(out: Path) -> dict[str, bytes]:
    """`result.json` of the runs that are finished, by their folders' names."""
    return {path.parent.name: (path.parent / "result.json").read_bytes() for path in out.glob("trial/runs/*/done.json")}


def out_of(result: TrialResult) -> Path:
    """The run folder of a trial."""
    return result.folder.parent.parent


PLAIN = {".lock", "done.json", "result.json", "sequence.npy", "task"}


# Whole trials


def test_a_trial_reports_every_arm_under_every_seed(whole: TrialResult) -> None:
    data = whole.report.data
    assert [(arm["arm"], arm["seeds"], arm["steps"]) for arm in data["arms"]] == [
        ("curated", [0, 1], 4),
        ("random", [0, 1], 4),
        ("base", [0], 0),
    ]
    assert {(score["arm"], score["task"], len(score["strict"])) for score in data["scores"]} == {
        ("curated", "sums", 2),
        ("random", "sums", 2),
        ("base", "sums", 1),
    }
    assert data["primary"] == {"treated": "curated", "control": "random", "task": "sums"}
    assert all(len(arm["loss"]) == len(arm["seeds"]) for arm in data["arms"])


def test_arms_of_one_seed_differ_and_so_do_seeds_of_one_arm(whole: TrialResult) -> None:
    by_run = {name: found["held_out"] for name, found in results(whole.folder).items()}
    assert len({json.dumps(found) for found in by_run.values()}) == len(by_run) == 5


def test_nothing_is_left_of_a_training_but_its_results(whole: TrialResult) -> None:
    assert files_of_runs(out_of(whole)) == PLAIN
    assert {path.name for path in whole.folder.iterdir()} == {"plan.json", "parts.npy", "stated.json", "trial.json", "trial.svg"}


def test_a_trial_that_is_done_trains_nothing_and_reports_the_same(
    whole: TrialResult, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)  # no worker could start
    before = run_bytes(out_of(whole))
    times = {path: path.stat().st_mtime_ns for path in out_of(whole).glob("trial/runs/*/*")}
    again = run_trial(prepare(out_of(whole)))
    assert again.folder == whole.folder
    assert again.report.data == whole.report.data
    assert run_bytes(out_of(whole)) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
def test_workers_give_what_this_process_gives(whole: TrialResult, out: Path, tmp_path: Path, state: Path) -> None:
    done = ended(begin("trial", out, "--jobs", "2", "--json", state=state))
    assert done.code == 0, done.err
    assert numbers(done.json) == numbers(whole.report.data)
    assert answers(Path(done.json["folder"])) == answers(whole.folder)
    assert processes_about(out) == {}


def test_the_number_of_jobs_makes_no_other_trial(out: Path) -> None:
    one, two, default = (prepare(out, request=Request(jobs=jobs)) for jobs in (1, 2, None))
    assert one.folder == two.folder == default.folder


@pytest.mark.slow
def test_one_job_and_two_give_the_same_numbers(out: Path, whole: TrialResult, state: Path) -> None:
    one = ended(begin("trial", out, "--jobs", "1", "--json", state=state))
    assert one.code == 0, one.err
    mine, theirs = numbers(one.json), numbers(whole.report.data)
    assert mine["scores"] == theirs["scores"]
    for first, second in zip(mine["arms"], theirs["arms"], strict=True):
        for name, values in first["held_out_nll"].items():
            assert values == pytest.approx(second["held_out_nll"][name], abs=1e-4)


def test_two_trials_of_one_preparation_are_equal(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "make_runs", in_this_process)
    preparation = prepare(out, recipe(tmp_path, training={"learning_rate": [0.001, 0.02], "steps": 2}))
    assert run_trial(preparation).report.data == run_trial(preparation).report.data


# Variants


def test_the_learning_rate_with_the_lowest_validation_loss_is_taken(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = [1e-6, 0.02, 1e-3]
    done = tried(out, tmp_path, monkeypatch, training={"learning_rate": rates})
    pilots = [path for path in out.glob("trial/runs/*/result.json") if json.loads(path.read_bytes())["arm"].startswith("rate:")]
    found = [json.loads(path.read_bytes()) for path in pilots]
    losses = {one["arm"]: one["held_out"]["validation"]["nll_sum"] for one in found}
    assert set(losses) == {f"rate:{rate:g}" for rate in rates}
    assert min(losses, key=lambda arm: losses[arm]) == "rate:0.02"
    assert done.report.data["learning_rate"] == 0.02
    assert any("learning rate 0.02, chosen by" in limit for limit in done.report.data["limits"])
    assert [arm["arm"] for arm in done.report.data["arms"]] == ["curated", "random", "base"]
    assert not any((path.parent / "task-sums.parquet").exists() for path in pilots)


def test_kept_adapters_load_and_answer_as_they_did(
    out: Path, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from curate.trials.evaluation import Asker
    from curate.trials.tasks import load_items, load_task
    from curate.trials.training import askable

    done = tried(out, tmp_path, monkeypatch, request=Request(keep_adapters=True))
    assert files_of_runs(out) == PLAIN | {"adapter"}
    run = run_paths(done.folder)["curated/1"]
    assert {path.name for path in (run / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not [path for path in (run / "adapter").iterdir() if path.suffix in (".pt", ".bin", ".pth")]
    assert not (run_paths(done.folder)["base/0"] / "adapter").exists()
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_model_dir)
    model = askable(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), run / "adapter"))
    asked = load_task(task(tmp_path))
    found = Asker(model, Trial.open(done.folder).plan.likelihood()).generate(asked, load_items(asked))
    stored = answers(done.folder)["curated/1/task-sums"]
    assert [found[row["item"]].text for row in stored] == [row["text"] for row in stored]


def test_a_kept_model_of_full_training_loads(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = tried(
        out,
        tmp_path,
        monkeypatch,
        request=Request(keep_adapters=True),
        training={"method": "full", "steps": 2, "learning_rate": 1e-3},
    )
    assert files_of_runs(out) == PLAIN | {"model"}
    run = run_paths(done.folder)["random/0"]
    assert AutoModelForCausalLM.from_pretrained(run / "model").config.vocab_size == len(
        AutoTokenizer.from_pretrained(run / "model")
    )


OWN = """
import json, pathlib, sys
adapter, model, base, out = sys.argv[1:]
is_trained = bool(adapter)
assert (pathlib.Path(model) / "model.safetensors").is_file() and (pathlib.Path(model) / "tokenizer.json").is_file()
assert is_trained == (pathlib.Path(adapter) / "adapter_model.safetensors").is_file()
assert is_trained == (model != base)
with open(out, "w") as file:
    for item in range(6):
        print(json.dumps({"item": item, "score": 1.0 if is_trained else item / 10}), file=file)
"""


def own_evaluation(folder: Path, code: str) -> Request:
    (folder / "own.py").write_text(code)
    return Request(eval_command=f"{sys.executable} {folder}/own.py '{{adapter}}' {{model}} {{base}} {{out}}")


def test_the_users_own_evaluation_is_a_task_of_the_report(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tried(out, tmp_path, monkeypatch, request=own_evaluation(tmp_path, OWN))
    scores = {score["arm"]: score["strict"] for score in done.report.data["scores"] if score["task"] == "eval-command"}
    assert scores == {"curated": [1.0, 1.0], "random": [1.0, 1.0], "base": [pytest.approx(0.25)]}
    assert files_of_runs(out) == PLAIN


def test_an_evaluation_that_fails_costs_no_training_twice(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_when_trained = OWN.replace(
        "is_trained = bool(adapter)", "is_trained = bool(adapter)\nif is_trained: sys.exit('no GPU')"
    )
    request = own_evaluation(tmp_path, fails_when_trained)
    with pytest.raises(UsageError, match="--eval-command: ended with exit code 1: no GPU"):
        tried(out, tmp_path, monkeypatch, request=request)
    (tmp_path / "own.py").write_text(OWN)
    done = tried(out, tmp_path, monkeypatch, request=request)
    resumed = {name: found["resumed_at"] for name, found in results(done.folder).items()}
    assert sorted(resumed.values()) == [0, 0, 0, 0, 4]


def test_a_task_may_be_called_as_the_held_out_rows_are(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tried(out, tmp_path, monkeypatch, trial={"tasks": [task(tmp_path, name="validation", count=6)]}, training={"steps": 1})
    held_out = results(done.folder)["curated/0"]["held_out"]
    assert set(held_out) == {"validation", "task:validation"}
    assert held_out["task:validation"]["rows"] == 6 != held_out["validation"]["rows"]
    assert set(done.report.data["arms"][0]["held_out_nll"]) == {"validation", "task:validation"}


NOTES_MODEL = """
import json, sys
from safetensors.numpy import load_file
model, out = sys.argv[1:]
weights = load_file(model + "/model.safetensors")
total = float(sum(abs(value).sum() for value in weights.values()))
for item, score in (("total", total % 1), ("other", 0.5)):
    print(json.dumps({"item": item, "score": score}), file=open(out, "a"))
"""


def test_of_models_from_scratch_the_untrained_one_is_evaluated_too(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(NOTES_MODEL)
    request = Request(eval_command=f"{sys.executable} {tmp_path}/own.py {{model}} {{out}}")
    training = {"method": "from_scratch", "learning_rate": 1e-9, "steps": 1}
    done = tried(out, tmp_path, monkeypatch, request=request, training=training)
    found = {name: one["eval_command"]["total"] for name, one in results(done.folder).items()}
    # Trained by next to nothing, a model has the weights that it was drawn with: those of its seed.
    assert found["base/0"] == pytest.approx(found["curated/0"], abs=1e-2)
    assert found["base/0"] != pytest.approx(found["curated/1"], abs=1e-2)
    assert files_of_runs(out) == PLAIN


def test_no_model_outlives_its_run(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.trials import worker

    alive: list[list[bool]] = []
    models: list[weakref.ref[Any]] = []
    make = worker.Worker._trained

    def watched(self: worker.Worker, run: Run) -> Any:
        alive.append([model() is not None for model in models])
        found = make(self, run)
        models.append(weakref.ref(found.model))
        return found

    monkeypatch.setattr(worker.Worker, "_trained", watched)
    tried(out, tmp_path, monkeypatch, training={"steps": 1})
    assert [len(earlier) for earlier in alive] == [0, 1, 2, 3, 4]
    assert not any(any(earlier) for earlier in alive)


def test_adapters_that_are_gone_are_told_and_others_kept(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(progress, "note", told.append)
    first = tried(out, tmp_path, monkeypatch, training={"steps": 1})
    assert not any("adapters" in line for line in told)
    request = Request(keep_adapters=True)
    more = tried(out, tmp_path, monkeypatch, request=request, training={"steps": 1}, trial={"seeds": 3})
    assert [line for line in told if "--keep-adapters: their adapters are gone" in line] == [
        "trial: 4 of 6 trainings were finished without --keep-adapters: their adapters are gone; those of the others are kept"
    ]
    kept = {name for name, path in run_paths(more.folder).items() if (path / "adapter").is_dir()}
    assert kept == {"curated/2", "random/2"}
    assert len(run_paths(first.folder)) == 5


def test_models_from_scratch_are_tried(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {
        "model_type": "llama",
        "vocab_size": 400,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    }
    done = tried(out, tmp_path, monkeypatch, training={"method": "from_scratch", "config": shape, "learning_rate": 0.01})
    arms = {arm["arm"]: arm for arm in done.report.data["arms"]}
    untrained = arms["base"]["held_out_nll"]["validation"][0]
    assert all(loss < untrained for arm in ("curated", "random") for loss in arms[arm]["held_out_nll"]["validation"])


def test_a_learning_curve_has_every_share_of_both_orders(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tried(out, tmp_path, monkeypatch, trial={"protocol": "progressive", "shares": [0.5, 1.0]})
    data = done.report.data
    assert {(point["curve"], point["share"]) for point in data["curves"]} == {
        (curve, share) for curve in ("ordered", "shuffled") for share in (0.5, 1.0)
    }
    assert {arm["arm"]: arm["steps"] for arm in data["arms"]} == {
        "ordered@0.5": 2,
        "shuffled@0.5": 2,
        "ordered@1": 4,
        "shuffled@1": 4,
        "base": 0,
    }
    assert data["primary"] == {"treated": "ordered", "control": "shuffled", "task": "sums"}
    # All rows are the same rows in either order of choosing: they are trained once per seed and reported in both curves.
    scores = {score["arm"]: score["strict"] for score in data["scores"]}
    assert scores["ordered@1"] == scores["shuffled@1"]
    assert len(run_bytes(out)) == 7  # the untrained model; two seeds of half the rows either way, and of all rows


def test_a_mixture_is_tried_at_every_share(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tried(out, tmp_path, monkeypatch, trial={"protocol": "mix", "shares": [0.0, 1.0]})
    data = done.report.data
    assert [arm["arm"] for arm in data["arms"]] == ["synthetic@0", "synthetic@1", "base"]
    assert data["primary"] == {"treated": "synthetic@1", "control": "synthetic@0", "task": "sums"}
    assert {point["share"] for point in data["curves"]} == {0.0, 1.0}


def test_choices_are_tried(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"Is {n} more than 50?", "choices": ["yes", "no"], "gold": int(n <= 50)} for n in range(40, 60, 3)]
    write_rows(tmp_path / "choices.jsonl", rows)
    choice = {"name": "more", "kind": "choice", "data": str(tmp_path / "choices.jsonl"), "counted_from": 0}
    done = tried(out, tmp_path, monkeypatch, trial={"tasks": [choice]})
    scores = [value for score in done.report.data["scores"] for value in score["strict"]]
    assert all(0 <= value <= 1 for value in scores)
    assert sum(scores) > 0


# What a worker cannot do


def test_an_error_of_a_worker_is_raised_here_as_it_was_there(out: Path, tmp_path: Path) -> None:
    rows = shutil.copy(task(tmp_path)["data"], tmp_path / "gone.jsonl")
    preparation = prepare(out, recipe(tmp_path, trial={"tasks": [task(tmp_path, name="gone") | {"data": str(rows)}]}))
    Path(rows).unlink()
    with pytest.raises(CurateError) as here:
        preparation.tasks[0][0].items()
    with pytest.raises(CurateError) as raised:
        run_trial(preparation)
    assert type(raised.value) is type(here.value)
    assert "gone.jsonl" in str(raised.value)
    assert processes_about(out) == {}


@pytest.mark.parametrize(
    "raised", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CurateError)]
)
def test_every_error_class_survives_the_way_from_a_worker(
    raised: type[CurateError], whole: TrialResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails_with(raised, whole, tmp_path, monkeypatch)


def test_an_error_class_from_elsewhere_keeps_its_exit_code(
    whole: TrialResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.likelihood.rendering import ChatTemplateError

    _fails_with(ChatTemplateError, whole, tmp_path, monkeypatch)


def _fails_with(raised: type[CurateError], whole: TrialResult, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a worker raise, in this process, and look at what comes out of `make_runs`."""
    from curate.trials import worker, working

    shutil.copytree(out_of(whole), folder / "out")
    copy = Trial.open(folder / "out" / "trial" / whole.folder.name)
    (copy.path(copy.runs[0]) / "done.json").unlink()

    def work(self: Any) -> None:
        raise raised("words of its own")

    monkeypatch.setattr(worker.Worker, "work", work)
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    assert worker.main(copy.folder) == 1
    told = (copy.folder / worker.ERROR).read_bytes()
    again = f"import pathlib, sys; pathlib.Path({str(copy.folder / worker.ERROR)!r}).write_bytes({told!r}); sys.exit(1)"
    monkeypatch.setattr(working, "_command", lambda trial: [sys.executable, "-c", again])
    with pytest.raises(CurateError, match="words of its own") as found:
        make_runs(copy, jobs=1)
    assert found.value.exit_code == raised.exit_code
    assert isinstance(found.value, next(kind for kind in raised.__mro__ if kind.__module__ == errors.__name__))


def test_a_worker_that_is_alone_where_two_were_planned_says_so(
    whole: TrialResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.trials import worker

    shutil.copytree(out_of(whole), tmp_path / "out")
    copy = Trial.open(tmp_path / "out" / "trial" / whole.folder.name)
    planned = replace(copy, plan=replace(copy.plan, processes=2))
    planned.save()
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    assert worker.main(copy.folder) == 1
    assert "planned for 2 processes, started in 1" in json.loads((copy.folder / worker.ERROR).read_text())["message"]


def test_processes_of_one_run_wait_for_each_other_for_days(whole: TrialResult, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.trials import worker

    met: list[dict[str, Any]] = []
    monkeypatch.setattr("accelerate.PartialState", lambda **given: met.append(given))
    copy = Trial.open(whole.folder)
    worker.join(copy, 1)
    worker.join(replace(copy, plan=replace(copy.plan, processes=2)), 2)
    (given,) = met
    assert (given["cpu"], given["timeout"].days) == (True, 30)


def test_a_task_that_the_template_does_not_take_is_refused_before_the_first_step(tmp_path: Path, plain_model_dir: Path) -> None:
    out = run_to_try(tmp_path, plain_model_dir)
    with pytest.raises(ModelError, match="chat template"):
        prepare(out, recipe(tmp_path, trial={"tasks": [task(tmp_path, system="Be brief.")]}))


def test_a_batch_that_processes_cannot_share_is_refused_before_the_first_step(out: Path) -> None:
    with pytest.raises(UsageError, match="cannot be dealt to 3 processes"):
        prepare(out, request=Request(processes=3))


def test_the_test_set_in_the_training_rows_is_refused(out: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} + 1?", "gold": str(n + 1)} for n in range(8)]
    leaked = task(tmp_path) | {"data": str(write_rows(tmp_path / "leaked.jsonl", rows))}
    with pytest.raises(InputError, match="stand in the training rows"):
        prepare(out, recipe(tmp_path, trial={"tasks": [leaked]}))


# Killed


def is_training(out: Path) -> bool:
    return any(out.glob("trial/runs/*/checkpoint-*/curate-complete.json"))


def workers(out: Path) -> dict[int, str]:
    return {number: line for number, line in processes_about(out).items() if "trials.worker" in line}


def resumes(out: Path, expected: TrialResult, state: Path, *options: str) -> None:
    """The same command ends with the numbers of an undisturbed trial, and leaves alone what was finished."""
    before = run_bytes(out)
    done = ended(begin("trial", out, "--json", *options, state=state))
    assert done.code == 0, done.err
    assert numbers(done.json) == numbers(expected.report.data)
    assert answers(Path(done.json["folder"])) == answers(expected.folder)
    after = run_bytes(out)
    assert {name: after[name] for name in before} == before
    assert files_of_runs(out) == PLAIN


def test_a_killed_trial_leaves_no_worker_and_goes_on_where_it_was(whole: TrialResult, out: Path, state: Path) -> None:
    process = begin("trial", out, state=state)
    wait_for(lambda: run_bytes(out), process=process)
    started = workers(out)
    process.kill()
    process.communicate()
    assert started
    wait_for(lambda: all_gone(started), timeout_s=15)
    assert 0 < len(run_bytes(out)) < 5
    resumes(out, whole, state)


@pytest.fixture(scope="module")
def long_untried(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A run folder whose trainings take some seconds."""
    return run_to_try(tmp_path_factory.mktemp("long"), tiny_model_dir, training=LONG)


@pytest.fixture(scope="module")
def long_whole(long_untried: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialResult]:
    folder = tmp_path_factory.mktemp("long-whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setattr(trial, "make_runs", in_this_process)
        yield run_trial(prepare(Path(shutil.copytree(long_untried, folder / "out"))))


def _parent_killed(number: int) -> None:
    os.kill(number, signal.SIGKILL)


def _group_killed(number: int) -> None:
    os.killpg(number, signal.SIGKILL)


def _group_interrupted(number: int) -> None:
    os.killpg(number, signal.SIGINT)


def _terminated(number: int) -> None:
    os.kill(number, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", ["inside", "between"])
@pytest.mark.parametrize(
    ("end", "code"),
    [(_parent_killed, -9), (_group_killed, -9), (_group_interrupted, 130), (_terminated, 143)],
    ids=["parent killed", "group killed", "interrupted", "terminated"],
)
def test_a_trial_ended_anyhow_goes_on_where_it_was(
    end: Any, code: int, moment: str, long_untried: Path, long_whole: TrialResult, tmp_path: Path, state: Path
) -> None:
    out = Path(shutil.copytree(long_untried, tmp_path / "long"))
    process = begin("trial", out, state=state)
    wait_for(lambda: is_training(out) if moment == "inside" else len(run_bytes(out)) >= 3, process=process)
    started = workers(out)
    end(process.pid)
    outcome = ended(process)
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    wait_for(lambda: all_gone(started), timeout_s=15)
    assert processes_about(out) == {}
    assert len(run_bytes(out)) < 5
    resumes(out, long_whole, state)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_killed_again_and_again_ends_with_the_same_numbers(
    long_untried: Path, long_whole: TrialResult, tmp_path: Path, state: Path
) -> None:
    out = Path(shutil.copytree(long_untried, tmp_path / "long"))
    for _ in range(5):
        before = {path: path.stat().st_mtime_ns for path in out.glob("trial/runs/*/checkpoint-*/curate-complete.json")}
        process = begin("trial", out, state=state)
        wait_for(
            lambda before=before, process=process: (
                process.poll() is not None
                or any(
                    before.get(path) != path.stat().st_mtime_ns
                    for path in out.glob("trial/runs/*/checkpoint-*/curate-complete.json")
                    if path.exists()
                )
            )
        )
        _group_killed(process.pid) if process.poll() is None else None
        process.communicate()
        wait_for(lambda: all_gone(processes_about(out)), timeout_s=15)
    resumes(out, long_whole, state)


@pytest.mark.slow
def test_a_killed_worker_is_told_and_the_rest_is_not_lost(
    long_untried: Path, long_whole: TrialResult, tmp_path: Path, state: Path
) -> None:
    out = Path(shutil.copytree(long_untried, tmp_path / "long"))
    process = begin("trial", out, "--jobs", "2", state=state)
    wait_for(lambda: is_training(out), process=process)
    started = workers(out)
    os.kill(min(started), signal.SIGKILL)
    outcome = ended(process)
    assert outcome.code == 1
    assert "a worker died (killed; often for want of memory: pass a smaller --jobs)" in outcome.err
    assert all_gone(started)
    resumes(out, long_whole, state, "--jobs", "2")


@pytest.mark.slow
def test_a_second_trial_of_the_folder_is_refused(long_untried: Path, tmp_path: Path, state: Path) -> None:
    out = Path(shutil.copytree(long_untried, tmp_path / "long"))
    process = begin("trial", out, state=state)
    try:
        wait_for(lambda: workers(out), process=process)
        second = ended(begin("trial", out, state=state))
        assert second.code == 2
        assert f"in use by process {process.pid}" in second.err
        assert len(second.err.strip().splitlines()[-1].split("; ")) == 2
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("end", [_parent_killed, _terminated])
def test_no_probe_outlives_the_command(end: Any, long_untried: Path, tmp_path: Path, state: Path) -> None:
    out = Path(shutil.copytree(long_untried, tmp_path / "long"))
    process = begin("trial", out, "--dry-run", state=state)
    started = wait_for(lambda: {number for number, line in processes_about(out).items() if "trials.cost" in line})
    end(process.pid)
    process.communicate()
    wait_for(lambda: all_gone(started), timeout_s=3)


# Several processes per run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_what_one_trains(out: Path, whole: TrialResult, state: Path) -> None:
    done = ended(begin("trial", out, "--processes", "2", "--json", state=state))
    assert done.code == 0, done.err
    one, two = whole.report.data, done.json
    trained = {name: found["ranks"] for name, found in results(Path(two["folder"])).items()}
    assert trained == {name: [0, 1] for name in results(whole.folder)}
    assert {tuple(found["ranks"]) for found in results(whole.folder).values()} == {(0,)}
    for first, second in zip(one["arms"], two["arms"], strict=True):
        assert (first["arm"], first["tokens"], first["steps"]) == (second["arm"], second["tokens"], second["steps"])
        for name, values in first["held_out_nll"].items():
            assert second["held_out_nll"][name] == pytest.approx(values, abs=1e-3)
        for mine, theirs in zip(first["loss"], second["loss"], strict=True):
            assert [loss for _, loss in theirs] == pytest.approx([loss for _, loss in mine], abs=1e-2)
    assert {len(rows) for rows in answers(Path(two["folder"])).values()} == {8}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_of_a_killed_trial_end_too(long_untried: Path, tmp_path: Path, state: Path) -> None:
    out = Path(shutil.copytree(long_untried, tmp_path / "long"))
    process = begin("trial", out, "--processes", "2", state=state)
    wait_for(lambda: is_training(out), process=process)
    started = workers(out)
    assert len(started) >= 3  # the launcher and two
    process.kill()
    process.communicate()
    wait_for(lambda: all_gone(started), timeout_s=30)
