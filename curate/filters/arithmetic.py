"""Finds statements such as `48 / 2 = 24` in a text and says which of them are false.

Precision comes first: a statement is called false only if no sensible reading makes it true: rounding, a unit conversion,
`5 + 3 = 8 x 2 = 16`, percent as a plain number. What `expressions` has no value for is passed over.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from curate.filters.expressions import (
    COMPUTING,
    MAX_TOKENS,
    SCALES,
    Token,
    Value,
    is_operator,
    outer_operators,
    prefix_end,
    tokens_of,
    value_of,
)
from curate.filters.limits import head

_MARK = re.compile(r"<<([^<>]{1,200})>>")
_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]{1,60})\}\s?\{([^{}]{1,60})\}")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed|mbox)\s?\{([^{}]{0,100})\}")
_BULLET = re.compile(r"^\s{0,12}(?:[-*•>+]\s|\(?[0-9]{1,2}[.)]\s|[a-z]\)\s){0,3}", re.IGNORECASE)
_SYMBOLS = str.maketrans({"×": "*", "÷": "/", "·": "*", "∙": "*", "⋅": "*", "−": "-", "–": "-", "∗": "*"})
_LATEX: tuple[tuple[str, str], ...] = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\\left", ""),
    ("\\right", ""),
    ("\\$", "$"),
    ("\\%", "%"),
    ("{,}", ","),
)
_LATEX += (("\\(", ""), ("\\)", ""), ("\\[", ""), ("\\]", ""), ("\\,", ""), ("\\!", ""), ("&=", "="), ("\\\\", "\n"))

_MEASURES = frozenset(
    re.findall(
        r"\w+",
        "second sec minute min hour hr day week month year decade century inch inche feet foot yard mile mm cm km meter metre "
        "kilometer kilometre gram kg kilogram pound lb ounce oz ton ml liter litre cup pint quart gallon tablespoon teaspoon "
        "cent dollar penny pennie nickel dime quarter percent",
    )
)
_CONVERSIONS = frozenset({2, 3, 4, 7, 8, 12, 16, 24, 30, 36, 52, 60, 100, 365, 1_000, 1_440, 3_600, 5_280, 10**6, 10**9})
_CONTINUING = frozenset(re.findall(r"\w+", "mod modulo or x times plus minus divided multiplied st nd rd th of"))
_OPENERS = frozenset(",;:.!?([\"'“”‘’→⇒•")


def false_statements(text: str) -> list[str]:
    """The arithmetic statements of a text that no reading makes true, as written."""
    return [shown for shown, is_true in statements(text) if not is_true]


def statements(text: str) -> Iterator[tuple[str, bool]]:
    """Every readable statement `expression = expression` with at least one operator, and whether some reading makes it true."""
    for line in _lines(head(text)):
        tokens = tokens_of(line)
        signs = [at for at in range(len(tokens)) if _is_equals(tokens, at)]
        for number, at in enumerate(signs):
            start = signs[number - 1] + 1 if number else 0
            end = signs[number + 1] if number + 1 < len(signs) else len(tokens)
            found = _statement(tokens, start, at, min(end, at + MAX_TOKENS))
            if found is not None:
                yield found


def _lines(text: str) -> Iterator[str]:
    """The lines that state something, the insides of calculator marks as lines of their own; fenced code is left out."""
    is_code = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and "=" in line:
            yield from _MARK.findall(line)
            line = _MARK.sub("", line)
            for latex, sign in _LATEX:
                line = line.replace(latex, sign)
            line = _FRACTION.sub(r"((\1)/(\2))", _TEXT.sub(r" \1 ", line)).translate(_SYMBOLS)
            line = re.sub(r"(?<=[0-9])\*\*(?=[0-9])", "^", line).replace("**", " ")
            yield from (_BULLET.sub("", part) for part in line.split("\n"))


def _is_equals(tokens: Sequence[Token], at: int) -> bool:
    """A single `=`: not `==`, `<=`, `!=`, `+=`."""
    if tokens[at].text != "=":
        return False
    before = tokens[at - 1].text if at and not tokens[at].is_spaced else ""
    after = tokens[at + 1].text if at + 1 < len(tokens) and not tokens[at + 1].is_spaced else ""
    return not (before and before in "=<>!:~+-*/%" and before != "%") and after not in {"=", ">", "~"}


def _statement(tokens: list[Token], start: int, at: int, end: int) -> tuple[str, bool] | None:
    """The statement around the `=` at `at`, and whether it is true; None where it cannot be read with confidence."""
    begins = (begin for begin in range(max(start, at - MAX_TOKENS), at) if _begins(tokens, begin))
    left = next((begin for begin in begins if value_of(tokens[begin:at], 1) is not None), None)
    if left is None or (left > start and not _may_precede(tokens, left)):
        return None
    right = prefix_end(tokens, at + 1, end)
    if right is None or not _may_follow(tokens, right):
        return None
    lhs, rhs = tokens[left:at], tokens[at + 1 : right]
    # A left side of one operand is more often a label than a claim (`4 months = $65 x 4`), but for the middle of a chain.
    sides = (lhs, rhs) if start and left == start else (lhs,)
    if not any(is_operator(side, place) for side in sides for place in range(1, len(side))):
        return None
    shown = " ".join(token.text for token in tokens[left:right])
    if _is_true(lhs, rhs):
        return shown, True
    return None if _is_excused(tokens, start, left, right, lhs, rhs) else (shown, False)


def _is_true(lhs: list[Token], rhs: list[Token]) -> bool:
    """Whether some reading of the two sides agrees: percent as hundredths or plain, the end of the left and the start of the
    right."""
    starts = [0, *(place + 1 for place in outer_operators(lhs)[:-1])]
    ends = [*outer_operators(rhs), len(rhs)]
    plain_or_share = (100, 1) if any(token.text == "%" for token in (*lhs, *rhs)) else (1,)
    for hundred in plain_or_share:
        for other in plain_or_share:
            lefts = [value for start in starts if (value := value_of(lhs[start:], hundred)) is not None]
            rights = [value for end in ends if (value := value_of(rhs[:end], other)) is not None]
            if any(_agree(left, right) for left in lefts for right in rights):
                return True
    return False


def _agree(left: Value, right: Value) -> bool:
    """Equality within what the printed digits can show: 10/3 is 3.3, 3.33 and, cut off, 2/3 is 0.66."""
    gap = abs(left.exact - right.exact)
    printed = [value.decimals for value in (left, right) if value.decimals is not None]
    if not printed:
        return gap <= max(abs(left.exact), abs(right.exact)) / 100 + left.slack + right.slack
    return gap == 0 or gap < Fraction(1, 10 ** min(printed)) + left.slack + right.slack


def _is_excused(tokens: list[Token], start: int, left: int, right: int, lhs: list[Token], rhs: list[Token]) -> bool:
    """Whether an untrue statement may still mean something true that the grammar does not cover."""
    following = [token.text.lower() for token in tokens[right : right + 5]]
    texts, words = [{token.text.lower() for token in side} for side in (lhs, rhs)], _words(lhs) | _words(rhs)
    either = texts[0] | texts[1]
    if "?" in following[:2] or words & (SCALES | {"half", "pair", "remainder"}):
        return True
    if any(token.kind == "number" for token in _clause(tokens, start, left)):
        return True
    if any(token.kind == "number" for token in tokens[right : right + 4]) and not set(following) & {".", ",", ";", ":"}:
        return True  # `= 3 hours 20 minutes`, `= 1 and 1/2`
    # `500 + 10% = 550` means a tenth of 500; `1 hour + 30 minutes = 90 minutes` converts; `2 pens + 3 books = $30` prices.
    is_sum = bool(either & {"+", "-"})
    if is_sum and ("%" in either or len(words & _MEASURES) > 1 or (_words(lhs) and ("$" in texts[0]) != ("$" in texts[1]))):
        return True
    slashes = [at for at in range(len(lhs) - 1) if lhs[at].text == "/" and lhs[at + 1].kind == "number"]
    if len(slashes) > 1 or (slashes and "/" in texts[1] and words):  # `6 / 1/30`; a proportion
        return True
    if (_words(lhs) & _MEASURES) and (_words(rhs) & _MEASURES) - _words(lhs):  # `1/4 inch = 8 miles`
        return True
    one, other = value_of(lhs, 100), value_of(rhs, 100)
    if one is None or other is None or other.exact == 0:
        return False
    ratio = abs(one.exact / other.exact)
    has_unit = bool(words or either & {"$", "€", "£", "¥", "%"} or (following and following[0].isalpha()))
    # `$95 - $100 = $5` has the sign of speech.
    return one.exact == -other.exact or (has_unit and (ratio in _CONVERSIONS or (ratio != 0 and 1 / ratio in _CONVERSIONS)))


def _words(side: Sequence[Token]) -> set[str]:
    """The words of one side, in the singular."""
    return {token.text.lower().removesuffix("s") for token in side if token.kind == "word"}


def _clause(tokens: list[Token], start: int, left: int) -> list[Token]:
    """The tokens before a statement, back to the last sign that divides clauses."""
    begin = left
    while begin > start and tokens[begin - 1].text not in {",", ";", ":", ".", "!", "?", "(", "["}:
        begin -= 1
    return tokens[begin:left]


def _begins(tokens: list[Token], at: int) -> bool:
    token = tokens[at]
    return token.kind in {"number", "currency"} or token.text in {"(", "-"}


def _may_precede(tokens: list[Token], left: int) -> bool:
    """Whether the token before an expression leaves its value alone."""
    before, first = tokens[left - 1], tokens[left]
    if first.text == "-" and before.text not in _OPENERS:
        return False
    if before.kind == "word":
        return first.is_spaced and len(before.text) > 1 and before.text.lower() not in COMPUTING
    further = tokens[left - 2] if left > 1 else None
    if further is not None and further.text in {"+", "-", "*", "/", "x", "("}:  # `. 84 + .82`; a bracket that never closes
        return False
    if (
        further is not None and further.kind == "number" and before.text == "," and re.fullmatch("[0-9]{3}", first.text)
    ):  # `14, 400`
        return False
    return before.text in _OPENERS and (first.is_spaced or before.text in "([\"'“‘")


def _may_follow(tokens: list[Token], right: int) -> bool:
    """Whether the token after an expression leaves its value alone."""
    if right >= len(tokens):
        return True
    after = tokens[right]
    following = tokens[right + 1] if right + 1 < len(tokens) else None
    if after.kind == "word":
        is_name = len(after.text) > 1 or (
            after.text in "aAiI" and after.is_spaced and following is not None and following.kind == "word"
        )
        return is_name and after.text.lower() not in _CONTINUING
    if after.text in {".", ",", ":", "/"} and following is not None and not following.is_spaced:
        return after.text == "/" and following.kind == "word" and len(following.text) > 1
    return after.text in set(".,;:!?)]\"'”’=→⇒•<>&") or after.kind == "currency" or ord(after.text[0]) > 0x2190
