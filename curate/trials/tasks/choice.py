"""Tasks with options, scored by how likely the model finds each of them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from curate.errors import ModelError
from curate.examples.layouts import as_fact
from curate.examples.record import excerpt
from curate.trials.tasks.base import Item, Outcome, Task, Texts
from curate.trials.tasks.columns import Row, shown


class ChoiceTask(Task):
    """One of several options; nothing is generated.

    Strict: the option with the highest sum of log-likelihoods is right (lm-eval's `acc`). Lenient: the one with the highest
    log-likelihood per character (its `acc_norm`), since a sum prefers short options.
    """

    kind: Literal["choice"] = "choice"
    gold: str = "gold"
    """Column with the right option: its number, its label (A, B ...), or its text."""
    choices: Texts = Field(default=("choices",), min_length=1)
    """The column with the list of options (or with `{text: [...], label: [...]}`), or one column per option."""
    counted_from: Literal[0, 1] | None = None
    """Where the numbers in `gold` begin: 0, or 1. Said, a number in quotes is never taken for an option's text."""

    @model_validator(mode="after")
    def _generates_nothing(self) -> Self:
        for name in ("max_new_tokens", "stop"):
            if getattr(self, name) != Task.model_fields[name].default:
                raise ValueError(f"{name}: for kind choice nothing is generated; leave it out")
        return self

    def item(self, row: Row, index: int) -> Item:
        """The row as an item with options."""
        options, labels = self._options(row)
        return replace(super().item(row, index), options=options, right=self._right(row, options, labels))

    def gold_of(self, row: Row) -> tuple[str, ...]:
        """The text of the right option."""
        options, labels = self._options(row)
        return (options[self._right(row, options, labels)],)

    def _options(self, row: Row) -> tuple[tuple[str, ...], list[str]]:
        """The options' texts, and their labels where the row gives some."""
        labels: list[str] = []
        if len(self.choices) > 1:
            return tuple(row.text(name) for name in self.choices), labels
        found = row[self.choices[0]]
        if isinstance(found, Mapping) and isinstance(found.get("text"), list | tuple):
            labels = [str(label) for label in found.get("label") or ()]
            found = found["text"]
        texts = [as_fact(value) for value in found] if isinstance(found, list | tuple) else []
        options = tuple(text for text in texts if text is not None and text.strip())
        if len(options) < 2 or len(options) < len(texts):
            raise row.error(f"column {self.choices[0]!r} holds {shown(found)}; options are a list of at least two texts")
        return options, labels

    def _right(self, row: Row, options: tuple[str, ...], labels: list[str]) -> int:
        found = row[self.gold]
        text = as_fact(found)
        if text is None or not text.strip() or isinstance(found, float):
            raise row.error(f"no gold: column {self.gold!r} holds {shown(found)}; give an option's number, label or text")
        is_number = type(found) is int or (re.fullmatch(r"[0-9]{1,3}", text.strip()) and self.counted_from is not None)
        if not is_number:
            for known in (labels, options):
                same = [place for place, one in enumerate(known) if _bare(one) == _bare(text)]
                if same and (len(same) == 1 or known is options):
                    return same[0]
            if letter := re.fullmatch(r"\(?([A-Za-z])[).]?", text.strip()):
                return self._placed(row, ord(letter[1].lower()) - ord("a"), options, "")
        if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):
            raise row.error(f"gold {excerpt(repr(text))} is none of the options {excerpt(repr(list(options)))}")
        first = self.counted_from or 0
        hint = "; where the first is 1, say `counted_from: 1`" if first == 0 else ""
        return self._placed(row, int(text) - first, options, hint)

    def _placed(self, row: Row, place: int, options: tuple[str, ...], hint: str) -> int:
        if not 0 <= place < len(options):
            count = f"there are {len(options)} options, counted from {self.counted_from or 0}"
            raise row.error(f"gold {excerpt(repr(row[self.gold]))} is out of range: {count}{hint}")
        return place

    def score_choices(self, items: Sequence[Item], likelihoods: Sequence[Sequence[tuple[float, int]]]) -> list[Outcome]:
        """One verdict per item; `likelihoods` hold sum and characters of each option."""
        return [_outcome(item, found) for item, found in zip(items, likelihoods, strict=True)]


def _outcome(item: Item, found: Sequence[tuple[float, int]]) -> Outcome:
    assert item.right is not None
    assert len(found) == len(item.options)
    sums = [value for value, _ in found]
    if bad := [value for value in sums if not math.isfinite(value)]:
        raise ModelError(f"{item.place}: the model gives an option the log-likelihood {bad[0]}; another dtype may help")
    per_character = [value / max(characters, 1) for value, characters in found]
    by_sum, by_character = (item.options[values.index(max(values))] for values in (sums, per_character))
    # Compared as texts: where a row lists an option twice, both are right.
    right = item.options[item.right]
    return Outcome(float(by_sum == right), float(by_character == right), True, by_character, f"gold {right!r}; by sum {by_sum!r}")


def _bare(text: Any) -> str:
    return " ".join(str(text).split()).casefold()
