"""The `length` filter: how long completion and prompt are, without a tokenizer."""

from typing import ClassVar

from curate.examples import Example
from curate.filters.base import Filter, Scores, register


@register("length")
class Length(Filter):
    """Size of completion and prompt.

    Outputs (no direction is worse; the `longest` baseline keeps the largest):
        characters: Unicode code points of the completion, 0 or more.
        words: runs of the completion between white space, 0 or more.
        prompt_characters: code points of all messages before the completion, with one newline between messages.

    Never null: an empty completion has length 0. Tokens depend on the model; `perplexity` gives them.
    Cost: linear in length, no model.
    Source: response length as a selection baseline, Zhao et al. 2024 (arXiv:2402.04833), there in tokens.
    """

    version: ClassVar[int] = 1
    reads: ClassVar = ("messages",)
    outputs: ClassVar = {"characters": "int64", "words": "int64", "prompt_characters": "int64"}

    def score(self, example: Example) -> Scores:
        """The three sizes of one row."""
        text = example.completion
        return {"characters": len(text), "words": len(text.split()), "prompt_characters": len(example.prompt_text)}
