"""What the tests of trials share: a run of eighty rows, a recipe with a trial of a few steps, a task of a few questions."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from workshop import Outcome, some_rows, write_rows

import curate
from curate.examples import Example
from curate.recipes import load_recipe
from curate.trials.plan import Trial
from curate.trials.worker import Worker

TRAINING = {"rank": 4, "alpha": 8, "learning_rate": 0.02, "warm_up": 0.0, "batch": 4, "steps": 4}
QUIET = pytest.mark.filterwarnings("ignore")
"""Warnings of trl, peft and torch, which are not under test."""


def examples_of(count: int = 24) -> list[Example]:
    """Rows of one turn, of different lengths."""
    return [
        Example([{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}], row=number)
        for number, row in enumerate(some_rows(count))
    ]


def questions(folder: Path, count: int = 8) -> Path:
    """A file of questions that stand in no training row."""
    rows = [{"prompt": f"What is {n} + 2?", "gold": str(n + 2), "reference": f"It is {n + 2}."} for n in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    return write_rows(folder / "questions.jsonl", rows)


def task(folder: Path, *, count: int = 8, **more: Any) -> dict[str, Any]:
    """A task that asks them and reads a number."""
    path = folder / "questions.jsonl"
    data = path if path.exists() else questions(folder, count)
    return {"name": "sums", "kind": "answer", "data": str(data), "max_new_tokens": 6, **more}


def recipe_data(folder: Path, *, trial: Mapping[str, Any] = {}, training: Mapping[str, Any] = {}) -> dict[str, Any]:
    """A recipe that keeps the likelier half, with a trial of two seeds."""
    settings = {"against": ["base"], "tasks": [task(folder)], "seeds": 2, "validation": 0.1, **trial}
    return {
        "name": "likelier",
        "filters": {"perplexity": {"model": "target"}},
        "steps": [{"keep": {"field": "perplexity.content_nll", "lowest": "50%", "within": ["prompt"]}}],
        "unscored": "keep",
        "trial": {**settings, "training": {**TRAINING, **training}},
    }


def recipe_file(folder: Path, **changed: Any) -> Path:
    """The same as a file; JSON is YAML."""
    path = folder / "likelier.yaml"
    path.write_text(json.dumps(recipe_data(folder, **changed)))
    return path


def run_to_try(folder: Path, model: Path, *, rows: int = 80, **changed: Any) -> Path:
    """A folder with rows, scores and a selection."""
    folder.mkdir(parents=True, exist_ok=True)
    data = write_rows(folder / "rows.jsonl", some_rows(rows))
    settings = {"model": str(model), "device": "cpu"}
    return curate.run(recipe_file(folder, **changed), data, out=folder / "out", model=settings).out


def in_this_process(trial: Trial, *, jobs: int) -> None:
    """In the place of `make_runs`: without the seconds that a worker takes to start. What workers are, other tests show."""
    Worker(trial).work()


def recipe(folder: Path, **changed: Any) -> Any:
    """The recipe, read."""
    return load_recipe(recipe_file(folder, **changed))


def run_paths(folder: Path) -> dict[str, Path]:
    """Where the runs of a trial lie, by arm and seed."""
    trial = Trial.open(folder)
    return {f"{run.arm}/{run.seed}": trial.path(run) for run in trial.runs}


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """`result.json` of every run of a trial, by arm and seed."""
    return {name: json.loads((path / "result.json").read_bytes()) for name, path in run_paths(folder).items()}


def answers(folder: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Every stored answer of a trial, by arm, seed and task."""
    import pyarrow.parquet as pq

    return {
        f"{name}/{path.stem}": pq.read_table(path).to_pylist()
        for name, run in run_paths(folder).items()
        for path in sorted(run.glob("task-*.parquet"))
    }


def numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says that depends on neither clock nor place nor history."""
    timeless = ("arms", "scores", "contrasts", "steps", "verdict")
    found = {name: report[name] for name in timeless}
    found["arms"] = [{key: value for key, value in arm.items() if key != "train_seconds"} for arm in report["arms"]]
    found["verdict"] = {name: report["verdict"][name] for name in ("word", "sentence")}
    return found


def begin(*arguments: str | Path, state: Path) -> "subprocess.Popen[str]":
    """`curate` in a process and a process group of its own, its history of trials in `state`."""
    return subprocess.Popen(
        [sys.executable, "-m", "curate.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit it ignored
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_STATE_HOME": str(state)},
    )


def ended(process: "subprocess.Popen[str]", *, timeout_s: float = 240) -> Outcome:
    """Wait for it."""
    out, err = process.communicate(timeout=timeout_s)
    return Outcome(process.returncode, out, err)


def processes_about(text: str | Path) -> dict[int, str]:
    """Living processes, this one excepted, whose command line holds a text: their ids and command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(text) in line and state != "Z":
            found[int(entry.name)] = line
    return found


def wait_for(condition: Any, *, process: "subprocess.Popen[str] | None" = None, timeout_s: float = 120) -> Any:
    """What `condition()` returns once that is true. Fails when time is up, or the process that should bring it about ends."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to pass in time"
        assert process is None or process.poll() is None, ended(process)
        time.sleep(0.05)
    return found


def all_gone(ids: Iterable[int]) -> bool:
    """Whether none of these processes lives."""
    return not any(Path(f"/proc/{number}").exists() and _state(number) != "Z" for number in ids)


def _state(number: int) -> str:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
