"""What a trial costs, and how it is made to fit a budget."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trial_folders import MODEL, questions, run_folder
from workshop import write_rows

from curate import _fs
from curate.errors import CurateError, UsageError
from curate.trials import cost as costs
from curate.trials.cost import Cost, Probe, parse_duration, quote_trial, within_budget
from curate.trials.plan import DONE, RESULT, Trial
from curate.trials.preparation import Preparation, Request, prepare

PROBE = Probe(startup_s=2.0, load_s=1.0, step_s=0.5, save_s=0.0, item_s=0.25, memory_bytes=1000)
TRAINING = {"steps": 4, "batch": 4, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def _own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # many small files, and no power is lost here


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs were timed, at each time that something was."""
    found: list[int] = []

    def measure(trial: Trial, jobs: int) -> Probe:
        found.append(jobs)
        return PROBE

    monkeypatch.setattr(costs, "_measure", measure)
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{**row, "flag": place % 9 == 0} for place, row in enumerate(questions(40))]
    steps = ("drop: {field: given.flag, is: true}", "keep: {field: given.value, highest: 50%}")
    return run_folder(tmp_path_factory.mktemp("run"), rows, *steps)


def prepared(out: Path, *, arms: tuple[str, ...] | None = ("base",), jobs: int = 1, **said: Any) -> Preparation:
    overrides = {"training": TRAINING, "seeds": 3, **said}
    return prepare(out, model=MODEL, request=Request(arms=arms, jobs=jobs, overrides=overrides))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), ("1.5h", 5400), (" 2H ", 7200), ("0.5m", 30)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "h", "2 h", "30m1h", "-5m", "0s", "0h0m", "1e3s", "inf", "nan", "2d", "1h30", "9" * 400 + "h"]
)
def test_what_is_no_duration_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="write a time such as 90s, 30m or 2h"):
        parse_duration(text)


def test_costs_add_up(out: Path, measured: list[int]) -> None:
    found = quote_trial(prepared(out))
    # base, and two arms under three seeds; eight items to each.
    assert (found.arms, found.seeds, found.runs, found.steps) == (["curated", "random-clean", "base"], 3, 6, 24)
    assert found.seconds == pytest.approx(2 + 7 * (1 + 8 * 0.25) + 24 * 0.5)
    assert (found.done, found.jobs, found.memory_bytes) == (0, 1, 1000)


def test_jobs_share_the_work_and_add_their_memory(out: Path, measured: list[int]) -> None:
    found = quote_trial(prepared(out, jobs=3))
    # Each of three workers makes two trainings; one asks the untrained model as well.
    assert found.seconds == pytest.approx(2 + 3 + 2 * (3 + 2))
    assert found.memory_bytes == 3000
    assert measured == [3]


def test_runs_that_choose_the_rate_are_paid_for_and_ask_nothing(out: Path, measured: list[int]) -> None:
    one = quote_trial(prepared(out))
    more = quote_trial(prepared(out, training={**TRAINING, "learning_rate": [1e-3, 2e-3]}))
    assert more.runs == one.runs + 2
    assert more.seconds == pytest.approx(one.seconds + 2 * (1 + 4 * 0.5))


def finish(preparation: Preparation, rate: float = 1e-3, *, first: int | None = None) -> Trial:
    """Pretend that runs of a rate were made, the first few or all."""
    trial = preparation.commit(preparation.runs(rate))
    for run in trial.runs[:first]:
        _fs.commit_json(trial.path(run) / DONE, {"key": run.key})
    return trial


def test_what_is_done_is_not_paid_for_again(tmp_path: Path, measured: list[int]) -> None:
    preparation = prepared(run_folder(tmp_path, questions(30)))
    before = quote_trial(preparation)
    finish(preparation, first=3)
    after = quote_trial(preparation)
    assert (before.done, after.done, before.runs) == (0, 2, after.runs)  # the third is the untrained model
    assert after.seconds < before.seconds
    assert before.seconds == before.whole_seconds == after.whole_seconds


def test_a_trial_that_is_done_costs_nothing(tmp_path: Path, measured: list[int]) -> None:
    preparation = prepared(run_folder(tmp_path, questions(30)))
    finish(preparation)
    assert quote_trial(preparation).seconds == 0


def files_under(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_quote_leaves_a_trial_as_it_is(tmp_path: Path, measured: list[int]) -> None:
    out = run_folder(tmp_path, questions(30))
    preparation = prepared(out, training={**TRAINING, "learning_rate": [1e-3, 2e-3]})
    finish(preparation, 2e-3)
    before = files_under(out / "trial")
    quote_trial(preparation)
    probe = out / "trial" / "probe.json"
    assert files_under(out / "trial") == before | {probe: probe.read_bytes()}
    assert not list((out / "trial").glob(".probe-*"))


def test_what_a_killed_quote_left_is_removed(tmp_path: Path, measured: list[int]) -> None:
    out = run_folder(tmp_path, questions(30))
    (out / "trial" / ".probe-x" / "trial").mkdir(parents=True)
    quote_trial(prepared(out))
    assert not list((out / "trial").glob(".probe-*"))


def test_a_finished_choice_of_the_rate_is_quoted(tmp_path: Path, measured: list[int]) -> None:
    preparation = prepared(run_folder(tmp_path, questions(30)), training={**TRAINING, "learning_rate": [1e-3, 2e-3]})
    finish(preparation, 2e-3)
    assert quote_trial(preparation).done == 0  # whether 2e-3 is what is chosen, nobody knows yet
    pilots = preparation.commit(preparation.pilots())
    for run, loss in zip(pilots.runs, (3.0, 2.0), strict=True):
        _fs.commit_json(pilots.path(run) / RESULT, {"held_out": {"validation": {"nll_sum": loss, "tokens": 1}}})
        _fs.commit_json(pilots.path(run) / DONE, {"key": run.key})
    found = quote_trial(preparation)
    assert (found.seconds, found.done) == (0, found.runs)


def test_a_checkpoint_is_paid_for_as_often_as_a_run_saves(out: Path, measured: list[int]) -> None:
    base, trained = (run for run, _ in prepared(out).runs(1e-3)[:2])
    slow = replace(PROBE, save_s=10.0)
    for steps, saves in ((4, 4), (5, 5), (6, 3), (100, 5)):
        run = replace(trained, steps=steps)
        assert costs._seconds([run], slow, 1, 0) - costs._seconds([run], PROBE, 1, 0) == pytest.approx(10 * saves)
    assert costs._seconds([base], slow, 1, 0) == costs._seconds([base], PROBE, 1, 0)


def test_a_probe_is_measured_once(tmp_path: Path, measured: list[int]) -> None:
    out = run_folder(tmp_path, questions(30))
    for seeds in (3, 3, 4):
        assert quote_trial(prepared(out, seeds=seeds)).probe == PROBE
    assert measured == [1]
    quote_trial(prepared(out, training={**TRAINING, "rank": 2}))
    quote_trial(prepared(out, jobs=2))
    assert measured == [1, 1, 2]


@pytest.mark.parametrize("what", ["max_new_tokens", "stop", "max_length", "processes"])
def test_what_changes_the_figures_is_measured_again(what: str, tmp_path: Path, measured: list[int]) -> None:
    out = run_folder(tmp_path, questions(30))
    asks = [{"prompt": f"How old is tree number {at} of this park?", "gold": "1"} for at in range(2)]
    rows = write_rows(tmp_path / "t.jsonl", asks)

    def quote(*, task: dict[str, Any], model: dict[str, Any], processes: int = 1) -> None:
        asked = {"name": "t", "kind": "answer", "data": str(rows), **task}
        overrides = {"training": TRAINING, "tasks": (asked,)}
        quote_trial(prepare(out, model=MODEL | model, request=Request(jobs=1, processes=processes, overrides=overrides)))

    same: dict[str, Any] = {"task": {}, "model": {}}
    other: dict[str, dict[str, Any]] = {
        "max_new_tokens": {**same, "task": {"max_new_tokens": 9}},
        "stop": {**same, "task": {"stop": ["."]}},
        "max_length": {**same, "model": {"max_length": 99}},
        "processes": {**same, "processes": 2},
    }
    for settings in (same, same, other[what], other[what]):
        quote(**settings)
    assert measured == [1, 1]


def test_the_time_of_the_users_command_is_said_not_to_be_in_it(out: Path, measured: list[int]) -> None:
    request = Request(jobs=1, eval_command="true", overrides={"training": TRAINING})
    assert any("--eval-command" in note for note in quote_trial(prepare(out, model=MODEL, request=request)).notes)
    assert not any("--eval-command" in note for note in quote_trial(prepared(out)).notes)


def test_other_settings_than_the_recipes_are_told_with_the_cost(out: Path, measured: list[int]) -> None:
    (note,) = (note for note in quote_trial(prepared(out)).notes if note.startswith("not the recipe's own trial: "))
    assert "seeds 3 (recipe: 5); training 4 steps (recipe: 3 epochs)" in note


def test_rows_of_a_long_training_are_drawn_with_a_word(out: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    preparation = prepared(out)
    monkeypatch.setattr(costs, "MOST_UNTOLD", 10)

    def measuring(what: str) -> contextlib.nullcontext[None]:
        told.append(what)
        return contextlib.nullcontext()

    monkeypatch.setattr("curate.progress.measuring", measuring)
    quote_trial(preparation)
    assert told == ["drawing rows"]


def test_what_can_be_found_is_told_with_the_cost(out: Path, measured: list[int]) -> None:
    power = quote_trial(prepared(out)).power
    assert (power["seeds"], power["items"]) == (3, 8)
    assert "assumed variances" in power["source"]
    assert quote_trial(prepared(out)).to_dict()["power"] == power


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
    """Arms and seeds of every trial that was quoted, each costing a second per arm and seed."""
    found: list[tuple[list[str], int]] = []

    def quote(preparation: Preparation) -> Cost:
        assert len(found) < 20, "no end"
        names, seeds = preparation.names, len(preparation.seeds)
        found.append((names, seeds))
        seconds = float(len(names) * seeds)
        return Cost(names, seeds, 0, 0, 0, 0, 1, seconds, seconds, 0, PROBE, {}, notes=tuple(preparation.notes))

    monkeypatch.setattr(costs, "quote_trial", quote)
    return found


def cut(preparation: Preparation, budget_s: float) -> tuple[Preparation, Cost]:
    return within_budget(preparation, costs.quote_trial(preparation), budget_s)


def test_a_trial_within_its_budget_stays_as_it_is(out: Path, counted: list[Any]) -> None:
    preparation = prepared(out)
    found, cost = cut(preparation, 9)
    assert found is preparation
    assert cost.notes == ()


def test_first_the_last_arms_go_and_then_seeds(out: Path, counted: list[tuple[list[str], int]]) -> None:
    found, cost = cut(prepared(out, arms=("random", "longest", "base"), seeds=5), 12)
    assert counted == [
        (["curated", "random-clean", "random", "longest", "base"], 5),
        (["curated", "random-clean", "random", "base"], 5),
        (["curated", "random-clean", "base"], 5),
        (["curated", "random-clean", "base"], 4),
    ]
    assert (found.names, found.seeds, cost.seconds) == (["curated", "random-clean", "base"], [0, 1, 2, 3], 12)


def test_what_was_left_out_is_noted(out: Path, counted: list[Any]) -> None:
    _, cost = cut(prepared(out, arms=("longest", "base"), seeds=4), 9)
    assert cost.notes == (
        "arm `longest` left out to stay within 9.0 s",
        "3 seeds in place of 4 to stay within 9.0 s",
    )


def test_the_note_on_seeds_names_how_many_were_asked_for(out: Path, counted: list[Any]) -> None:
    _, cost = cut(prepared(out, seeds=5), 9)
    assert cost.notes == ("3 seeds in place of 5 to stay within 9.0 s",)


def test_both_kinds_of_full_can_be_left_out(out: Path, counted: list[tuple[list[str], int]]) -> None:
    found, _ = cut(prepared(out, arms=("full", "base")), 9)
    assert found.names == ["curated", "random-clean", "base"]


def test_a_budget_makes_the_same_trial_however_much_is_done(tmp_path: Path, measured: list[int]) -> None:
    out = run_folder(tmp_path, questions(30))
    preparation = prepared(out, arms=("longest", "base"), seeds=4)
    budget = quote_trial(preparation).whole_seconds * 0.6
    small, _ = within_budget(preparation, quote_trial(preparation), budget)
    finish(small)
    again, cost = within_budget(preparation, quote_trial(preparation), budget)
    assert (again.names, again.seeds) == (small.names, small.seeds) != (preparation.names, preparation.seeds)
    assert cost.seconds == 0 < cost.whole_seconds <= budget


def test_a_trial_that_cannot_be_made_smaller_is_refused_with_the_figures(out: Path, counted: list[Any]) -> None:
    complaint = (
        r"the smallest trial \(curated, random-clean, base; 3 seeds\) takes about 9\.0 s, the budget is 8\.0 s; allow more"
    )
    with pytest.raises(UsageError, match=complaint):
        cut(prepared(out, arms=("longest", "base"), seeds=5), 8)


def test_two_seeds_that_were_asked_for_stay_two(out: Path, counted: list[Any]) -> None:
    assert len(cut(prepared(out, seeds=2), 6)[0].seeds) == 2
    with pytest.raises(UsageError, match="2 seeds"):
        cut(prepared(out, seeds=2), 5)


def test_a_learning_curve_keeps_its_shares_and_loses_seeds(out: Path, counted: list[tuple[list[str], int]]) -> None:
    preparation = prepared(out, arms=None, protocol="progressive", shares=(0.5, 1.0), seeds=4)
    found, _ = cut(preparation, 15)
    assert found.names == preparation.names
    assert len(found.seeds) == 3


def test_what_a_budget_left_is_another_plan(out: Path, counted: list[Any]) -> None:
    preparation = prepared(out, seeds=4)
    assert cut(preparation, 9)[0].plan.hash != preparation.plan.hash


def test_a_probe_that_fails_is_told_with_its_last_words(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation = prepared(out)
    trial = preparation.commit(preparation.runs(1e-3))
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(CurateError, match="trial: the probe failed: exit code 1"):
        costs._measure(replace(trial), 1)
