"""chrF of every text against every other one of a small set: the n-grams are counted once, then compared as arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ORDER = 6
BETA = 2.0
SIGNATURE = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6"
"""What sacrebleu calls this chrF: its default."""
_MOST_CHARACTERS = 20_000
"""Of each text are compared: a set of longer ones would not fit into memory."""


def all_pairs_chrf(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """chrF of text i with text j as reference, in [0, 100]; (texts, texts). Equal to sacrebleu's sentence chrF."""
    size = len(texts)
    counts = np.zeros((ORDER, size))  # n-grams of a text
    shared = np.zeros((ORDER, size, size))  # n-grams that two texts share
    for order, table in enumerate(_tables(texts)):
        counts[order] = table.sum(axis=1)
        for i in range(size):
            shared[order, i, i:] = np.minimum(table[i], table[i:]).sum(axis=1)
            shared[order, i:, i] = shared[order, i, i:]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(shared / counts[:, :, None])  # (ORDER, texts, texts): row i is the hypothesis
        recall = np.nan_to_num(shared / counts[:, None, :])
        both = (counts[:, :, None] > 0) & (counts[:, None, :] > 0)
        orders = np.maximum(both.sum(axis=0), 1)
        precision, recall = np.where(both, precision, 0).sum(axis=0) / orders, np.where(both, recall, 0).sum(axis=0) / orders
        score = (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
    return np.asarray(100 * np.nan_to_num(score))


def _tables(texts: Sequence[str]) -> "list[npt.NDArray[np.int32]]":
    """For every order the counts of each n-gram in each text; (texts, n-grams)."""
    stripped = ["".join(text.split())[:_MOST_CHARACTERS] for text in texts]
    lengths = np.array([len(text) for text in stripped], dtype=np.int64)
    raw = "".join(stripped).encode("utf-32-le", "surrogatepass")
    _, ids = np.unique(np.frombuffer(raw, dtype=np.uint32), return_inverse=True)
    owner = np.repeat(np.arange(len(texts)), lengths)
    vocabulary = int(ids.max()) + 1 if len(ids) else 1
    tables = []
    starts, grams = np.arange(len(ids)), ids.astype(np.int64)
    for order in range(1, ORDER + 1):
        if order > 1:
            ends = starts + order - 1
            fits = ends < len(ids)
            fits[fits] = owner[starts[fits]] == owner[ends[fits]]
            starts, grams = starts[fits], grams[fits] * vocabulary + ids[ends[fits]]
            _, grams = np.unique(grams, return_inverse=True)  # renumbered: the product stays far from 2**63
        width = int(grams.max()) + 1 if len(grams) else 1
        flat = np.bincount(owner[starts] * width + grams, minlength=len(texts) * width)
        tables.append(flat.reshape(len(texts), width).astype(np.int32))
    return tables
