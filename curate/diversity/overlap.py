"""How much of an item stands in a text: shared distinct word n-grams, found through one index of all items."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from curate.diversity.near_duplicates import shingles, words_of

COMMON = 10
"""An n-gram of more items than this is the frame that they share, and tells nothing of any one of them."""
FEWEST_WORDS = 4
"""Fewer words are looked for as a whole prompt only."""


@dataclass(frozen=True)
class ItemIndex:
    """Texts such as the questions of a test set, by their n-grams."""

    names: Sequence[str]
    sizes: npt.NDArray[np.int64]
    """Distinct n-grams of each item that count."""
    grams: npt.NDArray[np.uint64]
    """Sorted; equal n-grams of several items stand beside each other."""
    owners: npt.NDArray[np.int64]
    widths: Sequence[int]
    """Words of the n-grams: `n`, and the length of every shorter item."""
    short: dict[tuple[str, ...], list[int]]
    """Items of fewer than four words."""

    @classmethod
    def build(cls, items: Iterable[tuple[str, str]], n: int) -> Self:
        """The index of (name, text) pairs, by n-grams of `n` words. There must be at least one."""
        names: list[str] = []
        grams: list[npt.NDArray[np.uint64]] = []
        short: dict[tuple[str, ...], list[int]] = {}
        widths = {n}
        for name, text in items:
            words = words_of(text)
            if len(words) < FEWEST_WORDS:
                short.setdefault(tuple(words), []).append(len(names))
                grams.append(np.array([], dtype=np.uint64))
            else:
                widths.add(min(n, len(words)))
                grams.append(shingles(text, n))
            names.append(name)
        found, holders = np.unique(np.concatenate(grams), return_counts=True)
        frame = found[holders > COMMON]
        # An item that is nothing but the frame keeps it: a file of copies is still found.
        own = [left if len(left := np.setdiff1d(one, frame)) else one for one in grams]
        sizes = np.array([len(one) for one in own], dtype=np.int64)
        together, owners = np.concatenate(own), np.repeat(np.arange(len(own)), sizes)
        order = np.lexsort((owners, together))
        return cls(names, sizes, together[order], owners[order], sorted(widths), short)

    def overlaps(self, prompt: str, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Items of which anything stands in `texts`, with the share; one of few words has to be the whole `prompt`."""
        if prompt.strip() and (same := self.short.get(tuple(words_of(prompt)))) is not None:
            return np.array(same), np.ones(len(same))
        mine = [shingles(text, width) for text in texts if text.strip() for width in self.widths]
        grams = np.unique(np.concatenate([np.array([], dtype=np.uint64), *mine]))
        first = np.searchsorted(self.grams, grams, side="left")
        after = np.searchsorted(self.grams, grams, side="right")
        shared = np.flatnonzero(first < after).tolist()
        if not shared:
            return np.array([], dtype=np.int64), np.array([])
        hits, counts = np.unique(np.concatenate([self.owners[first[at] : after[at]] for at in shared]), return_counts=True)
        return hits, counts / self.sizes[hits]
