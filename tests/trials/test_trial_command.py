"""`curate trial`: what it costs, what it is refused for, what it prints, and its exit codes."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_trials import QUIET, in_this_process, numbers, questions, recipe_file, run_paths, run_to_try, task
from workshop import Outcome, curate, write_rows

from curate.trials import TrialResult, cost, prepare, run_trial, trial
from curate.trials.cost import Probe

pytestmark = QUIET
PROBE = Probe(startup_s=10.0, load_s=1.0, step_s=2.0, save_s=0.0, item_s=0.5, memory_bytes=1_000_000_000)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's trials are remembered."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def untried(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A run folder that no trial has touched."""
    return run_to_try(tmp_path_factory.mktemp("untried"), tiny_model_dir)


@pytest.fixture(scope="module")
def result(untried: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialResult]:
    """A finished trial; tests copy it where they change it."""
    folder = tmp_path_factory.mktemp("tried")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setattr(trial, "make_runs", in_this_process)
        yield run_trial(prepare(Path(shutil.copytree(untried, folder / "out"))))


@pytest.fixture
def tried(result: TrialResult) -> Path:
    """Its run folder."""
    return result.folder.parent.parent


@pytest.fixture
def out(untried: Path, tmp_path: Path) -> Path:
    """A copy of the untried folder."""
    return Path(shutil.copytree(untried, tmp_path / "out"))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured: a step takes 2 s, an answer half a second."""
    monkeypatch.setattr(cost, "_measure", lambda trial, jobs: PROBE)


def one_line(outcome: Outcome, code: int, *words: str) -> None:
    """It ended with this exit code and one line that holds the words."""
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    line = outcome.err.strip().splitlines()[-1]
    assert all(word in line for word in words), line
    assert outcome.out == ""


# What it would cost


@pytest.mark.usefixtures("timed")
def test_the_cost_is_added_up_over_the_runs(out: Path) -> None:
    found = curate("trial", out, "--dry-run", "--json", "--jobs", "2").json
    assert found["arms"] == ["curated", "random", "base"]
    assert (found["runs"], found["steps"], found["seeds"], found["done"], found["jobs"]) == (4, 16, 2, 0, 2)
    # Base first (1 s to load, 8 answers), then four runs of 1 s, 4 steps and 8 answers, each by whoever is free.
    training = 1 + 4 * 2 + 8 * 0.5
    assert found["seconds"] == pytest.approx(10 + (1 + 8 * 0.5) + 2 * training)
    assert found["memory_bytes"] == 2 * PROBE.memory_bytes
    assert found["power"]["seeds"] == 2
    assert found["power"]["items"] == 8
    assert set(found["power"]["seeds_needed"]) == {"0.02", "0.03", "0.05"}


@pytest.mark.usefixtures("timed")
def test_the_cost_as_text_tells_time_memory_and_power(out: Path) -> None:
    text = curate("trial", out, "--dry-run", "--jobs", "2").out
    for words in ("41 s", "2.0 GB", "16", "in 80 % of", "needed for 2 points", "nothing was trained"):
        assert words in text.replace("\n", " ")


@pytest.mark.usefixtures("timed")
def test_a_dry_run_trains_nothing(out: Path, state: Path) -> None:
    assert curate("trial", out, "--dry-run").code == 0
    kinds = ("checkpoint-*", "result.json", "done.json", "*.parquet", "trial.json")
    assert [path for kind in kinds for path in (out / "trial").rglob(kind)] == []
    assert not state.exists()


@pytest.mark.usefixtures("timed")
def test_what_is_done_costs_nothing(tried: Path) -> None:
    found = curate("trial", tried, "--dry-run", "--json").json
    assert (found["done"], found["runs"], found["seconds"]) == (4, 4, 0)
    assert found["whole_seconds"] > 0
    told = curate("trial", tried, "--dry-run").out
    assert "time of all runs" in told
    assert "4 done, 0 left" in told


def test_a_measured_cost_is_of_the_right_order(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = curate("trial", out, "--dry-run", "--json", "--jobs", "1").json["probe"]
    assert 0.001 < found["step_s"] < 10
    assert 0.0001 < found["item_s"] < 10
    assert 1 < found["startup_s"] < 200
    assert 100e6 < found["memory_bytes"] < 10e9
    monkeypatch.setattr(cost, "_measure", None)  # asked again, it is read
    assert curate("trial", out, "--dry-run", "--json", "--jobs", "1").json["probe"] == found


@pytest.mark.usefixtures("timed")
def test_a_budget_leaves_arms_out_and_then_seeds(out: Path, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, trial={"against": ["base", "longest", "reverse"], "seeds": 5})
    options: list[str | Path] = ["trial", out, "--recipe", recipe, "--dry-run", "--json", "--jobs", "1", "--budget"]
    whole, less, least = (curate(*options, budget).json for budget in ("2h", "140s", "100s"))
    assert (whole["arms"], whole["seeds"]) == (["curated", "random", "longest", "reverse", "base"], 5)
    assert (less["arms"], less["seeds"]) == (["curated", "random", "base"], 4)
    assert (least["arms"], least["seeds"]) == (["curated", "random", "base"], 3)
    assert least["seconds"] <= 100 < less["seconds"] <= 140 < whole["seconds"]
    assert any("`reverse` left out to stay within" in note for note in less["notes"])
    assert any("3 seeds in place of" in note for note in least["notes"])


@pytest.mark.usefixtures("timed")
def test_a_budget_leaves_out_all_rows_too(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quotes, quote = iter(range(9)), cost.quote_trial
    monkeypatch.setattr(cost, "quote_trial", lambda preparation: (next(quotes), quote(preparation))[1])
    recipe = recipe_file(tmp_path, trial={"against": ["base", "full"], "seeds": 3})
    found = curate("trial", out, "--recipe", recipe, "--dry-run", "--json", "--jobs", "1", "--budget", "120s").json
    assert found["arms"] == ["curated", "random", "base"]


@pytest.mark.usefixtures("timed")
def test_a_budget_that_no_trial_fits_is_refused(out: Path) -> None:
    one_line(curate("trial", out, "--budget", "20s"), 2, "--budget", "the smallest trial", "20 s", "train fewer steps")
    assert list(out.glob("trial/runs/*/result.json")) == []


@pytest.mark.usefixtures("timed")
def test_a_budget_within_reach_is_kept_to(tried: Path) -> None:
    outcome = curate("trial", tried, "--budget", "1h", "--json")
    assert outcome.code == 0
    assert outcome.json["verdict"]["word"] == "not trained enough to judge"


@pytest.mark.usefixtures("timed")
@pytest.mark.parametrize("budget", ["", "soon", "0s", "-5m", "10", "1h30", "nan", "m"])
def test_a_budget_that_is_no_time_is_refused(budget: str, tried: Path) -> None:
    one_line(curate("trial", tried, f"--budget={budget}", "--dry-run"), 2, "--budget")


def test_a_budget_is_read_before_anything_is_measured(tried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.pipeline.folder_to_try", None)
    one_line(curate("trial", tried, "--budget", "2x"), 2, "--budget 2x", "90s, 30m or 2h")


# What it finds


def test_a_finished_trial_is_shown_again(tried: Path, result: TrialResult) -> None:
    outcome = curate("trial", tried)
    assert outcome.code == 0
    for words in ("curated", "random", "base", "not trained enough to judge: `curated` scored the same", result.folder.name):
        assert words in outcome.out.replace("\n", "")


def test_json_on_stdout_is_the_report_and_nothing_else(tried: Path, result: TrialResult) -> None:
    found = curate("trial", tried, "--json").json
    assert found["folder"] == str(result.folder)
    assert numbers(found) == numbers(json.loads((result.folder / "trial.json").read_bytes()))


@pytest.mark.parametrize("wanted", ["helped", "no-worse"])
def test_a_gate_that_is_not_passed_ends_with_one_after_the_report(wanted: str, tried: Path) -> None:
    outcome = curate("trial", tried, "--require", wanted, "--json")
    assert outcome.code == 1
    assert outcome.err.strip().splitlines()[-1].endswith(f"the verdict is `not trained enough to judge`, required was {wanted}")
    assert outcome.json["verdict"]


@pytest.mark.parametrize(
    ("word", "wanted", "code"),
    [
        ("helped", "helped", 0),
        ("helped", "no-worse", 0),
        ("no worse", "no-worse", 0),
        ("no worse", "helped", 1),
        ("hurt", "no-worse", 1),
        ("cannot tell", "no-worse", 1),
    ],
)
def test_a_gate_passes_the_words_that_are_enough(word: str, wanted: str, code: int, result: TrialResult) -> None:
    from curate.errors import CurateError
    from curate.trials import TrialReport

    data = {**result.report.data, "verdict": {**result.report.data["verdict"], "word": word}}
    told = TrialResult(result.folder, TrialReport(data))
    if code:
        with pytest.raises(CurateError) as raised:
            told.pass_gate(wanted)
        assert raised.value.exit_code == code
    else:
        told.pass_gate(wanted)


def test_stored_answers_are_judged_again_without_training(
    tried: Path, result: TrialResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    again = curate("trial", tried, "--rescore", "--json")
    assert again.code == 0, again.err
    assert numbers(again.json) == numbers(result.report.data)


def test_judging_again_follows_the_answers(result: TrialResult, tried: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = Path(shutil.copytree(tried, tmp_path / "out"))
    for name, path in run_paths(out / "trial" / result.folder.name).items():
        table = pq.read_table(path / "task-sums.parquet")
        texts = [f"Final Answer: {n + 2}" if name.startswith("curated") else "none" for n in range(8)]
        pq.write_table(table.set_column(2, "text", pa.array(texts)), path / "task-sums.parquet")
    found = curate("trial", out, "--rescore", "--require", "helped", "--json")
    assert found.code == 0, found.err
    assert found.json["verdict"]["word"] == "helped"
    scores = {score["arm"]: score["strict"] for score in found.json["scores"]}
    assert scores == {"curated": [1.0, 1.0], "random": [0.0, 0.0], "base": [0.0]}


def test_answers_to_other_questions_are_not_judged_again(tried: Path, untried: Path, tmp_path: Path) -> None:
    original = untried.parent / "questions.jsonl"
    kept = original.read_bytes()
    original.unlink()
    try:
        questions(untried.parent, 7)
        one_line(curate("trial", tried, "--rescore"), 2, "answers other items than the task has now")
    finally:
        original.write_bytes(kept)


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_picture_is_drawn_where_asked(ending: str, tried: Path, tmp_path: Path) -> None:
    assert curate("trial", tried, "--plot", tmp_path / f"it.{ending}").code == 0
    assert (tmp_path / f"it.{ending}").stat().st_size > 1000


def test_more_seeds_train_only_what_is_new(tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "make_runs", in_this_process)
    out = Path(shutil.copytree(tried, tmp_path / "out"))
    before = {path: path.read_bytes() for path in out.glob("trial/runs/*/result.json")}
    outcome = curate("trial", out, "--seeds", "3", "--json")
    report = json.loads(outcome.out[outcome.out.index("{\n") :])  # after what the trainer prints in this process
    assert [len(arm["seeds"]) for arm in report["arms"]] == [3, 3, 1]
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(out.glob("trial/runs/*/result.json"))) == len(before) + 2


# What it is refused for


def test_an_untried_folder_has_nothing_to_judge_again(out: Path) -> None:
    one_line(curate("trial", out, "--rescore"), 2, "holds no finished trial")


def test_judging_again_needs_a_folder() -> None:
    one_line(curate("trial", "--rescore"), 2, "--rescore needs the folder of a run")


@pytest.mark.parametrize("option", [["--seeds", "3"], ["--model", "m"], ["--dry-run"], ["--jobs", "2"], ["--keep-adapters"]])
def test_judging_again_refuses_what_it_would_ignore(option: list[str], tried: Path) -> None:
    one_line(curate("trial", tried, "--rescore", *option), 2, "--rescore", option[0], "no say")


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_run(tmp_path: Path) -> None:
    one_line(curate("trial", tmp_path, "--plot", tmp_path / "it.docx"), 2, "it.docx")


def test_the_recipe_may_be_named_by_its_file_when_judging_again(tried: Path, untried: Path) -> None:
    assert curate("trial", tried, "--rescore", "--recipe", untried.parent / "likelier.yaml").code == 0
    one_line(curate("trial", tried, "--rescore", "--recipe", "ifd-top50"), 2, "holds no finished trial of ifd-top50")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    outcome = curate("trial", tmp_path / "mine", "--dry-run")
    assert outcome.code in (2, 3)
    one_line(outcome, outcome.code, str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_run_without_the_scores_of_the_recipe_is_refused(out: Path) -> None:
    outcome = curate("trial", out, "--recipe", "ifd-top50", "--dry-run")
    assert outcome.code in (2, 3)
    one_line(outcome, outcome.code, "curate annotate")


def test_a_folder_without_a_selection_needs_a_recipe(out: Path) -> None:
    shutil.rmtree(out / "selection")
    one_line(curate("trial", out, "--dry-run"), 2, "name the recipe to try with --recipe")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "1"], ["--seeds"]),
        (["--steps", "0"], ["--steps"]),
        (["--epochs", "0"], ["--epochs"]),
        (["--jobs", "0"], ["--jobs"]),
        (["--processes", "0"], ["--processes"]),
        (["--preset", "classic"], ["--preset", "classic"]),
        (["--protocol", "double"], ["--protocol"]),
        (["--require", "hurt"], ["--require"]),
        (["--learning-rate", "-1"], ["learning_rate", "greater than 0"]),
        (["--learning-rate", "nan"], ["learning_rate"]),
        (["--learning-rate", "2"], ["learning_rate"]),
        (["--steps", "5", "--epochs", "2"], ["either"]),
        (["--arms", "randm"], ["randm", "random"]),
        (["--arms", "bse"], ["'bse' is no arm and no recipe; did you mean 'base'? arms are random-clean", "after:N"]),
        (["--steps", "99999999"], ["training.steps: at most 1,000,000 steps"]),
        (["--epochs", "99999999"], ["epochs are", "at most 1,000,000"]),
        (["--arms", "source:nobody"], ["source:nobody", "human"]),
        (["--arms", "after:7"], ["after:7"]),
        (["--recipe", "familiarity-top5"], ["familiarity-top5", "familiarity-top50"]),
        (["--recipe", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--task", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--plot", "it.docx"], ["it.docx"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
@pytest.mark.usefixtures("timed")
def test_wrong_options_are_a_usage_error_of_one_line(options: list[str], words: list[str], tried: Path) -> None:
    outcome = curate("trial", tried, "--dry-run", *options) if "--plot" not in options else curate("trial", tried, *options)
    one_line(outcome, 2, *words)


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    one_line(curate("trial", tmp_path / "nowhere", "--dry-run"), 2, "nowhere")


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"tasks": ["missing-data"]}, 3, ["gone.jsonl", "no such file"]),
        ({"tasks": ["twice", "twice"]}, 2, ["two tasks are called 'sums'"]),
        ({"primary_task": "products"}, 2, ["primary_task 'products'", "sums"]),
        ({"tasks": []}, 2, ["neither gold answers nor tests", "--task"]),
        ({"validation": 0.01}, 3, ["none for validation", "larger share"]),
        ({"validation": 0.99}, 3, ["hold out less"]),
        ({"protocol": "mix", "human": ["nobody"]}, 2, ["protocol: mix", "trial: human"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_recipe_that_cannot_be_tried_says_why(
    changed: dict[str, Any], code: int, words: list[str], out: Path, tmp_path: Path
) -> None:
    tasks = {"missing-data": task(tmp_path) | {"data": str(tmp_path / "gone.jsonl")}, "twice": task(tmp_path)}
    if "tasks" in changed:
        changed = {**changed, "tasks": [tasks[name] for name in changed["tasks"]]}
    one_line(curate("trial", out, "--recipe", recipe_file(tmp_path, trial=changed), "--dry-run"), code, *words)


def test_a_recipe_without_a_model_needs_one_named(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_measure", lambda trial, jobs: PROBE)
    rows = [{"prompt": f"What is {n // 2} + 1?", "response": "It is " + "so " * n, "gold": str(n // 2 + 1)} for n in range(80)]
    assert curate("--recipe", "longest50", write_rows(tmp_path / "d.jsonl", rows), "--out", tmp_path / "out").code == 0
    one_line(curate("trial", tmp_path / "out", "--dry-run"), 2, "--model", "the one to train")
    named = curate("trial", tmp_path / "out", "--dry-run", "--json", "--model", tiny_model_dir, "--device", "cpu")
    assert named.code == 0, named.err
    one_line(curate("trial", tmp_path / "out", "--dry-run", "--model", tmp_path / "nowhere"), 3, "nowhere")


def test_a_second_process_is_refused_while_one_writes(out: Path) -> None:
    handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        one_line(curate("trial", out, "--dry-run"), 2, "in use by", "wait for it")
    finally:
        os.close(handle)
