"""The picture of correlations: a heat map, and beside it what each score's variance is made of."""

from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import UsageError

if TYPE_CHECKING:
    from curate.correlation.correlating import Correlations

FORMATS = (".svg", ".png", ".pdf")
MOST_FIELDS = 60
"""More could not be read."""


def draw(found: "Correlations", path: Path) -> None:
    """Write the picture; its format is the file's suffix. Raises UsageError for another, and for too many scores."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: name a file that ends in {', '.join(FORMATS)}")
    count = len(found.fields)
    if not count or count > MOST_FIELDS:
        raise UsageError(f"--plot: {count} scores cannot be drawn (1 to {MOST_FIELDS}); choose some with --fields")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [field.name.replace("$", r"\$") for field in found.fields]
    cell = max(0.3, min(0.5, 12 / count))
    figure = Figure(figsize=(cell * max(count, 4) + 4.6, cell * max(count, 4) + 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (max(count, 4) * cell, 2.2)})
    values = [[float("nan") if value is None else value for value in row] for row in found.correlation]
    left.set_facecolor("#dddddd")
    image = left.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")  # rows as high as beside it
    left.set_xticks(range(count), names, rotation=90, fontsize=8)
    left.set_yticks(range(count), names, fontsize=8)
    left.tick_params(length=0)
    left.set_title("rank correlation", fontsize=10)
    for i, row in enumerate(found.correlation):
        for j, value in enumerate(row):
            if value is not None and i != j and abs(value) >= 0.1:
                shade = "white" if abs(value) > 0.6 else "black"
                left.text(j, i, f"{value:.1f}".replace("0.", "."), ha="center", va="center", fontsize=6.5, color=shade)
    columns = ("source", "prompt", "length", "together")
    table = [[_number(getattr(field.shares, name)) for name in columns] for field in found.fields]
    right.set_facecolor("#dddddd")
    right.imshow(table, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    right.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    right.set_yticks([])
    right.tick_params(length=0)
    right.set_title("share of variance", fontsize=10)
    for i, shares in enumerate(table):
        for j, share in enumerate(shares):
            if share == share:  # not NaN
                right.text(
                    j, i, f"{share:.0%}", ha="center", va="center", fontsize=6.5, color="white" if share > 0.6 else "black"
                )
    figure.colorbar(image, ax=left, location="bottom", shrink=0.5, aspect=40, label="Spearman; grey: undefined")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
