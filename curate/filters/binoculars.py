"""How machine-like a completion looks to two models: its surprise, against the surprise that they expect of each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from curate import progress
from curate.errors import ModelError
from curate.examples import Example
from curate.filters.base import BackOff, OutputType, Scores, Unscored, register
from curate.filters.likelihood import ForwardPass, Likelihood
from curate.filters.normalisation import in_order, normalised
from curate.likelihood import ModelSpec, model_identity
from curate.likelihood.model import maximal_length

if TYPE_CHECKING:
    from curate.likelihood import JointSums, Unrenderable


@register("binoculars")
class Binoculars(ForwardPass):
    """How machine-like the completion looks to two models of one vocabulary. LOWER is more machine-like.

    A strange prompt makes a likely text surprising; what the observer expects the performer to be surprised by takes that out.

    Outputs (natural logarithms; over the content tokens):
        score: log_ppl over cross_entropy. In [0, inf), low is machine-like. Null where cross_entropy is 0.
        log_ppl: mean of -ln p of the tokens, p the performer's prediction. In [0, inf).
        cross_entropy: mean of -sum_v q(v) ln p(v), q the observer's prediction at the same tokens. In [0, inf).
        content_tokens: tokens that the means are taken over.
        words: words of the completion as it was scored.
        truncated: taken over the first max_length tokens of a longer row.

    The performer is `model` (the published one is an instruct model), the observer `observer` (its base model). The published
    thresholds (0.9015 and 0.8536) hold for one pair in bfloat16, Falcon-7B-Instruct and Falcon-7B, without a prompt: measure your
    own with `curate calibrate --recipe`. All known failures of `detectors` are also this one's.
    Both models read the same tokens: those of the performer's tokenizer, under its chat template. Their tokenizers must give
    every token the same id; else a ModelError. Output layers may be padded to different sizes: both distributions are over the
    ids that both have.
    White space is collapsed first unless `collapse_whitespace` is false. As published, without a prompt, is `view:
    unconditional`; the default sees the prompt, as `perplexity` does.

    Unscored: too_short (fewer than `fewest_words` words); else as `likelihood`.
    Cost: one forward pass of each model over every token and both output layers, shared with no other filter. Both models are
    held in memory.
    Source: arXiv:2401.12070; ahans30/Binoculars, `metrics.py` at 418ca74, `detector.py` at 0141175: softmax of the observer's
    logits, log-softmax of the performer's, in the cross-entropy as here. Differences: there the cross-entropy also counts the
    prediction after the last token; here both means are over the same predictions. There the first token has no context and is
    not scored; here it is, given the prompt or BOS.
    """

    version: ClassVar[int] = 1
    described_by_identity: ClassVar[tuple[str, ...]] = (*ForwardPass.described_by_identity, "observer", "observer_revision")
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "score": "float64",
        "log_ppl": "float64",
        "cross_entropy": "float64",
        "content_tokens": "int64",
        "words": "int64",
        "truncated": "bool",
    }

    observer: str = Field(description="The second model, with the first one's vocabulary: a folder or a Hub id.")
    observer_revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub observer.")
    view: Literal["conditional", "unconditional"] = Field(
        default="conditional", description="The completion given its prompt, or without it."
    )
    collapse_whitespace: bool = Field(
        default=True, description="Score with `whitespace` normalised, whatever else `normalise` names."
    )
    fewest_words: int = Field(default=50, ge=1, description="Shorter completions are unscored; detectors are near chance there.")

    @property
    def observer_spec(self) -> ModelSpec:
        """What the loader needs for the observer; it runs as the performer does and renders nothing."""
        spec = self.spec
        return ModelSpec(self.observer, self.observer_revision, spec.dtype, spec.device)

    def identity(self) -> dict[str, Any]:
        """What says which two models saw what."""
        return super().identity() | {"observer": model_identity(self.observer, self.observer_revision)}

    def resolved_max_length(self) -> int:
        """Tokens per row; raises ModelError when more are asked for than either model has positions."""
        theirs = maximal_length(self.observer_spec)
        if self.max_length is not None and theirs is not None and self.max_length > theirs:
            raise ModelError(
                f"{self.observer}: max_length {self.max_length}, but the observer has {theirs} positions; ask for fewer"
            )
        return super().resolved_max_length()

    def positions(self) -> int | None:
        """Positions that both models were made for."""
        known = [count for count in (super().positions(), maximal_length(self.observer_spec)) if count is not None]
        return min(known, default=None)

    def check_machine(self) -> list[str]:
        """Raise ModelError where the two have different vocabularies, before the first row is read."""
        from curate.likelihood import check_vocabularies

        check_vocabularies(self.spec, self.observer_spec)
        return super().check_machine()

    def freeze(self) -> dict[str, Any]:
        """As any forward pass, and which observer."""
        return super().freeze() | {"observer": model_identity(self.observer, self.observer_revision)}

    def frozen(self, settings: Mapping[str, Any], *, backoff: int = 0) -> Self:
        """Bound to the plan; raises ModelError when either model is no longer the one planned for."""
        if settings["observer"] != model_identity(self.observer, self.observer_revision):
            raise ModelError(f"{self.observer}: changed while it was scoring; let training end, then run the same command again")
        return super().frozen(settings, backoff=backoff)

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One forward pass of both models over all examples."""
        from curate.likelihood import OutOfMemory, Unrenderable, load_pair

        words = [len(normalised(example, self.normalise).completion.split()) for example in examples]
        rows = [
            Unrenderable("too_short") if count < self.fewest_words and not isinstance(row, Unrenderable) else row
            for row, count in zip(self._text().viewed(examples), words, strict=True)
        ]
        budget = self.batch_tokens or self.freeze()["batch_tokens"]
        pair = load_pair(self.spec, self.observer_spec)
        try:
            results = pair.score(rows, batch_tokens=budget, on_tokens=lambda tokens: progress.tick(tokens=tokens))
        except OutOfMemory as error:
            raise BackOff from error
        return [_scores(sums, count) for sums, count in zip(results, words, strict=True)]

    def _text(self) -> Likelihood:
        """What is read: the completion without its layout, as far as both models have positions."""
        names = in_order({*self.normalise, *(("whitespace",) if self.collapse_whitespace else ())})
        settings = self.passed_on() | {"normalise": names, "max_length": self.resolved_max_length()}
        return Likelihood(**settings, view=self.view)


def _scores(sums: "JointSums | Unrenderable", words: int) -> Scores | Unscored:
    from curate.likelihood import Unrenderable

    if isinstance(sums, Unrenderable):
        return Unscored(sums.reason)
    log_ppl, cross_entropy = (total / sums.content_tokens for total in (sums.content_nll, sums.content_cross_entropy))
    return {
        "score": log_ppl / cross_entropy if cross_entropy > 0 else None,
        "log_ppl": log_ppl,
        "cross_entropy": cross_entropy,
        "content_tokens": sums.content_tokens,
        "words": words,
        "truncated": sums.truncated,
    }
