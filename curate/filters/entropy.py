"""How sure the target model is of the completion."""

from collections.abc import Mapping
from typing import ClassVar

from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.likelihood import Likelihood, mean_of
from curate.filters.model_settings import ModelSettings


@register("entropy")
class Entropy(ModelSettings):
    """How sure the target model is while it reads the completion: the mean entropy of its predictions. Lower is surer.

    Outputs:
        entropy: mean entropy of the predicted distribution over the content tokens, in nats. In [0, ln V].
        content_tokens: tokens that the mean is taken over.
        truncated: taken over the first max_length tokens of a longer row.

    Unscored: as `likelihood`. Cost: none beyond the pass that it shares with `perplexity`.
    Source: the entropy scoring of arXiv:2407.12835, whose formula is not published; this is the mean over tokens of
    -sum_v p(v) ln p(v), under the target model.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {"entropy": "float64", "content_tokens": "int64", "truncated": "bool"}

    def depends(self) -> Mapping[str, Filter]:
        """The conditional pass."""
        return {"conditional": Likelihood(**self.passed_on())}

    def derive(self, example: Example, given: Mapping[str, Scores | Unscored]) -> Scores | Unscored:
        """Mean from sum."""
        sums = given["conditional"]
        if isinstance(sums, Unscored):
            return sums
        return {
            "entropy": mean_of(sums, "content_entropy", "content_tokens"),
            "content_tokens": sums["content_tokens"],
            "truncated": sums["truncated"],
        }
