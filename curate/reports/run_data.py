"""A run's folder as the report needs it: read once, one array per thing over all rows."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from curate import _fs
from curate.annotations import AnnotationStore
from curate.errors import CurateError, IntegrityError, UsageError
from curate.filters import known_filters
from curate.filters.base import REASON
from curate.likelihood import model_identity
from curate.recipes.schema import STEPS, Ranking, Step
from curate.reference import model_path
from curate.reports.text import without_paths
from curate.rows import RowStore
from curate.selection.frame import Bools, Column, Floats, Ints

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = ("float64", "int64")
MOST_WORDS = 64
"""A text output with more values than this is no category."""
_NAMES = ("near_duplicate.group", "token_nll.content_first", "token_nll.content_end")
"""Integers that name a row or a place and measure nothing."""
Kind = Literal["number", "flag", "word"]


@dataclass(frozen=True)
class Field:
    """One output of a filter."""

    name: str
    kind: Kind
    what: str
    """Its line in the filter's data sheet; empty where the filter is not installed here."""


class RunData:
    """Everything that the report says of a run, as arrays over its rows; row number is array index."""

    def __init__(self, out: Path) -> None:
        """Open a run's folder; raises UsageError where nothing was selected, IntegrityError where its files disagree."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.out = out
        path = out / "selection" / "selection.json"
        if not path.is_file():
            raise UsageError(f"{out}: holds no selection to report on; run `curate select {out} --recipe NAME` first")
        self.decision = _fs.read_json(path, "recipe", "report", "kept_rows")
        self.report: Mapping[str, Any] = self.decision["report"]
        self.recipe: Mapping[str, Any] = self.decision["recipe"]
        self.rows = RowStore(out / "rows")
        self.lock = _fs.read_json(out / "lock.json") if (out / "lock.json").is_file() else {}
        ledger = out / "selection" / "ledger.parquet"
        try:
            self._ledger: pa.Table = pq.read_table(ledger, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise IntegrityError(f"{ledger}: damaged or missing ({error}); run `curate select` again") from error
        if self._ledger.num_rows != self.rows.count or int(self.kept.sum()) != self.decision["kept_rows"]:
            raise IntegrityError(
                f"{ledger}: tells of {self._ledger.num_rows} rows, {int(self.kept.sum())} kept; rows/ holds {self.rows.count} "
                f"and selection.json says that {self.decision['kept_rows']} are kept; run `curate select` again"
            )
        self._columns: dict[str, Column] = {}

    @property
    def count(self) -> int:
        """Rows that could be read."""
        return self.rows.count

    @cached_property
    def read(self) -> int:
        """Rows of the source, refused ones with them."""
        return int(self.rows.manifest["read"])

    @cached_property
    def kept(self) -> Bools:
        """Which rows are kept."""
        kept: Bools = np.array([decision == "kept" for decision in self._ledger["decision"].to_pylist()], dtype=bool)
        return kept

    @cached_property
    def step_names(self) -> list[str]:
        """The recipe's steps in words, as the ledger has them."""
        return [str(step["step"]) for step in self.report["steps"]]

    @cached_property
    def steps(self) -> list[Step]:
        """The recipe's steps."""
        # One by one: the recipe as a whole would ask for the filters, and they may be a plug-in's.
        return [STEPS[word](**settings) for step in self.recipe["steps"] for word, settings in step.items()]

    @cached_property
    def rejected_by(self) -> Ints:
        """Index of the step that rejected a row; -1: kept."""
        place = {name: at for at, name in reversed(list(enumerate(self.step_names)))}
        return np.array([-1 if name is None else place[name] for name in self._ledger["rejected_by"].to_pylist()], dtype=np.int64)

    @cached_property
    def is_unscored(self) -> Bools:
        """Rejected because the step's field has no value."""
        return np.array(self._ledger["is_unscored"].to_pylist(), dtype=bool)

    @cached_property
    def margin(self) -> Floats:
        """Distance to the cut; nan where nothing was measured."""
        values: Floats = self._ledger["margin"].to_numpy().astype(np.float64)
        return values

    @cached_property
    def ids(self) -> list[str | None]:
        """The rows' names in the source."""
        return list(self._ledger["id"].to_pylist())

    @cached_property
    def fails(self) -> list[list[str]]:
        """All fixed bounds that a row breaks, whichever step took it."""
        return list(self._ledger["fails"].to_pylist())

    @cached_property
    def source_names(self) -> list[str | None]:
        """Sources, those with the most rows first."""
        found = self._ledger["source"].combine_chunks().value_counts().to_pylist()
        return [one["values"] for one in sorted(found, key=lambda one: (-one["counts"], one["values"] or ""))]

    @cached_property
    def source(self) -> Ints:
        """Index of every row's source in `source_names`."""
        place = {name: at for at, name in enumerate(self.source_names)}
        return np.array([place[name] for name in self._ledger["source"].to_pylist()], dtype=np.int64)

    @cached_property
    def filters(self) -> list[str]:
        """Filters whose scores stand in the ledger."""
        import pyarrow as pa

        return [field.name for field in self._ledger.schema if pa.types.is_struct(field.type)]

    @cached_property
    def fields(self) -> list[Field]:
        """Outputs that have a value somewhere: those that the recipe acts on first, the last of them leading."""
        import pyarrow as pa

        found: list[Field] = []
        for name in self.filters:
            sheet = data_sheet(name)
            for output in self._ledger.schema.field(name).type:
                if output.name == REASON:
                    continue
                kind: Kind = (
                    "flag" if pa.types.is_boolean(output.type) else "word" if pa.types.is_string(output.type) else "number"
                )
                field = Field(f"{name}.{output.name}", kind, sheet.get(output.name, ""))
                if field.name not in _NAMES and self.column(field.name).valid.any():
                    found.append(field)
        acted = [name for step in reversed(self.steps) for name in step.fields()]
        return sorted(found, key=lambda field: acted.index(field.name) if field.name in acted else len(acted))

    @cached_property
    def empty_fields(self) -> list[str]:
        """Numeric outputs without a value in any row."""
        import pyarrow as pa

        names = [
            f"{name}.{output.name}"
            for name in self.filters
            for output in self._ledger.schema.field(name).type
            if pa.types.is_floating(output.type) or pa.types.is_integer(output.type)
        ]
        return [name for name in names if not self.column(name).valid.any()]

    def column(self, name: str) -> Column:
        """Values of `filter.output`, and which rows have one."""
        if name not in self._columns:
            self._columns[name] = _column(self._ledger, name)
        return self._columns[name]

    def has(self, name: str) -> bool:
        """Whether any row has a value of this field."""
        return any(field.name == name for field in self.fields)

    def margin_field(self, row: int) -> str | None:
        """The field in whose unit a row's margin is."""
        if not np.isfinite(self.margin[row]):
            return None
        step = int(self.rejected_by[row])
        return self._margin_of_kept if step < 0 else next(iter(self.steps[step].fields()), None)

    @cached_property
    def _margin_of_kept(self) -> str | None:
        # As `Selection.margin` has it: of the last ranking, else of the last bounds.
        rankings: list[Step] = [step for step in self.steps if isinstance(step, Ranking)]
        measuring = rankings or [step for step in self.steps if step.measures]
        return measuring[-1].fields()[0] if measuring else None

    @cached_property
    def plans(self) -> dict[str, Mapping[str, Any]]:
        """The plan of every filter's annotations that this folder holds; with `--reuse` another may hold them."""
        found: dict[str, Mapping[str, Any]] = {}
        for name, facts in self.lock.get("annotations", {}).items():
            folder = self.out / "annotations" / str(facts["folder"])
            if folder.is_dir():
                found[name] = AnnotationStore(folder).plan
        return found

    @cached_property
    def model(self) -> Mapping[str, Any] | None:
        """The model that the scores are of: `name` (a Hub id, or a folder's last name), `identity` and settings; None without."""
        for name, facts in self.lock.get("annotations", {}).items():
            if (known := model_facts(facts["fingerprint"])) is None:
                continue
            parameters = self.plans.get(name, {}).get("parameters", {})
            return {"identity": known["model"], "max_length": known.get("max_length"), "dtype": known.get("dtype")} | _named(
                known["model"], parameters.get("model")
            )
        return None

    def shown(self, text: str) -> str:
        """A sentence of ours without the paths of the machine that it was written on."""
        for mine in {str(self.out), str(self.out.resolve())} - {".", ""}:
            text = text.replace(mine, "DIR")
        return without_paths(text)


def model_facts(fingerprint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of a fingerprint, or of one that it derives from, that says which model saw what."""
    if "model" in fingerprint:
        return fingerprint
    return next((facts for needed in fingerprint.get("depends", {}).values() if (facts := model_facts(needed))), None)


def _named(identity: Mapping[str, str], where: str | None) -> dict[str, Any]:
    try:
        is_packaged = model_identity(str(model_path()), None) == identity
    except CurateError:
        is_packaged = False
    if is_packaged:
        return {"name": "the packaged reference model"}
    if "repository" in identity:
        return {"name": f"{identity['repository']} at {identity['revision'][:12]}"}
    return {"name": Path(where).name if where else "a local model"}


def data_sheet(name: str) -> dict[str, str]:
    """What a filter's data sheet says of its outputs, by output; empty for a filter that is not installed here."""
    cls = known_filters().get(name)
    lines = iter((inspect.getdoc(cls) or "").split("\n")) if cls else iter(())
    found: dict[str, list[str]] = {}
    output: list[str] | None = None
    for line in lines:
        if line.startswith("Outputs"):
            break
    for line in lines:
        if not line.startswith("    "):
            break
        start = re.match(r" {4}(\w+): (.*)", line)
        if start:
            output = found.setdefault(start[1], [])
            output.append(start[2])
        elif output is not None:
            output.append(line.strip())
    told = {key: " ".join(words) for key, words in found.items()}
    for key, text in told.items():
        # "as nll, over the content" alone tells a stranger nothing.
        like = re.match(r"as (\w+),", text)
        if like and like[1] in told and like[1] != key:
            told[key] = f"{text} {like[1]}: {told[like[1]]}"
    return told


def _column(ledger: "pa.Table", name: str) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    filter_name, _, output = name.partition(".")
    values = pc.struct_field(ledger[filter_name], output).combine_chunks()
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_string(values.type):
        return Column(values.to_numpy(zero_copy_only=False), valid)
    filled = pc.fill_null(values, False if pa.types.is_boolean(values.type) else 0).to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(values.type):
        return Column(filled, valid)
    filled = filled.astype(np.float64)
    return Column(filled, valid & np.isfinite(filled))


def categories(column: Column) -> tuple[list[str], Sequence[int]] | None:
    """Values of a text output and every row's index among them (-1: none); None where there are too many to be categories."""
    names = sorted({str(value) for value in column.values[column.valid]})
    if not names or len(names) > MOST_WORDS:
        return None
    place = {name: at for at, name in enumerate(names)}
    return names, [place[str(value)] if there else -1 for value, there in zip(column.values, column.valid, strict=True)]
