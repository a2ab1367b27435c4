"""Where the time of scoring goes, on one thread, and what `--compile` gains there.

    python benchmarks/scoring_profile.py --data ../shared/data/familiarity

Shapes and rows are those of `scoring.py`. Each shape is scored plainly and compiled, in turns, and plainly once more under
torch's profiler, whose own cost is told: shares are of the profiled run. Times of operations are their own, without what they
call. The profiler does not see what compiled layers call.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
from scoring import commit
from scoring_material import SHAPES, Shape, count, read_pairs, save_model, write_rows
from scoring_worker import Curate, Order
from torch.profiler import ProfilerActivity, profile, record_function

from curate.likelihood import attention
from curate.likelihood.head import Head

PRODUCTS = {"aten::mm", "aten::addmm", "mkl::_mkl_linear", "mkldnn::_linear_pointwise", "mkldnn_linear", "aten::mkldnn_linear"}
PARTS = ("products of the body", "products of the head", "attention", "sums of the head", "other operations of the body")


def named(name: str, function: Any) -> Any:
    """A function whose operations the profiler finds under a name."""

    def run(*given: Any, **options: Any) -> Any:
        with record_function(name):
            return function(*given, **options)

    return run


def part_of(event: Any) -> str:
    """One of `PARTS`, by the operation and by what called it."""
    callers = set()
    caller = event
    while caller is not None:
        callers.add(caller.name)
        caller = caller.cpu_parent
    if "attention" in callers:
        return "attention"
    where = "head" if "head" in callers else "body"
    if event.name in PRODUCTS:
        return f"products of the {where}"
    return "sums of the head" if where == "head" else "other operations of the body"


def seconds(way: Curate) -> float:
    """Of one run, from text to numbers."""
    begin = time.perf_counter()
    way.score(1)
    return time.perf_counter() - begin


def profiled(way: Curate) -> dict[str, Any]:
    """Shares of a run's time, and how long it took under the profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        taken = seconds(way)
    spent: Counter[str] = Counter()
    for event in found.events() or []:
        spent[part_of(event)] += event.self_cpu_time_total / 1e6
    shares = {part: spent[part] / taken for part in PARTS}
    return {"seconds": taken, "shares": shares | {"Python, tokenising, profiler": 1 - sum(shares.values())}}


def measure(shape: Shape, pairs: dict[str, list[str]], texts: list[str], rounds: int) -> dict[str, Any]:
    """Speeds and shares of one shape, plain and compiled."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tokenizer = save_model(folder / "model", shape, texts)
        write_rows(folder / "rows.jsonl", pairs)
        scored = count(tokenizer, pairs).scored
        ways = {}
        for name, compiled in (("plain", False), ("compiled", True)):
            ways[name] = Curate(Order("curate", os.fspath(folder / "model"), os.fspath(folder / "rows.jsonl"), compiled=compiled))
            ways[name].load()
            ways[name].score(1)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                taken[name].append(seconds(way))
        gains = [plain / compiled for plain, compiled in zip(taken["plain"], taken["compiled"], strict=True)]
        return {
            "scored_tokens": scored,
            "compiled_over_plain": [min(gains), statistics.median(gains), max(gains)],
            "tokens_per_second": {name: scored / statistics.median(found) for name, found in taken.items()},
            "profile": profiled(ways["plain"]),
        }


def table(found: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [["share of the time", *found], ["---"] * (len(found) + 1)]
    for part in next(iter(found.values()))["profile"]["shares"]:
        lines.append([part, *(f"{one['profile']['shares'][part]:.0%}" for one in found.values())])
    for name in ("plain", "compiled"):
        lines.append([f"{name}: tokens/s, not profiled", *(f"{one['tokens_per_second'][name]:,.0f}" for one in found.values())])
    gains = [one["compiled_over_plain"] for one in found.values()]
    lines.append(["compiled over plain", *(f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in gains)])
    slower = [one["profile"]["seconds"] * one["tokens_per_second"]["plain"] / one["scored_tokens"] for one in found.values()]
    lines.append(["profiled run over one that is not", *(f"{factor:.2f}" for factor in slower)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/familiarity"))
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=["S", "M"])
    parser.add_argument("--prompts", type=int, help="prompts taken, with all their responses: by default 8 for S, 2 for M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    paths = [path for path in [options.data / "gsm8k" / "train.jsonl.gz"] if path.exists()]
    if not paths:
        sys.exit(f"{options.data}: there is no gsm8k/train.jsonl.gz; say --data")
    torch.set_num_threads(1)
    attention.segment_attention = named("attention", attention.segment_attention)
    Head.statistics = named("head", Head.statistics)  # type: ignore[method-assign]
    pairs = read_pairs(paths)
    texts = [text for prompt, responses in pairs.items() for text in (prompt, *responses)]
    found = {}
    for name in options.shapes:
        prompts = options.prompts or {"M": 2}.get(name, 8)
        found[name] = measure(SHAPES[name], dict(list(pairs.items())[:prompts]), texts, options.rounds)
    print(f"commit {commit()}, torch {torch.__version__}, one thread\n")
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
