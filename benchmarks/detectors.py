"""Measures the `detectors` filter on human and machine texts: what docs/detectors.md prints.

    python benchmarks/detectors.py --data ../shared/data/regurgitative --model curate/reference/model [--as-is] [--json]

`fastdetect_gpt3to4` pairs 150 human texts with 150 by each of three generators, in three domains. A text is the completion, and
is scored without a prompt (`view: unconditional`). White space is collapsed unless --as-is is given. Texts under 50 words are
unscored and counted; a cell's AUROC is that of the others. Beside them stand the recorded scores of the same texts under
gpt-neo-2.7B, on the same rows: other scorers, so only sign and order can be compared.
"""

import argparse
import gzip
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.examples import Example
from curate.filters import Unscored, build_filter

Floats = npt.NDArray[np.float64]
OUTPUTS = ("log_likelihood", "log_rank", "lrr", "fast_detect")
RECORDED = {
    "log_likelihood": "gpt-neo-2.7B.likelihood",
    "log_rank": "gpt-neo-2.7B.logrank",
    "lrr": "t5-11b_gpt-neo-2.7B.lrr",
    "fast_detect": "gpt-j-6B_gpt-neo-2.7B.sampling_discrepancy_analytic",
}


@dataclass(frozen=True)
class Cell:
    """One domain and generator against its human texts."""

    domain: str
    generator: str
    human: int
    machine: int
    unscored: int
    ours: dict[str, list[float]]
    """By output: AUROC, share of machine texts found at 1 % and at 5 % false positives."""
    recorded: dict[str, list[float]]
    rank_correlation: dict[str, float]
    """Between ours and the recorded score, over the scored rows."""


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def auroc(human: Floats, machine: Floats) -> float:
    """Probability that a machine text scores higher than a human one, ties half."""
    human = np.sort(human)
    below = np.searchsorted(human, machine, "left")
    equal = np.searchsorted(human, machine, "right") - below
    return float((below + equal / 2).sum() / (len(human) * len(machine)))


def found_at(human: Floats, machine: Floats, rate: float) -> float:
    """Share of machine texts above a cut that at most this share of human texts lies above."""
    cut = np.sort(human)[len(human) - 1 - int(rate * len(human))]
    return float((machine > cut).mean())


def ranks(values: Floats) -> Floats:
    """Mean ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], dtype=np.float64)


def three(scores: Floats, is_machine: npt.NDArray[np.bool_]) -> list[float]:
    """AUROC, and what is found at 1 % and 5 % false positives."""
    human, machine = scores[~is_machine], scores[is_machine]
    return [auroc(human, machine), found_at(human, machine, 0.01), found_at(human, machine, 0.05)]


def measure(data: Path, model: str, *, as_is: bool, limit: int | None) -> tuple[list[Cell], float]:
    """Every cell, and the seconds that scoring took."""
    texts = list(records(data / "detection" / "fastdetect_gpt3to4.jsonl.gz"))
    held = {(r["id"], r["source"]): r["scores"] for r in records(data / "detection" / "fastdetect_gpt3to4_scores.jsonl.gz")}
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in texts:
        cells[row["domain"], row["pair_model"]].append(row)
    parameters = {"model": model, "view": "unconditional", "collapse_whitespace": not as_is}
    detectors = build_filter("detectors", parameters, where="benchmark")
    found, begin = [], time.perf_counter()
    for (domain, generator), rows in sorted(cells.items()):
        rows = rows[:limit]
        examples = [
            Example([{"role": "user", "content": "Write a text."}, {"role": "assistant", "content": row["text"]}], row=place)
            for place, row in enumerate(rows)
        ]
        results = detectors.score_batch(examples)
        scored = [(row, result) for row, result in zip(rows, results, strict=True) if not isinstance(result, Unscored)]
        is_machine = np.array([row["source"] != "human" for row, _ in scored])
        ours = {name: np.array([result[name] for _, result in scored], dtype=np.float64) for name in OUTPUTS}
        theirs = {
            name: np.array([held[row["id"], row["source"]][key] for row, _ in scored], dtype=np.float64)
            for name, key in RECORDED.items()
        }
        found.append(
            Cell(
                domain,
                generator,
                int((~is_machine).sum()),
                int(is_machine.sum()),
                len(rows) - len(scored),
                {name: three(scores, is_machine) for name, scores in ours.items()},
                {name: three(scores, is_machine) for name, scores in theirs.items()},
                {name: float(np.corrcoef(ranks(ours[name]), ranks(theirs[name]))[0, 1]) for name in OUTPUTS},
            )
        )
        print(f"{domain} {generator}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return found, time.perf_counter() - begin


def show(cells: list[Cell], seconds: float) -> None:
    """AUROC per cell, then means."""
    print("AUROC (recorded score of gpt-neo-2.7B); human + machine texts scored, unscored ones")
    for cell in cells:
        values = "  ".join(f"{name} {cell.ours[name][0]:.3f} ({cell.recorded[name][0]:.3f})" for name in OUTPUTS)
        print(f"{cell.domain:<8} {cell.generator:<14} {values}   {cell.human}+{cell.machine}, {cell.unscored}")
    for what, chosen in (("all cells", cells), ("GPT-3.5/4", [cell for cell in cells if cell.generator.startswith("gpt-")])):
        print(f"mean of {what} ({len(chosen)}): AUROC, found at 1 %, at 5 % false positives; recorded; rank correlation")
        for name in OUTPUTS:
            ours, theirs = (np.mean([getattr(cell, side)[name] for cell in chosen], axis=0) for side in ("ours", "recorded"))
            both = "   ".join(f"{one[0]:.3f} {one[1]:.0%} {one[2]:.0%}" for one in (ours, theirs))
            print(f"  {name:<15} {both}   {np.mean([cell.rank_correlation[name] for cell in chosen]):+.2f}")
    print(f"{seconds:.0f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder `regurgitative`")
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--as-is", action="store_true", help="leave white space as it is")
    parser.add_argument("--limit", type=int, help="rows per cell")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not (options.data / "detection").is_dir():
        sys.exit(f"{options.data}: no folder `detection` there; it holds fastdetect_gpt3to4.jsonl.gz and its scores")
    cells, seconds = measure(options.data, options.model, as_is=options.as_is, limit=options.limit)
    if options.json:
        print(json.dumps({"seconds": seconds, "cells": [asdict(cell) for cell in cells]}, indent=1))
    else:
        show(cells, seconds)


if __name__ == "__main__":
    main()
