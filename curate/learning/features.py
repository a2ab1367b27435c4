"""What a linear model sees of a text: a few measured properties, and hashed n-grams of characters and words."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = Any
"""A scipy sparse matrix, rows x features."""
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")
_FIRST_WORDS = 50
_MOST_CHARACTERS = 20_000


@dataclass(frozen=True)
class FeatureSettings:
    """Which features a model has. Part of the model: another setting is another model."""

    surface: bool = True
    """The properties of `surface_features`, standardised."""
    characters: tuple[int, int] | None = None
    """Lengths of character n-grams inside words; None: none. Several times as slow as words and no better on the data of
    docs/calibration.md, but needed for scripts without spaces."""
    words: tuple[int, int] | None = (1, 2)
    """Lengths of word n-grams; None: none."""
    hashed: int = 2**17
    """Columns that each kind of n-gram is hashed into."""


def collapse_white_space(text: str) -> str:
    """Every run of white space as one space: line breaks tell who formatted a text, not who wrote it."""
    return " ".join(text.split())


def surface_features(text: str, prompt: str = "") -> dict[str, float]:
    """Properties of a completion that need no model. All finite for any text; white space does not count.

    log_characters, log_words: length; word_length: mean letters of a word; sentence_words: words per sentence mark;
    types: distinct among the first 50 words; digits, upper, punctuation, other_scripts: shares of the characters;
    repeats: share of word triples that occurred before; log_ratio: log of characters over the prompt's; copied: share of its
    words that stand in the prompt; kept_numbers: share of the prompt's numbers that it holds; new_numbers: share of its numbers
    that the prompt does not hold; question_marks, exclamation_marks, commas: per word; ends: ends like a sentence;
    differs_at_end: ends with another mark than the prompt.
    """
    text, prompt = collapse_white_space(text)[:_MOST_CHARACTERS], collapse_white_space(prompt)[:_MOST_CHARACTERS]
    words = _WORD.findall(text.lower())
    asked = set(_WORD.findall(prompt.lower()))
    numbers, asked_numbers = set(_NUMBER.findall(text)), set(_NUMBER.findall(prompt))
    triples = list(zip(words, words[1:], words[2:], strict=False))
    size, count = max(len(text), 1), max(len(words), 1)
    return {
        "log_characters": math.log1p(len(text)),
        "log_words": math.log1p(len(words)),
        "word_length": sum(map(len, words)) / count,
        "sentence_words": min(len(words) / max(sum(text.count(mark) for mark in ".!?。！？"), 1), 200.0),
        "types": len(set(words[:_FIRST_WORDS])) / max(len(words[:_FIRST_WORDS]), 1),
        "digits": sum(map(str.isdigit, text)) / size,
        "upper": sum(map(str.isupper, text)) / size,
        "punctuation": sum(not (character.isalnum() or character.isspace()) for character in text) / size,
        "other_scripts": sum(character > "\u024f" for character in text) / size,
        "repeats": 1 - len(set(triples)) / len(triples) if triples else 0.0,
        "log_ratio": math.log1p(len(text)) - math.log1p(len(prompt)),
        "copied": sum(word in asked for word in words) / count,
        "kept_numbers": len(numbers & asked_numbers) / len(asked_numbers) if asked_numbers else 1.0,
        "new_numbers": len(numbers - asked_numbers) / len(numbers) if numbers else 0.0,
        "question_marks": text.count("?") / count,
        "exclamation_marks": text.count("!") / count,
        "commas": text.count(",") / count,
        "ends": float(text[-1:] in tuple(".!?。！？\"'”)")),
        "differs_at_end": float(bool(prompt) and text[-1:] != prompt[-1:]),
    }


SURFACE = tuple(surface_features(""))
"""Names of the surface features, in their order."""


def surface_matrix(texts: Sequence[str], prompts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Surface features of many texts; (texts, features)."""
    rows = [list(surface_features(text, prompt).values()) for text, prompt in zip(texts, prompts, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(texts), len(SURFACE))


def hashed_matrix(texts: Sequence[str], settings: FeatureSettings) -> Matrix | None:
    """Hashed n-grams of many texts, each kind of length 1; None where the settings ask for none."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    said = [collapse_white_space(text)[:_MOST_CHARACTERS] for text in texts]
    shared = {"n_features": settings.hashed, "alternate_sign": False, "norm": "l2", "decode_error": "replace"}
    parts = []
    if settings.characters is not None:
        parts.append(HashingVectorizer(analyzer="char_wb", ngram_range=settings.characters, lowercase=False, **shared))
    if settings.words is not None:
        parts.append(
            HashingVectorizer(ngram_range=settings.words, tokenizer=_WORDS_AND_MARKS.findall, token_pattern=None, **shared)
        )
    return hstack([_sublinear(part.transform(_encodable(said))) for part in parts], format="csr") if parts else None


def _encodable(texts: Sequence[str]) -> list[str]:
    # Half a surrogate pair cannot be hashed as UTF-8.
    return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def _sublinear(matrix: Matrix) -> Matrix:
    """Square roots of the counts, of length 1 again: a word said ten times is no ten words."""
    from sklearn.preprocessing import normalize

    matrix.data = np.sqrt(matrix.data)
    return normalize(matrix)
