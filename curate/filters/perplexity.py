"""Perplexity of the completion given its prompt, under the target model."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from curate.examples import Example
from curate.filters.base import Filter, OutputType, Score, Scores, Unscored, register
from curate.filters.likelihood import NO_UNCONDITIONAL, Likelihood, finite_exp, mean_of
from curate.filters.model_settings import ModelSettings


@register("perplexity")
class Perplexity(ModelSettings):
    """How familiar the completion is to the target model, given the prompt. Lower is more familiar.

    Recipes rank on `content_nll`: over the verbatim completion, so that a constant template end does not colour short rows.

    Outputs:
        nll: mean negative log-likelihood of the trained tokens, in nats per token. In [0, inf).
        tokens: trained tokens, template end and EOS included.
        content_nll: as nll, over the verbatim completion alone.
        content_tokens: tokens of the verbatim completion.
        perplexity: exp(nll), in [1, inf); null where it would overflow.
        unconditional_nll: content_nll without the prompt. Null unless `unconditional` is set.
        ifd: instruction-following difficulty, exp(content_nll - unconditional_nll), a ratio of *perplexities*; above 1 the
            prompt makes the completion less likely. Null unless `unconditional` is set. The filter `ifd` says more.
        truncated: scored on the first max_length tokens.
        border_merged: loss begins inside the prompt's text.

    Unscored: as `likelihood`. Cost: one forward pass, shared with every filter of the same model; two with `unconditional`.
    Source: arXiv:2402.11192 (perplexity of the response under the target model); IFD: arXiv:2402.00530.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "nll": "float64",
        "tokens": "int64",
        "content_nll": "float64",
        "content_tokens": "int64",
        "perplexity": "float64",
        "unconditional_nll": "float64",
        "ifd": "float64",
        "truncated": "bool",
        "border_merged": "bool",
    }

    unconditional: bool = Field(default=False, description="Also score the completion without its prompt, and give the IFD.")

    def why_last_turn_only(self) -> str | None:
        """Several turns have no view without a prompt."""
        return NO_UNCONDITIONAL if self.unconditional else None

    def depends(self) -> Mapping[str, Filter]:
        """The conditional pass, and the unconditional one on request."""
        views: list[Literal["conditional", "unconditional"]] = ["conditional"]
        if self.unconditional:
            views.append("unconditional")
        return {view: Likelihood(**self.passed_on(), view=view) for view in views}

    def derive(self, example: Example, given: Mapping[str, Scores | Unscored]) -> Scores | Unscored:
        """Means from sums."""
        sums = given["conditional"]
        if isinstance(sums, Unscored):
            return sums
        nll, content_nll = mean_of(sums, "nll", "tokens"), mean_of(sums, "content_nll", "content_tokens")
        scores: dict[str, Score] = {
            "nll": nll,
            "tokens": sums["tokens"],
            "content_nll": content_nll,
            "content_tokens": sums["content_tokens"],
            "perplexity": finite_exp(nll),
            "unconditional_nll": None,
            "ifd": None,
            "truncated": sums["truncated"],
            "border_merged": sums["border_merged"],
        }
        alone = given.get("unconditional")
        if alone is not None and not isinstance(alone, Unscored):
            unconditional = mean_of(alone, "content_nll", "content_tokens")
            scores |= {"unconditional_nll": unconditional, "ifd": finite_exp(content_nll - unconditional)}
        return scores
