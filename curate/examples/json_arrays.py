"""A JSON array cut into its elements, without holding more than one of them."""

import re
from collections.abc import Iterator
from typing import IO, Literal

_STRUCTURE = re.compile(rb'["\[\]{},]')
# Possessive: a string of any length is passed in one step that never backtracks.
_STRING_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_BLOCK = 1 << 16
Problem = Literal["truncated", "syntax"]


class _Element:
    """The bytes of the element being read, as far as they may be held."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = bytearray()
        self.is_too_large = False

    def add(self, piece: bytes) -> None:
        self.is_too_large |= len(self._bytes) + len(piece) > self._max_bytes
        if self.is_too_large:
            self._bytes.clear()
        else:
            self._bytes += piece

    def take(self) -> bytes | None:
        """What was added, None if it was too large; the next element begins."""
        taken = None if self.is_too_large else bytes(self._bytes)
        self._bytes.clear()
        self.is_too_large = False
        return taken

    def is_blank(self) -> bool:
        return not self.is_too_large and not self._bytes.strip()


def elements(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[bytes | None, Problem | None]]:
    """The bytes of each element of the array in `stream`; None for an element of more than `max_bytes`.

    Strings and brackets are followed, nothing is parsed: an element that is no JSON ends at its comma all the same. The
    last item may be what was left when the file ended early (`truncated`), or the beginning of what follows (`syntax`).
    """
    element = _Element(max_bytes)
    level, in_string, rest = 0, False, b""
    while block := stream.read(_BLOCK):
        data, rest, position, begin = rest + block, b"", 0, 0
        while position < len(data):
            if in_string:
                position = _string_end(data, position)
                if position < len(data) and data[position] == 0x5C:  # a backslash; what it escapes is in the next block
                    data, rest = data[:position], data[position:]
                elif position < len(data):
                    in_string = False
                    position += 1
                continue
            found = _STRUCTURE.search(data, position)
            if found is None:
                break
            position, sign = found.end(), found[0]
            if sign == b'"':
                in_string = True
            elif sign in b"[{":
                level += 1
                begin = position if level == 1 else begin
            elif sign in b"]}":
                level -= 1
            if level > 1 or (level == 1 and sign != b","):
                continue
            if level < 0 or (level == 0 and sign not in b"]}"):  # text before the array, which the caller has ruled out
                level = max(level, 0)
                continue
            element.add(data[begin : position - 1])
            begin = position
            if level == 1 or not element.is_blank():  # `[]` holds no element, nor does the end of `[1,]`
                yield element.take(), None
            if level == 0:
                follows = (data[position:] + stream.read(_BLOCK)).strip()
                if follows:
                    yield follows[:_BLOCK], "syntax"
                return
        if level:
            element.add(data[begin:])
    if level:
        yield element.take() or b"", "truncated"


def _string_end(data: bytes, position: int) -> int:
    """Where the string that holds `position` is closed, or is cut off by the end of `data`."""
    found = _STRING_REST.match(data, position)
    assert found is not None  # the pattern matches the empty text, too
    return found.end()
