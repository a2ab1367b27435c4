"""How machine-like a completion looks to the target model: four detectors from the sums of one forward pass."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.likelihood import Likelihood, mean_of
from curate.filters.model_settings import ModelSettings
from curate.filters.normalisation import in_order, normalised


@register("detectors")
class Detectors(ModelSettings):
    """How machine-like the completion looks to the target model. Higher is more machine-like, in all four.

    Outputs (natural logarithms; over the content tokens):
        log_likelihood: mean of ln p of the tokens. In (-inf, 0].
        log_rank: minus the mean of ln(rank of the token in the vocabulary, from 1). In [-ln V, 0].
        lrr: mean NLL over mean ln rank. In [0, inf), mostly 1 to 3. Null where every token has rank 1.
        fast_detect: curvature of Fast-DetectGPT, (sum ln p - sum of its expectation) / sqrt(sum of its variances), with the
            target model as sampling and as scoring model. 0 is what the model itself would write on average; human text lies
            below what machines write. Null where the model is certain of every token.
        content_tokens: tokens that the sums are taken over.
        words: words of the completion as it was scored.
        truncated: taken over the first max_length tokens of a longer row.

    Unscored: too_short (fewer than `fewest_words` words); else as `likelihood`.
    White space is collapsed first unless `collapse_whitespace` is false: in common test sets no human text has a line break and
    most machine texts do, so that a detector would learn layout. Without a prompt to speak of, and as published, `view:
    unconditional`; the default sees the prompt, as `perplexity` does.

    Known failures, all four: no threshold travels between models, domains or lengths, so calibrate on labelled rows of your own
    before cutting. Simple regular prose is called machine-written, above all that of non-native writers (public detectors flag
    61 % of TOEFL essays, arXiv:2304.02819). One rewrite hides a text. What the model has memorised (licences, quotations) and
    what it was trained on look machine-written. A small or foreign target model tells little; measured in docs/detectors.md.
    Cost: none beyond a forward pass, which is shared with every filter that scores the same text: `perplexity` shares it where
    it too has `normalise: [whitespace]`, or this filter `collapse_whitespace: false`.
    Source: log_likelihood and log_rank as in GLTR (arXiv:1906.04043); lrr: arXiv:2306.05540; fast_detect: arXiv:2310.05130,
    its analytic form. Differences: the target model scores, and the first token is scored given the prompt or BOS.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "log_likelihood": "float64",
        "log_rank": "float64",
        "lrr": "float64",
        "fast_detect": "float64",
        "content_tokens": "int64",
        "words": "int64",
        "truncated": "bool",
    }

    view: Literal["conditional", "unconditional"] = Field(
        default="conditional", description="The completion given its prompt, or without it."
    )
    collapse_whitespace: bool = Field(
        default=True, description="Score with `whitespace` normalised, whatever else `normalise` names."
    )
    fewest_words: int = Field(default=50, ge=1, description="Shorter completions are unscored; detectors are near chance there.")

    def why_last_turn_only(self) -> str | None:
        """What a detector finds holds for one text."""
        return "is not for detectors, which judge one text"

    def depends(self) -> Mapping[str, Filter]:
        """The pass over the text without its layout."""
        names = in_order({*self.normalise, *(("whitespace",) if self.collapse_whitespace else ())})
        return {"sums": Likelihood(**(self.passed_on() | {"normalise": names}), view=self.view)}

    def derive(self, example: Example, given: Mapping[str, Scores | Unscored]) -> Scores | Unscored:
        """The four from the sums."""
        sums = given["sums"]
        if isinstance(sums, Unscored):
            return sums
        words = len(normalised(example, self.normalise).completion.split())
        if words < self.fewest_words:
            return Unscored("too_short")
        log_likelihood, log_rank = (-mean_of(sums, f"content_{what}", "content_tokens") for what in ("nll", "log_rank"))
        return {
            "log_likelihood": log_likelihood,
            "log_rank": log_rank,
            "lrr": log_likelihood / log_rank if log_rank else None,
            "fast_detect": curvature(sums),
            "content_tokens": sums["content_tokens"],
            "words": words,
            "truncated": sums["truncated"],
        }


def curvature(sums: Scores) -> float | None:
    """Fast-DetectGPT's d: how far the log-probability lies above its expectation, in standard deviations; None without any."""
    nll, entropy, variance = (sums[f"content_{what}"] for what in ("nll", "entropy", "var_logp"))
    assert isinstance(nll, float)
    assert isinstance(entropy, float)
    assert isinstance(variance, float)
    return (entropy - nll) / math.sqrt(variance) if variance > 0 else None
