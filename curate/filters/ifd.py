"""How much the prompt helps the target model to the completion."""

from collections.abc import Mapping
from typing import ClassVar

from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.likelihood import NO_UNCONDITIONAL, Likelihood, finite_exp, mean_of
from curate.filters.model_settings import ModelSettings


@register("ifd")
class InstructionFollowingDifficulty(ModelSettings):
    """Instruction-following difficulty: how little the prompt helps the target model to the completion. Higher is harder.

    Outputs (over the content tokens, the same ones with and without the prompt):
        ifd: perplexity of the completion given the prompt, over its perplexity alone: exp(content_nll - unconditional_nll). In
            (0, inf); above 1 the prompt makes the completion less likely, and the published recipes drop such rows. Null where
            it would overflow.
        loss_ratio: content_nll over unconditional_nll, the ratio of *losses* that others publish under the same name. In
            [0, inf); above 1 where ifd is. The two rank rows differently. Null where the completion alone has no loss.
        information: unconditional_nll - content_nll, in nats per token: what the prompt tells of the completion (pointwise
            mutual information over tokens). Minus the logarithm of ifd.
        content_nll: mean negative log-likelihood given the prompt, in nats per token. In [0, inf).
        unconditional_nll: the same without the prompt, after the BOS token (EOS where there is none).
        content_tokens: tokens that the means are taken over.
        truncated: taken over the first max_length tokens of a longer row.

    Unscored: as `likelihood`, with the prompt or without.
    Cost: two forward passes; the first is shared with `perplexity`, both with `perplexity: {unconditional: true}`.
    Source: ratio of perplexities: Superfiltering (arXiv:2402.00530). The method's first paper (arXiv:2308.12032) and its code
    (tianyi-lab/Cherry_LLM at 6c200ba, data_by_IFD.py) divide mean losses. Differences: the target model as it is scores, not one
    trained on a part of the data first, and no `### Response:` stands before the completion alone.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "ifd": "float64",
        "loss_ratio": "float64",
        "information": "float64",
        "content_nll": "float64",
        "unconditional_nll": "float64",
        "content_tokens": "int64",
        "truncated": "bool",
    }

    def why_last_turn_only(self) -> str | None:
        """Several turns have no view without a prompt."""
        return NO_UNCONDITIONAL

    def depends(self) -> Mapping[str, Filter]:
        """Both views."""
        passed = self.passed_on()
        return {
            "conditional": Likelihood(**passed, view="conditional"),
            "unconditional": Likelihood(**passed, view="unconditional"),
        }

    def derive(self, example: Example, given: Mapping[str, Scores | Unscored]) -> Scores | Unscored:
        """Ratios from the two means."""
        sums, alone = given["conditional"], given["unconditional"]
        if isinstance(sums, Unscored):
            return sums
        if isinstance(alone, Unscored):
            return alone
        nll, unconditional = (mean_of(one, "content_nll", "content_tokens") for one in (sums, alone))
        return {
            "ifd": finite_exp(nll - unconditional),
            "loss_ratio": nll / unconditional if unconditional else None,
            "information": unconditional - nll,
            "content_nll": nll,
            "unconditional_nll": unconditional,
            "content_tokens": sums["content_tokens"],
            "truncated": sums["truncated"],
        }
