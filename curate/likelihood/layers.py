"""A decoder's layers, and the parts of them that read every token by itself: these run on some tokens at a time."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# B batch, T tokens, H hidden size

SLICE = 512
"""Tokens that go through such a part together. Fewer make matrix products slower, more make nothing faster."""
TRIED = 24
"""Tokens on which a part is tried, in slices of a third."""


def decoder_layers(body: Any) -> Iterable[Any]:
    """The stack that holds most of a body's weights."""
    import torch

    stacks = [module for module in body.modules() if isinstance(module, torch.nn.ModuleList)]
    weights = [sum(parameter.numel() for parameter in stack.parameters()) for stack in stacks]
    return stacks[weights.index(max(weights))] if stacks else ()


def slice_tokens(body: Any, hidden_size: int) -> int:
    """Run the feed-forward parts of all layers on `SLICE` tokens at a time, whatever a batch holds; how many these are.

    What lies between their products is several times as wide as the states and would be most of a batch's memory. A part is
    sliced where it widens the states and gives the same for a few tokens whole and in slices: recurrences do not, and attention
    wants more than states. Experts are left whole, since each sees few of a batch's tokens already; so are parts whose weights
    accelerate brings in for every call.
    """
    import torch

    found = 0
    with torch.inference_mode():
        for layer in decoder_layers(body):
            for part in layer.children():
                if not hasattr(part, "_hf_hook") and _widens(part, hidden_size) and _reads_tokens_alone(part, hidden_size):
                    part.forward = _in_slices(part.forward, SLICE)
                    found += 1
    return found


def _widens(part: Any, hidden_size: int) -> bool:
    import torch

    shapes = [tuple(parameter.shape) for parameter in part.parameters()]
    experts = any(len(shape) > 2 for shape in shapes) or any(isinstance(one, torch.nn.ModuleList) for one in part.modules())
    return not experts and any(len(shape) == 2 and max(shape) > hidden_size for shape in shapes)


def _reads_tokens_alone(part: Any, hidden_size: int) -> bool:
    import torch

    weight = next(part.parameters())
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, TRIED, hidden_size, generator=generator).to(weight.device)
    try:
        whole, sliced = part(states), _in_slices(part.forward, TRIED // 3)(states)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return False  # it wants more than states, or others
    if not isinstance(whole, torch.Tensor) or whole.shape != states.shape:
        return False
    # Products of other shapes sum in another order, which bfloat16 shows; tokens that see each other differ by far more.
    return float((whole - sliced).abs().max()) <= 1e-2 * float(whole.abs().max())


def _in_slices(forward: "Callable[[torch.Tensor], torch.Tensor]", width: int) -> "Callable[[torch.Tensor], torch.Tensor]":
    """States (B, T, H) through `forward`, about `width` of their B T tokens at a time."""
    import torch

    def run(states: "torch.Tensor") -> "torch.Tensor":
        tokens = max(1, width // states.shape[0])
        if states.shape[1] <= tokens:
            return forward(states)
        parts = states.split(tokens, dim=1)  # type: ignore[no-untyped-call]
        # As matrices first: a slice's stride would otherwise have torch multiply in batches of one.
        return torch.cat([forward(part.reshape(-1, part.shape[2]).view(part.shape)) for part in parts], dim=1)

    return run
