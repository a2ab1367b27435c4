"""The `readability` filter: school-grade formulas on English prose."""

import functools
import re
import sys
from importlib.metadata import version
from typing import Any, ClassVar

from pydantic import Field

from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.limits import head

# What is no prose. Every repetition is bounded or excludes what ends it, so that each pattern is linear in the text.
_NOT_PROSE = (
    re.compile(r"^ {0,3}(```|~~~)[^\n]*\n.*?(?:^ {0,3}\1[^\n]*$|\Z)", re.DOTALL | re.MULTILINE),
    re.compile(r"`[^`\n]{1,200}`"),
    re.compile(r"\$\$[^$]{1,2000}\$\$|\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL),
    re.compile(r"<<[^<>\n]{1,200}>>"),
    re.compile(r"https?://\S{1,2000}"),
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+", re.MULTILINE)
_CODE_LINE = re.compile(
    r"^[ \t]*(?:"
    r"(?:def|class|return|import|from|elif|try|except|finally|raise|assert|yield|lambda|function|const|let|var|public|private|static"
    r"|void|int|#include|@\w+)\b[^.!?\n]*$"
    r"|(?:if|for|while|else|with)\b[^\n]*[:{][ \t]*$"
    r"|[\w.\[\]'\"]{1,80}[ \t]*[-+*/|&]?=[^=\n]"
    r"|[\w.]{1,80}\([^\n]*\)[;:]?[ \t]*$"
    r"|[})\];]{1,4}[ \t]*$)",
    re.MULTILINE,
)
_LONGEST_WORD = 40
_CODE_SHARE = 0.3
_PROSE_SHARE = 0.6


@register("readability")
class Readability(Filter):
    """How hard English prose is to read, by the classic formulas of sentence length and syllables or letters per word.

    Outputs:
        flesch_reading_ease: Flesch 1948; about 0 (hard) to 100 (easy), not bounded. Higher is easier.
        flesch_kincaid_grade: Kincaid 1975, in US school grades. Higher is harder.
        automated_readability_index: Smith and Senter 1967, in US school grades, from characters per word (full stops
            count, as in textstat). Higher is harder.
        words: words that were counted.

    Fenced and inline code, LaTeX, calculator marks and URLs are taken out first; each line of a list is a sentence (textstat
    would take the list for one), but textstat counts none of two words or fewer: a list of such items reads as too hard.
    Counted are words of letters.
    Unscored: `fewer than 30 words` (`fewest_words`); `mostly code, math or symbols` (less than 60 % of the characters that are no
    white space are letters of prose, or over 30 % of the lines look like code); `not English` (py3langid). The first 100,000
    characters are looked at.
    They say nothing about whether a text is right or good, and were made for school texts of some hundred words.
    Cost: about 2 ms per row of 600 characters, no model.
    Source: textstat; syllables by pyphen's hyphenation, never by NLTK's cmudict, which textstat would download at the first call.
    The two counts differ, so scores agree with textstat's own only where cmudict is absent.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[dict[str, OutputType]] = {
        "flesch_reading_ease": "float64",
        "flesch_kincaid_grade": "float64",
        "automated_readability_index": "float64",
        "words": "int64",
    }

    fewest_words: int = Field(default=30, ge=1, description="Words below which the formulas are noise.")

    def identity(self) -> dict[str, Any]:
        """Who counts syllables and finds the language."""
        return {name: version(name) for name in ("textstat", "pyphen", "py3langid")}

    def score(self, example: Example) -> Scores | Unscored:
        """The formulas on the prose of the completion."""
        text = head(example.completion)
        prose = without_code(text)
        words = [word for word in _WORD.findall(prose) if len(word) <= _LONGEST_WORD]
        visible = sum(map(len, text.split()))
        if visible and sum(map(len, words)) < _PROSE_SHARE * visible:
            return Unscored("mostly code, math or symbols")
        lines = sum(map(bool, map(str.strip, prose.splitlines())))
        if len(_CODE_LINE.findall(prose)) > _CODE_SHARE * lines:
            return Unscored("mostly code, math or symbols")
        if len(words) < self.fewest_words:
            return Unscored(f"fewer than {self.fewest_words} words")
        if language_of(prose) != "en":
            return Unscored("not English")
        textstat = _textstat()
        sentences = as_sentences(prose)
        return {
            "flesch_reading_ease": float(textstat.flesch_reading_ease(sentences)),
            "flesch_kincaid_grade": float(textstat.flesch_kincaid_grade(sentences)),
            "automated_readability_index": float(textstat.automated_readability_index(sentences)),
            "words": len(words),
        }


def without_code(text: str) -> str:
    """A text without its code, LaTeX, calculator marks and URLs."""
    for pattern in _NOT_PROSE:
        text = pattern.sub(" ", text)
    return text


def as_sentences(prose: str) -> str:
    """Prose whose every line ends like a sentence, without list marks and without runs of letters that are no word."""
    lines = []
    for line in _ITEM.sub("", prose).splitlines():
        words = [word for word in line.split() if len(word) <= _LONGEST_WORD]
        if words:
            lines.append(" ".join(words) + ("" if words[-1][-1] in ".!?:;,-" else "."))
    return "\n".join(lines)


def language_of(text: str) -> str:
    """The most likely language, as an ISO 639-1 code."""
    import py3langid

    code, _ = py3langid.classify(text)
    return str(code)


@functools.cache
def _textstat() -> Any:
    """textstat 0.7.13, kept from NLTK's cmudict, which it downloads at the first call; offline every call would fail."""
    import textstat

    sys.modules["textstat.backend.counts._count_syllables"].get_cmudict = lambda lang: None  # type: ignore[attr-defined]
    return textstat
