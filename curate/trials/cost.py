"""What a trial costs, before it is paid: a few real steps and answers are timed, as many at once as runs will be."""

import contextlib
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.errors import CurateError, UsageError
from curate.progress import duration
from curate.trials.arms import BASE
from curate.trials.plan import Run, Trial
from curate.trials.preparation import Preparation
from curate.trials.training import save_steps
from curate.trials.trial import chosen_rate
from curate.trials.worker import end_with_parent
from curate.trials.working import last_words, launched, log_of, started

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PROBE, ASIDE = "probe.json", ".probe-"
TIMED_STEPS = 3
MOST_UNTOLD = 2_000_000
"""Rows of one training, with repetitions, up to which drawing them takes too short a time to speak of."""
FEWEST_SEEDS = 3
"""A budget never shrinks a trial below these: with two seeds their spread is hardly known."""


@dataclass(frozen=True)
class Probe:
    """What was measured of one worker, others like it at work beside it."""

    startup_s: float
    load_s: float
    """Model and trainer, per run."""
    step_s: float
    """Without checkpoints."""
    save_s: float
    """Per checkpoint."""
    item_s: float
    """Per item of the primary task, answers of full length."""
    memory_bytes: int
    """Peak of a process; on a GPU that of the device."""


@dataclass(frozen=True)
class Cost:
    """What a trial is going to take, and what it is going to be able to see."""

    arms: Sequence[str]
    seeds: int
    runs: int
    """Different trainings."""
    steps: int
    tokens: int
    """Completion tokens trained on, over all runs."""
    done: int
    """Trainings, of `runs`, that are finished already."""
    jobs: int
    seconds: float
    """What is left."""
    whole_seconds: float
    """All runs, as if none were finished: what a budget is held against."""
    memory_bytes: int
    """Of all workers together."""
    probe: Probe
    power: dict[str, Any]
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def quote_trial(preparation: Preparation) -> Cost:
    """Time a few steps and answers, and add up. No plan is written: the trial's own folder stays as it is.

    The probe is kept beside the trials: asked again, it costs nothing.
    """
    pilots = [run for run, _ in preparation.pilots()]
    chosen = chosen_rate(preparation.trial_of(pilots)) if pilots else None
    # Until the pilots are done any rate stands for theirs: runs of it are not those that will be judged.
    is_known = chosen is not None or not pilots
    made, first = _drawn(preparation, preparation.settings.training.learning_rate[0] if chosen is None else chosen[0])
    with _fs.run_folder(preparation.out):
        probe = _probe(preparation, first)
    different = list({run.key: run for run in (*pilots, *made)}.values())
    trial = preparation.trial_of(different)
    todo = [run for run in different if not trial.is_done(run) or not (is_known or run.is_pilot or not run.steps)]
    items = sum(len(items) for _, items in preparation.tasks)
    notes = [*preparation.departures, *preparation.notes]
    if preparation.request.eval_command is not None:
        notes.append("the time that --eval-command takes is not in it")
    return Cost(
        arms=preparation.names,
        seeds=len(preparation.seeds),
        runs=sum(run.steps > 0 for run in different),
        steps=sum(run.steps for run in different),
        tokens=sum(run.tokens for run in different),
        done=sum(run.steps > 0 for run in different) - sum(run.steps > 0 for run in todo),
        jobs=preparation.jobs,
        seconds=_seconds(todo, probe, preparation.jobs, items),
        whole_seconds=_seconds(different, probe, preparation.jobs, items),
        memory_bytes=probe.memory_bytes * preparation.request.processes * min(preparation.jobs, max(1, len(todo))),
        probe=probe,
        power=preparation.power,
        notes=notes,
    )


def _drawn(preparation: Preparation, rate: float) -> tuple[list[Run], tuple[Run, "npt.NDArray[np.int64]"]]:
    """All runs, and the first that trains with its rows; those of the others are not kept. Says how far it is where it takes."""
    rows = preparation.steps * preparation.settings.training.batch
    made: list[Run] = []
    first: tuple[Run, npt.NDArray[np.int64]] | None = None
    with progress.measuring("drawing rows") if rows > MOST_UNTOLD else contextlib.nullcontext():
        for run, sequence in preparation.each_run(rate):
            made.append(run)
            first = first or ((run, sequence) if run.steps else None)
            progress.tick(rows=len(sequence))
    assert first is not None
    return made, first


def _seconds(runs: Sequence[Run], probe: Probe, jobs: int, items: int) -> float:
    """Until the last worker is done: runs are handed out in order, each to whoever is free first."""
    free = [probe.startup_s] * jobs
    for run in runs:
        asking = 0.0 if run.is_pilot else items * probe.item_s
        saving = math.ceil(run.steps / save_steps(run.steps)) * probe.save_s
        at = free.index(min(free))
        free[at] += probe.load_s + run.steps * probe.step_s + saving + asking
    return max(free) if runs else 0.0


def within_budget(preparation: Preparation, cost: Cost, budget_s: float) -> tuple[Preparation, Cost]:
    """The trial, made to fit by a stated rule. Raises UsageError where it cannot.

    What is finished already does not count: the same command is the same trial, whenever it is given. First go the arms that
    are neither curated, the primary control nor base, the last first; then seeds, down to three.
    """
    asked = preparation.settings.seeds
    while cost.whole_seconds > budget_s:
        keep = {*preparation.primary, BASE}
        spare = [arm for arm in preparation.names if arm not in keep]
        seeds = preparation.settings.seeds
        if spare and preparation.settings.protocol == "single":
            names = [arm for arm in preparation.names if arm != spare[-1]]
            request = replace(preparation.request, arms=names)
            note = f"arm `{spare[-1]}` left out to stay within {duration(budget_s)}"
            preparation = _again(preparation, request=request, note=note)
        elif seeds > FEWEST_SEEDS:
            settings = preparation.settings.model_copy(update={"seeds": seeds - 1})
            note = f"{seeds - 1} seeds in place of {asked} to stay within {duration(budget_s)}"
            preparation = _again(preparation, settings=settings, note=note)
        else:
            raise UsageError(
                f"--budget: the smallest trial ({', '.join(preparation.names)}; {seeds} seeds) takes "
                f"about {duration(cost.whole_seconds)}, the budget is {duration(budget_s)}; allow more, train fewer steps, or "
                "name a smaller task"
            )
        cost = quote_trial(preparation)
    return preparation, cost


def _again(preparation: Preparation, *, note: str, **changed: Any) -> Preparation:
    """The same trial with another request or settings; what hung on them is computed anew."""
    notes = [other for other in preparation.notes if not ("seeds in place of" in other and "seeds in place of" in note)]
    return replace(preparation, **changed, notes=[*notes, note])


def _probe(preparation: Preparation, made: tuple[Run, "npt.NDArray[np.int64]"]) -> Probe:
    """Measured once for all that its figures depend on: what the first run's key holds but for its rate, and the jobs."""
    run, sequence = made
    key = f"{preparation.plan.key_of(sequence, steps=run.steps, rate=0.0, seed=run.seed)}-{preparation.jobs}"
    path = preparation.folder.parent / PROBE
    known: dict[str, Any] = _fs.read_json(path) if path.exists() else {}
    if key not in known:
        _fs.make_folder(path.parent)
        progress.note("trial: timing a few steps and answers")
        with _aside(preparation, made) as trial:
            known[key] = asdict(_measure(trial, preparation.jobs))
        _fs.commit_json(path, known)
    return Probe(**known[key])


@contextlib.contextmanager
def _aside(preparation: Preparation, made: tuple[Run, "npt.NDArray[np.int64]"]) -> Iterator[Trial]:
    """A trial of one run in a folder of its own that is removed again."""
    for left in preparation.folder.parent.glob(f"{ASIDE}*"):  # of a quote that was killed; this process holds the lock
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=ASIDE, dir=preparation.folder.parent) as name:
        (Path(name) / "rows").symlink_to((preparation.out / "rows").resolve())
        yield preparation.commit([made], Path(name) / "trial" / "probe")


def _measure(trial: Trial, jobs: int) -> Probe:
    begin = str(time.time())
    outs = [trial.folder / f"probe-{number}.json" for number in range(jobs)]
    arguments = [(str(trial.folder), str(out), begin) for out in outs]
    commands = [launched("curate.trials.cost", *given, processes=trial.plan.processes) for given in arguments]
    with started(trial, commands, "probe") as probes:
        for number, probe in enumerate(probes):
            if code := probe.wait():
                last = last_words(log_of(trial, "probe", number)) or f"exit code {code}"
                raise CurateError(f"trial: the probe failed: {last}")
        return max((Probe(**_fs.read_json(out)) for out in outs), key=lambda probe: probe.step_s)


def measure_here(trial: Trial, folder: Path, begun: float) -> Probe:
    """Run a few steps and answers in this process; `folder` is for its checkpoint, `begun` when its start was asked for."""
    import torch

    from curate.trials.evaluation import Asker
    from curate.trials.training import train
    from curate.trials.worker import Worker, join

    torch.set_num_threads(trial.plan.threads)
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    join(trial, processes)
    worker = Worker(trial, rank, processes)
    run = next(run for run in trial.runs if run.steps)
    examples, sequence = worker.rows_of(run)
    startup = time.time() - begun
    times: list[float] = []
    saved: list[float] = []
    batch, steps = trial.plan.how.batch, min(run.steps, 1 + TIMED_STEPS)
    begin = time.monotonic()
    trained = train(
        examples,
        sequence[: steps * batch],
        trial.plan.likelihood(),
        trial.plan.how,
        rate=run.learning_rate,
        steps=steps,
        seed=run.seed,
        folder=folder,
        processes=processes,
        checkpoints=1,  # after the last step, so that none is timed with a step
        on_step=lambda _: times.append(time.monotonic()),
        on_save=lambda: saved.append(time.monotonic()),
    )
    whole = time.monotonic() - begin
    save = saved[-1] - times[-1] if saved else 0.0
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else whole - save
    task, items = worker.tasks[0]
    asked = list(items)[: min(len(items), 128)]
    begin = time.monotonic()
    asker = Asker(trained.model, trial.plan.likelihood(), rank, processes)
    asker.choose(asked) if task.kind == "choice" else asker.generate(task, asked)
    answering = (time.monotonic() - begin) / len(asked)
    return Probe(startup, max(0.0, whole - step * steps - save), step, save, answering, _peak_memory())


def _peak_memory() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `2h`, `1h30m`. Raises UsageError for anything else."""
    import re

    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip().lower())
    seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0.0
    if not seconds or not math.isfinite(seconds):
        raise UsageError(f"--budget {text}: write a time such as 90s, 30m or 2h")
    return seconds


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    end_with_parent()
    measured = measure_here(Trial.open(Path(sys.argv[1])), Path(sys.argv[2]).with_suffix(""), float(sys.argv[3]))
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[2]).write_text(json.dumps(asdict(measured)))
