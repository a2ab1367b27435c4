"""What the charts show, as numbers: shared bins, points, and what a table says instead."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from curate.recipes.schema import Drop
from curate.reports.run_data import Field, RunData
from curate.reports.text import name_of, rounded
from curate.selection.frame import Bools, Floats, Ints
from curate.selection.steps import random_keys

BINS = 40
MOST_SOURCES = 24
"""Sources with charts of their own; the others are drawn together."""
HALF = 0.5
"""Bins of whole numbers begin and end between two of them."""
POINTS = 2_500
"""Points of one scatter plot: more are a cloud, and the same cloud."""
LOG_SPAN = 30.0
"""Where the 99th percentile lies this many times above the first, a linear axis shows one bar."""
FAMILIARITY = ("perplexity.content_nll", "self_aligned.content_nll", "perplexity.nll")
DIVERSITY = ("self_bleu.self_bleu", "distinct.distinct_2", "compression.ratio", "consensus.chrf")
HUMANNESS = ("learned_detector.log_odds", "detector_model.log_odds", "detectors.fast_detect", "detectors.lrr")
TRUE_IS_GOOD = ("errors.contains_gold", "unit_tests.passed")
FORMAT_FINDINGS = ("errors.strict_wrong",)
"""What only says in which form an answer stands; `errors.wrong` is the finding about the answer."""
LABELS = {
    "perplexity.content_nll": "surprise, nats per token (left: more familiar)",
    "perplexity.nll": "surprise, nats per token (left: more familiar)",
    "self_aligned.content_nll": "surprise given the model's own prompt, nats per token (left: more familiar)",
    "self_bleu.self_bleu": "self-BLEU, 0 to 1 (low: more diverse)",
    "distinct.distinct_2": "distinct word pairs, 0 to 1 (high: more diverse)",
    "compression.ratio": "compression ratio (low: more diverse)",
    "consensus.chrf": "agreement with the other answers, chrF (low: more diverse)",
    "learned_detector.log_odds": "log-odds of machine-written (low: more human-like)",
    "detector_model.log_odds": "log-odds of machine-written (low: more human-like)",
    "detectors.fast_detect": "Fast-DetectGPT curvature (low: more human-like)",
    "detectors.lrr": "likelihood over log-rank ratio (low: more human-like)",
}


def drawn_sources(run: RunData) -> tuple[list[str], Ints]:
    """Names of the sources that get a chart, and every row's index among them; the smallest share the last."""
    names = [name_of(name) for name in run.source_names]
    if len(names) <= MOST_SOURCES:
        return names, run.source
    rest = len(names) - MOST_SOURCES + 1
    return [*names[: MOST_SOURCES - 1], f"({rest:,} other sources)"], np.minimum(run.source, MOST_SOURCES - 1)


def histograms(run: RunData) -> list[dict[str, Any]]:
    """Counts of every numeric score, kept and rejected, by source, in bins that all of them share."""
    names, source = drawn_sources(run)
    return [_histogram(run, field, len(names), source) for field in run.fields if field.kind == "number"]


def _histogram(run: RunData, field: Field, sources: int, source: Ints) -> dict[str, Any]:
    column = run.column(field.name)
    values = column.values[column.valid]
    edges, is_log = _edges(values)
    inside = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    kept = run.kept[column.valid].astype(np.int64)
    bins = len(edges) - 1
    cells = (source[column.valid] * 2 + kept) * bins + inside
    counts = np.bincount(cells, minlength=sources * 2 * bins).reshape(sources, 2, bins)
    return {
        "field": field.name,
        "what": field.what,
        "edges": [rounded(edge) for edge in edges.tolist()],
        "log": is_log,
        "whole": len(edges) > 2 and not is_log and float(edges[0]) % 1 == HALF,
        "rejected": counts[:, 0].tolist(),
        "kept": counts[:, 1].tolist(),
        "beyond": int(((values < edges[0]) | (values > edges[-1])).sum()),
        "unscored": [
            [int((~column.valid & (source == at) & run.kept).sum()), int((~column.valid & (source == at) & ~run.kept).sum())]
            for at in range(sources)
        ],
        "table": [_quartiles(values, kept, source[column.valid], at) for at in (None, *range(sources))],
        "cuts": _cuts(run, field.name),
    }


def _edges(values: Floats) -> tuple[Floats, bool]:
    """Borders of the bins, and whether they are spaced by logarithm. The last bins also take what lies beyond."""
    low, high = (float(value) for value in np.quantile(values, (0.001, 0.999)))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        half = max(0.5, abs(low) * 0.05)
        return np.linspace(low - half, high + half, 2), False
    if bool(np.all(values == np.floor(values))):
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        first = np.floor(low / width) * width
        whole: Floats = np.arange(first, high + width + HALF, width) - HALF
        if not _is_wide(values):
            return whole, False
    if _is_wide(values):
        return np.geomspace(low, high, BINS + 1), True
    return np.linspace(low, high, BINS + 1), False


def _is_wide(values: Floats) -> bool:
    first, last = (float(value) for value in np.quantile(values, (0.01, 0.99)))
    return float(values.min()) > 0 and last > LOG_SPAN * first


def _quartiles(values: Floats, kept: Ints, source: Ints, at: int | None) -> list[list[Any]]:
    """Rows, lower quartile, median and upper quartile of the kept and of the rejected rows of one source, or of all."""
    found = []
    for side in (1, 0):
        mine = values[(kept == side) & ((source == at) if at is not None else True)]
        quartiles = [rounded(value, 4) for value in np.quantile(mine, (0.25, 0.5, 0.75)).tolist()] if len(mine) else [None] * 3
        found.append([len(mine), *quartiles])
    return found


def _cuts(run: RunData, field: str) -> list[float]:
    """Fixed bounds that the recipe sets for a field."""
    bounds = [bound for step in run.steps if isinstance(step, Drop) and step.field == field for bound in (step.above, step.below)]
    return [float(bound) for bound in bounds if bound is not None]


def pictures(run: RunData) -> list[dict[str, Any]]:
    """Familiarity against diversity, and against human-likeness; a picture that lacks a score says which filter would give it."""
    return [
        _picture(run, "Familiarity and diversity", DIVERSITY, "self_bleu"),
        _picture(run, "Familiarity and human-likeness", HUMANNESS, "detectors"),
    ]


def _picture(run: RunData, title: str, wanted: Sequence[str], adds: str) -> dict[str, Any]:
    across = next((name for name in FAMILIARITY if run.has(name)), None)
    up = next((name for name in wanted if run.has(name)), None)
    missing = [name for name, found in (("perplexity", across), (adds, up)) if found is None]
    if across is None or up is None:
        scores = " and ".join(f"`{name}`" for name in missing)
        filters = "the filter" if len(missing) == 1 else "the filters"
        return {"title": title, "missing": f"This run lacks a score for this picture: add {filters} {scores} to the recipe."}
    first, second = run.column(across), run.column(up)
    both = np.flatnonzero(first.valid & second.valid)
    if not len(both):
        return {"title": title, "missing": f"No row has both {across} and {up}."}
    chosen = np.sort(both[np.argsort(random_keys(both, 0), kind="stable")][:POINTS])
    x, y = first.values, second.values
    return {
        "title": title,
        "x": {"field": across, "label": LABELS[across]} | _range(x[both]),
        "y": {"field": up, "label": LABELS[up]} | _range(y[both]),
        "kept": _points(x, y, chosen[run.kept[chosen]]),
        "rejected": _points(x, y, chosen[~run.kept[chosen]]),
        "rows": len(both),
        "drawn": len(chosen),
        "without": run.count - len(both),
        "correlation": rounded(spearman(x[both], y[both]), 2) if len(both) > 2 else None,
        "medians": {
            name: [len(rows), *([rounded(float(np.median(values[rows])), 4) for values in (x, y)] if len(rows) else [None, None])]
            for name, rows in (("kept", both[run.kept[both]]), ("rejected", both[~run.kept[both]]))
        },
    }


def _range(values: Floats) -> dict[str, float]:
    low, high = (float(value) for value in np.quantile(values, (0.002, 0.998)))
    space = 0.04 * (high - low) or max(0.5, abs(low) * 0.05)
    return {"low": rounded(low - space), "high": rounded(high + space)}


def _points(x: Floats, y: Floats, rows: Ints) -> list[list[float]]:
    return [[rounded(value, 4) for value in values[rows].tolist()] for values in (x, y)] + [rows.tolist()]


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation, ties by their mean rank; 0 where one side is constant."""
    first, second = (_ranks(values) for values in (x, y))
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size else 0.0


def _ranks(values: Floats) -> Floats:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[where]
    return ranks


def waterfall(run: RunData) -> dict[str, Any]:
    """Rows left after refusal and after every step, in all and by source."""
    refused = dict(run.rows.refused)
    stages: list[dict[str, Any]] = [
        {"name": "rows read", "note": "", "removed": 0, "left": run.read, "before": run.read},
    ]
    told = "; ".join(f"{count:,} {reason}" for reason, count in refused.items())
    stages.append({"name": "refused", "note": told, "removed": run.read - run.count, "left": run.count, "before": run.read})
    for at, step in enumerate(run.report["steps"]):
        lost = int((run.rejected_by == at).sum())
        ranked = sorted(step["groups"].items(), key=lambda group: -group[1])
        notes = ["rows ranked within their " + ", ".join(f"{name} {count:,}" for name, count in ranked)] if ranked else []
        if step["unscored"]:
            notes.append(f"{step['unscored']:,} unscored")
        left = stages[-1]["left"] - lost
        name, note = run.shown(run.step_names[at]), "; ".join(notes)
        stages.append({"name": name, "note": note, "removed": lost, "left": left, "before": left + lost})
    return {"stages": stages, "total": run.read, "sources": _by_source(run)}


def _by_source(run: RunData) -> list[dict[str, Any]]:
    """Every drawn source: its rows, what each step took of them, what is kept."""
    names, source = drawn_sources(run)
    lengths = {entry["source"]: entry for entry in run.report["sources"]}
    steps = len(run.step_names)
    counts = np.bincount(source * (steps + 1) + run.rejected_by + 1, minlength=len(names) * (steps + 1)).reshape(len(names), -1)
    found = []
    for at, name in enumerate(names):
        is_one = len(run.source_names) <= MOST_SOURCES or at < MOST_SOURCES - 1
        known: Mapping[str, Any] = lengths.get(run.source_names[at], {}) if is_one else {}
        found.append(
            {
                "name": name,
                "rows": int(counts[at].sum()),
                "kept": int(counts[at, 0]),
                "by_step": counts[at, 1:].tolist(),
                "length_kept": known.get("mean_length_kept"),
                "length_rejected": known.get("mean_length_rejected"),
            }
        )
    return sorted(found, key=lambda one: (-one["kept"] / max(one["rows"], 1), one["name"]))


def flags(run: RunData) -> list[dict[str, Any]]:
    """Every yes-or-no finding: rows that have it, how many of them are kept, and what kind it is: defect, format or good."""
    found = []
    for field in run.fields:
        if field.kind != "flag":
            continue
        column = run.column(field.name)
        has: Bools = column.valid & column.values.astype(bool)
        found.append(
            {
                "field": field.name,
                "what": field.what,
                "kind": "good" if field.name in TRUE_IS_GOOD else "format" if field.name in FORMAT_FINDINGS else "defect",
                "asked": int(column.valid.sum()),
                "found": int(has.sum()),
                "kept": int((has & run.kept).sum()),
            }
        )
    return found
