"""run_trial(): from a prepared trial to a verdict. Every stage is resumable; what is trained is never trained again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from curate import _fs, progress
from curate.errors import CurateError, InputError, UsageError
from curate.recipes import load_recipe
from curate.trials.judging import REPORT, TrialReport, judge_trial
from curate.trials.picture import draw
from curate.trials.plan import RESULT, Run, Trial
from curate.trials.power import power_sentence
from curate.trials.preparation import Preparation
from curate.trials.tasks import load_items, load_task
from curate.trials.working import make_runs

STATED, PICTURE = "stated.json", "trial.svg"


@dataclass(frozen=True)
class TrialResult:
    """What a trial found and where it lies."""

    folder: Path
    report: TrialReport

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"folder": str(self.folder), **self.report.data}

    def pass_gate(self, wanted: str | None) -> None:
        """Raise CurateError where the verdict is less than wanted: `helped`, or `no-worse`, which `helped` passes too."""
        enough = {None: (), "helped": ("helped",), "no-worse": ("helped", "no worse")}[wanted]
        if wanted is not None and self.report.word not in enough:
            raise CurateError(f"trial: the verdict is `{self.report.word}`, required was {wanted}")


def run_trial(preparation: Preparation) -> TrialResult:
    """Train and ask every arm under every seed, then judge. Run again after any interruption and it goes on where it stopped."""
    with _fs.run_folder(preparation.out):
        progress.note(f"trial: {power_sentence(_stated(preparation))}")
        rate = _rate(preparation)
        trial = preparation.commit(preparation.runs(rate))
        _tell_of_adapters(trial)
        make_runs(trial, jobs=preparation.jobs)
        report = judge_trial(trial, preparation.tasks, _facts(preparation, trial, rate))
        report.save(trial.folder)
        draw(report, trial.folder / PICTURE)
    return TrialResult(trial.folder, report)


def _tell_of_adapters(trial: Trial) -> None:
    """Say of which runs adapters are wanted that were trained without keeping them."""
    finished = [run for run in trial.runs if run.steps and trial.is_done(run)] if trial.keep_adapters else []
    gone = {run.key for run in finished if not any((trial.path(run) / name).is_dir() for name in ("adapter", "model"))}
    if gone:
        progress.note(
            f"trial: {len(gone)} of {len({run.key for run in trial.runs if run.steps})} trainings were finished without "
            "--keep-adapters: their adapters are gone; those of the others are kept"
        )


def _stated(preparation: Preparation) -> dict[str, Any]:
    """What the trial can find, as stated before its first step; kept, so that no outcome changes it."""
    path = preparation.folder / STATED
    if not path.exists():
        _fs.make_folder(preparation.folder)
        _fs.commit_json(path, preparation.power)
    return _fs.read_json(path)


def judge_again(out: Path, recipe: str | None = None) -> TrialResult:
    """Judge the stored answers of a finished trial by today's rules, the newest one where a folder has several.

    `recipe` is a name or a file. Raises UsageError where no finished trial is found, or a task has other items than were asked.
    """
    found = finished_trials(out, recipe)
    if not found and recipe is not None and Path(recipe).is_file():
        recipe = load_recipe(recipe).name
        found = finished_trials(out, recipe)
    if not found:
        raise UsageError(f"{out}: holds no finished trial{f' of {recipe}' if recipe else ''}; run `curate trial {out}`")
    folder = found[-1]
    old = TrialReport.load(folder)
    trial = Trial.open(folder)
    tasks = [(task, load_items(task)) for task in (load_task(entry["task"]) for entry in trial.plan.tasks)]
    report = judge_trial(trial, tasks, old.data["facts"])
    with _fs.run_folder(out):
        report.save(folder)
        draw(report, folder / PICTURE)
    return TrialResult(folder, report)


def finished_trials(out: Path, recipe: str | None = None) -> list[Path]:
    """Folders of the finished trials of a run, the oldest first."""
    found = [path.parent for path in (out / "trial").glob(f"*/{REPORT}")]
    mine = [folder for folder in found if recipe is None or folder.name.rpartition("-")[0] == recipe]
    return sorted(mine, key=lambda folder: (folder / REPORT).stat().st_mtime_ns)


def _rate(preparation: Preparation) -> float:
    """The learning rate: the one given, else that with the lowest loss of the random arm on the validation rows."""
    pilots = preparation.pilots()
    if not pilots:
        return preparation.settings.training.learning_rate[0]
    trial = preparation.commit(pilots)
    make_runs(trial, jobs=preparation.jobs)
    chosen = chosen_rate(trial)
    assert chosen is not None
    best, losses = chosen
    told = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in sorted(losses.items()))
    note = f"learning rate {best:g}, chosen by the random arm's loss on validation rows ({told} nats per token)"
    if note not in preparation.notes:
        preparation.notes.append(note)
    return best


def chosen_rate(pilots: Trial) -> tuple[float, Mapping[float, float]] | None:
    """The learning rate with the lowest loss on the validation rows, and all losses; None while a pilot is unfinished."""
    if pilots.unfinished():
        return None
    losses = {run.learning_rate: _validation_loss(pilots, run) for run in pilots.runs}
    return min(losses, key=lambda rate: (losses[rate], rate)), losses


def _validation_loss(trial: Trial, run: Run) -> float:
    found = _fs.read_json(trial.path(run) / RESULT)["held_out"].get("validation")
    if not found or not found["tokens"]:
        raise InputError("trial: no validation rows to choose a learning rate by; raise `trial: validation` or give one rate")
    return float(found["nll_sum"] / found["tokens"])


def _facts(preparation: Preparation, trial: Trial, rate: float) -> dict[str, Any]:
    """What the report tells beside the scores."""
    chain = (
        [name for name in preparation.arms.chain() if name in preparation.names]
        if preparation.settings.protocol == "single"
        else []
    )
    return {
        "recipe": preparation.recipe.name,
        "model": preparation.likelihood.model,
        "protocol": preparation.settings.protocol,
        "primary": preparation.primary,
        "steps_between": [
            {"treated": later, "control": earlier, "steps": preparation.arms.steps_between(earlier, later)}
            for earlier, later in pairwise(chain)
        ],
        "power_stated": _stated(preparation),
        "margin": preparation.settings.margin,
        "learning_rate": rate,
        "overlaps": [asdict(found) | {"share": found.share} for found in preparation.overlaps],
        "limits": preparation.limits(trial.runs),
        "notices": [notice for _, items in preparation.tasks for notice in items.notices],
    }
