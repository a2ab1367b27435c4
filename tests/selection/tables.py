"""Rows and annotations in memory, so that a step can be tried on hundreds of small tables."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa

from curate.annotations import Annotations
from curate.recipes import Recipe
from curate.rows import Shard
from curate.selection import Selection, select


@dataclass(frozen=True)
class Row:
    """One row as the steps see it."""

    prompt: str = "p"
    source: str | None = "s"
    value: float | None = 0.0
    flag: bool = False
    characters: int = 10
    content: str = "c"
    truncated: bool = False


class MemoryRows:
    """Stands for a RowStore."""

    def __init__(self, rows: Sequence[Row], cuts: Sequence[int]) -> None:
        borders = [0, *cuts, len(rows)]
        self.rows = rows
        self.shards = [Shard(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(borders))]
        self.count = len(rows)
        self.refused: Mapping[str, int] = {}
        self.folder = Path("nowhere") / "rows"

    def read(self, shard: Shard, columns: Sequence[str]) -> pa.Table:
        part = self.rows[shard.start : shard.stop]
        every = {
            "prompt_key": pa.array([row.prompt for row in part], pa.string()),
            "content_key": pa.array([row.content.ljust(16).encode()[:16] for row in part], pa.binary(16)),
            "source": pa.array([row.source for row in part], pa.string()),
            "characters": pa.array([row.characters for row in part], pa.int64()),
        }
        return pa.table({name: every[name] for name in columns})

    def examples(self, shard: Shard) -> list[Any]:
        return [
            SimpleNamespace(id=None, source=row.source, completion=row.content) for row in self.rows[shard.start : shard.stop]
        ]


class MemoryStore:
    """Stands for the store of the filter `given`."""

    folder = Path("given-0")
    filter_name = "given"
    findings: Mapping[str, Any] = {}

    def __init__(self, rows: MemoryRows) -> None:
        self.rows, self.shards = rows, rows.shards
        self.plan = {"rows": {"count": rows.count}, "settings": {}}

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        part = self.rows.rows[self.shards[index].start : self.shards[index].stop]
        (output,) = (name.partition(".")[2] for name in columns)
        kinds = {"value": pa.float64(), "flag": pa.bool_(), "truncated": pa.bool_(), "unscored": pa.string()}
        values: list[Any] = [None if row.value is None else getattr(row, output, None) for row in part]
        if output == "unscored":
            values = ["absent" if row.value is None else None for row in part]
        structs = [{output: value} for value in values]
        return pa.table({"given": pa.array(structs, pa.struct([(output, kinds[output])]))})

    def reasons(self) -> dict[str, int]:
        absent = sum(row.value is None for row in self.rows.rows)
        return {"absent": absent} if absent else {}


def selected(rows: Sequence[Row], *steps: Mapping[str, Any], unscored: str = "keep", cuts: Sequence[int] = ()) -> Selection:
    """A selection by these steps."""
    memory = MemoryRows(rows, cuts)
    recipe = Recipe(name="x", filters={"given": {}}, steps=steps, unscored=unscored)
    annotations = SimpleNamespace(rows=memory, choose=lambda filters, model: {"given": MemoryStore(memory)})
    return select(cast(Annotations, annotations), recipe)


def kept(rows: Sequence[Row], *steps: Mapping[str, Any], **options: Any) -> list[int]:
    """Row numbers that are kept, in the order in which they are written."""
    return [int(row) for row in selected(rows, *steps, **options).order]


def valued(*values: float | None, **facts: Any) -> list[Row]:
    """Rows of one prompt with these values."""
    return [Row(value=value, content=str(place), **facts) for place, value in enumerate(values)]
