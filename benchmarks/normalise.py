"""How much of a source's perplexity is markup: medians over rows with and without `normalise`.

python benchmarks/normalise.py --data ../shared/data/familiarity --model curate/reference/model
"""

import argparse
import gzip
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from curate.examples import Example
from curate.filters import build_filter
from curate.filters.normalisation import NORMALISERS

SOURCES = ("human", "human-nocalc", "gpt4", "claude")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder `familiarity`")
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--normalise", choices=list(NORMALISERS), default="calculator_marks")
    options = parser.parse_args()
    path = options.data / "gsm8k" / "train.jsonl.gz"
    if not path.is_file():
        sys.exit(f"{path}: not there; --data takes the folder `familiarity`")
    rows: dict[str, list[Example]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
            rows[row["source"]].append(Example(turns))  # type: ignore[arg-type]
    print(f"median perplexity over rows of GSM8K, as they are and without {options.normalise}")
    for source in SOURCES:
        medians = []
        for names in ((), (options.normalise,)):
            perplexity = build_filter("perplexity", {"model": options.model, "normalise": names}, where="benchmark")
            scores = [result["perplexity"] for result in perplexity.score_batch(rows[source]) if isinstance(result, dict)]
            medians.append(statistics.median(float(value) for value in scores if value is not None))
        print(f"{source:<14} {len(rows[source]):>5} rows  {medians[0]:8.1f}  {medians[1]:8.1f}", flush=True)


if __name__ == "__main__":
    main()
