"""What a reader yields: a raw row and its place, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_ROW_BYTES: Final = 16_000_000
"""A row of more decoded bytes is refused before it is held whole: nothing trains on 16 MB of text, and a bomb stops here."""

REASONS: Final[Mapping[str, str]] = {
    # the bytes
    "encoding": "not UTF-8",
    "syntax": "not a JSON value or not a CSV record",
    "truncated": "the file ends within the row",
    "too_large": "more bytes than max_row_bytes",
    "too_deep": "nested deeper than 100 levels",
    "duplicate_key": "an object names a key twice",
    "number": "an integer of more digits than Python reads",
    "surrogate": "half a surrogate pair, which no UTF-8 file can hold",
    "not_object": "a row that is no object with text keys",
    "ragged": "a CSV record with more or fewer fields than the header",
    "value": "a value that cannot be carried along: a date beyond year 9999, a Python object that JSON lacks",
    # the layout
    "missing": "the row lacks a column that the layout needs",
    "type": "a column or turn holds something other than text",
    "role": "a turn by neither system, user nor assistant",
    "multimodal": "images, audio or files beside the text",
    "tool_calls": "calls of tools or their results",
    "ends_with_user": "the conversation ends before the assistant answers",
    "no_completion": "there is no completion: null, or no turn at all",
    "empty_prompt": "there is no prompt: null, blank, or no turn before the answer",
}
"""Every reason for which a row may be refused, and what it means."""


@dataclass(frozen=True, slots=True)
class Record:
    """A raw row as its file holds it."""

    place: str
    """File and line (from 1), or file and row (from 0): `train.jsonl:17`, `part.parquet:row 12`."""
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """A row that cannot be read. It is counted, never silently skipped."""

    place: str
    reason: str
    """One of `REASONS`, so that equal reasons can be counted."""
    detail: str = ""
    """What was found, for people: at most 200 visible characters."""

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason
        object.__setattr__(self, "place", excerpt(self.place, length=500))
        object.__setattr__(self, "detail", excerpt(self.detail))


def excerpt(text: str, *, length: int = 200) -> str:
    """The beginning of a text, at most `length` characters, with everything escaped that a terminal would act on."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: length + 1])
    return shown if len(shown) <= length else shown[: length - 1] + "…"
