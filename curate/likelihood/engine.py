"""The one place that runs the model: packs of rows through the body, the head on scored positions only, sums per row."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from curate import progress
from curate.errors import ModelError
from curate.likelihood import attention, compiling
from curate.likelihood.compiling import check_compiler, compile_layers, compiled_sweep
from curate.likelihood.head import ON_CPU_AT_ONCE, Head
from curate.likelihood.layers import slice_tokens
from curate.likelihood.model import LanguageModel, ModelSpec, load_model, one_line
from curate.likelihood.packing import pack
from curate.likelihood.precision import matrices_only
from curate.likelihood.rendering import Rendered, Turn, Unrenderable
from curate.likelihood.running import Pace, Statistics, in_batches
from curate.likelihood.statistics import LARGEST_HALF, TokenScores, TokenSums, TurnSums

if TYPE_CHECKING:
    import torch

# B batch, T tokens, H hidden size, N scored tokens

CPU_BUDGETS, LIGHT = (2048, 4096), 20_000
"""Tokens per batch on a CPU: more where a layer needs at most `LIGHT` bytes of a token. Throughput grows little beyond."""
GPU_BUDGETS = 2048, 131072
PROBED, PROBED_ROW = 8192, 256
"""Tokens of the pass that finds a GPU's budget, and of each of its rows."""
ACTIVATIONS = 1 << 30
"""Bytes that the layers of all batches running at once may hold, about."""


class Engine:
    """Scores rendered rows with one loaded model.

    Rows are packed without padding, and what they begin with alike is read once. A model whose states depend on more than
    attention over a row's own tokens (state spaces, biases by distance) is found out by comparison when it is loaded, and runs
    in padded batches. With `compiled` the layers are compiled while it is made, which takes 10 to 70 seconds.
    """

    def __init__(self, loaded: LanguageModel, *, compiled: bool = False) -> None:
        self.loaded, self.compiled = loaded, compiled
        self._model = loaded.model
        self._body = loaded.model.base_model
        stock = self._stock_logits()
        if loaded.spec.dtype == "bfloat16":
            matrices_only(loaded.model)
        if compiled:
            check_compiler(loaded.spec.device)
            compile_layers(self._body, self._entrance.type)
        elif self._entrance.type == "cpu" and not self._is_spread:
            slice_tokens(self._body, self._model.get_input_embeddings().weight.shape[1])
        at_once: dict[str, Any] = {"sweep": compiled_sweep(self._entrance.type), "on_cpu": ON_CPU_AT_ONCE} if compiled else {}
        self._head = Head(self._model, self._body, **at_once)
        self._check_head(stock)
        self.why_padded = self._packing_fails()
        """None where rows are packed; else why they are not."""
        if compiled:
            self.token_statistics(_trial_rows(self._head.vocabulary))  # so that scoring waits for no compiler
        if self.why_padded is not None:
            progress.note(f"{loaded.spec.model}: scored in padded batches, which is slower ({self.why_padded})")

    def score(
        self, rows: Sequence[Rendered | Unrenderable], *, batch_tokens: int, on_tokens: Callable[[int], None] | None = None
    ) -> list[TokenSums | Unrenderable]:
        """`score_tokens`, the sums alone."""
        found = self.score_tokens(rows, batch_tokens=batch_tokens, on_tokens=on_tokens)
        return [one.sums if isinstance(one, TokenScores) else one for one in found]

    def score_tokens(
        self, rows: Sequence[Rendered | Unrenderable], *, batch_tokens: int, on_tokens: Callable[[int], None] | None = None
    ) -> list[TokenScores | Unrenderable]:
        """One result per row, in order, from batches of `batch_tokens`; more in `in_batches`."""
        return in_batches(
            rows,
            self._statistics,
            _scores,
            batch_tokens=batch_tokens,
            packed=self.why_padded is None,
            pace=self.pace(batch_tokens),
            on_tokens=on_tokens,
        )

    def pace(self, batch_tokens: int) -> Pace:
        """How batches of this size follow each other: as many at once on a CPU as it has threads and their memory allows."""
        import torch

        if self._entrance.type != "cpu":
            # What a batch needs beyond its statistics is free when it is launched: the next one takes the same memory, in turn.
            return Pace(ahead=1)
        if self._is_spread:
            return Pace()
        return Pace(min(torch.get_num_threads(), max(1, ACTIVATIONS // (batch_tokens * self._bytes_per_token))))

    @property
    def _is_spread(self) -> bool:
        """Whether the model lies on several devices."""
        return len(set(getattr(self._model, "hf_device_map", {}).values())) > 1

    @functools.cached_property
    def _bytes_per_token(self) -> int:
        """What a layer needs of a token where nothing is sliced, about: some states, and three of its widest product's."""
        embedding = self._model.get_input_embeddings().weight
        shapes = [weight.shape for weight in self._body.parameters() if weight.ndim == 2 and weight is not embedding]
        return 4 * (6 * int(embedding.shape[1]) + 3 * max((max(shape) for shape in shapes), default=0))

    def budget(self) -> int:
        """Tokens per batch: on a CPU by the model's width, on a GPU what half of its free memory holds, by a short pass."""
        import torch

        if self._entrance.type == "cpu":
            return CPU_BUDGETS[self._bytes_per_token <= LIGHT]
        device = self._entrance
        ids = [1 + place % (self._head.vocabulary - 1) for place in range(PROBED)]
        rows = [Rendered.whole(ids[at : at + PROBED_ROW], PROBED_ROW // 4) for at in range(0, PROBED, PROBED_ROW)]
        self.token_statistics(rows[:1])  # what is allocated once is not counted
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        self.token_statistics(rows)
        per_token = max(1, (torch.cuda.max_memory_allocated(device) - before) // PROBED)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        fitting = (torch.cuda.mem_get_info(device)[0] + cached) // 2 // per_token
        # A power of two: what is free differs by a little from run to run, and batches should not.
        return min(GPU_BUDGETS[1], max(GPU_BUDGETS[0], 1 << (fitting.bit_length() - 1)))

    def token_statistics(self, rows: Sequence[Rendered]) -> "list[torch.Tensor]":
        """Statistics of every scored token of some rows, which run together: float64 (N, 4) per row, as in `TokenSums`."""
        return self._statistics(rows).by_row(rows)

    def _statistics(self, rows: Sequence[Rendered]) -> Statistics:
        import torch

        with torch.inference_mode():
            hidden, targets, order = self.states(rows)
            return Statistics.of(self._head.statistics(hidden, targets), order)  # (N, 4)

    def states(self, rows: Sequence[Rendered]) -> "tuple[torch.Tensor, torch.Tensor, Sequence[int]]":
        """States (N, H) that predict the scored tokens, these tokens (N,), and the rows' indices in their order."""
        return self._packed(rows) if self.why_padded is None else self._padded(rows)

    @property
    def head(self) -> Head:
        """What turns states into logits, for a sweep over two models."""
        return self._head

    def _packed(self, rows: Sequence[Rendered]) -> "tuple[torch.Tensor, torch.Tensor, Sequence[int]]":
        """`states` from a pack."""

        packed = pack(rows, range(len(rows)))
        ids, positions = (_sent([values], self._entrance) for values in (packed.ids, packed.positions))  # (1, T)
        narrow = self.loaded.spec.dtype == "bfloat16"
        own: dict[str, Any] = {"name": compiling.NAME, "tell": compiling.lay_out} if self.compiled else {}
        with attention.laid_out(self._model, packed, narrow=narrow, **own):
            hidden = self._body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]  # (T, H)
        predictors, targets = (_sent(values, hidden.device) for values in (packed.predictors, packed.targets))
        return hidden[predictors], targets, packed.rows

    def _padded(self, rows: Sequence[Rendered]) -> "tuple[torch.Tensor, torch.Tensor, Sequence[int]]":
        """The same from a padded batch."""
        import torch

        width = max(len(row.input_ids) for row in rows)
        padded = [[*row.input_ids, *[0] * (width - len(row.input_ids))] for row in rows]
        # Padding stands right of everything scored and attention is causal, so no mask is needed and none is passed.
        ids = _sent(padded, self._entrance)  # (B, T)
        scored = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            for turn in row.turns:
                scored[index, turn.start : turn.stop] = True
        hidden = self._body(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, H)
        # Position t predicts token t+1.
        return hidden[:, :-1][scored[:, 1:].to(hidden.device)], ids[scored.to(ids.device)], range(len(rows))

    def _packing_fails(self) -> str | None:
        """Why this model cannot be packed, found by scoring a few rows both ways; None where it can."""
        import torch

        rows = _trial_rows(self._head.vocabulary)
        try:
            with torch.inference_mode():
                alone = [self._padded([row])[0] for row in rows]
                hidden, _, order = self._packed(rows)
        except torch.OutOfMemoryError:
            raise  # says nothing of the architecture
        # Foreign models fail in many ways at an attention that they do not know (`NotImplementedError` is ours, for sinks and
        # masks); every one means padded batches, which the caller tells with the reason.
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            return f"packing is not for {type(self._model).__name__}: {type(error).__name__}: {one_line(error)[:120]}"
        expected = torch.cat([alone[index] for index in order]).float()
        difference = float((hidden.float() - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
        # Not `>`: states that are not finite agree with nothing.
        return None if difference <= self._agreement else f"packed rows of {type(self._model).__name__} see each other"

    @property
    def _agreement(self) -> float:
        """Largest relative difference of hidden states, packed and one by one: kernels sum in other orders."""
        if self.loaded.spec.quantize == "8bit":
            return 5e-2  # inputs are rounded to 8 bits too, by what else is in the batch: 1.4e-2 with stories260K
        if self.loaded.spec.dtype == "float32":
            return 1e-4
        # On a GPU packs are attended to in bfloat16: 1.2e-2 with stories260K. Rows that see each other differ by more than 0.1.
        return 1e-2 if self._entrance.type == "cpu" else 3e-2

    def _probe(self) -> "torch.Tensor":
        import torch

        return torch.arange(1, 9, device=self._entrance)[None] % self._vocabulary  # (1, 8)

    @functools.cached_property
    def _entrance(self) -> "torch.device":
        """Where token ids go: a model that is spread over devices begins on one of them."""
        import torch

        embedding = self._model.get_input_embeddings()
        # A weight that a device map has put off the devices is brought to where accelerate's hook runs it.
        brought = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
        return torch.device(embedding.weight.device if brought is None else brought)

    @property
    def device_map(self) -> str:
        """Which parts of the model lie where, in words."""
        parts: dict[str, list[str]] = {}
        for name, device in getattr(self._model, "hf_device_map", {"": self._entrance}).items():
            parts.setdefault(str(device), []).append(name or "all")
        return "; ".join(f"{device}: {names[0]} to {names[-1]} ({len(names)})" for device, names in parts.items())

    @functools.cached_property
    def _vocabulary(self) -> int:
        return int(self._model.get_output_embeddings().weight.shape[0])

    def _stock_logits(self) -> "torch.Tensor":
        import torch

        with torch.inference_mode():
            return self._model(input_ids=self._probe(), use_cache=False).logits[0].float()  # type: ignore[no-any-return]

    def _check_head(self, stock: "torch.Tensor") -> None:
        """Replayed hidden states must give the model's own logits; a model whose head reads more is refused, not misread."""
        import torch

        with torch.inference_mode():
            ours = self._head.logits(self._body(input_ids=self._probe(), use_cache=False).last_hidden_state[0])
        tolerance = 1e-3 if self.loaded.spec.dtype == "float32" else 2e-2
        stock = stock.to(ours.device)
        if ours.shape != stock.shape or not torch.allclose(
            ours, stock, rtol=tolerance, atol=tolerance * float(stock.abs().max())
        ):
            raise ModelError(
                f"{self.loaded.spec.model}: {type(self._model).__name__} computes logits from more than the last hidden "
                "state; such models cannot be scored yet"
            )


def _sent(values: Any, device: "torch.device") -> "torch.Tensor":
    """Whole numbers as a tensor on a device; a GPU takes them when it gets there, and nobody waits."""
    import torch

    if device.type != "cuda":
        return torch.tensor(values, device=device)
    return torch.tensor(values, pin_memory=True).to(device, non_blocking=True)


def _trial_rows(vocabulary: int) -> list[Rendered]:
    """A few rows of every shape that a pack has: a prefix of all prompts, several responses to a prompt, one of one token."""
    shared = [1 + 7 * place for place in range(20)]
    lengths = [(3, 5), (3, 1), (3, 9), (12, 4), (12, 30), (1, 2)]
    rows = []
    for number, (own, response) in enumerate(lengths):
        prompt = [*shared, *(3 + 11 * place + own for place in range(own))]
        ids = [*prompt, *(5 + 13 * place + 17 * number for place in range(response))]
        rows.append(Rendered.whole([i % vocabulary for i in ids], len(prompt)))
    return rows


def _scores(row: Rendered, per_token: "torch.Tensor") -> TokenScores | Unrenderable:
    """What is kept of one row's statistics (N, 4)."""
    sums = _sums(row, per_token)
    if isinstance(sums, Unrenderable):
        return sums
    turns = [TurnSums(sums.tokens, sums.nll, sums.content_tokens, sums.content_nll)]
    if len(row.turns) > 1:
        parts = zip(row.turns, per_token[:, 0].split([turn.stop - turn.start for turn in row.turns]), strict=True)  # type: ignore[no-untyped-call]
        turns = [_turn_sums(turn, part) for turn, part in parts]
    return TokenScores(sums, turns, per_token[:, 0].clamp(max=LARGEST_HALF).half().numpy())


def _turn_sums(turn: Turn, nll: "torch.Tensor") -> TurnSums:
    """Sums of one turn's losses (N,)."""
    first, end = (place - turn.start for place in turn.content)
    return TurnSums(len(nll), float(nll.sum()), end - first, float(nll[first:end].sum()))


def _sums(row: Rendered, per_token: "torch.Tensor") -> TokenSums | Unrenderable:
    """Sums of one row's statistics (N, 4)."""
    content_tokens, content_sums, done = 0, per_token.new_zeros(4), 0
    for turn in row.turns:
        first, end = (done + place - turn.start for place in turn.content)
        content_sums += per_token[first:end].sum(dim=0)
        content_tokens += end - first
        done += turn.stop - turn.start
    total, content = per_token.sum(dim=0).tolist(), content_sums.tolist()
    if not all(math.isfinite(value) for value in total):
        return Unrenderable("nonfinite")
    nll, entropy, log_rank, var_logp = total
    return TokenSums(
        tokens=len(per_token),
        nll=nll,
        entropy=entropy,
        log_rank=log_rank,
        var_logp=var_logp,
        content_tokens=content_tokens,
        content_nll=content[0],
        content_entropy=content[1],
        content_log_rank=content[2],
        content_var_logp=content[3],
        truncated=row.truncated,
        border_merged=row.border_merged,
    )


def load_engine(spec: ModelSpec, *, compiled: bool = False) -> Engine:
    """The engine of a model; the last three stay loaded (a filter may ask two beside the target), until their files change."""
    return _load_engine(spec, spec.digest(), compiled)


@functools.lru_cache(maxsize=3)
def _load_engine(spec: ModelSpec, digest: str, compiled: bool) -> Engine:
    return Engine(load_model(spec), compiled=compiled)
