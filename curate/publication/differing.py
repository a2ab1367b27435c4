"""What two selections differ in: their rows, why, their recipes, their scores. Rows are the same where their text is."""

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import _fs
from curate.errors import UsageError
from curate.filters.base import REASON
from curate.publication.opened import Publication, existing_folder, is_publication, open_publication
from curate.publication.recutting import HASHES
from curate.recipes.schema import STEPS
from curate.rows import MANIFEST, RowStore

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 10
_PROSE = ("avoid", "evidence", "source", "summary")
"""What a recipe tells people; it decides about no row, nor do the settings of its trial."""
_BEFORE = {"row", "id", "source", "prompt_key", "decision", "rejected_by", "is_unscored", "fails", "margin"}


@dataclass(frozen=True)
class Group:
    """Some of the kept rows."""

    rows: int
    sources: dict[str, int]
    """By source; `None` for rows without one."""
    first: list[int]
    """Numbers of the first of them, in the selection that keeps them."""
    why: dict[str, int] = field(default_factory=dict)
    """Rows by the step that rejects them in the other selection."""
    absent: int = 0
    """Rows that the other selection was never given."""


@dataclass(frozen=True)
class ScoreDifference:
    """One output of a filter, in both."""

    field: str
    same_origin: bool | None
    """Whether filter, version, parameters and model are equal; None where that is not known."""
    compared: int
    """Rows that both were given."""
    differing: int
    """Of those, rows with another value, or with one on one side only."""
    largest: float | None
    """Largest difference of two numbers."""


@dataclass(frozen=True)
class Difference:
    """What `a` and `b` differ in."""

    a: str
    b: str
    rows: tuple[int, int]
    """Rows that each was given."""
    kept: tuple[int, int]
    both: Group
    """Kept by both."""
    only_a: Group
    only_b: Group
    input_only: tuple[int, int]
    """Rows, kept or not, that the other was never given."""
    moved: int
    """Rows kept by both that stand in another order."""
    recipe: list[str]
    """What the recipes differ in: `- of a`, `+ of b`; steps first, then settings that decide, then the rest."""
    scores: list[ScoreDifference]
    """Of the outputs that both have, those that differ in origin or value."""
    scores_only: tuple[list[str], list[str]]
    """Outputs that one of them has."""

    @property
    def is_same(self) -> bool:
        """Whether both keep the same rows in the same order."""
        return not (self.only_a.rows or self.only_b.rows or self.moved)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "is_same": self.is_same}

    def lines(self) -> list[str]:
        """The same in words."""
        return list(_lines(self))


@dataclass(frozen=True)
class Side:
    """One selection: a line per row that it was given."""

    name: str
    hashes: Sequence[str]
    sources: Sequence[str | None]
    rejected_by: Sequence[str | None]
    kept: Sequence[bool]
    order: Sequence[int]
    """Kept rows, as they are written."""
    recipe: Mapping[str, Any]
    origins: Mapping[str, Any]
    """Fingerprints by filter."""
    scores: "Mapping[str, pa.Array]"
    """Values by `filter.output`."""
    is_cut: bool = False
    """Whether this is a run's folder that was cut from a publication: scores that were left out of that are null there."""


def difference(a: str | Path | Publication, b: str | Path | Publication) -> Difference:
    """Compare two selections, each a run's folder, a publication's, or `hf://datasets/USER/NAME[@REVISION]`.

    Raises UsageError for a folder that holds neither.
    """
    left, right = _without_left_out(_side(a), _side(b))
    mine, theirs = _numbered(left), _numbered(right)
    shared = [key for key in mine if key in theirs]
    kept_a = {key for key, row in mine.items() if left.kept[row]}
    kept_b = {key for key, row in theirs.items() if right.kept[row]}
    fields = sorted(set(left.scores) & set(right.scores))
    pairs = np.array([[mine[key], theirs[key]] for key in shared], dtype=np.int64).reshape(-1, 2)
    compared = [_compare(name, left, right, pairs) for name in fields]
    return Difference(
        a=left.name,
        b=right.name,
        rows=(len(left.hashes), len(right.hashes)),
        kept=(len(kept_a), len(kept_b)),
        both=_group(left, [mine[key] for key in mine if key in kept_a and key in kept_b]),
        only_a=_only(left, mine, kept_a - kept_b, right, theirs),
        only_b=_only(right, theirs, kept_b - kept_a, left, mine),
        input_only=(len(mine) - len(shared), len(theirs) - len(shared)),
        moved=_moved(left, mine, right, theirs, kept_a & kept_b),
        recipe=_recipes(left.recipe, right.recipe),
        scores=[one for one in compared if one.differing or one.same_origin is False],
        scores_only=(sorted(set(left.scores) - set(right.scores)), sorted(set(right.scores) - set(left.scores))),
    )


def _without_left_out(left: Side, right: Side) -> tuple[Side, Side]:
    """Both sides without the scores that were not published: null in every row of a cut, and not so on the other side."""

    def known(side: Side, other: Side) -> Side:
        if not side.is_cut:
            return side
        absent = {name for name, values in side.scores.items() if values.null_count == len(values)}
        absent -= {name for name, values in other.scores.items() if values.null_count == len(values)}
        return replace(side, scores={name: values for name, values in side.scores.items() if name not in absent})

    return known(left, right), known(right, left)


def _side(source: str | Path | Publication) -> Side:
    if isinstance(source, Publication):
        return _of_publication(source)
    if is_publication(source):
        return _of_publication(open_publication(source))
    out = existing_folder(source)
    if not (out / "selection" / "selection.json").is_file():
        raise UsageError(f"{out}: holds neither a selection nor a publication; give a run's folder or hf://datasets/USER/NAME")
    return _of_run(out)


def _of_publication(publication: Publication) -> Side:
    table = publication.scores()
    return Side(
        name=publication.name,
        hashes=table["row_hash"].to_pylist(),
        sources=table["source"].to_pylist(),
        rejected_by=table["rejected_by"].to_pylist(),
        kept=table["kept"].to_pylist(),
        order=[row for batch in publication.batches("default", ["row"]) for row in batch["row"].to_pylist()],
        recipe=publication.facts["recipe"],
        origins=_origins(publication.lock),
        scores={name: table[column].combine_chunks() for column, name in publication.checked.columns.items()},
    )


def _of_run(out: Path) -> Side:
    ledger = _fs.read_table(out / "selection" / "ledger.parquet").combine_chunks()
    decision = _fs.read_json(out / "selection" / "selection.json", "recipe", "kept")
    parts = [_fs.read_table(out / "selection" / "kept" / part["file"], ["row"]) for part in decision["kept"]]
    lock = _fs.read_json(out / "lock.json")
    scores: dict[str, pa.Array] = {}
    for name in (name for name in ledger.column_names if name not in _BEFORE):
        struct = ledger[name].combine_chunks()
        scores |= {f"{name}.{output.name}": struct.field(index) for index, output in enumerate(struct.type)}
    return Side(
        name=str(out),
        hashes=_hashes(out, ledger.num_rows),
        sources=ledger["source"].to_pylist(),
        rejected_by=ledger["rejected_by"].to_pylist(),
        kept=[decision == "kept" for decision in ledger["decision"].to_pylist()],
        order=[row for part in parts for row in part["row"].to_pylist()],
        recipe=decision["recipe"],
        origins=_origins(lock),
        scores=scores,
        is_cut="publication" in (lock.get("input") or {}),
    )


def _hashes(out: Path, rows: int) -> list[str]:
    """The row hashes of a run, or of what was cut from a publication that did not hold all rows."""
    if (out / HASHES).is_file() and not (out / "rows" / MANIFEST).is_file():
        found = list(_fs.read_table(out / HASHES)["row_hash"].to_pylist())
    else:
        store = RowStore(out / "rows")
        keys = (key for shard in store.shards for key in store.read(shard, ["content_key"])["content_key"].to_pylist())
        found = [key.hex() for key in keys]
    if len(found) != rows:
        raise UsageError(f"{out}: its ledger speaks of {rows:,} rows and it holds {len(found):,}; run `curate verify {out}`")
    return found


def _origins(lock: Mapping[str, Any]) -> dict[str, Any]:
    found = lock.get("annotations", {})
    if not isinstance(found, dict):
        return {}
    return {name: entry["fingerprint"] for name, entry in found.items() if isinstance(entry, dict) and "fingerprint" in entry}


def _numbered(side: Side) -> dict[tuple[str, int], int]:
    """Row by hash and number among equal rows. Kept copies come first: of two copies it does not matter which is kept."""
    order = sorted(range(len(side.hashes)), key=lambda row: (not side.kept[row], row))
    seen: Counter[str] = Counter()
    found = {}
    for row in order:
        digest = side.hashes[row]
        found[digest, seen[digest]] = row
        seen[digest] += 1
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _group(side: Side, rows: Sequence[int], **more: Any) -> Group:
    sources = Counter(str(side.sources[row]) for row in rows)
    return Group(len(rows), dict(sorted(sources.items())), list(rows[:SHOWN]), **more)


def _only(
    side: Side,
    mine: Mapping[tuple[str, int], int],
    keys: set[tuple[str, int]],
    other: Side,
    theirs: Mapping[tuple[str, int], int],
) -> Group:
    """Rows that `side` keeps and `other` does not, and why not."""
    chosen = [key for key in mine if key in keys]
    there = [theirs[key] for key in chosen if key in theirs]
    why = Counter(str(other.rejected_by[row]) for row in there)
    return _group(side, [mine[key] for key in chosen], why=dict(why.most_common()), absent=len(chosen) - len(there))


def _moved(
    left: Side,
    mine: Mapping[tuple[str, int], int],
    right: Side,
    theirs: Mapping[tuple[str, int], int],
    keys: set[tuple[str, int]],
) -> int:
    """Rows of both that do not stand where the other has them, counted among the rows of both."""
    of_a = {mine[key]: key for key in keys}
    of_b = {theirs[key]: key for key in keys}
    first = [of_a[row] for row in left.order if row in of_a]
    second = [of_b[row] for row in right.order if row in of_b]
    return sum(one != two for one, two in zip(first, second, strict=False))


def _compare(name: str, left: Side, right: Side, pairs: Any) -> ScoreDifference:
    import pyarrow as pa

    filter_ = name.partition(".")[0]
    known = filter_ in left.origins and filter_ in right.origins
    same = left.origins[filter_] == right.origins[filter_] if known else None
    one, two = left.scores[name].take(pa.array(pairs[:, 0])), right.scores[name].take(pa.array(pairs[:, 1]))
    numeric = all(pa.types.is_floating(kind) or pa.types.is_integer(kind) for kind in (one.type, two.type))
    if numeric:
        first, second = (np.ma.masked_invalid(_floats(column)) for column in (one, two))
        absent = np.ma.getmaskarray(first) != np.ma.getmaskarray(second)
        gaps = np.ma.abs(first - second).filled(0.0)
        return ScoreDifference(name, same, len(pairs), int((absent | (gaps > 0)).sum()), float(gaps.max()) if len(gaps) else None)
    count = sum(a != b for a, b in zip(one.to_pylist(), two.to_pylist(), strict=True))
    return ScoreDifference(name, same, len(pairs), count, None)


def _floats(column: "pa.Array") -> Any:
    """Numbers; nan where there is none."""
    import pyarrow as pa

    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)


def _recipes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What two recipes differ in, steps as people read them."""
    changed = difflib.ndiff([_step(step) for step in a.get("steps", [])], [_step(step) for step in b.get("steps", [])])
    found = [f"{line[0]} step: {line[2:]}" for line in changed if line[0] in "+-"]
    flat_a, flat_b = dict(_flat(a)), dict(_flat(b))
    for key in sorted({*flat_a, *flat_b}, key=lambda key: (not _decides(key), key)):
        if flat_a.get(key) != flat_b.get(key):
            found += [f"- {key}: {flat_a[key]}"] if key in flat_a else []
            found += [f"+ {key}: {flat_b[key]}"] if key in flat_b else []
    return found


def _decides(key: str) -> bool:
    """Whether a recipe's setting, by its path, may decide about a row."""
    return key not in _PROSE and key.partition(".")[0] != "trial"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a recipe but its steps, by its path."""
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            if prefix or key != "steps":
                yield from _flat(one, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, json.dumps(value, ensure_ascii=False)


def _step(step: Any) -> str:
    try:
        ((word, settings),) = step.items()
        return str(STEPS[word](**settings))
    except (AttributeError, KeyError, TypeError, ValueError):  # of a newer curate, or not ours
        return json.dumps(step, ensure_ascii=False, sort_keys=True)


def _lines(found: Difference) -> Iterator[str]:
    yield f"a: {found.a}: {found.kept[0]:,} of {found.rows[0]:,} rows kept"
    yield f"b: {found.b}: {found.kept[1]:,} of {found.rows[1]:,} rows kept"
    if found.is_same:
        yield "both keep the same rows in the same order"
    else:
        yield f"kept by both: {found.both.rows:,}{_by_source(found.both)}"
    for name, other, group in (("a", "b", found.only_a), ("b", "a", found.only_b)):
        if not group.rows:
            continue
        yield f"only in {name}: {group.rows:,}{_by_source(group)}; rows {', '.join(map(str, group.first))}"
        yield from (f"  {count:,} rejected in {other} by `{step}`" for step, count in group.why.items())
        if group.absent:
            yield f"  {group.absent:,} that {other} was never given"
    if found.moved:
        yield f"of the rows kept by both {found.moved:,} stand elsewhere in the order"
    if any(found.input_only):
        yield f"the inputs differ: {found.input_only[0]:,} rows only in a, {found.input_only[1]:,} only in b"
    if found.recipe:
        yield "recipes:"
        keys = [line[2:].partition(":")[0] for line in found.recipe]
        yield from (f"  {line}" for key, line in zip(keys, found.recipe, strict=True) if _decides(key))
        others = ["trial settings" if key.startswith("trial") else key for key in keys if not _decides(key)]
        if others:
            yield f"  also: {', '.join(dict.fromkeys(others))} differ"
    else:
        yield "recipes: the same"
    for name, fields in zip("ab", found.scores_only, strict=True):
        if said := [one for one in fields if one.partition(".")[2] != REASON]:
            yield f"scores only in {name}: {', '.join(said)}"
    for score in found.scores:
        origin = {True: "same filter and model", False: "another version, parameters or model", None: "origin unknown"}
        largest = "" if score.largest is None else f", largest difference {score.largest:.3g}"
        yield f"{score.field}: {score.differing:,} of {score.compared:,} values differ ({origin[score.same_origin]}{largest})"


def _by_source(group: Group) -> str:
    if len(group.sources) < 2 or not group.rows:
        return ""
    most = sorted(group.sources.items(), key=lambda item: (-item[1], item[0]))
    said = ", ".join(f"{name} {count:,}" for name, count in most[:SHOWN])
    return f" ({said}{', ...' if len(most) > SHOWN else ''})"
