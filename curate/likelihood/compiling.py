"""Layers compiled by torch: the pointwise operations between matrix products become one loop each."""

from typing import TYPE_CHECKING, Any

from curate.errors import UsageError
from curate.likelihood import attention
from curate.likelihood.layers import decoder_layers
from curate.likelihood.model import one_line
from curate.likelihood.statistics import Sweep, sweep_tile_at_once

if TYPE_CHECKING:
    import torch

NAME = "curate_segments_compiled"


def compile_layers(body: Any) -> None:
    """Have the layers of a body compiled when they first run, once for all of a kind and for batches of every size.

    Their attention stays what it is: its shapes are those of the segments, and differ from pack to pack.
    """
    from transformers import AttentionInterface

    _define_operator()
    AttentionInterface.register(NAME, _opaque_attention)
    for layer in decoder_layers(body):
        layer.compile(dynamic=True)


def compiled_sweep() -> Sweep:
    """The head's sweep over a tile, as one loop."""
    import torch

    return torch.compile(sweep_tile_at_once, dynamic=True)


def check_compiler(device: str) -> None:
    """Raise UsageError where layers for the CPU cannot be compiled here; a GPU's compiler comes with torch."""
    if device != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # what it raises is private and has changed its name
        raise UsageError(f"--compile needs a C++ compiler ({one_line(error)}); install g++, or leave the option out") from error


_OPERATOR: list[Any] = []


def _define_operator() -> None:
    """Attention over the segments of this thread's pack, as one operation that is not looked into."""
    import torch

    if _OPERATOR:
        return

    @torch.library.custom_op("curate::segment_attention", mutates_args=())
    def operator(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None, softcap: float | None
    ) -> torch.Tensor:
        found, _ = attention.segment_attention(
            None, query, key, value, None, scaling=scale, sliding_window=window, softcap=softcap
        )
        return found

    @operator.register_fake
    def shape(query: Any, key: Any, value: Any, scale: float, window: int | None, softcap: float | None) -> Any:
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])

    _OPERATOR.append(operator)


def _opaque_attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> "tuple[torch.Tensor, None]":
    """`segment_attention` for compiled layers."""
    attention.refuse_unknown(attention_mask, others)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return _OPERATOR[0](query, key, value, scale, sliding_window, softcap), None
