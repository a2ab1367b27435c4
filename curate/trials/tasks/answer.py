"""Tasks whose answer is a number, a formula, an option, yes or no, or a short text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from curate.filters.answers import Mode, Reading, read_answer
from curate.trials.tasks.base import Item, Outcome, Task
from curate.trials.tasks.columns import Row, accepted
from curate.trials.tasks.readings import DEFAULT_MARK, after_mark

_OWN_WORDS = re.compile(r"final[ _-]answer", re.IGNORECASE)


class AnswerTask(Task):
    """A final answer, read out of the text by the rules of `curate.filters.answers`.

    Strict: what follows the last `mark`, and 0 where the mark is missing. Lenient: what a person would take for the answer. An
    answer that the reader finds and cannot compare with gold is right when it is the same text, white space aside.
    """

    kind: Literal["answer"] = "answer"
    gold: str = "gold"
    """Column with the answer: a text, a number, or a list of accepted ones."""
    mark: str | None = Field(default=DEFAULT_MARK, min_length=1)
    """What the prompt told the model to write before its answer; null where the whole text is the answer."""

    def gold_of(self, row: Row) -> tuple[str, ...]:
        """The accepted answers."""
        return accepted(row, self.gold)

    def score(self, items: Sequence[Item], texts: Sequence[str]) -> list[Outcome]:
        """Strict and lenient verdict on each answer."""
        return [self._outcome(item, text) for item, text in zip(items, texts, strict=True)]

    def _outcome(self, item: Item, text: str) -> Outcome:
        text, is_marked = self._marked(text)
        lenient = _best(text, item, "lenient")
        strict = _best(text, item, "strict") if is_marked else _Verdict(None, False)
        detail = item.wanted if is_marked else f"{item.wanted}; the mark {self.mark!r} is missing"
        return Outcome(float(strict.is_right), float(lenient.is_right), lenient.answer is not None, lenient.answer, detail)

    def _marked(self, text: str) -> tuple[str, bool]:
        """The text with the reader's own mark in the place of the task's, and whether the mark occurs."""
        if self.mark == DEFAULT_MARK:
            return text, bool(read_answer(text, None, mode="strict").answer)
        answer = text if self.mark is None else after_mark(text, self.mark)
        if answer is None:
            return text, False
        before = text[: len(text) - len(answer)].removesuffix(self.mark or "")
        # The reader's own mark, after the task's, would be taken for it.
        return f"{before}\n{DEFAULT_MARK} {_OWN_WORDS.sub('answer', answer)}", bool(answer.strip())


@dataclass(frozen=True)
class _Verdict:
    answer: str | None
    is_right: bool


def _best(text: str, item: Item, mode: Mode) -> _Verdict:
    """The reading by the first accepted answer that it meets, else by the first."""
    verdicts = [_verdict(read_answer(text, gold, item.question, mode=mode), gold) for gold in item.gold]
    return next((verdict for verdict in verdicts if verdict.is_right), verdicts[0])


def _verdict(reading: Reading, gold: str) -> _Verdict:
    is_same = reading.answer is not None and "".join(reading.answer.split()) == "".join(gold.split())
    return _Verdict(reading.answer, is_same if reading.is_right is None else reading.is_right)
