"""What the tests of trials share: arms over rows in memory, run folders, and trials whose answers are written by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from workshop import Record, recipe_file, record, write_rows

import curate
from curate import _fs
from curate.annotations import Annotations
from curate.filters import known_filters
from curate.recipes import Recipe
from curate.recipes.trial import Training
from curate.reference import model_path
from curate.rows import RowStore, Shard
from curate.trials.arms import Arms
from curate.trials.evaluation import save_generations
from curate.trials.plan import DONE, RESULT, Plan, Run, Trial
from curate.trials.pool import TEST, TRAIN, Pool
from curate.trials.tasks import Generation, Items, Task, load_items, load_task


@dataclass(frozen=True)
class Row:
    """One row as steps and arms see it."""

    value: float | None = 0.0
    tokens: int = 10
    prompt: str = "p"
    source: str | None = "s"
    flag: bool = False
    content: str | None = None
    """Equal where rows are copies; None: unlike all others."""


class MemoryRows:
    """Stands for a RowStore."""

    refused: Mapping[str, int] = {}
    folder = Path("nowhere") / "rows"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows, self.count, self.shards = rows, len(rows), [Shard(0, 0, len(rows))]

    def read(self, shard: Shard, columns: Sequence[str]) -> pa.Table:
        contents = [row.content or f"row {place}" for place, row in enumerate(self.rows)]
        every = {
            "prompt_key": pa.array([row.prompt for row in self.rows], pa.string()),
            "content_key": pa.array([content.ljust(16).encode()[:16] for content in contents], pa.binary(16)),
            "source": pa.array([row.source for row in self.rows], pa.string()),
            "characters": pa.array([4 * row.tokens for row in self.rows], pa.int64()),
        }
        return pa.table({name: every[name] for name in columns})


class AnyStore:
    """Stands for the scores of any filter: its fractions are the rows' values, its statements their flags."""

    findings: Mapping[str, Any] = {}

    def __init__(self, name: str, rows: MemoryRows) -> None:
        self.filter_name, self.folder, self.rows, self.shards = name, Path(f"{name}-0"), rows, rows.shards
        self.plan = {"rows": {"count": rows.count}, "settings": {}}

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        (output,) = (name.partition(".")[2] for name in columns)
        kind = known_filters()[self.filter_name].outputs.get(output, "string")
        values: dict[str, tuple[pa.DataType, list[Any]]] = {
            "float64": (pa.float64(), [row.value for row in self.rows.rows]),
            "int64": (pa.int64(), list(range(self.rows.count))),
            "bool": (pa.bool_(), [row.flag for row in self.rows.rows]),
            "string": (pa.string(), [None if row.value is not None else "absent" for row in self.rows.rows]),
        }
        type_, found = values[kind]
        structs = [{output: value} for value in found]
        return pa.table({self.filter_name: pa.array(structs, pa.struct([(output, type_)]))})


def recipe_of(*steps: Mapping[str, Any], unscored: str = "keep", **trial: Any) -> Recipe:
    """A recipe of these steps over the filter `given`."""
    return Recipe(name="x", filters={"given": {}}, steps=steps, unscored=unscored, trial=trial)


def annotations_of(rows: Sequence[Row]) -> Annotations:
    """Scores of whatever filter is asked for."""
    memory = MemoryRows(rows)

    def choose(filters: Mapping[str, Any], *, model: str | None = None) -> dict[str, AnyStore]:
        return {name: AnyStore(name, memory) for name in filters}

    return cast(Annotations, SimpleNamespace(rows=memory, choose=choose))


def pool_of(rows: Sequence[Row], held_out: Sequence[int] = ()) -> Pool:
    """The rows as a trial sees them; none is cut off, those of 0 tokens are unusable."""
    part = np.full(len(rows), TRAIN, dtype=np.int8)
    part[list(held_out)] = TEST
    tokens = np.array([row.tokens for row in rows], dtype=np.int64)
    return Pool(cast(RowStore, MemoryRows(rows)), part, tokens, np.zeros(len(rows), dtype=bool), {})


def arms_of(
    rows: Sequence[Row], *steps: Mapping[str, Any], recipe: Recipe | None = None, held_out: Sequence[int] = (), **facts: Any
) -> Arms:
    """The arms of a recipe, or of these steps, over rows in memory."""
    return Arms(annotations_of(rows), recipe or recipe_of(*steps), pool_of(rows, held_out), **facts)


def questions(count: int, *, first: int = 0, **more: Any) -> list[Record]:
    """Two answered rows per question, from two sources; no two questions share words enough to be near each other."""
    return [
        record(
            f"Say w{number} and x{number} and y{number}, then z{number}.",
            f"Final Answer: {number}" if source == "human" else f"Certainly: let us see. Final Answer: {number}",
            source=source,
            gold=str(number),
            value=float(number * 37 % 101) + (source == "gpt") / 2,
            **more,
        )
        for number in range(first, first + count)
        for source in ("human", "gpt")
    ]


def run_folder(folder: Path, rows: Sequence[Record], *steps: str, columns: Mapping[str, str] | None = None) -> Path:
    """Rows and scores of the filter `given`, selected by a recipe of these steps."""
    recipe = recipe_file(folder / "r.yaml", steps or ["keep: {field: given.value, highest: 50%}"])
    return curate.run(recipe, write_rows(folder / "rows.jsonl", rows), out=folder / "out", columns=columns).out


MODEL = {"model": str(model_path()), "device": "cpu"}
"""The packaged model: only its tokenizer is used here."""


def answer_task(folder: Path, count: int = 10, name: str = "sums") -> tuple[Task, Items]:
    """Questions whose gold is their own number."""
    rows = [{"prompt": f"What is {name} {number}?", "gold": str(number)} for number in range(count)]
    data = write_rows(folder / f"{name}.jsonl", rows)
    task = load_task({"name": name, "kind": "answer", "data": str(data)})
    return task, load_items(task)


STRICT, LENIENT, WRONG, NONE = "Final Answer: {}", "It is {}.", "Final Answer: -7", ""
"""What a model wrote: right to the letter, right to a person, wrong, nothing."""


def plan_of(tasks: Sequence[tuple[Task, Items]], arms: Sequence[str], seeds: Sequence[int], **changed: Any) -> Plan:
    """A plan for tasks, with everything else small."""
    plan = Plan(
        recipe={"name": "x", "trial": {}},
        model={"model": "m"},
        model_identity={"weights": "w"},
        rows="r",
        annotations={},
        training=Training(steps=4, learning_rate=(1e-3,)).model_dump(mode="json"),
        tasks=[{"task": task.definition(), "identity": items.identity, "items": len(items)} for task, items in tasks],
        arms=tuple(arms),
        seeds=tuple(seeds),
        threads=1,
        processes=1,
        eval_command=None,
        packages={},
        parts="p",
    )
    return replace(plan, **changed)


def runs_of(arms: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """A run per arm and seed; one of `base`."""
    return [
        Run(arm, seed, rows=8, tokens=800, truncated=0, steps=0 if arm == "base" else 4, learning_rate=1e-3, key=f"{arm}-{seed}")
        for arm in arms
        for seed in (seeds[:1] if arm == "base" else seeds)
    ]


def save_answers(trial: Trial, run: Run, task: Task, items: Items, writes: Callable[[int], str]) -> None:
    """What the model of a run wrote, by item; `{}` in it is the gold."""
    found = {item.index: Generation(writes(item.index).replace("{}", item.gold[0]), 5, False) for item in items}
    save_generations(trial.path(run) / f"task-{task.name}.parquet", items, found)


def answered_trial(
    out: Path,
    tasks: Sequence[tuple[Task, Items]],
    right: Mapping[str, Sequence[int]],
    *,
    wording: str = STRICT,
    command: Mapping[str, Mapping[str, float]] | None = None,
    **plan: Any,
) -> Trial:
    """A finished trial: `right` holds by arm how many of the items, the first ones, each seed answers as `wording` says."""
    seeds = range(max(map(len, right.values())))
    made = plan_of(tasks, list(right), seeds, eval_command=None if command is None else "none", **plan)
    trial = Trial(out / "trial" / f"x-{made.hash}", made, runs_of(list(right), seeds))
    with _fs.run_folder(out):
        trial.save()
    for run in trial.runs:
        trial.path(run).mkdir(parents=True, exist_ok=True)
        for task, items in tasks:
            few = right[run.arm][run.seed]
            save_answers(trial, run, task, items, lambda item, few=few: wording if item < few else WRONG)  # type: ignore[misc]
        told = {
            "loss": [1.0, 0.5],
            "train_seconds": 1.0,
            "held_out": {"validation": {"nll_sum": 20.0, "tokens": 10, "rows": 2}},
            "eval_command": None if command is None else dict(command[run.arm]),
        }
        _fs.commit_json(trial.path(run) / RESULT, told)
        _fs.commit_json(trial.path(run) / DONE, {"key": run.key})
    return trial


def facts_of(primary: tuple[str, str] = ("curated", "random"), **changed: Any) -> dict[str, Any]:
    """What a trial knows beside the answers."""
    return {
        "recipe": "x",
        "model": "m",
        "protocol": "single",
        "primary": primary,
        "steps_between": [],
        "margin": 0.01,
        "learning_rate": 1e-3,
        "power_stated": {},
        "overlaps": [],
        "limits": [],
        "notices": [],
        **changed,
    }
