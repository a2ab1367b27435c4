"""What a trial is going to do, frozen before the first step: arms, runs and settings, on disk and on every worker."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from curate import _fs
from curate.examples import stable_hash
from curate.filters import Likelihood, build_filter
from curate.recipes.trial import Training

PLAN, RESULT, DONE = "plan.json", "result.json", "done.json"
MOST_LISTED = 1 << 20
"""Rows of a training, with repetitions, up to which its key holds them one by one."""


@dataclass(frozen=True)
class Run:
    """One training with one seed and its evaluation; without steps, the evaluation of the model as it is."""

    arm: str
    """The arm, or `rate:0.0002` for a run that helps to choose the learning rate."""
    seed: int
    rows: int
    tokens: int
    """Trained completion tokens over all steps."""
    truncated: int
    steps: int
    learning_rate: float
    key: str
    """Hash of all that the outcome depends on. Runs with one key are one run, in whatever trials of the folder they stand."""
    is_pilot: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that the outcome of a trial depends on."""

    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    """Settings of the model, as the `likelihood` filter takes them."""
    model_identity: Mapping[str, Any]
    rows: str
    """Identity of the rows."""
    annotations: Mapping[str, str]
    training: Mapping[str, Any]
    tasks: Sequence[Mapping[str, Any]]
    """Definition and identity of every task; the primary one first."""
    arms: Sequence[str]
    seeds: Sequence[int]
    threads: int
    """Of every worker: another number gives other roundings."""
    processes: int
    """Devices, or processes on the CPU, that one run is spread over."""
    eval_command: str | None
    packages: Mapping[str, str]

    parts: str
    """Hash of which rows are held out."""

    @cached_property
    def hash(self) -> str:
        """Names the trial's folder: another plan is another trial, and nothing is overwritten."""
        return stable_hash(self._without_places())[:8]

    def _without_places(self) -> dict[str, Any]:
        """The plan without where model and tasks lie: their identities say what they are, a moved folder changes nothing."""
        found = asdict(self)
        found["model"] = {name: value for name, value in self.model.items() if name not in ("model", "revision")}
        found["recipe"]["trial"].pop("tasks", None)
        for task in found["tasks"]:
            task["task"] = {name: value for name, value in task["task"].items() if name not in ("data", "revision")}
        return found

    def key_of(
        self, sequence: Sequence[int] | npt.NDArray[np.int64], *, steps: int, rate: float, seed: int, is_pilot: bool = False
    ) -> str:
        """The key of a run: arms and seeds of the trial are not in it, so a trial with more of them trains only what is new."""
        others = ("recipe", "annotations", "arms", "seeds", "training")
        common = {name: value for name, value in self._without_places().items() if name not in others}
        how = {name: value for name, value in self.training.items() if name not in ("learning_rate", "epochs", "steps")}
        if not steps:  # the model as it is; only one from scratch depends on a seed
            own = seed if how["method"] == "from_scratch" else 0
            return stable_hash([common, how["method"], how["config"], how["precision"], own])[:12]
        rows = np.asarray(sequence, dtype=np.int64)
        # As text, tens of millions of rows take a minute. Shorter lists stay text: their keys name runs that are there.
        told = rows.tolist() if len(rows) <= MOST_LISTED else hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        return stable_hash([common, how, told, steps, rate, seed, is_pilot])[:12]

    def likelihood(self) -> Likelihood:
        """The filter that knows model, template and length."""
        found = build_filter(Likelihood.name, self.model, where="trial: model")
        assert isinstance(found, Likelihood)
        return found

    @property
    def how(self) -> Training:
        """The training settings."""
        return Training(**self.training)

    @property
    def conditions(self) -> str:
        """Hash of model and training settings: how far scores scatter depends on both."""
        return stable_hash([dict(self.model_identity), dict(self.training)])[:12]


@dataclass(frozen=True)
class Trial:
    """A trial's folder: the plan, the runs and where each lies."""

    folder: Path
    plan: Plan
    runs: Sequence[Run]
    keep_adapters: bool = False
    devices: Sequence[str] = ()
    """GPUs that workers are dealt, as CUDA_VISIBLE_DEVICES names them; no outcome depends on which."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """A trial as it was committed."""
        found = _fs.read_json(folder / PLAN)
        runs = [Run(**run) for run in found["runs"]]
        return cls(folder, Plan(**found["plan"]), runs, found["keep_adapters"], found.get("devices", []))

    def save(self) -> None:
        """Commit the plan; what workers read."""
        _fs.make_folder(self.folder)
        told = {"runs": [asdict(run) for run in self.runs], "keep_adapters": self.keep_adapters, "devices": list(self.devices)}
        _fs.commit_json(self.folder / PLAN, {"plan": asdict(self.plan), **told})

    @property
    def out(self) -> Path:
        """The folder of rows and annotations."""
        return self.folder.parent.parent

    def path(self, run: Run) -> Path:
        """The run's own folder, which trials of one run folder share."""
        return self.folder.parent / "runs" / run.key

    def is_done(self, run: Run) -> bool:
        """Whether a run is trained and evaluated."""
        return (self.path(run) / DONE).is_file()

    def unfinished(self) -> list[Run]:
        """Runs that are to be made, in order; those with one key once."""
        return [run for run in {run.key: run for run in reversed(self.runs)}.values() if not self.is_done(run)][::-1]
