"""Tasks whose answer is a short text out of a passage, scored as SQuAD does."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from curate.filters.answers import marked_answers
from curate.trials.tasks.base import Item, Outcome, Task
from curate.trials.tasks.columns import Row, accepted
from curate.trials.tasks.readings import after_mark, first_line

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SquadTask(Task):
    """A short answer with accepted wordings: F1 or exact match, the best over the wordings.

    Strict: the first line after the last `mark`, nothing where it is missing; without a mark the first line. Lenient: also what
    follows `Answer:`, `the answer is` and the like, else the first line.
    """

    kind: Literal["squad"] = "squad"
    gold: str = "gold"
    """Column with the accepted answers: a text, a list, or SQuAD's `{text: [...]}`."""
    metric: Literal["f1", "em"] = "f1"
    mark: str | None = Field(default=None, min_length=1)

    def gold_of(self, row: Row) -> tuple[str, ...]:
        """The accepted answers."""
        return accepted(row, self.gold)

    def reference_of(self, row: Row, gold: tuple[str, ...]) -> str | None:
        """The first accepted answer."""
        return gold[0] if self.reference is None else row.text(self.reference)

    def score(self, items: Sequence[Item], texts: Sequence[str]) -> list[Outcome]:
        """F1 or exact match of each answer."""
        measure = f1 if self.metric == "f1" else exact_match
        outcomes = []
        for item, text in zip(items, texts, strict=True):
            strict, lenient = self._strict(text), self._lenient(text)
            low, high = (max(measure(found, gold) for gold in item.gold) if found else 0.0 for found in (strict, lenient))
            outcomes.append(Outcome(low, high, bool(lenient), lenient or None, item.wanted))
        return outcomes

    def aggregate(self, items: Sequence[Item], texts: Sequence[str]) -> dict[str, float]:
        """Mean exact match and F1 of the strict readings, in [0, 1]."""
        pairs = [(self._strict(text), item.gold) for item, text in zip(items, texts, strict=True)]
        means = {}
        for name, measure in (("em", exact_match), ("f1", f1)):
            best = [max(measure(found, answer) for answer in gold) if found else 0.0 for found, gold in pairs]
            means[name] = sum(best) / len(best)
        return means

    def _strict(self, text: str) -> str:
        return first_line(text if self.mark is None else after_mark(text, self.mark) or "")

    def _lenient(self, text: str) -> str:
        marked = after_mark(text, self.mark) if self.mark is not None else None
        return first_line(marked or "") or first_line((marked_answers(text) or [text])[0])


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's evaluation compares: lower case, without ASCII punctuation, without a, an, the."""
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def exact_match(answer: str, gold: str) -> float:
    """1 where the words are the same, else 0."""
    return float(squad_words(answer) == squad_words(gold))


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over words; where either side has none, whether both have none."""
    mine, theirs = squad_words(answer), squad_words(gold)
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))
