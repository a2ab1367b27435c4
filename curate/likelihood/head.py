"""From hidden states to statistics of scored tokens, a tile of the vocabulary at a time: [tokens, vocabulary] never exists."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from curate.errors import ModelError
from curate.likelihood.statistics import token_statistics

if TYPE_CHECKING:
    import torch

# N scored tokens, V vocabulary, H hidden size, W width of a tile

TOKENS, TILE_BYTES = 512, 4 << 20
"""Hidden states that go through the head together, and the bytes of their float32 logits in one tile: what a cache holds."""


class Head:
    """Everything that a model does behind its body, with statistics in place of logits.

    The model's own code turns the output layer's products into logits (scaling, soft-capping of any architecture): the body is
    made to return given states and the output layer given products. Where that code changes nothing, it is not run.
    """

    def __init__(self, model: Any, body: Any) -> None:
        self._model, self._body = model, body
        self._layer = model.get_output_embeddings()
        if self._layer is None or not hasattr(self._layer, "weight"):
            raise ModelError(f"{type(model).__name__}: has no output layer that could be read in parts")
        self.vocabulary = int(self._layer.weight.shape[0])
        self._is_plain = self._changes_nothing()

    def statistics(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Hidden states (N, H) and ids (N,) -> float64 (N, 4): nll, entropy, log_rank, var_logp; see `TokenSums`."""
        import torch

        parts = [self._sweep(hidden[at : at + TOKENS], targets[at : at + TOKENS]) for at in range(0, len(targets), TOKENS)]
        return torch.cat(parts)

    def logits(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Hidden states (N, H) -> float32 (N, V); for few tokens."""
        import torch

        width = self._width(len(hidden))
        return torch.cat([self._tile(hidden, low, low + width) for low in range(0, self.vocabulary, width)], dim=1)

    def tiles(self, hidden: "torch.Tensor") -> "Callable[[int, int], torch.Tensor]":
        """For hidden states (N, H) the float32 logits of any part of the vocabulary: `(low, high)` gives (N, high - low)."""
        hidden = hidden.to(self._layer.weight.dtype)
        return lambda low, high: self._tile(hidden, low, high)

    def _width(self, tokens: int) -> int:
        return min(self.vocabulary, max(256, TILE_BYTES // (4 * max(tokens, 1))))

    def _sweep(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        hidden = hidden.to(self._layer.weight.dtype)
        return token_statistics(
            self.tiles(hidden),
            self._at(hidden, targets),
            targets,
            vocabulary=self.vocabulary,
            width=self._width(len(targets)),
        )

    def _at(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """The logit of every token's own target: (N, 1)."""
        products = (hidden * self._layer.weight[targets]).sum(dim=1, keepdim=True)
        bias = getattr(self._layer, "bias", None)
        if bias is not None:
            products = products + bias[targets][:, None]
        return self._finished(products)

    def _tile(self, hidden: "torch.Tensor", low: int, high: int) -> "torch.Tensor":
        """Logits of a part of the vocabulary, float32: (N, W)."""
        import torch

        bias = getattr(self._layer, "bias", None)
        products = torch.nn.functional.linear(hidden, self._layer.weight[low:high], None if bias is None else bias[low:high])
        return self._finished(products)

    def _finished(self, products: "torch.Tensor") -> "torch.Tensor":
        """What the model makes of the output layer's products (N, W)."""
        if self._is_plain:
            return products.float()
        with self._returning(products):
            return self._run(len(products), products)

    def _run(self, count: int, like: "torch.Tensor") -> "torch.Tensor":
        import torch

        dummy = torch.zeros(1, count, dtype=torch.long, device=like.device)
        return self._model(input_ids=dummy, use_cache=False).logits[0].float()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _returning(self, products: "torch.Tensor") -> Iterator[None]:
        """Body and output layer give what is put here; the model's code around them is its own."""
        states = products.new_zeros(1, len(products), 1)
        replaced: list[tuple[Any, Callable[..., Any]]] = [
            (self._body, lambda *_, **__: _BodyOutput(states)),
            (self._layer, lambda *_, **__: products[None]),
        ]
        for module, forward in replaced:
            module.forward = forward
        try:
            yield
        finally:
            for module, _ in replaced:
                del module.forward  # the instance attribute; the class's method shows again

    def _changes_nothing(self) -> bool:
        """Whether logits are the output layer's products, bit for bit."""
        import torch

        weight = self._layer.weight
        products = torch.linspace(-40, 40, 8 * 16, device=weight.device, dtype=weight.dtype).view(8, 16)
        with torch.inference_mode(), self._returning(products):
            return bool(torch.equal(self._run(8, products), products.float()))


class _BodyOutput:
    """Hidden states in the place of a body's output; whatever else a model looks for there (caches, attentions) is None."""

    def __init__(self, hidden: "torch.Tensor") -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: int) -> "torch.Tensor | None":
        return self.last_hidden_state if place == 0 else None
