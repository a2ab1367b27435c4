"""Starts workers, watches them, and ends them: whatever happens here, no worker outlives it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from curate import _fs, errors, progress
from curate.errors import CurateError, IntegrityError
from curate.progress import duration
from curate.trials.devices import VISIBLE, devices_of
from curate.trials.plan import Run, Trial
from curate.trials.worker import ERROR, PROGRESS

LOOK_S = 0.5
TRAINING_PART = 0.8
"""How much of a run its training counts for, in the time left that is shown."""


def make_runs(trial: Trial, *, jobs: int) -> None:
    """Train and ask everything that is not done. Raises what a worker raised; what is done stays done."""
    todo = trial.unfinished()
    if not todo:
        return
    (trial.folder / ERROR).unlink(missing_ok=True)
    with started(trial, [_command(trial)] * min(jobs, len(todo)), "worker") as workers:
        _watch(trial, todo, workers)
    if (trial.folder / ERROR).exists():
        raise _told(trial)
    if left := trial.unfinished():
        raise CurateError(
            f"trial: {len(left)} runs are unfinished and no worker works on them (another process may: {trial.folder}); "
            "run the same command again"
        )


@contextlib.contextmanager
def started(trial: Trial, commands: Sequence[Sequence[str]], name: str) -> Iterator[Sequence["subprocess.Popen[bytes]"]]:
    """A process per command, with a log each. They end when their standard input closes, so also when this process is killed."""
    with contextlib.ExitStack() as stack:
        logs: list[BinaryIO] = [stack.enter_context(log_of(trial, name, number).open("wb")) for number in range(len(commands))]
        found = [
            subprocess.Popen(  # noqa: S603  (this interpreter, this package)
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment(trial, number),
                start_new_session=True,
            )
            for number, (command, log) in enumerate(zip(commands, logs, strict=True))
        ]
        try:
            yield found
        finally:
            for process in found:
                assert process.stdin is not None
                process.stdin.close()
                process.terminate()
            for process in found:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def log_of(trial: Trial, name: str, number: int) -> Path:
    """What a process has written."""
    return trial.folder / f"{name}-{number}.log"


def _command(trial: Trial) -> list[str]:
    return launched("curate.trials.worker", str(trial.folder), processes=trial.plan.processes)


def launched(module: str, *arguments: str, processes: int) -> list[str]:
    """The command that runs a module in so many processes, which find each other."""
    if processes == 1:
        return [sys.executable, "-m", module, *arguments]
    # Not `accelerate launch --cpu`, which starts one process whatever --num_processes says (accelerate 1.15).
    # Standalone: the system chooses a free port, so that two trials on one machine do not meet.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "--log-dir", os.devnull]
    return [sys.executable, *launcher, "-m", module, *arguments]


def environment(trial: Trial, worker: int = 0) -> dict[str, str]:
    """Of a worker: its threads, its own GPUs, and no chatter."""
    threads, is_cpu = str(trial.plan.threads), trial.plan.likelihood().spec.device == "cpu"
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}
    own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "ACCELERATE_USE_CPU": "true" if is_cpu else "false"}
    if trial.devices:
        # A process that sees several GPUs wraps its model in DataParallel, which TRL refuses.
        own[VISIBLE] = devices_of(worker, trial.devices, trial.plan.processes)
    return {**os.environ, **quiet, **own}


def _watch(trial: Trial, todo: Sequence[Run], workers: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Show how far the runs are until every worker has ended, or one has failed."""
    ticker = progress.Ticker()
    begin = time.monotonic()
    before = sum(_part(trial, run) for run in todo)
    while any(worker.poll() is None for worker in workers):
        time.sleep(LOOK_S)
        ticker.show(_line(trial, todo, before, time.monotonic() - begin))
        if any(worker.poll() not in (None, 0) for worker in workers):
            break
    failed = next((number for number, worker in enumerate(workers) if worker.poll() not in (None, 0)), None)
    ticker.show(_line(trial, todo, before, time.monotonic() - begin), is_last=True)
    if failed is not None and not (trial.folder / ERROR).exists():
        code = workers[failed].returncode
        log = log_of(trial, "worker", failed)
        raise CurateError(
            f"trial: a worker died ({_how(code)}); its last words: {last_words(log) or 'none'} ({log}); run the command again"
        )


def _how(code: int | None) -> str:
    if code == -9:
        return "killed; often for want of memory: pass a smaller --jobs"
    return f"exit code {code}"


def last_words(log: Path) -> str:
    """The last line of a log, or nothing."""
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _part(trial: Trial, run: Run) -> float:
    """How much of a run is done, in [0, 1]."""
    if trial.is_done(run):
        return 1.0
    try:
        told = _fs.read_json(trial.path(run) / PROGRESS)
    except IntegrityError:
        return 0.0
    if told["what"] == "training":
        return float(TRAINING_PART * told["done"] / max(run.steps, 1))
    items = sum(task["items"] for task in trial.plan.tasks) or 1
    return float(TRAINING_PART + (1 - TRAINING_PART) * min(1.0, told["done"] / items))


def _line(trial: Trial, todo: Sequence[Run], before: float, seconds: float) -> str:
    """`trial: 3 of 10 runs · now curated seed 1 · 2 min 10 s left`."""
    parts = [_part(trial, run) for run in todo]
    finished, done = sum(part == 1.0 for part in parts), sum(parts)
    active = [f"{run.arm} seed {run.seed}" for run, part in zip(todo, parts, strict=True) if 0 < part < 1]
    line = [f"trial: {finished} of {len(todo)} runs"]
    if active:
        line.append(f"now {', '.join(active[:3])}")
    if done - before > 0.05 and finished < len(todo):
        line.append(f"{duration((len(todo) - done) * seconds / (done - before))} left")
    return " · ".join(line)


def _told(trial: Trial) -> Exception:
    """The error that a worker left, as it was raised there."""
    found: dict[str, Any] = _fs.read_json(trial.folder / ERROR)
    if found.get("is_bug"):
        return RuntimeError(f"{found['type']}: {found['message']} (traceback in {trial.folder}/worker-*.log)")
    kind: type[CurateError] = getattr(errors, found["type"])
    return kind(found["message"])
