"""Text from data and from this machine, made fit for a page that strangers read."""

import json
import re
from typing import Any

LONGEST_NAME = 100
# Control, format and bidirectional characters: invisible in a page, and some of them turn what stands around them. Joiners
# (U+200C, U+200D) stay, since scripts and emoji need them; so do tab and newline.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
# A path of the machine that the run was made on says nothing to a reader and may hold a user's name.
_PATH = re.compile(r"(?<![\w./<:])(?:/|[A-Za-z]:\\)(?:[^\s/\\'\"`,;:()]+[/\\])+([^\s/\\'\"`,;:()]*)")
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def visible(text: str) -> str:
    r"""The text with what nobody can see written as `\x1b` or `\u202e`, as it is on a terminal."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def name_of(source: str | None) -> str:
    """A source as it is named in charts and lists: visible, and no longer than a line."""
    if source is None:
        return "(no source)"
    shown = visible(source)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"


def without_paths(text: str) -> str:
    """The text with absolute paths cut down to their last name."""
    return _PATH.sub(lambda found: found[1] or "DIR", text)


def as_json(value: Any) -> str:
    """Compact JSON that cannot end the element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.translate(_ESCAPES)


def rounded(value: float, digits: int = 5) -> float | int:
    """A number with so many significant digits: a page of ten thousand rows has no room for the rest."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
