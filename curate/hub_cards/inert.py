"""The one place through which text and numbers enter a card: made harmless for the context in which they will stand.

A card is Markdown with a YAML header, read by renderers that differ in what they turn into links, mentions, formulas and
pictures. So data is never trusted to be prose: words that could mean anything to any renderer are shown as code, where nothing
is parsed; what a code span or fence could not hold is written as an escape. `Inert` marks what has been through here, and the
template's environment refuses everything else.
"""

import io
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Inert(str):
    """Text that can stand in a card as it is."""

    __slots__ = ()


ABSENT = "not scored"
"""What stands for null; a 0 would be taken for a score."""
NAME, SENTENCE, EXCERPT = 80, 1_000, 200
"""Most characters shown of a name, of a text written for readers, and of a row."""
MOST_YAML = 20_000
_MOST_MARKS = 3
_NOT_SHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# A tag cannot begin inside code; written so, it cannot even where code is not honoured.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def shown(text: str, *, most: int, keep_newlines: bool = False) -> str:
    """Text without anything that acts: control, format, bidirectional characters and the `<` of tags become escapes.

    White space becomes single spaces, unless `keep_newlines`. More than three combining marks on one letter are left out.
    """
    if keep_newlines:
        cut = text[: most + 1].replace("\r\n", "\n").expandtabs(4)
    else:
        # Escapes come before white space goes: U+2028 and the separators of C0 are white space to `split`.
        cut = re.sub(r"[ \t\n\r\xa0]+", " ", text.lstrip()[: 4 * most]).strip()[: most + 1]
    is_cut = len(cut) > most or (not keep_newlines and len(text) > 4 * most)
    safe: list[str] = []
    marks = 0
    for c in cut[:most]:
        category = unicodedata.category(c)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > _MOST_MARKS:
            continue
        keeps = c == "\n" and keep_newlines
        safe.append(c if keeps or category not in _NOT_SHOWN else ascii(c)[1:-1])
    return without_tags("".join(safe)) + ("…" if is_cut else "")


def without_tags(text: str) -> str:
    """Text in which no tag of HTML begins."""
    return _TAG.sub(r"\\x3c", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def code(text: object, *, most: int = NAME) -> Inert:
    """A code span: for names, values, and everything else that is not written for readers."""
    safe = shown(str(text), most=most)
    if not safe:
        return Inert("(empty)")
    ticks = "`" * (_longest_run(safe) + 1)
    padding = " " if safe.startswith("`") or safe.endswith("`") else ""
    return Inert(f"{ticks}{padding}{safe}{padding}{ticks}")


_PIECE = re.compile(r"`([^`\s][^`]{0,300})`|(\s+)|([^\s`]+|`)")
_HARMLESS = frozenset("'’.,;:!?()%/+=–—…\"“”-‘")
# An address, a mail, a host or file name, `:emoji:`: what some renderer makes a link or a picture of.
_ACTS = re.compile(r"://|==|^www\.|:(?=\D)\S|[^\W\d]\.[^\W\d]{2,}", re.IGNORECASE)
_FIRST = re.compile(r"""["“'‘(]?[^\W_]""")
_ENUMERATES = re.compile(r"\d+[.)]$")


def prose(text: str, *, most: int = SENTENCE) -> Inert:
    """Text written for readers, on one line: plain words stay, `quoted` parts and all others become code."""
    pieces: list[str] = []
    words: list[str] = []

    def close() -> None:
        if words:
            separate = " " if "".join(pieces[-2:]).endswith("`") else ""
            pieces.append(separate + code(" ".join(words), most=most))
            words.clear()

    gap = ""
    for found in _PIECE.finditer(shown(text, most=most)):
        quoted, space, word = found.groups()
        if space:
            gap = " "
            continue
        if quoted or not _is_plain(word, first=not pieces and not words):
            if words and not (gap and not quoted):
                close()
            if not words and gap and pieces:
                pieces.append(gap)
            body = quoted or _body(word)
            words.append(body)
            if quoted or body != word:
                close()
                pieces.append("" if quoted else word[len(body) :])
        else:
            close()
            pieces.append((gap if pieces else "") + word)
        gap = ""
    close()
    return Inert("".join(pieces) or "(empty)")


def _body(word: str) -> str:
    """A word without the punctuation of the sentence after it."""
    body = word.rstrip(".,;:!?")
    if body.endswith(")") and body.count(")") > body.count("("):
        body = body[:-1].rstrip(".,;:!?")
    return body or word


def _is_plain(word: str, *, first: bool) -> bool:
    """Whether a word means itself in every renderer, at this place."""
    if any(not (c.isalnum() or c in _HARMLESS or unicodedata.category(c) in ("Mn", "Mc")) for c in word):
        return False
    return not _ACTS.search(word) and not (first and (not _FIRST.match(word) or _ENUMERATES.match(word)))


def fence(text: str, language: str = "text", *, most: int = EXCERPT) -> Inert:
    """A code block that its content cannot close."""
    return _fenced(shown(text, most=most, keep_newlines=True).strip("\n"), language)


def _fenced(safe: str, language: str) -> Inert:
    assert re.fullmatch("[a-z]+", language), "the language is ours, not data"
    ticks = "`" * max(3, _longest_run(safe) + 1)
    return Inert(f"{ticks}{language}\n{safe}\n{ticks}")


def table(headers: Sequence[Inert | str], rows: Sequence[Sequence[Inert]], *, text_columns: int = 1) -> Inert:
    """A Markdown table; the first `text_columns` are aligned left, numbers right. Headers that are plain strings are ours."""
    marks = [":--" if place < text_columns else "--:" for place in range(len(headers))]
    lines = [headers, marks, *rows]
    assert all(isinstance(value, Inert) for row in rows for value in row), "a cell has not been made inert"
    # Renderers disagree about what `\\|` is, so that no pipe of data is left to them.
    return Inert("\n".join(f"| {' | '.join(value.replace('|', _PIPE) for value in line)} |" for line in lines))


_PIPE = r"\x7c"


def number(value: float | None, *, absent: str = ABSENT) -> Inert:
    """A number with three significant digits, or all of an integer; null and what is no number are said to be absent."""
    if isinstance(value, bool):
        return Inert("yes" if value else "no")
    if isinstance(value, int):
        return Inert(f"{value:,}")
    if not isinstance(value, float) or not math.isfinite(value):
        return Inert(absent)
    if abs(value) >= 999.5:
        return Inert(f"{value:z,.0f}")
    return Inert(f"{value:z.3g}")


def share(part: int, whole: int) -> Inert:
    """A part as percent; never 0 % or 100 % where it is only nearly so."""
    if not whole:
        return Inert("–")
    if part in (0, whole):
        return Inert("100 %" if part else "0 %")
    percent = f"{100 * part / whole:.1f}"
    return Inert({"0.0": "under 0.1 %", "100.0": "over 99.9 %"}.get(percent, f"{percent} %"))


def bar(part: float, *, cells: int = 24) -> Inert:
    """A bar of at most `cells` blocks for a part in [0, 1]."""
    return Inert("█" * round(cells * min(1.0, max(0.0, part))))


def link(text: str, target: str) -> Inert:
    """A link to a page of the Hub or of arXiv. `target` is ours or has been checked; anything else is refused."""
    assert re.fullmatch(r"https://(?:huggingface\.co|arxiv\.org)/[A-Za-z0-9._/-]+", target), f"no address to link to: {target!r}"
    return Inert(f"[{code(text)}]({target})")


# --- YAML ---


def header(fields: Mapping[str, Any]) -> Inert:
    """The card's YAML header, written by a YAML library; every string that is not a plain word is quoted."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1_000_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(_quoted(fields), stream)
    return Inert(f"---\n{stream.getvalue()}---")


SIZES = (
    "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B", "100B<n<1T",
    "n>1T",
)  # fmt: skip
"""How the Hub writes sizes; to a careless eye `<n` begins a tag."""
_WORD = re.compile(r"[a-z][a-z0-9]+(?:[-_.][a-z0-9]+)*", re.ASCII)
# YAML 1.1, which Python's reader speaks, takes them for booleans; Norwegian is among them.
_BOOLEANS = frozenset(("yes", "no", "on", "off", "true", "false", "null"))


def _quoted(value: Any) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, Mapping):
        return {key: _quoted(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_quoted(inner) for inner in value]
    if isinstance(value, str) and not (_WORD.fullmatch(value) and value not in _BOOLEANS):
        assert value in SIZES or value == shown(value, most=100), "text of the header has not been made inert"
        return DoubleQuotedScalarString(value)
    return value


def recipe_yaml(data: Mapping[str, Any]) -> Inert:
    """A recipe as YAML in a fence: what `load_recipe` reads back as the same data, whatever its texts hold."""
    text = "".join(f"{_key(key)}:{_block(value)}\n" for key, value in data.items())
    if len(text) > MOST_YAML:
        text = f"{text[:MOST_YAML].rpartition(chr(10))[0]}\n# cut here: the whole recipe is curate/recipe.yaml\n"
    return _fenced(text.rstrip("\n"), "yaml")


def _block(value: Any) -> str:
    """What follows a top-level key."""
    if isinstance(value, str) and (lines := _folded(value)):
        return " >-\n" + "\n".join(lines)
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Mapping):
        return "".join(f"\n  - {_step(entry)}" for entry in value)
    if isinstance(value, Mapping) and value:
        return "".join(f"\n  {_key(key)}: {_flow(inner)}" for key, inner in value.items())
    return f" {_flow(value)}"


def _step(entry: Mapping[str, Any]) -> str:
    return f"{_key(key)}: {_flow(entry[key])}" if len(entry) == 1 and (key := next(iter(entry))) else _flow(entry)


def _folded(text: str) -> list[str]:
    """Long text as the indented lines of a folded scalar; none where that would not give it back."""
    import textwrap

    if len(text) <= 100 or " ".join(text.split()) != text or _scalar(text)[1:-1] != text:
        return []
    return textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*|\d+(?:\.\d+)?%", re.ASCII)
# What YAML 1.2 or 1.1 would not read as text.
_NO_TEXT = re.compile(r"true|false|yes|no|on|off|null|y|n|inf|nan", re.IGNORECASE)
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def _key(key: object) -> str:
    return _scalar(str(key))


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value).removesuffix(".0") if math.isfinite(value) else _scalar(str(value))
    text = str(value)
    if _PLAIN.fullmatch(text) and not _NO_TEXT.fullmatch(text) and len(text) <= 200:
        return text
    return '"' + "".join(_escapes(text)) + '"'


def _escapes(text: str) -> Iterator[str]:
    """A double-quoted scalar's characters: printable ones as they are, but for those that mean something outside of it."""
    for c in text:
        if c in _ESCAPED:
            yield _ESCAPED[c]
        elif c in "<>&`" or (c != " " and unicodedata.category(c)[0] in "CZ") or unicodedata.combining(c):
            point = ord(c)
            yield f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
        else:
            yield c
