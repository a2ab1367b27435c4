"""Exact leave-one-out self-BLEU of every text against all others of its group, in one linear pass.

BLEU clips a text's n-gram counts by the largest count in any one reference. With all other texts as references that clip is the
largest count over the corpus, unless the text alone holds it: then it is the second largest. So of every distinct n-gram one text
at most loses matches, the sole holder of the largest count, and it loses largest minus second largest; an n-gram that nobody else
has is lost whole (the second largest is 0). One number per n-gram, summed by holder and length, is all that has to be known.

    matches(text, k) = k-grams of the text - sum over the k-grams that it alone holds the maximum of (largest - second largest)

Tables of (n-gram, largest, holder, second largest) of parts of a corpus merge, and parts of the n-grams can be counted apart.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Literal

import numpy as np
import numpy.typing as npt
import xxhash

from curate.diversity.on_disk import GramsOnDisk, HashedGrams

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Tokenizer = Literal["whitespace", "13a", "characters"]
EPSILON = 0.1
"""What smoothing method 1 of NLTK counts in place of no match."""
IN_MEMORY_TOKENS = 30_000_000
"""Tokens up to which a corpus is counted in memory by default: about 2 GB."""
_CHUNK_TOKENS = 1_000_000


def tokenizer(name: Tokenizer) -> Callable[[str], list[str]]:
    """A function from a text to its tokens: `whitespace`, sacrebleu's `13a`, or `characters` without white space."""
    if name == "whitespace":
        return str.split
    if name == "characters":
        return lambda text: list("".join(text.split()))
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    cut = Tokenizer13a()
    return lambda text: str(cut(text)).split()


@dataclass
class Corpus:
    """Texts as token ids, added one by one; above `in_memory_tokens` their n-grams are counted on disk instead."""

    n: int = 4
    tokenizer: Tokenizer = "whitespace"
    in_memory_tokens: int = IN_MEMORY_TOKENS
    lengths: list[int] = field(default_factory=list, init=False)
    groups: list[int] = field(default_factory=list, init=False)
    _vocabulary: defaultdict[str, int] = field(default_factory=lambda: defaultdict(count().__next__), init=False)
    _chunks: list[Ints] = field(default_factory=list, init=False)
    _held: "array[int]" = field(default_factory=lambda: array("q"), init=False)
    _disk: GramsOnDisk | None = field(default=None, init=False)
    _keys: "npt.NDArray[np.uint64]" = field(default_factory=lambda: np.empty((0, 2), dtype=np.uint64), init=False)
    _spilled: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._cut = tokenizer(self.tokenizer)

    def add(self, text: str, group: int = 0) -> int:
        """Add a text that is compared with the others of its group; returns its number of tokens."""
        tokens = self._cut(text)
        self._held.extend(map(self._vocabulary.__getitem__, tokens))
        self.lengths.append(len(tokens))
        self.groups.append(group)
        if len(self._held) >= _CHUNK_TOKENS:
            self._flush()
        return len(tokens)

    def _flush(self) -> None:
        self._chunks.append(np.frombuffer(self._held, dtype=np.int64) if self._held else np.empty(0, dtype=np.int64))
        self._held = array("q")
        if self._disk is not None or sum(map(len, self._chunks)) > self.in_memory_tokens:
            self._spill()

    def _spill(self) -> None:
        """Hand the whole texts held so far to the disk; they all end where a chunk does."""
        if self._disk is None:
            self._disk = GramsOnDisk(self.n)
        ids = np.concatenate(self._chunks) if self._chunks else np.array([], dtype=np.int64)
        first, self._spilled = self._spilled, len(self.lengths)
        lengths = np.array(self.lengths[first:], dtype=np.int64)
        groups = np.array(self.groups[first:], dtype=np.int64)
        self._keys = np.concatenate([self._keys, _keys_of(list(islice(self._vocabulary, len(self._keys), None)))])
        for k, grams in enumerate(hashed_grams(self._keys[ids], lengths, groups, self.n, first=first), 1):
            self._disk.add(k, grams)
        self._chunks = []

    def self_bleu(self) -> Floats:
        """Self-BLEU of every text in the order of adding, in [0, 1]; nan for a text without tokens or alone in its group."""
        self._flush()
        lengths = np.array(self.lengths, dtype=np.int64)
        groups = np.array(self.groups, dtype=np.int64)
        if self._disk is not None:
            lost = self._disk.lost(len(lengths))
        else:
            lost = lost_matches(np.concatenate(self._chunks), lengths, groups, self.n)
        return bleu_of(lost, lengths, groups)


def set_self_bleu(texts: Iterable[str], *, n: int = 4, tokenizer: Tokenizer = "whitespace") -> float | None:
    """Mean self-BLEU of a set of texts, in [0, 1]; higher is less diverse. None with fewer than two texts.

    It rises with the number of texts and with their length: compare sets of one size.
    """
    corpus = Corpus(n=n, tokenizer=tokenizer)
    for text in texts:
        corpus.add(text)
    values = corpus.self_bleu()
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def lost_matches(ids: Ints, lengths: Ints, groups: Ints, n: int) -> Ints:
    """How many of its k-grams each text loses to clipping; (n, texts). Integer ids, so no two n-grams are taken for one."""
    texts = np.repeat(np.arange(len(lengths)), lengths)  # (tokens,): the text of every token
    stops = np.repeat(np.cumsum(lengths), lengths)  # (tokens,): where that text ends
    lost = np.zeros((n, len(lengths)), dtype=np.int64)
    size = int(ids.max()) + 1 if len(ids) else 1
    # Tokens of different groups are different tokens, and then so are their n-grams.
    grams = ids + size * np.unique(groups, return_inverse=True)[1][texts] if len(np.unique(groups)) > 1 else ids
    starts = np.arange(len(ids))
    for k in range(1, n + 1):
        if k > 1:
            fits = starts + (k - 1) < stops[starts]
            starts = starts[fits]
            # Renumbered below, so that the product stays far from 2**63.
            grams = grams[fits] * size + ids[starts + (k - 1)]
        if not len(starts):
            break
        order = _sorted(grams, texts[starts], len(lengths))
        starts = starts[order]
        table = top_two(grams[order], texts[starts])
        owned = table.owner >= 0
        losses = (table.most - table.second)[owned]
        lost[k - 1] += np.bincount(table.owner[owned], losses, minlength=len(lengths)).astype(np.int64)
        if k == n:
            break
        # What no other text holds cannot grow into something shared: its extensions are lost whole, and need no counting.
        shared = np.repeat(table.texts > 1, table.size)
        alone = starts[~shared]
        room, owner = stops[alone] - alone, texts[alone]
        for longer in range(k + 1, n + 1):
            lost[longer - 1] += np.bincount(owner[room >= longer], minlength=len(lengths))
        starts, grams = starts[shared], np.repeat(np.arange(len(table.size)), table.size)[shared]
    return lost


def _sorted(grams: Ints, texts: Ints, count: int) -> Ints:
    """The order by n-gram and then by text."""
    if int(grams.max()) < 2**62 // count:
        return np.argsort(grams * count + texts)  # one number, which numpy sorts several times as fast
    return np.lexsort((texts, grams))


@dataclass(frozen=True)
class TopTwo:
    """Of every distinct n-gram, in one order: who holds the largest count."""

    most: Ints
    """Largest count in one text."""
    second: Ints
    """Largest count in any other text; equal to `most` where two texts share it, 0 where one text alone has the n-gram."""
    owner: Ints
    """The one text that holds the largest count; -1 where several do."""
    texts: Ints
    """Texts that hold it."""
    size: Ints
    """Its occurrences."""


def top_two(grams: Ints, texts: Ints) -> TopTwo:
    """The two largest counts of every n-gram, from its occurrences sorted by n-gram and then by text."""
    new_gram = np.r_[True, grams[1:] != grams[:-1]]
    new_pair = new_gram | np.r_[True, texts[1:] != texts[:-1]]
    pairs = np.flatnonzero(new_pair)
    counts = np.diff(np.r_[pairs, len(grams)])  # (pairs,): occurrences of an n-gram in a text
    first_pair = np.flatnonzero(new_gram[pairs])  # (n-grams,): its first pair
    held = np.diff(np.r_[first_pair, len(pairs)])
    # An n-gram of one text is lost whole. Most are such: what follows looks at the others only.
    most, second, owner = counts[first_pair], np.zeros_like(first_pair), texts[pairs[first_pair]]
    several = np.flatnonzero(held > 1)
    if len(several):
        inside = np.repeat(held > 1, held)
        counts_, texts_ = counts[inside], texts[pairs[inside]]
        held_ = held[several]
        firsts = np.cumsum(held_) - held_
        most[several] = np.maximum.reduceat(counts_, firsts)
        is_most = counts_ == np.repeat(most[several], held_)
        shares = np.add.reduceat(is_most.astype(np.int64), firsts) > 1
        runner_up = np.maximum.reduceat(np.where(is_most, 0, counts_), firsts)
        # Where one text holds the maximum, the sum over its holders is that text.
        holder = np.add.reduceat(np.where(is_most, texts_, 0), firsts)
        second[several] = np.where(shares, most[several], runner_up)
        owner[several] = np.where(shares, -1, holder)
    return TopTwo(most, second, owner, texts=held, size=np.diff(np.r_[pairs[first_pair], len(grams)]))


def bleu_of(lost: Ints, lengths: Ints, groups: Ints) -> Floats:
    """Sentence BLEU from the lost matches: uniform weights, smoothing method 1, brevity penalty by the closest other length."""
    n = len(lost)
    grams = np.maximum(lengths[None, :] - np.arange(n)[:, None], 0)  # (n, texts)
    matches = grams - lost
    precision = np.where(matches > 0, matches, EPSILON) / np.maximum(grams, 1)
    closest = closest_other_length(lengths, groups)
    alone = closest < 0
    with np.errstate(divide="ignore"):
        penalty = np.where(lengths > closest, 1.0, np.exp(1 - closest / np.maximum(lengths, 1)))
    value = penalty * np.exp(np.log(precision).sum(axis=0) / n)
    # Without a single shared word NLTK gives 0 whatever the smoothing.
    value = np.where(matches[0] > 0, value, 0.0)
    value[alone | (lengths == 0)] = np.nan
    return value


def closest_other_length(lengths: Ints, groups: Ints) -> Ints:
    """For every text the closest length of another one of its group, the shorter of two equally close; -1 where it is alone."""
    order = np.lexsort((lengths, groups))
    sorted_lengths, sorted_groups = lengths[order], groups[order]
    far = np.int64(1) << 40
    same = sorted_groups[1:] == sorted_groups[:-1]
    below = np.r_[-far, np.where(same, sorted_lengths[:-1], -far)]
    above = np.r_[np.where(same, sorted_lengths[1:], far), far]
    is_below = sorted_lengths - below <= above - sorted_lengths
    nearest = np.where(is_below, below, above)
    closest = np.empty_like(lengths)
    closest[order] = np.where(np.abs(nearest) >= far, -1, nearest)
    return closest


def _keys_of(tokens: Sequence[str]) -> npt.NDArray[np.uint64]:
    """128 bits per token, as two words; equal for equal tokens in every corpus."""
    digests = b"".join(xxhash.xxh3_128_digest(token.encode("utf-8", "surrogatepass")) for token in tokens)
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def hashed_grams(keys: npt.NDArray[np.uint64], lengths: Ints, groups: Ints, n: int, *, first: int = 0) -> Iterator[HashedGrams]:
    """The k-grams of texts for k from 1 to n, by keys of 128 bits that need no vocabulary: parts of a corpus fit together."""
    texts = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths)[texts]  # (tokens,): where the text of a token ends
    salt = groups.astype(np.uint64)[texts][:, None] * np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
    state = _mixed(keys ^ salt)
    starts = np.arange(len(keys))
    for k in range(1, n + 1):
        if k > 1:
            fits = starts + k - 1 < ends[starts]
            starts, state = starts[fits], state[fits]
            state = _mixed(state * np.uint64(0xFF51AFD7ED558CCD) + keys[starts + k - 1])
        yield HashedGrams(state[:, 0], state[:, 1], texts[starts] + first)


def _mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser, which is a bijection: two keys stay two keys."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
