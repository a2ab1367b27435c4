"""The `contamination` filter: how much of an evaluation item stands in a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from curate import _fs
from curate.errors import InputError, UsageError
from curate.examples import Example, load_examples
from curate.filters.base import Filter, OutputType, Scores, register
from curate.filters.limits import head

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Stamp = tuple[str, int, int]
"""Path, size and time of change: a file that is written anew is read anew."""


@dataclass(frozen=True)
class _Items:
    """The evaluation items, by their n-grams."""

    names: Sequence[str]
    sizes: "npt.NDArray[np.int64]"
    """Distinct n-grams of each item; 0 for an item of fewer than n words, which is only compared exactly."""
    grams: "npt.NDArray[np.uint64]"
    """Sorted; equal n-grams of several items stand beside each other."""
    owners: "npt.NDArray[np.int64]"
    exact: dict[tuple[str, ...], int]


@register("contamination")
class Contamination(Filter):
    """How much of an evaluation item stands in the row: such a row may teach the test. Higher is worse.

    Outputs:
        overlap: largest share of one item's distinct word n-grams that stand in the row's prompt or completion, in [0, 1].
            1 where the prompt equals an item; 0 where no item shares an n-gram.
        item: the item with that overlap, as `FILE:NUMBER`, counted from 0; the first of equals. Null where the overlap is 0.
        exact: the row's prompt has the same words as an item.

    An item is the prompt of a row of the evaluation files `against`, its completion where it has no prompt, or what stands in
    `column`. Words are compared in lower case and without punctuation; characters in scripts without spaces. An item of fewer
    than `n` words is only compared exactly: short questions would match by chance. Of each text the first 100,000 characters are
    looked at. Never null: an empty row overlaps with nothing.
    Answers are not compared: `It is 42.` stands in many rows that saw no test. Translations and paraphrases are not found.
    Paths are relative to the current directory. The scores depend on what the files hold, not on where they lie.
    Cost: one pass over the evaluation files, then about 0.2 ms per row of 100 words; no model.
    Source: the share of an item's n-grams, with 0.5 as the customary cut, is that of Tulu 3 (arXiv:2411.15124, section 3.2,
    8-grams and tokens covered); GPT-3 (arXiv:2005.14165, appendix C) called any 13-gram in common a leak, which also takes
    common phrases. Differences: distinct n-grams are counted, and the completion is searched too.
    """

    version: ClassVar[int] = 1
    described_by_identity: ClassVar = ("against",)
    outputs: ClassVar[dict[str, OutputType]] = {"overlap": "float64", "item": "string", "exact": "bool"}

    against: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)] = Field(
        min_length=1, description="Evaluation files: JSON lines, CSV or Parquet, in any layout that curate reads."
    )
    column: str | None = Field(default=None, description="Column of the files that holds the questions; default: detected.")
    n: int = Field(default=10, ge=1, le=50, description="Words per n-gram.")

    def identity(self) -> dict[str, Any]:
        """What the evaluation files hold. Raises UsageError for a file that is not there."""
        return {"against": [_hash(stamp) for stamp in self._stamps()]}

    def check_machine(self) -> list[str]:
        """Raise for files that are not there or cannot be read as items, before the first row."""
        self._items()
        return []

    def score(self, example: Example) -> Scores:
        """The item that stands in the row to the largest part."""
        import numpy as np

        from curate.diversity.near_duplicates import shingles, words_of

        items = self._items()
        prompt, completion = head(example.prompt_text), head(example.completion)
        same = items.exact.get(tuple(words_of(prompt))) if prompt.strip() else None
        if same is not None:
            return {"overlap": 1.0, "item": items.names[same], "exact": True}
        mine = np.unique(np.concatenate([shingles(text, self.n) for text in (prompt, completion)]))
        first = np.searchsorted(items.grams, mine, side="left")
        after = np.searchsorted(items.grams, mine, side="right")
        found = [items.owners[a:b] for a, b in zip(first.tolist(), after.tolist(), strict=True) if a < b]
        if not found:
            return {"overlap": 0.0, "item": None, "exact": False}
        hits, counts = np.unique(np.concatenate(found), return_counts=True)
        shares = counts / items.sizes[hits]
        best = int(np.argmax(shares))
        return {"overlap": float(shares[best]), "item": items.names[int(hits[best])], "exact": False}

    def _items(self) -> _Items:
        return _read_items(self._stamps(), self.column, self.n)

    def _stamps(self) -> tuple[Stamp, ...]:
        found = []
        for name in self.against:
            path = Path(name)
            if not path.is_file():
                raise UsageError(
                    f"contamination: {name}: no such evaluation file; paths are relative to the current directory, {Path.cwd()}"
                )
            facts = path.stat()
            found.append((name, facts.st_size, facts.st_mtime_ns))
        return tuple(found)


@lru_cache(maxsize=64)
def _hash(stamp: Stamp) -> str:
    return _fs.sha256(Path(stamp[0]))


@lru_cache(maxsize=4)
def _read_items(stamps: tuple[Stamp, ...], column: str | None, n: int) -> _Items:
    import numpy as np

    from curate.diversity.near_duplicates import shingles, words_of

    names: list[str] = []
    grams: list[npt.NDArray[np.uint64]] = []
    exact: dict[tuple[str, ...], int] = {}
    for path, _, _ in stamps:
        before = len(names)
        for example in _examples(path, column):
            text = head(example.prompt_text if example.prompt_text.strip() and column is None else example.completion)
            if not text.strip():
                continue
            words = words_of(text)
            exact.setdefault(tuple(words), len(names))
            grams.append(shingles(text, n) if len(words) >= n else np.array([], dtype=np.uint64))
            names.append(f"{Path(path).name}:{example.row}".encode(errors="replace").decode())
        if len(names) == before:
            raise InputError(f"contamination: {path}: holds no evaluation item; every question in it is empty")
    sizes = np.array([len(one) for one in grams], dtype=np.int64)
    together, owners = np.concatenate(grams), np.repeat(np.arange(len(grams)), sizes)
    order = np.lexsort((owners, together))
    return _Items(names, sizes, together[order], owners[order], exact)


def _examples(path: str, column: str | None) -> Any:
    try:
        return load_examples(path, columns=None if column is None else {"completion": column})
    except InputError as error:
        if column is not None:
            raise
        raise InputError(f"contamination: {error}; or say with `column` which column holds the questions") from error
