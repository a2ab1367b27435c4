"""What everybody may see of every row: its scores and the decision about it, as flat columns, and not a word of its text.

Whoever has these columns re-cuts the set without a model. Rejected rows are in them too, so nothing may stand here that a row's
author wrote: outputs that are text are left out, and labels that turn out to be text are hashed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import progress
from curate.errors import IntegrityError
from curate.examples import stable_hash
from curate.filters.base import REASON
from curate.rows import RowStore, Shard

if TYPE_CHECKING:
    import pyarrow as pa

WORDS = frozenset({"unit_tests.status", "contamination.item"})
"""Outputs that are strings and never text of the row: a word out of a documented list, a place in an evaluation file."""
WITHHELD = "withheld"
"""Stands for the reasons of a filter whose reasons are not the few short phrases that they should be."""
LONGEST_LABEL, LONGEST_REASON, MOST_REASONS, MOST_SOURCES = 100, 80, 64, 10_000
_WINDOW = 12
"""Characters in a row that no two texts share by chance."""
_BEFORE = ("row", "id", "source", "prompt_key", "decision", "rejected_by", "is_unscored", "fails", "margin")


@dataclass(frozen=True)
class ScoreColumn:
    """One column of the scores."""

    name: str
    filter_name: str
    output: str
    """Name of the struct's field in the ledger; `unscored` is the reason."""

    @property
    def field(self) -> str:
        """`filter.output`, as recipes write it."""
        return f"{self.filter_name}.{self.output}"


@dataclass(frozen=True)
class Survey:
    """What one look at all rows found out: what is published, and as what."""

    columns: Sequence[ScoreColumn]
    left_out: Sequence[str]
    """Outputs (`filter.output`) that hold text, or what no flat column can; `filter.unscored` where reasons are withheld."""
    text_sources: frozenset[str]
    """Values of `source` that are text of their rows; they are hashed."""
    every_source_is_text: bool
    hashed: Sequence[str]
    """Columns of which some values are hashed."""
    kept_sources: Mapping[str | None, int] = field(default_factory=dict)
    sources: Mapping[str | None, int] = field(default_factory=dict)

    def source(self, value: str | None) -> str | None:
        """A source as it is published."""
        if value is not None and (self.every_source_is_text or value in self.text_sources):
            return stable_hash(value)
        return value


class Ledger:
    """The ledger of a selection beside its rows, a shard at a time."""

    def __init__(self, path: Path, rows: RowStore) -> None:
        import pyarrow.parquet as pq

        self.path, self.rows = path, rows
        self.schema: pa.Schema = pq.read_schema(path, memory_map=False)

    @property
    def filters(self) -> list[str]:
        """The filters with scores, in the recipe's order."""
        return [name for name in self.schema.names if name not in _BEFORE]

    def __iter__(self) -> "Iterator[tuple[Shard, pa.Table]]":
        """Every shard of the rows with its part of the ledger."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True, memory_map=False) as file:
                if file.num_row_groups != len(self.rows.shards):  # one group per shard, as it was written
                    raise IntegrityError(f"{self.path}: {file.num_row_groups} parts for {len(self.rows.shards)} of the rows")
                for shard in self.rows.shards:
                    part = file.read_row_group(shard.index, use_threads=False)
                    if part["row"].to_pylist() != list(range(shard.start, shard.stop)):
                        raise IntegrityError(f"{self.path}: rows {shard.start} to {shard.stop} are not those of the run")
                    yield shard, part
        except (OSError, pa.ArrowException) as error:
            raise IntegrityError(f"{self.path}: damaged or missing ({error}); run `curate verify` on the folder") from error


def survey(ledger: Ledger, lock: Mapping[str, Any]) -> Survey:
    """Look at every row once, to decide what can be published of it."""
    looking = _Looking(ledger, _foreign(lock))
    with progress.measuring("looking for text in scores", ledger.rows.count):
        for shard, part in ledger:
            looking.at(shard, part)
            progress.tick(rows=part.num_rows)
    return looking.found()


def _foreign(lock: Mapping[str, Any]) -> set[str]:
    """Filters that are not ours: what their strings hold is not known here."""
    return {name for name, entry in lock["annotations"].items() if "source" in entry["fingerprint"]}


class _Looking:
    def __init__(self, ledger: Ledger, foreign: set[str]) -> None:
        self.ledger, self.foreign = ledger, foreign
        self.reasons: dict[str, set[str]] = {name: set() for name in ledger.filters if name in foreign}
        self.withheld: set[str] = set()
        self.sources: Counter[str | None] = Counter()
        self.kept_sources: Counter[str | None] = Counter()
        self.source_in_text: Counter[str] = Counter()
        self.every_source_is_text = False
        self.hashed: set[str] = {"prompt_key"} if "group" in ledger.rows.facts else set()

    def at(self, shard: Shard, part: "pa.Table") -> None:
        texts = _texts(self.ledger.rows, shard)
        sources = part["source"].to_pylist()
        self.kept_sources.update(
            source for source, decision in zip(sources, part["decision"].to_pylist(), strict=True) if decision == "kept"
        )
        self._sources(sources, texts)
        if any(is_text(name, text) for name, text in zip(part["id"].to_pylist(), texts, strict=True)):
            self.hashed.add("id")
        for name in self.reasons:
            self._reasons(name, part, texts)

    def _sources(self, sources: Sequence[str | None], texts: Sequence[str]) -> None:
        if self.every_source_is_text:
            return
        self.sources.update(sources)
        for source, text in zip(sources, texts, strict=True):
            if source is not None and is_text(source, text):
                self.source_in_text[source] += 1
        if len(self.sources) > MOST_SOURCES:  # no such thing as ten thousand sources
            self.every_source_is_text = True
            self.sources, self.kept_sources, self.source_in_text = Counter(), Counter(), Counter()

    def _reasons(self, name: str, part: "pa.Table", texts: Sequence[str]) -> None:
        import pyarrow.compute as pc

        if name in self.withheld:
            return
        for reason, text in zip(pc.struct_field(part[name], REASON).to_pylist(), texts, strict=True):
            if reason is None:
                continue
            self.reasons[name].add(reason)
            if len(reason) > LONGEST_REASON or len(self.reasons[name]) > MOST_REASONS or quotes(reason, text):
                self.withheld.add(name)
                return

    def found(self) -> Survey:
        # A source's name may well be said in some of its rows; where it is said in half of them it is no name.
        text_sources = {value for value, count in self.source_in_text.items() if 2 * count >= self.sources[value]}
        columns, left_out = self._columns()
        if text_sources or self.every_source_is_text:
            self.hashed.add("source")
        return Survey(
            columns,
            left_out,
            frozenset(text_sources),
            self.every_source_is_text,
            sorted(self.hashed),
            {} if self.every_source_is_text else dict(self.kept_sources),
            dict(self.sources),
        )

    def _columns(self) -> tuple[list[ScoreColumn], list[str]]:
        columns: list[ScoreColumn] = []
        left_out: list[str] = []
        taken = {name for name, _ in _own_columns()}
        for name in self.ledger.filters:
            for output in self.ledger.schema.field(name).type:
                where = f"{name}.{output.name}"
                is_reason = output.name == REASON
                if not is_reason and not self._is_published(where, name, output.type):
                    left_out.append(where)
                    continue
                if is_reason and name in self.withheld:
                    left_out.append(where)
                column = f"{name}_reason" if is_reason else f"{name}_{output.name}"
                while column in taken:  # `a_b.c` and `a.b_c`
                    column += "_"
                taken.add(column)
                columns.append(ScoreColumn(column, name, output.name))
        return columns, left_out

    def _is_published(self, where: str, name: str, kind: "pa.DataType") -> bool:
        import pyarrow as pa

        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return where in WORDS and name not in self.foreign
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _texts(rows: RowStore, shard: Shard) -> list[str]:
    """Everything that the authors of a shard's rows wrote, one string per row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    messages = rows.read(shard, ["messages"])["messages"].combine_chunks()
    contents = pa.ListArray.from_arrays(
        pc.subtract(messages.offsets, messages.offsets[0]), messages.flatten().field("content").fill_null("")
    )
    return list(pc.binary_join(contents, "\n").fill_null("").to_pylist())


def is_text(label: str | None, text: str) -> bool:
    """Whether an id or a source is text of its row and not a name: too long for one, or said in it word by word."""
    return label is not None and (len(label) > LONGEST_LABEL or (len(label) >= _WINDOW and label in text))


def quotes(phrase: str, text: str) -> bool:
    """Whether a dozen characters in a row of `phrase` stand in `text`."""
    return any(phrase[at : at + _WINDOW] in text for at in range(len(phrase) - _WINDOW + 1))


def _own_columns() -> "list[tuple[str, pa.DataType]]":
    import pyarrow as pa

    return [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("prompt_key", pa.string()),
        ("row_hash", pa.string()),
        ("characters", pa.int64()),
        ("kept", pa.bool_()),
        ("rejected_by", pa.string()),
        ("margin", pa.float64()),
    ]


def scores_schema(ledger: Ledger, found: Survey) -> "pa.Schema":
    """Columns and types of the scores."""
    import pyarrow as pa

    def kind(column: ScoreColumn) -> pa.DataType:
        stored = ledger.schema.field(column.filter_name).type.field(column.output).type
        if pa.types.is_boolean(stored):
            return stored
        if pa.types.is_floating(stored):
            return pa.float64()
        return pa.int64() if pa.types.is_integer(stored) else pa.string()

    return pa.schema([*_own_columns(), *((column.name, kind(column)) for column in found.columns)])


def ledger_schema(ledger: Ledger, found: Survey) -> "pa.Schema":
    """The ledger's columns without the outputs that are left out."""
    import pyarrow as pa

    return pa.schema(
        [*(ledger.schema.field(name) for name in _BEFORE), *((name, _struct(ledger, found, name)) for name in ledger.filters)]
    )


def _struct(ledger: Ledger, found: Survey, name: str) -> "pa.StructType":
    import pyarrow as pa

    stored = ledger.schema.field(name).type
    return pa.struct([stored.field(column.output) for column in found.columns if column.filter_name == name])


@dataclass(frozen=True)
class PublicParts:
    """One shard's part of both files."""

    scores: "pa.Table"
    ledger: "pa.Table"
    shard: Shard
    rejected: "pa.Array"
    """Which of its rows are rejected."""


def public_parts(ledger: Ledger, found: Survey, steps: Mapping[str, str]) -> Iterator[PublicParts]:
    """Scores and ledger of every shard, as they are published. `steps` maps the steps' names to those without paths."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema, in_ledger = scores_schema(ledger, found), ledger_schema(ledger, found)
    for shard, part in ledger:
        facts = ledger.rows.read(shard, ["row", "group", "content_key", "characters"])
        labels = _labels(ledger.rows, shard, part, facts, found)
        labels["rejected_by"] = [steps.get(step, step) for step in part["rejected_by"].to_pylist()]
        values = {column.name: _output(part, column, found) for column in found.columns}
        kept = pc.equal(part["decision"], "kept")
        scores: dict[str, Any] = {
            "row": part["row"],
            **labels,
            "row_hash": [key.hex() for key in facts["content_key"].to_pylist()],
            "characters": facts["characters"],
            "kept": kept,
            "margin": part["margin"],
            **{name: value.cast(schema.field(name).type) for name, value in values.items()},
        }
        cleaned = {name: part[name] for name in _BEFORE} | labels
        cleaned["fails"] = [[steps.get(step, step) for step in names] for names in part["fails"].to_pylist()]
        structs = {
            name: pa.StructArray.from_arrays(
                [values[column.name].combine_chunks() for column in found.columns if column.filter_name == name],
                fields=list(_struct(ledger, found, name)),
            )
            for name in ledger.filters
        }
        yield PublicParts(
            pa.table({name: scores[name] for name in schema.names}, schema=schema),
            pa.table({**cleaned, **structs}, schema=in_ledger),
            shard,
            pc.invert(kept).combine_chunks(),
        )


def _labels(rows: RowStore, shard: Shard, part: "pa.Table", facts: "pa.Table", found: Survey) -> dict[str, Any]:
    """Id, source and prompt key, hashed where they are not ours or not labels."""
    ids = part["id"].to_pylist()
    if "id" in found.hashed:
        texts = _texts(rows, shard)
        ids = [stable_hash(one) if is_text(one, text) else one for one, text in zip(ids, texts, strict=True)]
    groups, keys = facts["group"].to_pylist(), part["prompt_key"].to_pylist()
    return {
        "id": ids,
        "source": [found.source(value) for value in part["source"].to_pylist()],
        # A group's name is the user's own word; the hash of a prompt is nobody's.
        "prompt_key": [key if group is None else stable_hash(key) for key, group in zip(keys, groups, strict=True)],
    }


def _output(part: "pa.Table", column: ScoreColumn, found: Survey) -> "pa.ChunkedArray":
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.struct_field(part[column.filter_name], column.output)
    if column.output == REASON and column.field in found.left_out:
        return pc.if_else(pc.is_valid(values), pa.scalar(WITHHELD), pa.scalar(None, pa.string()))
    return values


__all__ = ["Ledger", "PublicParts", "ScoreColumn", "Survey", "public_parts", "scores_schema", "survey"]
