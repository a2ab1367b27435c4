"""Measures the text filters on labelled rows: what docs/filters.md prints.

    python benchmarks/measure_filters.py --data ../shared/data/familiarity [--json]

Rows of GSM8K and ECQA carry `correct` (the final answer equals gold). Precision of a defect = share of the flagged rows that are
incorrect; recall = share of the incorrect rows that are flagged; lift = precision / share of incorrect rows. The packaged sample
carries `defect`, what was planted into a row: there recall is per planted defect, and precision is the share of flagged rows
with any planted mistake. `../text/instruct.jsonl.gz` beside --data, where present, is unlabelled: only shares are given.
"""

import argparse
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.examples import Example
from curate.filters import build_filter

SAMPLE = Path(__file__).parents[1] / "curate" / "reference" / "sample" / "train.jsonl"
DATA_SETS = ("gsm8k", "ecqa")
ERRORS = ("fatal", "wrong", "unanswered", "empty", "cut_off", "loop", "false_arithmetic")
TELLS = ("markup", "refusal", "preamble", "meta_talk", "any")
MISTAKES = {"wrong_answer", "wrong_arithmetic", "cut_off", "loop"}


def main() -> None:
    """Print the tables, as Markdown or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with gsm8k/ and ecqa/, each with train.jsonl.gz.")
    parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON instead of Markdown.")
    arguments = parser.parse_args()
    measured: dict[str, Any] = {name: measure(list(read(arguments.data / name / "train.jsonl.gz"))) for name in DATA_SETS}
    if SAMPLE.exists():
        measured["sample"] = measure_sample([json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()])
    unlabelled = arguments.data.parent / "text" / "instruct.jsonl.gz"
    if unlabelled.exists():
        measured["instruct"] = {"outputs": {}, "sources": shares_flagged([row | {"gold": None} for row in read(unlabelled)])}
    print(json.dumps(measured, indent=1) if arguments.as_json else "\n\n".join(markdown(measured)))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def scored(row: dict[str, Any]) -> dict[str, Any]:
    """The outputs of `errors` and `tells` for one row."""
    messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    example = Example(messages=messages, gold=row["gold"], source=row["source"])  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name in ("errors", "tells"):
        found |= dict(build_filter(name, {}, where="measure").score(example))  # type: ignore[arg-type]
    return found


def measure(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Precision, recall and lift per output, the share flagged per source, and how `wrong` agrees with `correct`."""
    scores = [scored(row) for row in rows]
    incorrect = [not row["correct"] for row in rows]
    agree = Counter((bool(score["wrong"]), label) for score, label in zip(scores, incorrect, strict=True))
    return {
        "rows": len(rows),
        "incorrect": sum(incorrect),
        "agreement_of_wrong": (agree[True, True] + agree[False, False]) / len(rows),
        "wrong_but_labelled_correct": agree[True, False],
        "not_wrong_but_labelled_incorrect": agree[False, True],
        "outputs": {name: quality([bool(score[name]) for score in scores], incorrect) for name in (*ERRORS, *TELLS)},
        "sources": shares_flagged(rows, scores),
    }


def shares_flagged(rows: list[dict[str, Any]], scores: list[dict[str, Any]] | None = None) -> dict[str, dict[str, float]]:
    """Share of each source's rows that each output flags."""
    scores = [scored(row) for row in rows] if scores is None else scores
    shares = {}
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [score for score, row in zip(scores, rows, strict=True) if row["source"] == source]
        shares[source] = {name: sum(bool(score[name]) for score in own) / len(own) for name in (*ERRORS, *TELLS)}
    return shares


def quality(flagged: list[bool], incorrect: list[bool]) -> dict[str, float | int | None]:
    """Precision with its 95 % Wilson bounds, recall, lift."""
    n, hits, base = sum(flagged), sum(a and b for a, b in zip(flagged, incorrect, strict=True)), sum(incorrect)
    precision = hits / n if n else None
    low, high = wilson(hits, n) if n else (None, None)
    return {
        "flagged": n,
        "precision": precision,
        "precision_low": low,
        "precision_high": high,
        "recall": hits / base if base else None,
        "lift": None if precision is None or not base else precision / (base / len(incorrect)),
    }


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    centre, half = hits / n + z * z / (2 * n), z * math.sqrt(hits / n * (1 - hits / n) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def measure_sample(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share flagged per planted defect, and precision against any planted mistake."""
    scores = [scored(row) for row in rows]
    planted = Counter(row["defect"] or "none" for row in rows)
    shares = {
        defect: {
            name: sum(bool(score[name]) for score, row in zip(scores, rows, strict=True) if (row["defect"] or "none") == defect)
            / n
            for name in (*ERRORS, *TELLS)
        }
        for defect, n in planted.items()
    }
    incorrect = [row["defect"] in MISTAKES for row in rows]
    return {
        "rows": len(rows),
        "incorrect": sum(incorrect),
        "planted": dict(planted),
        "outputs": {name: quality([bool(score[name]) for score in scores], incorrect) for name in ERRORS},
        "defects": shares,
    }


def markdown(measured: dict[str, Any]) -> Iterator[str]:
    """The tables, one string each."""
    for name, found in measured.items():
        if "agreement_of_wrong" in found:
            yield (
                f"`wrong` agrees with the label of {name} on {found['agreement_of_wrong']:.2%} of {found['rows']:,} rows: "
                f"{found['wrong_but_labelled_correct']} wrong but labelled correct, "
                f"{found['not_wrong_but_labelled_incorrect']} not wrong but labelled incorrect."
            )
    yield "\n".join(quality_table(measured))
    for name, found in measured.items():
        shares, first = (found["sources"], "source") if "sources" in found else (found["defects"], "planted defect")
        yield "\n".join(share_table(f"{name}: share flagged per {first}", first, shares))


def quality_table(measured: dict[str, Any]) -> Iterator[str]:
    """One line per output and data set that flags anything."""
    yield "| output | data set | flagged | precision (95 %) | recall | lift |"
    yield "|---|---|---|---|---|---|"
    for output in (*ERRORS, *TELLS):
        for name, found in measured.items():
            figures = found["outputs"].get(output)
            if figures is None:
                continue
            if not figures["flagged"]:
                yield f"| {output} | {name} | 0 | - | 0 % | - |"
                continue
            bounds = f"{figures['precision']:.3f} ({figures['precision_low']:.3f} to {figures['precision_high']:.3f})"
            yield f"| {output} | {name} | {figures['flagged']:,} | {bounds} | {figures['recall']:.1%} | {figures['lift']:.1f} |"


def share_table(title: str, first: str, shares: dict[str, dict[str, float]]) -> Iterator[str]:
    """One line per source or planted defect, one column per output; empty cells are zero."""
    columns = [name for name in (*ERRORS, *TELLS) if any(line[name] for line in shares.values())]
    yield from (f"**{title}**", "", f"| {first} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|")
    for label, line in shares.items():
        yield f"| {label} | " + " | ".join(f"{line[name]:.1%}" if line[name] else "" for name in columns) + " |"


if __name__ == "__main__":
    main()
