"""Says whether Python code parses. Nothing is imported, compiled to bytecode or run."""

import ast
import re
import textwrap
import warnings

MOST_CHARACTERS = 20_000
"""Longer code is not judged: parsing takes time and memory in proportion, 100 times the text."""
_MOST_NESTED = 90
_FENCED = re.compile(r"^[ \t]{0,8}```[ \t]{0,4}([\w+#.-]{0,20})[^\n]{0,80}\n(.*?)^[ \t]{0,8}```", re.MULTILINE | re.DOTALL)
_PYTHON = frozenset({"python", "py", "python3"})
_SHELL = re.compile(r"^\s{0,20}(?:>>>|[!%$] ?\w|\.\.\. ?$|In \[)", re.MULTILINE)
_ELISION = re.compile(r"^\s{0,40}\.{3,}\s{0,4}\w|^\s{0,40}<[a-z _]{2,40}>\s{0,4}$", re.MULTILINE)
_MARK = re.compile(r"(?i)final[ _]answer[*_ ]{0,4}:")
# As deep as a function's body usually is, and with a docstring, as prompts have it.
_STUB = 'def stub():\n    """Stub."""\n'


def is_broken_code(text: str, *, is_program: bool) -> bool | None:
    """Whether the Python code of a completion fails to parse; None where it shows none or too much.

    Code is each fenced block marked as Python; where the completion is to be a program (its row has tests) also an unmarked
    block, else what follows the last `Final Answer:`, else all of it. There a function's body that continues the prompt's stub
    is code too.
    """
    blocks = [(label.lower(), code) for label, code in _FENCED.findall(text)]
    marked = [code for label, code in blocks if label in _PYTHON]
    if not is_program:
        found = [code for code in marked if not (_SHELL.search(code) or _ELISION.search(code))]
        return _any_broken(found)
    whole = marked or [code for label, code in blocks if not label]
    if not whole:
        *_, last = _MARK.split(text)
        whole = [last]
    return _any_broken(whole)


def _any_broken(blocks: list[str]) -> bool | None:
    verdicts = [verdict for code in blocks if (verdict := _is_broken(code)) is not None]
    return any(verdicts) if verdicts else None


def _is_broken(code: str) -> bool | None:
    """Whether code parses neither alone, nor after a stub; None where it is too long to be tried."""
    if len(code) > MOST_CHARACTERS or _nesting(code) > _MOST_NESTED:
        return None
    if not code.strip():
        return True
    return not any(_parses(way) for way in (code, textwrap.dedent(code), _STUB + code.strip("\n") + "\n"))


def _nesting(code: str) -> int:
    """An upper bound of how deep brackets and signs in a row nest; what the parser would recurse into."""
    deepest = depth = signs = 0
    for character in code:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        signs = signs + 1 if character in "-+~" or (signs and character == " ") else 0
        deepest = max(deepest, depth, signs)
    return deepest


def _parses(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes such as "\d" warn while being parsed
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes, half surrogates
            return False
    return True
