"""Attention over the segments of a pack, for any decoder of transformers that asks the attention interface.

Every segment's queries are multiplied with the keys of its context and its own: no row sees another one, and no mask of the
size of a pack exists.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from curate.likelihood import varlen
from curate.likelihood.packing import Pack

if TYPE_CHECKING:
    import torch

NAME = "curate_segments"
BLOCK = 128
"""Queries that are multiplied at once, about: bounds the scores held, and spares half of a long segment's future."""

# T tokens of a pack, H heads, K key heads, G = H / K, D head size, R tokens of a segment, C of it and its context


class _Layout:
    """The pack that a model runs on, and the masks of its segments' shapes."""

    def __init__(self, pack: Pack, *, narrow: bool) -> None:
        self.pack = pack
        self.narrow = narrow
        self._parts: dict[torch.device, list[varlen.Part]] = {}
        self._masks: dict[tuple[int, int, int | None, torch.device], torch.Tensor] = {}

    def parts(self, device: "torch.device") -> list[varlen.Part]:
        """The segments as one kernel reads them; made once, for all layers on a device."""
        if device not in self._parts:
            self._parts[device] = varlen.parts_of(self.pack, device)
        return self._parts[device]

    def mask(self, seen: int, own: int, window: int | None, like: "torch.Tensor") -> "torch.Tensor":
        """What is added to a segment's scores: (R, C), 0 or -inf."""
        import torch

        key = (seen, own, window, like.device)
        if key not in self._masks:
            distance = torch.arange(seen, seen + own, device=like.device)[:, None] - torch.arange(seen + own, device=like.device)
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            self._masks[key] = torch.zeros(own, seen + own, device=like.device).masked_fill_(hidden, -math.inf)
        return self._masks[key]


class _Active(threading.local):
    """The layouts that this thread's models run on, the innermost last."""

    def __init__(self) -> None:
        self.layouts: list[_Layout] = []


_ACTIVE = _Active()
_LOCK = threading.Lock()
_BEFORE: dict[int, tuple[int, str | None]] = {}
"""By id of a model's config: how many packs run on it in all threads, and the attention that it had before the first."""


@contextlib.contextmanager
def laid_out(
    model: Any, pack: Pack, *, name: str = NAME, narrow: bool = False, tell: Callable[[Pack], None] | None = None
) -> Iterator[None]:
    """Within it the model reads this pack. Models make no mask for an attention that they do not know; it has its own.

    `name` is that of a registered function that looks at the pack, of which `tell` tells code outside of Python; `narrow` lets
    attention be computed in bfloat16, where the device has a kernel for whole packs.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, segment_attention)
    config = model.config
    with _LOCK:
        count, before = _BEFORE.get(id(config), (0, config._attn_implementation))
        _BEFORE[id(config)] = count + 1, before
        config._attn_implementation = name  # read by every layer in every pass
    _ACTIVE.layouts.append(_Layout(pack, narrow=narrow))
    if tell is not None:
        tell(pack)
    try:
        yield
    finally:
        _ACTIVE.layouts.pop()
        if tell is not None and _ACTIVE.layouts:
            tell(_ACTIVE.layouts[-1].pack)
        with _LOCK:
            count, before = _BEFORE.pop(id(config))
            if count > 1:
                _BEFORE[id(config)] = count - 1, before
            else:
                config._attn_implementation = before


def segment_attention(
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
    """query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D). What else a model asks for (sinks, biases) is refused."""
    import torch

    refuse_unknown(attention_mask, others)
    layout = _ACTIVE.layouts[-1]
    heads, tokens, size = query.shape[1:]
    groups = heads // key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    if layout.narrow and varlen.is_for(query, key, value, softcap):
        return varlen.attend(layout.parts(query.device), query, key, value, scale=scale, window=sliding_window), None
    keys, values = key[0], value[0]
    split = query.view(key.shape[1], groups, tokens, size)  # (K, G, T, D)
    output = query.new_empty(1, tokens, heads, value.shape[-1])
    for segment in layout.pack.segments:
        own, seen = segment.stop - segment.start, segment.seen
        places = [*segment.context, (segment.start, segment.stop)]
        near_keys, near_values = (
            one[:, segment.start : segment.stop] if len(places) == 1 else torch.cat([one[:, a:b] for a, b in places], dim=1)
            for one in (keys, values)
        )  # (K, C, D)
        step = -(-own // max(1, round(own / BLOCK)))
        for first in range(0, own, step):
            last = min(own, first + step)
            # Keys that no query of this block sees are left out: those behind it, and those before the first one's window.
            low, high = 0 if sliding_window is None else max(0, seen + first - sliding_window + 1), seen + last
            asked = split[:, :, segment.start + first : segment.start + last].reshape(key.shape[1], -1, size)  # (K, G R, D)
            mask = layout.mask(seen + first - low, last - first, sliding_window, query)
            found = _attend(asked, near_keys[:, low:high], near_values[:, low:high], mask, scale, softcap)
            output[0, segment.start + first : segment.start + last] = found.view(heads, last - first, -1).transpose(0, 1)
    return output, None


def refuse_unknown(attention_mask: "torch.Tensor | None", others: Mapping[str, Any]) -> None:
    """Raise NotImplementedError for what a model may ask of attention and segments have not."""
    unknown = [name for name, asked in others.items() if name in ("s_aux", "position_bias", "head_mask") and asked is not None]
    if unknown or attention_mask is not None:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask'}")


def _attend(
    asked: "torch.Tensor",
    keys: "torch.Tensor",
    values: "torch.Tensor",
    mask: "torch.Tensor",
    scale: float,
    softcap: float | None,
) -> "torch.Tensor":
    """(K, G R, D), (K, C, D) twice, (R, C) -> (K, G R, D); scores are float32 whatever the model computes in."""
    import torch

    scores = torch.bmm(asked, keys.transpose(1, 2)).float()  # (K, G R, C)
    if softcap is not None:
        scores, scale = torch.tanh(scores * (scale / softcap)), softcap
    scores = torch.add(mask, scores.view(-1, *mask.shape), alpha=scale).view(scores.shape)
    return torch.bmm(scores.softmax(dim=-1).to(values.dtype), values)
