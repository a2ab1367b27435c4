"""The main job on real data: is it right, how fast is it, does memory stay flat?

    python benchmarks/main_job.py --data ../shared/data/familiarity/gsm8k/train.jsonl.gz --model ../shared/models/stories260K

Runs `familiarity-top50` over the first tenth and over all rows, each in a process of its own; re-cuts to 30 %; then scores every
row again with the stock model, one row at a time, applies the recipe in plain Python and compares the kept rows.
"""

import argparse
import gzip
import json
import math
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Key = Callable[[int], Any]


def measured_run(data: str, model: str, out: str, limit: int | None) -> dict[str, float]:
    """In this process: load libraries and model, score a few rows, then run, and tell how far memory rose above that."""
    from datasets import Features, IterableDataset, Value

    from curate.examples import load_examples
    from curate.filters import Likelihood
    from curate.pipeline import run

    # What any run pays once, however many rows it has: imports, weights, a first batch of the usual size.
    warm = list(load_examples(data, limit=40))
    Likelihood(model=model).score_batch(warm)
    list(IterableDataset.from_generator(lambda: iter([{"a": 1}]), features=Features({"a": Value("int64")})))
    base = _peak_mb()
    begin = time.perf_counter()
    result = run("familiarity-top50", data, model=model, out=out, limit=limit)
    seconds = time.perf_counter() - begin
    tokens = result.selection.frame.column("perplexity.tokens").values.sum()
    return {
        "rows": result.report.rows,
        "kept": result.report.kept,
        "seconds": seconds,
        "rows_per_second": result.report.rows / seconds,
        "scored_tokens_per_second": float(tokens) / seconds,
        "base_mb": base,
        "above_mb": _peak_mb() - base,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def in_a_process(*arguments: str) -> dict[str, float]:
    """`measured_run` in a fresh process, so that one run's memory does not hide another's."""
    command = [sys.executable, __file__, "--worker", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def recut(out: Path, share: str) -> float:
    """Seconds of `curate select` with another share, process start included."""
    from curate.recipes import shipped_recipes

    recipe = out / "recut.yaml"
    recipe.write_text(re.sub(r"lowest: 50%", f"lowest: {share}", shipped_recipes()["familiarity-top50"].read_text()))
    curate = Path(sys.executable).with_name("curate")
    begin = time.perf_counter()
    subprocess.run([curate, "select", out, "--recipe", recipe], check=True, capture_output=True)
    return time.perf_counter() - begin


def independent_nll(rows: list[Row], model_name: str) -> list[float | None]:
    """Mean NLL of the verbatim response under the stock model, one row at a time, tokenised as SFTTrainer does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).eval()
    most = min(1024, model.config.max_position_embeddings)
    found: list[float | None] = []
    for number, row in enumerate(rows):
        prompt, response = row["prompt"], row["response"]
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            head = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            head, text = prompt, prompt + response + tokenizer.eos_token
        special = not tokenizer.chat_template
        before = tokenizer(head, add_special_tokens=special)["input_ids"]
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        start = next((at for at, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
        first = text.index(response.strip(), len(head) if text.startswith(head) else 0)
        last = first + len(response.strip())
        content = [at for at, (a, b) in enumerate(encoded["offset_mapping"]) if start <= at < most and a < last and b > first]
        if not content:
            found.append(None)
            continue
        with torch.inference_mode():
            logp = torch.log_softmax(model(torch.tensor([ids[:most]]), use_cache=False).logits[0].double(), dim=-1)
        found.append(-math.fsum(float(logp[at - 1, ids[at]]) for at in content) / len(content))
        if number % 1000 == 999:
            print(f"  checked {number + 1:,} rows", file=sys.stderr, flush=True)
    return found


def independent_selection(rows: list[Row], nll: list[float | None]) -> set[int]:
    """familiarity-top50 from its description: deduplicate, drop known mistakes, keep the familiar half of each group."""
    from curate.examples import Example
    from curate.filters import known_filters

    errors = known_filters()["errors"]()
    alive, seen = [], set()
    for number, row in enumerate(rows):
        pair = (row["prompt"], row["response"])
        turns = [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        if pair in seen:
            continue
        seen.add(pair)
        if not errors.score(Example(turns, gold=row["gold"]))["fatal"]:  # type: ignore[arg-type,index]
            alive.append(number)
    ordered = sorted(len(row["response"]) for row in rows)
    rank = {count: ordered.index(count) for count in set(ordered)}
    keys: list[Key] = [
        lambda at: rows[at]["prompt"],
        lambda at: (rows[at]["source"], 10 * rank[len(rows[at]["response"])] // len(ordered)),
        lambda at: rows[at]["source"],
        lambda at: None,
    ]
    kept = {number for number in alive if nll[number] is None}
    left = [number for number in alive if nll[number] is not None]
    for level, key in enumerate(keys):
        groups: dict[Any, list[int]] = defaultdict(list)
        for number in left:
            groups[key(number)].append(number)
        left = []
        for members in groups.values():
            if len(members) < 2 and level < len(keys) - 1:
                left += members
                continue
            kept.update(best(members, nll)[: max(1, math.floor(len(members) * 0.5 + 0.5))])
    return kept


def best(members: list[int], nll: list[float | None]) -> list[int]:
    """Lowest first; values that agree to one part in a million are tied, and the earlier row comes first."""
    runs: list[list[int]] = []
    before = -math.inf
    for value, row in sorted((nll[row] or 0.0, row) for row in members):
        if value - before > 1e-6 * abs(value):
            runs.append([])
        runs[-1].append(row)
        before = value
    return [row for run in runs for row in sorted(run)]


def compare(data: Path, model: str, out: Path) -> dict[str, Any]:
    """Kept rows of the run against the re-computation; rows that differ are listed with their distance to the cut."""
    import pyarrow.parquet as pq

    with gzip.open(data, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    ledger = pq.read_table(out / "selection" / "ledger.parquet").to_pylist()
    nll = independent_nll(rows, model)
    ours = [entry["perplexity"]["content_nll"] for entry in ledger]
    kept = {entry["row"] for entry in ledger if entry["decision"] == "kept"}
    expected = independent_selection(rows, nll)
    both = [(a, b) for a, b in zip(ours, nll, strict=True) if a is not None and b is not None]
    return {
        "rows": len(rows),
        "kept": len(kept),
        "differing": [{"row": row, "margin": ledger[row]["margin"]} for row in sorted(kept ^ expected)],
        "scored_by_one_only": sum((a is None) != (b is None) for a, b in zip(ours, nll, strict=True)),
        "largest_nll_difference": max(abs(a - b) for a, b in both),
        "decisions": dict(Counter(entry["rejected_by"] or "kept" for entry in ledger)),
    }


def table(found: dict[str, Any]) -> Iterable[str]:
    """The result as Markdown."""
    small, large = found["tenth"], found["all"]
    yield "| | first tenth | all rows |"
    yield "|---|---|---|"
    for key in ("rows", "kept", "seconds", "rows_per_second", "scored_tokens_per_second", "base_mb", "above_mb"):
        yield f"| {key.replace('_', ' ')} | {small[key]:,.1f} | {large[key]:,.1f} |"
    yield ""
    yield f"memory above model and libraries, all rows / tenth: {large['above_mb'] / small['above_mb']:.3f}"
    yield f"re-cut to 30 %, process start included: {found['recut_seconds']:.2f} s"
    if check := found.get("check"):
        differing = check["differing"]
        yield f"independent re-computation: {len(differing)} of {check['rows']:,} decisions differ {differing or ''}"
        yield f"largest difference of a row's mean NLL: {check['largest_nll_difference']:.1e} nats"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/familiarity/gsm8k/train.jsonl.gz")
    parser.add_argument("--model", default="../shared/models/stories260K")
    parser.add_argument("--no-check", action="store_true", help="leave out the slow independent re-computation")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=3, metavar=("OUT", "LIMIT", "_"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        out, limit, _ = options.worker
        print(json.dumps(measured_run(options.data, options.model, out, int(limit) or None)))
        return
    if not Path(options.data).is_file() or not Path(options.model).is_dir():
        print(f"skipped: {options.data} or {options.model} is not there")
        return
    with gzip.open(options.data, "rt", encoding="utf-8") as lines:
        count = sum(1 for _ in lines)
    common = ["--data", options.data, "--model", options.model]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all"
        found: dict[str, Any] = {"data": options.data, "model": options.model}
        found["tenth"] = in_a_process(str(Path(folder) / "tenth"), str(count // 10), "-", *common)
        found["all"] = in_a_process(str(out), "0", "-", *common)
        found["check"] = None if options.no_check else compare(Path(options.data), options.model, out)
        found["recut_seconds"] = recut(out, "30%")
    print(json.dumps(found, indent=1) if options.json else "\n".join(table(found)))


if __name__ == "__main__":
    main()
