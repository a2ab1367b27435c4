"""A trial's outcome, and what it would cost, as text for a terminal."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curate.console import _table, console, plain
from curate.progress import duration
from curate.trials.power import power_sentence

if TYPE_CHECKING:
    from curate.trials import Cost, TrialResult

_KINDS = {
    "step": "credit of a step",
    "arm": "another arm",
    "task": "another task",
    "trained": "against the untrained model",
    "guard": "forgetting",
}


def show_trial(result: "TrialResult") -> None:
    """Scores, credits, and last the verdict: what is read last is remembered."""
    out = console()
    data = result.report.data
    task = data["primary"]["task"]
    out.print(_score_table(data, task))
    for other in dict.fromkeys(score["task"] for score in data["scores"] if score["task"] != task):
        out.print(_score_table(data, other))
    if data["steps"]:
        out.print(_table(["what each step is credited with", "", "points", "95 % interval"], _credit_rows(data), numbers_from=2))
    rest = [entry for entry in data["contrasts"] if entry["kind"] not in ("primary", "step")]
    if rest:
        rows = [[_KINDS[entry["kind"]], _pair(entry), plain(entry["task"]), entry["word"], *_effect(entry)] for entry in rest]
        out.print(
            _table(
                ["other contrasts (words adjusted for their number)", "", "task", "", "points", "interval"], rows, numbers_from=4
            )
        )
    for overlap in data["overlaps"]:
        if overlap["found"]:
            found = f"{overlap['found']:,} of {overlap['items']:,} items"
            out.print(f"overlap: {found} of {plain(overlap['task'])} stand in the training rows ({overlap['share']:.1%})")
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
        ["trainings", f"{cost.runs:,}", f"{cost.done:,} runs are done already" if cost.done else ""],
        ["optimiser steps", f"{cost.steps:,}", f"{cost.probe.step_s:.2f} s each, measured"],
        ["completion tokens trained on", f"{cost.tokens:,}", ""],
        ["memory", f"{cost.memory_bytes / 1e9:.1f} GB", f"{cost.jobs} at once"],
        ["time", duration(cost.seconds), "from the probe; what else runs here changes it"],
        *([["time of all runs", duration(cost.whole_seconds), "the budget is held against this"]] if cost.done else []),
    ]
    out.print(_table(["this trial", "", ""], [[name, value, note] for name, value, note in rows], numbers_from=9))
    out.print(power_sentence(cost.power))
    for note in cost.notes:
        out.print(f"note: {plain(note)}", style="yellow")
    out.print("nothing was trained")


def _score_table(data: Mapping[str, Any], task: str) -> Any:
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
    return _table(headers, rows)


def _points(by_seed: Sequence[float]) -> str:
    """Mean over seeds, with their standard deviation."""
    mean = 100 * statistics.fmean(by_seed)
    return f"{mean:.1f} ± {100 * statistics.stdev(by_seed):.1f}" if len(by_seed) > 1 else f"{mean:.1f}"


def _credit_rows(data: Mapping[str, Any]) -> list[list[str]]:
    return [[plain("; ".join(step["steps"]), most=80), step["word"], *_effect(step)] for step in data["steps"]]


def _effect(entry: Mapping[str, Any]) -> list[str]:
    return [f"{100 * entry['difference']:+.1f}", f"{100 * entry['low']:+.1f} to {100 * entry['high']:+.1f}"]


def _pair(entry: Mapping[str, Any]) -> str:
    return plain(f"{entry['treated']} - {entry['control']}", most=50)
