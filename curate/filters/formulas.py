r"""Compares answers that are formulas (`3\sqrt{2}`, `[0, 1)`, `x^2 + 1`) with math-verify, under bounds that keep it quick.

math-verify's own time limit works by a signal: threads cannot receive it, and a score would depend on the machine's speed.
Ours is a grammar: what could be slow (towers of powers, factorials, high powers of sums) is not compared at all.
"""

import logging
import math
import re
from functools import cache, lru_cache
from typing import Any

_MOST_CHARACTERS = 120
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_COMMANDS = frozenset(
    re.findall(
        r"\w+",
        "frac dfrac tfrac sqrt pi cdot times div left right infty cup cap le ge leq geq lt gt pm text mathrm circ ln log sin cos "
        "tan theta alpha beta emptyset varnothing mathbb begin end pmatrix bmatrix lbrace rbrace",
    )
)
_FUNCTIONS = frozenset({"ln", "log", "sin", "cos", "tan"})
_SYMBOLS = (("√", r"\sqrt"), ("π", r"\pi "), ("∞", r"\infty "), ("≤", r"\le "), ("≥", r"\ge "), ("∪", r"\cup "), ("−", "-"))
_SET_BRACES = ((r"\{", r"\lbrace "), (r"\}", r"\rbrace "))
_DRESS = re.compile(r"\\(?:boxed|fbox)(?=\s?\{)|\\[()\[\],!;]|\$")
_ROOT = re.compile(r"\\?sqrt\s?(?:\(([^()]{1,40})\)|([0-9]{1,9}))")
_INLINE = re.compile(r"\$([^$\n]{1,120})\$|\\\(([^\n]{1,120}?)\\\)")
_MATRIX = re.compile(r"\\(?:begin|end)\{[bp]matrix\}")
# What no formula here has: words, a factorial, a power written `**`, numbers of 16 digits.
_FORBIDDEN = re.compile(r"[!\"'`@#;:?_~]|\*\*|[A-Za-z]{3}|\b(?:is|it|or|of|to|in|so|we|he|an|at|by|on|if|no|as|be)\b|[0-9]{16}")
_SIMPLE = r"-?(?:[0-9]{1,2}|[0-9]?[a-z]|[0-9]{1,3}/[0-9]{1,3}|\\frac\{[0-9]{1,3}\}\{[0-9]{1,3}\}|\\circ)"
_POWER = re.compile(rf"\^\s?(?:\{{\s?{_SIMPLE}\s?\}}|-?[0-9]{{1,2}}(?![0-9])|[a-z]|\\circ)(?!\s?\^)")
_OF_A_GROUP = re.compile(r"[)}\]]\s?\^\s?\{?\s?-?([0-9]{1,2})")
_LOGARITHM = re.compile(r"\\(?:ln|log)(?![a-z])")
_LARGE = re.compile(r"[0-9]{4}|\^")
_EXPONENT = re.compile(r"\^\s?\{?\s?-?([0-9]{1,2})")
_EVIDENCE = re.compile(
    r"\\(?:[dt]?frac|sqrt|pi|infty|cup|cap|begin|le|ge|leq|geq)(?![a-z])|\^|=|[0-9)][xyzn]\b|\b[xyzn] ?[-+*/]|[-+*/] ?[xyzn]\b"
    r"|^(?:[(\[]|\\lbrace)[^()\[\]]{0,100}[0-9a-z][^()\[\]]{0,100},[^()\[\]]{0,100}(?:[)\]]|\\rbrace)\s?$"
)


def formula_of(text: str, *, is_expected: bool = False) -> str | None:
    """The formula that a text is, or shows last between dollar signs, in LaTeX; None for any other text.

    `-1/2` alone may be a date or a score; where a formula `is_expected`, it is one.
    """
    line = next((line for line in text[:2_000].splitlines() if line.strip()), "")
    if inline := list(_INLINE.finditer(line)):
        line = inline[-1][1] or inline[-1][2]
    for written, command in (*_SET_BRACES, *_SYMBOLS):
        line = line.replace(written, command)
    line = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", _DRESS.sub("", line)).strip().rstrip(".").strip()
    if line.startswith("{") and line.endswith("}") and "{" not in line[1:]:  # what \boxed left
        line = line[1:-1].strip()
    if not ((is_expected or _EVIDENCE.search(line)) and _is_quick(line)):
        return None
    for written, command in _SET_BRACES:
        line = line.replace(command, written).replace(command.strip(), written)
    return line


def _is_quick(line: str) -> bool:
    """Whether a line is a formula of known parts, none of which makes algebra slow."""
    commands = _COMMAND.findall(line)
    rest = _COMMAND.sub(" ", _MATRIX.sub(" ", line))
    powers = [int(power) for power in _OF_A_GROUP.findall(line)]
    exponents = [int(power) for power in _EXPONENT.findall(line)]
    letters = set(re.findall("[A-Za-z]", rest))
    return (
        0 < len(line) <= _MOST_CHARACTERS
        and rest.isascii()
        and _COMMANDS.issuperset(commands)
        and not _FORBIDDEN.search(rest)
        and line.count("^") == len(_POWER.findall(line))
        and math.prod(powers) <= (1 if _FUNCTIONS.intersection(commands) else 4)
        and ("=" not in line or (len(letters) <= 2 and not ({*_FUNCTIONS, "sqrt"} & {*commands})))
        and len(letters) <= 3
        and (not letters or max(exponents, default=0) <= 9)
        and sum(command in _FUNCTIONS for command in commands) <= 2
        and commands.count("sqrt") <= 3
        and line.count("(") + line.count("{") <= 20
    )


@lru_cache(maxsize=4096)
def same_formula(one: str, other: str) -> bool | None:
    """Whether two formulas that `formula_of` gave are equal; None where they cannot be compared.

    Unequal is said only of two of a kind: two numbers, two intervals, two expressions in the same variables.
    """
    if one == other:
        return True
    # sympy turns n - log(x) into log(exp(n)/x), and writes that number out.
    if _LOGARITHM.search(one + other) and _LARGE.search(one + " " + other):
        return None
    parse, verify = _math_verify()
    parsed = [parse(f"${formula}$", parsing_timeout=None) for formula in (one, other)]
    if not all(parsed):
        return None
    if verify(*parsed, timeout_seconds=None):
        return True
    left, right = (values[0] for values in parsed)
    if isinstance(left, str) or isinstance(right, str):
        return None
    numbers = [bool(getattr(value, "is_number", False)) for value in (left, right)]
    if all(numbers):
        return _is_rounded(left, right, one, other)
    if any(numbers) or type(left).__name__ in _KINDS or type(right).__name__ in _KINDS:
        return False if type(left) is type(right) else None
    return False if getattr(left, "free_symbols", 0) == getattr(right, "free_symbols", 1) else None


_KINDS = frozenset({"Interval", "FiniteSet", "Union", "Tuple", "MutableDenseMatrix", "ImmutableDenseMatrix", "Equality"})


def _is_rounded(left: Any, right: Any, one: str, other: str) -> bool:
    """Whether one of two unequal numbers is the other, rounded to the two decimals or more that it shows: 6.28 is 2 pi."""
    shown = [re.fullmatch(r"-?[0-9]{1,15}\.([0-9]{2,15})", text) for text in (one, other)]
    decimals = [len(match[1]) for match in shown if match]
    gap = abs(complex(left) - complex(right))
    return bool(decimals) and gap <= 0.5 * 10 ** -min(decimals)


@cache
def _math_verify() -> tuple[Any, Any]:
    from math_verify import parse, verify

    # math-verify 0.9 warns once that its time limit is off; the bounds above stand in for it.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return parse, verify
