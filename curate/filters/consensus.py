"""The `consensus` filter: how much a completion agrees with what other sources say to the same prompt."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field

from curate.examples import Example
from curate.filters.base import OutputType, Scores, Unscored, register
from curate.filters.corpus import CorpusFilter


@register("consensus")
class Consensus(CorpusFilter):
    """How much the completion agrees with the other sources' completions of the same prompt. Higher agrees more.

    Outputs:
        chrf: mean chrF with each of them as reference, in [0, 100].
        others: completions that it was compared with.

    The other sources' completions are all rows of the prompt whose `source` differs; rows without a source are compared with all
    others. Of each completion 20,000 characters are compared, of a prompt's rows the first 200 (`most_rows`).
    It stands for quality where most sources are good and answers are short, as in translation (docs/quality.md). Where most
    sources make the same mistake it prefers the mistake, and among good answers it prefers the commonplace one.
    Unscored: `no other source`; `empty completion`; `beyond most_rows`.
    Cost: grows with the square of the rows per prompt; 0.3 ms per row of 560 characters with 17 rows per prompt, no model.
    Source: consensus decoding with chrF as utility (Kumar and Byrne 2004; Eikema and Aziz 2020, arXiv:2005.10283), used as a
    quality estimate; chrF as sacrebleu computes it (nc:6, nw:0, beta 2).
    """

    version: ClassVar[int] = 1
    reads: ClassVar = ("messages", "source", "group")
    outputs: ClassVar[dict[str, OutputType]] = {"chrf": "float64", "others": "int64"}

    most_rows: int = Field(default=200, ge=2, le=2000, description="Rows of one prompt that are compared, the first ones.")

    def learn(self, examples: Iterable[Example]) -> dict[int, Scores | Unscored]:
        """The scores of every row, prompt by prompt; all completions are held in memory until their prompt is done."""
        by_prompt: defaultdict[str, list[tuple[int, str | None, str]]] = defaultdict(list)
        for example in examples:
            by_prompt[example.prompt_key].append((example.row, example.source, example.completion))
        found: dict[int, Scores | Unscored] = {}
        while by_prompt:
            _, rows = by_prompt.popitem()
            found |= dict.fromkeys((row for row, _, _ in rows[self.most_rows :]), Unscored("beyond most_rows"))
            found |= _compare(rows[: self.most_rows])
        return found

    def score(self, example: Example) -> Scores | Unscored:
        """The row's scores."""
        result: Scores | Unscored = self.state[example.row]
        return result

    def findings(self) -> dict[str, Any]:
        """Which chrF it was."""
        from curate.diversity.chrf import SIGNATURE

        return {"chrf": SIGNATURE}


def _compare(rows: Sequence[tuple[int, str | None, str]]) -> dict[int, Scores | Unscored]:
    """Scores of all rows of one prompt."""
    from curate.diversity.chrf import all_pairs_chrf

    said = [entry for entry in rows if entry[2].strip()]
    found: dict[int, Scores | Unscored] = {row: Unscored("empty completion") for row, _, text in rows if not text.strip()}
    pairs = all_pairs_chrf([text for _, _, text in said]) if len(said) > 1 else None
    for place, (row, source, _) in enumerate(said):
        others = [at for at, (_, whose, _) in enumerate(said) if at != place and (source is None or whose != source)]
        if pairs is None or not others:
            found[row] = Unscored("no other source")
        else:
            found[row] = {"chrf": float(pairs[place, others].mean()), "others": len(others)}
    return found
