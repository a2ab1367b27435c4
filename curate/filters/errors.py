"""The `errors` filter: mistakes of a completion, as far as its text and gold show them."""

import re
from typing import ClassVar

from pydantic import Field

from curate.examples import Example
from curate.filters.answers import read_answer
from curate.filters.arithmetic import false_statements
from curate.filters.base import Filter, Scores, register
from curate.filters.endings import is_cut_off
from curate.filters.limits import head
from curate.filters.loops import is_loop

_RULE = re.compile(r"\||[-|=_*:~.#]{3,}")
FATAL = ("wrong", "empty", "cut_off", "loop", "false_arithmetic")
"""The defects whose precision on labelled rows is at least 0.9; the figures stand in docs/filters.md."""


@register("errors")
class Errors(Filter):
    """Mistakes: a wrong final answer, an empty or cut-off completion, a loop, a false calculation.

    Outputs (true is worse):
        fatal: some defect with a measured precision of at least 0.9 is present: `wrong`, `empty`, `cut_off`, `loop` or
            `false_arithmetic`. Never null.
        wrong: the final answer differs from gold, or none can be read where gold is a number or a choice. Null without gold,
            and where gold is of a kind that cannot be compared: a text of several words that the answer does not repeat exactly.
        unanswered: no final answer can be read. Null where `wrong` is.
        empty: nothing but white space.
        cut_off: the completion stops in the middle: an open fence or bracket, a dangling operator or connective, prose that ends
            without the full stop that its other sentences have. Null for an empty completion.
        loop: some run of at most `longest_period` words stands `copies` times in a row, over at least `fewest_words` words.
            Null for an empty completion.
        false_arithmetic: the completion states a sum, product or quotient that no sensible reading makes true, such as `14 + 4
            = 17`. False where it states none. Null for an empty completion.
        answer: the final answer as read, for `curate explain`: a number, an option's label, or the first line after the mark.
            Null where none can be read.

    Answers are read after the last `Final Answer:`, else after `Answer:`, `####`, `answer is` or in a box, else numbers from
    the end of the text. Per pattern at most 100,000 characters are looked at: the first ones for `loop` and
    `false_arithmetic`, the last ones for `wrong` and `cut_off`.
    Cost: about 0.7 ms per row of 600 characters on one core, no model.
    Source: answer rules and labels from the data of Ren et al. 2024 (arXiv:2402.11192); measured in docs/filters.md.
    """

    version: ClassVar[int] = 1
    reads: ClassVar = ("messages", "gold")
    outputs: ClassVar = {
        "fatal": "bool",
        "wrong": "bool",
        "unanswered": "bool",
        "empty": "bool",
        "cut_off": "bool",
        "loop": "bool",
        "false_arithmetic": "bool",
        "answer": "string",
    }

    longest_period: int = Field(default=40, ge=1, le=200, description="Longest repeated run, in words.")
    copies: int = Field(default=3, ge=2, description="Copies in a row that make a loop; among 12,931 real responses none has 3.")
    fewest_words: int = Field(default=12, ge=1, description="Words that the copies together must cover.")

    def score(self, example: Example) -> Scores:
        """All defects of one row."""
        text = example.completion
        reading = read_answer(text, example.gold, example.prompt_text)
        is_empty = not text.strip()
        found: dict[str, bool | None] = {
            "wrong": None if reading.is_right is None else not reading.is_right,
            "unanswered": None if reading.is_right is None else reading.answer is None,
            "empty": is_empty,
            "cut_off": None if is_empty else is_cut_off(text),
            "loop": None if is_empty else self._repeats(text),
            "false_arithmetic": None if is_empty else bool(false_statements(text)),
        }
        return {"fatal": any(found[defect] for defect in FATAL), **found, "answer": reading.answer}

    def _repeats(self, text: str) -> bool:
        """The bars and rules of a table are no words; operators are: they tell the branches of a program apart."""
        words = [word for word in head(text).split() if not _RULE.fullmatch(word)]
        return is_loop(words, copies=self.copies, fewest_words=self.fewest_words, longest_period=self.longest_period)
