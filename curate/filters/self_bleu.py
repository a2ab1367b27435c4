"""The `self_bleu` filter: how much a completion repeats all others."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from curate.examples import Example
from curate.filters.base import OutputType, Scores, Unscored, register
from curate.filters.corpus import CorpusFilter


@register("self_bleu")
class SelfBleu(CorpusFilter):
    """How much of the completion stands in other completions: its BLEU with all others as references. Lower is more diverse.

    Outputs:
        self_bleu: leave-one-out BLEU-n, in [0, 1]. 1: every n-gram of it stands in some other completion.
        tokens: tokens of the completion.

    Compared with all other rows, with those of one source, or with those of one prompt (`within`). It is exact: each row against
    all others, not against a sample. It rises with the number of rows and with their length, and markup that many rows share
    raises it: compare values of one run, or sets of one size.
    Unscored: `no tokens`; `alone` in its group.
    Cost: linear; 30,000 rows of 34 words take 0.9 s on one core. Beyond `in_memory_tokens` n-grams are counted on disk by DuckDB,
    with the same result.
    Source: self-BLEU of Texygen (arXiv:1802.01886), per text; equal to NLTK's sentence_bleu with smoothing method 1.
    """

    version: ClassVar[int] = 1
    described_by_identity: ClassVar = ("in_memory_tokens",)
    outputs: ClassVar[dict[str, OutputType]] = {"self_bleu": "float64", "tokens": "int64"}
    reads: ClassVar = ("messages", "source", "group")

    n: int = Field(default=4, ge=1, le=8, description="Longest n-gram.")
    tokenizer: Literal["whitespace", "13a", "characters"] = Field(
        default="whitespace", description="sacrebleu's 13a splits punctuation off; characters are for languages without spaces."
    )
    within: Literal["dataset", "source", "prompt"] = Field(default="dataset", description="Which rows are the references.")
    in_memory_tokens: int = Field(default=30_000_000, ge=0, description="Tokens above which n-grams are counted on disk.")

    def learn(self, examples: Iterable[Example]) -> dict[int, tuple[float, int]]:
        """Value and tokens of every row, from one pass."""
        from curate.diversity.self_bleu import Corpus

        corpus = Corpus(n=self.n, tokenizer=self.tokenizer, in_memory_tokens=self.in_memory_tokens)
        groups: dict[str | None, int] = {}
        rows: list[int] = []
        for example in examples:
            name = {"dataset": None, "source": example.source, "prompt": example.prompt_key}[self.within]
            corpus.add(example.completion, groups.setdefault(name, len(groups)))
            rows.append(example.row)
        return dict(zip(rows, zip(corpus.self_bleu().tolist(), corpus.lengths, strict=True), strict=True))

    def score(self, example: Example) -> Scores | Unscored:
        """The row's value."""
        value, tokens = self.state[example.row]
        if not tokens:
            return Unscored("no tokens")
        return {"self_bleu": value, "tokens": tokens} if value == value else Unscored("alone")

    def findings(self) -> dict[str, Any]:
        """The value of the whole set, with what it is a value of."""
        values = [value for value, _ in self.state.values() if value == value]
        if not values:
            return {}
        facts = {"n": self.n, "smoothing": "NLTK method 1", "tokenizer": self.tokenizer, "within": self.within}
        return {"self_bleu": sum(values) / len(values), "rows": len(values), **facts}
