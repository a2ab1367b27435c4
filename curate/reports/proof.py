"""The trial in the report: verdict, arms, contrasts with their intervals, curves."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from curate.reports.run_data import RunData
from curate.reports.text import rounded
from curate.trials import TrialReport, finished_trials
from curate.trials.power import power_sentence

MOST_CONTRASTS = 24
_KINDS = {
    "primary": "primary",
    "step": "credit of a step",
    "arm": "another arm",
    "task": "another task",
    "trained": "against the untrained model",
    "guard": "forgetting",
}
NOT_RUN = "No trial has been run, so nothing is known yet of what this selection does to training."


def trial_facts(run: RunData) -> dict[str, Any]:
    """The latest trial of these very steps, as the page shows it; `word` is None where there was none."""
    reports = [TrialReport.load(folder) for folder in finished_trials(run.out)]
    mine = [report for report in reports if report.data.get("plan", {}).get("recipe", {}).get("steps") == run.recipe["steps"]]
    others = len(reports) - len(mine)
    note = f"{others} finished trial{'s' if others > 1 else ''} in this folder judged other steps." if others else None
    if not mine:
        return {"word": None, "sentence": NOT_RUN, "note": note}
    data = mine[-1].data
    low, high = _span(data["contrasts"])
    return {
        "word": mine[-1].word,
        "sentence": run.shown(mine[-1].sentence),
        "note": note,
        "reasons": [run.shown(line) for line in (*data["verdict"]["reasons"], *data["limits"], *data["notices"])],
        "task": data["primary"]["task"],
        "arms": [_arm(data, score) for score in data["scores"] if score["task"] == data["primary"]["task"]],
        "contrasts": [_contrast(run, entry, data, low, high) for entry in data["contrasts"][:MOST_CONTRASTS]],
        "more_contrasts": max(0, len(data["contrasts"]) - MOST_CONTRASTS),
        "ticks": [{"text": f"{tick:+g}" if tick else "0", "at": _percent(tick, low, high)} for tick in ticks(low, high)],
        "zero": _percent(0.0, low, high),
        "power": run.shown(power_sentence(data["power"])),
        "overlaps": [
            f"{one['found']:,} of {one['items']:,} items of {one['task']} stand in the training rows."
            for one in data["overlaps"]
            if one["found"]
        ],
        "facts": _protocol(data),
        "charts": _charts(data),
    }


def _protocol(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    seeds = max((len(arm["seeds"]) for arm in data["arms"]), default=0)
    rate = data["learning_rate"]
    return [
        ("question", f"{data['primary']['treated']} against {data['primary']['control']}"),
        ("task", str(data["primary"]["task"])),
        ("seeds", str(seeds)),
        ("learning rate", f"{rate:g}" if isinstance(rate, (int, float)) else str(rate)),
        ("protocol", str(data["protocol"])),
    ]


def _arm(data: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    arm = next(arm for arm in data["arms"] if arm["arm"] == score["arm"])
    nll = [value for value in arm["held_out_nll"].get("validation", []) if value is not None]
    return {
        "arm": score["arm"],
        "is_primary": score["arm"] in (data["primary"]["treated"], data["primary"]["control"]),
        "mean": 100 * statistics.fmean(score["strict"]),
        "seeds": [100 * value for value in score["strict"]],
        "lenient": 100 * statistics.fmean(score["lenient"]),
        "unread": 100 * statistics.fmean(score["unread"]),
        "rows": arm["rows"],
        "steps": arm["steps"],
        "tokens": round(statistics.fmean(arm["tokens"])) if arm["tokens"] else 0,
        "nll": statistics.fmean(nll) if nll else None,
    }


def _contrast(run: RunData, entry: Mapping[str, Any], data: Mapping[str, Any], low: float, high: float) -> dict[str, Any]:
    middle, least, most = (100 * entry[name] for name in ("difference", "low", "high"))
    credited = [
        step["steps"] for step in data["steps"] if (step["treated"], step["control"]) == (entry["treated"], entry["control"])
    ]
    return {
        "kind": _KINDS.get(entry["kind"], entry["kind"]),
        "is_primary": entry["kind"] == "primary",
        "names": f"{entry['treated']} − {entry['control']}",
        "task": None if entry["task"] == data["primary"]["task"] else entry["task"],
        "steps": run.shown("; ".join(credited[0])) if credited else None,
        "word": entry["word"],
        "tone": {"helped": "good", "hurt": "bad"}.get(entry["word"], "plain"),
        "text": f"{middle:+.1f} ({least:+.1f} to {most:+.1f})",
        "low": _percent(least, low, high),
        "middle": _percent(middle, low, high),
        "high": _percent(most, low, high),
    }


def _span(contrasts: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Ends of the axis, in points."""
    ends = [0.0, *(100 * entry[name] for entry in contrasts for name in ("low", "high"))]
    low, high = min(ends), max(ends)
    space = 0.06 * (high - low) or 1.0
    return low - space, high + space


def _percent(value: float, low: float, high: float) -> float:
    return rounded(100 * (value - low) / (high - low), 5)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two ends."""
    raw = (high - low) / most
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(float(factor * power) for factor in (1, 2, 5, 10) if factor * power >= raw)
    return [rounded(step * number, 6) for number in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _charts(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lines for the page to draw: score by share where the protocol has shares, and the loss in training."""
    found = []
    if data["curves"]:
        share = "share of the rows, %" if data["protocol"] == "progressive" else "share of synthetic rows, %"
        names = list(dict.fromkeys(point["curve"] for point in data["curves"]))
        lines = [_curve(name, [point for point in data["curves"] if point["curve"] == name]) for name in names]
        found.append({"title": "Score by share", "x": share, "y": "points", "lines": lines})
    losses = [(arm["arm"], _mean_loss(arm["loss"])) for arm in data["arms"]]
    lines = [{"name": name, "points": points} for name, points in losses if points]
    if lines:
        found.append({"title": "Loss in training, mean over seeds", "x": "optimiser step", "y": "nats per token", "lines": lines})
    return found


def _curve(name: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ordered = sorted(points, key=lambda point: float(point["share"]))
    return {
        "name": name,
        "points": [[rounded(100 * point["share"]), rounded(100 * statistics.fmean(point["by_seed"]))] for point in ordered],
        "seeds": [[rounded(100 * value) for value in point["by_seed"]] for point in ordered],
    }


def _mean_loss(by_seed: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    curves = [curve for curve in by_seed if curve]
    if not curves:
        return []
    return [
        [rounded(points[0][0]), rounded(statistics.fmean(point[1] for point in points), 4)]
        for points in zip(*curves, strict=False)
    ]
