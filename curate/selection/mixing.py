"""How many rows each source gives to a mixture."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from curate.errors import RecipeError, near_miss
from curate.recipes.schema import OTHERS, Mix
from curate.selection.frame import Ints


@dataclass(frozen=True)
class SourceShare:
    """What one source was to give to a mixture, and gave."""

    source: str | None
    """`*` for all sources that the mixture does not name."""
    share: float
    """Share asked for, in (0, 1]."""
    wanted: int
    """Rows that the share stands for: of `total`, or of all rows that reach the step."""
    available: int
    got: int


def mixture(step: Mix, sources: Ints, names: Sequence[str | None], *, where: str) -> tuple[Ints, list[SourceShare]]:
    """For every row the part of the mixture that it can belong to (-1: none), and what each part gives.

    Raises RecipeError for a source that does not exist, one without rows where the shares have to hold, and a short one where the
    recipe says `short: error`.
    """
    counts = np.bincount(sources, minlength=len(names))
    keys, part_of = _parts(step, names, counts.tolist(), where=where)
    parts = part_of[sources]
    available = np.bincount(parts[parts >= 0], minlength=len(keys)).tolist()
    shares = _shares(step, keys)
    wanted = divide(len(sources) if step.total is None else step.total.of(len(sources)), shares)
    # The size of the largest mixture in which every share holds.
    largest = min((int(have / share) for have, share in zip(available, shares, strict=True)), default=0)
    lacking = [at for at, have in enumerate(available) if have < wanted[at]]
    if lacking and (step.short == "error" or (step.short == "shrink" and not largest)):
        short = ", ".join(f"{keys[at]!r} has {available[at]:,} of {wanted[at]:,} rows" for at in lacking)
        raise RecipeError(f"{where}: `{step}`: {short}; set `short: refill`, a smaller `total` or other shares")
    # Without a total nothing is to be rounded up to: the shares decide the size.
    got = divide(largest, shares) if step.total is None else wanted
    if lacking:
        got = refill(sum(wanted), shares, available) if step.short == "refill" else divide(largest, shares)
    found = [
        SourceShare(key, float(share), want, have, give)
        for key, share, want, have, give in zip(keys, shares, wanted, available, got, strict=True)
    ]
    return parts, found


def _parts(step: Mix, names: Sequence[str | None], counts: Sequence[int], *, where: str) -> tuple[list[str | None], Ints]:
    """The parts of the mixture, and by code of source the part that it belongs to."""
    if isinstance(step.shares, str):
        there = [name for name, count in zip(names, counts, strict=True) if count]
        keys: list[str | None] = sorted(there, key=lambda name: (name is None, str(name)))
    else:
        keys = list(step.shares)
        known = sorted({str(name) for name in names if name is not None})
        for key in step.shares:
            if key != OTHERS and key not in names:
                hint = near_miss(key, known, listing="the sources are") if known else "no row has a source"
                raise RecipeError(f"{where}: mix names the source {key!r}, which no row has; {hint}")
    rest = keys.index(OTHERS) if OTHERS in keys and not isinstance(step.shares, str) else -1
    return keys, np.array([keys.index(name) if name in keys else rest for name in names], dtype=np.int64)


def _shares(step: Mix, keys: Sequence[str | None]) -> list[Fraction]:
    if isinstance(step.shares, str):
        return [Fraction(1, len(keys))] * len(keys)
    return [amount.share or Fraction(0) for amount in step.shares.values()]


def divide(total: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole numbers that add up to `total`, as near to the shares as they can be; the larger remainder first, then order."""
    whole = sum(shares, Fraction(0))
    exact = [total * share / whole for share in shares]
    parts = [int(part) for part in exact]
    by_remainder = sorted(range(len(parts)), key=lambda at: (parts[at] - exact[at], at))
    for at in by_remainder[: total - sum(parts)]:
        parts[at] += 1
    return parts


def refill(total: int, shares: Sequence[Fraction], available: Sequence[int]) -> list[int]:
    """As `divide`, but what a source lacks is taken from the others, in proportion to their shares, as far as they reach."""
    got = [0] * len(shares)
    left = min(total, sum(available))
    open_ = [at for at in range(len(shares)) if available[at]]
    while left and open_:
        parts = dict(zip(open_, divide(left, [shares[at] for at in open_]), strict=True))
        full = [at for at in open_ if parts[at] >= available[at]]
        for at in full or open_:
            got[at] = available[at] if full else parts[at]
            left -= got[at]
        open_ = [at for at in open_ if at not in full] if full else []
    return got
