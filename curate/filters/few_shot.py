"""How much a few examples before the prompt help the target model to the completion."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.likelihood import Likelihood, mean_of
from curate.filters.model_settings import ModelSettings
from curate.filters.shots import MOST_SHOTS


@register("few_shot")
class FewShot(ModelSettings):
    """How much a few examples, shown before the prompt, help the target model to the completion. Higher: they help more.

    Outputs (over the content tokens, in nats per token):
        gain: nll - few_shot_nll: what the examples tell of the completion. Below 0 they make it less likely.
        nll: mean negative log-likelihood given the prompt, as perplexity.content_nll. In [0, inf).
        few_shot_nll: the same with the examples before the prompt.
        content_tokens: tokens that the means are taken over.
        truncated: taken over the first max_length tokens of a longer row.

    The examples are the rows of the file `few_shot`, all of them in their order, in any layout that can be read as data; how they
    are shown stands in the data sheet of `likelihood`. What a gain is made of it does not say: a row of the examples' task, in
    their format, or with their answer gains alike. A row with the prompt of an example and another completion is scored.

    Unscored: is_a_shot (the row is one of the examples); else as `likelihood`, with the examples or without.
    Cost: two forward passes; the first is shared with `perplexity`, the second with `perplexity: {few_shot: FILE}`. The examples
    are read once for each batch, where the model's rows can be packed.
    Source: ours. In-context gain as a measure of data is that of arXiv:2312.10302 (Nuggets), which turns it round: there the row
    is the example, and the gain that of a fixed set of tasks.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "gain": "float64",
        "nll": "float64",
        "few_shot_nll": "float64",
        "content_tokens": "int64",
        "truncated": "bool",
    }

    few_shot: Path = Field(description=f"A file of at most {MOST_SHOTS} examples that stand before every prompt.")

    def depends(self) -> Mapping[str, Filter]:
        """Both passes."""
        passed = self.passed_on()
        return {"without": Likelihood(**(passed | {"few_shot": None})), "with": Likelihood(**passed)}

    def derive(self, example: Example, given: Mapping[str, Scores | Unscored]) -> Scores | Unscored:
        """The difference of the two means."""
        alone, behind = given["without"], given["with"]
        if isinstance(behind, Unscored):
            return behind
        if isinstance(alone, Unscored):
            return alone
        nll, few_shot_nll = (mean_of(sums, "content_nll", "content_tokens") for sums in (alone, behind))
        return {
            "gain": nll - few_shot_nll,
            "nll": nll,
            "few_shot_nll": few_shot_nll,
            "content_tokens": alone["content_tokens"],
            "truncated": alone["truncated"],
        }
