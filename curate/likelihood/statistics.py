"""From logits to per-token statistics, and from these to the sums that are stored per row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

# N scored tokens, V vocabulary, W width of a tile

Sweep = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "tuple[torch.Tensor, ...]"]

LARGEST_HALF = 65504.0
"""The largest finite float16."""
LOWEST = -1e30
"""Stands for a logit of -inf, a token that can never come: its weight is 0, and 0 times -inf would be no number."""


@dataclass(frozen=True)
class TokenSums:
    """Sums over the scored tokens of one row; every mean is derived from them. `content_*` leave out the closing tokens.

    Natural logarithms throughout. For token t with predicted distribution p_t over the vocabulary:
    nll = -ln p_t(x_t); entropy = -sum_v p_t(v) ln p_t(v); log_rank = ln(rank of x_t, the likeliest has rank 1);
    mean_logp = sum_v p_t(v) ln p_t(v); var_logp = sum_v p_t(v) ln^2 p_t(v) - mean_logp^2 (the terms of Fast-DetectGPT).
    mean_logp is -entropy and not stored twice.
    """

    tokens: int
    nll: float
    entropy: float
    log_rank: float
    var_logp: float
    content_tokens: int
    content_nll: float
    content_entropy: float
    content_log_rank: float
    content_var_logp: float
    truncated: bool
    border_merged: bool

    def as_scores(self) -> Mapping[str, float | int | bool]:
        """The fields as a filter's outputs."""
        return asdict(self)


@dataclass(frozen=True)
class TurnSums:
    """Sums over the scored tokens of one turn, as in `TokenSums`."""

    tokens: int
    nll: float
    content_tokens: int
    content_nll: float


@dataclass(frozen=True)
class TokenScores:
    """What is kept of one row's statistics: little enough to hold a shard of them in memory."""

    sums: TokenSums
    turns: Sequence[TurnSums]
    nll: "npt.NDArray[np.float16]"
    """(N,), of every scored token in order; what float16 cannot hold is its largest number."""


def token_statistics(
    tile: "Callable[[int, int], torch.Tensor]",
    at_target: "torch.Tensor",
    targets: "torch.Tensor",
    *,
    vocabulary: int,
    width: int,
    sweep: Sweep | None = None,
) -> "torch.Tensor":
    """Statistics of N tokens in one sweep over the vocabulary: float64 (N, 4): nll, entropy, log_rank, var_logp.

    `tile(low, high)` gives float32 logits (N, high - low), which are overwritten, none below `LOWEST`; `at_target` (N, 1) holds
    those of the targets (N,). Sums are relative to the highest logit so far, as in an online softmax: float32 within a tile,
    float64 over the tiles.
    """
    import torch

    sums = torch.zeros(3, len(targets), dtype=torch.float64, device=targets.device)  # of e, e x, e x^2 with x = logit - top
    top = torch.full_like(at_target, torch.finfo(at_target.dtype).min)
    above = torch.zeros(len(targets), dtype=torch.float64, device=targets.device)
    for low in range(0, vocabulary, width):
        logits = tile(low, min(vocabulary, low + width))  # (N, W)
        own = targets - low  # (N,)
        inside = (own >= 0) & (own < logits.shape[1])
        again = logits.gather(1, own.clamp(0, logits.shape[1] - 1)[:, None])  # (N, 1); a choice of rows would wait for a GPU
        # A product in a tile and the same product alone may differ in the last digit: the token does not outrank itself.
        above -= ((again > at_target)[:, 0] & inside).double()
        highest, count, *terms = (sweep or sweep_tile)(logits, at_target, top)
        above += count
        _lower(sums, (top.double() - highest.double())[:, 0])
        for total, term in zip(sums, terms, strict=True):
            total += term
        top = highest
    weight, first, second = sums
    mean, square = first / weight, second / weight  # of x, under the prediction
    log_weight = weight.log()
    nll = log_weight + (top.double() - at_target.double())[:, 0]
    variance = (square - mean * mean).clamp_(min=0)
    return torch.stack([nll, log_weight - mean, above.add_(1).log(), variance], dim=1)


def sweep_tile(logits: "torch.Tensor", at_target: "torch.Tensor", top: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
    """What a tile (N, W) holds of each token: the highest logit with those before (N, 1), and four of (N,), float32.

    These are how many logits lie above the target's (ties share the best rank), and the sums of e, e x and e x^2 with
    x = logit - highest and e its exponential. Overwrites the tile.
    """
    import torch

    spare = torch.empty_like(logits)
    # Comparing into floats and adding these is several times as fast as counting booleans, and as exact.
    count = torch.gt(logits, at_target, out=spare).sum(dim=1)
    highest = torch.maximum(top, logits.amax(dim=1, keepdim=True))
    x = logits.sub_(highest)
    e = torch.exp(x, out=spare)
    return highest, count, e.sum(dim=1), e.mul_(x).sum(dim=1), e.mul_(x).sum(dim=1)


def sweep_tile_at_once(logits: "torch.Tensor", at_target: "torch.Tensor", top: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
    """`sweep_tile` for a compiler, which makes one loop of it."""
    import torch

    highest = torch.maximum(top, logits.amax(dim=1, keepdim=True))
    x = logits - highest
    e = x.exp()
    count = (logits > at_target).float()
    return highest, count.sum(dim=1), e.sum(dim=1), (e * x).sum(dim=1), (e * x * x).sum(dim=1)


def _lower(sums: "torch.Tensor", by: "torch.Tensor") -> None:
    """Make sums relative to a higher top: x becomes x + by, where by <= 0."""
    import torch

    factor = by.exp()
    by = torch.where(factor > 0, by, 0.0)  # nothing has been added yet, or it vanishes
    weight, first, second = sums
    sums[2] = (second + 2 * by * first + by * by * weight) * factor
    sums[1] = (first + by * weight) * factor
    sums[0] = weight * factor
