r"""Says whether fences and LaTeX of a text close what they open."""

import re
from collections import Counter

from curate.filters.limits import MAX_CHARACTERS

_FENCE = re.compile(r"^[ \t]{0,8}(?:```|~~~)", re.MULTILINE)
_FENCED = re.compile(r"^[ \t]{0,8}```.*?^[ \t]{0,8}```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`\n]{1,300}`")
_BACKSLASHES = re.compile(r"\\\\(?![()\[\]])")  # a line break of LaTeX; `\\(` is how JSON and Markdown write `\(`
_DELIMITER = re.compile(r"\\[()\[\]]")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s?\{([a-z]{1,20}\*?)\}")
_SIDES = re.compile(r"\\(left|right)(?![a-z])")
_ARGUMENT = re.compile(r"\\(?:[dt]?frac|boxed|fbox|text|sqrt|mathrm|mathbf)\s?\{")
_SCRIPT = re.compile(r"re\.|regex|grep|sed |printf|\bawk\b", re.IGNORECASE)


def is_unbalanced(text: str) -> bool:
    r"""Whether a code fence, a LaTeX delimiter, an environment, `\left` or the braces of a LaTeX command stay open.

    Single dollar signs are money too and are not counted; LaTeX is not looked for in code.
    """
    if len(text) > MAX_CHARACTERS:  # the end would be missing
        return False
    if sum(mark.group().strip() == "```" for mark in _FENCE.finditer(text)) % 2:
        return True
    if "\\" not in text:
        return False
    prose = _BACKSLASHES.sub(" ", _SPAN.sub(" ", _FENCED.sub(" ", text)))
    if _SCRIPT.search(prose):
        return False
    marks = Counter(_DELIMITER.findall(prose))
    if marks[r"\("] != marks[r"\)"] or marks[r"\["] != marks[r"\]"]:
        return True
    opened = Counter(f"{name}" for kind, name in _ENVIRONMENT.findall(prose) if kind == "begin")
    closed = Counter(f"{name}" for kind, name in _ENVIRONMENT.findall(prose) if kind == "end")
    sides = Counter(_SIDES.findall(prose))
    return opened != closed or sides["left"] != sides["right"] or _leaves_braces_open(prose)


def _leaves_braces_open(prose: str) -> bool:
    r"""Whether a line or paragraph with `\frac{` and the like opens more braces than it closes."""
    for paragraph in prose.split("\n\n"):
        if _ARGUMENT.search(paragraph):
            plain = paragraph.replace(r"\{", "").replace(r"\}", "")
            if plain.count("{") != plain.count("}"):
                return True
    return False
