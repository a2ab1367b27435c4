"""Measures the text filters on labelled rows: what docs/filters.md prints.

    python benchmarks/measure_filters.py --data ../shared/data/familiarity [--json | --disagreements]

Rows of GSM8K, ECQA and HumanEval carry `correct` (the final answer equals gold; the code passes its tests). Precision of a
defect = share of the flagged rows that are incorrect; recall = share of the incorrect rows that are flagged; lift = precision /
share of incorrect rows. The packaged sample carries `defect`, what was planted into a row: there recall is per planted defect,
and precision is the share of flagged rows with any planted mistake. `../text/instruct.jsonl.gz` beside --data, where present, is
unlabelled: only shares are given. Of `../regurgitative/translation/wmt23.jsonl.gz`, where present, every 40th row says how well
`tells.language` knows languages: the source text as prompt has to differ, the reference translation must not. --disagreements
lists the rows on which the readers and the labels differ, each with the kind of its difference.
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
from curate.filters import Errors, Tells
from curate.filters.answers import marked_answers, read_answer, read_numbers
from curate.reference import sample_path

SAMPLE = sample_path()
DATA_SETS = ("gsm8k", "ecqa", "humaneval")
DEFECTS = ("empty", "cut_off", "loop", "false_arithmetic", "unbalanced", "broken_code", "mojibake")
ERRORS = ("fatal", "wrong", "strict_wrong", "unanswered", *DEFECTS)
TELLS = ("markup", "refusal", "preamble", "meta_talk", "any", "language", "copied_prompt")
FILTERS = (Errors(), Tells())
MISTAKES = {"wrong_answer", "wrong_arithmetic", "cut_off", "loop"}


def main() -> None:
    """Print the tables, as Markdown or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with gsm8k/ and ecqa/, each with train.jsonl.gz.")
    parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON instead of Markdown.")
    parser.add_argument("--disagreements", action="store_true", help="List the rows on which readers and labels differ.")
    arguments = parser.parse_args()
    if arguments.disagreements:
        print("\n".join(disagreements(arguments.data)))
        return
    measured: dict[str, Any] = {name: measure(list(read(arguments.data / name / "train.jsonl.gz"))) for name in DATA_SETS}
    if SAMPLE.exists():
        measured["sample"] = measure_sample([json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()])
    unlabelled = arguments.data.parent / "text" / "instruct.jsonl.gz"
    if unlabelled.exists():
        measured["instruct"] = {"outputs": {}, "sources": shares_flagged([row | {"gold": None} for row in read(unlabelled)])}
    translated = arguments.data.parent / "regurgitative" / "translation" / "wmt23.jsonl.gz"
    if translated.exists():
        measured["translation"] = measure_language([row for at, row in enumerate(read(translated)) if at % 40 == 0])
    print(json.dumps(measured, indent=1) if arguments.as_json else "\n\n".join(markdown(measured)))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def scored(row: dict[str, Any]) -> dict[str, Any]:
    """The outputs of `errors` and `tells` for one row."""
    messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    example = Example(messages=messages, gold=row["gold"], source=row["source"], tests=row.get("tests"))  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for filter_ in FILTERS:
        found |= dict(filter_.score(example))
    return found


def measure(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Precision, recall and lift per output, the share flagged per source, and how `wrong` agrees with `correct`."""
    scores = [scored(row) for row in rows]
    incorrect = [not row["correct"] for row in rows]
    found = {
        "rows": len(rows),
        "incorrect": sum(incorrect),
        "outputs": {name: quality([bool(score[name]) for score in scores], incorrect) for name in (*ERRORS, *TELLS)},
        "sources": shares_flagged(rows, scores),
        "per_source": {
            source: {
                name: quality(
                    [bool(score[name]) for score, row in zip(scores, rows, strict=True) if row["source"] == source],
                    [not row["correct"] for row in rows if row["source"] == source],
                )
                for name in (*DEFECTS, *TELLS)
            }
            for source in dict.fromkeys(row["source"] for row in rows)
        },
    }
    readers = ("wrong", "strict_wrong") if any(score["wrong"] is not None for score in scores) else ()
    return found | {"readers": {reader: agreement([bool(score[reader]) for score in scores], incorrect) for reader in readers}}


def agreement(wrong: list[bool], incorrect: list[bool]) -> dict[str, float | int]:
    """How often a reader's verdict is the label's, and the two ways in which it is not."""
    pairs = Counter(zip(wrong, incorrect, strict=True))
    return {
        "agreement": (pairs[True, True] + pairs[False, False]) / len(wrong),
        "wrong_but_labelled_correct": pairs[True, False],
        "not_wrong_but_labelled_incorrect": pairs[False, True],
    }


def measure_language(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of pairs in two languages and of pairs in one, how many `tells.language` calls different, how many it does not judge."""

    def judged(pairs: list[tuple[str, str]]) -> dict[str, int]:
        empty = {"gold": None, "source": None}
        verdicts = Counter(scored(empty | {"prompt": one, "response": other})["language"] for one, other in pairs)
        return {"pairs": len(pairs), "different": verdicts[True], "same": verdicts[False], "unjudged": verdicts[None]}

    return {
        "outputs": {},
        "languages": {
            "source text, translation": judged([(row["source_text"], row["response"]) for row in rows]),
            "reference, translation": judged([(row["reference"], row["response"]) for row in rows if row["reference"]]),
        },
    }


def disagreements(data: Path) -> Iterator[str]:
    """One line per row on which a reader and the label differ, then the counts per kind."""
    kinds: Counter[tuple[str, str, str]] = Counter()
    for name in ("gsm8k", "ecqa"):
        for row in read(data / name / "train.jsonl.gz"):
            lenient = read_answer(row["response"], row["gold"], row["prompt"])
            strict = read_answer(row["response"], row["gold"], row["prompt"], mode="strict")
            for reader, reading in (("wrong", lenient), ("strict_wrong", strict)):
                if reading.is_right is row["correct"]:
                    continue
                kind = kind_of_difference(row, is_number=name == "gsm8k")
                kinds[name, reader, kind] += 1
                line = " ".join((marked_answers(row["response"]) or [row["response"][-100:]])[0].split())[:100]
                label = f"{row['final']} ({'correct' if row['correct'] else 'incorrect'})"
                yield (
                    f"{name} | {reader} | {kind} | id {row['id']}, {row['source']} | gold {row['gold']}, label read {label}, "
                    f"lenient {lenient.answer}, strict {strict.answer} | {line}"
                )
    yield ""
    yield from (f"{count:4} {name} {reader}: {kind}" for (name, reader, kind), count in sorted(kinds.items()))


def kind_of_difference(row: dict[str, Any], *, is_number: bool) -> str:
    """Why two readers can read the end of a row differently, from its form alone."""
    _, mark, after = row["response"].rpartition("Final Answer:")
    if not mark:
        return "no `Final Answer:` line"
    first = next((line for line in after.splitlines() if line.strip()), "")
    if not is_number:
        return "option named by its text" if not any(map(str.isdigit, after)) else "several options named, or taken back"
    if "million" in first:
        return "number with a scale word"
    if "=" in after:
        return "calculation after the mark"
    return "several numbers after the mark" if len(read_numbers(after)) > 1 else "other"


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
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


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
        for reader, counts in found.get("readers", {}).items():
            yield (
                f"`{reader}` agrees with the label of {name} on {counts['agreement']:.2%} of {found['rows']:,} rows: "
                f"{counts['wrong_but_labelled_correct']} wrong but labelled correct, "
                f"{counts['not_wrong_but_labelled_incorrect']} not wrong but labelled incorrect."
            )
    for pairs, counts in measured.get("translation", {}).get("languages", {}).items():
        yield (
            f"`language`, {pairs}: {counts['different']} different, {counts['same']} same, {counts['unjudged']} not judged, "
            f"of {counts['pairs']:,} pairs."
        )
    yield "\n".join(quality_table(measured))
    for name, found in measured.items():
        if "per_source" in found:
            yield "\n".join(source_table(name, found))
    for name, found in measured.items():
        if "sources" in found or "defects" in found:
            shares, first = (found["sources"], "source") if "sources" in found else (found["defects"], "planted defect")
            yield "\n".join(share_table(f"{name}: share flagged per {first}", first, shares))


def source_table(name: str, found: dict[str, Any]) -> Iterator[str]:
    """One line per source and gold-free output that flags at least five of its rows."""
    yield f"**{name}: gold-free outputs per source, where five rows or more are flagged**"
    yield ""
    yield "| source | output | flagged | precision (95 %) | recall | lift |"
    yield "|---|---|---|---|---|---|"
    for source, outputs in found["per_source"].items():
        for output, figures in outputs.items():
            if figures["flagged"] >= 5:
                yield f"| {source} | {output} | {quality_cells(figures)} |"


def quality_cells(figures: dict[str, Any]) -> str:
    """Flagged, precision with bounds, recall and lift; where a source has no incorrect row, recall and lift have no value."""
    bounds = f"{figures['precision']:.3f} ({figures['precision_low']:.3f} to {figures['precision_high']:.3f})"
    recall = "-" if figures["recall"] is None else f"{figures['recall']:.1%}"
    lift = "-" if figures["lift"] is None else f"{figures['lift']:.1f}"
    return f"{figures['flagged']:,} | {bounds} | {recall} | {lift}"


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
            yield f"| {output} | {name} | {quality_cells(figures)} |"


def share_table(title: str, first: str, shares: dict[str, dict[str, float]]) -> Iterator[str]:
    """One line per source or planted defect, one column per output; empty cells are zero."""
    columns = [name for name in (*ERRORS, *TELLS) if any(line[name] for line in shares.values())]
    yield from (f"**{title}**", "", f"| {first} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|")
    for label, line in shares.items():
        yield f"| {label} | " + " | ".join(f"{line[name]:.1%}" if line[name] else "" for name in columns) + " |"


if __name__ == "__main__":
    main()
