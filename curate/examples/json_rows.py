"""JSON lines and JSON arrays, read one row at a time.

Own reader: the stock one of `datasets` 5.2 loses the file over one bad line, rewrites text that looks like a date, and
dies where a key first appears late.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Final

from curate.errors import InputError
from curate.examples.json_arrays import elements
from curate.examples.record import Record, Refused, excerpt
from curate.examples.streams import UTF8_MARK, DataFile, lines, refuse_foreign_encoding

MAX_DEPTH: Final = 100
NONFINITE: Final = "NaN or Infinity became null"
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_BLANK = b" \t\r\n"


class _DuplicateKeyError(ValueError):
    pass


class RowParser:
    """Bytes of one JSON value -> Record or Refused. Counts in `notes` what it changed."""

    def __init__(self, notes: Counter[str]) -> None:
        self._notes = notes
        self._is_changed = False
        self._decode = json.JSONDecoder(object_pairs_hook=_unique, parse_float=self._float, parse_constant=self._constant).decode

    def __call__(self, raw: bytes, place: str, *, is_cut: bool = False) -> Record | Refused:
        """The row in `raw`; `is_cut` says that the file ends here without a line end, so that a bad row is a cut one."""
        self._is_changed = False
        try:
            value = self._decode(raw.decode("utf-8").lstrip("\ufeff"))
        except UnicodeDecodeError as error:
            found = f"byte 0x{raw[error.start]:02x} at byte {error.start} of the row is not UTF-8: {_around(raw, error.start)}"
            return Refused(place, "encoding", found)
        except json.JSONDecodeError as error:
            reason = "truncated" if is_cut else "syntax"
            return Refused(place, reason, f"{error.msg} at character {error.pos}: {_around(error.doc, error.pos)}")
        except _DuplicateKeyError as error:
            return Refused(place, "duplicate_key", f"key {str(error)!r} stands twice")
        except RecursionError:
            return Refused(place, "too_deep", "nested beyond what Python can read")
        except ValueError as error:  # after its subclasses: an integer of more than 4300 digits
            return Refused(place, "number", str(error))
        if not isinstance(value, dict):
            return Refused(place, "not_object", f"{type(value).__name__}: {json.dumps(value)[:200]}")
        # Counting brackets is quick and an upper bound of the depth; only rows with many of them are walked.
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and depth(value) > MAX_DEPTH:
            return Refused(place, "too_deep", f"nested deeper than {MAX_DEPTH} levels")
        if _HALF_PAIR.search(raw) and (half := half_pair(value)):
            return Refused(place, "surrogate", half)
        self._notes[NONFINITE] += self._is_changed
        return Record(place, value)

    def _float(self, text: str) -> float | None:
        number = float(text)
        if not isfinite(number):
            self._is_changed = True
            return None
        return number

    def _constant(self, text: str) -> None:
        self._is_changed = True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKeyError(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return found


def half_pair(value: Any) -> str | None:
    """What is wrong with a value that holds half a surrogate pair; None if all its text can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        return f"\\u{half:04x} without its other half: {_around(error.object, error.start)}"
    return None


def finite(value: Any) -> Any:
    """The value with null in the place of every NaN and Infinity, for which JSON has no word."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def depth(value: Any) -> int:
    """Levels of lists and mappings in a value, counted without recursion; stops soon after MAX_DEPTH."""
    level, inner = 0, [value]
    while inner and level <= MAX_DEPTH + 1:
        inner = [child for outer in inner for child in _children(outer)]
        level += 1
    return level - 1


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list | tuple) else ()


def _around(text: str | bytes, position: int) -> str:
    near = text[max(0, position - 40) : position + 40]
    return excerpt(near if isinstance(near, str) else near.decode("utf-8", "backslashreplace"), length=100)


def read_json(file: DataFile, *, max_row_bytes: int, notes: Counter[str]) -> Iterator[Record | Refused]:
    """The rows of a file of JSON lines, or of one JSON array; the first lines decide which it is."""
    refuse_foreign_encoding(file, file.head())
    parse = RowParser(notes)
    if _holds_array(file, max_row_bytes):
        yield from _array_rows(file, parse, max_row_bytes)
        return
    with file.open() as stream:
        for number, line in lines(stream, max_row_bytes):
            place = f"{file.name}:{number}"
            if line is None:
                yield Refused(place, "too_large", f"a line of more than {max_row_bytes} bytes")
            elif not line.isspace():
                yield parse(line, place, is_cut=not line.endswith(b"\n"))


def _holds_array(file: DataFile, max_row_bytes: int) -> bool:
    """Whether the file is one JSON array rather than lines.

    A `.json` file is one if it begins with a bracket, unless that begins a whole value and more lines follow: rows that are
    lists are refused one by one. A `.jsonl` file must moreover begin with an object in the bracket.
    """
    with file.open() as stream:
        # An array on one line may be longer than any row may be; then its beginning says enough.
        filled = (line for line in iter(lambda: stream.readline(max_row_bytes), b"") if line.strip(_BLANK))
        first = next(filled, b"").removeprefix(UTF8_MARK).strip(_BLANK)
        second = next(filled, b"").lstrip(_BLANK)
    if first == b"{" and second.startswith((b'"', b"}")):
        raise InputError(f"{file}: holds an object over several lines; write one row per line: jq -c . {file}")
    if not first.startswith(b"["):
        return False
    inside = first[1:].lstrip(_BLANK) or second
    if file.format == "jsonl" and not inside.startswith(b"{"):
        return False
    return not (second and first.endswith(b"]") and not second.startswith(b"]"))


_ARRAY_PROBLEMS = {"truncated": "the file ends before the array does", "syntax": "the array is closed, yet more follows"}


def _array_rows(file: DataFile, parse: RowParser, max_row_bytes: int) -> Iterator[Record | Refused]:
    """One row per element. Brackets and strings are followed by hand, so that a bad element costs only itself."""
    with file.open() as stream:
        for index, (element, problem) in enumerate(elements(stream, max_row_bytes)):
            place = f"{file.name}:row {index}"
            if element is None:
                yield Refused(place, "too_large", f"an element of more than {max_row_bytes} bytes")
            elif problem:
                yield Refused(place, problem, f"{_ARRAY_PROBLEMS[problem]}: {_around(element, 0)}")
            else:
                yield parse(element, place)
