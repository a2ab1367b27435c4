"""prepare(): what a trial is going to do, with everything that can be wrong with it found out before the first step."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import _fs
from curate.annotations import Annotations, AnnotationStore, load_annotations
from curate.errors import CurateError, InputError, RecipeError, UsageError
from curate.examples import stable_hash
from curate.filters import Likelihood, build_filter
from curate.filters.base import first_complaint
from curate.likelihood import model_identity
from curate.recipes import Recipe, load_recipe
from curate.recipes.schema import TARGET
from curate.recipes.trial import MOST_STEPS, TrialSettings
from curate.rows import RowStore
from curate.trials.arms import (
    BASE,
    CURATED,
    ORDERED,
    SHUFFLED,
    SYNTHETIC,
    UNORDERED,
    Arms,
    Draw,
    share_of,
    training_sequence,
)
from curate.trials.devices import usable_devices
from curate.trials.evaluation import COMMAND_TASK, EvalCommand, completed
from curate.trials.plan import DONE, Plan, Run, Trial
from curate.trials.pool import TEST, Overlap, Pool, make_pool, overlap
from curate.trials.power import power_before
from curate.trials.tasks import Items, Task, check_machine, load_items, load_task, sample_task
from curate.trials.worker import PARTS, SEQUENCE

PILOT_SEED = 1_000_003
"""Added to the first seed for the runs that choose the learning rate: they share no draw with those that are judged."""
UNEVEN_CUT = 0.02
"""Difference between arms in the share of truncated rows that is told as a limit."""
UNEVEN_TOKENS = 0.01
SMALL_WEIGHTS = 256 << 20
"""Bytes of weights below which a training on a CPU uses one thread, so that several run at once. Threads are part of the
plan, since they change sums; jobs must not be, so they have no say in it."""
GPU_THREADS = 4
"""A constant, so that runs of one machine are not made anew on another with as good a GPU and other cores."""
MOST_THREADS = 256
RENDERED_TOGETHER = 256
"""Items whose options are rendered at once."""
SCORED_WITH = ("revision", "dtype", "max_length", "chat_template")
"""Settings of the model in which training follows the scores, unless the caller says otherwise."""
MARKS = ("Final Answer:", "Answer:", "####", "answer is")
"""What stands before a final answer; of equally frequent ones the first."""
_PACKAGES = ("curate-sft", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class Request:
    """What the caller wants of a trial, beyond what the recipe says."""

    arms: Sequence[str] | None = None
    """In place of the recipe's `against` and of the arms that credit single steps."""
    tasks: Sequence[str] = ()
    """Task files in place of the recipe's."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the recipe's `trial` section."""
    jobs: int | None = None
    """Runs at once. Default: one per GPU; on a CPU one per core for small models, else one."""
    processes: int = 1
    keep_adapters: bool = False
    eval_command: str | None = None


@dataclass
class Preparation:
    """A trial with everything that can be wrong with it found out, before the first step."""

    out: Path
    recipe: Recipe
    settings: TrialSettings
    request: Request
    annotations: Annotations
    likelihood: Likelihood
    tasks: Sequence[tuple[Task, Items]]
    pool: Pool
    arms: Arms
    overlaps: Sequence[Overlap]
    notes: list[str] = field(default_factory=list)
    devices: Sequence[str] = ()
    """GPUs that may be used."""

    @cached_property
    def names(self) -> list[str]:
        """The arms, curated first, base last, each once."""
        settings = self.settings
        if settings.protocol == "progressive":
            return [f"{kind}@{share:g}" for share in settings.points for kind in (ORDERED, SHUFFLED)] + [BASE]
        if settings.protocol == "mix":
            return [f"{SYNTHETIC}@{share:g}" for share in settings.points] + [BASE]
        wanted = [settings.primary, *(self.request.arms if self.request.arms is not None else _both_full(settings.against))]
        if self.request.arms is None:
            wanted += self.arms.chain()
        names = dict.fromkeys(self.arms.canonical(arm) for arm in [CURATED, *wanted])
        return sorted(names, key=lambda arm: arm == BASE)

    @property
    def primary(self) -> tuple[str, str]:
        """Treated and control arm of the verdict, as groups of arms: `ordered` is the mean over its shares."""
        if self.settings.protocol == "progressive":
            return ORDERED, SHUFFLED
        if self.settings.protocol == "mix":
            return f"{SYNTHETIC}@{self.settings.points[-1]:g}", f"{SYNTHETIC}@{self.settings.points[0]:g}"
        return CURATED, self.arms.canonical(self.settings.primary)

    @property
    def seeds(self) -> list[int]:
        """Training seeds."""
        return list(range(self.settings.first_seed, self.settings.first_seed + self.settings.seeds))

    @cached_property
    def steps(self) -> int:
        """Optimiser steps of the curated arm, and so of all but `full-epochs` and the shares of a progressive trial."""
        how = self.settings.training
        return how.steps or max(1, math.ceil((how.epochs or 0) * len(self.arms.curated) / how.batch))

    def steps_of(self, draw: Draw) -> int:
        """Optimiser steps of one arm."""
        point = share_of(draw.arm)
        if point is not None and point[0] != SYNTHETIC:
            return max(1, round(self.steps * point[1]))
        if draw.arm == "full-epochs":
            return max(1, math.ceil(self.steps * len(draw.rows) / max(1, len(self.arms.curated))))
        return self.steps

    @cached_property
    def plan(self) -> Plan:
        """What the outcome depends on."""
        spec = self.likelihood.spec
        recipe = self.recipe.model_copy(update={"trial": self.settings})
        return Plan(
            recipe=recipe.as_data(),
            model={**self.likelihood.model_dump(mode="json", exclude_none=True), "device": spec.device},
            model_identity=model_identity(spec.model, spec.revision),
            rows=self.annotations.rows.identity,
            annotations={name: store.folder.name for name, store in sorted(self.arms.frame.stores.items())},
            training=self.settings.training.model_dump(mode="json"),
            tasks=[{"task": _as_data(task), "identity": items.identity, "items": len(items)} for task, items in self.tasks],
            arms=self.names,
            seeds=self.seeds,
            threads=_threads(self.likelihood),
            processes=self.request.processes,
            eval_command=self.request.eval_command,
            packages={name: version(name) for name in _PACKAGES},
            parts=stable_hash(self.pool.part.tolist()),
        )

    @cached_property
    def folder(self) -> Path:
        """Where the trial lies. Named after recipe and plan: another plan is another folder."""
        return self.out / "trial" / f"{self.recipe.name}-{self.plan.hash}"

    @property
    def jobs(self) -> int:
        """Runs at once, never more than there are."""
        if self.request.jobs is not None:
            return min(self.request.jobs, len(self.names) * len(self.seeds))
        if self.devices:
            return max(1, len(self.devices) // self.request.processes)
        return 1 if self.request.processes > 1 or self.plan.threads > 1 else _affordable_jobs(self.likelihood)

    @property
    def departures(self) -> list[str]:
        """What is told where the caller asked for another trial than the recipe describes."""
        other = self.settings.unlike(self.recipe.trial)
        return [f"not the recipe's own trial: {'; '.join(other)}"] if other else []

    @property
    def power(self) -> dict[str, Any]:
        """What the trial is going to be able to find, on its primary task."""
        task, items = self.tasks[0]
        if len(items) < 2:
            raise InputError(f"task {task.name}: {len(items)} item; an interval over items needs at least 2")
        return power_before(items.identity, self.plan.conditions, seeds=len(self.seeds), items=len(items))

    def pilots(self) -> list[tuple[Run, npt.NDArray[np.int64]]]:
        """Runs that choose the learning rate, on random rows; none where one rate is given."""
        rates = self.settings.training.learning_rate
        if len(rates) == 1:
            return []
        seed = self.settings.first_seed + PILOT_SEED
        draw = self.arms.draw(UNORDERED if self.settings.protocol == "progressive" else "random", seed)
        return [self._run(Draw(f"rate:{rate:g}", seed, draw.rows), rate, is_pilot=True) for rate in rates]

    def runs(self, rate: float) -> list[tuple[Run, npt.NDArray[np.int64]]]:
        """All runs that are judged, one seed after the other, so that a trial that is stopped has whole seeds."""
        return list(self.each_run(rate))

    def each_run(self, rate: float) -> Iterator[tuple[Run, npt.NDArray[np.int64]]]:
        """The same one by one: of a long training the rows take hundreds of megabytes."""
        if BASE in self.names:
            key = self.plan.key_of([], steps=0, rate=0.0, seed=self.seeds[0])
            run = Run(BASE, self.seeds[0], rows=0, tokens=0, truncated=0, steps=0, learning_rate=0.0, key=key)
            yield run, np.zeros(0, dtype=np.int64)
        for seed in self.seeds:
            yield from (self._run(self.arms.draw(arm, seed), rate) for arm in self.names if arm != BASE)

    def _run(self, draw: Draw, rate: float, *, is_pilot: bool = False) -> tuple[Run, npt.NDArray[np.int64]]:
        steps = self.steps_of(draw)
        sequence = training_sequence(draw, steps * self.settings.training.batch, draw.seed)
        run = Run(
            arm=draw.arm,
            seed=draw.seed,
            rows=len(draw.rows),
            tokens=int(self.pool.tokens[sequence].sum()),
            truncated=int(self.pool.truncated[draw.rows].sum()),
            steps=steps,
            learning_rate=rate,
            key=self.plan.key_of(sequence, steps=steps, rate=rate, seed=draw.seed, is_pilot=is_pilot),
            is_pilot=is_pilot,
        )
        return run, sequence

    def trial_of(self, runs: Sequence[Run], folder: Path | None = None) -> Trial:
        """A trial of these runs; nothing is written."""
        return Trial(folder or self.folder, self.plan, runs, self.request.keep_adapters, self.devices)

    def commit(self, runs: Sequence[tuple[Run, npt.NDArray[np.int64]]], folder: Path | None = None) -> Trial:
        """Write plan, parts and sequences: all that a worker reads."""
        trial = self.trial_of([run for run, _ in runs], folder)
        _fs.make_folder(trial.folder)
        _save(trial.folder / PARTS, self.pool.part)
        for run, sequence in runs:
            own = trial.path(run)
            own.mkdir(parents=True, exist_ok=True)
            if run.steps and not (own / SEQUENCE).exists():
                _save(own / SEQUENCE, sequence)
        trial.save()
        return trial

    def made_with_other_threads(self) -> int | None:
        """Threads with which the untrained model of this very plan was asked already, where that is another number."""
        if not (self.folder.parent / "runs").is_dir():
            return None
        others = [replace(self.plan, threads=threads) for threads in range(1, MOST_THREADS + 1) if threads != self.plan.threads]
        keys = {plan.threads: plan.key_of([], steps=0, rate=0.0, seed=self.seeds[0]) for plan in others}
        return next((at for at, key in keys.items() if (self.folder.parent / "runs" / key / DONE).is_file()), None)

    def limits(self, runs: Sequence[Run]) -> list[str]:
        """What makes arms differ beside what was chosen."""
        found = [*self.departures, *self.notes]
        first, second = self.primary
        if first == CURATED and self.arms.orders:
            found.append(
                f"`{CURATED}` is trained in the recipe's order and `{second}` in random order: the verdict holds the effect of "
                f"the order too; `{UNORDERED}` tells them apart"
            )
        tokens = {
            name: [run.tokens for run in runs if run.arm == name or (share_of(run.arm) or ("",))[0] == name]
            for name in (first, second)
        }
        if tokens[first] and tokens[second]:
            gap = sum(tokens[first]) / sum(tokens[second]) * len(tokens[second]) / len(tokens[first]) - 1
            if abs(gap) > UNEVEN_TOKENS:
                found.append(
                    f"`{first}` trains on {_percent(abs(gap))} {'more' if gap > 0 else 'fewer'} completion tokens than `{second}`"
                )
        shares = {run.arm: run.truncated / run.rows for run in runs if run.rows}
        if shares and max(shares.values()) - min(shares.values()) > UNEVEN_CUT:
            most = max(shares, key=lambda arm: shares[arm])
            found.append(
                f"rows cut off at max_length: {_percent(shares[most])} in `{most}`, {_percent(min(shares.values()))} in the least"
            )
        if self.pool.unusable:
            told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.pool.unusable.items()))
            found.append(f"training rows without a token to train on, in no arm: {told}")
        return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _both_full(arms: Sequence[str]) -> list[str]:
    """`full` in a recipe stands for both of its kinds: as many steps, and as many epochs."""
    return [part for arm in arms for part in (("full", "full-epochs") if arm == "full" else (arm,))]


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    _fs.commit_bytes(path, buffer.getvalue())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(likelihood: Likelihood) -> int:
    if likelihood.spec.device != "cpu":
        return GPU_THREADS
    return 1 if _weights(likelihood) < SMALL_WEIGHTS else _cores()


def _weights(likelihood: Likelihood) -> int:
    """Bytes of the model's weights; of one that lies nowhere yet, a guess that is no small model."""
    folder = Path(likelihood.model)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 4 << 30


def _affordable_jobs(likelihood: Likelihood) -> int:
    """As many runs at once as cores, and as memory holds four times the weights for."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(_cores(), free // (4 * _weights(likelihood) + (1 << 30))))


def prepare(
    out: Path,
    recipe: str | Path | Recipe | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    request: Request | None = None,
) -> Preparation:
    """Read everything, train nothing.

    Raises UsageError, RecipeError, InputError or SandboxError for whatever would stop the trial later: tasks that cannot be
    read or run here, arms that these rows cannot have, a test set that stands in the training rows.
    """
    request = request or Request()
    annotations = load_annotations(out)
    chosen = _recipe(out, recipe)
    settings = _settings(chosen, request)
    if request.eval_command is not None:
        EvalCommand(request.eval_command).check()
    likelihood, notes = _likelihood(annotations, chosen, model)
    devices = usable_devices(likelihood.spec.device, request.processes)
    if devices:  # a worker sees its own alone; which one it is changes nothing
        likelihood = likelihood.model_copy(update={"device": "cuda"})
    named = [_task(entry) for entry in (request.tasks or settings.tasks)]
    for task in named:
        check_machine(task)
    pool = make_pool(annotations.rows, likelihood, validation=settings.validation, test=0.0 if named else settings.test)
    if not named:
        named = [_own_task(out, annotations.rows, pool, likelihood)]
        check_machine(named[0])
    tasks = [(task, load_items(task)) for task in named]
    if settings.primary_task is not None:
        known = [task.name for task, _ in tasks]
        if settings.primary_task not in known:
            raise RecipeError(f"trial: primary_task {settings.primary_task!r} is none of the tasks {', '.join(known)}")
        tasks.sort(key=lambda pair: pair[0].name != settings.primary_task)
    if repeated := [task.name for number, (task, _) in enumerate(tasks) if task.name in [t.name for t, _ in tasks[:number]]]:
        raise RecipeError(f"trial: two tasks are called {repeated[0]!r}; a task's name says where its answers lie")
    if request.eval_command is not None and any(task.name == COMMAND_TASK for task, _ in tasks):
        raise RecipeError(f"trial: a task is called {COMMAND_TASK!r}, as the results of --eval-command are; name it otherwise")
    overlaps = [overlap(pool, task.name, [task.asked(item) for item in items]) for task, items in tasks]
    for found in overlaps:
        if found.share > settings.overlap:
            raise InputError(_leak(found, settings.overlap))
    notes += _check_items(likelihood, tasks)
    arms = Arms(annotations, chosen, pool, model=(model or {}).get("model"), human=settings.human)
    preparation = Preparation(
        out, chosen, settings, request, annotations, likelihood, tasks, pool, arms, overlaps, notes, devices
    )
    if settings.training.batch % request.processes:
        raise UsageError(
            f"trial: a batch of {settings.training.batch} cannot be dealt to {request.processes} processes; choose a multiple"
        )
    if preparation.steps > MOST_STEPS:  # of epochs: `steps` are bounded where they are read
        raise UsageError(
            f"trial: {settings.training.epochs:g} epochs are {preparation.steps:,} steps, at most {MOST_STEPS:,} can be"
        )
    _check_arms(preparation)
    if preparation.plan.threads > 1 and (before := preparation.made_with_other_threads()):
        notes.append(
            f"runs of this folder were made with {before} threads, here it is {preparation.plan.threads}: sums round otherwise, "
            "so they are made again"
        )
    return preparation


def _check_items(likelihood: Likelihood, tasks: Sequence[tuple[Task, Items]]) -> list[str]:
    """Render every prompt as it will be asked. Returns what is to be told of those that do not fit.

    Raises InputError where none fits, or an option cannot be scored.
    """
    notes = []
    positions = likelihood.positions() or 1 << 30
    for task, items in tasks:
        lengths = [len(ids) for ids in likelihood.renderer().prompts([item.messages for item in items])]
        if task.kind == "choice":
            _check_options(likelihood, task, items)
        elif without := sum(length + task.max_new_tokens > positions for length in lengths):
            if without == len(items):
                raise InputError(
                    f"{task.name}: no prompt leaves room for an answer: the model has {positions:,} positions, prompts have "
                    f"{min(lengths):,} to {max(lengths):,} tokens, max_new_tokens is {task.max_new_tokens:,}; set it lower"
                )
            notes.append(
                f"{task.name}: {without} of {len(items)} prompts leave no room for {task.max_new_tokens} tokens of answer; "
                "they count as cut off in every arm"
            )
    return notes


def _check_options(likelihood: Likelihood, task: Task, items: Items) -> None:
    """Render every option as it will be scored."""
    from curate.likelihood import Unrenderable

    renderer = likelihood.renderer()
    for at in range(0, len(items), RENDERED_TOGETHER):
        pairs = [(item, example) for item in items[at : at + RENDERED_TOGETHER] for example in completed(item)]
        for (item, example), row in zip(pairs, renderer.render([example for _, example in pairs]), strict=True):
            if isinstance(row, Unrenderable) or row.truncated:
                why = row.reason if isinstance(row, Unrenderable) else f"cut off at max_length {renderer.max_length}"
                raise InputError(f"task {task.name}: {item.place}: option {example.completion[:60]!r} cannot be scored ({why})")


def _check_arms(preparation: Preparation) -> None:
    arms, is_single = preparation.arms, preparation.settings.protocol == "single"
    kept, available = len(arms.curated), int(preparation.pool.trainable.sum())
    if kept < 2:
        raise InputError(f"trial: the recipe keeps {kept} training rows; nothing can be learnt from them")
    if is_single and kept == available:
        raise RecipeError(f"trial: the recipe keeps all {available} training rows; there is nothing to compare")
    if is_single and arms.idle_steps:
        told = ", ".join(f"`{step}`" for step in arms.idle_steps)
        preparation.notes.append(f"{told}: rejects no training row; `random-clean` stands before the last step that does")
    for arm in preparation.names:
        if arm != BASE:
            arms.draw(arm, preparation.seeds[0])


def _leak(found: Overlap, allowed: float) -> str:
    item, row, share = found.examples[0]
    return (
        f"trial: {found.found} of {found.items} items of {found.task} ({_percent(found.share)}) stand in the training rows, "
        f"allowed are {_percent(allowed)}; first: {item[:80]!r} in row {row} ({_percent(share)}). Drop such rows "
        "(`decontaminate`) or raise `trial: overlap`"
    )


def _recipe(out: Path, recipe: str | Path | Recipe | None) -> Recipe:
    """The recipe as given, else that of the folder's selection."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return load_recipe(recipe)
    path = out / "selection" / "selection.json"
    if not path.is_file():
        raise UsageError(f"{out}: holds no selection; name the recipe to try with --recipe")
    return Recipe(**_fs.read_json(path, "recipe")["recipe"])


def _settings(recipe: Recipe, request: Request) -> TrialSettings:
    """The recipe's trial section, with what the caller says instead. Raises UsageError naming the wrong key."""
    from pydantic import ValidationError

    given = recipe.trial.model_dump()
    changed = dict(request.overrides)
    training = changed.pop("training", {})
    if "preset" in changed:  # a preset named later replaces the recipe's training, not only its name
        given["training"] = {}
    if training.get("steps") is not None:
        given["training"]["epochs"] = None
    if training.get("epochs") is not None:
        given["training"]["steps"] = None
    try:
        return TrialSettings(**{**given, **changed, "training": {**given["training"], **training}})
    except ValidationError as error:
        raise UsageError(f"trial: {first_complaint(error, TrialSettings.model_fields)}") from error


def _likelihood(annotations: Annotations, recipe: Recipe, model: Mapping[str, Any] | None) -> tuple[Likelihood, list[str]]:
    """The model to train: as given, else the one whose scores the recipe ranks by; what is not said is as it was scored with.

    Also what is to be told of settings that are not those of the scores.
    """
    given = dict(model or {})
    stores = annotations.choose(recipe.build_filters({"model": TARGET}), model=given.get("model"))
    ours = _language_models(stores.values())
    if "model" in given:
        scored = [found for found in (*ours, *_language_models(annotations.stores)) if _is_same_model(found, given)]
    else:
        scored = ours
        if not scored:
            raise UsageError(
                f"{recipe.name} scores with no model, so none is known: pass --model FOLDER_OR_HUB_ID, the one to train"
            )
    known = {name: scored[0].get(name) for name in ("model", *SCORED_WITH)} if scored else {}
    differing = [name for name in SCORED_WITH if known and name in given and str(given[name]) != str(known[name])]
    notes = [f"{name} is {given[name]}; the rows were scored with {known[name] or 'the default'}" for name in differing]
    if quantize := given.get("quantize") or (scored[0].get("quantize") if scored else None):
        notes.append(f"rows are scored with weights in {quantize}; the trial trains and asks the model with whole weights")
    plain = {"normalise": (), "quantize": None, "few_shot": None}
    given = {name: value for name, value in known.items() if value is not None} | given | plain
    filter_ = build_filter(Likelihood.name, given, where="trial: model")
    assert isinstance(filter_, Likelihood)
    filter_.fingerprint()  # raises for a model that cannot be used
    return filter_, notes


def _language_models(stores: Iterable[AnnotationStore]) -> list[Mapping[str, Any]]:
    """Parameters of the scores by a language model; a classifier has a model too, and no length."""
    found = [store.plan["parameters"] for store in stores]
    return [parameters for parameters in found if {"model", "max_length"} <= parameters.keys()]


def _is_same_model(scored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether scores are of the model that is named now, by name or by content."""
    if scored["model"] == given["model"]:
        return True
    try:
        return model_identity(scored["model"], scored.get("revision")) == model_identity(given["model"], given.get("revision"))
    except CurateError:
        return False  # one of them is no longer there


def _as_data(task: Task) -> dict[str, Any]:
    """What a task file would hold. Without what nobody set: some kinds refuse a key that others have a default for."""
    return {**task.model_dump(mode="json", exclude_unset=True), "kind": task.kind}


def _task(entry: str | Mapping[str, Any]) -> Task:
    return sample_task() if entry == "sample" else load_task(entry, where="trial: tasks")


def _own_task(out: Path, rows: RowStore, pool: Pool, likelihood: Likelihood) -> Task:
    """A task over the prompts held out as test: their gold answers, or their tests."""
    facts = rows.facts
    kind = "code" if "tests" in facts and "gold" not in facts else "answer"
    if "gold" not in facts and "tests" not in facts:
        raise UsageError(
            "trial: the rows have neither gold answers nor tests, so nothing can be judged on held-out rows; name a task with "
            "--task FILE or in the recipe's `trial: tasks:` (see docs/tasks.md)"
        )
    records: dict[str, dict[str, Any]] = {}
    marks: Counter[str] = Counter()
    for example in rows:
        marks.update({mark for mark in MARKS if mark in example.completion})
        # Not `prompt_key`: it is the user's group where one is mapped, and may hold several prompts.
        key = stable_hash(example.prompt)
        if pool.part[example.row] == TEST and key not in records and (example.gold or example.tests):
            record = {**example.extra, "prompt": list(example.prompt), "gold": example.gold, "tests": example.tests}
            records[key] = {name: value for name, value in record.items() if value is not None}
    if not records:
        raise InputError("trial: no held-out prompt has a gold answer or tests; raise `trial: test` or name a task with --task")
    name = f"held-out-{stable_hash(sorted(records))[:8]}"
    path = out / "trial" / f"{name}.jsonl"
    _fs.make_folder(path.parent)
    _fs.commit_bytes(path, b"".join(_line(record) for record in records.values()))
    definition: dict[str, Any] = {"name": name, "kind": kind, "data": str(path.resolve())}
    if (positions := likelihood.positions() or 1 << 30) // 2 < Task.model_fields["max_new_tokens"].default:
        definition["max_new_tokens"] = positions // 2  # the other half is for prompts; nobody could set it
    if kind == "answer" and marks:
        # What most completions write before their answer is what a model trained on them will write.
        definition["mark"] = max(MARKS, key=lambda mark: marks[mark])
    return load_task(definition, where="trial: held-out rows")


def _line(record: Mapping[str, Any]) -> bytes:
    import json

    return (json.dumps(record, ensure_ascii=True, default=str) + "\n").encode()
