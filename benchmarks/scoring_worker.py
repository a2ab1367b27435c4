"""One way of scoring in a process of its own, for `scoring.py`: reads requests and writes answers, a line of JSON each.

Runs in other environments too (lm-evaluation-harness's), so nothing but the standard library is imported before a way needs it.
"""

import contextlib
import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

# B batch, T tokens, V vocabulary, N scored tokens, H hidden size, W width of a tile


@dataclass(frozen=True)
class Order:
    """What a worker is to do, all its life."""

    method: str
    model: str
    rows: str
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 1
    limit: int | None = None
    """Rows, from the first; None for all."""
    compiled: bool = False
    shared: bool = True
    """Whether rows of one prompt share it."""
    nll_alone: bool = False
    switch: bool = False
    """Whether float32 products go through oneDNN."""
    products: list[tuple[int, int, float]] = field(default_factory=list)
    """Inputs, outputs and weight of the matrix products that are timed."""
    tokens: int = 4_096
    """Of a pack, for these products."""

    def pairs(self) -> list[tuple[str, str]]:
        """Prompt and response of every row."""
        with Path(self.rows).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return [(row["prompt"], row["response"]) for row in rows[: self.limit]]


class Way(Protocol):
    """One way of scoring. What its constructor does counts neither as time nor as memory: libraries, tokenizer, rows."""

    def load(self) -> Any:
        """The model, whose weights count as weights."""

    def score(self, batch: int) -> dict[str, Any]:
        """`nll`, the sum over every row's response and EOS, in nats, from text to number."""


class Curate:
    """`curate.likelihood`, called as the filter `likelihood` calls it; parts are switched off to measure what they bring."""

    def __init__(self, order: Order) -> None:
        from curate.examples import Example
        from curate.filters import Likelihood
        from curate.likelihood import ModelSpec, Renderer

        self.order = order
        self.spec = ModelSpec(order.model, dtype=order.dtype, device=order.device)  # type: ignore[arg-type]
        settings = Likelihood(model=order.model, device=order.device, dtype=order.dtype)
        self.renderer = Renderer.load(self.spec, max_length=settings.positions() or 0)
        self.examples = [
            Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
            for prompt, response in order.pairs()
        ]

    def load(self) -> Any:
        """The engine, which checks the model first."""
        from curate.likelihood import Engine
        from curate.likelihood.model import load_model

        loaded = load_model(self.spec)
        options: dict[str, Any] = {"compiled": True} if self.order.compiled else {}
        self.engine = Engine(loaded, **options)
        self.budget = self.engine.budget()
        if self.order.nll_alone:
            self.engine.head._sweep_tile = _nll_sweep(self.order.device if self.order.compiled else None)
        return loaded.model

    def score(self, batch: int) -> dict[str, Any]:
        """Renders and scores all rows."""
        from curate.likelihood import Rendered, TokenSums

        rows = [row for row in self.renderer.render(self.examples) if isinstance(row, Rendered)]
        assert len(rows) == len(self.examples)
        if not self.order.shared:
            # A first token of its own for every row: as many tokens, and no two rows share a prompt.
            rows = [Rendered([place, *row.input_ids[1:]], row.turns) for place, row in enumerate(rows)]
        found = [sums for sums in self.engine.score(rows, batch_tokens=self.budget) if isinstance(sums, TokenSums)]
        assert len(found) == len(rows)
        return {"nll": [sums.nll for sums in found]}


def _nll_sweep(compiled_for: str | None) -> Any:
    """In the place of the engine's sweep over a tile (N, W): the least that a head can do, on the same way through it.

    Compiled, where it is, as the engine compiles its own for that device.
    """
    import torch

    from curate.likelihood.compiling import inductor_options

    def at_once(logits: Any, at_target: Any, top: Any) -> Any:
        highest = torch.maximum(top, logits.amax(dim=1, keepdim=True))
        return highest, (logits - highest).exp().sum(dim=1)

    def in_place(logits: Any, at_target: Any, top: Any) -> Any:
        highest = torch.maximum(top, logits.amax(dim=1, keepdim=True))
        return highest, logits.sub_(highest).exp_().sum(dim=1)

    run = in_place if compiled_for is None else torch.compile(at_once, dynamic=True, options=inductor_options(compiled_for))

    def sweep(logits: Any, at_target: Any, top: Any) -> Any:
        highest, weight = run(logits, at_target, top)
        nothing = torch.zeros_like(weight)
        return highest, nothing + 1, weight, nothing, nothing  # no rank, whose logarithm would not be finite at 0

    return sweep


class Loop:
    """The loop that most people write: batches in the data set's order, right padding with a mask, log_softmax of all."""

    def __init__(self, order: Order) -> None:
        from transformers import AutoTokenizer

        self.order = order
        self.tokenizer = AutoTokenizer.from_pretrained(order.model)
        self.rows = order.pairs()

    def load(self) -> Any:
        """The stock model."""
        import torch
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(self.order.model, dtype=getattr(torch, self.order.dtype))
        self.model = loaded.eval().to(self.order.device)
        return self.model

    def score(self, batch: int) -> dict[str, Any]:
        """A batch at a time."""
        import torch

        nll: list[float] = []
        with torch.no_grad():
            for at in range(0, len(self.rows), batch):
                nll += self._batch(self.rows[at : at + batch])
        return {"nll": nll}

    def _batch(self, rows: list[tuple[str, str]]) -> list[float]:
        import torch

        starts = [len(ids) for ids in self.tokenizer([prompt for prompt, _ in rows])["input_ids"]]
        texts = [prompt + response + self.tokenizer.eos_token for prompt, response in rows]
        inputs = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.order.device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]  # (B, T)
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (B, T, V)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        logp = torch.log_softmax(wide[:, :-1], dim=-1).gather(2, ids[:, 1:, None])[:, :, 0]  # (B, T-1)
        places = torch.arange(1, ids.shape[1], device=ids.device)
        scored = (places >= torch.tensor(starts, device=ids.device)[:, None]) & mask[:, 1:].bool()
        return [-value for value in (logp * scored).sum(dim=1).tolist()]


class LmEval:
    """lm-evaluation-harness's `HFLM.loglikelihood`."""

    def __init__(self, order: Order) -> None:
        from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
        from lm_eval.models import huggingface  # type: ignore[import-not-found]
        from transformers import AutoTokenizer

        self.order, self.make = order, huggingface.HFLM
        self.tokenizer = AutoTokenizer.from_pretrained(order.model)
        self.requests = [
            Instance("loglikelihood", doc={}, arguments=(prompt, response + self.tokenizer.eos_token), idx=place)
            for place, (prompt, response) in enumerate(order.pairs())
        ]

    def load(self) -> Any:
        """The harness's model."""
        order = self.order
        self.harness = self.make(pretrained=order.model, tokenizer=self.tokenizer, device=order.device, dtype=order.dtype)
        return self.harness.model

    def score(self, batch: int) -> dict[str, Any]:
        """All requests at once: the harness sorts and batches them."""
        self.harness.batch_size_per_gpu = batch
        return {"nll": [-logp for logp, _ in self.harness.loglikelihood(self.requests, disable_tqdm=True)]}


class Gemm:
    """The model's matrix products alone, at the size of a pack: seconds per token that nothing can beat."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def load(self) -> Any:
        """Nothing but random matrices."""
        import torch

        return torch.nn.Linear(1, 1)

    def score(self, batch: int) -> dict[str, Any]:
        """GFLOP/s over all products for each number path, and the error of float32 through oneDNN."""
        import torch

        found: dict[str, Any] = {"gflops": {}}
        for path, dtype, switched in (
            ("float32", "float32", False),
            ("switch", "float32", True),
            ("bfloat16", "bfloat16", False),
        ):
            with _switched(switched):
                seconds = [self._seconds(inputs, outputs, dtype) for inputs, outputs, _ in self.order.products]
            flops = [2 * inputs * outputs * self.order.tokens for inputs, outputs, _ in self.order.products]
            weights = [weight for *_, weight in self.order.products]
            total = sum(weight * taken for weight, taken in zip(weights, seconds, strict=True))
            found["gflops"][path] = sum(weight * count for weight, count in zip(weights, flops, strict=True)) / total / 1e9
        a, b = torch.randn(256, 512), torch.randn(256, 512)
        exact = a.double() @ b.double().T
        with _switched(True):
            found["switch_error"] = float(((a @ b.T) - exact).abs().max() / exact.abs().max())
        return found

    def _seconds(self, inputs: int, outputs: int, dtype: str) -> float:
        import torch

        kind = getattr(torch, dtype)
        x, weight = (torch.randn(rows, inputs).to(kind) for rows in (self.order.tokens, outputs))
        taken = []
        with torch.inference_mode():
            for _ in range(6):
                begin = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                taken.append(time.perf_counter() - begin)
        return statistics.median(taken[1:])


@contextlib.contextmanager
def _switched(on: bool) -> Iterator[None]:
    """float32 products through oneDNN: exact on a CPU without AMX, which is measured and not assumed."""
    products = _products()
    before = products.fp32_precision
    if on:
        products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


def _products() -> Any:
    import torch

    backends: Any = torch.backends  # torch 2.13 has no types for what stands below mkldnn
    return backends.mkldnn.matmul


METHODS: dict[str, Callable[[Order], Way]] = {"curate": Curate, "loop": Loop, "lm-eval": LmEval, "gemm": Gemm}


def serve() -> None:
    """The first request is the order, every further one a run."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    order = Order(**json.loads(sys.stdin.readline()))

    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if order.switch:
        _products().fp32_precision = "bf16"
    way = METHODS[order.method](order)
    if order.method != "gemm":
        _use_libraries()
    before = _status_mb("VmRSS")
    model = way.load()
    weights = sum(one.numel() * one.element_size() for one in {id(p): p for p in model.parameters()}.values()) / 2**20
    names = ("curate-sft", "torch", "transformers", "tokenizers", "lm_eval")
    _tell(answers, {"weights_mb": weights, "versions": {name: one for name in names if (one := _version(name))}})
    for line in sys.stdin:
        batch = json.loads(line).get("batch") or order.batch
        _reset_peak(order.device)
        cpu, begin = time.process_time(), time.perf_counter()
        found = way.score(batch)
        taken = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        _tell(answers, found | taken | {"peak_mb": _peak_mb(order.device, before) - weights})


def _use_libraries() -> None:
    """Run a model of a few weights, so that what libraries load on first use is there before memory is read."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16}
    with torch.inference_mode():
        LlamaForCausalLM(LlamaConfig(**sizes))(input_ids=torch.tensor([[1, 2]]))


def _reset_peak(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    # Memory that the last run freed and the allocator kept is given back, so that it does not count again.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mb(device: str, before: float) -> float:
    """Peak since `_reset_peak` above what stood before the model was loaded."""
    if device == "cpu":
        return _status_mb("VmHWM") - before
    import torch

    return float(torch.cuda.max_memory_allocated()) / 2**20


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tell(answers: Any, found: dict[str, Any]) -> None:
    answers.write(json.dumps(found) + "\n")
    answers.flush()


if __name__ == "__main__":
    serve()
