"""The learned detector on labelled texts: held out by prompt, by domain, and on essays of non-native writers.

python benchmarks/learned_detector.py --data ../shared/data/regurgitative/detection [--json]
"""

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.learning import fit_linear
from curate.learning.judging import Bools, Floats, auroc, bootstrap, found_at, threshold_at, wilson

GENERATORS = ("gpt-3.5-turbo", "gpt-4")
STRENGTH = 10.0
"""The default of the filter `learned_detector`."""
FEWEST_WORDS = 50


def read(path: Path) -> list[dict[str, Any]]:
    """The texts that are long enough to be judged."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row for row in rows if len(row["text"].split()) >= FEWEST_WORDS]


def originals(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What must not stand on both sides: rows that share their prompt or their opening, directly or through others.

    Human originals are repeated per generator, cut to other lengths, and each pair shares the beginning that was the prompt.
    """
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    keys = [
        (
            f"prompt {row['domain']} {' '.join(row['prompt'].split())}",
            f"opening {row['domain']} {' '.join(row['text'].split()[:8])}",
        )
        for row in rows
    ]
    for prompt, opening in keys:
        leader[find(opening)] = find(prompt)
    return [find(prompt) for prompt, _ in keys]


def cells(rows: Sequence[dict[str, Any]], scores: Floats, labels: Bools) -> dict[str, float]:
    """AUROC of every generator in every domain, with the human texts that it was paired with."""
    found = {}
    for generator in GENERATORS:
        for domain in sorted({row["domain"] for row in rows}):
            at = np.array([row["pair_model"] == generator and row["domain"] == domain for row in rows])
            found[f"{generator} {domain}"] = auroc(scores[at], labels[at])
    return found


def measure(folder: Path) -> dict[str, Any]:
    """All figures."""
    rows = [row for row in read(folder / "fastdetect_gpt3to4.jsonl.gz") if row["pair_model"] in GENERATORS]
    labels = np.array([row["source"] != "human" for row in rows])
    groups, texts = originals(rows), [row["text"] for row in rows]
    fitted = fit_linear("logistic", texts, labels.astype(float).tolist(), groups, strength=STRENGTH)
    per_cell = cells(rows, fitted.held_out, labels)
    estimate = bootstrap(auroc, fitted.held_out, labels, groups)
    found: dict[str, Any] = {
        "rows": len(rows),
        "prompts": len(set(groups)),
        "auroc": estimate.value,
        "auroc_interval": [estimate.low, estimate.high],
        "found_at_1": found_at(fitted.held_out, labels, 0.01),
        "found_at_5": found_at(fitted.held_out, labels, 0.05),
        "cells": per_cell,
        "mean_of_cells": sum(per_cell.values()) / len(per_cell),
        "left_out_domains": {},
        "liang": {},
    }
    for domain in sorted({row["domain"] for row in rows}):
        inside = [place for place, row in enumerate(rows) if row["domain"] != domain]
        outside = [place for place, row in enumerate(rows) if row["domain"] == domain]
        other = fit_linear(
            "logistic",
            [texts[place] for place in inside],
            [float(labels[place]) for place in inside],
            [groups[place] for place in inside],
            strength=STRENGTH,
        )
        limit = threshold_at(other.held_out, labels[inside], 0.05)
        scores = other.model.decide([texts[place] for place in outside])
        found["left_out_domains"][domain] = {
            "auroc": auroc(scores, labels[outside]),
            "accused_at_5": float((scores[~labels[outside]] > limit).mean()),
        }
    limits = {rate: threshold_at(fitted.held_out, labels, rate) for rate in (0.01, 0.05)}
    essays = read(folder / "liang_bias.jsonl.gz")
    for name in sorted({row["set_name"] for row in essays}):
        mine = [row for row in essays if row["set_name"] == name]
        scores = fitted.model.decide([row["text"] for row in mine])
        found["liang"][name] = {
            "rows": len(mine),
            "source": mine[0]["source"],
            **{f"called_machine_at_{rate:.0%}": float((scores > limit).mean()) for rate, limit in limits.items()},
            "interval_at_5%": wilson(int((scores > limits[0.05]).sum()), len(mine)),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/regurgitative/detection"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not given.data.is_dir():
        sys.exit(f"{given.data}: not here; this benchmark needs the labelled texts of the shared data")
    found = measure(given.data)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    low, high = found["auroc_interval"]
    print(f"{found['rows']:,} texts of {FEWEST_WORDS} words or more, {found['prompts']:,} originals, held out by original")
    print(f"AUROC {found['auroc']:.3f} ({low:.3f} to {high:.3f}); mean of the six cells {found['mean_of_cells']:.3f}")
    print(f"found at 1 % false positives {found['found_at_1']:.0%}, at 5 % {found['found_at_5']:.0%}")
    for name, value in found["cells"].items():
        print(f"  {name:<24} {value:.3f}")
    print("a domain that was left out:")
    for name, entry in found["left_out_domains"].items():
        print(
            f"  {name:<24} AUROC {entry['auroc']:.3f}; human texts accused at the threshold of 5 %: {entry['accused_at_5']:.0%}"
        )
    print("called machine-written at the thresholds of 1 % and 5 % (essays of Liang et al.):")
    for name, entry in found["liang"].items():
        low, high = entry["interval_at_5%"]
        print(
            f"  {name:<36} {entry['source']:<10} {entry['rows']:>4} rows: {entry['called_machine_at_1%']:.0%}, "
            f"{entry['called_machine_at_5%']:.0%} ({low:.0%} to {high:.0%})"
        )


if __name__ == "__main__":
    main()
