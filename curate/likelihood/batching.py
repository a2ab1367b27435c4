"""Which rows run together: a function of the rows of one shard and the token budget, of nothing else."""

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of like length so that no batch, padded, holds more than `budget` tokens (a longer row runs alone).

    Returns lists of indices into `lengths`; each index stands in exactly one. Longest first: what does not fit fails early.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if not batches or (len(batches[-1]) + 1) * width > budget:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches
