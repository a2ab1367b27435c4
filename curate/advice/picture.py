"""The picture of an advice: one dot and interval per source and measure."""

from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import UsageError

if TYPE_CHECKING:
    from curate.advice.advising import Advice, SourceFacts
    from curate.advice.statistics import Estimate

FORMATS = (".svg", ".png", ".pdf")


def draw(advice: "Advice", path: Path) -> None:
    """Write the picture; its format is the file's suffix. Raises UsageError for another."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: name a file that ends in {', '.join(FORMATS)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    panels = [(title, values) for title, values in _panels(advice.sources) if any(values)]
    count = len(advice.sources)
    figure = Figure(figsize=(2.2 + 2.6 * len(panels), 1.4 + 0.32 * count), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, values) in zip(axes, panels, strict=True):
        for place, estimate in enumerate(values):
            if estimate is None:
                continue
            name = advice.sources[place].source
            color = "#0b6e4f" if name == advice.ranked[0] else "#5b8fb9" if name in advice.ranked else "#999999"
            axis.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=2, solid_capstyle="round")
            axis.plot([estimate.value], [place], "o", color=color, markersize=6)
        axis.set_title(title, fontsize=10)
        axis.margins(y=0.5 / count)
        if "perplexity" in title:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x", color="#e5e5e5")
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8, length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[0].set_yticks(range(count), [_shown(fact.source) for fact in advice.sources])
    axes[0].invert_yaxis()
    figure.suptitle(
        f"Sources for {_shown(Path(advice.model).name)}, best first; bars are 95 % intervals over prompts", fontsize=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panels(sources: "list[SourceFacts]") -> "list[tuple[str, list[Estimate | None]]]":
    return [
        ("self-aligned perplexity", [fact.self_aligned for fact in sources]),
        ("perplexity", [fact.perplexity for fact in sources]),
        ("error rate", [fact.error_rate for fact in sources]),
        ("self-BLEU within source", [fact.self_bleu for fact in sources]),
        ("mean characters", [fact.length for fact in sources]),
    ]


def _shown(name: str) -> str:
    """A dollar would begin mathematics."""
    return (name if len(name) <= 40 else f"{name[:39]}…").replace("$", r"\$")
