"""The process that trains and asks: `python -m curate.trials.worker FOLDER` makes runs of a trial until none is left.

Workers need not know of each other: a run belongs to whoever holds the lock in its folder. Under `torch.distributed.run` the
processes of one worker share a run, the first of them holds the lock.
"""

import contextlib
import fcntl
import gc
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from curate import _fs
from curate.errors import CurateError
from curate.examples import Example
from curate.rows import RowStore
from curate.trials.evaluation import Asker, EvalCommand, save_choices, save_generations
from curate.trials.plan import DONE, RESULT, Run, Trial
from curate.trials.pool import VALIDATION
from curate.trials.tasks import Item, Task, load_items, load_task
from curate.trials.training import PATIENCE_S, Trained, askable, initial_model, train

PROGRESS, ERROR, LOCK = "progress.json", "error.json", ".lock"
HELD_OUT_ROWS = 200
"""Validation rows whose loss is measured, at most."""
SEQUENCE, PARTS = "sequence.npy", "parts.npy"
OF_TASK = "task:"
"""Before a task's name among the held-out losses: a task may be called `validation`."""


@dataclass
class Worker:
    """One process, or one of several that share every run."""

    trial: Trial
    rank: int = 0
    processes: int = 1

    def work(self) -> None:
        """Make runs until none is left that nobody else makes."""
        for run in self.trial.unfinished():
            with self._claimed(run) as is_mine:
                if is_mine and not self.trial.is_done(run):
                    self._make(run)
                    release()

    @contextlib.contextmanager
    def _claimed(self, run: Run) -> Iterator[bool]:
        """Hold the lock of a run's folder, or learn that another worker does."""
        folder = self.trial.path(run)
        handle, is_mine = -1, True
        if self.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_mine = False
        try:
            yield self._agreed(is_mine)
        finally:
            if handle >= 0:
                os.close(handle)

    def _agreed(self, value: Any) -> Any:
        """What the first process says."""
        if self.processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def _gathered(self, found: Mapping[Any, Any]) -> dict[Any, Any]:
        """The answers of all processes."""
        if self.processes == 1:
            return dict(found)
        from accelerate.utils import gather_object

        return {key: value for part in gather_object([dict(found)]) for key, value in part.items()}

    def _make(self, run: Run) -> None:
        folder = self.trial.path(run)
        if self.rank == 0:
            _fs.clean(folder)
        begin = time.monotonic()
        trained = self._trained(run)
        release()  # the optimiser's state
        asker = Asker(trained.model, self._likelihood, self.rank, self.processes)
        told = {"loss": trained.loss, "train_seconds": trained.seconds, "resumed_at": trained.resumed_at}
        told |= {"arm": run.arm, "seed": run.seed, "steps": run.steps}
        # By those that were there, not by the plan: it proves that a run was spread.
        told["ranks"] = sorted(self._gathered({self.rank: True}))
        if not run.is_pilot:
            self._ask(run, asker)
        told["held_out"] = self._held_out(asker)
        if not run.is_pilot:
            # Last: the model leaves the device for it.
            told["eval_command"] = self._run_command(run, trained)
        told["total_seconds"] = time.monotonic() - begin
        if self.rank == 0:
            _fs.commit_json(folder / RESULT, told)
            self._leave(run, trained)
            _fs.commit_json(folder / DONE, {"key": run.key})
        self._agreed(None)  # nobody goes on before the run is committed

    @cached_property
    def _likelihood(self) -> Any:
        return self.trial.plan.likelihood()

    def _trained(self, run: Run) -> Trained:
        """The trained model of a run, or the untrained one."""
        how = self.trial.plan.how
        if not run.steps:
            model = initial_model(self._likelihood, how, seed=run.seed).to(self._likelihood.spec.device)
            return Trained(askable(model), 0.0, [], 0)
        examples, sequence = self.rows_of(run)
        return train(
            examples,
            sequence,
            self._likelihood,
            how,
            rate=run.learning_rate,
            steps=run.steps,
            seed=run.seed,
            folder=self.trial.path(run),
            processes=self.processes,
            on_step=lambda step: self._tell(run, "training", step),
        )

    def rows_of(self, run: Run) -> tuple[list[Example], list[int]]:
        """The run's different rows as examples, and the order of training as places among them."""
        import numpy as np

        rows = np.load(self.trial.path(run) / SEQUENCE, allow_pickle=False)
        unique, places = np.unique(rows, return_inverse=True)
        wanted = set(unique.tolist())
        found = {
            example.row: example
            for shard in self._store.shards
            if any(shard.start <= row < shard.stop for row in wanted)
            for example in self._store.examples(shard)
            if example.row in wanted
        }
        return [found[row] for row in unique.tolist()], places.tolist()

    @cached_property
    def _store(self) -> RowStore:
        return RowStore(self.trial.out / "rows")

    def _ask(self, run: Run, asker: Asker) -> None:
        """Answers to every task that has none yet."""
        folder = self.trial.path(run)
        done = 0
        for task, items in self.tasks:
            path = folder / f"task-{task.name}.parquet"
            if self._agreed(path.exists()):
                continue
            if task.kind == "choice":
                chosen = self._gathered(asker.choose(items))
                if self.rank == 0:
                    save_choices(path, items, chosen)
                continue

            def on_items(count: int) -> None:
                nonlocal done
                done += count
                self._tell(run, "asking", done)

            answers = self._gathered(asker.generate(task, items, on_items))
            if self.rank == 0:
                save_generations(path, items, answers)

    @cached_property
    def tasks(self) -> list[tuple[Task, Sequence[Item]]]:
        """Every task with its items, the primary one first."""
        found = [load_task(data["task"]) for data in self.trial.plan.tasks]
        return [(task, load_items(task)) for task in found]

    def _held_out(self, asker: Asker) -> dict[str, Any]:
        """Loss on the validation rows and on the tasks' references: sums and counts."""
        import numpy as np

        parts = np.load(self.trial.folder / PARTS, allow_pickle=False)
        rows = np.flatnonzero(parts == VALIDATION)
        if len(rows) > HELD_OUT_ROWS:  # spread over the data
            rows = rows[np.linspace(0, len(rows) - 1, HELD_OUT_ROWS).astype(int)]
        wanted = set(rows.tolist())
        sets = {"validation": [example for example in self._store if example.row in wanted]} if wanted else {}
        for task, items in self.tasks:
            with_reference = [item for item in items if item.reference]
            if with_reference:
                sets[OF_TASK + task.name] = [
                    Example(messages=[*item.messages, {"role": "assistant", "content": item.reference or ""}])
                    for item in with_reference
                ]
        found: dict[str, Any] = {}
        for name, examples in sets.items():
            parts_of = self._gathered({self.rank: asker.held_out(examples)})
            found[name] = {
                "nll_sum": sum(part[0] for part in parts_of.values()),
                "tokens": sum(part[1] for part in parts_of.values()),
                "rows": len(examples),
            }
        return found

    def _run_command(self, run: Run, trained: Trained) -> dict[str, float] | None:
        """The user's own evaluation, on the merged model and the adapter. The model is moved to the CPU before."""
        command = self.trial.plan.eval_command
        if command is None:
            return None
        model = trained.whole()
        release()
        found: dict[str, float] = {}
        if self.rank == 0:
            folder = self.trial.path(run)
            adapter = self._adapter(run)
            whole = None
            # Untrained it lies where the user has it already, but for weights drawn at random: those lie nowhere.
            if run.steps or self.trial.plan.how.method == "from_scratch":
                whole = folder / "model"
                save_model(model, self._likelihood, whole)
            found = EvalCommand(command).run(folder, base=self._likelihood.model, adapter=adapter, model=whole)
            if whole is not None:
                shutil.rmtree(whole)
        return dict(self._agreed(found))

    def _adapter(self, run: Run) -> Path | None:
        """The last checkpoint, which holds the adapter of the trained model."""
        last = self.trial.path(run) / f"checkpoint-{run.steps}"
        return last if (last / "adapter_config.json").is_file() else None

    def _leave(self, run: Run, trained: Trained) -> None:
        """Remove checkpoints; what is to be kept becomes `adapter/` or `model/`."""
        folder = self.trial.path(run)
        if self.trial.keep_adapters and run.steps and not run.is_pilot:
            adapter = self._adapter(run)
            if adapter is None:
                save_model(trained.whole(), self._likelihood, folder / "model")
            else:
                _fs.make_folder(folder / "adapter")
                for path in (*adapter.glob("adapter_*"), *adapter.glob("tokenizer*"), *adapter.glob("*.jinja")):
                    shutil.copy2(path, folder / "adapter" / path.name)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        for name in ("README.md", "training_args.bin", PROGRESS, "eval-command.jsonl"):
            (folder / name).unlink(missing_ok=True)

    def _tell(self, run: Run, what: str, done: int) -> None:
        """Where the run is, for whoever watches; not worth a sync."""
        if self.rank == 0:
            path = self.trial.path(run) / PROGRESS
            temporary = path.with_name(f"{_fs.TEMPORARY}{PROGRESS}")
            temporary.write_text(json.dumps({"what": what, "done": done, "at": time.time()}))
            temporary.replace(path)


def save_model(model: Any, likelihood: Any, folder: Path) -> None:
    """A whole model as `save_pretrained` writes it, with its tokenizer."""
    from curate.likelihood.model import load_tokenizer

    model.save_pretrained(folder)
    load_tokenizer(likelihood.spec).save_pretrained(folder)


def release() -> None:
    """Give back the memory of models that nothing refers to; a trainer and its model refer to each other."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def end_with_parent() -> None:
    """End when standard input closes: the process that started this one is gone, however it ended."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def join(trial: Trial, processes: int) -> None:
    """Meet the other processes of this worker, if there are any. Raises CurateError where they are not as many as planned."""
    if processes != trial.plan.processes:
        raise CurateError(f"trial: planned for {trial.plan.processes} processes, started in {processes}")
    if processes > 1:
        from accelerate import PartialState

        PartialState(cpu=trial.plan.likelihood().spec.device == "cpu", timeout=timedelta(seconds=PATIENCE_S))


def main(folder: Path) -> int:
    """Work; an error is left in the folder for the process that waits."""
    import torch

    end_with_parent()
    trial = Trial.open(folder)
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    torch.set_num_threads(trial.plan.threads)
    try:
        join(trial, processes)
        Worker(trial, rank, processes).work()
    except CurateError as error:
        # Whoever waits knows the classes of `errors` alone.
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == CurateError.__module__)
        _fs.commit_json(folder / ERROR, {"type": kind.__name__, "message": str(error)})
        return 1
    except Exception as error:
        traceback.print_exc()
        _fs.commit_json(folder / ERROR, {"type": type(error).__name__, "message": str(error), "is_bug": True})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
