"""Says whether a completion repeats its prompt."""

from collections.abc import Sequence

_PRIME = (1 << 61) - 1
_BASE = 1_000_003


def shares_run(one: Sequence[str], other: Sequence[str], length: int) -> bool:
    """Whether some run of `length` words stands in both texts. Linear: rolling hashes find candidates, words confirm them."""
    if length < 1 or len(one) < length or len(other) < length:
        return False
    codes = {word: number for number, word in enumerate(dict.fromkeys(one), start=1)}
    places = dict(zip(_hashes([codes[word] for word in one], length), range(len(one)), strict=False))
    for at, value in enumerate(_hashes([codes.get(word, 0) for word in other], length)):
        if value in places and one[places[value] : places[value] + length] == other[at : at + length]:
            return True
    return False


def _hashes(codes: list[int], length: int) -> list[int]:
    """The hash of every run of `length` numbers, in order."""
    lead = pow(_BASE, length - 1, _PRIME)
    value = 0
    for code in codes[:length]:
        value = (value * _BASE + code) % _PRIME
    found = [value]
    for old, new in zip(codes, codes[length:], strict=False):
        value = ((value - old * lead) * _BASE + new) % _PRIME
        found.append(value)
    return found
