"""Exact self-BLEU: agreement with NLTK, speed against NLTK (and fast-bleu where it is installed), growth with the corpus.

python benchmarks/self_bleu.py --data ../shared/data/regurgitative/translation [--json]
"""

import argparse
import gzip
import importlib.util
import json
import math
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.annotations import annotate
from curate.diversity.self_bleu import Corpus
from curate.examples import load_examples
from curate.filters import SelfBleu

SIZES = (3_000, 10_000, 30_000, 100_000)
PEER_SIZE = 3_000
TIMED_OF_PEER = 20
"""Texts of which NLTK's time is taken and multiplied: all 3,000 take it a quarter of an hour."""


def ours(texts: Sequence[str], *, in_memory_tokens: int = 10**9) -> list[float]:
    """Self-BLEU of every text."""
    corpus = Corpus(in_memory_tokens=in_memory_tokens)
    for text in texts:
        corpus.add(text)
    return [float(value) for value in corpus.self_bleu()]


def nltks(tokens: Sequence[list[str]], rows: Sequence[int]) -> list[float]:
    """The same for some rows, each against all others."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method1
    return [float(sentence_bleu([*tokens[:row], *tokens[row + 1 :]], tokens[row], smoothing_function=smoothing)) for row in rows]


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Wall time of the best of some runs."""
    best = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def measure(texts: list[str], peers: list[str]) -> dict[str, Any]:
    """All figures: growth on many short translations, peers on 3,000 solutions of about 100 words."""
    draw = random.Random(0).sample(texts, len(texts))
    few = draw[:300]
    difference = max(abs(a - b) for a, b in zip(ours(few), nltks([text.split() for text in few], range(300)), strict=True))
    sizes = [size for size in SIZES if size <= len(draw)]
    times = {size: _time_of(draw[:size]) for size in sizes}
    exponent = math.log(times[sizes[-1]] / times[sizes[0]]) / math.log(sizes[-1] / sizes[0])
    peer_seconds = _time_of(peers)
    tokens = [text.split() for text in peers]
    nltk_seconds = seconds(lambda: nltks(tokens, range(TIMED_OF_PEER)), 1) * PEER_SIZE / TIMED_OF_PEER
    on_disk = seconds(lambda: ours(draw[:30_000], in_memory_tokens=0), 1)
    same = np.nanmax(np.abs(np.array(ours(draw[:30_000], in_memory_tokens=0)) - np.array(ours(draw[:30_000]))))
    found: dict[str, Any] = {
        "difference_from_nltk": difference,
        "seconds": times,
        "words": sum(len(text.split()) for text in draw[:30_000]) / min(30_000, len(draw)),
        "exponent": exponent,
        "nltk_seconds_scaled": nltk_seconds,
        "peer_words": sum(map(len, tokens)) / len(tokens),
        "peer_seconds": peer_seconds,
        "times_nltk": nltk_seconds / peer_seconds,
        "on_disk_seconds_30000": on_disk,
        "on_disk_difference": float(same),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "filter_seconds_30000": _as_filter(draw[:30_000]),
    }
    if importlib.util.find_spec("fast_bleu") is not None:
        found["fast_bleu_seconds"] = seconds(lambda: _fast_bleu(tokens), 1)
        found["times_fast_bleu"] = found["fast_bleu_seconds"] / peer_seconds
    return found


def _time_of(texts: list[str]) -> float:
    return seconds(lambda: ours(texts), 5)


def _as_filter(texts: list[str]) -> float:
    """The filter on rows that are committed already: reading them, the pass, and committing the scores."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = ({"prompt": f"q{number}", "response": text} for number, text in enumerate(texts))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        annotate(load_examples(path), [], Path(folder) / "out")
        started = time.perf_counter()
        annotate(load_examples(path), [SelfBleu()], Path(folder) / "out")
        return time.perf_counter() - started


def _fast_bleu(tokens: list[list[str]]) -> object:
    from fast_bleu import SelfBLEU  # type: ignore[import-not-found]

    return SelfBLEU(tokens, {"4": (0.25,) * 4}).get_score()


def _responses(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [text for line in file if (text := json.loads(line)["response"]).strip()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    files = [given.data / "regurgitative/translation/wmt23.jsonl.gz", given.data / "familiarity/gsm8k/train.jsonl.gz"]
    for path in files:
        if not path.is_file():
            sys.exit(f"{path}: not here; this benchmark needs the responses of the shared data")
    translations, solutions = map(_responses, files)
    translations += translations[: max(0, SIZES[-1] - len(translations))]
    found = measure(translations, random.Random(0).sample(solutions, PEER_SIZE))
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"largest difference from NLTK on 300 texts: {found['difference_from_nltk']:.1e}")
    for size, took in found["seconds"].items():
        print(f"{size:>8,} texts: {took:.2f} s")
    print(f"exponent from {min(found['seconds']):,} to {max(found['seconds']):,}: {found['exponent']:.2f}")
    scaled = f"{found['nltk_seconds_scaled']:,.0f} s (scaled from {TIMED_OF_PEER} of them)"
    print(f"{PEER_SIZE:,} texts of {found['peer_words']:.0f} words: {found['peer_seconds']:.3f} s")
    print(f"  NLTK: {scaled}, {found['times_nltk']:,.0f} times ours")
    if "times_fast_bleu" in found:
        print(f"  fast-bleu: {found['fast_bleu_seconds']:.2f} s, {found['times_fast_bleu']:,.0f} times ours")
    print(f"30,000 on disk: {found['on_disk_seconds_30000']:.2f} s, largest difference {found['on_disk_difference']:.1e}")
    print(f"30,000 as a filter, rows committed before: {found['filter_seconds_30000']:.2f} s")
    print(f"peak memory of this process: {found['peak_mb']:,.0f} MB")


if __name__ == "__main__":
    main()
