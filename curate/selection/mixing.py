"""How many rows each source gives to a mixture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from curate.errors import RecipeError, near_miss
from curate.recipes.schema import OTHERS, Mix


@dataclass(frozen=True)
class Portion:
    """What one source, or all others together, was to give to a mixture, and gave."""

    name: str
    """As the recipe calls it; `*` for all sources that it does not name."""
    sources: tuple[str | None, ...]
    share: float
    """Asked for, in (0, 1]."""
    wanted: int
    """Rows that the share stands for; without `total`, of a mixture that no source limits: all rows."""
    available: int
    kept: int

    @property
    def is_short(self) -> bool:
        """Whether it has fewer rows than its share stands for."""
        return self.available < self.wanted


def portions(step: Mix, counts: Mapping[str | None, int], *, where: str) -> list[Portion]:
    """What each source gives of the rows that reach the step.

    Raises RecipeError for a source that no row has, for one without rows where the shares have to hold, and for a short one where
    the recipe says `short: error`.
    """
    members = _members(step, counts, where=where)
    available = [sum(counts[name] for name in names) for names in members.values()]
    if isinstance(step.shares, str):
        shares = [Fraction(1, len(members))] * len(members)
    else:
        shares = [amount.share or Fraction(0) for amount in step.shares.values()]
    everything = sum(counts.values())
    wanted = divide(everything if step.total is None else step.total.of(everything), shares)
    short = [at for at, have in enumerate(available) if have < wanted[at]]
    # The largest mixture in which every share holds.
    largest = min(int(have / share) for have, share in zip(available, shares, strict=True))
    if short and (step.short == "error" or (step.short == "shrink" and not largest)):
        names = list(members)
        lacking = ", ".join(f"{names[at]!r} has {available[at]:,} of {wanted[at]:,} rows" for at in short)
        raise RecipeError(f"{where}: `{step}`: {lacking}; set `short: refill`, a smaller `total` or other shares")
    kept = wanted
    if short:
        kept = refill(sum(wanted), shares, available) if step.short == "refill" else divide(largest, shares)
    return [
        Portion(name, sources, float(share), want, have, keep)
        for (name, sources), share, want, have, keep in zip(members.items(), shares, wanted, available, kept, strict=True)
    ]


def _members(step: Mix, counts: Mapping[str | None, int], *, where: str) -> dict[str, tuple[str | None, ...]]:
    """The sources behind each name of the mixture."""
    known = sorted(name for name in counts if name is not None)
    if isinstance(step.shares, str):
        return {name: (name,) for name in known} | ({"(no source)": (None,)} if None in counts else {})
    for name in step.shares:
        if name != OTHERS and name not in counts:
            hint = near_miss(name, known, listing="the sources are") if known else "no row has a source"
            raise RecipeError(f"{where}: mix names the source {name!r}, of which no row is left; {hint}")
    others = tuple(name for name in [*known, *([None] if None in counts else [])] if name not in step.shares)
    return {name: others if name == OTHERS else (name,) for name in step.shares}


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
