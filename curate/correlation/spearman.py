"""Spearman's rank correlation, ties sharing their mean rank."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = (
        np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(values) else np.array([], dtype=np.int64)
    )
    ends = np.append(starts[1:], len(values))
    found = np.empty(len(values))
    found[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return found


def rank_correlation(left: Floats, right: Floats) -> float | None:
    """In [-1, 1]; None for fewer than 3 values or where one side is constant."""
    return correlation_of_ranks(ranks(left), ranks(right))


def correlation_of_ranks(left: Floats, right: Floats) -> float | None:
    """Pearson's correlation of ranks that are there already."""
    if len(left) < 3:
        return None
    a, b = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip((a @ b) / scale, -1, 1)) if scale else None
