"""The rows that the report lets a reader browse: which of them, and all that is known of each, in columns."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from curate.reports.run_data import RunData, categories
from curate.reports.text import as_json, name_of, rounded, visible
from curate.selection.frame import Ints
from curate.selection.steps import random_keys

AT_LEAST = 25
"""Rows of every source and step that a sample holds, where there are so many."""
CUTS = (2_000, 1_500, 1_000, 700, 500, 350, 250, 160, 80)
"""Characters that a text is cut to: the first at which the page stays within its size."""
MOST_BYTES = 8_400_000
"""Of the examples. With charts and code the page stays under 10 MB."""


def browsable(run: RunData, most: int, always: Collection[int]) -> dict[str, Any]:
    """Columns of up to `most` rows; fewer where even short texts would make the page too large."""
    while True:
        rows = chosen_rows(run, most, always)
        table = _columns(run, rows)
        prompts, completions = _texts(run, rows)
        room = MOST_BYTES - len(as_json(table).encode())
        cut = next((cut for cut in CUTS if _size(prompts, cut) + _size(completions, cut) <= room), None)
        if cut is not None or len(rows) <= max(1, len(always)):
            break
        most = len(rows) // 2
    cut = cut or CUTS[-1]
    distinct = {text: at for at, text in enumerate(dict.fromkeys(prompts))}
    return table | {
        "cut": cut,
        "prompts": [_cut(text, cut) for text in distinct],
        "prompt": [distinct[text] for text in prompts],
        "completion": [_cut(text, cut) for text in completions],
        "sample": _told(run, len(rows)),
    }


def chosen_rows(run: RunData, most: int, always: Collection[int]) -> Ints:
    """All rows, or a sample with rows of every source and step: drawn at random with a fixed seed, so always the same."""
    everything: Ints = np.arange(run.count)
    if run.count <= most:
        return everything
    keys = random_keys(everything, 0)
    strata = run.source * (len(run.step_names) + 1) + run.rejected_by + 1
    order = np.lexsort((keys, strata))
    sizes = np.bincount(strata)
    first = np.cumsum(sizes) - sizes
    rank = np.empty(run.count, dtype=np.int64)
    rank[order] = everything - np.repeat(first, sizes)
    floor = max(1, min(AT_LEAST, most // max(1, int((sizes > 0).sum()))))
    # First what was asked for, then the guaranteed rows of each stratum, the strata in turn, then a draw from all.
    special = np.zeros(run.count, dtype=bool)
    special[list(always)] = True
    turn = np.where(rank < floor, rank, floor)
    picked: Ints = np.lexsort((keys, turn, ~special))[:most]
    return np.sort(picked)


def _told(run: RunData, rows: int) -> str:
    if rows == run.count:
        return f"All {rows:,} rows."
    strata = len(np.unique(run.source * (len(run.step_names) + 1) + run.rejected_by))
    floor = max(1, min(AT_LEAST, rows // strata))
    if strata > rows:
        kinds = f"one row each of {rows:,} of the {strata:,} combinations of source and step"
    else:
        kinds = f"at least {floor} of every source and step, or all that there are"
    return f"A sample of {rows:,} of {run.count:,} rows: {kinds}; the others drawn at random with a fixed seed."


def _columns(run: RunData, rows: Ints) -> dict[str, Any]:
    numbers, words, has = {}, {}, []
    for field in run.fields:
        column = run.column(field.name)
        values, valid = column.values[rows].tolist(), column.valid[rows].tolist()
        if field.kind == "number":
            numbers[field.name] = [rounded(value) if there else None for value, there in zip(values, valid, strict=True)]
        elif field.kind == "flag":
            has.append((field.name, [there and bool(value) for value, there in zip(values, valid, strict=True)]))
        elif (found := categories(column)) is not None and all(len(name) <= 80 for name in found[0]):
            names, codes = found
            words[field.name] = {"names": [visible(name) for name in names], "of": [codes[row] for row in rows.tolist()]}
    bounds = list(dict.fromkeys(name for row in rows.tolist() for name in run.fails[row]))
    place = {name: at for at, name in enumerate(bounds)}
    units = [run.margin_field(row) for row in rows.tolist()]
    fields = list(dict.fromkeys(unit for unit in units if unit is not None))
    return {
        "row": rows.tolist(),
        "id": [None if run.ids[row] is None else visible(str(run.ids[row])[:120]) for row in rows.tolist()],
        "sources": [name_of(name) for name in run.source_names],
        "source": run.source[rows].tolist(),
        "steps": [visible(run.shown(name)) for name in run.step_names],
        "rejected_by": run.rejected_by[rows].tolist(),
        "unscored": [int(flag) for flag in run.is_unscored[rows].tolist()],
        "bounds": [visible(run.shown(name)) for name in bounds],
        "fails": [[place[name] for name in run.fails[row]] for row in rows.tolist()],
        "margin": [rounded(value) if np.isfinite(value) else None for value in run.margin[rows].tolist()],
        "margin_fields": fields,
        "margin_of": [-1 if unit is None else fields.index(unit) for unit in units],
        "numbers": numbers,
        "words": words,
        "flags": [name for name, _ in has],
        "has": [[at for at, (_, column) in enumerate(has) if column[number]] for number in range(len(rows))],
        "score": run.report["ranked_by"] if run.report["ranked_by"] in numbers else next(iter(numbers), None),
    }


def _texts(run: RunData, rows: Ints) -> tuple[list[str], list[str]]:
    """Prompts and completions of the rows, each no longer than is ever shown, with a note of what is left out."""
    prompts, completions = [], []
    for shard in run.rows.shards:
        wanted = rows[(rows >= shard.start) & (rows < shard.stop)] - shard.start
        if not len(wanted):
            continue
        examples = run.rows.examples(shard)
        for at in wanted.tolist():
            example = examples[at]
            turns = example.prompt
            text = example.prompt_text if len(turns) < 2 else "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
            prompts.append(text)
            completions.append(example.completion)
    return prompts, completions


def _cut(text: str, most: int) -> str | list[Any]:
    """The text, or its beginning and how long it was."""
    return visible(text) if len(text) <= most else [visible(text[:most]), len(text)]


def _size(texts: Sequence[str], cut: int) -> int:
    # An equal text counts once: prompts are stored once.
    return sum(len(as_json(visible(text)).encode()) + 1 for text in Counter(text[:cut] for text in texts))
