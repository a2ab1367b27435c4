"""correlate(): rank correlations of all scores of a run, and what their variance is made of."""

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate import progress
from curate.annotations import AnnotationStore, load_annotations
from curate.annotations.store import struct_type_of
from curate.correlation.shares import Shares, shares
from curate.correlation.spearman import correlation_of_ranks, rank_correlation, ranks
from curate.errors import UsageError, near_miss
from curate.filters.base import REASON
from curate.selection.frame import Column, Frame

SUMS = ("likelihood",)
"""Filters whose outputs are the sums that others divide: taken only when asked for by name."""
CHARACTERS = "characters"
"""Length of the completion, which every run has."""


@dataclass(frozen=True)
class Field:
    """One score: how many rows have it, and what its variance is made of."""

    name: str
    scored: int
    shares: Shares


@dataclass(frozen=True)
class Correlations:
    """All fields against all; pairwise complete."""

    out: str
    rows: int
    sources: int
    prompts: int
    fields: list[Field]
    correlation: list[list[float | None]]
    """Spearman, ties sharing their mean rank; None for fewer than 3 common rows or a constant side."""
    counts: list[list[int]]
    """Rows that have both."""
    constant: list[str]
    """Scores left out since all rows share one value, or none has any."""
    copies: dict[str, str]
    """Scores left out since they equal another in every row, and that other. Empty where fields were named."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def strongest(self, most: int = 10, *, least: float = 0.3) -> list[tuple[str, str, float, int]]:
        """Pairs of different filters, or with length, by size of their correlation."""
        names = [field.name for field in self.fields]
        found = [
            (a, b, value, self.counts[i][j])
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if i < j and a.partition(".")[0] != b.partition(".")[0]
            if (value := self.correlation[i][j]) is not None and abs(value) >= least
        ]
        return sorted(found, key=lambda row: (-abs(row[2]), row[:2]))[:most]


def correlate(out: str | Path, *, fields: Sequence[str] = ()) -> Correlations:
    """Read the scores of a run's folder; needs no model.

    Args:
        out: a folder that `annotate`, `run` or `advise` made.
        fields: names or patterns such as `perplexity.*`; without them, every number and every yes or no.

    Raises:
        UsageError: the folder holds no scores, or a field names none.
    """
    annotations = load_annotations(out)
    stores = _named(annotations.stores)
    if not stores:
        raise UsageError(f"{out}: holds no finished scores; run `curate annotate DATA --out {out}` first")
    frame = Frame(annotations.rows, stores)
    known = [CHARACTERS, *(f"{name}.{output}" for name, store in stores.items() for output in _numeric(store))]
    chosen = _chosen(known, fields)
    columns = {name: frame.characters if name == CHARACTERS else _column(frame, name) for name in chosen}
    constant = [name for name, column in columns.items() if _is_constant(column)]
    copies = {} if fields else _copies(columns)
    for name in {*constant, *copies}:
        del columns[name]
    found = [Field(name, int(column.valid.sum()), _shares(frame, name, column)) for name, column in columns.items()]
    correlation, counts = _matrix(columns)
    sources, prompts = frame.codes("source"), frame.codes("prompt_key")
    return Correlations(
        out=str(out),
        rows=frame.count,
        sources=len(np.unique(sources)),
        prompts=len(np.unique(prompts)),
        fields=found,
        correlation=correlation,
        counts=counts,
        constant=constant,
        copies={name: other for name, other in copies.items() if name not in constant},
    )


def _named(stores: Sequence[AnnotationStore]) -> dict[str, AnnotationStore]:
    """Stores by filter; where a filter has several, by folder, which tells them apart."""
    often = Counter(store.filter_name for store in stores)
    return {store.filter_name if often[store.filter_name] == 1 else store.folder.name: store for store in stores}


def _numeric(store: AnnotationStore) -> list[str]:
    import pyarrow as pa

    is_number = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return [field.name for field in struct_type_of(store) if field.name != REASON and any(test(field.type) for test in is_number)]


def _column(frame: Frame, name: str) -> Column:
    """As numbers: no is 0, yes is 1."""
    key, _, output = name.partition(".")
    store = frame.stores[key]
    if key != store.filter_name:
        own = Frame(frame.rows, {store.filter_name: store})
        name = f"{store.filter_name}.{output}"
        column = own.column(name)
    else:
        column = frame.column(name)
    return replace(column, values=column.values.astype(np.float64))


def _chosen(known: Sequence[str], fields: Sequence[str]) -> list[str]:
    if not fields:
        return [name for name in known if name.partition(".")[0].rsplit("-", 1)[0] not in SUMS]
    chosen: list[str] = []
    for pattern in fields:
        matching = [name for name in known if fnmatch.fnmatchcase(name, pattern) or name.partition(".")[0] == pattern]
        if not matching:
            raise UsageError(f"--fields {pattern}: no such score; {near_miss(pattern, known)}")
        chosen += [name for name in matching if name not in chosen]
    return chosen


def _is_constant(column: Column) -> bool:
    values = column.values[column.valid]
    return len(values) == 0 or bool((values == values[0]).all())


def _copies(columns: Mapping[str, Column]) -> dict[str, str]:
    """Later columns that equal an earlier one."""
    seen: dict[bytes, str] = {}
    found = {}
    for name, column in columns.items():
        digest = hashlib.sha256(column.valid.tobytes() + np.where(column.valid, column.values, 0.0).tobytes()).digest()
        first = seen.setdefault(digest, name)
        if first != name:
            found[name] = first
    return found


def _shares(frame: Frame, name: str, column: Column) -> Shares:
    there = column.valid
    length = None if name == CHARACTERS else frame.characters.values[there]
    return shares(column.values[there], frame.codes("source")[there], frame.codes("prompt_key")[there], length)


def _matrix(columns: Mapping[str, Column]) -> tuple[list[list[float | None]], list[list[int]]]:
    held = list(columns.values())
    values: list[list[float | None]] = [[None] * len(held) for _ in held]
    counts = [[0] * len(held) for _ in held]
    ranked = [ranks(column.values[column.valid]) for column in held]
    with progress.measuring("correlating fields", len(held)):
        for i, left in enumerate(held):
            for j, right in enumerate(held[: i + 1]):
                both = left.valid & right.valid
                counts[i][j] = counts[j][i] = count = int(both.sum())
                if count == len(ranked[i]) == len(ranked[j]):  # the same rows: their ranks are known
                    found = correlation_of_ranks(ranked[i], ranked[j])
                else:
                    found = rank_correlation(left.values[both], right.values[both])
                values[i][j] = values[j][i] = found
            progress.tick(rows=1)
    return values, counts
