"""The one place that runs the model: padded batches through the body, the head on scored positions only, sums per row."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from curate.errors import ModelError
from curate.likelihood.batching import plan_batches
from curate.likelihood.model import LanguageModel, ModelSpec, load_model
from curate.likelihood.precision import matrices_only
from curate.likelihood.rendering import Rendered, Unrenderable
from curate.likelihood.statistics import TokenSums, token_statistics

if TYPE_CHECKING:
    import torch

# B batch, T tokens, H hidden size, N scored tokens, V vocabulary
HEAD_BYTES = 16 << 20
"""Bound on one float32 (N, V) tensor of the head; a handful of them are alive at a time."""


class OutOfMemory(Exception):  # noqa: N818  (a signal to the caller, who halves the budget; not shown to users)
    """A batch of several rows did not fit; the same shard is to be run again with a smaller token budget."""


class Engine:
    """Scores rendered rows with one loaded model."""

    def __init__(self, loaded: LanguageModel) -> None:
        self.loaded = loaded
        self._model = loaded.model
        self._body = loaded.model.base_model
        stock = self._stock_logits()
        if loaded.spec.dtype == "bfloat16":
            matrices_only(loaded.model)
        self._head = _replayed_head(self._model, self._body)
        self._check_head(stock)

    def score(
        self, rows: Sequence[Rendered | Unrenderable], *, batch_tokens: int, on_tokens: Callable[[int], None] | None = None
    ) -> list[TokenSums | Unrenderable]:
        """One result per row, in order. Batches are a function of the rows and `batch_tokens` alone.

        `on_tokens` is called after each batch with all tokens of its rows, prompts included: what the model has to read. Raises
        OutOfMemory when a batch of several rows does not fit; a single row that does not fit is Unrenderable("out_of_memory").
        """
        results: list[TokenSums | Unrenderable | None] = [row if isinstance(row, Unrenderable) else None for row in rows]
        todo = [(place, row) for place, row in enumerate(rows) if isinstance(row, Rendered)]
        for batch in plan_batches([len(row.input_ids) for _, row in todo], batch_tokens):
            chosen = [todo[index] for index in batch]
            for (place, _), result in zip(chosen, self._score_batch([row for _, row in chosen]), strict=True):
                results[place] = result
            if on_tokens is not None:
                on_tokens(sum(len(row.input_ids) for _, row in chosen))
        return [result for result in results if result is not None]

    def _score_batch(self, rows: Sequence[Rendered]) -> Sequence[TokenSums | Unrenderable]:
        import torch

        failed = False
        try:
            return self._forward(rows)
        except torch.OutOfMemoryError:
            failed = True  # leave the except block first: the traceback keeps the failed batch's tensors alive
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            failed = True
        assert failed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) > 1:
            raise OutOfMemory
        return [Unrenderable("out_of_memory")]

    def _forward(self, rows: Sequence[Rendered]) -> list[TokenSums | Unrenderable]:
        import torch

        device = self.loaded.spec.device
        width = max(len(row.input_ids) for row in rows)
        padded = [[*row.input_ids, *[0] * (width - len(row.input_ids))] for row in rows]
        # Padding stands right of everything scored and attention is causal, so no mask is needed and none is passed.
        ids = torch.tensor(padded, device=device)  # (B, T)
        scored = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
        for index, row in enumerate(rows):
            scored[index, row.start : len(row.input_ids)] = True
        with torch.inference_mode():
            hidden = self._body(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, H)
            hidden = hidden[:, :-1][scored[:, 1:]]  # (N, H): position t predicts token t+1
            targets = ids[scored]  # (N,)
            chunk = max(1, HEAD_BYTES // (4 * self._vocabulary))
            parts = [
                token_statistics(self._head(hidden[at : at + chunk]), targets[at : at + chunk])
                for at in range(0, len(targets), chunk)
            ]
            per_token = torch.cat(parts).double().cpu()  # (N, 4)
        counts = [len(row.input_ids) - row.start for row in rows]
        return [_sums(row, part) for row, part in zip(rows, per_token.split(counts), strict=True)]  # type: ignore[no-untyped-call]

    @functools.cached_property
    def _vocabulary(self) -> int:
        return int(self._model.get_output_embeddings().weight.shape[0])

    def _probe(self) -> "torch.Tensor":
        import torch

        return torch.arange(1, 9, device=self.loaded.spec.device)[None] % self._vocabulary  # (1, 8)

    def _stock_logits(self) -> "torch.Tensor":
        import torch

        with torch.inference_mode():
            return self._model(input_ids=self._probe(), use_cache=False).logits[0].float()  # type: ignore[no-any-return]

    def _check_head(self, stock: "torch.Tensor") -> None:
        """Replayed hidden states must give the model's own logits; a model whose head reads more is refused, not misread."""
        import torch

        with torch.inference_mode():
            ours = self._head(self._body(input_ids=self._probe(), use_cache=False).last_hidden_state[0])
        tolerance = 1e-3 if self.loaded.spec.dtype == "float32" else 2e-2
        if not torch.allclose(ours, stock, rtol=tolerance, atol=tolerance * float(stock.abs().max())):
            raise ModelError(
                f"{self.loaded.spec.model}: {type(self._model).__name__} computes logits from more than the last hidden "
                "state; such models cannot be scored yet"
            )


class _BodyOutput:
    """Hidden states in the place of a body's output; whatever else a model looks for there (caches, attentions) is None."""

    def __init__(self, hidden: "torch.Tensor") -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: int) -> "torch.Tensor | None":
        return self.last_hidden_state if place == 0 else None


def _replayed_head(model: Any, body: Any) -> Callable[["torch.Tensor"], "torch.Tensor"]:
    """A function from hidden states (N, H) to float32 logits (N, V): everything the model does after its body.

    The body is made to return the given states, so that scaling, soft-capping and biases of any architecture come along
    without a line of code for each.
    """
    import torch

    @contextlib.contextmanager
    def returning(hidden: "torch.Tensor") -> Iterator[None]:
        body.forward = lambda *_, **__: _BodyOutput(hidden)
        try:
            yield
        finally:
            del body.forward  # the instance attribute; the class's method shows again

    def head(hidden: "torch.Tensor") -> "torch.Tensor":
        hidden = hidden[None]
        dummy = torch.zeros(1, hidden.shape[1], dtype=torch.long, device=hidden.device)
        with returning(hidden):
            return model(input_ids=dummy, use_cache=False).logits[0].float()  # type: ignore[no-any-return]

    return head


def _sums(row: Rendered, per_token: "torch.Tensor") -> TokenSums | Unrenderable:
    """Sums of one row's statistics (N, 4), in float64."""
    first, end = (place - row.start for place in row.content)
    total = per_token.sum(dim=0).tolist()
    content = per_token[first:end].sum(dim=0).tolist()
    if not all(math.isfinite(value) for value in total):
        return Unrenderable("nonfinite")
    nll, entropy, log_rank, var_logp = total
    return TokenSums(
        tokens=len(per_token),
        nll=nll,
        entropy=entropy,
        log_rank=log_rank,
        var_logp=var_logp,
        content_tokens=end - first,
        content_nll=content[0],
        content_entropy=content[1],
        content_log_rank=content[2],
        content_var_logp=content[3],
        truncated=row.truncated,
        border_merged=row.border_merged,
    )


def load_engine(spec: ModelSpec) -> Engine:
    """The engine of a model; the last two stay loaded, each until its folder's files change."""
    return _load_engine(spec, spec.digest())


@functools.lru_cache(maxsize=2)
def _load_engine(spec: ModelSpec, digest: str) -> Engine:
    return Engine(load_model(spec))
