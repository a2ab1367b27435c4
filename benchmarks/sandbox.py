"""How many programs per second the sandbox runs, start-up included, and whether its verdicts are the labels.

    python benchmarks/sandbox.py --data ../shared/data/familiarity [--rows N] [--json]

Every row of HumanEval (164 canonical solutions, 983 written by language models) is one execution: a fresh sandbox, program and
its tests. `alone` is one worker: the whole set once, and the best stretch of 20 executions, which comes near to what a core
reaches that nobody else uses. `per processor second` counts the time that all processes of a run took, bubblewrap's and the
kernel's part included, so that a busy machine matters less. `together` is one worker per core, by the clock. A row disagrees
where `passed` is not its `correct` label.
"""

import argparse
import contextlib
import ctypes
import gzip
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from curate.examples import Example
from curate.filters import UnitTests
from curate.sandbox import Job, Sandbox, Verdict, available_cores, open_sandbox

STRETCH = 20


def main() -> None:
    """Print rates and disagreements, as text or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with humaneval/train.jsonl.gz.")
    parser.add_argument("--rows", type=int, help="Only the first N rows.")
    parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON instead of text.")
    arguments = parser.parse_args()
    with gzip.open(arguments.data / "humaneval" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, arguments.rows)]
    begin = time.perf_counter()
    sandbox = open_sandbox()
    found: dict[str, Any] = {"sandbox": sandbox.name, "python": sandbox.python, "landlock": sandbox.landlock}
    found["proof_s"] = round(time.perf_counter() - begin, 2)
    found |= measure(sandbox, rows, jobs_of(rows))
    print(json.dumps(found, indent=1) if arguments.as_json else "\n".join(f"{name}: {value}" for name, value in found.items()))


def jobs_of(rows: Sequence[dict[str, Any]]) -> list[Job]:
    """What the filter would run."""
    jobs = []
    for row in rows:
        messages: list[Any] = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        job = UnitTests().job(Example(messages=messages, tests=row["tests"], extra=row))
        assert isinstance(job, Job)
        jobs.append(job)
    return jobs


def measure(sandbox: Sandbox, rows: Sequence[dict[str, Any]], jobs: Sequence[Job]) -> dict[str, Any]:
    """Rates of one worker and of all, and agreement."""
    seconds, verdicts = [], []
    # Bubblewrap leaves before its own init is reaped, whose time would then be counted nowhere: take such orphans in.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    used = processor_seconds()
    for job in jobs:
        begin = time.perf_counter()
        verdicts.append(sandbox.run(job))
        seconds.append(time.perf_counter() - begin)
    used = processor_seconds() - used
    best = min(sum(seconds[start : start + STRETCH]) for start in range(max(1, len(seconds) - STRETCH + 1)))
    begin = time.perf_counter()
    again = sandbox.run_all(jobs)
    together = time.perf_counter() - begin
    return {
        "executions": len(jobs),
        "alone, executions per second": round(len(jobs) / sum(seconds), 1),
        f"alone, best {STRETCH} in a row": round(min(STRETCH, len(jobs)) / best, 1),
        "executions per processor second": round(len(jobs) / used, 1),
        "together, executions per second and core": round(len(jobs) / together / available_cores(), 1),
        "statuses": dict(Counter(verdict.status for verdict in verdicts)),
        "verdicts that the second pass gave otherwise": sum(a.status != b.status for a, b in zip(verdicts, again, strict=True)),
        **agreement(rows, verdicts),
    }


def processor_seconds() -> float:
    """Taken so far by this process and all that it has reaped, after reaping every orphan."""
    time.sleep(0.3)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def agreement(rows: Sequence[dict[str, Any]], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Rows whose label is the verdict, canonical ones apart, and those that are not."""
    pairs = list(zip(rows, verdicts, strict=True))
    human = [verdict.passed for row, verdict in pairs if row["source"] == "human"]
    machine = [verdict.passed is row["correct"] for row, verdict in pairs if row["source"] != "human"]
    return {
        "canonical solutions that pass": f"{sum(human)} of {len(human)}",
        "other rows that agree with their label": f"{sum(machine)} of {len(machine)}",
        "disagreements": [
            f"{row['id']} {row['source']}: label {row['correct']}, {verdict.status}: {verdict.detail}"
            for row, verdict in pairs
            if verdict.passed is not row["correct"]
        ],
    }


if __name__ == "__main__":
    main()
