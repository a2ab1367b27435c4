"""Two models over the same tokens: how surprised one is by the text, and by what the other would expect of it."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curate.errors import ModelError
from curate.likelihood.engine import Engine, load_engine
from curate.likelihood.model import ModelSpec, load_tokenizer
from curate.likelihood.rendering import Rendered, Unrenderable
from curate.likelihood.running import Pace, Statistics, in_batches

if TYPE_CHECKING:
    import torch

# N scored tokens, V vocabulary, H hidden size, W width of a tile


@dataclass(frozen=True)
class JointSums:
    """Sums over the content tokens of one row; natural logarithms.

    For token t, with q_t the distribution that the observer predicts and p_t the performer's: nll = -ln p_t(x_t);
    cross_entropy = -sum_v q_t(v) ln p_t(v).
    """

    content_tokens: int
    content_nll: float
    content_cross_entropy: float
    truncated: bool


class Pair:
    """Two loaded models with one vocabulary, which read the same batches.

    Distributions are over the ids that both heads have. Their weights may be padded to different sizes; no text has a token
    behind the vocabulary.
    """

    def __init__(self, performer: Engine, observer: Engine) -> None:
        self.performer, self.observer = performer, observer
        self.vocabulary = min(engine.head.vocabulary for engine in (performer, observer))

    def score(
        self, rows: Sequence[Rendered | Unrenderable], *, batch_tokens: int, on_tokens: Callable[[int], None] | None = None
    ) -> list[JointSums | Unrenderable]:
        """One result per row, in order, and OutOfMemory, as from `Engine.score`. Rows are packed where both models can be."""
        packed = self.performer.why_padded is None and self.observer.why_padded is None
        one, other = (engine.pace(batch_tokens) for engine in (self.performer, self.observer))
        pace = Pace(min(one.workers, other.workers), min(one.ahead, other.ahead))
        return in_batches(rows, self._statistics, _sums, batch_tokens=batch_tokens, packed=packed, pace=pace, on_tokens=on_tokens)

    def token_statistics(self, rows: Sequence[Rendered]) -> "list[torch.Tensor]":
        """nll and cross-entropy of every scored token of some rows, which run together: float64 (N, 2) per row."""
        return self._statistics(rows).by_row(rows)

    def _statistics(self, rows: Sequence[Rendered]) -> Statistics:
        import torch

        with torch.inference_mode():
            performed, targets, order = self.performer.states(rows)
            observed, _, other_order = self.observer.states(rows)
            observed = _reordered(observed, other_order, order, rows)
            ours, theirs = self.performer.head, self.observer.head
            spans = [slice(at, at + ours.tokens) for at in range(0, len(targets), ours.tokens)]
            parts = [
                joint_statistics(
                    ours.tiles(performed[span]),
                    theirs.tiles(observed[span]),
                    targets[span],
                    vocabulary=self.vocabulary,
                    width=ours.width(len(targets[span])),
                )
                for span in spans
            ]
            return Statistics.of(torch.cat(parts), order)


def joint_statistics(
    performed: "Callable[[int, int], torch.Tensor]",
    observed: "Callable[[int, int], torch.Tensor]",
    targets: "torch.Tensor",
    *,
    vocabulary: int,
    width: int,
) -> "torch.Tensor":
    """nll and cross-entropy of N tokens in one sweep over the vocabulary of both models: float64 (N, 2).

    `performed(low, high)` and `observed(low, high)` give float32 logits (N, high - low), which are overwritten. Sums are relative
    to the highest logits so far, as in an online softmax, and taken in float64.
    """
    import torch

    top, other_top = (targets.new_full((len(targets), 1), torch.finfo(torch.float32).min, dtype=torch.float32) for _ in range(2))
    # Of e^x, of e^y and of x e^y, with x = logit - top of the performer, y = logit - top of the observer.
    weight, other_weight, mean, at_target = (targets.new_zeros(len(targets), dtype=torch.float64) for _ in range(4))
    for low in range(0, vocabulary, width):
        high = min(vocabulary, low + width)
        logits, other = (tile(low, high).to(targets.device) for tile in (performed, observed))  # (N, W)
        own = targets - low
        inside = ((own >= 0) & (own < high - low)).nonzero()[:, 0]
        at_target[inside] = logits[inside, own[inside]].double()
        highest, other_highest = (
            torch.maximum(before, tile.amax(dim=1, keepdim=True)) for before, tile in ((top, logits), (other_top, other))
        )
        fallen = (top.double() - highest.double())[:, 0]
        shrunk, other_shrunk = fallen.exp(), (other_top.double() - other_highest.double())[:, 0].exp()
        mean = (mean + fallen * other_weight) * other_shrunk
        weight, other_weight, top, other_top = weight * shrunk, other_weight * other_shrunk, highest, other_highest
        x = logits.sub_(highest)
        y = other.sub_(other_highest).exp_()
        weight += x.exp().sum(dim=1, dtype=torch.float64)
        other_weight += y.sum(dim=1, dtype=torch.float64)
        # What the observer rules out adds nothing, also where the performer rules it out too (a logit of -inf).
        mean += torch.where(y > 0, x.mul_(y), 0.0).sum(dim=1, dtype=torch.float64)
    log_weight = weight.log()
    return torch.stack([log_weight + top.double()[:, 0] - at_target, log_weight - mean / other_weight], dim=1)


def _reordered(states: "torch.Tensor", order: Sequence[int], wanted: Sequence[int], rows: Sequence[Rendered]) -> "torch.Tensor":
    """States of rows in one order, in another: a padded batch keeps the rows' order, a pack groups them by prompt."""
    import torch

    if list(order) == list(wanted):
        return states
    split = states.split([rows[index].trained for index in order])  # type: ignore[no-untyped-call]
    parts = dict(zip(order, split, strict=True))
    return torch.cat([parts[index] for index in wanted])


def _sums(row: Rendered, per_token: "torch.Tensor") -> JointSums | Unrenderable:
    """Sums of one row's statistics (N, 2) over its content."""
    tokens, sums, done = 0, per_token.new_zeros(2), 0
    for turn in row.turns:
        first, end = (done + place - turn.start for place in turn.content)
        sums += per_token[first:end].sum(dim=0)
        tokens += end - first
        done += turn.stop - turn.start
    nll, cross_entropy = sums.tolist()
    if not (math.isfinite(nll) and math.isfinite(cross_entropy)):
        return Unrenderable("nonfinite")
    return JointSums(tokens, nll, cross_entropy, row.truncated)


def check_vocabularies(performer: ModelSpec, observer: ModelSpec) -> None:
    """Raise ModelError unless both tokenizers give every token the same id; loads neither model."""
    ours, theirs = (load_tokenizer(spec).get_vocab() for spec in (performer, observer))
    differing = sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))
    if not differing:
        return
    told = ", ".join(
        f"{vocabulary.get(differing[0], 'absent')} in {spec.model}"
        for vocabulary, spec in ((ours, performer), (theirs, observer))
    )
    raise ModelError(
        f"{performer.model} and {observer.model}: their tokenizers differ in {len(differing):,} tokens, such as {differing[0]!r} "
        f"({told}); give two models of one family, such as a base model and its instruct version"
    )


def load_pair(performer: ModelSpec, observer: ModelSpec) -> Pair:
    """Both models, loaded by `load_engine`. Raises ModelError where their vocabularies differ."""
    _check_once(performer, observer, performer.digest(), observer.digest())
    return Pair(load_engine(performer), load_engine(observer))


@functools.lru_cache(maxsize=4)
def _check_once(performer: ModelSpec, observer: ModelSpec, digest: str, other_digest: str) -> None:
    check_vocabularies(performer, observer)
