"""Tasks whose answer is a translation, held against references."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

from pydantic import Field

from curate.trials.tasks.base import Item, Outcome, Task
from curate.trials.tasks.columns import Row, accepted
from curate.trials.tasks.readings import after_mark

_TOKENIZERS = {"zh": "zh", **dict.fromkeys(("ja", "th", "lo", "km", "my", "bo"), "char")}
"""For languages without spaces. sacrebleu's own for Japanese needs MeCab, that of FLORES a download; characters need neither."""


class TranslationTask(Task):
    """A translation, scored by sacrebleu: chrF or sentence BLEU per item in [0, 1], both over the corpus on their usual 0 to 100.

    Strict: what follows the last `mark`, empty where it is missing; without a mark the whole text. Lenient: the whole text where
    the mark is missing.
    """

    kind: Literal["translation"] = "translation"
    gold: str = "reference"
    """Column with the reference translation, or a list of them."""
    target: str = Field(pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]+)*$")
    """Language translated into, such as `en` or `zh`: it decides how BLEU divides words."""
    metric: Literal["chrf", "bleu"] = "chrf"
    mark: str | None = Field(default=None, min_length=1)

    @property
    def tokenizer(self) -> str:
        """sacrebleu's name of the tokenizer that BLEU uses."""
        return _TOKENIZERS.get(self.target.lower().replace("_", "-").split("-")[0], "13a")

    def gold_of(self, row: Row) -> tuple[str, ...]:
        """The accepted answers."""
        return accepted(row, self.gold)

    def reference_of(self, row: Row, gold: tuple[str, ...]) -> str | None:
        """The first reference translation."""
        return gold[0] if self.reference is None else row.text(self.reference)

    def score(self, items: Sequence[Item], texts: Sequence[str]) -> list[Outcome]:
        """chrF or BLEU of each translation."""
        metric = _metric(self.metric, self.tokenizer, is_sentence=True)
        outcomes = []
        for item, text in zip(items, texts, strict=True):
            strict, lenient = self._strict(text), self._lenient(text)
            low, high = (float(metric.sentence_score(found, list(item.gold)).score) / 100 for found in (strict, lenient))
            detail = "" if strict or not lenient else f"the mark {self.mark!r} is missing"
            outcomes.append(Outcome(low, high, bool(lenient), lenient or None, detail))
        return outcomes

    def aggregate(self, items: Sequence[Item], texts: Sequence[str]) -> dict[str, float]:
        """Corpus BLEU and chrF of the strict readings, in [0, 100]."""
        hypotheses, references = [self._strict(text) for text in texts], _streams(items)
        return {
            name: float(_metric(name, self.tokenizer).corpus_score(hypotheses, references).score) for name in ("bleu", "chrf")
        }

    def signatures(self, items: Sequence[Item]) -> dict[str, str]:
        """sacrebleu's signatures of both."""
        found = {}
        for name in ("bleu", "chrf"):
            metric = _metric(name, self.tokenizer)
            metric.corpus_score([""] * len(items), _streams(items))  # which counts the references
            found[name] = str(metric.get_signature())
        return found

    def _strict(self, text: str) -> str:
        return ((text if self.mark is None else after_mark(text, self.mark)) or "").strip()

    def _lenient(self, text: str) -> str:
        return self._strict(text) or text.strip()


def _streams(items: Sequence[Item]) -> list[list[str | None]]:
    """The first, second ... references of all items; None where an item has fewer than another."""
    return [list(stream) for stream in zip_longest(*(item.gold for item in items))]


def _metric(name: str, tokenizer: str, *, is_sentence: bool = False) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    # Effective order: a short sentence without a 4-gram in common would else be nearly 0 whatever it says.
    return CHRF() if name == "chrf" else BLEU(tokenize=tokenizer, effective_order=is_sentence)
