"""Says whether a text stops before its end, from its last lines alone: how it ends, and what it leaves open."""

import re

from curate.filters.limits import tail

_FENCE = re.compile(r"^[ \t]{0,8}```", re.MULTILINE)
_MARKED = re.compile(r"(?i)^[\W_]{0,6}(?:the )?(?:final )?(?:answer|result|output)\b|####|\\boxed")
_CODE = re.compile(
    r"[;{}]\s*$|^\s{0,40}(?:def|class|import|from|return|for|if|while|end|else|elif|fi|done|#|//|<)\b|\w\(.{0,80}\)\s*$|</",
    re.MULTILINE,
)
_ITEM = re.compile(r"^\s{0,12}(?:[-*•#>|]|\(?[0-9A-Za-z]{1,2}[.)])\s")
_SENTENCE_END = re.compile(r"[a-z0-9)%][.!?][\"'”’)]? +[A-Z]")
_LAST_WORD = re.compile(r"(?:^|[\s(])([^\W\d_]{1,20})$")
_OPEN_MARK = re.compile(r"<<[0-9(][^<>]{0,100}$")
_OPEN_OPERATOR = re.compile(r"(?:[0-9)%]|\b[A-Za-z]) (?:[-+*/x×÷−])$|[^=]=$")
# Words after which no English sentence and no answer ends.
_DANGLING = frozenset(
    re.findall(
        r"\w+",
        "a an the and or but nor because although unless whereas of into onto from with without between among during which "
        "whose whom is are was were be been being has have had will would shall should must may might can could if then than "
        "that as at by for so his its their our my your per we i he they let lets therefore thus hence since while when where",
    )
)
_OPENING = frozenset("([{,:")


def is_cut_off(text: str) -> bool:
    """Whether a non-empty text ends in the middle of something.

    True for: an open code fence, bracket or calculator mark; an end on a comma, colon, opening bracket or operator; an end on
    a word that cannot end a sentence; a last line of prose without full stop in a text that sets them; a last line that breaks
    off a line seen before (`S` after `Step 1: ...`). A bare number or name is no cut: `42` is how people answer.
    """
    text = tail(text).rstrip()
    if not text:
        return False
    if len(_FENCE.findall(text)) % 2:
        return True
    if text.endswith("```"):
        return False
    lines = text.splitlines()
    last = lines[-1].strip()
    if _CODE.search("\n".join(lines[-12:])):
        return False
    if text[-1] in _OPENING or _OPEN_OPERATOR.search(text[-10:]):
        return True
    # An answer may be any word: `Final Answer: (4) because`, `Answer: a`.
    is_answer = any(_MARKED.search(line) for line in lines[-3:])
    word = _LAST_WORD.search(text[-40:])
    if word and word[1] in _DANGLING and not is_answer and len(text.split()) > 1:
        return True
    return _leaves_open(last) or _breaks_off_a_line(last, lines[:-1]) or (not is_answer and _stops_mid_sentence(last, lines))


def _leaves_open(last: str) -> bool:
    """The last line opens a bracket or calculator mark that it does not close."""
    if _OPEN_MARK.search(last):
        return True
    if "`" in last or '"' in last or "\\" in last:
        return False
    # A closing bracket may also close a list marker: `1) tea`; a smiley opens none.
    return any(last.count(one) > last.count(other) and last[-1].isalnum() for one, other in ("()", "[]", "{}"))


def _breaks_off_a_line(last: str, earlier: list[str]) -> bool:
    """`S` or `Step 2` after `Step 1: Look`."""
    if len(last) > 12 or not last[0].isalpha() or not last[-1].isalnum():
        return False
    pattern = re.sub(r"[0-9]", "0", last)
    starts = [re.sub(r"[0-9]", "0", line.strip()[: len(last) + 1]) for line in earlier[-200:]]
    return any(start.startswith(pattern) and len(start) > len(last) for start in starts)


def _stops_mid_sentence(last: str, lines: list[str]) -> bool:
    # A capital ends a signature or a name: `Yours sincerely, Jane Austen`.
    if (
        not last[-1].isalpha()
        or len(last.split()) < 4
        or not last.split()[-1].islower()
        or _MARKED.search(last)
        or _ITEM.match(last)
        or "=" in last
    ):
        return False
    prose = [line.strip() for line in lines[:-1] if len(line.split()) >= 4 and not _ITEM.match(line) and not _MARKED.search(line)]
    stopped = sum(line[-1] in ".!?:" for line in prose)
    inside = len(_SENTENCE_END.findall(last))
    # A witness that this writer sets full stops, and no line that lacks one.
    return stopped + inside >= 1 and stopped == len(prose)
