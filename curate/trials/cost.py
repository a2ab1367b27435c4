"""What a trial costs, before it is paid: a few real steps and answers are timed, as many at once as runs will be."""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from curate import _fs, progress
from curate.errors import CurateError, UsageError
from curate.progress import duration
from curate.trials.arms import BASE
from curate.trials.plan import Run, Trial
from curate.trials.preparation import Preparation

PROBE = "probe.json"
TIMED_STEPS = 3
FEWEST_SEEDS = 3
"""A budget never shrinks a trial below these: with two seeds their spread is hardly known."""


@dataclass(frozen=True)
class Probe:
    """What was measured of one worker, others like it at work beside it."""

    startup_s: float
    load_s: float
    """Model and trainer, per run."""
    step_s: float
    item_s: float
    """Per item of the primary task, answers of full length."""
    memory_bytes: int
    """Peak of a worker; on a GPU that of the device."""


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
    """Runs that are finished already."""
    jobs: int
    seconds: float
    memory_bytes: int
    """Of all workers together."""
    probe: Probe
    power: dict[str, Any]
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def quote_trial(preparation: Preparation) -> Cost:
    """Time a few steps and answers, and add up. The probe is kept with the plan: asked again, it costs nothing."""
    rate = preparation.settings.training.learning_rate[0]
    runs = [run for run, _ in (*preparation.pilots(), *preparation.runs(rate))]
    with _fs.run_folder(preparation.out):
        trial = preparation.commit(preparation.runs(rate))
        probe = _probe(trial, preparation.jobs)
    different = list({run.key: run for run in runs}.values())
    todo = [run for run in different if not trial.is_done(run)]
    return Cost(
        arms=preparation.names,
        seeds=len(preparation.seeds),
        runs=sum(run.steps > 0 for run in different),
        steps=sum(run.steps for run in different),
        tokens=sum(run.tokens for run in different),
        done=len(different) - len(todo),
        jobs=preparation.jobs,
        seconds=_seconds(todo, probe, preparation.jobs, sum(len(items) for _, items in preparation.tasks)),
        memory_bytes=probe.memory_bytes * min(preparation.jobs, max(1, len(todo))),
        probe=probe,
        power=preparation.power,
        notes=tuple(preparation.notes),
    )


def _seconds(runs: Sequence[Run], probe: Probe, jobs: int, items: int) -> float:
    """Until the last worker is done: runs are handed out in order, each to whoever is free first."""
    free = [probe.startup_s] * jobs
    for run in runs:
        asking = 0.0 if run.is_pilot else items * probe.item_s
        at = free.index(min(free))
        free[at] += probe.load_s + run.steps * probe.step_s + asking
    return max(free) if runs else 0.0


def within_budget(preparation: Preparation, cost: Cost, budget_s: float) -> tuple[Preparation, Cost]:
    """The trial, made to fit by a stated rule. Raises UsageError where it cannot.

    First go the arms that are neither curated, the primary control nor base, the last first; then seeds, down to three.
    """
    asked = preparation.settings.seeds
    while cost.seconds > budget_s:
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
                f"about {duration(cost.seconds)}, the budget is {duration(budget_s)}; allow more, train fewer steps, or name "
                "a smaller task"
            )
        cost = quote_trial(preparation)
    return preparation, cost


def _again(preparation: Preparation, *, note: str, **changed: Any) -> Preparation:
    """The same trial with another request or settings; what hung on them is computed anew."""
    notes = [other for other in preparation.notes if not ("seeds in place of" in other and "seeds in place of" in note)]
    return replace(preparation, **changed, notes=[*notes, note])


def _probe(trial: Trial, jobs: int) -> Probe:
    """Measured once per plan and number of jobs."""
    path = trial.folder.parent / PROBE
    key = f"{trial.plan.model_identity}-{trial.plan.training}-{trial.plan.tasks[0]['identity']}-{jobs}-{trial.plan.threads}"
    known: dict[str, Any] = _fs.read_json(path) if path.exists() else {}
    if key not in known:
        progress.note("trial: timing a few steps and answers")
        known[key] = asdict(_measure(trial, jobs))
        _fs.commit_json(path, known)
    return Probe(**known[key])


def _measure(trial: Trial, jobs: int) -> Probe:
    from curate.trials.working import environment

    with tempfile.TemporaryDirectory() as name:
        outs = [Path(name) / f"{number}.json" for number in range(jobs)]
        begin = str(time.time())
        probes = [
            subprocess.Popen(  # noqa: S603  (this interpreter, this package)
                [sys.executable, "-m", "curate.trials.cost", str(trial.folder), str(out), begin],
                env=environment(trial),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
            )
            for out in outs
        ]
        errors = [probe.communicate()[1].decode(errors="replace") for probe in probes]
        for probe, error in zip(probes, errors, strict=True):
            if probe.returncode:
                last = (error.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
                raise CurateError(f"trial: the probe failed: {last}")
        found = [Probe(**json.loads(out.read_bytes())) for out in outs]
    return max(found, key=lambda probe: probe.step_s)


def measure_here(trial: Trial, started: float) -> Probe:
    """Run a few steps and answers in this process."""
    import torch

    from curate.trials.evaluation import Asker
    from curate.trials.training import train
    from curate.trials.worker import Worker

    torch.set_num_threads(trial.plan.threads)
    worker = Worker(trial)
    run = next(run for run in trial.runs if run.steps)
    examples, sequence = worker.rows_of(run)
    startup = time.time() - started
    times: list[float] = []
    batch, steps = trial.plan.how.batch, min(run.steps, 1 + TIMED_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        trained = train(
            examples,
            sequence[: steps * batch],
            trial.plan.likelihood(),
            trial.plan.how,
            rate=run.learning_rate,
            steps=steps,
            seed=run.seed,
            folder=Path(folder),
            on_step=lambda _: times.append(time.monotonic()),
        )
        whole = time.monotonic() - begin
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else whole
    task, items = worker.tasks[0]
    asked = list(items)[: min(len(items), 128)]
    begin = time.monotonic()
    asker = Asker(trained.model, trial.plan.likelihood())
    asker.choose(asked) if task.kind == "choice" else asker.generate(task, asked)
    answering = (time.monotonic() - begin) / len(asked)
    return Probe(startup, max(0.0, whole - step * steps), step, answering, _peak_memory())


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
    measured = measure_here(Trial.open(Path(sys.argv[1])), float(sys.argv[3]))
    Path(sys.argv[2]).write_text(json.dumps(asdict(measured)))
