"""From hidden states to statistics of scored tokens, a tile of the vocabulary at a time: [tokens, vocabulary] never exists."""

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from curate.errors import ModelError
from curate.likelihood.statistics import LOWEST, Sweep, sweep_tile, token_statistics

if TYPE_CHECKING:
    import torch

# N scored tokens, V vocabulary, H hidden size, W width of a tile

ON_CPU, ON_CPU_AT_ONCE, ON_GPU = (512, 1 << 21), (1024, 1 << 22), (8192, 1 << 28)
"""Hidden states that go through the head together, and the bytes of their float32 logits in one tile: what a core's cache holds;
more where it is read but once, since every tile costs some calls; what keeps a GPU busy until its next call arrives."""


class Head:
    """Everything that a model does behind its body, with statistics in place of logits.

    The model's own code turns the output layer's products into logits (scaling, soft-capping of any architecture): it runs with
    stand-ins that return given states for the body and given products for the output layer. Where that code changes nothing,
    it is not run.
    """

    def __init__(self, model: Any, body: Any, *, sweep: Sweep = sweep_tile, on_cpu: tuple[int, int] = ON_CPU) -> None:
        self._model, self._body, self._sweep_tile, self._on_cpu = model, body, sweep, on_cpu
        self._layer = model.get_output_embeddings()
        if self._layer is None or not hasattr(self._layer, "weight") or body is model:
            raise ModelError(f"{type(model).__name__}: has no output layer that could be read in parts")
        if not self._layer.weight.is_floating_point():
            raise ModelError(f"{type(model).__name__}: its output layer is quantised; save the model with that layer left out")
        self._paths = {path: part for path, part in model.named_modules() if part is body or part is self._layer}
        self.vocabulary = int(self._layer.weight.shape[0])
        self._is_plain = self._changes_nothing()

    def statistics(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Hidden states (N, H) and ids (N,) -> float64 (N, 4): nll, entropy, log_rank, var_logp; see `TokenSums`."""
        import torch
        from accelerate.utils import align_module_device

        with align_module_device(self._layer):  # brings in what a device map has put off the devices; else does nothing
            hidden, targets = (given.to(self._layer.weight.device) for given in (hidden, targets))
            spans = [slice(at, at + self.tokens) for at in range(0, len(targets), self.tokens)]
            return torch.cat([self._sweep(hidden[span], targets[span]) for span in spans])

    def logits(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Hidden states (N, H) -> float32 (N, V); for few tokens."""
        import torch
        from accelerate.utils import align_module_device

        width = self.width(len(hidden))
        with align_module_device(self._layer):
            hidden = hidden.to(self._layer.weight.device)
            return torch.cat([self._tile(hidden, low, low + width) for low in range(0, self.vocabulary, width)], dim=1)

    def tiles(self, hidden: "torch.Tensor") -> "Callable[[int, int], torch.Tensor]":
        """For hidden states (N, H) the float32 logits of any part of the vocabulary: `(low, high)` gives (N, high - low)."""
        hidden = hidden.to(self._layer.weight.dtype)
        return lambda low, high: self._tile(hidden, low, high)

    @property
    def tokens(self) -> int:
        """Hidden states that go through the head together."""
        return self._portion[0]

    def width(self, tokens: int) -> int:
        """Part of the vocabulary that they meet at once."""
        return min(self.vocabulary, max(256, self._portion[1] // (4 * max(tokens, 1))))

    @property
    def _portion(self) -> tuple[int, int]:
        return self._on_cpu if self._layer.weight.device.type == "cpu" else ON_GPU

    def _sweep(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        hidden = hidden.to(self._layer.weight.dtype)
        return token_statistics(
            self.tiles(hidden),
            self._at(hidden, targets),
            targets,
            vocabulary=self.vocabulary,
            width=self.width(len(targets)),
            sweep=self._sweep_tile,
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
            logits = products.float()
            return logits if getattr(self._layer, "bias", None) is None else logits.clamp_(min=LOWEST)
        return self._run(products).clamp_(min=LOWEST)

    def _run(self, products: "torch.Tensor") -> "torch.Tensor":
        """The model's code between output layer and logits."""
        import torch

        states = _BodyOutput(products.new_zeros(1, len(products), 1))
        stand_ins = {path: _StandIn(part, states if part is self._body else products[None]) for path, part in self._paths.items()}
        model = _with(self._model, stand_ins)
        dummy = torch.zeros(1, len(products), dtype=torch.long, device=products.device)
        return model(input_ids=dummy, use_cache=False).logits[0].float()  # type: ignore[no-any-return]

    def _changes_nothing(self) -> bool:
        """Whether logits are the output layer's products, bit for bit."""
        import torch
        from accelerate.utils import align_module_device

        with torch.inference_mode(), align_module_device(self._layer):
            weight = self._layer.weight
            products = torch.linspace(-40, 40, 8 * 16, device=weight.device, dtype=weight.dtype).view(8, 16)
            return bool(torch.equal(self._run(products), products.float()))


def _with(module: Any, parts: Mapping[str, Any]) -> Any:
    """A copy of a module that shares all but the parts named by path; the module itself stays as it is, for other threads."""
    changed = copy.copy(module)
    changed.__dict__.pop("forward", None)  # put there by accelerate, it would run the original
    children = dict(module._modules)
    for name in {path.partition(".")[0] for path in parts}:
        deeper = {rest: part for path, part in parts.items() for first, _, rest in [path.partition(".")] if first == name}
        children[name] = deeper[""] if "" in deeper else _with(children[name], deeper)
    changed.__dict__["_modules"] = children
    return changed


class _StandIn:
    """A module that returns what is put here, whatever it is called with."""

    def __init__(self, module: Any, output: Any) -> None:
        self._module, self._output = module, output

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _BodyOutput:
    """Hidden states in the place of a body's output; whatever else a model looks for there (caches, attentions) is None."""

    def __init__(self, hidden: "torch.Tensor") -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: int) -> "torch.Tensor | None":
        return self.last_hidden_state if place == 0 else None
