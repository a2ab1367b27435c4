"""Says whether a text repeats itself in a row, as a model does that no longer stops."""

from collections.abc import Sequence


def is_loop(words: Sequence[str], *, copies: int, fewest_words: int, longest_period: int) -> bool:
    """Whether some run of at most `longest_period` words stands at least `copies` times in a row, over `fewest_words` words or
    more.

    `a b a b a b` holds three copies of `a b`. Copies must follow each other: a refrain is no loop.
    """
    for period in _gaps(words, length=-(-fewest_words * (copies - 1) // copies), longest=longest_period):
        needed = max(copies, -(-fewest_words // period)) * period
        run = 0  # words in a row that equal the word one period before
        for earlier, later in zip(words, words[period:], strict=False):
            run = run + 1 if earlier == later else 0
            if run + period >= needed:
                return True
    return False


def _gaps(words: Sequence[str], *, length: int, longest: int) -> set[int]:
    """Distances between successive equal runs of `length` words. A loop holds two such runs one period apart, most texts hold
    none."""
    last: dict[tuple[str, ...], int] = {}
    gaps = set()
    for at, run in enumerate(zip(*(words[ahead:] for ahead in range(length)), strict=False)):
        if run in last and at - last[run] <= longest:
            gaps.add(at - last[run])
        last[run] = at
    return gaps
