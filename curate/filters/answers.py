r"""Reads the final answer out of a completion and compares it with gold: the rules of `errors.wrong` and of the trials.

Five kinds of gold can be compared: a number, a formula (`3\sqrt{2}`, an interval), one of the options that the prompt lists (or
a bare letter A to J), yes/no or true/false, and a single word with a single-word answer. Any other text is only ever found
*equal*: two wordings of one answer would else count as a mistake; whether such a text contains gold is told apart.

There are two readers. The lenient one reads what a person would take for the answer. The strict one is what evaluation scripts
do: the last number, or the first option, after the last `Final Answer:`, and nothing where that mark is missing. Where a
verdict flips between the two, the difference is one of format.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from curate.filters.formulas import formula_of, same_formula
from curate.filters.limits import head, tail

# No pattern here nests one unbounded quantifier in another, so that each is linear in the text.
_FINAL = re.compile(r"(?i)final[ _-]answer[*_ ]{0,4}(?: is)?[*_ ]{0,4}[:：]")
_ANSWER = re.compile(
    r"(?i)####|\banswer[*_ ]{0,4}[:：]|\b(?:answer|option|choice) (?:is|would be|must be)\b(?! not)[*_ ]{0,4}:?"
    r"|\\(?:boxed|fbox)(?=\s?\{)"
)
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}(?![0-9])|[0-9]{1,40})(?:\.[0-9]{1,40})?|\.[0-9]{1,40}"
_VALUE = re.compile(
    rf"(?P<sign>[-−]?)[$€£¥]?(?P<sign2>[-−]?)(?P<number>{_DIGITS})"
    rf"(?:(?P<whole>\s(?=[0-9]{{1,9}}\s?/\s?[0-9]))?(?P<slash>(?(whole)[0-9]{{1,9}}\s?/\s?|\s?/\s?))(?P<under>{_DIGITS}))?"
    r"(?P<percent>\s?%| percent\b)?(?:\s(?P<scale>thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_FRACTION = re.compile(r"\\[dt]?frac\s?\{\s?([^{}]{1,40})\}\s?\{\s?([^{}]{1,40})\}")
_WRAPPERS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed|fbox)\s?\{([^{}]{0,200})\}")
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_CLOSED = {"yes": "yes", "no": "no", "true": "true", "false": "false"}
_OPTION = re.compile(r"^[ \t]{0,8}[(\[]?([A-Ja-j]|[0-9]{1,2})[)\].:]{1,2}:?[ \t]{0,4}(\S[^\n]{0,300})$", re.MULTILINE)
_LABEL = re.compile(
    r"\(([A-Ja-j]|[0-9]{1,2})\)|\b(?:option|choice|answer)[ :]{1,2}([A-Ja-j]|[0-9]{1,2})\b|\b([B-HJ]|[0-9]{1,2})\b", re.I
)
_LEADING = re.compile(r"[\s\"'*(\[]{0,6}([A-Ja-j]|[0-9]{1,2})(?:[\s)\].:,*\"']|$)")


@dataclass(frozen=True)
class Number:
    """A number as written: `3 million` is the value 3 with factor 1,000,000, `25%` the value 25 with factor 1/100."""

    value: Fraction
    factor: Fraction = Fraction(1)
    decimals: int | None = 0
    """Digits after the point; None for a fraction, which is exact."""


@dataclass(frozen=True)
class Reading:
    """What a completion answers, and whether that is gold."""

    answer: str | None
    """The answer as read; None where none is readable."""
    is_right: bool | None
    """None where gold is missing or of a kind that cannot be compared."""


Mode = Literal["lenient", "strict"]


def read_answer(completion: str, gold: str | None, prompt: str = "", *, mode: Mode = "lenient") -> Reading:
    """The final answer of a completion, and whether it equals gold. An unreadable answer to a comparable gold is not right."""
    raw = _marked(completion) if mode == "lenient" else _after_final(completion)
    marked = [part for part in (plain(part).strip() for part in raw) if part]
    if gold is None or not gold.strip():
        return Reading(_shown(marked), None)
    target = _target(gold)
    options = read_options(prompt)
    if (label := _gold_label(target, options)) is not None:
        labels = options or dict.fromkeys("abcdefghij", "")
        choice = next((choice for part in marked if (choice := read_choice(part, labels))), None)
        return Reading(choice, choice == label)
    if target.lower() in _CLOSED:
        word = read_closed(marked[0] if marked else completion if mode == "lenient" else "")
        return Reading(word, word == target.lower())
    formula = formula_of((_marked(gold) or [gold])[0])
    if formula is None and (number := _gold_number(target)) is not None:
        return _read_number(completion, raw, marked, number, mode)
    if formula is not None:
        return _read_formula(raw, marked, formula, mode)
    shown = _shown(marked or [completion.strip()[:200]])
    if mode == "strict":
        return Reading(shown, normal_words(marked[0] if marked else tail(completion)) == normal_words(target))
    return _read_text(shown, target)


def contains_gold(completion: str, gold: str | None, prompt: str = "") -> bool | None:
    """Whether the words of gold stand in a row somewhere in the completion; None where gold is no text of its own words: a
    number, a formula, an option, yes or no."""
    if gold is None or not gold.strip():
        return None
    target = _target(gold)
    kinds = (_gold_label(target, read_options(prompt)), _gold_number(target), formula_of((_marked(gold) or [gold])[0]))
    wanted = normal_words(target)
    if target.lower() in _CLOSED or any(kind is not None for kind in kinds) or not wanted:
        return None
    return f" {' '.join(wanted)} " in f" {' '.join(normal_words(head(completion)))} "


def _target(gold: str) -> str:
    """The answer that gold states: gold may be a whole solution with its own mark."""
    return (marked_answers(gold) or [plain(gold)])[0].strip().rstrip(".")


def _read_number(completion: str, raw: list[str], marked: list[str], gold: Number, mode: Mode) -> Reading:
    """The number that a completion gives; a formula for the same number, such as `\\sqrt{16}`, is it too."""
    if mode == "strict":
        numbers = read_numbers(head(marked[0])) if marked else []
        found = numbers[-1] if numbers else None
    elif marked:
        found = next((found for part in marked if (found := answer_number(part))), None)
    else:
        found = last_number(completion)
    is_right = found is not None and same_number(found, gold)
    if not is_right and mode == "lenient" and any(sign in part[:200] for part in raw[:1] for sign in ("\\sqrt", "√", "^")):
        formula = formula_of(raw[0])
        is_right = formula is not None and same_formula(str(gold.value * gold.factor), formula) is True
    return Reading(None if found is None else show(found), is_right)


def _read_formula(raw: list[str], marked: list[str], gold: str, mode: Mode) -> Reading:
    """A formula as answer: the lenient reader asks for the same value, the strict one for the same signs."""
    shown = _shown(marked)
    if shown is None:
        return Reading(None, False if mode == "strict" else None)
    if mode == "strict":
        return Reading(shown, "".join((formula_of(raw[0]) or shown).split()) == "".join(gold.split()))
    answer = formula_of(raw[0], is_expected=True)
    return Reading(shown, None if answer is None else same_formula(gold, answer))


def _read_text(shown: str | None, gold: str) -> Reading:
    """Texts are equal or cannot be compared; single words can: `Paris` is not `Rome`."""
    one, other = normal_words(shown or ""), normal_words(gold)
    is_comparable = bool(one) and (one == other or len(one) == len(other) == 1)
    return Reading(shown, one == other if is_comparable else None)


def marked_answers(text: str) -> list[str]:
    r"""What follows a mark, best first: the last `Final Answer:` or, below it, a later `Answer:` that corrects it; else the
    last of `Answer:`, `####`, `answer is` and `\boxed{}`. Empty where nothing marks an answer.
    """
    return [part for part in (plain(part).strip() for part in _marked(text)) if part]


def _marked(text: str) -> list[str]:
    """The marked answers as written."""
    text = tail(text)
    finals, others = list(_FINAL.finditer(text)), list(_ANSWER.finditer(text))
    marks = finals[-1:] + [mark for mark in others if not finals or mark.start() > finals[-1].end()][-1:]
    after = [text[mark.end() :] if mark[0][0] != "\\" else braced(text[mark.end() :]) for mark in reversed(marks)]
    return [part for part in after if part and part.strip()]


def _after_final(text: str) -> list[str]:
    """What follows the last `Final Answer:`, as written."""
    text = tail(text)
    *_, last = [None, *_FINAL.finditer(text)]
    return [text[last.end() :]] if last is not None and text[last.end() :].strip() else []


def braced(text: str) -> str | None:
    """The content of the brace group that opens `text`; None where it is not balanced."""
    depth = 0
    for at, character in enumerate(text):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[text.index("{") + 1 : at]
        elif depth == 0 and not character.isspace():
            return None
    return None


def plain(text: str) -> str:
    r"""The text without LaTeX's and Markdown's dress: `\frac{1}{2}` is 1/2, `1{,}080` is 1,080, `**7**` is 7."""
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\,", "").replace("−", "-").replace("**", "")
    text = _WRAPPERS.sub(r"\1", _FRACTION.sub(r"\1/\2", text))
    return re.sub(r"\\([$%])|\\[()\[\]]", r"\1", text)


def answer_number(marked: str) -> Number | None:
    """The number that a marked answer states: after the last `=` of its first line with a number, else the first there.

    The first, because sentences put the answer before its circumstances: `7 meters after turn 3`, `5 hours for 120 pages`.
    Where lines of a calculation follow each other, the last of them holds.
    """
    lines = [line for line in head(marked).splitlines() if line.strip()]
    at = next((at for at, line in enumerate(lines) if read_numbers(line)), len(lines))
    while at + 1 < len(lines) and "=" in lines[at] and "=" in lines[at + 1] and read_numbers(lines[at + 1].rpartition("=")[2]):
        at += 1
    for part in (lines[at].rpartition("=")[2], lines[at]) if at < len(lines) else ():
        if numbers := read_numbers(part):
            return numbers[0]
    words = re.findall(r"[a-z]+", marked[:40].lower())
    named = [word for word in words if word in _WORDS]
    return Number(Fraction(_WORDS.index(named[0]))) if len(words) <= 3 and len(named) == 1 else None


def last_number(text: str) -> Number | None:
    """The last number of a text that marks no answer."""
    numbers = read_numbers(plain(tail(text))[-2_000:])
    return numbers[-1] if numbers else None


def read_numbers(text: str) -> list[Number]:
    """All numbers of a text, in order. Ordinals (`3rd`) are none."""
    numbers = []
    for match in _VALUE.finditer(text):
        before, after = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 2].lower()
        if after in {"st", "nd", "rd", "th"} or (before.isalpha() and before.isascii()):
            continue
        number = _number(match, is_minus_possible=not (before.isalnum() or before in (")", "%")) or not before)
        if number is not None:
            numbers.append(number)
    return numbers


def _number(match: re.Match[str], *, is_minus_possible: bool) -> Number | None:
    digits = match["number"].replace(",", "")
    value = Fraction(digits)
    decimals: int | None = len(digits.partition(".")[2])
    if match["under"] is not None:
        under = Fraction(match["under"].replace(",", ""))
        if under == 0:
            return None
        over = match["slash"].rstrip().rstrip("/").strip()
        value = value + Fraction(over) / under if match["whole"] is not None else value / under
        decimals = None
    if is_minus_possible and (match["sign"] or match["sign2"]):
        value = -value
    factor = Fraction(1, 100) if match["percent"] else Fraction(_SCALES[match["scale"].lower()] if match["scale"] else 1)
    return Number(value, factor, decimals)


def same_number(one: Number, other: Number) -> bool:
    """Equality as a reader sees it: `25%` is 25 and 0.25, `3 million` is 3 and 3,000,000, `0.33` is 1/3 (two decimals or
    more)."""
    decimals = [number.decimals for number in (one, other) if number.decimals is not None]
    # Rounding is no excuse among whole numbers and tenths: 10 is not 9.96.
    slack = Fraction(1, 2 * 10 ** min(decimals)) if decimals and min(decimals) >= 2 else Fraction(0)
    if one.factor == other.factor:
        return abs(one.value - other.value) <= slack
    return any(
        abs(mine - theirs) <= slack
        for mine in {one.value, one.value * one.factor}
        for theirs in {other.value, other.value * other.factor}
        if (mine == one.value * one.factor) or (theirs == other.value * other.factor)
    )


def show(number: Number) -> str:
    """The number as text: 1080, 9.96, 3/4, 25%."""
    text = str(number.value)
    if number.decimals is not None and number.value.denominator != 1:
        whole, remainder = divmod(abs(number.value) * 10**number.decimals, 10**number.decimals)
        digits = str(int(remainder)).rjust(number.decimals, "0").rstrip("0")
        text = f"{'-' if number.value < 0 else ''}{int(whole)}.{digits}"
    if number.factor == 1:
        return text
    names = {Fraction(1, 100): "%"} | {Fraction(scale): f" {word}" for word, scale in _SCALES.items()}
    return text + names[number.factor]


def read_options(prompt: str) -> Mapping[str, str]:
    """The options that a prompt lists one per line, by lower-case label: `(1): cake`, `B) tea`, `C. rain`; empty where it
    lists none."""
    runs: list[dict[str, str]] = []
    for label, text in _OPTION.findall(tail(prompt)):
        label = label.lower()
        if label in ("1", "a"):
            runs.append({label: text.strip()})
        elif runs and label not in runs[-1] and label == _following(list(runs[-1])[-1]):
            runs[-1][label] = text.strip()
    return next((run for run in reversed(runs) if len(run) > 1), {})


def _following(label: str) -> str:
    return str(int(label) + 1) if label.isdigit() else chr(ord(label) + 1)


def read_choice(marked: str, options: Mapping[str, str]) -> str | None:
    """The option that a marked answer names, by label or by text; the first where it names several."""
    text = head(marked)
    leading = _LEADING.match(text)
    # `A person ...` opens with an article, not with option A.
    if leading and leading[1].lower() in options and not (leading[1] in "AaIi" and re.match(r"\s*\w+\s+[a-z]", text)):
        return leading[1].lower()
    for match in _LABEL.finditer(text):
        label = next(group for group in match.groups() if group).lower()
        if label in options and not (match[3] and match[3].islower()):
            return label
    lowered = f" {_bare(text[:1_000])} "
    if "none of" in lowered:
        return None
    named = [label for label, option in options.items() if option and f" {_bare(option)} " in lowered]
    # `beer glass` also names `glass`: the longest text that contains the others is meant.
    named = [
        label for label in named if not any(f" {_bare(options[label])} " in f" {_bare(options[o])} " for o in named if o != label)
    ]
    return named[0] if len(named) == 1 else None


def read_closed(text: str) -> str | None:
    """`yes`, `no`, `true` or `false` where the text opens with it."""
    word = re.match(r"\W{0,10}([A-Za-z]+)", text)
    return _CLOSED.get(word[1].lower()) if word else None


def _gold_label(gold: str, options: Mapping[str, str]) -> str | None:
    """The option label that gold names; None where gold is no choice."""
    bare = gold.strip("()[]. ").lower()
    if bare in options or (not options and re.fullmatch(r"\(?[A-J]\)?", gold)):
        return bare
    return next((label for label, option in options.items() if _bare(option) == _bare(gold)), None)


def _gold_number(gold: str) -> Number | None:
    """The number that gold is, with at most three words of unit; None for any other text."""
    numbers = read_numbers(gold[:200])
    starts = re.match(r"[\s$€£¥+-]{0,3}\.?[0-9]", gold)
    return numbers[0] if starts and len(numbers) == 1 and len(gold.split()) <= 4 else None


def _shown(marked: list[str]) -> str | None:
    """The first line of the best marked answer, at most 80 characters."""
    lines = marked[0].splitlines() if marked else []
    return lines[0].strip()[:80] if lines else None


def normal_words(text: str) -> list[str]:
    """The words of a text as SQuAD's evaluation compares them: lower case, no punctuation, no article.

    Unlike there, a hyphen divides words, signs such as `+` and `#` stay part of one (C++ is not C), and a text of nothing but
    articles keeps them.
    """
    words = re.findall(r"[\w+*/^=<>#]+", re.sub(r"(?<=\w)-(?=[^\W\d])", " ", unicodedata.normalize("NFKC", text).lower()))
    return [word for word in words if word not in ("a", "an", "the")] or words


def _bare(text: str) -> str:
    """Lower-case words without punctuation, for comparing texts."""
    return " ".join(re.findall(r"[\w+*/^=<>-]+", text.lower()))
