"""Consensus and predicted BLEU against the measured BLEU of WMT23 translations.

python benchmarks/quality.py --data ../shared/data/regurgitative/translation [--segments 200] [--json]
"""

import argparse
import gzip
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from curate.examples import Example
from curate.filters import Consensus, PredictedBleu

HUMANS = ("human-A", "human-B")
LEFT_OUT = ("he-en",)
"""Its reference looks post-edited from one of the systems."""


def read(path: Path, segments: int) -> dict[str, list[Example]]:
    """Systems' translations of some segments by language pair; gold is the reference."""
    by_pair: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["reference"] and row["response"].strip() and row["source"] not in HUMANS:
                by_pair[row["lang_pair"]].append(row)
    found = {}
    for pair, rows in sorted(by_pair.items()):
        ids = sorted({row["id"] for row in rows})
        chosen = set(random.Random(0).sample(ids, min(segments, len(ids))))
        found[pair] = [
            Example(
                messages=[{"role": "user", "content": row["source_text"]}, {"role": "assistant", "content": row["response"]}],
                row=place,
                source=row["source"],
                gold=row["reference"],
            )
            for place, row in enumerate(row for row in rows if row["id"] in chosen)
        ]
    return found


def within(examples: list[Example], scores: dict[int, float], measured: dict[int, float]) -> float:
    """Mean over segments of the rank correlation among its systems: what a recipe that ranks within the prompt goes by."""
    by_prompt: defaultdict[str, list[int]] = defaultdict(list)
    for example in examples:
        if example.row in scores:
            by_prompt[example.prompt_key].append(example.row)
    found = []
    for rows in by_prompt.values():
        pair = [scores[row] for row in rows], [measured[row] for row in rows]
        if len(rows) > 2 and all(len(set(values)) > 1 for values in pair):
            found.append(float(spearmanr(*pair).statistic))
    return sum(found) / len(found)


def measure(examples: list[Example]) -> dict[str, float]:
    """Rank correlations with the measured BLEU, and processor time per row."""
    started = time.process_time()
    predicted = PredictedBleu(fewest_words=1).fit(examples)
    findings, measured = predicted.findings(), predicted.state.measured
    learnt = time.process_time()
    scores = Consensus().fit(examples).score_batch(examples)
    compared = time.process_time()
    chrf = {row.row: float(score["chrf"]) for score, row in zip(scores, examples, strict=True) if isinstance(score, dict)}
    pairs = [(value, measured[row]) for row, value in chrf.items()]
    return {
        "rows": len(examples),
        "consensus": float(spearmanr(*zip(*pairs, strict=True)).statistic),
        "predicted_bleu": findings["rank_correlation"],
        "consensus_within": within(examples, chrf, measured),
        "predicted_within": within(examples, predicted.state.predicted, measured),
        "length": findings["rank_correlation_of_length"],
        "consensus_ms": 1000 * (compared - learnt) / len(examples),
        "predicted_bleu_ms": 1000 * (learnt - started) / len(examples),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/regurgitative/translation"))
    parser.add_argument("--segments", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    path = given.data / "wmt23.jsonl.gz"
    if not path.is_file():
        sys.exit(f"{path}: not here; this benchmark needs the WMT23 translations of the shared data")
    found = {pair: measure(rows) for pair, rows in read(path, given.segments).items() if pair not in LEFT_OUT}
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print("rank correlation with sentence BLEU; in brackets its mean within segments; ms of processor time per row")
    print(f"{'pair':<8}{'rows':>7}{'consensus':>15}{'predicted':>15}{'length':>8}{'consensus':>11}{'predicted':>11}")
    for pair, entry in found.items():
        print(
            f"{pair:<8}{entry['rows']:>7,}{entry['consensus']:>8.2f} ({entry['consensus_within']:4.2f})"
            f"{entry['predicted_bleu']:>8.2f} ({entry['predicted_within']:4.2f}){entry['length']:>8.2f}"
            f"{entry['consensus_ms']:>11.2f}{entry['predicted_bleu_ms']:>11.2f}"
        )


if __name__ == "__main__":
    main()
