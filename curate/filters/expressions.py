"""The expressions of arithmetic in prose: splits a line into tokens and evaluates runs of them, exactly and with a bound on work.

    expression := term (("+" | "-") term)*
    term       := power (("*" | "/" | "of" | nothing, before a bracket) power)*        "of" after a percentage or a fraction only
    power      := operand ("^" operand)?
    operand    := "-"? currency? number "%"? unit*  |  "(" expression ")" unit*

Whatever the grammar does not cover has no value. No code of the text is run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_TOKENS = 60
"""Tokens of one expression; a longer one has no value."""


_TOKEN = re.compile(
    r"(?P<number>[0-9]{1,3}(?:,[0-9]{3}){1,5}(?![0-9])(?:\.[0-9]{1,15})?|[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})"
    r"|(?P<word>[^\W\d_]{1,40})|(?P<currency>[$€£¥])|(?P<other>\S)"
)
SCALES = frozenset(["hundred", "thousand", "million", "billion", "dozen"])
# Words that compute. Beside an expression they change its value, so the statement cannot be read without them.
COMPUTING = frozenset(
    re.findall(
        r"\w+",
        "of half twice thrice double triple quarter third thirds quarters halves times plus minus divided multiplied by than "
        "less more over and or mod modulo sum difference product square squared cubed root log sqrt per every each fewer first "
        "next last every pair pairs couple about approximately roughly to from until not",
    )
)
# After a number these end the operand: they are no unit.
_NO_UNIT = COMPUTING - {"per", "each", "every", "more", "less", "fewer", "times"} | frozenset(
    re.findall(
        r"\w+",
        "is are was were equals gives makes so then therefore which that he she they we it if because since but in on at "
        "for with",
    )
)


@dataclass(frozen=True)
class Token:
    """A number, a word, a currency sign or any other sign."""

    kind: str
    text: str
    is_spaced: bool
    """White space stands before it."""


@dataclass(frozen=True)
class Value:
    """What an expression comes to."""

    exact: Fraction
    decimals: int | None
    """Digits after the point where this is one printed number; None for a calculation."""
    slack: Fraction
    """How far rounded operands can have moved it."""


class _UnreadableError(Exception):
    """The tokens are no expression of the grammar."""


def tokens_of(line: str) -> list[Token]:
    """The tokens of a line, in order."""
    return [
        Token(str(match.lastgroup), match[0], match.start() > 0 and line[match.start() - 1].isspace())
        for match in _TOKEN.finditer(line)
    ]


def prefix_end(tokens: list[Token], start: int, end: int) -> int | None:
    """Where the longest expression that starts at `start` ends; None where there is none."""
    parser = _Parser(tokens[start:end], 1)
    try:
        parser.expression()
    except (_UnreadableError, ZeroDivisionError):
        return None
    return start + parser.at


def is_operator(side: Sequence[Token], at: int) -> bool:
    """Whether a token joins two numbers; a slash before a word (`pages / day`) does not."""
    text = side[at].text
    if text in {"/", "of"}:
        return at + 1 < len(side) and side[at + 1].kind != "word"
    return text in {"+", "-", "*", "^", "x", "X", "of"} or _is_implicit(side, at)


def _is_implicit(side: Sequence[Token], at: int) -> bool:
    """`5(3)` and `(5)(3)` multiply."""
    if side[at].text != "(" or side[at].is_spaced or (at + 1 < len(side) and side[at + 1].kind == "word"):
        return False
    return side[at - 1].kind == "number" or side[at - 1].text == ")"


def outer_operators(side: Sequence[Token]) -> list[int]:
    """Places of the operators outside all brackets."""
    depth, places = 0, []
    for at, token in enumerate(side):
        depth += (token.text == "(") - (token.text == ")")
        if at and depth == 0 and token.text in {"+", "-", "*", "/", "x", "X"}:
            places.append(at)
    return places


def value_of(side: Sequence[Token], hundred: int) -> Value | None:
    """The value of tokens that are one expression; a percent sign divides by `hundred`. None where they are none."""
    if not side or len(side) > MAX_TOKENS:
        return None
    parser = _Parser(side, hundred)
    try:
        value = parser.expression()
    except (_UnreadableError, ZeroDivisionError):
        return None
    return value if parser.at == len(side) else None


@lru_cache(maxsize=4096)
def _printed(text: str) -> Value | None:
    """A number as printed; None for a time or a code, such as 0730."""
    digits = text.replace(",", "")
    if digits[0] == "0" and digits[1:2].isdigit():
        return None
    exact, decimals = Fraction(digits), len(digits.partition(".")[2])
    # 0.33 and 16.67 are rounded from something; 0.25, 3.50 and a tax of 0.08 are meant as they stand.
    is_rounded = decimals > 2 or (decimals == 2 and exact > Fraction(1, 10) and exact % Fraction(1, 20) != 0)
    return Value(exact, decimals, Fraction(1, 10**decimals) if is_rounded else Fraction(0))


class _Parser:
    """Recursive descent over at most 60 tokens, so that its depth is bounded too."""

    def __init__(self, side: Sequence[Token], hundred: int) -> None:
        self.side, self.hundred, self.at = side, hundred, 0

    def expression(self) -> Value:
        value = self.term()
        while (sign := self.peek()) in {"+", "-"}:
            self.at += 1
            other = self.term()
            exact = value.exact + other.exact if sign == "+" else value.exact - other.exact
            value = Value(exact, None, value.slack + other.slack)
        return value

    def term(self) -> Value:
        value = self.power()
        while True:
            is_fraction = self.at > 0 and (self.side[self.at - 1].text in {"%", ")"} or self.is_after_fraction())
            sign = self.peek()
            if sign in {"x", "X"} and self.kind(1) == "other" and self.side[self.at + 1].text != "(":
                raise _UnreadableError  # `2 x - 5`: the variable
            if sign in {"*", "/", "x", "X"} or (sign == "of" and is_fraction):
                self.at += 1
            elif not (self.at < len(self.side) and self.at and _is_implicit(self.side, self.at)):
                return value
            value = _joined(value, self.power(), is_division=sign == "/")

    def power(self) -> Value:
        value = self.operand()
        if self.peek() == "^":
            self.at += 1
            exponent = self.operand().exact
            if exponent.denominator != 1 or not 0 <= exponent <= 12 or abs(value.exact) > 10**6:
                raise _UnreadableError
            value = Value(value.exact ** int(exponent), None, Fraction(0))
        return value

    def operand(self) -> Value:
        sign = 1
        while self.peek() in {"-", "$", "€", "£", "¥"}:
            sign = -sign if self.peek() == "-" else sign
            self.at += 1
        if self.peek() == "(":
            self.at += 1
            value = self.expression()
            if self.peek() != ")":
                raise _UnreadableError
            self.at += 1
        else:
            value = self.number()
        self.units()
        return Value(sign * value.exact, value.decimals, value.slack)

    def number(self) -> Value:
        if self.at >= len(self.side) or self.side[self.at].kind != "number":
            raise _UnreadableError
        value = _printed(self.side[self.at].text)
        if value is None:
            raise _UnreadableError
        self.at += 1
        if self.peek() == "%":
            self.at += 1
            decimals = (value.decimals or 0) + (2 if self.hundred == 100 else 0)
            value = Value(value.exact / self.hundred, decimals, value.slack / self.hundred)
        return value

    def units(self) -> None:
        """Pass over `clips`, `miles per hour`, `/day`, `(April)`."""
        for _ in range(5):
            if self.at >= len(self.side):
                return
            token = self.side[self.at]
            if token.kind == "word":
                text = token.text.lower()
                if text == "x" or text in _NO_UNIT or (text in {"a", "i"} and self.kind(1) == "word"):  # `= 9 i guess`
                    return
                if text.removesuffix("s") in SCALES and self.at + 1 < len(self.side) and self.side[self.at + 1].kind == "number":
                    raise _UnreadableError
                if len(text) == 1 or text in {"st", "nd", "rd", "th"}:  # a variable, an ordinal
                    raise _UnreadableError
                self.at += 1
            elif token.text == "/" and self.kind(1) == "word" and len(self.side[self.at + 1].text) > 1:
                self.at += 2
            elif token.text == "(" and token.is_spaced and (length := self.comment()):
                self.at += length
            else:
                return

    def comment(self) -> int:
        """Length of a bracket of at most four words without a number; 0 if it holds anything else."""
        for length in range(2, 7):
            token = self.side[self.at + length - 1] if self.at + length <= len(self.side) else None
            if token is None or (token.text != ")" and token.kind != "word"):
                return 0
            if token.text == ")":
                return length
        return 0

    def peek(self) -> str | None:
        return self.side[self.at].text if self.at < len(self.side) else None

    def kind(self, ahead: int) -> str | None:
        return self.side[self.at + ahead].kind if self.at + ahead < len(self.side) else None

    def is_after_fraction(self) -> bool:
        """`1/2 of`: number, slash, number."""
        return self.at >= 3 and self.side[self.at - 2].text == "/" and self.side[self.at - 1].kind == "number"


def _joined(left: Value, right: Value, *, is_division: bool) -> Value:
    """Product or quotient; relative errors add."""
    exact = left.exact / right.exact if is_division else left.exact * right.exact
    shares = (side.slack / abs(side.exact) for side in (left, right) if side.exact)
    return Value(exact, None, abs(exact) * sum(shares, Fraction(0)))
