"""The picture of a trial: what every arm scored, and the contrasts with their intervals."""

import statistics
import warnings
from collections import Counter
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
LONGEST_NAME = 34
"""Characters."""
_COLOURS = {"helped": "#1b7837", "hurt": "#b2182b", "no worse": "#2166ac"}
_OTHER = "#666666"
_CURVES = ("#2166ac", "#b35806", "#542788", "#1b7837")


def check_format(path: Path) -> None:
    """Raise UsageError for a file whose suffix is no format; to be asked before hours of training."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: name a file that ends in {', '.join(FORMATS)}")


def draw(report: "TrialReport", path: Path) -> None:
    """Write the picture; its format is the file's suffix. Raises UsageError for another."""
    check_format(path)
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
    title = f"{_short(data['recipe'])} on {_short(data['primary']['task'])}: {data['verdict']['word']}"
    power = data["power"]
    figure.suptitle(f"{title}  ({power['seeds']} seeds, {power['items']:,} items)", fontsize=11, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a name in a script that the font lacks: boxes
        figure.savefig(path, dpi=150)


def _arms(axes: "Axes", data: Mapping[str, Any]) -> None:
    """Every seed a dot, every arm's mean a line."""
    task = data["primary"]["task"]
    scores = [score for score in data["scores"] if score["task"] == task]
    for place, score in enumerate(scores):
        values = [100 * value for value in score["strict"]]
        is_primary = score["arm"] in (data["primary"]["treated"], data["primary"]["control"])
        colour = _CURVES[0] if is_primary else _OTHER
        axes.plot(values, _apart(values, place), "o", color=colour, markersize=5, alpha=0.55, markeredgewidth=0)
        mean = statistics.fmean(values)
        axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2)
        axes.annotate(f"{mean:.1f}", (mean, place - 0.3), ha="center", va="bottom", fontsize=7.5, color=colour)
    axes.set_yticks(range(len(scores)), [_short(score["arm"]) for score in scores], fontsize=9)
    axes.set_ylim(len(scores) - 0.4, -0.75)
    axes.margins(x=0.08)
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
        axes.plot(shares, mean, "-o", color=colour, markersize=4, label=_short(name))
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
        # That training moves the model is no news of the filter.
        colour = _OTHER if entry["kind"] == "trained" else _COLOURS.get(entry["word"], _OTHER)
        low, high, middle = (100 * entry[name] for name in ("low", "high", "difference"))
        is_primary = entry["kind"] == "primary"
        axes.plot([low, high], [place, place], color=colour, linewidth=2.6 if is_primary else 1.4, solid_capstyle="butt")
        axes.plot([middle], [place], "D" if is_primary else "o", color=colour, markersize=6 if is_primary else 4.5)
        axes.annotate(entry["word"], (1.0, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=7.5, color=colour)  # fmt: skip
        where = "" if entry["task"] == task else f" ({entry['task']})"
        labels.append(f"{_short(entry['treated'])} − {_short(entry['control'])}{_short(where)}")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(contrasts)), labels, fontsize=8.5)
    if contrasts:
        axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(contrasts) - 0.4, -0.6)
    axes.set_xlabel(
        "difference in points with its 95 % interval\n(words of all but the first are adjusted for their number)", fontsize=8
    )
    axes.margins(x=0.08)
    axes.grid(axis="x", linewidth=0.4, color="#cccccc")
    _bare(axes)


def _bare(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8.5)


def _apart(values: Sequence[float], place: int) -> list[float]:
    """Heights at which equal seeds do not hide one another."""
    seen: Counter[float] = Counter()
    heights = []
    for value in values:
        heights.append(place + 0.11 * ((seen[value] + 1) // 2) * (-1) ** seen[value])
        seen[value] += 1
    return heights


def _short(text: str) -> str:
    """A name that leaves room for the picture."""
    return _plain(text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…")


def _plain(text: str) -> str:
    """Text from data: `$` begins no formula, control characters are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text).replace("$", r"\$")
