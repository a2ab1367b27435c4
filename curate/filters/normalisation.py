"""Named markup that is stripped from a completion before a model scores it; what is trained stays as it is."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from curate.errors import near_miss
from curate.examples import Example, Message

RULES = 1
"""Raised whenever a normaliser would strip something else; part of the fingerprint of scores that used one."""

# Every repetition is bounded or cannot be entered twice, so that each pattern is linear in the text.
_ANSWER_LINE = re.compile(
    r"^[ \t]{0,8}(?:[*_#>]{1,6} ?)?final[ _-]answer[*_ ]{0,4}[:：][*_ \t]{0,8}(?:\n\s{0,20})?[^\n]*(?:\n|\Z)"
    r"|^[ \t]{0,8}####[ \t]{0,4}[-+$€£]{0,2}[0-9][0-9.,/]{0,40}[ \t]?%?[ \t]*(?:\n|\Z)",
    re.MULTILINE | re.IGNORECASE,
)
_CALCULATOR_MARKS = re.compile(r"<<[-+0-9(.$][^<>\n]{0,120}=[^<>\n]{0,60}>>")
_MARKDOWN = re.compile(
    r"^[ \t]{0,3}(?:```|~~~)[^\n`]{0,40}(?:\n|\Z)"  # the lines of a fence, not what stands between them
    r"|^[ \t]{0,3}#{1,6}[ \t]{1,4}(?=\S)"
    r"|^[ \t]{0,12}[*+-][ \t]{1,4}(?=\S)"
    r"|(?<![\w*])\*\*(?=[^\s*])(?=[^*\n]{1,300}\*\*)|(?<=[^\s*])\*\*(?![\w*])"
    r"|(?<![`\w])`(?=[^`\n]{1,300}`)|(?<=[^`\n])`(?![`\w])",
    re.MULTILINE,
)
_WHITE_SPACE = re.compile(r"\s+")

Strip = Callable[[str], tuple[str, list[str]]]


def _without(pattern: re.Pattern[str]) -> Strip:
    """Strips every match of a pattern."""

    def strip(text: str) -> tuple[str, list[str]]:
        return pattern.sub("", text), [match[0] for match in pattern.finditer(text)]

    return strip


def _collapsed(text: str) -> tuple[str, list[str]]:
    """Every run of white space as one space, none outside."""
    runs = [match[0] for match in _WHITE_SPACE.finditer(text)]
    return " ".join(text.split()), [run for run in runs if run != " "]


NORMALISERS: Mapping[str, Strip] = {
    "answer_line": _without(_ANSWER_LINE),
    "calculator_marks": _without(_CALCULATOR_MARKS),
    "markdown": _without(_MARKDOWN),
    "whitespace": _collapsed,
}
"""By name, in the order in which they are applied: lines are told by their ends, so white space comes last."""

WHAT = (
    "Markup stripped from the completion before it is scored: calculator_marks (`<<48/2=24>>`), answer_line (`Final Answer: "
    "...`, `#### 42`), markdown (fences, headings, bullets, bold, backticks), whitespace (one space for each run, none outside)."
)


@dataclass(frozen=True)
class Normalised:
    """A completion as it is scored."""

    text: str
    stripped: Mapping[str, list[str]]
    """What each normaliser took out or, white space, replaced by one space; those that found nothing are left out."""


def strip_markup(text: str, names: Sequence[str]) -> Normalised:
    """A completion without the named markup."""
    stripped = {}
    for name in in_order(names):
        text, found = NORMALISERS[name](text)
        if found:
            stripped[name] = found
    return Normalised(text, stripped)


def normalised(example: Example, names: Sequence[str], *, turns: Literal["last", "all"] = "last") -> Example:
    """An example with the named markup stripped from its completion, or from all that the assistant says."""
    if not names:
        return example
    last = len(example.messages) - 1
    messages: list[Message] = [
        {**message, "content": strip_markup(message["content"], names).text}
        if place == last or (turns == "all" and message["role"] == "assistant")
        else message
        for place, message in enumerate(example.messages)
    ]
    return example if messages == list(example.messages) else replace(example, messages=messages)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in the order of application: equal sets are equal settings."""
    given = set(names)
    return tuple(name for name in NORMALISERS if name in given)


def read_names(given: Any) -> Any:
    """What a recipe says, as names in order. Raises ValueError for an unknown one."""
    if given is None or isinstance(given, str):
        given = [] if given is None else [given]
    if not isinstance(given, (list, tuple)):
        return given
    for name in given:
        if name not in NORMALISERS:
            raise ValueError(f"unknown normaliser {name!r}; {near_miss(str(name), NORMALISERS)}")
    return in_order(given)
