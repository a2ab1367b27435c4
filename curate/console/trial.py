"""A trial's outcome, and what it would cost, as text for a terminal."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curate.console import LEAST_FIRST, _table, console, plain
from curate.progress import duration
from curate.trials.power import power_sentence

if TYPE_CHECKING:
    from rich.console import Console

    from curate.trials import Cost, TrialResult

_KINDS = {
    "step": "credit of a step",
    "arm": "another arm",
    "task": "another task",
    "trained": "against the untrained model",
    "guard": "forgetting",
}

SPARE = ("held-out nll", "tokens", "steps", "cut off", "unread", "lenient", "rows")
"""Columns of the scores that a narrow terminal does without, the least important first."""
BETWEEN = 3
"""Characters that a column takes beside its text."""


def show_trial(result: "TrialResult") -> None:
    """Scores, credits, and last the verdict: what is read last is remembered."""
    out = console()
    data = result.report.data
    task = data["primary"]["task"]
    for name in dict.fromkeys([task, *(score["task"] for score in data["scores"])]):
        _print_scores(out, data, name)
    if data["steps"]:
        headers = ["what each step is credited with", "word", "points", "95 % interval"]
        _print_table(out, headers, _credit_rows(data), numbers_from=2)
    rest = [entry for entry in data["contrasts"] if entry["kind"] not in ("primary", "step")]
    if rest:
        rows = [[_pair(entry, task), _KINDS[entry["kind"]], entry["word"], *_effect(entry)] for entry in rest]
        headers = ["other contrasts (words adjusted for their number)", "kind", "word", "points", "95 % interval"]
        _print_table(out, headers, rows, numbers_from=3, spare=["kind"])
    for overlap in data["overlaps"]:
        if overlap["found"]:
            found = f"{overlap['found']:,} of {overlap['items']:,} items"
            out.print(f"overlap: {found} of {plain(overlap['task'])} stand in the training rows ({100 * overlap['share']:.1f} %)")
    for line in (*data["limits"], *data["notices"], *data["verdict"]["reasons"]):
        out.print(f"note: {plain(line)}", style="yellow")
    out.print(power_sentence(data["power"]))
    out.print(f"\n{plain(data['verdict']['word'])}: {plain(data['verdict']['sentence'])}", style="bold")
    out.print(f"everything is in {result.folder}")


def show_cost(cost: "Cost") -> None:
    """What a trial would take and what it could see."""
    out = console()
    rows = [
        ["arms", f"{len(cost.arms)}", plain(", ".join(cost.arms))],
        ["seeds", f"{cost.seeds}", ""],
        ["trainings", f"{cost.runs:,}", f"{cost.done:,} done, {cost.runs - cost.done:,} left" if cost.done else ""],
        ["optimiser steps", f"{cost.steps:,}", f"{cost.probe.step_s:.2f} s each, measured"],
        ["completion tokens trained on", f"{cost.tokens:,}", ""],
        ["memory", f"{cost.memory_bytes / 1e9:.1f} GB", f"{cost.jobs} at once"],
        ["time", duration(cost.seconds), "from the probe; what else runs here changes it"],
        *(
            [["time of all runs", duration(cost.whole_seconds), "the budget is held against this"]]
            if cost.seconds < cost.whole_seconds
            else []
        ),
    ]
    _print_table(out, ["this trial", "", "note"], rows, numbers_from=9, whole=(1,))
    out.print(power_sentence(cost.power))
    for note in cost.notes:
        out.print(f"note: {plain(note)}", style="yellow")
    out.print("nothing was trained")


def _print_table(
    out: "Console",
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers_from: int,
    whole: Sequence[int] = (),
    spare: Sequence[str] = (),
) -> None:
    """A table of which no number is cut: text wraps, then the `spare` columns go, the first of them first, and that is said.

    `whole` are places of further columns that must not wrap.
    """
    gone: list[str] = []
    while True:
        shown = [place for place, header in enumerate(headers) if header not in gone]
        least = [_least(headers[at], [row[at] for row in rows], at >= numbers_from or at in whole) for at in shown]
        room = out.width - BETWEEN * len(shown) - 1 - sum(least)
        left = [header for header in spare if header not in gone]
        if room >= 0 or not left:
            break
        gone.append(left[0])
    kept = [[row[at] for at in shown] for row in rows]
    table = _table([headers[at] for at in shown], kept, numbers_from=sum(at < numbers_from for at in shown), fold=True)
    widths = dict(zip(shown, least, strict=True))
    for texts in (rows, [headers]):  # cells first: their text is longer in all than the headers'
        for at in shown:
            more = max(0, min(room, max(len(row[at]) for row in texts) - widths[at]))
            room, widths[at] = room - more, widths[at] + more
    for column, width in zip(table.columns, widths.values(), strict=True):
        column.width = width
    out.print(table)
    if gone:
        out.print(f"left out, the terminal is narrow: {', '.join(gone)} (a wider one and --json show all)\n")


def _least(header: str, cells: Sequence[str], is_whole: bool) -> int:
    """The width below which a column would be cut, or text be hard to read."""
    words = [word for text in (header, *cells) for word in text.split()]
    if is_whole:
        return max(map(len, (*header.split(), *cells)))
    return min(max(map(len, words), default=0), LEAST_FIRST)


def _print_scores(out: "Console", data: Mapping[str, Any], task: str) -> None:
    arms = {arm["arm"]: arm for arm in data["arms"]}
    rows = []
    for score in data["scores"]:
        if score["task"] != task:
            continue
        arm = arms[score["arm"]]
        nll = [value for value in arm["held_out_nll"].get("validation", []) if value is not None]
        rows.append(
            [
                plain(score["arm"], most=30),
                _points(score["strict"]),
                _points(score["lenient"]),
                f"{100 * statistics.fmean(score['unread']):.1f} %",
                f"{100 * statistics.fmean(score['cut_off']):.1f} %",
                f"{arm['rows']:,}",
                f"{arm['steps']:,}",
                f"{statistics.fmean(arm['tokens']):,.0f}",
                f"{statistics.fmean(nll):.3f}" if nll else "-",
            ]
        )
    headers = [
        f"{plain(task, most=30)}, points",
        "strict",
        "lenient",
        "unread",
        "cut off",
        "rows",
        "steps",
        "tokens",
        "held-out nll",
    ]
    _print_table(out, headers, rows, numbers_from=1, spare=SPARE)


def _points(by_seed: Sequence[float]) -> str:
    """Mean over seeds, with their standard deviation."""
    mean = 100 * statistics.fmean(by_seed)
    return f"{mean:.1f} ± {100 * statistics.stdev(by_seed):.1f}" if len(by_seed) > 1 else f"{mean:.1f}"


def _credit_rows(data: Mapping[str, Any]) -> list[list[str]]:
    return [[plain("; ".join(step["steps"]), most=80), step["word"], *_effect(step)] for step in data["steps"]]


def _effect(entry: Mapping[str, Any]) -> list[str]:
    return [f"{100 * entry['difference']:+.1f}", f"{100 * entry['low']:+.1f} to {100 * entry['high']:+.1f}"]


def _pair(entry: Mapping[str, Any], primary_task: str) -> str:
    """What is compared, and on what where that is not the task of the verdict."""
    where = "" if entry["task"] == primary_task else f" on {entry['task']}"
    return plain(f"{entry['treated']} - {entry['control']}{where}", most=80)
