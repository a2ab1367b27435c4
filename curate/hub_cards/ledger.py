"""The ledger of a run as a card needs it: who was kept, by what each row was rejected, and how scores are distributed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import _fs
from curate.filters.base import REASON

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 10
LOG_SPAN = 30.0
"""Where the 99th percentile lies this many times above the first, a linear axis shows one bar; the report has the same rule."""
_NO_MEASURE = ("near_duplicate.group", "token_nll.content_first", "token_nll.content_end")
"""Integers that name a row or a place."""


@dataclass(frozen=True)
class Spread:
    """How a score is distributed over some rows."""

    rows: int
    scored: int
    quantiles: Sequence[float | None]


@dataclass(frozen=True)
class Bin:
    """Rows with a value from `low` to `high`; None is open."""

    low: float | None
    high: float | None
    kept: int
    rejected: int


@dataclass(frozen=True)
class Flag:
    """How often a statement holds: among all rows that were read and among those that were kept."""

    field: str
    checked: int
    found: int
    checked_kept: int
    found_kept: int


class Ledger:
    """selection/ledger.parquet, one column in memory at a time."""

    def __init__(self, path: Path) -> None:
        """Open it; raises IntegrityError where it is damaged."""
        import pyarrow.compute as pc

        self.path = path
        table = _fs.read_table(path, ["decision", "rejected_by", "source"])
        self.count = table.num_rows
        self.kept: npt.NDArray[np.bool_] = (
            pc.equal(table["decision"].combine_chunks(), "kept").to_numpy(zero_copy_only=False).astype(bool)
        )
        self._steps = table["rejected_by"].combine_chunks().dictionary_encode(null_encoding="encode")
        self._sources = table["source"].combine_chunks().dictionary_encode(null_encoding="encode")

    @cached_property
    def fields(self) -> dict[str, str]:
        """`filter.output` -> kind (number, flag, text), in the ledger's order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            schema = file.schema_arrow
        found = {}
        for column in schema:
            if pa.types.is_struct(column.type):
                for output in column.type:
                    is_number = pa.types.is_floating(output.type) or pa.types.is_integer(output.type)
                    kind = "number" if is_number else "flag" if pa.types.is_boolean(output.type) else "text"
                    found[f"{column.name}.{output.name}"] = kind
        return found

    def crosstab(self) -> dict[str | None, dict[str | None, int]]:
        """Source -> step that rejected (None: kept) -> rows."""
        steps, sources = self._steps.dictionary.to_pylist(), self._sources.dictionary.to_pylist()
        pairs = self._sources.indices.to_numpy() * len(steps) + self._steps.indices.to_numpy()
        counts = np.bincount(pairs, minlength=len(steps) * len(sources)).reshape(len(sources), len(steps))
        return {source: {step: int(counts[i, j]) for j, step in enumerate(steps)} for i, source in enumerate(sources)}

    def _column(self, field: str) -> Any:
        import pyarrow.compute as pc

        name, _, output = field.partition(".")
        return pc.struct_field(_fs.read_table(self.path, [f"{name}.{output}"])[name].combine_chunks(), [0])

    def numbers(self, field: str) -> npt.NDArray[np.float64]:
        """A score of every row; nan where it is null."""
        import pyarrow as pa

        values = self._column(field).cast(pa.float64(), safe=False)
        found: npt.NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
        found[~np.isfinite(found)] = np.nan
        return found

    def number_fields(self) -> list[str]:
        """The outputs that measure something."""
        return [name for name, kind in self.fields.items() if kind == "number" and name not in _NO_MEASURE]

    def spread(self, values: npt.NDArray[np.float64], rows: npt.NDArray[np.bool_]) -> Spread:
        """The quantiles of a score over some rows."""
        mine = values[rows]
        scored = mine[np.isfinite(mine)]
        found = [None] * len(QUANTILES) if not len(scored) else np.quantile(scored, QUANTILES).tolist()
        return Spread(len(mine), len(scored), found)

    def bins(self, values: npt.NDArray[np.float64]) -> list[Bin]:
        """A histogram between the 2nd and the 98th percentile, open at both ends; none where all values are one.

        Positive values that are spread over a wide range get borders at equal ratios.
        """
        scored = np.isfinite(values)
        if not scored.any():
            return []
        low, high = np.quantile(values[scored], (0.02, 0.98))
        if low == high:
            return []
        first, last = np.quantile(values[scored], (0.01, 0.99))
        is_wide = values[scored].min() > 0 and last > LOG_SPAN * first
        edges = (np.geomspace if is_wide else np.linspace)(low, high, BINS - 1)
        place = np.searchsorted(edges, values[scored], side="right")
        kept = np.bincount(place[self.kept[scored]], minlength=BINS)
        rejected = np.bincount(place[~self.kept[scored]], minlength=BINS)
        borders = [None, *edges.tolist(), None]
        return [Bin(borders[number], borders[number + 1], int(kept[number]), int(rejected[number])) for number in range(BINS)]

    def flags(self, filter_name: str) -> Iterator[Flag]:
        """Every statement of a filter."""
        import pyarrow.compute as pc

        for field, kind in self.fields.items():
            if kind == "flag" and field.partition(".")[0] == filter_name:
                column = self._column(field)
                checked = column.is_valid().to_numpy(zero_copy_only=False)
                holds = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
                yield Flag(
                    field, int(checked.sum()), int(holds.sum()), int((checked & self.kept).sum()), int((holds & self.kept).sum())
                )

    def unscored(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Filter -> reason -> rows without a score, and how many of them were kept."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for field in self.fields:
            name, _, output = field.partition(".")
            if output == REASON:
                reasons = self._column(field).dictionary_encode()
                codes = reasons.indices.to_numpy(zero_copy_only=False)
                has = np.isfinite(codes.astype(np.float64))
                for code, reason in enumerate(reasons.dictionary.to_pylist()):
                    mine = has & (codes == code)
                    found.setdefault(name, {})[reason] = (int(mine.sum()), int((mine & self.kept).sum()))
        return found
