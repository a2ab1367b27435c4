"""The `near_duplicate` filter: which earlier row a row nearly repeats."""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from curate.examples import Example
from curate.filters.base import OutputType, Scores, register
from curate.filters.corpus import CorpusFilter
from curate.filters.limits import head

if TYPE_CHECKING:
    from curate.diversity.near_duplicates import Match


@register("near_duplicate")
class NearDuplicate(CorpusFilter):
    """Which earlier row this row nearly repeats, by the Jaccard similarity of word n-grams. `deduplicate: near` acts on it.

    Outputs:
        group: number of the first row of the row's group; its own number where it leads a group. Rows with one `group` are near
            to its first row.
        similarity: Jaccard similarity to that first row, in [threshold, 1]. Null where the row leads its group.
        is_copy: the row does not lead its group.

    Rows are near when prompt *and* completion each reach the threshold (`of: both`): two answers to one question are no
    duplicates, nor are two questions with the answer `Yes.` A row joins the nearest leader before it, so no chain of small steps
    links two different texts. Compared are words in lower case without punctuation; characters in scripts without spaces. The
    first 100,000 characters of each are looked at. Never null.
    Candidates come from MinHash, the decision from the exact similarity: no pair is called near by chance. A pair at the
    threshold itself is missed with a probability of at most 1 % (0.3 % at 0.8), closer pairs less often.
    Cost: one pass over all rows, about 0.4 ms per row of 100 words; about 2 kB of memory per leading row.
    Source: near-duplicate removal of Lee et al. 2022 (arXiv:2107.06499), with leaders in place of connected components; MinHash
    and LSH of datasketch.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[dict[str, OutputType]] = {"group": "int64", "similarity": "float64", "is_copy": "bool"}

    threshold: float = Field(default=0.8, gt=0.0, le=1.0, description="Jaccard similarity from which two texts are near.")
    n: int = Field(default=3, ge=1, le=50, description="Words per n-gram.")
    of: Literal["both", "prompt", "completion"] = Field(default="both", description="Which texts have to be near.")
    permutations: int = Field(default=256, ge=32, le=4096, description="Length of the MinHash; more find more.")
    seed: int = Field(default=1, ge=0, lt=2**32, description="Seed of the permutations.")

    def identity(self) -> dict[str, Any]:
        """The rows compared with, and whose permutations."""
        return super().identity() | {"datasketch": version("datasketch")}

    def learn(self, examples: Iterable[Example]) -> "dict[int, Match]":
        """The group of every row."""
        from curate.diversity.near_duplicates import near_duplicates

        settings = {"n": self.n, "threshold": self.threshold, "permutations": self.permutations, "seed": self.seed}
        return dict(near_duplicates(self._texts(examples), **settings))  # type: ignore[arg-type]

    def _texts(self, examples: Iterable[Example]) -> Iterator[tuple[int, tuple[str, ...]]]:
        for example in examples:
            texts = {"prompt": head(example.prompt_text), "completion": head(example.completion)}
            yield example.row, tuple(texts.values()) if self.of == "both" else (texts[self.of],)

    def score(self, example: Example) -> Scores:
        """The row's group."""
        found: Match = self.state[example.row]
        return {"group": found.leader, "similarity": found.similarity, "is_copy": found.leader != example.row}

    def findings(self) -> dict[str, Any]:
        """How many rows lead a group."""
        return {"groups": sum(match.leader == row for row, match in self.state.items()), "rows": len(self.state)}
