"""Attention over all segments of a pack in one kernel call, where the device has such a kernel.

The loop of `segment_attention` is exact everywhere, and a GPU spends it waiting for the next small product. Here every segment
is a sequence of FlashAttention's: its queries are its own tokens, its keys those of its context and its own, copied together.
The kernel lines the last query up with the last key, so that causal attention is that of the segment within its row.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from curate.likelihood.packing import Pack, Segment

if TYPE_CHECKING:
    import torch

KEYS = 65536
"""Keys that are copied together for one call: many responses to one long prompt would need many times their pack."""

# T tokens of a pack, H heads, K key heads, D head size, S segments of a part, R queries of a part, C keys of a part


@dataclass(frozen=True)
class Part:
    """Some segments of a pack, one after the other, as the kernel reads them."""

    start: int
    stop: int
    keys: "torch.Tensor"
    """Places of their contexts and of their own tokens, segment by segment: (C,)."""
    query_ends: "torch.Tensor"
    """Where each segment's queries begin, and where the last one's end: int32 (S + 1)."""
    key_ends: "torch.Tensor"
    longest_query: int
    longest_key: int


def parts_of(pack: Pack, device: "torch.device", *, most_keys: int = KEYS) -> list[Part]:
    """A pack's segments in parts of at most `most_keys` keys; a segment that has more makes a part alone."""
    groups: list[list[Segment]] = []
    filled = 0
    for segment in pack.segments:
        size = segment.seen + segment.stop - segment.start
        if not groups or filled + size > most_keys:
            groups.append([])
            filled = 0
        groups[-1].append(segment)
        filled += size
    return [_part(group, device) for group in groups]


def _part(segments: Sequence[Segment], device: "torch.device") -> Part:
    import torch

    queries = [segment.stop - segment.start for segment in segments]
    seen = [[*segment.context, (segment.start, segment.stop)] for segment in segments]
    keys = [place for spans in seen for start, stop in spans for place in range(start, stop)]
    lengths = [sum(stop - start for start, stop in spans) for spans in seen]
    query_ends, key_ends = (
        torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device) for counts in (queries, lengths)
    )
    places = torch.tensor(keys, device=device)
    return Part(segments[0].start, segments[-1].stop, places, query_ends, key_ends, max(queries), max(lengths))


def is_for(query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", softcap: float | None) -> bool:
    """Whether the kernel is here and takes this attention: (1, H, T, D), (1, K, T, D) twice."""
    import torch

    size = query.shape[-1]
    return (
        query.device.type == "cuda"
        and softcap is None
        and size == key.shape[-1] == value.shape[-1]
        and size <= 256
        and size % 8 == 0
        and torch.version.hip is None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and _kernel() is not None
    )


@functools.cache
def _kernel() -> Callable[..., Any] | None:
    """torch's kernel; None before it took windows and shared key heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys() else None


def attend(
    parts: Sequence[Part],
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    *,
    scale: float,
    window: int | None,
) -> "torch.Tensor":
    """query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D) of the query's type, computed in bfloat16."""
    import torch

    kernel = _kernel()
    assert kernel is not None
    queries, keys, values = (one[0].transpose(0, 1).bfloat16() for one in (query, key, value))  # (T, H, D), (T, K, D) twice
    found = [
        kernel(
            queries[part.start : part.stop],  # (R, H, D)
            keys[part.keys],  # (C, K, D)
            values[part.keys],
            part.query_ends,
            part.key_ends,
            part.longest_query,
            part.longest_key,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),  # keys before the query's own, and none behind it
            enable_gqa=True,
        )
        for part in parts
    ]
    return torch.cat(found)[None].to(query.dtype)
