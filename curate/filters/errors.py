"""The `errors` filter: mistakes of a completion, as far as its text, gold and tests show them."""

import re
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from curate.examples import Example
from curate.filters.answers import contains_gold, read_answer
from curate.filters.arithmetic import false_statements
from curate.filters.base import Filter, Scores, Unscored, register
from curate.filters.encoding import is_mojibake
from curate.filters.endings import is_cut_off
from curate.filters.limits import head
from curate.filters.loops import is_loop
from curate.filters.markup import is_unbalanced
from curate.filters.syntax import is_broken_code

_RULE = re.compile(r"\||[-|=_*:~.#]{3,}")
FATAL = ("wrong", "empty", "cut_off", "loop", "false_arithmetic", "broken_code", "failing_tests")
"""The defects whose precision on labelled rows is at least 0.9; the figures stand in docs/filters.md."""


@register("errors")
class Errors(Filter):
    r"""Mistakes: a wrong final answer, an empty or cut-off completion, a loop, a false calculation, code that does not parse.

    Outputs (true is worse, but for `contains_gold`):
        fatal: some defect with a measured precision of at least 0.9 is present: `wrong`, `empty`, `cut_off`, `loop`,
            `false_arithmetic`, `failing_tests`, or `broken_code` in a row that has tests. Never null.
        wrong: the final answer differs from gold, or none can be read where gold is a number or a choice. Null without gold,
            and where the two cannot be compared: gold of several words that the answer does not repeat exactly (a text without
            them may say the same), a formula that is no formula of known parts in the answer.
        strict_wrong: the same by the strict reader, which scripts use: only the last number, the first option or, for text, the
            exact words after the last `Final Answer:` count. Where it is true and `wrong` is not, the format is at fault, or
            the lenient reader. Null without gold.
        contains_gold: gold is text and its words stand in a row somewhere in the completion (true is better). Null without gold
            and for numbers, formulas, options, yes and no. A long answer seldom equals gold; this is what tells it from a wrong
            one. False proves nothing, so that it makes no row `wrong`.
        unanswered: no final answer can be read. Null where `wrong` is.
        failing_tests: the completion fails the row's `tests`. Null unless `run_tests` is set and the sandbox gave a verdict.
        empty: nothing but white space.
        cut_off: the completion stops in the middle: an open fence or bracket, a dangling operator or connective, prose that ends
            without the full stop that its other sentences have. Null for an empty completion.
        loop: some run of at most `longest_period` words stands `copies` times in a row, over at least `fewest_words` words.
            Null for an empty completion.
        false_arithmetic: the completion states a sum, product or quotient that no sensible reading makes true, such as `14 + 4
            = 17`. False where it states none. Null for an empty completion.
        unbalanced: a code fence, `\(`, `\[`, `\begin{..}`, `\left` or the braces of a LaTeX command stay open or close what is
            not open. Null for an empty completion.
        broken_code: Python code that does not parse (as Python 3 does): a fenced block marked as such, or, where the row has
            `tests`, the program, which may be a function's body. Null without such code and above 20,000 characters.
        mojibake: text decoded with the wrong encoding (`donâ€™t`), or U+FFFD. Null for an empty completion.
        answer: the final answer as read, for `curate explain`: a number, an option's label, or the first line after the mark.
            Null where none can be read.

    Answers are read after the last `Final Answer:`, else after `Answer:`, `####`, `answer is` or in a box, else numbers from
    the end of the text. Formulas are compared by math-verify. Per pattern at most 100,000 characters are looked at: the first
    ones for `loop`, `false_arithmetic` and `mojibake`, the last ones for `wrong` and `cut_off`. Code is parsed, never run, but
    by `run_tests`, in the sandbox.
    Cost: about 0.75 ms per row of 560 characters on one core, no model; a formula as gold some 0.1 s.
    Source: answer rules and labels from the data of Ren et al. 2024 (arXiv:2402.11192); contains-reference beside exact match
    after arXiv:2407.12835; ftfy's badness for mojibake; measured in docs/filters.md.
    """

    version: ClassVar[int] = 2
    reads: ClassVar = ("messages", "gold", "tests")
    outputs: ClassVar = {
        "fatal": "bool",
        "wrong": "bool",
        "strict_wrong": "bool",
        "contains_gold": "bool",
        "unanswered": "bool",
        "failing_tests": "bool",
        "empty": "bool",
        "cut_off": "bool",
        "loop": "bool",
        "false_arithmetic": "bool",
        "unbalanced": "bool",
        "broken_code": "bool",
        "mojibake": "bool",
        "answer": "string",
    }

    longest_period: int = Field(default=40, ge=1, le=200, description="Longest repeated run, in words.")
    copies: int = Field(default=3, ge=2, description="Copies in a row that make a loop; among 12,931 real responses none has 3.")
    fewest_words: int = Field(default=12, ge=1, description="Words that the copies together must cover.")
    run_tests: bool = Field(
        default=False, description="Run the code of rows that have tests, in the sandbox of the filter `unit_tests`."
    )

    def depends(self) -> Mapping[str, Filter]:
        """`unit_tests` where tests are to be run."""
        if not self.run_tests:
            return {}
        from curate.filters.unit_tests import UnitTests

        return {"unit_tests": UnitTests()}

    def score(self, example: Example) -> Scores:
        """All defects of one row."""
        return self.derive(example, {name: filter_.score(example) for name, filter_ in self.depends().items()})

    def derive(self, example: Example, given: Mapping[str, Scores | Unscored]) -> Scores:
        """All defects of one row."""
        text = example.completion
        reading = read_answer(text, example.gold, example.prompt_text)
        strict = read_answer(text, example.gold, example.prompt_text, mode="strict")
        found: dict[str, bool | None] = {
            "wrong": _negated(reading.is_right),
            "strict_wrong": _negated(strict.is_right),
            "contains_gold": contains_gold(text, example.gold, example.prompt_text),
            "unanswered": None if reading.is_right is None else reading.answer is None,
            "failing_tests": _failing(given.get("unit_tests")),
            **self._of_the_text(example, text),
        }
        # Programs were labelled, blocks shown in prose were not: those may be meant as a sketch.
        judged = [defect for defect in FATAL if defect != "broken_code" or example.tests]
        return {"fatal": any(found[defect] for defect in judged), **found, "answer": reading.answer}

    def _of_the_text(self, example: Example, text: str) -> dict[str, bool | None]:
        """What needs no gold."""
        if not text.strip():
            rest = ("cut_off", "loop", "false_arithmetic", "unbalanced", "broken_code", "mojibake")
            return {"empty": True, **dict.fromkeys(rest)}
        return {
            "empty": False,
            "cut_off": is_cut_off(text),
            "loop": self._repeats(text),
            "false_arithmetic": bool(false_statements(text)),
            "unbalanced": is_unbalanced(text),
            "broken_code": is_broken_code(text, is_program=bool(example.tests)),
            "mojibake": is_mojibake(text),
        }

    def _repeats(self, text: str) -> bool:
        """The bars and rules of a table are no words; operators are: they tell the branches of a program apart."""
        words = [word for word in head(text).split() if not _RULE.fullmatch(word)]
        return is_loop(words, copies=self.copies, fewest_words=self.fewest_words, longest_period=self.longest_period)


def _failing(result: Scores | Unscored | None) -> bool | None:
    """Whether the tests failed; None where they were not run."""
    passed = None if result is None or isinstance(result, Unscored) else result["passed"]
    return None if passed is None else not passed


def _negated(is_right: bool | None) -> bool | None:
    return None if is_right is None else not is_right
