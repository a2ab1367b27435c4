"""The picture of a trial: what every arm scored, and the contrasts with their intervals."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from curate.trials.judging import TrialReport

FORMATS = (".svg", ".png", ".pdf")
MOST_CONTRASTS = 24
_COLOURS = {"helped": "#1b7837", "hurt": "#b2182b", "no worse": "#2166ac"}
_OTHER = "#666666"
_CURVES = ("#2166ac", "#b35806", "#542788", "#1b7837")


def draw(report: "TrialReport", path: Path) -> None:
    """Write the picture; its format is the file's suffix. Raises UsageError for another."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: name a file that ends in {', '.join(FORMATS)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = report.data
    contrasts = data["contrasts"][:MOST_CONTRASTS]
    height = max(2.8, 0.36 * max(len(contrasts), len(data["arms"])) + 1.6)
    figure = Figure(figsize=(11.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.0, 1.15)})
    _curves(left, data) if data["curves"] else _arms(left, data)
    _forest(right, contrasts, data["primary"]["task"])
    title = f"{data['recipe']} on {data['primary']['task']}: {data['verdict']['word']}"
    figure.suptitle(_plain(title), fontsize=11, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _arms(axes: "Axes", data: Mapping[str, Any]) -> None:
    """Every seed a dot, every arm's mean a line."""
    task = data["primary"]["task"]
    scores = [score for score in data["scores"] if score["task"] == task]
    for place, score in enumerate(scores):
        values = [100 * value for value in score["strict"]]
        is_primary = score["arm"] in (data["primary"]["treated"], data["primary"]["control"])
        colour = _CURVES[0] if is_primary else _OTHER
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=5, alpha=0.55, markeredgewidth=0)
        mean = statistics.fmean(values)
        axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2)
        axes.annotate(f"{mean:.1f}", (mean, place - 0.3), ha="center", va="bottom", fontsize=7.5, color=colour)
    axes.set_yticks(range(len(scores)), [_plain(score["arm"]) for score in scores], fontsize=9)
    axes.set_ylim(len(scores) - 0.4, -0.75)
    axes.set_xlabel("points; dots are seeds, lines their means", fontsize=9)
    axes.grid(axis="x", linewidth=0.4, color="#cccccc")
    _bare(axes)


def _curves(axes: "Axes", data: Mapping[str, Any]) -> None:
    """Score by share of the rows: means over seeds, with bands of the 95 % interval over seeds."""
    from scipy.special import stdtrit

    for number, name in enumerate(dict.fromkeys(point["curve"] for point in data["curves"])):
        points = sorted((point for point in data["curves"] if point["curve"] == name), key=lambda point: point["share"])
        shares = [100 * point["share"] for point in points]
        values = 100 * np.array([point["by_seed"] for point in points])  # (shares, seeds)
        mean, seeds = values.mean(axis=1), values.shape[1]
        colour = _CURVES[number % len(_CURVES)]
        axes.plot(shares, mean, "-o", color=colour, markersize=4, label=_plain(name))
        if seeds > 1:
            half = stdtrit(seeds - 1, 0.975) * values.std(axis=1, ddof=1) / seeds**0.5
            axes.fill_between(shares, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    base = [score for score in data["scores"] if score["arm"] == "base" and score["task"] == data["primary"]["task"]]
    for score in base:
        axes.axhline(100 * score["strict"][0], color=_OTHER, linewidth=1, linestyle="--", label="base")
    axes.set_xlabel("share of the rows, %" if data["protocol"] == "progressive" else "share of synthetic rows, %", fontsize=9)
    axes.set_ylabel("points; bands: 95 % over seeds", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(linewidth=0.4, color="#cccccc")
    _bare(axes)


def _forest(axes: "Axes", contrasts: Sequence[Mapping[str, Any]], task: str) -> None:
    """Differences with their intervals; the colour is the word."""
    labels = []
    for place, entry in enumerate(contrasts):
        colour = _COLOURS.get(entry["word"], _OTHER)
        low, high, middle = (100 * entry[name] for name in ("low", "high", "difference"))
        is_primary = entry["kind"] == "primary"
        axes.plot([low, high], [place, place], color=colour, linewidth=2.6 if is_primary else 1.4, solid_capstyle="butt")
        axes.plot([middle], [place], "D" if is_primary else "o", color=colour, markersize=6 if is_primary else 4.5)
        axes.annotate(entry["word"], (1.0, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=7.5, color=colour)  # fmt: skip
        where = "" if entry["task"] == task else f" ({entry['task']})"
        labels.append(_plain(f"{entry['treated']} − {entry['control']}{where}"))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(contrasts)), labels, fontsize=8.5)
    if contrasts:
        axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(contrasts) - 0.4, -0.6)
    axes.set_xlabel("difference in points, 95 % interval (unadjusted; words of all but the first are adjusted)", fontsize=8)
    axes.grid(axis="x", linewidth=0.4, color="#cccccc")
    _bare(axes)


def _bare(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8.5)


def _plain(text: str) -> str:
    """Text from data: `$` begins no formula, control characters are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text).replace("$", r"\$")
