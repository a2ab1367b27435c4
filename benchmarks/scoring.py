"""Speed, memory and accuracy of likelihood scoring against what others do, in one interleaved run.

    python benchmarks/scoring.py --data ../shared/data/familiarity --lm-eval-python .lm-eval/bin/python --json scoring.json
    python benchmarks/scoring.py --quick                # a tiny model on the packaged sample, one round: does it work?
    python benchmarks/scoring.py --device cuda          # shapes of 1B and 7B in bfloat16 against a stock loop

Every way is a process of its own that stays alive; a round asks each for one run over all rows, the first round is thrown away.
Before a run the machine must be quiet, and what other processes took during it is told too. Ratios are taken round by round.
Throughput is response tokens (EOS included) per second, tokenisation included, loading excluded; weights are random.
"""

import argparse
import inspect
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scoring_material import GEMM_WIDTH, SHAPES, Counts, count, read_pairs, save_model, with_long_prompts, write_rows
from scoring_table import table

from curate.likelihood import Engine
from curate.reference import sample_path

WORKER = Path(__file__).with_name("scoring_worker.py")
TASKS = ("gsm8k", "ecqa")
PROMPTS = {"tiny": 3, "S": 40, "M": 8, "1B": 200, "7B": 100}
HARNESS_BATCHES = (1, 4, 8, 16, 32)
CHECKED_ROWS = 32
"""Rows that the stock model scores in float64."""
EXACT = 1e-5
"""Relative error of a float32 product up to which its number path counts as float32."""
H100_FLOPS = 790e12
"""What the matrix products of one H100 reach in bfloat16; the share on a GPU is of this."""


@dataclass(frozen=True)
class Way:
    """A row of the table: what a worker is told, and with which Python it runs."""

    name: str
    order: dict[str, Any]
    rows: str = "real"
    python: str = sys.executable
    batches: tuple[int, ...] = ()
    """Batch sizes that the first round tries; the fastest is kept."""


@dataclass
class Worker:
    """A way's process and what it answered."""

    way: Way
    process: "subprocess.Popen[str]"
    log: Path
    ready: dict[str, Any] | None = None
    """What it said when it was loaded."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    tried: dict[int, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def best_batch(self) -> int | None:
        """The fastest of those tried; None where there is no choice."""
        return min(self.tried, key=self.tried.__getitem__) if self.tried else None

    def answer(self) -> dict[str, Any]:
        """The next line that it writes. A worker that ended leaves the reason in its log."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        self.process.wait()
        told = self.log.read_text(errors="replace").strip().splitlines()
        self.failure = told[-1][:200] if told else f"ended with code {self.process.returncode}"
        return {}

    def wait(self) -> bool:
        """Until it is loaded; False if it failed."""
        if self.ready is None:
            self.ready = self.answer()
        return self.failure is None

    def ask(self, batch: int | None = None) -> dict[str, Any]:
        """One run over all rows; the first waits for the model to be loaded."""
        if not self.wait():
            return {}
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps({"batch": batch}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it ended since; its answer, which does not come, says why
            pass
        return self.answer()


class Load:
    """What the machine's processors do from now on."""

    def __init__(self) -> None:
        self.begin, self.worked = time.perf_counter(), self._seconds()

    def share(self, *, own: float) -> float:
        """Share of all processors' time since then that went to others, of which `own` seconds are not."""
        passed = (time.perf_counter() - self.begin) * (os.cpu_count() or 1)
        return max(0.0, self._seconds() - self.worked - own) / passed

    @staticmethod
    def _seconds() -> float:
        """Seconds worked since the machine started, for whomever: a hypervisor's other guests included."""
        values = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _, _, irq, softirq, steal = values
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Gate:
    """When a measurement may begin, and whether it was disturbed."""

    busy: float
    """Share of the machine's time that others may take."""
    wait_s: float
    watch_s: float = 2.0

    def wait(self) -> bool:
        """Until the machine is quiet; False if it did not become so in time."""
        end = time.monotonic() + self.wait_s
        while True:
            load = Load()
            time.sleep(self.watch_s)
            if load.share(own=0) <= self.busy:
                return True
            if time.monotonic() > end:
                return False

    def measure(self, worker: Worker, batch: int | None = None) -> dict[str, Any]:
        """One run behind the gate: what the worker answers, `quiet`, and the share of the machine that others took."""
        worker.wait()
        quiet = self.wait()
        load = Load()
        found = worker.ask(batch)
        if not found:
            return {}
        others = load.share(own=found["cpu_seconds"])
        return found | {"others": others, "quiet": quiet and others <= self.busy}


def ways_on_cpu(fastest: str, harness: str | None, *, quick: bool) -> list[Way]:
    """All ways that this machine and environment allow; `fastest` is the number path with the fastest products."""
    switch = fastest == "switch"
    found = [
        Way("curate", {"method": "curate"}),
        Way("padded batches of 8", {"method": "loop", "batch": 8}),
        Way("curate, NLL alone", {"method": "curate", "nll_alone": True}),
        Way("long prompts: curate", {"method": "curate"}, rows="long"),
        Way("long prompts: curate, nothing shared", {"method": "curate", "shared": False}, rows="long"),
    ]
    if not quick:
        found.insert(2, Way("one at a time", {"method": "loop", "batch": 1}))
        found.insert(4, Way("curate, nothing shared", {"method": "curate", "shared": False}))
    can_compile = "compiled" in inspect.signature(Engine).parameters and not quick
    if can_compile:
        found += [
            Way("curate, compiled", {"method": "curate", "compiled": True}),
            Way("curate, compiled, NLL alone", {"method": "curate", "compiled": True, "nll_alone": True}),
        ]
    if fastest == "bfloat16":
        found.append(Way("curate, bfloat16", {"method": "curate", "dtype": "bfloat16"}))
        if can_compile:
            found.append(Way("curate, compiled, bfloat16", {"method": "curate", "dtype": "bfloat16", "compiled": True}))
    if harness is not None:
        batches = HARNESS_BATCHES[:2] if quick else HARNESS_BATCHES
        common: dict[str, Any] = {"python": harness, "batches": batches}
        found.append(Way("lm-evaluation-harness, as installed", {"method": "lm-eval"}, **common))
        alike = {"method": "lm-eval", "switch": switch, "dtype": "bfloat16" if fastest == "bfloat16" else "float32"}
        if alike != {"method": "lm-eval", "switch": False, "dtype": "float32"}:
            found.append(Way("lm-evaluation-harness, dtype and GEMM switch set", alike, **common))
    return found


def ways_on_gpu(device: str) -> list[Way]:
    """Curate and the stock loop, in bfloat16."""
    common = {"dtype": "bfloat16", "device": device}
    return [
        Way("curate", {"method": "curate", **common}),
        Way("padded batches of 16", {"method": "loop", "batch": 16, **common}),
        Way("curate, NLL alone", {"method": "curate", "nll_alone": True, **common}),
        Way("curate, nothing shared", {"method": "curate", "shared": False, **common}),
        Way("long prompts: curate", {"method": "curate", **common}, rows="long"),
        Way("long prompts: curate, nothing shared", {"method": "curate", "shared": False, **common}, rows="long"),
    ]


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    pairs: dict[str, list[str]]
    rounds: int
    threads: int
    gate: Gate
    harness: str | None
    device: str
    quick: bool


class Bench:
    """One shape: its folder, its rows, its workers."""

    def __init__(self, name: str, prompts: int, settings: Settings, folder: Path) -> None:
        self.name, self.shape, self.settings, self.folder = name, SHAPES[name], settings, folder
        chosen = dict(list(settings.pairs.items())[:prompts])
        dtype = "float32" if settings.device == "cpu" else "bfloat16"
        texts = [text for prompt, responses in settings.pairs.items() for text in (prompt, *responses)]
        self.tokenizer = save_model(folder / "model", self.shape, texts, dtype=dtype)
        enough = {prompt: responses for prompt, responses in chosen.items() if len(responses) >= (1 if settings.quick else 8)}
        rows = {"real": chosen, "long": with_long_prompts(self.tokenizer, enough)}
        self.counts = {kind: count(self.tokenizer, pairs) for kind, pairs in rows.items()}
        for kind, pairs in rows.items():
            write_rows(folder / f"{kind}.jsonl", pairs)

    def start(self, way: Way) -> Worker:
        """A worker on this shape's model and rows."""
        order = {"model": os.fspath(self.folder / "model"), "rows": os.fspath(self.folder / f"{way.rows}.jsonl")} | way.order
        return start(replace(way, order=order), self.folder, self.settings.threads)

    def gemm(self) -> Worker:
        """A worker that runs the matrix products alone; it has run twice."""
        counts = self.counts["real"]
        width = min(GEMM_WIDTH, self.shape.vocabulary)
        # The head's weight: its share of the vocabulary per product, for the tokens scored of those read.
        head = (self.shape.hidden, width, self.shape.vocabulary / width * counts.scored / counts.read)
        products = [*self.shape.products(), head]
        tokens = 512 if self.settings.quick else 4_096
        worker = self.start(Way("gemm", {"method": "gemm", "products": products, "tokens": tokens}))
        worker.runs = [self.settings.gate.measure(worker) for _ in range(2)][1:]
        if worker.failure is not None:
            sys.exit(f"the matrix products alone could not be timed: {worker.failure}")
        return worker

    def run(self) -> dict[str, Any]:
        """All figures of this shape."""
        settings = self.settings
        gemm = self.gemm() if settings.device == "cpu" else None
        ways = ways_on_gpu(settings.device)
        if gemm:
            ways = ways_on_cpu(rates(gemm.runs)["fastest"], settings.harness, quick=settings.quick)
        order = {"method": "loop", "dtype": "float64", "limit": CHECKED_ROWS, "device": settings.device}
        exact = self._exact(Way("float64", order))
        timed = [gemm] if gemm else []
        workers = []
        try:
            for way in ways:
                workers.append(self.start(way))
            for worker in workers:
                worker.wait()
            self._rounds([*timed, *workers])
        finally:
            stop([*timed, *workers])
        products = rates(gemm.runs[1:]) if gemm else None
        loaded = [worker.ready for worker in workers if worker.ready]
        limits = self._limits(products)
        found = {worker.way.name: self._figures(worker, exact, limits) for worker in workers}
        compare(found)
        return {
            "shape": asdict(self.shape),
            "weights_mb": max(ready["weights_mb"] for ready in loaded),
            "rows": {kind: _described(counts) for kind, counts in self.counts.items()},
            "gemm": products,
            "limit_tokens_per_second": limits,
            "ways": found,
            "ratios": ratios(found),
            "versions": {name: version for ready in loaded for name, version in ready["versions"].items()},
        }

    def _exact(self, way: Way) -> list[float]:
        """Mean NLL per token of the first rows, by the stock model in float64."""
        worker = self.start(way)
        found = worker.ask(1)
        stop([worker])
        if not found:
            sys.exit(f"the float64 reference failed: {worker.failure}")
        return [nll / tokens for nll, tokens in zip(found["nll"], self.counts["real"].response_tokens, strict=False)]

    def _rounds(self, workers: Sequence[Worker]) -> None:
        for number in range(1 + self.settings.rounds):
            for worker in workers:
                if worker.failure is None:
                    self._one(worker, number)

    def _one(self, worker: Worker, number: int) -> None:
        print(f"{self.name}, round {number} of {self.settings.rounds}: {worker.way.name}", file=sys.stderr, flush=True)
        gate = self.settings.gate
        if number == 0:
            for batch in worker.way.batches:
                if found := gate.measure(worker, batch):
                    worker.tried[batch] = found["seconds"]
            if worker.tried:
                return
        found = gate.measure(worker, worker.best_batch)
        if found and number > 0:
            worker.runs.append(found)

    def _limits(self, products: dict[str, Any] | None) -> dict[str, float]:
        """Response tokens per second at which the matrix products alone would run, by number path."""
        counts = self.counts["real"]
        if products is None:
            return {"bfloat16": counts.scored * H100_FLOPS / counts.flops(self.shape)}
        rates = {"float32": products["gflops"][products["float32"]], "bfloat16": products["gflops"]["bfloat16"]}
        return {path: counts.scored * rate * 1e9 / counts.flops(self.shape) for path, rate in rates.items()}

    def _figures(self, worker: Worker, exact: Sequence[float], limits: dict[str, float]) -> dict[str, Any]:
        """One way's row."""
        way, counts = worker.way, self.counts[worker.way.rows]
        if not worker.runs or worker.failure is not None:
            return {"failure": worker.failure or "no run"}
        speeds = [counts.scored / run["seconds"] for run in worker.runs]
        means = [nll / tokens for nll, tokens in zip(worker.runs[0]["nll"], counts.response_tokens, strict=True)]
        found: dict[str, Any] = {
            "tokens_per_second": statistics.median(speeds),
            "speeds": speeds,
            "peak_mb": max(run["peak_mb"] for run in worker.runs),
            "quiet": all(run["quiet"] for run in worker.runs),
            "others": max(run["others"] for run in worker.runs),
            "total_nll": sum(worker.runs[0]["nll"]),
            "batch": worker.best_batch or way.order.get("batch"),
            "tried_batches": {batch: counts.scored / seconds for batch, seconds in worker.tried.items()},
        }
        if way.rows == "real":
            found["share_of_limit"] = found["tokens_per_second"] / limits[way.order.get("dtype", "float32")]
            # Rows that do not share their prompt begin with another token, so their likelihoods are others.
            if way.order.get("shared", True):
                differences = [abs(mean - other) for mean, other in zip(means, exact, strict=False)]
                found["largest_difference"], found["nll"] = max(differences), means
        return found


def rates(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """GFLOP/s of the matrix products over some runs, and which number path is the fastest exact one."""
    found = {path: statistics.median(run["gflops"][path] for run in runs) for path in runs[0]["gflops"]}
    error = runs[0]["switch_error"]
    float32 = "switch" if error <= EXACT and found["switch"] > found["float32"] else "float32"
    return {
        "gflops": found,
        "switch_error": error,
        "float32": float32,
        "fastest": "bfloat16" if found["bfloat16"] > found[float32] else float32,
        "quiet": all(run["quiet"] for run in runs),
    }


def start(way: Way, folder: Path, threads: int) -> Worker:
    """A worker that is loading; its first answer comes when it has."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    if way.python != sys.executable:
        environment.pop("PYTHONPATH", None)
    log = folder / f"{way.name}.log"
    with log.open("w") as told:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": told, "text": True}
        process = subprocess.Popen([way.python, os.fspath(WORKER)], env=environment, **pipes)
    assert process.stdin
    process.stdin.write(json.dumps(way.order) + "\n")
    process.stdin.flush()
    return Worker(way, process, log)


def stop(workers: Sequence[Worker]) -> None:
    """Close the requests; workers end at the end of their input."""
    for worker in workers:
        assert worker.process.stdin
        assert worker.process.stdout
        worker.process.stdin.close()
        worker.process.wait()
        worker.process.stdout.close()


def compare(found: dict[str, dict[str, Any]]) -> None:
    """Relative difference of every way's total log-likelihood from curate's, and the largest of a row's mean."""
    ours = found["curate"]
    own = ours.get("nll")
    for row in found.values():
        means = row.pop("nll", None)
        if means and own:
            row["total_differs"] = abs(row["total_nll"] / ours["total_nll"] - 1)
            row["row_differs"] = max(abs(mean - other) for mean, other in zip(means, own, strict=True))


PAIRS = (
    ("curate", "padded batches of 8"),
    ("curate", "padded batches of 16"),
    ("curate", "one at a time"),
    ("curate", "lm-evaluation-harness, as installed"),
    ("curate", "lm-evaluation-harness, dtype and GEMM switch set"),
    ("curate, compiled", "curate"),
    ("curate, compiled", "padded batches of 8"),
    ("curate, compiled", "lm-evaluation-harness, as installed"),
    ("curate, compiled", "lm-evaluation-harness, dtype and GEMM switch set"),
    ("curate, bfloat16", "padded batches of 8"),
    ("curate, bfloat16", "lm-evaluation-harness, as installed"),
    ("curate, bfloat16", "lm-evaluation-harness, dtype and GEMM switch set"),
    ("curate, compiled, bfloat16", "padded batches of 8"),
    ("curate, compiled, bfloat16", "lm-evaluation-harness, as installed"),
    ("curate, compiled, bfloat16", "lm-evaluation-harness, dtype and GEMM switch set"),
    ("curate, NLL alone", "curate"),
    ("curate, compiled, NLL alone", "curate, compiled"),
    ("curate", "curate, nothing shared"),
    ("long prompts: curate", "long prompts: curate, nothing shared"),
)


def ratios(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Speed over speed, round by round."""
    both = [pair for pair in PAIRS if all("speeds" in found.get(name, {}) for name in pair)]
    compared = []
    for fast, slow in both:
        each = [a / b for a, b in zip(found[fast]["speeds"], found[slow]["speeds"], strict=True)]
        compared.append({"of": fast, "over": slow, "median": statistics.median(each), "low": min(each), "high": max(each)})
    return compared


def _described(counts: Counts) -> dict[str, float]:
    return {
        "prompts": counts.prompts,
        "rows": counts.rows,
        "prompt_tokens": counts.prompt_tokens,
        "prompt_tokens_of_rows": counts.prompt_tokens_of_rows,
        "response_tokens": counts.scored,
        "read_tokens": counts.read,
        "mean_response_tokens": counts.scored / counts.rows,
    }


def machine(threads: int, device: str) -> dict[str, Any]:
    """Where the figures come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found: dict[str, Any] = {
        "processor": names[0] if names else platform.machine(),
        "flags": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if any(flag in line for line in lines)],
        "processors": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "threads": threads,
    }
    if device != "cpu":
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def commit() -> str:
    """This checkout's commit; with a plus where files differ from it."""
    root = Path(__file__).parents[1]
    command = ["git", "-C", os.fspath(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/familiarity"))
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), help="S and M; on a GPU 1B and 7B")
    parser.add_argument("--prompts", type=int, help="prompts taken, with all their responses: by default 40 for S, 8 for M")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--busy", type=float, default=0.05, help="share of the machine that others may take")
    parser.add_argument("--wait-s", type=float, default=120, help="seconds to wait for that before every run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lm-eval-python", help="Python of an environment with lm_eval (benchmarks/README.md says how)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    paths = [sample_path()] if given.quick else [given.data / task / "train.jsonl.gz" for task in TASKS]
    if absent := [path for path in paths if not path.is_file()]:
        print(f"skipped: {absent[0]} is not there")
        return
    gate = Gate(given.busy, 0, 0.1) if given.quick else Gate(given.busy, given.wait_s)
    settings = Settings(
        pairs=_alternating([read_pairs([path]) for path in paths]),
        rounds=1 if given.quick else given.rounds,
        threads=given.threads,
        gate=gate,
        harness=given.lm_eval_python,
        device=given.device,
        quick=given.quick,
    )
    shapes = given.shapes or (["tiny"] if given.quick else ["S", "M"] if given.device == "cpu" else ["1B", "7B"])
    found: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(given.threads, given.device),
        "rounds": settings.rounds,
        "harness": given.lm_eval_python is not None,
        "shapes": {},
    }
    for name in shapes:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, given.prompts or PROMPTS[name], settings, Path(folder))
            found["shapes"][name] = bench.run()
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(found)))


def _alternating(tasks: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Prompts of several tasks by turns, so that the first N are of all of them."""
    turns = (turn for together in zip(*(pairs.items() for pairs in tasks), strict=False) for turn in together)
    return dict(turns)


if __name__ == "__main__":
    main()
