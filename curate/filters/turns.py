"""How familiar each of a conversation's assistant messages is to the target model."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from curate.examples import Example
from curate.filters.base import OutputType, Scores, Unscored, register
from curate.filters.likelihood import ForwardPass
from curate.likelihood import TokenScores


@register("turns")
class Turns(ForwardPass):
    """Familiarity of every assistant message of a conversation, each given all that stands before it. Lower is more familiar.

    A turn is one assistant message; messages that the template puts directly behind each other are one turn where it marks what
    the assistant says. Negative log-likelihoods are means, in nats per token, in [0, inf).

    Outputs:
        count: turns that bear loss inside max_length.
        nll: over the trained tokens of all turns, template ends and EOS included.
        tokens: these tokens.
        content_nll: over the verbatim messages, all turns together.
        content_tokens: tokens of the verbatim messages.
        worst_nll: over the verbatim message of the turn where it is highest.
        best_nll: over that of the turn where it is lowest.
        last_nll: over that of the last turn inside max_length. Null where that turn has no content there.
        turn_nll: one per turn, over its verbatim message; null for a turn without content (an empty message, or one of which
            only the template's opening lies inside max_length).
        turn_tokens: one per turn, the tokens that turn_nll is over.
        truncated: the conversation is longer than max_length, and the later turns are not scored.
        border_merged: the loss of a turn begins inside the text before it.

    Unscored: as `likelihood`.
    Cost: one forward pass, shared with every filter of the same model that scores all turns in the same run.
    Source: what TRL's SFTTrainer trains with `assistant_only_loss`; perplexity of the response: arXiv:2402.11192.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "count": "int64",
        "nll": "float64",
        "tokens": "int64",
        "content_nll": "float64",
        "content_tokens": "int64",
        "worst_nll": "float64",
        "best_nll": "float64",
        "last_nll": "float64",
        "turn_nll": "float64[]",
        "turn_tokens": "int64[]",
        "truncated": "bool",
        "border_merged": "bool",
    }

    turns: Literal["all"] = Field(default="all", description="All assistant messages; there is no other choice here.")

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One forward pass over all examples."""
        found = self.run_tokens(self.rendered(examples, self.renderer()))
        return [_by_turn(one) if isinstance(one, TokenScores) else Unscored(one.reason) for one in found]


def _by_turn(scores: TokenScores) -> Scores:
    """The outputs of one row."""
    sums = scores.sums
    means = [turn.content_nll / turn.content_tokens if turn.content_tokens else None for turn in scores.turns]
    known = [mean for mean in means if mean is not None]
    return {
        "count": len(scores.turns),
        "nll": sums.nll / sums.tokens,
        "tokens": sums.tokens,
        "content_nll": sums.content_nll / sums.content_tokens,
        "content_tokens": sums.content_tokens,
        "worst_nll": max(known),
        "best_nll": min(known),
        "last_nll": means[-1],
        "turn_nll": means,
        "turn_tokens": [turn.content_tokens for turn in scores.turns],
        "truncated": sums.truncated,
        "border_merged": sums.border_merged,
    }
