"""Rows that say nearly the same as an earlier row: MinHash finds candidates, the exact Jaccard similarity decides."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

if TYPE_CHECKING:
    from datasketch import MinHash

Shingles = npt.NDArray[np.uint64]
"""Sorted distinct hashes of a text's word n-grams."""

# Scripts without spaces: every character is a word. Elsewhere a run of letters and digits is one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]|[^\W_]+")
MOST_MISSED = 0.01
"""Largest probability that a pair at the threshold itself is no candidate."""


@dataclass(frozen=True)
class Match:
    """Where a row belongs."""

    leader: int
    """The first row of its group; its own number where it is the first."""
    similarity: float | None
    """Similarity to that first row; None where it is its own."""


@dataclass(frozen=True)
class _Seen:
    """A row that leads its group."""

    row: int
    parts: tuple[Shingles, ...]


def words_of(text: str) -> list[str]:
    """Words as compared: lower case, without punctuation; the text itself where it has none."""
    return _WORD.findall(text.lower()) or [text.strip()]


def shingles(text: str, n: int) -> Shingles:
    """Hashes of the distinct word n-grams; a text of fewer words is one n-gram."""
    words = words_of(text)
    grams = {"\x1f".join(words[at : at + n]) for at in range(max(1, len(words) - n + 1))}
    # surrogatepass: half a surrogate pair is a character of a str, whatever a file can hold.
    hashes = [xxhash.xxh3_64_intdigest(gram.encode("utf-8", "surrogatepass")) for gram in grams]
    return np.unique(np.array(hashes, dtype=np.uint64))


def jaccard(one: Shingles, other: Shingles) -> float:
    """Shared n-grams over all n-grams of either, in [0, 1]."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def near_duplicates(
    rows: Iterable[tuple[int, Sequence[str]]], *, n: int, threshold: float, permutations: int, seed: int
) -> Iterator[tuple[int, Match]]:
    """For every row the earlier row that it nearly repeats. Rows come in order, each as its texts (prompt, completion).

    Two rows are near when *each* of their texts has a Jaccard similarity of at least `threshold`. A row joins the nearest of the
    rows that lead a group, the earlier one among equals, or leads a group itself: so whoever is dropped as a duplicate is near
    to the very row that is kept, and no chain of small steps links two different texts.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=permutations, params=bands(threshold, permutations))
    sketch = _sketcher(permutations, seed)
    leaders: dict[int, _Seen] = {}
    known: dict[bytes, Match] = {}
    for row, texts in rows:
        parts = tuple(shingles(text, n) for text in texts)
        key = xxhash.xxh3_128_digest(b"".join(part.tobytes() + b"|" for part in parts))
        if key in known:  # of thousands of copies each would else be compared with all
            yield row, known[key]
            continue
        minhash = sketch(parts)
        match = _nearest(parts, [leaders[found] for found in sorted(index.query(minhash))])
        if match.similarity is None or match.similarity < threshold:
            leaders[row] = _Seen(row, parts)
            index.insert(row, minhash, check_duplication=False)
            match = Match(row, None)
        known[key] = match if match.similarity else Match(row, 1.0)
        yield row, match


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Number and length of the bands: the longest, which give the fewest candidates, that miss at most `MOST_MISSED`."""
    for length in range(permutations // 2, 1, -1):
        if (1 - threshold**length) ** (permutations // length) <= MOST_MISSED:
            return permutations // length, length
    return permutations, 1


def _nearest(parts: tuple[Shingles, ...], candidates: Sequence[_Seen]) -> Match:
    """The candidate with the highest similarity, by the least similar of the texts."""
    best = Match(-1, None)
    for seen in candidates:
        similarity = min(jaccard(mine, theirs) for mine, theirs in zip(parts, seen.parts, strict=True))
        if best.similarity is None or similarity > best.similarity:
            best = Match(seen.row, similarity)
    return best


def _sketcher(permutations: int, seed: int) -> Any:
    """A function from the texts of a row to its MinHash.

    It is taken over the n-grams of all texts together, each marked with the text it stands in: where each text reaches the
    threshold, so does their union, and no pair is lost by asking for candidates once.
    """
    from datasketch import MinHash

    empty = MinHash(num_perm=permutations, seed=seed, scheme="affine32", hashfunc=lambda hashed: hashed)

    def sketch(parts: tuple[Shingles, ...]) -> "MinHash":
        minhash = empty.copy()
        # The hashes are uniform, so their lower halves are; an odd multiplier per text keeps the texts apart.
        marked = [((part * np.uint64(2 * place + 1)) & np.uint64(0xFFFFFFFF)) for place, part in enumerate(parts)]
        minhash.update_batch(np.concatenate(marked).astype(np.uint32))
        return minhash

    return sketch
