"""The loss of every trained token, for masking tokens and for pictures."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from curate.examples import Example
from curate.filters.base import OutputType, Scores, Unscored, register
from curate.filters.likelihood import ForwardPass
from curate.likelihood import Rendered, TokenScores, Unrenderable


@register("token_nll")
class TokenNll(ForwardPass):
    """Negative log-likelihood of every trained token under the target model, as a list per row. No step can act on it.

    Two bytes per token, stored with the annotations and neither in the ledger nor in what is published.

    Outputs:
        nll: -ln p of every token that bears loss, in order (of all turns, with `turns: all`); nats, in [0, 65504], rounded to
            float16 (three digits); higher is less familiar.
        tokens: how many these are.
        content_first: place in `nll` of the first token of the verbatim completion. Null where several turns bear loss.
        content_end: place behind its last token; what follows are the template's closing tokens. Null as content_first.

    Unscored: as `likelihood`.
    Cost: one forward pass, shared with every filter of the same model in the same run.
    Source: losses by token as in Rho-1 (arXiv:2404.07965), which trains on the tokens whose loss is furthest above that of a
    reference model; the difference of two such lists is its score.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "nll": "float16[]",
        "tokens": "int64",
        "content_first": "int64",
        "content_end": "int64",
    }

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One forward pass over all examples."""
        rows = self.rendered(examples, self.renderer())
        return [_by_token(row, one) for row, one in zip(rows, self.run_tokens(rows), strict=True)]


def _by_token(row: Rendered | Unrenderable, scores: TokenScores | Unrenderable) -> Scores | Unscored:
    """The outputs of one row."""
    if isinstance(scores, Unrenderable):
        return Unscored(scores.reason)
    assert isinstance(row, Rendered)
    first, end = (place - row.start for place in row.turns[0].content) if len(row.turns) == 1 else (None, None)
    return {"nll": scores.nll.tolist(), "tokens": len(scores.nll), "content_first": first, "content_end": end}
