"""Says whether a completion is written in another language than its prompt."""

import re
from functools import cache, lru_cache
from typing import Any

FEWEST_LETTERS = 60
"""Shorter texts are not judged: two names and a verb look like any language."""
_LOOKED_AT = 1_000
_CODE = re.compile(
    r"^\s{0,40}(?:def|class|import|from|return|function|const|let|var|#include|public|private|SELECT|elif|else:)\b"
    r"|[;{}]\s*$|</\w|^\s{0,8}```",
    re.MULTILINE,
)
_DRESS = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{1,300}`|https?://\S{1,300}|<[^<>\n]{1,100}>|\\[A-Za-z]{1,20}|\S*[0-9_@=]\S*", re.DOTALL
)


def is_other_language(prompt: str, completion: str, *, confidence: float) -> bool | None:
    """Whether prompt and completion are each of one language with `confidence`, and not of the same; None where one of them
    is short, code or of no sure language."""
    one, other = language_of(prompt), language_of(completion)
    if one is None or other is None or min(one[1], other[1]) < confidence:
        return None
    return one[0] != other[0]


@lru_cache(maxsize=4096)
def language_of(text: str) -> tuple[str, float] | None:
    """ISO 639 code of a text's language and py3langid's confidence; None for a short text and for code."""
    text = text[-2 * _LOOKED_AT :]
    lines = text.count("\n") + 1
    prose = " ".join(_DRESS.sub(" ", text).split())[-_LOOKED_AT:]
    if sum(map(str.isalpha, prose)) < FEWEST_LETTERS * (1 if prose.isascii() else 0.4):
        return None
    if len(_CODE.findall(text)) > lines / 4:
        return None
    language, confidence = _identifier().classify(prose)
    return str(language), float(confidence)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
