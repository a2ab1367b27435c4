"""From logits to per-token statistics, and from these to the sums that are stored per row."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# N scored tokens, V vocabulary


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


def token_statistics(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Per-token statistics from float32 logits (N, V) and target ids (N,): float32 (N, 4): nll, entropy, log_rank, var_logp."""
    import torch

    at_target = logits.gather(1, targets[:, None])  # (N, 1)
    log_rank = (logits > at_target).sum(dim=1).add_(1).log()  # (N,): ties share the best rank
    normaliser = torch.logsumexp(logits, dim=1, keepdim=True)  # (N, 1)
    logp = logits - normaliser  # (N, V)
    p = logp.exp()
    # A logit of -inf (a token that can never come) has p = 0 and adds nothing; 0 * -inf would be nan.
    logp = logp.masked_fill(p == 0, 0.0)
    mean = (p * logp).sum(dim=1)  # (N,)
    # Two-pass: the difference of two large squares would lose digits where the distribution is flat.
    variance = (p * (logp - mean[:, None]).square_()).sum(dim=1)  # (N,)
    return torch.stack([(normaliser - at_target)[:, 0], -mean, log_rank.float(), variance], dim=1)
