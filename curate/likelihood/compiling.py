"""Layers compiled by torch: the pointwise operations between matrix products become one loop each."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import UsageError
from curate.likelihood import attention
from curate.likelihood.layers import decoder_layers
from curate.likelihood.model import one_line
from curate.likelihood.packing import Pack
from curate.likelihood.statistics import Sweep, sweep_tile_at_once

if TYPE_CHECKING:
    import torch

NAME = "curate_segments_compiled"
SOURCE = Path(__file__).with_name("segments.cpp")


def compile_layers(body: Any, device: str) -> None:
    """Have the layers of a body compiled when they first run, once for all of a kind and for batches of every size.

    Their attention stays what it is: its shapes are those of the segments, and differ from pack to pack.
    """
    from transformers import AttentionInterface

    if device == "cpu":
        _define_native()
    _define_python()
    AttentionInterface.register(NAME, _opaque_attention)
    for layer in decoder_layers(body):
        layer.compile(dynamic=True, options=inductor_options(device))


def compiled_sweep(device: str) -> Sweep:
    """The head's sweep over a tile, as one loop."""
    import torch

    return torch.compile(sweep_tile_at_once, dynamic=True, options=inductor_options(device))


def inductor_options(device: str) -> dict[str, Any]:
    """On a CPU all in C++: what is called from Python holds its lock, and packs on several threads wait for each other."""
    return {"cpp_wrapper": True} if device == "cpu" else {}


def check_compiler(device: str) -> None:
    """Raise UsageError where layers for the CPU cannot be compiled here; a GPU's compiler comes with torch."""
    if device != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # what it raises is private and has changed its name
        raise UsageError(f"--compile needs a C++ compiler ({one_line(error)}); install g++, or leave the option out") from error


_OPERATORS: dict[str, Any] = {}
"""Attention over the segments of this thread's pack, as one operation that is not looked into: "native" and "python"."""


def _define_native() -> None:
    """In C++, for a CPU; what compiling it for the first time makes (20 seconds) stays on the disk."""
    import torch
    from torch._inductor.codecache import CppCodeCache

    if "native" in _OPERATORS:
        return
    try:
        CppCodeCache.load(SOURCE.read_text(encoding="utf-8"))
    # Of the compiler, of the folder that it writes to, of the system's loader: torch names each otherwise.
    except Exception as error:
        raise UsageError(
            f"--compile: attention could not be compiled or loaded ({one_line(error)[:300]}); mend the C++ compiler, set "
            "TORCHINDUCTOR_CACHE_DIR to a folder that programs may run from, or leave the option out"
        ) from error
    _OPERATORS["native"] = torch.ops.curate_segments.attend.default
    torch.library.register_fake(_OPERATORS["native"], _shape)


def _define_python() -> None:
    """By `segment_attention`, wherever else."""
    import torch

    if "python" in _OPERATORS:
        return

    @torch.library.custom_op("curate::segment_attention", mutates_args=())
    def operator(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None, softcap: float | None
    ) -> torch.Tensor:
        found, _ = attention.segment_attention(
            None, query, key, value, None, scaling=scale, sliding_window=window, softcap=softcap
        )
        return found

    operator.register_fake(_shape)
    _OPERATORS["python"] = operator


def _shape(query: Any, key: Any, value: Any, scale: float, window: int | None, softcap: float | None) -> Any:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def lay_out(pack: Pack) -> None:
    """Tell the compiled attention of this thread's pack."""
    import torch

    if "native" not in _OPERATORS:
        return
    numbers: list[int] = []
    for segment in pack.segments:
        numbers += [segment.start, segment.stop, len(segment.context), *itertools.chain.from_iterable(segment.context)]
    torch.ops.curate_segments.lay_out(torch.tensor(numbers))


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
    import torch

    attention.refuse_unknown(attention_mask, others)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    on_cpu = query.device.type == "cpu" and query.dtype == torch.float32
    operator = _OPERATORS["native" if on_cpu else "python"]
    return operator(query, key, value, scale, sliding_window, softcap), None
