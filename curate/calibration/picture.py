"""The picture of a calibration: what each detector finds at every rate of false alarms, and whom it accuses."""

from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import UsageError

if TYPE_CHECKING:
    from curate.calibration.calibrating import Calibration

FORMATS = (".svg", ".png", ".pdf")
COLORS = ("#0b6e4f", "#5b8fb9", "#c8553d", "#8e6c8a", "#d9a441", "#555555")
MOST_GROUPS = 12


def draw(found: "Calibration", path: Path) -> None:
    """Write the picture; its format is the file's suffix. Raises UsageError for another."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: name a file that ends in {', '.join(FORMATS)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = sorted(found.detectors.items(), key=lambda entry: -entry[1].auroc)
    figure = Figure(figsize=(11.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.15, 1)})
    for color, (name, entry) in zip(_colors(len(figures)), figures, strict=True):
        # From a thousandth on: below it a few hundred human rows show nothing.
        points = [(max(misses, 1e-3), hits) for misses, hits in entry.curve]
        left.plot(*zip(*points, strict=True), color=color, linewidth=2, label=f"{_shown(name)}  AUROC {entry.auroc:.3f}")
    chance = [10 ** (place / 20 - 3) for place in range(61)]
    left.plot(chance, chance, color="#bbbbbb", linewidth=1, linestyle=":", label="chance")
    left.set_xscale("log")
    left.set_xlim(1e-3, 1)
    left.set_ylim(0, 1.02)
    for rate in (0.01, 0.05):
        left.axvline(rate, color="#dddddd", linewidth=1, zorder=0)
    left.set_xticks([0.001, 0.01, 0.05, 0.1, 1], ["0.1 %", "1 %", "5 %", "10 %", "100 %"])
    left.minorticks_off()
    left.set_xlabel("human rows called machine-written", fontsize=9)
    left.set_ylabel("machine rows found", fontsize=9)
    left.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    left.legend(fontsize=8, frameon=False, loc="lower right")
    best, entry = figures[0]
    groups = sorted(entry.groups, key=lambda group: group.rate_at_5)[-MOST_GROUPS:]
    for place, group in enumerate(groups):
        right.plot(group.interval_at_5, [place, place], color=COLORS[0], linewidth=2, solid_capstyle="round")
        right.plot([group.rate_at_5], [place], "o", color=COLORS[0], markersize=6)
    right.set_yticks(range(len(groups)), [f"{_shown(group.group)} ({group.human_rows:,})" for group in groups])
    right.axvline(0.05, color="#999999", linewidth=1, linestyle=":")
    right.set_xlim(left=0)
    right.margins(y=0.5 / max(len(groups), 1))
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_xlabel(f"human rows of a group that {_shown(best)} accuses,\nwhere it accuses 5 % of all human rows", fontsize=9)
    for axis in (left, right):
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8, length=0)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    rows = f"{entry.human_rows:,} human and {entry.machine_rows:,} machine rows"
    figure.suptitle(f"Detectors on {_shown(found.data)}: {rows}; bars are 95 % intervals", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date: the same figures are the same file.
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _colors(count: int) -> list[str]:
    return [COLORS[place % len(COLORS)] for place in range(count)]


def _shown(name: str) -> str:
    """A dollar would begin mathematics."""
    return (name if len(name) <= 40 else f"{name[:39]}…").replace("$", r"\$")
