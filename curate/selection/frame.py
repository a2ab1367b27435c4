"""What the steps see: one array per thing asked for, over all rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.annotations import AnnotationStore
from curate.examples import Example
from curate.filters.base import REASON
from curate.rows import RowStore

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DECILES = 10
LENGTH_FIELDS = ("perplexity.content_tokens", "entropy.content_tokens", "length.words")
"""What the report's mean lengths are in: the first of these that is annotated, else characters."""


@dataclass(frozen=True)
class Column:
    """One field of all rows: values, and which rows have one."""

    values: npt.NDArray[Any]
    valid: Bools


class Frame:
    """What the steps see: one array per thing asked for, over all rows. Row number is array index."""

    def __init__(self, rows: RowStore, stores: Mapping[str, AnnotationStore]) -> None:
        self.rows, self.stores = rows, stores
        self.among: Bools | None = None
        """Rows that take part; lengths of the others move no decile."""
        self._columns: dict[str, Column] = {}
        self._codes: dict[str, Ints] = {}
        self._names: dict[str, list[str | None]] = {}

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.rows.count

    def column(self, name: str) -> Column:
        """Values of `filter.output`, over all rows."""
        if name not in self._columns:
            filter_name = name.partition(".")[0]
            store = self.stores[filter_name]
            chunks = [_child(store.read(shard.index, [name])[filter_name]) for shard in store.shards]
            self._columns[name] = _column(chunks, store.plan["rows"]["count"])
        return self._columns[name]

    def reasons(self, filter_name: str) -> Column:
        """Why rows are unscored by a filter."""
        return self.column(f"{filter_name}.{REASON}")

    def codes(self, name: str) -> Ints:
        """An integer per row, equal for equal values of a column of `rows/` (null is a value)."""
        import pyarrow as pa

        if name not in self._codes:
            chunks = [chunk for shard in self.rows.shards for chunk in self.rows.read(shard, [name])[name].chunks]
            encoded = pa.chunked_array(chunks).combine_chunks().dictionary_encode(null_encoding="encode")
            self._codes[name] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            if name == "source":
                self._names[name] = encoded.dictionary.to_pylist()
        return self._codes[name]

    def names(self, name: str) -> list[str | None]:
        """The values that `codes` stand for, by code."""
        self.codes(name)
        return self._names[name]

    def example(self, row: int) -> Example:
        """One row's example; meant for the few that are shown."""
        shard = next(shard for shard in self.rows.shards if shard.start <= row < shard.stop)
        return self.rows.examples(shard)[row - shard.start]

    def group(self, name: str) -> Ints:
        """An integer per row, equal inside a group: prompt, source, stratum (source x decile of length) or dataset."""
        if name == "dataset":
            return np.zeros(self.count, dtype=np.int64)
        if name == "stratum":
            return self.codes("source") * DECILES + self.decile
        return self.codes({"prompt": "prompt_key", "source": "source"}[name])

    @cached_property
    def length_field(self) -> str:
        """The field that the report's mean lengths are in."""
        return next((name for name in LENGTH_FIELDS if name.partition(".")[0] in self.stores), "characters")

    @cached_property
    def length(self) -> Column:
        """Length of every completion, in `length_field`'s unit."""
        return self.characters if self.length_field == "characters" else self.column(self.length_field)

    @cached_property
    def characters(self) -> Column:
        """Characters of every completion."""
        chunks = [chunk for shard in self.rows.shards for chunk in self.rows.read(shard, ["characters"])["characters"].chunks]
        return _column(chunks, self.count)

    @cached_property
    def decile(self) -> Ints:
        """Decile of completion characters over the data set, 0 to 9; equal lengths share one.

        Characters and not the target model's tokens, which the design names: a control that asks no model (`random50`,
        `longest50`) has to draw in the very groups in which the recipe that it controls ranks.
        """
        values = self.characters.values
        known = np.sort(values if self.among is None else values[self.among])
        below = np.searchsorted(known, values, side="left")
        return np.minimum(below * DECILES // max(len(known), 1), DECILES - 1).astype(np.int64)


def _child(column: "pa.ChunkedArray") -> "pa.Array":
    import pyarrow.compute as pc

    return pc.struct_field(column, [0]).combine_chunks()


def _column(chunks: Sequence["pa.Array"], count: int) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.concat_arrays(chunks)
    assert len(whole) == count
    valid = whole.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_string(whole.type):
        return Column(whole.to_numpy(zero_copy_only=False), valid)
    filler = False if pa.types.is_boolean(whole.type) else 0
    values = pc.fill_null(whole, filler).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(whole.type):
        valid &= np.isfinite(values)
    return Column(values if pa.types.is_boolean(whole.type) else values.astype(np.float64), valid)
