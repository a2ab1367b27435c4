"""chrF of every text against every other one of a small set: the n-grams are counted once, then compared as arrays."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

ORDER = 6
BETA = 2.0
SIGNATURE = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6"
"""What sacrebleu calls this chrF: its default."""
_MOST_CHARACTERS = 20_000
"""Of each text are compared."""
_MOST_CELLS = 1 << 23
"""Counts held at once, 32 MB: with one table for all, 200 texts of 20,000 characters would not fit into memory."""


def all_pairs_chrf(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """chrF of text i with text j as reference, in [0, 100]; (texts, texts). Equal to sacrebleu's sentence chrF."""
    size = len(texts)
    counts = np.zeros((ORDER, size))  # n-grams of a text
    shared = np.zeros((ORDER, size, size))  # n-grams that two texts share
    for order, (total, blocks) in enumerate(_counted(texts)):
        counts[order] = total
        np.fill_diagonal(shared[order], total)
        for table in blocks:
            for i in range(size - 1):
                # Only n-grams that text i has: of most others there are far more.
                held = np.flatnonzero(table[i])
                common = np.minimum(table[i, held], table[i + 1 :, held]).sum(axis=1)
                shared[order, i, i + 1 :] += common
                shared[order, i + 1 :, i] += common
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(shared / counts[:, :, None])  # (ORDER, texts, texts): row i is the hypothesis
        recall = np.nan_to_num(shared / counts[:, None, :])
        both = (counts[:, :, None] > 0) & (counts[:, None, :] > 0)
        orders = np.maximum(both.sum(axis=0), 1)
        precision, recall = np.where(both, precision, 0).sum(axis=0) / orders, np.where(both, recall, 0).sum(axis=0) / orders
        score = (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
    return np.asarray(100 * np.nan_to_num(score))


def _counted(texts: Sequence[str]) -> "Iterator[tuple[npt.NDArray[np.int64], Iterator[npt.NDArray[np.int32]]]]":
    """For every order the n-grams of each text, (texts,), and the counts of shared ones, in blocks (texts, n-grams)."""
    stripped = ["".join(text.split())[:_MOST_CHARACTERS] for text in texts]
    lengths = np.array([len(text) for text in stripped], dtype=np.int64)
    raw = "".join(stripped).encode("utf-32-le", "surrogatepass")
    _, ids = np.unique(np.frombuffer(raw, dtype=np.uint32), return_inverse=True)
    owner = np.repeat(np.arange(len(texts)), lengths)
    vocabulary = int(ids.max()) + 1 if len(ids) else 1
    starts, grams = np.arange(len(ids)), ids.astype(np.int64)
    for order in range(1, ORDER + 1):
        if order > 1:
            ends = starts + order - 1
            fits = ends < len(ids)
            fits[fits] = owner[starts[fits]] == owner[ends[fits]]
            starts, grams = starts[fits], grams[fits] * vocabulary + ids[ends[fits]]
            _, grams = np.unique(grams, return_inverse=True)  # renumbered: the product stays far from 2**63
        yield np.bincount(owner[starts], minlength=len(texts)), _blocks(owner[starts], grams, len(texts))


def _blocks(owner: npt.NDArray[np.int64], grams: npt.NDArray[np.int64], size: int) -> "Iterator[npt.NDArray[np.int32]]":
    """Counts of n-grams in each of `size` texts, of `_MOST_CELLS` cells at most; without n-grams that one text alone holds."""
    width = int(grams.max()) + 1 if len(grams) else 1
    cells, counts = np.unique(grams * size + owner, return_counts=True)
    found, holder = np.divmod(cells, size)
    is_shared = np.bincount(found, minlength=width) > 1
    column = np.cumsum(is_shared) - 1
    kept = is_shared[found]
    found, holder, counts = column[found[kept]], holder[kept], counts[kept]
    width = int(is_shared.sum())
    step = max(min(_MOST_CELLS // size, width), 1)
    for start in range(0, width, step):
        first, last = np.searchsorted(found, [start, start + step])
        table = np.zeros((size, step), dtype=np.int32)
        table[holder[first:last], found[first:last] - start] = counts[first:last]
        yield table
